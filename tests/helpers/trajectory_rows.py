"""Random trajectories for a tiny model, and a trainer on them."""

import copy
import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from d3llm.modeling import LLaDAModelLM
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from d3llm.trajectories.row import OPTIONAL, STORED_FEATURES


EOS, MASK, FIRST_WORD, VOCABULARY = 0, 1, 3, 16  # of the tiny checkpoint


def random_rows(count: int = 32, max_new_tokens: int = 24, seed: int = 0, **facts: Any) -> list[dict[str, Any]]:
    """Rows whose prompts, responses and orders are random; every response but each eighth ends with EOS."""
    generator = torch.Generator().manual_seed(seed)

    def words(length: int) -> list[int]:
        return torch.randint(FIRST_WORD, VOCABULARY, (length,), generator=generator).tolist()

    rows = []
    for index in range(count):
        prompt, length = (
            int(torch.randint(*span, (1,), generator=generator)) for span in ((2, 8), (3, max_new_tokens))
        )
        ended = index % 8 != 7
        response = [*words(length - 1), EOS] if ended else words(max_new_tokens)
        steps = (torch.randperm(len(response), generator=generator) + 1).tolist()
        filled = (steps[-1] + 1) // 2  # the forward that committed the first EOS of all, somewhere in the tail
        rows.append(
            {
                **OPTIONAL,
                "id": f"random/{index}",
                "prompt_ids": words(prompt),
                "response_ids": response,
                "commit_steps": steps,
                "tail_steps": [filled] * (max_new_tokens - len(response)),
                "num_forwards": len(response),
                "correct": index % 3 != 0,
                "source": "random",
                "teacher": "tiny",
                "decode_config": json.dumps(
                    {"mask_token_id": MASK, "eos_token_id": [EOS], "max_new_tokens": max_new_tokens}
                ),
                **facts,
            }
        )
    return rows


def random_trajectories(count: int = 32, **options: Any) -> Dataset:
    return Dataset.from_list(random_rows(count, **options), features=STORED_FEATURES)


usual_trajectories, loaded = cache(random_trajectories), cache(LLaDAModelLM.from_pretrained)


def make_trainer(folder: Path, output: Path, **options: Any) -> PseudoTrajectoryTrainer:
    """A trainer of the model in `folder`; `options` are of the config or, by their names, of the trainer."""
    names = inspect.signature(PseudoTrajectoryTrainer).parameters
    trainer_options = {name: options.pop(name) for name in names if name in options}
    if "train_dataset" not in trainer_options:
        trainer_options["train_dataset"] = usual_trajectories()
    if not trainer_options.keys() & {"model", "model_init"}:
        trainer_options["model"] = copy.deepcopy(loaded(folder))
    has_windows = options.get("corruption") not in ("random", "state") and options.get("masking") != "reference"
    options = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "window_sizes": [8, 16],
        "eos_tail": 4,
        "filled_tail_share": 0.3 if has_windows else 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    args = PseudoTrajectoryConfig(output_dir=str(output), **options)
    return PseudoTrajectoryTrainer(args=args, **trainer_options)


def logged_losses(trainer: PseudoTrajectoryTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
