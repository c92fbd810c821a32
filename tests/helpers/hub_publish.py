"""A process that has the package: saves and pushes models in every way that transformers and PEFT offer.

Arguments: folders of a LLaDA and a Dream checkpoint, a folder to work in.
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, Trainer, TrainingArguments

from d3llm.commands.main import main
from d3llm.modeling import DreamModel, LLaDAModelLM


class CanvasTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        return model(inputs["input_ids"]).logits.logsumexp(-1).mean()


if __name__ == "__main__":
    llada_folder, dream_folder, work = (Path(argument) for argument in sys.argv[1:])
    LLaDAModelLM.from_pretrained(llada_folder).push_to_hub("ada/llada")
    AutoTokenizer.from_pretrained(llada_folder).push_to_hub("ada/llada")
    DreamModel.from_pretrained(dream_folder).save_pretrained(work / "dream", push_to_hub=True, repo_id="ada/dream")
    LLaDAModelLM.from_pretrained(llada_folder).model.save_pretrained(work / "base-llada")
    DreamModel.from_pretrained(dream_folder).model.save_pretrained(work / "base-dream")

    trainer = CanvasTrainer(
        LLaDAModelLM.from_pretrained(llada_folder),
        TrainingArguments(
            str(work / "trained"),
            max_steps=1,
            save_steps=1,
            report_to="none",
            use_cpu=True,
            push_to_hub=True,
            hub_model_id="ada/trained",
            hub_strategy="end",
        ),
        train_dataset=Dataset.from_dict({"input_ids": [[3, 4, 5]] * 8}),
    )
    trainer.train()
    trainer.push_to_hub()

    torch.manual_seed(0)
    adapted = get_peft_model(
        LLaDAModelLM.from_pretrained(llada_folder), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(work / "adapter")
    adapted.merge_and_unload().save_pretrained(work / "merged")

    sys.exit(main(["push", "custom-generate", "ada/decoder"]) or main(["push", "metric", "ada/aup"]))
