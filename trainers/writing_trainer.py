"""Checkpoints on disk: what a killed run left is removed, a full disk is an error that says what is complete, and a
resumed run has the rows of an uninterrupted one."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput

from ..common.files import own_folder
from ..hub_cards.merging import write_attention
from ..hub_cards.push import PushError
from .evaluating_trainer import EvaluatingTrainer
from .grouped_sampler import SeededLengthSampler
from .streams import TrajectoryStream


class CannotWriteError(OSError):
    """A checkpoint could not be written."""


class WritingMixin(Trainer):
    """
    The part of a trainer that owns its output folder and reports what could not be written.

    Raises:
        `OSError`: If a checkpoint cannot be written.
    """

    train_dataset: Any

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in [`~transformers.Trainer`]. First removes half-written files of a killed run from the output folder."""
        is_main = self.is_world_process_zero()
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and self.accelerator.num_processes > 1:
            # An evaluation before the training marks the model as prepared: it would not be wrapped, and each process
            # would train on gradients of its own.
            self.model._is_accelerate_prepared = False
        with own_folder(Path(self.args.output_dir)) if is_main else contextlib.nullcontext():
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """
        As in [`~transformers.Trainer`]; that of a stream has no end. transformers takes a pass of unknown length for
        the whole training: it would leave out the last step of each pass if that is partial, but keep its gradient,
        and would resume in the first pass only.
        """
        given = self.train_dataset
        self.train_dataset = given.repeated() if isinstance(given, TrajectoryStream) else given
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = given

    def take_batches(self, epoch_iterator: Iterator, num_batches: int) -> list:
        """
        The micro-batches of an optimizer step, and none after the last one. transformers would take one step more in
        a finished run that is resumed within an epoch.
        """
        has_ended = 0 < self.state.max_steps <= self.state.global_step
        return [] if has_ended else list(itertools.islice(epoch_iterator, num_batches))

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        # A batch of all processes draws from one group, so their number does not change which rows make a step.
        sampler.batch_size *= self.args.world_size
        return SeededLengthSampler(sampler, self.args.seed, lambda: int(self.state.epoch or 0))

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        sampler = super()._get_eval_sampler(eval_dataset)
        # Rows of similar length would be faster, but predictions are in the order of the rows.
        return SequentialSampler(eval_dataset) if isinstance(sampler, LengthGroupedSampler) else sampler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in [`~transformers.Trainer`]. The `OSError` for a full disk says which checkpoints are complete."""
        with self._writing():
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self._writing():
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The main process then writes the trainer's state, by which a checkpoint is complete.
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (CannotWriteError, PushError):
            raise
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
            raise CannotWriteError(
                f"Cannot write to {self.args.output_dir} after step {self.state.global_step}: {error}. Checkpoints of "
                "earlier steps are complete: free some space and resume from the last one."
            ) from error


class WritingTrainer(WritingMixin, EvaluatingTrainer):
    """Part of [`~d3llm.trainers.pseudo_trajectory_trainer.PseudoTrajectoryTrainer`]."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in [`~transformers.Trainer`], and with the attention that the training gave the model."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and self.args.attention_block_sizes is not None:
            model = self.accelerator.unwrap_model(self.model)
            with self._writing():
                folder = Path(output_dir or self.args.output_dir)
                write_attention(model.get_base_model() if is_peft_model(model) else model, folder)
