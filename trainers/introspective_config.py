"""Configuration of the trainer of drafters."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from transformers import TrainingArguments

from ..common.field_types import Count, Positive, Share, Weight, Whole
from ..modeling.drafter_config import MOST_MASK_ROWS
from .argument_checks import check_arguments, check_noise, check_packages
from .field_types import TRAINING_FIELDS, JsonObject, check_fields
from .trl_base import _BaseConfig


@dataclass
class IntrospectiveConfig(_BaseConfig):
    r"""
    Configuration class for the [`IntrospectiveTrainer`], which trains a drafter of a causal model (I-DLM, arXiv
    2604.11035).

    This class includes only the parameters that are specific to it. For a full list of training arguments, please
    refer to the [`~transformers.TrainingArguments`] documentation.

    Parameters:
        > Parameters that control the drafter

        rank (`int`, *optional*, defaults to 28):
            Rank of the LoRA that acts on mask rows.
        sampler_size (`int`, *optional*):
            Width of the sampler head, by default that of the base.
        head_tokens (`int`, *optional*):
            Drafts have ids below it; by default any id. It does not affect the weights.

        > Parameters that control the mask rows

        window_sizes (`list[int]`, *optional*, defaults to `[2, 3, 4]`):
            Mask rows after a token, 1 to 8, in equal phases of training. The largest is the window of the drafter.
        mask_rows (`int`, *optional*, defaults to 48):
            Mask rows of a text in a step. They are in groups of the window, each after an anchor that is drawn from
            the answer, so a text has `mask_rows // window` anchors.
        max_length (`int`, *optional*):
            Largest length of prompt and answer together, in tokens; longer texts are skipped. By default the model's.
        cached_texts (`int`, *optional*, defaults to 0):
            Texts whose clean keys and values are kept in memory, since they are the same in every epoch. A text takes
            2 * layers * key-value heads * head size * tokens numbers.

        > Parameters that control the loss

        candidates (`int`, *optional*, defaults to 4096):
            The loss is over the ids below it, the targets of the batch, and `random_candidates` others; this restricts
            the head alone. Ids of byte-pair tokenizers are in the order of frequency. 0 for the whole vocabulary.
        random_candidates (`int`, *optional*, defaults to 1024):
            Further ids, drawn anew in each step.
        offset_decay (`float`, *optional*, defaults to 0.8):
            A mask row counts as much as the one before it, times this: a draft is of use only if those before it are
            accepted.
        plain_weight (`float`, *optional*, defaults to 0.5):
            Weight of the cross entropy of mask rows that the sampler head has not refined.
        entropy_weight (`float`, *optional*, defaults to 0.0):
            Weight of the certainty-forcing loss: the entropy of refined rows that are already right.
        entropy_temperature (`float`, *optional*, defaults to 0.5):
            Temperature of the distribution whose entropy is taken.

        > Parameters that control the optimizer

        embedding_lr_factor (`float`, *optional*, defaults to 3.0):
            The learning rate of the mask embeddings is that of the rest, times this.

        > Parameters that control the model

        model_init_kwargs (`dict[str, Any]`, *optional*):
            Arguments of `from_pretrained` for a base that is given by its name, such as `{"dtype": "bfloat16"}`.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `adam_beta2`: Defaults to `0.95` instead of `0.999`.
    > - `bf16`: Defaults to `False`: the dtype of the base is that of the forward.
    > - `learning_rate`: Defaults to `1e-3` instead of `5e-5`.
    > - `logging_nan_inf_filter`: Defaults to `False` instead of `True`: a loss that is not finite ends the run.
    > - `logging_steps`: Defaults to `10` instead of `500`.
    """

    _VALID_DICT_FIELDS = _BaseConfig._VALID_DICT_FIELDS + ["model_init_kwargs"]

    # Parameters whose default values are overridden from TrainingArguments
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    bf16: bool | None = field(default=False, metadata={"help": "Autocast; the base's own dtype decides without it."})
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Not supported by a drafter's hooks."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "The initial learning rate for AdamW."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Omit losses that are not finite from the log; here they end the run."}
    )

    # Parameters that control the drafter
    rank: Count = field(default=28, metadata={"help": "Rank of the LoRA that acts on mask rows."})
    sampler_size: Count | None = field(default=None, metadata={"help": "Width of the sampler head; the base's."})
    head_tokens: Count | None = field(default=None, metadata={"help": "Drafts have ids below it; by default any."})

    # Parameters that control the mask rows
    window_sizes: Annotated[list[Annotated[int, Field(ge=1, le=MOST_MASK_ROWS)]], Field(min_length=1)] = field(
        default_factory=lambda: [2, 3, 4],
        metadata={"help": "Mask rows after a token, in equal phases of training."},
    )
    mask_rows: Count = field(default=48, metadata={"help": "Mask rows of a text in a step."})
    max_length: Count | None = field(
        default=None, metadata={"help": "Largest length of prompt and answer; longer texts are skipped."}
    )
    cached_texts: Whole = field(default=0, metadata={"help": "Texts whose clean keys and values stay in memory."})

    # Parameters that control the loss
    candidates: Whole = field(default=4096, metadata={"help": "The loss is over the ids below it; 0 for all."})
    random_candidates: Whole = field(default=1024, metadata={"help": "Further ids, drawn in each step."})
    offset_decay: Share = field(default=0.8, metadata={"help": "Weight of a mask row over that of the one before."})
    plain_weight: Weight = field(default=0.5, metadata={"help": "Weight of the rows before the sampler head."})
    entropy_weight: Weight = field(default=0.0, metadata={"help": "Weight of the certainty-forcing loss."})
    entropy_temperature: Positive = field(default=0.5, metadata={"help": "Temperature of that loss."})

    # Parameters that control the optimizer
    embedding_lr_factor: Positive = field(default=3.0, metadata={"help": "Learning rate of the mask embeddings."})

    # Parameters that control the model
    model_init_kwargs: dict[str, Any] | JsonObject | None = field(
        default=None, metadata={"help": "Arguments of `from_pretrained` for a model given by its name, as JSON."}
    )

    @property
    def window(self) -> int:
        """The window of the drafter."""
        return max(self.window_sizes)

    def __post_init__(self) -> None:
        check_fields(self, TRAINING_FIELDS)
        check_packages(self)
        if self.gradient_checkpointing or getattr(self, "activation_checkpointing", None):
            raise ValueError(
                "`gradient_checkpointing` would run the base again without the drafter: omit it, and use smaller "
                "batches."
            )
        if not hasattr(TrainingArguments, "activation_checkpointing"):
            self.gradient_checkpointing = False
        super().__post_init__()
        check_arguments(self)
        check_noise(self)
        if self.mask_rows < self.window:
            raise ValueError(
                f"`mask_rows` is {self.mask_rows}, which holds no group of {self.window} (`window_sizes`): give more."
            )
