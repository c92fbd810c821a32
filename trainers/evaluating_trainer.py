"""A trainer that evaluates: losses of held-out rows, metrics of their predictions, and held-out problems, decoded."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from torch import nn
from transformers.trainer_utils import BestRun, EvalLoopOutput, PredictionOutput

from ..evaluation import evaluate_decoding
from .collator import (
    StudentFacts,
    as_trajectories,
    named_eval_datasets,
    prepare_trajectories,
    unnamed_eval_datasets,
)
from .publishing_trainer import PublishingTrainer


@dataclass(frozen=True)
class HeldOutPrompts:
    """
    Problems that are decoded at each evaluation, for accuracy and TPF.

    Attributes:
        prompts (`Sequence`): Texts, chats (lists of messages) or lists of token ids.
        check (`Callable[[int, str], bool]`): Called with the number of a prompt and the decoded text; returns whether
            the text is correct.
    """

    prompts: Sequence[Any]
    check: Callable[[int, str], bool]


@contextlib.contextmanager
def gathered_root(wrapped: nn.Module) -> Iterator[None]:
    """
    Gathers what FSDP2 gathers in the forward of the outermost module, embeddings and head: decoding calls the model
    inside of adapters, whose forward is not that one. Without FSDP2 nothing happens.

    Args:
        wrapped (`nn.Module`): The outermost module, of which a forward has been run.
    """
    if not hasattr(wrapped, "unshard"):
        yield
        return
    wrapped.unshard()
    try:
        yield
    finally:
        wrapped.reshard()


class EvaluatingTrainer(PublishingTrainer):
    """
    The part of [`~d3llm.trainers.pseudo_trajectory_trainer.PseudoTrajectoryTrainer`] that evaluates and predicts.

    Attributes:
        student ([`~d3llm.trainers.collator.StudentFacts`]): What datasets are held against.
        max_new_tokens (`int`): Positions of the generated region.
        held_out ([`HeldOutPrompts`], *optional*): Problems to decode.
    """

    student: StudentFacts
    max_new_tokens: int
    held_out: HeldOutPrompts | None
    eval_dataset: Any
    _held_out_prefix: str | None = None  # of the metrics of problems that are still to be decoded

    def take_parts(self, mode: str) -> dict[str, float]:
        """The parts of the loss that `mode`, `"train"` or `"eval"`, has added up since they were last taken."""
        raise NotImplementedError

    def prepare(self, dataset: Any, name: str) -> Dataset | IterableDataset:
        """A dataset as it is evaluated on: checked, tokenized where it holds texts, without rows that do not fit."""
        dataset = as_trajectories(dataset, name, self.student, self.args)
        return prepare_trajectories(dataset, self.student, self.max_new_tokens, name)

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        As in [`~transformers.Trainer`]. However many datasets there are, held-out problems are decoded once, and
        `eval_accuracy` and `eval_tokens_per_forward` come with the metrics of the first.

        Args:
            eval_dataset (`Dataset`, `IterableDataset` or `dict`, *optional*): Others than those of the constructor,
                checked as they were.
            ignore_keys (`list[str]`, *optional*), metric_key_prefix (`str`, *optional*, defaults to `"eval"`): As
                there.

        Returns:
            `dict[str, float]`: The loss, its parts, and accuracy and TPF of held-out problems.

        Raises:
            `ValueError`: For a dataset that does not fit the model, or of which nothing is left.
        """
        if isinstance(eval_dataset, str):  # one of several, for which this is called again
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[arg-type]
        self._held_out_prefix = metric_key_prefix
        before = self.eval_dataset
        try:
            if eval_dataset is not None:
                named = {name: self.prepare(data, name) for name, data in named_eval_datasets(eval_dataset).items()}
                self.eval_dataset = unnamed_eval_datasets(eval_dataset, named)
            return super().evaluate(None, ignore_keys, metric_key_prefix)
        finally:
            self.eval_dataset = before
            self._held_out_prefix = None

    def predict(
        self,
        test_dataset: Dataset | IterableDataset,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> PredictionOutput:
        """
        The likeliest token at each masked position of held-out rows, masked as in an evaluation.

        Args:
            test_dataset (`Dataset` or `IterableDataset`): The rows, checked as those of the constructor.
            ignore_keys (`list[str]`, *optional*), metric_key_prefix (`str`, *optional*, defaults to `"test"`): As in
                [`~transformers.Trainer`].

        Returns:
            `PredictionOutput`: `predictions` and `label_ids`, token ids of shape `(rows, N)` with -100 where a
            position is not masked or not in the loss; and `metrics`.

        Raises:
            `ValueError`: For a dataset that does not fit the model, or of which nothing is left.
        """
        return super().predict(self.prepare(test_dataset, "test_dataset"), ignore_keys, metric_key_prefix)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """The loss of held-out rows and its parts, and accuracy and TPF of held-out problems."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        parts = self.take_parts("eval")
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in parts.items()})
        if self.held_out is not None and self._held_out_prefix is not None:
            decoded = self._decode_held_out(self.held_out)
            output.metrics.update({f"{self._held_out_prefix}_{name}": value for name, value in decoded.items()})
            self._held_out_prefix = None
        return output

    def _decode_held_out(self, held_out: HeldOutPrompts) -> dict[str, float]:
        """Each process decodes its share of the prompts; where weights are sharded, all of them run in step."""
        wrapped = self.accelerator.unwrap_model(self.model)
        model = (wrapped.get_base_model() if is_peft_model(wrapped) else wrapped).eval()
        sharded = self.is_fsdp_enabled
        mine = range(len(held_out.prompts))
        if not sharded:
            mine = mine[self.args.process_index :: self.args.world_size]
        counts = [0, 0, 0, 0]
        if mine:
            with gathered_root(wrapped):
                result = evaluate_decoding(
                    model,
                    self.processing_class,
                    [held_out.prompts[index] for index in mine],
                    lambda number, text: held_out.check(mine[number], text),
                    batch_size=self.args.per_device_eval_batch_size,
                    **({"seed": self.args.seed} | (self.args.eval_generation_kwargs or {})),
                )
            counts = [sum(record.correct for record in result.records), result.tokens, result.forwards, len(mine)]
        totals = torch.tensor(counts, device=self.args.device)
        correct, tokens, forwards, prompts = (totals if sharded else self.accelerator.reduce(totals)).tolist()
        return {"accuracy": correct / prompts, "tokens_per_forward": tokens / forwards}

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *args,
        **kwargs,
    ) -> BestRun | list[BestRun]:
        """
        As in [`~transformers.Trainer`], which by default minimizes the sum of all metrics: here, `eval_loss`, of
        several datasets their sum.

        Args:
            hp_space (`Callable`, *optional*), args, kwargs: As there.
            compute_objective (`Callable[[dict[str, float]], float]`, *optional*): What to minimize, of the metrics of
                an evaluation.

        Returns:
            `BestRun` or `list[BestRun]`: As there.
        """
        return super().hyperparameter_search(hp_space, compute_objective or _sum_of_losses, *args, **kwargs)


def _sum_of_losses(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if name.startswith("eval_") and name.endswith("_loss"))
