"""A step under FSDP2: the head is used inside the forward of the sharded model, and the gradients stay the same."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from .conftest import ROOT
from .trajectory_rows import make_trainer


def test_sharded_step_equals_the_plain_one(tiny_checkpoint):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "tests.test_trainer_sharded", str(tiny_checkpoint)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("equal on 2 processes") == 2


def main() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    trainer = make_trainer(Path(sys.argv[1]), Path(tempfile.mkdtemp()), eval_strategy="no")
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    trainer.add_targets(batch, trainer.corrupt(batch, step=3, progress=0.5))
    plain = trainer.compute_loss(trainer.model, batch)
    plain.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}

    mesh = init_device_mesh("cpu", (2,))
    for layer in trainer.model.model.transformer["blocks"]:
        fully_shard(layer, mesh=mesh)
    fully_shard(trainer.model, mesh=mesh)
    trainer.model.zero_grad()
    sharded = trainer.compute_loss(trainer.model, batch)
    sharded.backward()
    torch.testing.assert_close(sharded, plain)
    for name, parameter in trainer.model.named_parameters():
        assert isinstance(parameter, DTensor)
        torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name])
    print(f"equal on {trainer.accelerator.num_processes} processes")


if __name__ == "__main__":
    main()
