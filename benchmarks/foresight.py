"""What the recipe `foresight` does to drafts: quickstart students of it, and their forwards with and without drafts.

Trains the variants that are asked for, where their folder does not exist, and measures each, or the shipped teacher
and student. A variant is the recipe's losses on the shipped trajectories: `certainty` that of certainty alone, `order`
that of the order, and `left_to_right` the same on those responses in the order from left to right.

    python -m benchmarks.foresight --students order left_to_right --folder runs/foresight --json docs/results/foresight
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers.utils import logging

from benchmarks.lossless import Way
from benchmarks.machine import describe_machine
from d3llm import load_trajectories
from d3llm.common.files import whole_folder, write_atomically
from d3llm.common.fingerprints import fingerprint_checkpoint
from d3llm.evaluation.batches import generate_in_batches
from d3llm.evaluation.tasks import Sample
from d3llm.modeling.loading import load_model, load_tokenizer
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.task import STORIES, draw_samples
from d3llm.trainers.distill import RECIPES
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer


SHIPPED = ("teacher", "student")
NEW_TOKENS = STORIES.max_new_tokens
VARIANTS: dict[str, dict[str, Any]] = {
    "certainty": {"entropy_weight": 1.0, "order_weight": 0.0},
    "order": {},
    "left_to_right": {},
}
# Of a model this small, and all of its weights.
TRAINING = {"learning_rate": 4e-4, "max_steps": 80, "per_device_train_batch_size": 32, "max_new_tokens": NEW_TOKENS}
LOSSES = (
    *("corruption", "layout", "min_mask_ratio", "max_mask_ratio", "raise_mask_ratio", "window_sizes"),
    *("entropy_weight", "order_weight", "next_commits", "lr_scheduler_type"),
)
PRESETS = {
    "llada": {"preset": "llada"},
    "left to right": {"preset": "llada", "score": "position"},
    "fast_dllm": {"preset": "fast_dllm", "cache": "none"},
    "d3llm": {"preset": "d3llm", "cache": "none"},
}


def from_left_to_right(row: dict[str, Any]) -> dict[str, Any]:
    """The row with another order."""
    steps, end = list(range(1, NEW_TOKENS + 1)), len(row["response_ids"])
    return {"commit_steps": steps[:end], "tail_steps": steps[end:], "num_forwards": NEW_TOKENS}


def trajectories(variant: str) -> Dataset:
    rows = load_trajectories(str(Path(checkpoint_path("teacher")).with_name("trajectories")))
    rows = rows.select([number for number, correct in enumerate(rows["correct"]) if correct])
    return rows.map(from_left_to_right, features=rows.features) if variant == "left_to_right" else rows


def train(variant: str, folder: Path, seed: int) -> None:
    """Trains a student from the shipped teacher, if there is none in the folder."""
    if folder.exists():
        return
    recipe = yaml.safe_load((RECIPES / "foresight.yaml").read_text(encoding="utf-8"))
    options = {**{name: recipe[name] for name in LOSSES}, **TRAINING, **VARIANTS[variant]}
    args = PseudoTrajectoryConfig(
        str(folder.with_name(f"{folder.name}-training")),
        seed=seed,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        logging_steps=20,
        disable_tqdm=True,
        **options,
    )
    teacher = checkpoint_path("teacher")
    # On a CPU the backward pass of sdpa takes 1.5 times as long as the eager one.
    model, tokenizer = load_model(teacher, attn_implementation="eager"), load_tokenizer(teacher)
    trainer = PseudoTrajectoryTrainer(model, args, trajectories(variant), processing_class=tokenizer)
    trainer.train()
    with whole_folder(folder) as unfinished:
        trainer.model.save_pretrained(unfinished, with_code=False)
        tokenizer.save_pretrained(unfinished)


def measure(name: str, folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result of one model, after each preset."""
    model, tokenizer = load_model(folder).eval(), load_tokenizer(folder)

    def decode(samples: list[Sample], fields: dict[str, Any]) -> tuple[Way, int]:
        """All problems in one batch, and how many solutions are right."""
        way, names = Way({"max_new_tokens": NEW_TOKENS, **fields}), [sample.id for sample in samples]
        options = {"batch_size": len(samples), "chat": STORIES.chat, **way.fields}
        prompts = [sample.prompt for sample in samples]
        for batch in generate_in_batches(model, tokenizer, prompts, **options):
            way.add(batch, {row.index: row for row in batch.rows}, names)
        right = sum(STORIES.check(samples[row.index], row.text) for row in way.decoded)
        return way, right

    drafted = draw_samples("validation", args.problems, args.seed)
    answered = draw_samples("validation", args.answers, args.seed + 1)
    rows: list[dict[str, Any]] = []
    correct: dict[str, int] = {}
    for preset in args.presets:
        alone: Way | None = None
        for states in (1, args.states):
            way, right = decode(drafted, {**PRESETS[preset], "draft_states": states})
            alone = alone or way
            same = [row.token_ids for row in way.decoded] == [row.token_ids for row in alone.decoded]
            figures = {key: way.summary()[key] for key in ("forwards", "row_forwards", "tokens_per_forward")}
            rows.append({"preset": preset, "draft_states": states, **figures, "correct": right, "same_texts": same})
            print(name, rows[-1], flush=True)
        if preset in args.checked:
            correct[preset] = decode(answered, PRESETS[preset])[1]
        yield {"model": name, "weights": fingerprint_checkpoint(folder), "rows": rows, "correct": correct}


def table(folder: Path) -> str:
    """The result files of a folder, as the table of docs/training.md."""
    titles = ["model", "decoding", "forwards", "with drafts", "TPF", "with drafts", "right answers"]
    lines = [titles, ["---"] * len(titles)]
    for file in sorted(folder.glob("*.json"), key=lambda file: (file.stem not in SHIPPED, file.stem)):
        result = json.loads(file.read_text(encoding="utf-8"))
        for alone, drafted in zip(result["rows"][::2], result["rows"][1::2], strict=True):
            forwards = f"{drafted['forwards']} ({alone['forwards'] / drafted['forwards']:.2f} times fewer)"
            rates = [f"{row['tokens_per_forward']:.2f}" for row in (alone, drafted)]
            right = result["correct"].get(alone["preset"])
            answers = "-" if right is None else f"{right}/{result['settings']['answers']}"
            name = result["model"] if result["model"] in SHIPPED else f"`foresight`, {result['model']}"
            cells = [name.replace("_", " "), alone["preset"], str(alone["forwards"]), forwards, *rates, answers]
            lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", choices=[*SHIPPED, *VARIANTS], default=[*SHIPPED, *VARIANTS])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument(
        "--checked", nargs="*", choices=PRESETS, default=["llada", "left to right"], help="presets whose answers count"
    )
    parser.add_argument("--states", type=int, default=8, help="value of `draft_states`")
    parser.add_argument("--problems", type=int, default=8, help="to decode with drafts and without them, in one batch")
    parser.add_argument("--answers", type=int, default=64, help="problems whose answers are counted, without drafts")
    parser.add_argument("--seed", type=int, default=1, help="seed of the problems; the answers have the next one")
    parser.add_argument("--train-seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="for the students")
    parser.add_argument("--json", type=Path, help="folder for the result files, one a model")
    args = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(args).items() if name not in ("folder", "json", "students")}
    try:
        for name in args.students:
            folder = Path(checkpoint_path(name)) if name in SHIPPED else args.folder / name
            if name not in SHIPPED:
                train(name, folder, args.train_seed)
            for result in measure(name, folder, args) if args.json is not None else ():
                result |= {"settings": settings, "machine": describe_machine()}
                args.json.mkdir(parents=True, exist_ok=True)
                write_atomically(args.json / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
    except (OSError, ValueError) as error:
        sys.exit(f"foresight: error: {error}")


if __name__ == "__main__":
    main()
