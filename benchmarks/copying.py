"""What the initial heads of the teacher are worth: it learns to copy lists, with them and with random ones.

Each model is trained on lists alone, a few hundred small batches, and then asked for masked pieces of words in new
lists, where the piece before is known, so that they can only be copied.

    python -m benchmarks.copying --json docs/results/copying.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe_machine
from d3llm.common.files import write_atomically
from d3llm.common.progress import RunProgress
from d3llm.common.threads import cpu_threads
from d3llm.evaluation.decoding import wilson_interval
from d3llm.quickstart.teacher_recipe import load_recipe
from d3llm.quickstart.train_teacher import TeacherTrainer
from d3llm.quickstart.training_rows import Batch


HEADS = {"random": False, "copying": True}
FIRST_ASKED = 1_000_000  # steps from here on are not trained on


def lists_alone(has_heads: bool, rows: int, seed: int) -> dict[str, Any]:
    """The teacher's recipe with lists alone, and a constant learning rate after the first steps."""
    recipe = load_recipe()
    if not has_heads:
        del recipe["copying_heads"]
    recipe["seed"] = seed
    recipe["batch_size"]["copy"] = rows
    recipe["curriculum"] = [{"until": None, **dict.fromkeys(recipe["batch_size"], 0.0), "copy": 1.0}]
    recipe["optimizer"]["learning_rate_schedule"] = [[0, 0.05], [40, 1], [FIRST_ASKED, 1]]
    return recipe


def later_pieces(trainer: TeacherTrainer, batch: Batch) -> Tensor:
    """Masked pieces of words after a known piece of the same word, `(B, L)` bool."""
    tokens = trainer.tokenizer.convert_ids_to_tokens(range(len(trainer.tokenizer)))
    is_later = torch.tensor([token.isalpha() and token.isascii() for token in tokens])
    known = batch.input_ids != trainer.ids.mask
    return (batch.weights > 0) & is_later[batch.labels] & known.roll(1, dims=1)


@torch.no_grad()
def count_copied(trainer: TeacherTrainer, batches: int) -> tuple[int, int]:
    """How many of these pieces are the most likely token, and how many there are."""
    right = total = 0
    for step in range(FIRST_ASKED, FIRST_ASKED + batches):
        batch = trainer.lesson.make_batch(trainer.recipe, step)
        asked = later_pieces(trainer, batch)
        logits = trainer.logits(batch.input_ids, batch.valid, asked)
        right += int((logits.argmax(1) == batch.labels[asked]).sum())
        total += int(asked.sum())
    return right, total


def measure(heads: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Trains a model and asks it."""
    trainer = TeacherTrainer(lists_alone(HEADS[heads], args.rows, seed), args.threads)
    with RunProgress(f"{heads} heads, seed {seed}", args.steps) as progress:
        for _ in range(args.steps):
            loss = trainer.train_step()["loss"]
            progress.advance(1)
    right, total = count_copied(trainer, args.asked)
    return {
        "heads": heads,
        "seed": seed,
        "steps": args.steps,
        "last_loss": loss,
        "copied": right,
        "asked": total,
        "share": right / total,
        "interval": list(wilson_interval(right, total)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rows", type=int, default=16, help="lists in a batch (default: %(default)s)")
    parser.add_argument("--asked", type=int, default=8, help="batches of new lists (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    with cpu_threads(1):  # the trainer's workers share the rows
        rows = [measure(heads, args, seed) for seed in args.seeds for heads in HEADS]
    result = {"machine": describe_machine(), "threads": args.threads, "rows_of_a_batch": args.rows, "rows": rows}
    write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
    for row in rows:
        low, high = row["interval"]
        print(f"{row['heads']} heads, seed {row['seed']}: {row['share']:.1%} copied ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
