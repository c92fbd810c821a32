"""Configuration of the trainer that rewards right answers and tokens per forward."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from ..common.field_types import Count, Positive, ProperShare, Weight
from .argument_checks import check_arguments, check_noise, check_packages, fill_in_arguments
from .field_types import TRAINING_FIELDS, JsonObject, check_fields
from .trl_base import _BaseConfig


# Arguments of `generate` that other fields or the model set, and where; the loss is over the whole vocabulary.
SET_ELSEWHERE = {
    "temperature": "it is `temperature` of the training",
    "seed": "it is `seed` of the training",
    "num_return_sequences": "it is `num_generations`",
    "max_new_tokens": "it is `max_new_tokens` of the training",
    "top_k": "the policy is over the whole vocabulary",
    "top_p": "the policy is over the whole vocabulary",
    "attention": "the loss takes that of the model",
    "attention_block_size": "the loss takes that of the model",
    "mask_token_id": "it is that of the model",
    "eos_token_id": "it is that of the model",
    "output_history": "it is always recorded",
}


@dataclass
class LightningRLConfig(_BaseConfig):
    r"""
    Configuration class for the [`~d3llm.trainers.lightning_rl.LightningRLTrainer`] (LightningRL, arXiv 2603.13319).

    This class includes only the parameters that are specific to it. For a full list of training arguments, please
    refer to the [`~transformers.TrainingArguments`] documentation. `per_device_train_batch_size` counts rollouts, as
    in TRL: the rollouts of a step, over micro-batches and processes, are a multiple of `num_generations`.

    Parameters:
        > Parameters that control the model

        model_init_kwargs (`dict[str, Any]`, *optional*):
            Arguments of `from_pretrained` for a `model` that is given by its name, such as `{"dtype": "bfloat16"}`.

        > Parameters that control the rollouts

        num_generations (`int`, *optional*, defaults to 8):
            Rollouts of a prompt, a group, at least 2.
        max_new_tokens (`int`, *optional*):
            Positions of the generated region; by default the model's.
        max_length (`int`, *optional*):
            Largest length of prompt and region together, in tokens; longer prompts are skipped. By default the
            model's.
        temperature (`float`, *optional*, defaults to 1.0):
            Temperature of the policy: rollouts are sampled with it, and the loss is of the same distribution.
        generation_kwargs (`dict[str, Any]`, *optional*):
            Further fields of `DiffusionGenerationConfig` for the rollouts, such as `{"preset": "d3llm"}`.
        rollout_batch_size (`int`, *optional*, defaults to 32):
            Rollouts that are decoded at a time.
        num_iterations (`int`, *optional*, defaults to 1):
            Steps on the same rollouts. With 1 the policy is that of the rollouts, so that no ratio is clipped.
        states_per_rollout (`int`, *optional*):
            How many states of a rollout a step is computed from, each a forward over a canvas. They are drawn at
            random, and weighted so that the gradient is that of all in expectation. By default all.

        > Parameters that control the rewards

        reward_weights (`list[float]`, *optional*):
            Weight of each reward; by default 1.
        normalize_advantages (`bool`, *optional*, defaults to `True`):
            Whether advantages are standardised over the step too, after each reward in its group.
        min_tpf_range (`float`, *optional*, defaults to 0.01):
            Groups whose rollouts differ by less tokens per forward are left out.
        drop_all_wrong (`bool`, *optional*, defaults to `True`):
            Whether groups without a right answer are left out.
        max_constant_rounds (`int`, *optional*, defaults to 10):
            After how many rounds in which a reward is the same number for every rollout the training stops; never
            with `None`.

        > Parameters that control the loss

        epsilon (`float`, *optional*, defaults to 0.2):
            Ratios are clipped at 1 - `epsilon`.
        epsilon_high (`float`, *optional*):
            Ratios are clipped at 1 + `epsilon_high`; by default `epsilon`.
        beta (`float`, *optional*, defaults to 0.01):
            Weight of the divergence from the reference: the model before the training, or without its adapters.
        nll_weight (`float`, *optional*, defaults to 0.1):
            Weight of the negative log-likelihood of the tokens of right rollouts.

        > Parameters that transformers has since 5.23:

        activation_checkpointing (`bool`, *optional*):
            Whether to recompute activations in the backward pass instead of keeping them; off by default.
        activation_checkpointing_kwargs (`dict[str, Any]`, *optional*):
            Arguments of `torch.utils.checkpoint.checkpoint`.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `bf16`: Defaults to `True` on a GPU that supports it, else `False`.
    > - `ddp_find_unused_parameters`: Defaults to `False`: every parameter is used in every step.
    > - `learning_rate`: Defaults to `1e-6` instead of `5e-5`.
    > - `logging_steps`: Defaults to `10` instead of `500`.
    > - `logging_nan_inf_filter`: Defaults to `False` instead of `True`: a loss that is not finite ends the run.
    """

    _VALID_DICT_FIELDS = _BaseConfig._VALID_DICT_FIELDS + [
        "activation_checkpointing_kwargs",
        "generation_kwargs",
        "model_init_kwargs",
    ]

    # Parameters whose default values are overridden from TrainingArguments
    learning_rate: float = field(default=1e-6, metadata={"help": "The initial learning rate for AdamW."})
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Deprecated alias of `activation_checkpointing`, which is off by default."}
    )
    # Part of TrainingArguments since transformers 5.23
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Recompute activations in the backward pass instead of keeping them."}
    )
    activation_checkpointing_kwargs: dict[str, Any] | JsonObject | None = field(
        default=None, metadata={"help": "Arguments of `torch.utils.checkpoint.checkpoint`, as JSON."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Whether DDP looks for parameters without a gradient: there are none."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Omit losses that are not finite from the log; here they end the run."}
    )

    # Parameters that control the model
    model_init_kwargs: dict[str, Any] | JsonObject | None = field(
        default=None, metadata={"help": "Arguments of `from_pretrained` for a model given by its name, as JSON."}
    )

    # Parameters that control the rollouts
    num_generations: Annotated[int, Field(ge=2, le=2**16)] = field(
        default=8, metadata={"help": "Rollouts of a prompt."}
    )
    max_new_tokens: Count | None = field(
        default=None, metadata={"help": "Positions of the generated region; the model's if not given."}
    )
    max_length: Count | None = field(
        default=None, metadata={"help": "Largest length of prompt and region; longer prompts are skipped."}
    )
    temperature: Positive = field(default=1.0, metadata={"help": "Temperature of the policy."})
    generation_kwargs: dict[str, Any] | JsonObject | None = field(
        default=None, metadata={"help": "Decoding parameters of the rollouts, as JSON."}
    )
    rollout_batch_size: Count = field(default=32, metadata={"help": "Rollouts that are decoded at a time."})
    num_iterations: Count = field(default=1, metadata={"help": "Steps on the same rollouts."})
    states_per_rollout: Count | None = field(
        default=None, metadata={"help": "States of a rollout that a step is computed from; all by default."}
    )

    # Parameters that control the rewards
    reward_weights: Annotated[list[Weight], Field(min_length=1)] | None = field(
        default=None, metadata={"help": "Weight of each reward; 1 by default."}
    )
    normalize_advantages: bool = field(
        default=True, metadata={"help": "Standardise advantages over the step, after each reward in its group."}
    )
    min_tpf_range: Weight = field(
        default=0.01, metadata={"help": "Leave groups out that differ by less tokens per forward."}
    )
    drop_all_wrong: bool = field(default=True, metadata={"help": "Leave groups without a right answer out."})
    max_constant_rounds: Count | None = field(
        default=10, metadata={"help": "Rounds with a constant reward after which the training stops."}
    )

    # Parameters that control the loss
    epsilon: ProperShare = field(default=0.2, metadata={"help": "Ratios are clipped at 1 - epsilon."})
    epsilon_high: Weight | None = field(
        default=None, metadata={"help": "Ratios are clipped at 1 + epsilon_high; by default `epsilon`."}
    )
    beta: Weight = field(default=0.01, metadata={"help": "Weight of the divergence from the reference."})
    nll_weight: Weight = field(
        default=0.1, metadata={"help": "Weight of the negative log-likelihood of right rollouts."}
    )

    @property
    def rollouts_per_step(self) -> int:
        """Rollouts of an optimizer step, on all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size

    def __post_init__(self) -> None:
        check_fields(self, TRAINING_FIELDS)
        check_packages(self)
        fill_in_arguments(self)
        super().__post_init__()
        check_arguments(self)
        check_noise(self)
        self._check_rollouts()

    def _check_rollouts(self) -> None:
        for name, reason in SET_ELSEWHERE.items():
            if name in (self.generation_kwargs or {}):
                raise ValueError(f"`generation_kwargs` has {name!r}: omit it there, {reason}.")
        if self.auto_find_batch_size:
            raise ValueError(
                "`auto_find_batch_size` would divide the rollouts of a prompt among steps: omit it, and give more "
                "`gradient_accumulation_steps` of a smaller `per_device_train_batch_size`."
            )
        if self.rollouts_per_step % self.num_generations:
            raise ValueError(
                f"A step has {self.rollouts_per_step} rollouts (`per_device_train_batch_size` x "
                f"`gradient_accumulation_steps` x processes), which is not a multiple of `num_generations`, "
                f"{self.num_generations}: change one of them."
            )
