"""Makes each public call once, as a user would; run by `test_releases.py` in a process that shows every warning."""

import sys
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

import d3llm.modeling  # noqa: F401
from d3llm.generation import PRESETS
from d3llm.quickstart import checkpoint_path
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from d3llm.trajectories.dataset import load_trajectories


SHORT = {"max_new_tokens": 8, "block_size": 4}


def main(trajectories: str, output_dir: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint_path("student"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path("student"))
    inputs = tokenizer("Tom buys 3 boxes of 4 pens.", return_tensors="pt")
    for name, preset in PRESETS.items():
        attention = preset.values.get("attention", "bidirectional")
        if attention != "causal":  # which this model does not have
            model.generate(**inputs, preset=name, attention=attention, **SHORT)
    output = model.generate(**inputs, preset="d3llm", cache="block", return_dict_in_generate=True, **SHORT)
    model.generate(output.sequences, preset="d3llm", cache=output.cache, **SHORT)
    model.generate(**inputs, preset="d3llm", streamer=TextStreamer(tokenizer), **SHORT)
    model.infill(inputs["input_ids"].index_fill(1, inputs["input_ids"].new_tensor([1]), model.config.mask_token_id))
    model.score(inputs["input_ids"], inputs["attention_mask"], num_samples=1)
    result = model(inputs["input_ids"], output_hidden_states=True)
    assert result.cache is None and result[0] is result.logits
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    exported = AutoModelForCausalLM.from_pretrained(output_dir, trust_remote_code=True)
    exported.generate(**inputs, preset="fast_dllm", **SHORT)
    with tempfile.TemporaryDirectory() as work:
        arguments = PseudoTrajectoryConfig(work, max_steps=1, per_device_train_batch_size=2, report_to="none")
        dataset = load_trajectories(trajectories).select(range(2))
        PseudoTrajectoryTrainer(model, arguments, dataset, processing_class=tokenizer).train()


if __name__ == "__main__":
    main(*map(str, map(Path, sys.argv[1:])))
