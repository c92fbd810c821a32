"""What a training step costs in time, by component, and in memory, compared with the plain way over all logits.

A step makes a batch, masks it, runs the forward of all views, the loss, the backward pass and the optimizer. The plain
way runs the head on every position and takes the same losses from the logits of the masked ones. Each measurement has
a process of its own. Times are medians over the repeats. Memory is the peak of the resident set in forward, loss and
backward pass, above what was resident before: activations, logits and gradients, but not weights and optimizer.

    python benchmarks/train_step.py --json docs/results/train_step.json       # batch 4 x 384, LLaDA's vocabulary
    python benchmarks/train_step.py --models thin --length 64 --prompt-length 32 --repeats 1        # a quick look
"""

import argparse
import ctypes
import gc
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy
from transformers.utils import logging

from d3llm.common.files import write_atomically
from d3llm.evaluation.measurement import hardware, versions
from d3llm.modeling import LLaDAConfig, LLaDAModelLM
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from d3llm.trajectories.row import TRAJECTORY_FEATURES


# The thin one shows the head and the losses alone; in the other, of 168 M parameters, the body has its real share.
MODELS: dict[str, dict[str, Any]] = {
    "thin": {"d_model": 128, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 256},
    "168m": {"d_model": 512, "n_heads": 8, "n_layers": 12, "mlp_hidden_size": 1408},
}
COMPONENTS = ["batch", "masks", "body forward", "head forward", "head backward", "body backward", "optimizer"]
RECIPES: dict[str, dict[str, Any]] = {
    "windows, two views": {"corruption": "trajectory", "window_sizes": [32]},
    "whole response": {"corruption": "random", "layout": "single", "max_mask_ratio": 1.0, "eos_tail": 256},
}


def random_trajectories(rows: int, prompt: int, region: int, config: LLaDAConfig) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    decode_config = {"mask_token_id": config.mask_token_id, "eos_token_id": [], "max_new_tokens": region}
    return Dataset.from_list(
        [
            {
                "id": str(row),
                "prompt_ids": torch.randint(1000, (prompt,), generator=generator).tolist(),
                "response_ids": torch.randint(1000, (region,), generator=generator).tolist(),
                "commit_steps": (torch.randperm(region, generator=generator) + 1).tolist(),
                "num_forwards": region,
                "correct": None,
                "source": "random",
                "teacher": "random",
                "decode_config": json.dumps(decode_config),
            }
            for row in range(rows)
        ],
        features=TRAJECTORY_FEATURES,
    )


def plain_loss(trainer: PseudoTrajectoryTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same loss from the logits of all positions."""
    views, rows, length = batch["supervised"].shape
    logits = trainer.model(batch["noisy_ids"], attention_mask=batch["attention_mask"].repeat(views, 1)).logits
    logits = logits[:, -length:].unflatten(0, (views, rows))
    loss = logits.new_zeros(())
    for view in range(views):
        picked = batch["supervised"][view]
        rows_of_view, labels = logits[view][picked], batch["input_ids"][:, -length:][picked]
        loss = loss + cross_entropy(rows_of_view, labels)
        if view == 0:
            log_q = (rows_of_view / trainer.args.entropy_temperature).log_softmax(dim=-1)
            right = rows_of_view.argmax(dim=-1) == labels
            loss = loss - trainer.args.entropy_weight * ((log_q.exp() * log_q).sum(dim=-1) * right).mean()
    return loss


class Clock:
    """
    Divides the time of a step among its components.

    Attributes:
        seconds (`dict[str, float]`): What each component has taken so far.
    """

    def __init__(self, model: LLaDAModelLM):
        self.restart()
        body = model.base_model
        body.register_forward_pre_hook(lambda *_: self.lap("head forward"))  # the trainer's own work before it
        body.register_forward_hook(self._after_body)

    def restart(self) -> None:
        self.seconds = dict.fromkeys(COMPONENTS, 0.0)
        self.since = time.perf_counter()

    def lap(self, component: str) -> None:
        now = time.perf_counter()
        self.seconds[component] += now - self.since
        self.since = now

    def _after_body(self, body: torch.nn.Module, inputs: tuple, output: Any) -> None:
        self.lap("body forward")
        output.last_hidden_state.register_hook(lambda gradient: self.lap("head backward"))


def make_trainer(model: str, recipe: str, args: argparse.Namespace, folder: str) -> PseudoTrajectoryTrainer:
    torch.manual_seed(0)
    config = LLaDAConfig(**MODELS[model])
    training = PseudoTrajectoryConfig(
        output_dir=folder,
        report_to="none",
        use_cpu=True,
        per_device_train_batch_size=args.batch_size,
        **RECIPES[recipe],
    )
    region = args.length - args.prompt_length
    dataset = random_trajectories(args.batch_size, args.prompt_length, region, config)
    trainer = PseudoTrajectoryTrainer(LLaDAModelLM(config), training, train_dataset=dataset)
    trainer.model.train()
    return trainer


def resident(kind: str) -> float:
    """MiB of the resident set: now (`"VmRSS"`), or its peak (`"VmHWM"`)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024


def reset_peak() -> bool:
    """Makes the peak of the resident set the current one. Returns whether the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure(model: str, recipe: str, way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of a step; runs in a process of its own."""
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, recipe, args, folder)
    optimizer = trainer.create_optimizer()
    clock = Clock(trainer.model)

    def make_batch() -> dict[str, Any]:
        batch = next(iter(loader))
        clock.lap("batch")
        trainer.add_targets(batch, trainer.corrupt(batch, step=0, progress=0.5))
        clock.lap("masks")
        return batch

    def run(batch: dict[str, Any]) -> torch.Tensor:
        loss: Any = plain_loss(trainer, batch) if way == "plain" else trainer.compute_loss(trainer.model, batch)
        clock.lap("head forward")
        loss.backward()
        clock.lap("body backward")
        return loss

    loader = trainer.get_train_dataloader()
    batch = make_batch()
    loss = run(batch).item()  # of the initial weights; warms up
    trainer.model.zero_grad()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that was used before would be used again, uncounted
    before, is_reset = resident("VmRSS"), reset_peak()
    run(batch)
    added = resident("VmHWM") - before
    steps = []
    for repeat in range(args.repeats + 1):
        clock.restart()
        run(make_batch())
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        optimizer.step()
        trainer.model.zero_grad()
        clock.lap("optimizer")
        if repeat:  # the first creates the optimizer's state
            steps.append(clock.seconds)
    totals = [sum(step.values()) for step in steps]
    return {
        "parameters": trainer.model.num_parameters(),
        "masked_positions": int(batch["supervised"].sum()),
        "loss": loss,
        "seconds": statistics.median(totals),
        "fastest": min(totals),
        "slowest": max(totals),
        "components": {name: statistics.median(step[name] for step in steps) for name in COMPONENTS},
        "added_mib": added,
        "gradients_mib": sum(p.nbytes for p in trainer.model.parameters()) / 2**20,
        "peak_was_reset": is_reset,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=384, help="length of the canvas")
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    rows = []
    columns = ["masked", "loss", "seconds", *COMPONENTS, "added MiB"]
    table = Table(title=f"batch {args.batch_size} x {args.length}, vocabulary {LLaDAConfig().embedding_size}")
    for column in ["model", "recipe", "way", *columns]:
        table.add_column(column, justify="right" if column in columns else "left")
    for model, recipe, way in itertools.product(args.models, args.recipes, ("chunked", "plain")):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, (model, recipe, way, args))
        rows.append({"model": model, "recipe": recipe, "way": way} | row)
        times = [f"{seconds:.2f}" for seconds in (row["seconds"], *row["components"].values())]
        shown = [str(row["masked_positions"]), f"{row['loss']:.5f}", *times, f"{row['added_mib']:.0f}"]
        table.add_row(model, recipe, way, *shown)
    Console().print(table)
    if args.json:
        report = {
            "rows": rows,
            "settings": {name: value for name, value in vars(args).items() if name != "json"},
            "hardware": hardware() | {"cpu_capability": torch.backends.cpu.get_cpu_capability()},
            "versions": versions() | {"trl": version("trl")},
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, json.dumps(report, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
