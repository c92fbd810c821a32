"""Pushes models during training as `d3llm push model` does: complete, with a card, and without pickles."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from huggingface_hub import HfApi, snapshot_download
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ..hub_cards.convert import convert
from ..hub_cards.push import Pushed, push
from ..hub_cards.repositories import model_repository
from ..hub_cards.training_card import write_training_card
from .pseudo_trajectory_config import PseudoTrajectoryConfig
from .trl_base import _BaseTrainer


logger = logging.get_logger(__name__)

# The training arguments shown on the model's card, besides the fields of the recipe.
CARD_ARGUMENTS = (
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "seed",
)


def push_training(folder: Path, repo_id: str, *, base_model: str | None, message: str | None, api: HfApi) -> Pushed:
    """
    Makes a repository on the Hub equal to a model's folder, without the training's internal files.

    Args:
        folder (`Path`): A model with its card, or adapters, which are merged first.
        repo_id (`str`): The repository.
        base_model (`str`, *optional*): Folder or Hub id of the model that adapters belong to.
        message (`str`, *optional*): Title of the commit.
        api (`HfApi`): The Hub and the token to use.

    Returns:
        [`~d3llm.hub_cards.push.Pushed`]: The pushed commit.

    Raises:
        `ValueError`: For content that must not go to the Hub.
        `OSError`: As from [`~d3llm.hub_cards.push.push`].
    """
    with tempfile.TemporaryDirectory() as work:
        if (folder / "adapter_config.json").is_file():
            base = Path(base_model or "")
            if not base.is_dir():
                base = Path(snapshot_download(str(base_model), token=api.token))
            merged = Path(work, "merged")
            convert(folder, merged, base_model=base)
            folder = merged
        repository = model_repository(folder, repo_id)
        for warning in repository.warnings:
            logger.warning("%s", warning)
        return push(repository, repo_id, message=message, api=api)


def check_push(args: TrainingArguments) -> None:
    """Refuses, before the training, settings with which the result could not be pushed."""
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"hub_strategy={args.hub_strategy.value!r} would push the optimizer's state, which is a pickle: use "
            "'end' or 'every_save'."
        )
    if args.hub_revision is not None:
        raise ValueError(
            f"hub_revision={args.hub_revision!r}: a push goes to the main branch of the repository; omit it."
        )


class PublishingTrainer(_BaseTrainer):
    """
    The part of [`~d3llm.trainers.pseudo_trajectory_trainer.PseudoTrajectoryTrainer`] that writes cards and pushes.

    Attributes:
        teacher_name (`str`, *optional*): The model that produced the trajectories.
        card_facts (`dict[str, Any]`): Further fields of [`~d3llm.hub_cards.ModelFacts`] for the card.
        config_class (`type`): The class of `args`, whose fields are the recipe on the card.
    """

    teacher_name: str | None
    card_facts: dict[str, Any]
    config_class: type = PseudoTrajectoryConfig

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """
        Writes the model's card, and the facts it is based on, to the output folder.

        Args:
            model_name (`str`, *optional*): The title of the card; by default the name of the folder.
            dataset_name (`str`, *optional*): The trajectories, or the prompts and completions; replaces the entry in
                `card_facts`.
            tags (`str` or `list[str]`, *optional*): Besides those of the package and the trainer.
        """
        if self.is_world_process_zero():
            name = model_name or Path(self.args.output_dir).resolve().name
            given = [tags] if isinstance(tags, str) else list(tags or [])
            self.write_card(Path(self.args.output_dir), name, dataset_name, given)

    def write_card(self, folder: Path, name: str, dataset: str | None = None, tags: Sequence[str] = ()) -> None:
        """
        Writes the card of the model in its current state, and the facts it is based on.

        Args:
            folder (`Path`): The folder where the model is saved.
            name (`str`): The title of the card.
            dataset (`str`, *optional*): The training data; replaces the entry in `card_facts`.
            tags (`Sequence[str]`, *optional*): Besides those of the package and the trainer.
        """
        model = self.accelerator.unwrap_model(self.model)
        adapter = model.active_peft_config if is_peft_model(model) else None
        recipe = self.config_class.__annotations__.keys() | set(CARD_ARGUMENTS)
        values = {name: getattr(self.args, name) for name in sorted(recipe)} | {
            "steps": self.state.global_step,
            "processes": self.args.world_size,
            "adapter": adapter and adapter.peft_type.value,
            "lora_rank": adapter and getattr(adapter, "r", None),
        }
        facts = {
            "teacher": self.teacher_name,
            "hyperparameters": {n: getattr(v, "value", v) for n, v in values.items() if v not in (None, False)},
            "tags": [*self._tag_names, "generated_from_trainer", *tags],
            **self.card_facts,
        }
        if dataset is not None:
            # Rows without a teacher are prompts and completions, not trajectories.
            facts |= {"dataset": dataset} if self.teacher_name is None else {"trajectories": dataset}
        write_training_card(
            folder,
            model.get_base_model() if is_peft_model(model) else model,
            name=name,
            chat=bool(getattr(self.processing_class, "chat_template", None)),
            **facts,
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Pushed | Future[Pushed] | None:
        """
        Saves the model and pushes it as `d3llm push model` does: in one commit, checked before and after, without
        pickles. Adapters are merged first.

        Args:
            commit_message (`str`, *optional*), private (`bool`, *optional*): As in [`~transformers.Trainer`].
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait for the push; if not, a future is
                returned.
            token (`str`, *optional*): The token to use instead of `args.hub_token`.
            revision (`str`, *optional*): Must be `None`: a push goes to the main branch.
            kwargs (`Any`): For [`~PseudoTrajectoryTrainer.create_model_card`].

        Returns:
            [`~d3llm.hub_cards.push.Pushed`]: The pushed commit; `None` on all processes but the first.

        Raises:
            `ValueError`: For content that must not go to the Hub.
            `OSError`: If the Hub refuses the push or cannot be reached.
        """
        if revision is not None:
            raise ValueError(f"revision={revision!r}: a push goes to the main branch of the repository; omit it.")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        kwargs.setdefault("model_name", self.hub_model_id.rpartition("/")[2])
        self.create_model_card(**kwargs)
        return self._push(Path(self.args.output_dir), commit_message, token, blocking)

    def _push(
        self, folder: Path, message: str | None, token: str | None = None, blocking: bool = True
    ) -> Pushed | Future[Pushed]:
        api = HfApi(token=token or self.args.hub_token)
        model = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if is_peft_model(model) else model
        push = push_training if blocking else partial(api.run_as_future, push_training)
        return push(folder, self.hub_model_id, base_model=base.config._name_or_path, message=message, api=api)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes a checkpoint. A failed push does not end the training: the next one sends the missing files."""
        model = self.accelerator.unwrap_model(self.model)
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END or is_peft_model(model):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.write_card(Path(checkpoint_folder), self.hub_model_id.rpartition("/")[2])
        try:
            self._push(Path(checkpoint_folder), f"Training in progress, step {self.state.global_step}")
        except (OSError, ValueError) as error:
            logger.warning("Step %d is not on the Hub: %s", self.state.global_step, error)
