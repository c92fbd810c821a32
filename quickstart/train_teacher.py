"""Trains the shipped teacher from scratch on a CPU: a small LLaDA on the stories of this package."""

import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..common.files import check_folder_to_be, own_folder, write_atomically
from ..common.plan import compare_plans, plan_values
from ..common.threads import cpu_threads
from ..generation.configuration_diffusion import DiffusionGenerationConfig
from ..modeling.configuration_llada import LLaDAConfig
from ..modeling.modeling_llada import LLaDAModelLM
from ..trainers.block_causal import block_grid
from .copying_heads import set_copying_heads
from .fast_forward import fast_logits
from .half_size import store_in_bfloat16
from .muon import Muon
from .stories.lesson import StoryLesson
from .teacher_recipe import load_recipe
from .training_rows import Batch, Layout


logger = logging.get_logger(__name__)

STATE_FILE = "training_state.safetensors"
LOG_FILE = "training_log.jsonl"
REMEDY = "choose another output folder, or start again with `resume=False`"
SHARES = 8  # of a batch; they are summed in a fixed order, so the number of workers does not affect the result


def learning_rate_factor(step: int, schedule: list[list[float]]) -> float:
    """The schedule at `step`, linear between its points `[step, factor]`."""
    for (start, first), (end, last) in itertools.pairwise(schedule):
        if start <= step <= end:
            return first + (last - first) * (step - start) / (end - start)
    return schedule[-1][1]


class TeacherTrainer:
    """
    Model, optimizers and step of a training run, which can be saved and resumed.

    Batches are pure functions of the recipe's seed and the step, so a resumed run gives the same result as an
    uninterrupted one.

    Args:
        recipe (`dict`): The parsed recipe; see `teacher.yaml`.
        num_workers (`int`, *optional*, defaults to 2): Threads that share the rows of a batch, each on one core.
        bf16 (`bool`, *optional*, defaults to `False`):
            Whether matrix products use bfloat16: much faster on processors that have it, much slower on others.
    """

    def __init__(self, recipe: dict[str, Any], num_workers: int = 2, bf16: bool = False) -> None:
        self.recipe = recipe
        self.bf16 = bf16
        self.workers = ThreadPoolExecutor(num_workers)
        self.step = 0
        self.lesson = StoryLesson()
        self.tokenizer: PreTrainedTokenizerBase = self.lesson.tokenizer
        self.ids = self.lesson.ids
        self.config = LLaDAConfig(
            **recipe["model"],
            attention="block_causal",
            vocab_size=len(self.tokenizer),
            embedding_size=len(self.tokenizer),
            mask_token_id=self.ids.mask,
            eos_token_id=self.ids.eos,
            pad_token_id=self.ids.eos,
        )
        self.model = LLaDAModelLM(self.config)
        self.params = dict(self.model.named_parameters())
        self._initialize()
        options = recipe["optimizer"]
        self.matrices = {name: p for name, p in self.params.items() if ".blocks." in name and p.ndim == 2}
        self.others = {name: p for name, p in self.params.items() if name not in self.matrices}
        self.muon = Muon(
            self.matrices.values(),
            lr=options["learning_rate"],
            momentum=options["muon_momentum"],
            weight_decay=options["weight_decay"],
            iterations=options["muon_iterations"],
            workers=self.workers,
        )
        self.adamw = torch.optim.AdamW(
            self.others.values(),
            lr=options["learning_rate"],
            betas=tuple(options["betas"]),
            weight_decay=options["weight_decay"],
            fused=True,
        )

    @torch.no_grad()
    def _initialize(self) -> None:
        """
        Normal weights with standard deviation 1/sqrt(fan-in), less for those that write to the residual stream, and
        the heads of `copying_heads`.
        """
        generator = torch.Generator().manual_seed(self.recipe["seed"])
        for name, param in sorted(self.params.items()):
            if param.ndim == 1:
                param.fill_(1.0)
                continue
            std = param.shape[1] ** -0.5
            if re.search(r"blocks\.\d+\.(attn_out|ff_out)", name):
                std /= (2 * self.config.n_layers) ** 0.5
            param.copy_(torch.randn(param.shape, generator=generator) * std)
        if "copying_heads" in self.recipe:
            set_copying_heads(self.params, self.config, generator, **self.recipe["copying_heads"])

    def logits(self, input_ids: Tensor, valid: Tensor, picked: Tensor, layout: Layout | None = None) -> Tensor:
        """Logits `(N, vocab_size)` of the model in training at the `N` positions that are picked."""
        config = self.config
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):  # a setting of the thread
            logits = fast_logits(
                self.params, input_ids, valid, picked, config.n_layers, config.n_heads, config.rope_theta, layout
            )
        return logits.float()

    def _gradients(self, share: tuple[Batch, float]) -> tuple[tuple[Tensor, ...], float, Tensor]:
        """The part of some rows in a batch's gradients and loss, and the loss at each of their masked numbers."""
        batch, total_weight = share
        picked = batch.weights > 0
        logits = self.logits(batch.input_ids, batch.valid, picked, batch.layout)
        labels, weights = batch.labels[picked], batch.weights[picked]
        losses = F.cross_entropy(logits, labels, reduction="none")
        loss = (losses * weights).sum() / total_weight
        gradients = torch.autograd.grad(loss, tuple(self.params.values()))
        return gradients, loss.item(), losses.detach()[self.ids.numbers[labels]]

    def train_step(self) -> dict[str, Any]:
        """Takes one optimizer step and returns its log entry."""
        options = self.recipe["optimizer"]
        batch = self.lesson.make_batch(self.recipe, self.step)
        factor = learning_rate_factor(self.step, options["learning_rate_schedule"])
        for optimizer in (self.muon, self.adamw):
            optimizer.param_groups[0]["lr"] = options["learning_rate"] * factor
            optimizer.zero_grad()
        # Free workers take the next small share of the rows, so that no worker waits long for a slower one.
        shares = list(self.workers.map(self._gradients, batch.split(SHARES)))
        for param, *grads in zip(self.params.values(), *(share[0] for share in shares), strict=True):
            param.grad = sum(grads[1:], start=grads[0])
        loss = sum(share[1] for share in shares)
        numbers = torch.cat([share[2] for share in shares])
        norm = torch.nn.utils.clip_grad_norm_(self.params.values(), options["max_grad_norm"])
        self.muon.step()
        self.adamw.step()
        self.step += 1
        return {
            "step": self.step,
            "kind": batch.kind,
            "tokens": batch.labels.numel(),
            "loss": loss,
            "number_loss": numbers.mean().item() if len(numbers) else None,
            "grad_norm": norm.item(),
            "learning_rate": options["learning_rate"] * factor,
        }

    @torch.no_grad()
    def result_accuracy(self, num_problems: int) -> float:
        """
        The share of equations in validation problems whose result is the most likely one, given the true text up to
        the equals sign and masks after it. It is cheap to measure: accuracy on whole problems is about its third
        power.
        """
        prompts, solutions = self.lesson.validation_texts(num_problems)
        labels, valid, start = self.lesson.canvases(prompts, solutions, [0] * len(prompts))
        rows, positions = (labels[:, start:] == self.ids.equals).nonzero(as_tuple=True)
        positions = positions + start + 1
        labels = labels[rows]
        hidden = torch.arange(labels.shape[1]) >= positions[:, None]
        # the tokens of the number that begins after the sign
        result = hidden & (self.ids.numbers[labels] | ~hidden).long().cumprod(1).bool()
        valid, grid = valid[rows], block_grid(self.model)
        layout = None if grid is None else Layout.of_canvases(grid.blocks(valid.long(), start))
        logits = self.logits(labels.masked_fill(hidden, self.ids.mask), valid, result, layout)
        wrong = torch.zeros_like(result).masked_scatter(result, logits.argmax(-1) != labels[result])
        return 1 - wrong.any(1).float().mean().item()

    def _optimizer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for label, optimizer, named in (("muon", self.muon, self.matrices), ("adamw", self.adamw, self.others)):
            for name, param in named.items():
                for key, value in optimizer.state[param].items():
                    yield f"{label}:{name}:{key}", value

    def save_state(self, path: Path) -> None:
        """Writes model, optimizers and step atomically to one safetensors file."""
        tensors = {f"model:{name}": param.detach() for name, param in self.params.items()}
        tensors.update({name: value.detach().clone() for name, value in self._optimizer_tensors()})
        write_atomically(path, save(tensors, metadata={"step": str(self.step), "plan": json.dumps(self.plan())}))

    def load_state(self, path: Path) -> None:
        """Reads a file from `save_state`; raises a `ValueError` for a state of another recipe."""
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if "plan" not in metadata:
                raise ValueError(f"{path} was written by an earlier version: {REMEDY}.")
            compare_plans(json.loads(metadata["plan"]), self.plan(), path, REMEDY)
            optimizers = {"muon": self.muon, "adamw": self.adamw}
            for full_name in file.keys():  # noqa: SIM118 - safe_open is not a dict
                label, name, *key = full_name.split(":")
                if label == "model":
                    self.params[name].data.copy_(file.get_tensor(full_name))
                else:
                    optimizers[label].state[self.params[name]][key[0]] = file.get_tensor(full_name)
            self.step = int(metadata["step"])

    def plan(self) -> dict[str, Any]:
        """All values of the recipe that affect the weights."""
        content = {key: value for key, value in self.recipe.items() if key not in ("logging", "generation")}
        # A finished run may be given more steps.
        content["optimizer"] = {
            k: v for k, v in content["optimizer"].items() if k not in ("max_steps", "learning_rate_schedule")
        }
        return plan_values(content)


def train_teacher(
    recipe_path: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    resume: bool = True,
    stop_at_step: int | None = None,
    num_workers: int = 2,
    bf16: bool = False,
) -> Path:
    """
    Trains a teacher and saves it with its tokenizer.

    Args:
        recipe_path (`str` or `PathLike`, *optional*): The YAML recipe; `None` for the shipped one.
        output_dir (`str` or `PathLike`):
            Folder that receives the checkpoint, `training_log.jsonl` and, while the run lasts, the training state.
        resume (`bool`, *optional*, defaults to `True`):
            Whether to resume from the training state in `output_dir`, if there is one. Otherwise the run starts again.
        stop_at_step (`int`, *optional*): Step at which to stop, before the recipe's `max_steps`; the state is kept.
        num_workers (`int`, *optional*, defaults to 2):
            Number of cores to use. During the run, PyTorch's own threads are limited to one: they would wait for each
            other after every operation, which is slow on a busy machine.
        bf16 (`bool`, *optional*, defaults to `False`):
            Whether matrix products use bfloat16. A run may be resumed with another choice.

    Returns:
        `Path`: `output_dir`.

    Raises:
        `ValueError`: As from [`load_recipe`], and for a training state of another recipe.
        `OSError`: For a folder that cannot be written; and for a full disk, where the last training state stays.
    """
    recipe = load_recipe(recipe_path)
    output = Path(output_dir)
    check_folder_to_be(output)
    with own_folder(output), cpu_threads(1):
        _train(TeacherTrainer(recipe, num_workers, bf16), output, resume, stop_at_step)
    return output


def _train(trainer: TeacherTrainer, output: Path, resume: bool, stop_at_step: int | None) -> None:
    recipe = trainer.recipe
    state_path, log_path = output / STATE_FILE, output / LOG_FILE
    if resume and state_path.exists():
        trainer.load_state(state_path)
        logger.info("Resumed at step %d.", trainer.step)
    else:
        log_path.unlink(missing_ok=True)
    last = min(recipe["optimizer"]["max_steps"], stop_at_step or recipe["optimizer"]["max_steps"])
    settings = recipe["logging"]
    began = saved = time.monotonic()
    seconds_before, tokens = _logged_so_far(log_path, trainer.step)
    while trainer.step < last:
        entry = trainer.train_step()
        tokens += entry["tokens"]
        is_last = trainer.step == last
        is_evaluated = trainer.step % settings["eval_every"] == 0 or is_last
        if is_evaluated:
            entry["result_accuracy"] = trainer.result_accuracy(settings["eval_problems"])
        if is_evaluated or trainer.step % settings["log_every"] == 0:
            seconds = time.monotonic() - began + seconds_before
            entry.update(tokens=tokens, seconds=round(seconds, 1))
            with _writing(output), log_path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            logger.info("%s", entry)
        if is_last or time.monotonic() - saved > 60 * settings["save_every_minutes"]:
            with _writing(output):
                trainer.save_state(state_path)
            saved = time.monotonic()
    trainer.model.generation_config = DiffusionGenerationConfig(
        **recipe["generation"],
        mask_token_id=trainer.ids.mask,
        eos_token_id=trainer.ids.eos,
        pad_token_id=trainer.ids.eos,
    )
    with _writing(output):
        trainer.model.save_pretrained(output)
        trainer.tokenizer.save_pretrained(output)
        store_in_bfloat16(output)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turns the errors of a full disk into an `OSError` that says how to resume."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Cannot write to {output}: {error}. The last saved state is complete: free some space, and continue with "
            "--resume."
        ) from error


def _logged_so_far(log_path: Path, step: int) -> tuple[float, int]:
    """Truncates the log after `step`; returns the seconds and tokens up to there."""
    if not log_path.exists():
        return 0.0, 0
    lines = log_path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A kill or a full disk may have left a part of the last line.
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    entries = [entry for entry in entries if entry["step"] <= step]
    write_atomically(log_path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    return (entries[-1]["seconds"], entries[-1]["tokens"]) if entries else (0.0, 0)
