"""Configuration of the pseudo-trajectory trainer."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import TrainingArguments

from ..common.field_types import Count, Positive, Share, Weight, Whole
from .argument_checks import check_arguments, check_packages, fill_in_arguments
from .field_types import TRAINING_FIELDS, JsonObject, check_fields
from .trl_base import _BaseConfig


@dataclass
class PseudoTrajectoryConfig(_BaseConfig):
    r"""
    Configuration class for the [`PseudoTrajectoryTrainer`]: a recipe is corruption × layout × curricula × loss terms.

    This class includes only the parameters that are specific to it. For a full list of training arguments, please
    refer to the [`~transformers.TrainingArguments`] documentation. The defaults are the d3LLM recipe (arXiv
    2601.07568) with exact masks; the files in `recipes/` describe each published method in terms of these fields.

    Parameters:
        > Parameters that control the model

        model_init_kwargs (`dict[str, Any]`, *optional*):
            Arguments of `from_pretrained` for a `model` that is given by its name, such as `{"dtype": "bfloat16"}`.
            The default `dtype` is float32.

        > Parameters that control the canvas

        max_new_tokens (`int`, *optional*):
            Positions of the generated region, which is masked to its end, as in the decoder. By default that of the
            teacher's run, from `decode_config` in the dataset; for prompts and completions, that of the model's
            generation config. It is shorter where `max_length` leaves less room.
        max_length (`int`, *optional*):
            Largest length of prompt and region together, in tokens. A row whose prompt and response exceed it is
            dropped, not truncated. By default the model's.

        > Parameters that control the attention of block-causal models

        attention_block_sizes (`list[int]`, *optional*):
            Positions per block of block-causal attention, in equal phases of training; by default the size that the
            model states. The last is the one that it is decoded with. Given for a model that is not block-causal, it
            becomes so: this is stated in its config (`attention`, `attention_block_size`).
        block_context (`str`, *optional*, defaults to `"clean"`):
            What a block is conditioned on: the `"clean"` tokens of all blocks before it, in a forward of
            [noisy ; clean] (BD3-LM), or those blocks as they are masked, `"noisy"` (D2F).

        > Parameters that control the corruption

        corruption (`str`, *optional*, defaults to `"trajectory"`):
            Which positions to mask. Possible values are:

                - `"trajectory"`: in one window, those that the teacher committed last (d3LLM).
                - `"block"`: in one window, random ones (dParallel, arXiv 2509.26488).
                - `"state"`: on the whole canvas, those that the recorded run committed after a drawn forward; before
                  forward 1 all of them. There are no windows and no mask ratio.
                - `"random"`: each position of the whole region with the same probability (LLaDA, arXiv 2502.09992).

        block_ratios (`str`, *optional*, defaults to `"shared"`):
            With `corruption="random"` on a block-causal model: `"shared"`, one mask ratio for the row;
            `"independent"`, one for each block of the attention (Fast-dLLM v2); `"rising"`, one for each block that is
            not below that of the block before it (D2F). With `corruption="state"` and `block_context="clean"`,
            `"independent"`: each block is in a state of its own, so that a row has something to learn in all of them.
        layout (`str`, *optional*, defaults to `"complementary"`):
            `"single"` for one view of each sample, `"complementary"` for a second view that masks the other positions
            of the window. The second view doubles the rows of a forward.
        masking (`str`, *optional*, defaults to `"exact"`):
            `"exact"`, or `"reference"` to reproduce the masks of the published training code: windows up to the end of
            the canvas, ratios that are only met where windows and the teacher's blocks coincide, one token too few.
        reference_windows (`str`, *optional*, defaults to `"response"`):
            With `masking="reference"`, whether windows are drawn over the `"response"` (its LLaDA code) or over the
            whole `"canvas"` (its Dream code).
        eos_tail (`int`, *optional*, defaults to 32):
            Number of positions after the first EOS that windows and losses may cover; the default is one block of the
            decoder. With larger values, most targets are EOS.
        filled_tail_share (`float`, *optional*, defaults to 0.0):
            Share of rows in which an EOS at or after the first one is already committed, and the early stop has filled
            the rest of the canvas with EOS while positions before it are masked. The multi-block decoder encounters
            this state; the paper does not train on it.
        full_mask_share (`float`, *optional*):
            Share of rows whose whole window is masked, as it is for the decoder's first forward; with
            `corruption="random"` or `"state"`, the whole response. By default none with windows and `"random"`, apart
            from those that the mask ratio gives; with `"state"`, the state before the first forward is drawn as often
            as any other, and if a share is given, only in these rows.
        mask_noise (`float`, *optional*, defaults to 0.0):
            Share of the positions of a window that are an exception to the order: masked though the teacher had
            committed them, or shown though it had not (TRIMS, arXiv 2604.00666).

        > Parameters that control the curricula

        min_mask_ratio (`float`, *optional*, defaults to 0.0):
            Lower bound of the mask ratio at the start.
        max_mask_ratio (`float`, *optional*, defaults to 0.8):
            Upper bound of the mask ratio.
        raise_mask_ratio (`bool`, *optional*, defaults to `True`):
            Whether the lower bound rises to `max_mask_ratio` during training.
        window_sizes (`list[int]`, *optional*, defaults to `[16, 16, 24, 24, 32, 32]`):
            Window sizes, spread evenly over training and interpolated in between.

        > Parameters that control the loss

        entropy_weight (`float`, *optional*, defaults to 2.0):
            Weight of the certainty-forcing loss: the entropy at masked positions that are predicted correctly.
        entropy_temperature (`float`, *optional*, defaults to 0.5):
            Temperature of the distribution whose entropy is taken.
        complementary_entropy (`bool`, *optional*, defaults to `False`):
            Whether the complementary view has this loss too.
        order_weight (`float`, *optional*, defaults to 0.0):
            Weight of the loss of the order: how likely the trajectory's next commits are at the scores of the state
            shown, as drafts (`draft_states`) foresee them. The student then commits in an order that is easier to
            foresee.
        next_commits (`int`, *optional*):
            K, for the losses of certainty and order at the next K commits alone: of the masked positions of a view,
            the K that the trajectory commits first after the state shown. By default all of them.
        kl_weight (`float`, *optional*, defaults to 0.0):
            Weight of KL(teacher ‖ student). If not 0, masked positions that the teacher committed within
            `near_forwards` of the state get the cross entropy, and the others get this divergence (TAD).
        near_forwards (`int`, *optional*, defaults to 8):
            Number of the teacher's forwards within which a masked position counts as near. With 0, every masked
            position gets the divergence, and none the cross entropy.
        own_prediction_weight (`float`, *optional*, defaults to 0.0):
            Weight of the cross entropy of the same positions where they show, instead of masks, the tokens that the
            student itself predicts there (on-policy uniform training, DMax, arXiv 2604.08302). The student then learns
            to revise its tokens, as the preset `dmax` lets it. It takes a second forward and backward pass.
        ddo_weight (`float`, *optional*, defaults to 0.0):
            Weight of direct discriminative optimization (T3D, arXiv 2602.12262): the student learns to tell the labels
            from what the teacher finds most likely in the same state.
        ddo_beta (`float`, *optional*, defaults to 0.1):
            Scale of its margins.
        ddo_fake_weight (`float`, *optional*, defaults to 0.5):
            Weight of its term for the teacher's tokens.
        loss_weighting (`str`, *optional*, defaults to `"uniform"`):
            `"uniform"`: the mean over masked positions. `"inverse_ratio"`: the sum over masked positions, each divided
            by its probability of being masked, over the number of positions that could be masked (LLaDA); those with
            the divergence over their own number (D2F).
        normalization (`str`, *optional*, defaults to `"tokens"`):
            What the means are taken over: `"tokens"`, all masked positions of the optimizer step, over its
            micro-batches and processes; or, as in the reference, `"microbatch"`, each micro-batch separately, and the
            certainty loss over the correctly predicted positions alone.
        loss_scale (`float`, *optional*, defaults to 1.0):
            Constant factor of the loss. The reference divides by 4.

        > Parameters that control the evaluation

        eval_generation_kwargs (`dict[str, Any]`, *optional*):
            Fields of `DiffusionGenerationConfig` for the decoding of held-out prompts, such as `{"preset": "d3llm"}`.

        > Parameters that transformers has since 5.23:

        activation_checkpointing (`bool`, *optional*):
            Whether to recompute activations in the backward pass instead of keeping them; off by default.
        activation_checkpointing_kwargs (`dict[str, Any]`, *optional*):
            Arguments of `torch.utils.checkpoint.checkpoint`.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `bf16`: Defaults to `True` on a GPU that supports it, else `False`.
    > - `ddp_find_unused_parameters`: Defaults to `False`: every parameter is used in every step.
    > - `learning_rate`: Defaults to `2e-5` instead of `5e-5`.
    > - `logging_steps`: Defaults to `10` instead of `500`.
    > - `logging_nan_inf_filter`: Defaults to `False` instead of `True`: a loss that is not finite ends the run.
    > - `weight_decay`: Defaults to `0.01` instead of `0.0`.
    """

    _VALID_DICT_FIELDS = _BaseConfig._VALID_DICT_FIELDS + [
        "activation_checkpointing_kwargs",
        "eval_generation_kwargs",
        "model_init_kwargs",
    ]

    # Parameters whose default values are overridden from TrainingArguments
    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate for AdamW."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
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

    # Parameters that control the canvas
    max_new_tokens: Count | None = field(
        default=None, metadata={"help": "Positions of the generated region; the teacher's if not given."}
    )
    max_length: Count | None = field(
        default=None,
        metadata={"help": "Largest length of prompt and region; longer rows are dropped. By default the model's."},
    )

    # Parameters that control the attention of block-causal models
    attention_block_sizes: Annotated[list[Count], Field(min_length=1)] | None = field(
        default=None,
        metadata={"help": "Positions per block of block-causal attention, in equal phases; by default the model's."},
    )
    block_context: Literal["clean", "noisy"] = field(
        default="clean",
        metadata={"help": "Whether a block sees the blocks before it without their masks, or with them."},
    )

    # Parameters that control the corruption
    corruption: Literal["trajectory", "block", "state", "random"] = field(
        default="trajectory",
        metadata={"help": "Which positions to mask."},
    )
    block_ratios: Literal["shared", "independent", "rising"] = field(
        default="shared",
        metadata={"help": "With corruption=random or state, one mask ratio or state for the row, or for each block."},
    )
    layout: Literal["single", "complementary"] = field(
        default="complementary",
        metadata={"help": "One view of each sample, or two."},
    )
    masking: Literal["exact", "reference"] = field(
        default="exact",
        metadata={"help": "Exact masks, or those of the published code."},
    )
    reference_windows: Literal["response", "canvas"] = field(
        default="response",
        metadata={"help": "With masking=reference, what windows are drawn over."},
    )
    eos_tail: Whole = field(
        default=32, metadata={"help": "Positions after the first EOS that windows and losses may cover."}
    )
    filled_tail_share: Share = field(
        default=0.0, metadata={"help": "Share of rows whose tail is already filled with EOS, as by an early stop."}
    )
    full_mask_share: Share | None = field(
        default=None, metadata={"help": "Share of rows whose whole window or response is masked."}
    )
    mask_noise: Share = field(
        default=0.0, metadata={"help": "Share of the positions of a window that are an exception to the order."}
    )

    # Parameters that control the curricula
    min_mask_ratio: Share = field(default=0.0, metadata={"help": "Lower bound of the mask ratio at the start."})
    max_mask_ratio: Annotated[float, Field(gt=0, le=1)] = field(
        default=0.8, metadata={"help": "Upper bound of the mask ratio."}
    )
    raise_mask_ratio: bool = field(default=True, metadata={"help": "Whether the lower bound rises to the upper."})
    window_sizes: Annotated[list[Count], Field(min_length=1)] = field(
        default_factory=lambda: [16, 16, 24, 24, 32, 32],
        metadata={"help": "Window sizes, spread evenly over training and interpolated."},
    )

    # Parameters that control the loss
    entropy_weight: Weight = field(default=2.0, metadata={"help": "Weight of the certainty-forcing loss."})
    entropy_temperature: Positive = field(default=0.5, metadata={"help": "Temperature of the certainty-forcing loss."})
    complementary_entropy: bool = field(
        default=False, metadata={"help": "Whether the complementary view has the certainty-forcing loss too."}
    )
    order_weight: Weight = field(default=0.0, metadata={"help": "Weight of the loss of the order of commits."})
    next_commits: Count | None = field(
        default=None, metadata={"help": "The losses of certainty and order count at the next K commits alone."}
    )
    kl_weight: Weight = field(default=0.0, metadata={"help": "Weight of KL(teacher, student) on far masks."})
    near_forwards: Whole = field(default=8, metadata={"help": "Forwards of the teacher within which a mask is near."})
    own_prediction_weight: Weight = field(
        default=0.0, metadata={"help": "Weight of the cross entropy with own predictions in place of the masks."}
    )
    ddo_weight: Weight = field(
        default=0.0, metadata={"help": "Weight of direct discriminative optimization against the teacher."}
    )
    ddo_beta: Positive = field(default=0.1, metadata={"help": "Scale of its margins."})
    ddo_fake_weight: Weight = field(default=0.5, metadata={"help": "Weight of its term for the teacher's tokens."})
    loss_weighting: Literal["uniform", "inverse_ratio"] = field(
        default="uniform", metadata={"help": "Weights of masked positions."}
    )
    normalization: Literal["tokens", "microbatch"] = field(
        default="tokens", metadata={"help": "What the means are taken over."}
    )
    loss_scale: Positive = field(default=1.0, metadata={"help": "Constant factor of the loss."})

    # Parameters that control the evaluation
    eval_generation_kwargs: dict[str, Any] | JsonObject | None = field(
        default=None, metadata={"help": "Decoding parameters for held-out prompts, as JSON."}
    )

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss compares the student with another model."""
        return bool(self.kl_weight or self.ddo_weight)

    def __post_init__(self) -> None:
        check_fields(self, TRAINING_FIELDS)
        check_packages(self)
        if self.eval_strategy == "no" and (self.load_best_model_at_end or self.save_strategy == "best"):
            raise ValueError("The best model is found by evaluations, but there are none: give an `eval_strategy`.")
        fill_in_arguments(self)
        super().__post_init__()
        check_arguments(self)
        self._check_corruption()
        self._check_loss()

    def _check_loss(self) -> None:
        if self.next_commits is not None and not (self.entropy_weight or self.order_weight):
            raise ValueError(
                "`next_commits` limits losses whose `entropy_weight` and `order_weight` are 0: set one, or omit it."
            )
        if self.order_weight and self.layout == "complementary":
            raise ValueError("`order_weight` is for what is committed next, in one view: use `layout='single'`.")
        if self.own_prediction_weight and self.kl_weight and not self.near_forwards:
            raise ValueError(
                "`own_prediction_weight` is for the positions with a cross entropy, and with `kl_weight` and "
                "`near_forwards=0` none has one: set `near_forwards`, or omit it."
            )
        if self.kl_weight and self.layout == "complementary":
            raise ValueError("`kl_weight` splits the masks of one view into near and far: use `layout='single'`.")

    def _check_corruption(self) -> None:
        if self.min_mask_ratio > self.max_mask_ratio:
            raise ValueError(
                f"`min_mask_ratio` is {self.min_mask_ratio}: expected at most `max_mask_ratio`, {self.max_mask_ratio}."
            )
        if self.masking == "reference" and self.corruption in ("random", "state"):
            raise ValueError(
                f"`masking='reference'` is about windows: it does not work with `corruption={self.corruption!r}`."
            )
        for name in ("full_mask_share", "filled_tail_share"):
            if self.masking == "reference" and getattr(self, name):
                raise ValueError(f"`{name}` is not in the published code: it needs `masking='exact'`.")
        if self.filled_tail_share and self.corruption in ("random", "state"):
            raise ValueError(
                f"`filled_tail_share` is about windows, which `corruption={self.corruption!r}` does not have: set it "
                "to 0."
            )
        if self.loss_weighting == "inverse_ratio" and (self.corruption, self.layout) != ("random", "single"):
            raise ValueError("`loss_weighting='inverse_ratio'` needs `corruption='random'` and `layout='single'`.")
        self._check_block_ratios()
        if self.mask_noise and (self.corruption != "trajectory" or self.masking == "reference"):
            raise ValueError("`mask_noise` is for exceptions to an order: use `corruption='trajectory'`, exact masks.")

    def _check_block_ratios(self) -> None:
        allowed = {"independent": ("random", "state"), "rising": ("random",)}.get(self.block_ratios)
        if allowed is None:
            return
        kind = f"`block_ratios={self.block_ratios!r}`"
        if self.corruption not in allowed:
            raise ValueError(f"{kind} needs {' or '.join(f'`corruption={name!r}`' for name in allowed)}.")
        if self.corruption == "state" and self.block_context == "noisy":
            raise ValueError(f"{kind} with states needs `block_context='clean'`: no run has blocks of several states.")


def as_config(args: TrainingArguments | None) -> PseudoTrajectoryConfig:
    """
    Converts the `args` of a trainer to its configuration.

    Args:
        args (`TrainingArguments`, *optional*): A configuration, or plain training arguments, which get the default
            recipe.

    Returns:
        [`PseudoTrajectoryConfig`]: With the same values.

    Raises:
        `ValueError`: For the configuration of another trainer, such as TRL's `SFTConfig`.
    """
    if args is None:
        return PseudoTrajectoryConfig("pseudo-trajectory")
    if isinstance(args, PseudoTrajectoryConfig):
        return args
    if not isinstance(args, TrainingArguments):
        raise ValueError(f"`args` is a {type(args).__name__}: expected a `PseudoTrajectoryConfig`.")
    others = {field.name for field in fields(args)} - {field.name for field in fields(PseudoTrajectoryConfig)}
    if others:
        raise ValueError(
            f"`args` is a {type(args).__name__}, of another trainer, whose field `{min(others)}` has no meaning here: "
            "give a `PseudoTrajectoryConfig`, or plain `TrainingArguments`."
        )
    return PseudoTrajectoryConfig(**{**args.to_dict(), "hub_token": args.hub_token})  # `to_dict` hides the token
