"""Under FSDP2, on two processes: a step and its gradients, with and without adapters, and decoding."""

import tempfile
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from d3llm.trainers.evaluating_trainer import gathered_root
from tests.helpers.forks import fork_ranks
from tests.helpers.trajectory_rows import make_trainer


@pytest.mark.processes
@pytest.mark.slow
def test_a_sharded_model_trains_and_decodes_as_the_plain_one(tiny_checkpoint):
    for rank in fork_ranks(check_both, tiny_checkpoint):
        done = rank.wait()
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("plain: equal on 2 processes") == 1
        assert done.stdout.count("adapters: equal on 2 processes") == 1


def check(checkpoint: Path, peft_config: LoraConfig | None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    output = Path(tempfile.mkdtemp())
    trainer = make_trainer(checkpoint, output, eval_strategy="no", peft_config=peft_config, bf16=False)
    model = trainer.model.get_base_model() if peft_config else trainer.model
    prompts = torch.tensor([[4, 5, 6], [7, 8, 9]])
    decodings = [{"preset": "d3llm", "cache": "block"}, {"preset": "llada"}, {"preset": "fast_dllm", "cfg_scale": 0.5}]
    decodings = [fields | {"max_new_tokens": 12, "block_size": 4} for fields in decodings]
    texts = [model.generate(prompts, **fields) for fields in decodings]
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    trainer.add_targets(batch, trainer.corrupt(batch, step=3, progress=0.5))
    plain = trainer.compute_loss(trainer.model, batch)
    plain.backward()
    trained = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}

    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.transformer["blocks"]:
        fully_shard(layer, mesh=mesh)
    fully_shard(trainer.model, mesh=mesh)
    trainer.model.zero_grad()
    sharded = trainer.compute_loss(trainer.model, batch)
    sharded.backward()
    torch.testing.assert_close(sharded, plain)
    for name, parameter in trainer.model.named_parameters():
        assert isinstance(parameter, DTensor)
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad.full_tensor(), trained[name])
    with gathered_root(trainer.model):
        for fields, text in zip(decodings, texts, strict=True):
            assert torch.equal(model.generate(prompts, **fields), text)
    print(f"{'adapters' if peft_config else 'plain'}: equal on {trainer.accelerator.num_processes} processes")


def check_both(checkpoint: Path) -> None:
    for peft_config in (None, LoraConfig(r=4, init_lora_weights=False)):
        check(checkpoint, peft_config)
