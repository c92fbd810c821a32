"""What the loss of a training step costs in time and memory, beside the plain way over all logits.

One step is the forward of all views of a batch, the loss and the backward pass, without the optimizer. The plain way
runs the head on every position and takes the same losses from the logits of the masked ones. Each measurement has a
process of its own; its memory is the peak of the resident set above what model and gradients take already.

    python benchmarks/train_step.py                      # batch 4 x 384, LLaDA's vocabulary
    python benchmarks/train_step.py --json docs/results/train_step.json
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy
from transformers.utils import logging

from d3llm.common.files import write_atomically
from d3llm.modeling import LLaDAConfig, LLaDAModelLM
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from d3llm.trajectories.row import TRAJECTORY_FEATURES


RECIPES = {
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


def measure(recipe: str, way: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and memory of a step; runs in a process of its own."""
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=args.hidden_size, n_heads=4, n_layers=args.layers, mlp_hidden_size=2 * args.hidden_size
    )
    with tempfile.TemporaryDirectory() as folder:
        training = PseudoTrajectoryConfig(output_dir=folder, report_to="none", use_cpu=True, **RECIPES[recipe])
        region = args.length - args.prompt_length
        dataset = random_trajectories(args.batch_size, args.prompt_length, region, config)
        trainer = PseudoTrajectoryTrainer(LLaDAModelLM(config), training, train_dataset=dataset)
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.add_targets(batch, trainer.corrupt(batch, step=0, progress=0.5))
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gradients = sum(parameter.grad.nbytes for parameter in trainer.model.parameters())
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    seconds, loss = [], torch.zeros(())
    for _ in range(args.repeats):
        start = time.perf_counter()
        loss = plain_loss(trainer, batch) if way == "plain" else trainer.compute_loss(trainer.model, batch)
        loss.backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "masked_positions": int(batch["supervised"].sum()),
        "loss": loss.item(),
        "seconds": min(seconds),
        "added_mib": (peak - before) / 2**20,
        "gradients_mib": gradients / 2**20,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=384, help="of the canvas")
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    rows = []
    columns = ["masked", "loss", "seconds", "added MiB"]
    table = Table(title=f"batch {args.batch_size} x {args.length}, vocabulary {LLaDAConfig().embedding_size}")
    for column in ["recipe", "way", *columns]:
        table.add_column(column, justify="right" if column in columns else "left")
    for recipe in RECIPES:
        for way in ("chunked", "plain"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (recipe, way, args))
            rows.append({"recipe": recipe, "way": way} | row)
            shown = [f"{row['loss']:.4f}", f"{row['seconds']:.2f}", f"{row['added_mib']:.0f}"]
            table.add_row(recipe, way, str(row["masked_positions"]), *shown)
    Console().print(table)
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        versions = {name: version(name) for name in ("torch", "transformers", "trl")} | {
            "python": sys.version.split()[0]
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"rows": rows, "settings": settings, "versions": versions}
        write_atomically(args.json, json.dumps(report, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
