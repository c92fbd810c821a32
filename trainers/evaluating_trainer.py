"""Evaluation during training: losses of held-out rows, metrics of their predictions, decoding of held-out problems."""

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
from .loss_parts import names_of_parts
from .publishing_trainer import PublishingTrainer
from .streams import TrajectoryStream


@dataclass(frozen=True)
class HeldOutPrompts:
    """
    Problems to decode at each evaluation, for accuracy and TPF.

    Attributes:
        prompts (`Sequence`): Texts, chats (lists of messages) or lists of token ids.
        check (`Callable[[int, str], bool]`): Called with the index of a prompt and the decoded text; returns whether
            the text is correct.
    """

    prompts: Sequence[Any]
    check: Callable[[int, str], bool]


@contextlib.contextmanager
def gathered_root(wrapped: nn.Module) -> Iterator[None]:
    """
    Gathers the embeddings and the head, which FSDP2 gathers in the forward of the outermost module: with adapters,
    decoding calls the model inside it. Does nothing without FSDP2.

    Args:
        wrapped (`nn.Module`): The outermost module. Its forward must have run before.
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
        student ([`~d3llm.trainers.collator.StudentFacts`]): The facts that datasets are checked against.
        max_new_tokens (`int`): Positions of the generated region.
        held_out ([`HeldOutPrompts`], *optional*): Problems to decode.
        router_weight (`float`, *optional*): The weight of the loss of the model's routers.
    """

    student: StudentFacts
    max_new_tokens: int
    held_out: HeldOutPrompts | None
    eval_dataset: Any
    router_weight: float | None
    _held_out_prefix: str | None = None  # for the metrics, until the problems have been decoded

    def take_parts(self, mode: str) -> dict[str, float]:
        """The parts of the loss in `mode`, `"train"` or `"eval"`, since the last call; of evaluations also `loss`."""
        raise NotImplementedError

    def metric_names(self, datasets: Sequence[str]) -> list[str]:
        """The metrics of an evaluation, without `eval_`; for several datasets, prefixed by their names."""
        names = ["loss", *names_of_parts(self.args, has_routers=self.router_weight is not None)]
        names = [f"{dataset}_{name}" for dataset in datasets for name in names] or names
        return names + (["accuracy", "tokens_per_forward"] if self.held_out is not None else [])

    def prepare(self, dataset: Any, name: str) -> Dataset | TrajectoryStream:
        """A dataset ready for evaluation: checked, with texts tokenized, and without rows that do not fit."""
        dataset = dataset.rows if isinstance(dataset, TrajectoryStream) else dataset
        dataset = as_trajectories(dataset, name, self.student, self.args)
        return prepare_trajectories(dataset, self.student, self.max_new_tokens, name)

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        As in [`~transformers.Trainer`]. Held-out problems are decoded once, even with several datasets; the metrics of
        the first dataset include `eval_accuracy` and `eval_tokens_per_forward`.

        Args:
            eval_dataset (`Dataset`, `IterableDataset` or `dict`, *optional*): Datasets to use instead of those given
                to the constructor, with the same checks.
            ignore_keys (`list[str]`, *optional*), metric_key_prefix (`str`, *optional*, defaults to `"eval"`): As
                there.

        Returns:
            `dict[str, float]`: The loss, its parts, and accuracy and TPF of held-out problems.

        Raises:
            `ValueError`: For a dataset that does not fit the model, or has no rows that fit.
        """
        if isinstance(eval_dataset, str):  # `Trainer` calls this method again for each of several datasets
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[arg-type]
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        self._held_out_prefix = metric_key_prefix
        before = self.eval_dataset
        try:
            if eval_dataset is not None:
                named = {name: self.prepare(data, name) for name, data in named_eval_datasets(eval_dataset).items()}
                self.eval_dataset = unnamed_eval_datasets(eval_dataset, named)
            with torch.random.fork_rng(devices):  # training goes on as if there had been no evaluation
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
        The most likely token at each masked position of held-out rows, masked as in an evaluation.

        Args:
            test_dataset (`Dataset` or `IterableDataset`): The rows, checked like those given to the constructor.
            ignore_keys (`list[str]`, *optional*), metric_key_prefix (`str`, *optional*, defaults to `"test"`): As in
                [`~transformers.Trainer`].

        Returns:
            `PredictionOutput`: `predictions` and `label_ids`, token ids of shape `(rows, N)` with -100 where a
            position is not masked or not in the loss; and `metrics`.

        Raises:
            `ValueError`: For a dataset that does not fit the model, or has no rows that fit.
        """
        return super().predict(self.prepare(test_dataset, "test_dataset"), ignore_keys, metric_key_prefix)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """
        The loss of held-out rows and its parts, and accuracy and TPF of held-out problems. All are over the whole
        dataset: means of the batches' losses would depend on the size of a batch.
        """
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        parts = self.take_parts("eval")
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in parts.items()})
        if self.held_out is not None and self._held_out_prefix is not None:
            decoded = self._decode_held_out(self.held_out)
            output.metrics.update({f"{self._held_out_prefix}_{name}": value for name, value in decoded.items()})
            self._held_out_prefix = None
        return output

    def _decode_held_out(self, held_out: HeldOutPrompts) -> dict[str, float]:
        """Each process decodes its share of the prompts. With sharded weights, every process decodes all of them."""
        wrapped = self.accelerator.unwrap_model(self.model)
        model = (wrapped.get_base_model() if is_peft_model(wrapped) else wrapped).eval()
        sharded = self.is_fsdp_enabled
        share = range(len(held_out.prompts))
        if not sharded:
            share = share[self.args.process_index :: self.args.world_size]
        counts = [0, 0, 0, 0]
        if share:
            with gathered_root(wrapped):
                result = evaluate_decoding(
                    model,
                    self.processing_class,
                    [held_out.prompts[index] for index in share],
                    lambda number, text: held_out.check(share[number], text),
                    batch_size=self.args.per_device_eval_batch_size,
                    **({"seed": self.args.seed} | (self.args.eval_generation_kwargs or {})),
                )
            counts = [sum(record.correct for record in result.records), result.tokens, result.forwards, len(share)]
        totals = torch.tensor(counts, device=self.args.device)
        correct, tokens, forwards, prompts = (totals if sharded else self.accelerator.reduce(totals)).tolist()
        return {"accuracy": correct / prompts, "tokens_per_forward": tokens / forwards}

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """
        As in [`~transformers.Trainer`], except for the default objective: instead of the sum of all metrics, it is
        `eval_loss`, summed over the datasets if there are several.

        Args:
            hp_space (`Callable`, *optional*), args, kwargs: As there.
            compute_objective (`Callable[[dict[str, float]], float]`, *optional*): Computes the value to minimize from
                the metrics of an evaluation.

        Returns:
            `BestRun` or `list[BestRun]`: As there.
        """
        return super().hyperparameter_search(hp_space, compute_objective or self._sum_of_losses, *args, **kwargs)

    def _sum_of_losses(self, metrics: dict[str, float]) -> float:
        datasets = self.eval_dataset if isinstance(self.eval_dataset, dict) else [None]
        return sum(metrics["_".join(filter(None, ("eval", name, "loss")))] for name in datasets)
