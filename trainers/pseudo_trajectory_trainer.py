"""Distils a student on the order in which its teacher commits tokens."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from ..modeling.loading import load_model, load_tokenizer_of
from .adapters import add_adapter
from .argument_checks import check_noise
from .block_causal import BlockGrid, block_grid, check_grids, make_block_causal
from .collator import (
    COLUMNS,
    TrajectoryCollator,
    as_trajectories,
    named_eval_datasets,
    prepare_trajectories,
    region_length,
    student_facts,
    unnamed_eval_datasets,
)
from .corruption import Corruption, Region, corrupt_reference, corrupt_response, corrupt_state, corrupt_window, draw
from .counted_rows import rows_once
from .curricula import mask_ratio_bound, phase_of, window_size_at
from .evaluating_trainer import HeldOutPrompts
from .hidden_states import hidden_states, routed_hidden_states, router_weight, trim
from .loss_parts import empty_totals, means_of, split_totals, totals_of
from .losses import TokenLosses, token_losses
from .own_predictions import own_prediction_losses
from .preflight import (
    check_best_metric,
    check_canvas,
    check_held_out,
    check_models,
    check_precision,
    check_processes,
    check_teacher,
    prepare_student,
)
from .pseudo_trajectory_config import PseudoTrajectoryConfig, as_config
from .publishing_trainer import check_push
from .row_losses import sum_up_rows
from .targets import add_targets
from .total_loss import total_loss
from .trl_base import _ForwardRedirection
from .writing_trainer import WritingTrainer


logger = logging.get_logger(__name__)


class PseudoTrajectoryTrainer(WritingTrainer):
    """
    Trainer for pseudo-trajectory distillation (d3LLM, arXiv 2601.07568) and related methods.

    One optimizer step:

    1. For each sample, draw a mask ratio and a window from (seed, step, sample). The curricula set the range of the
       ratio and the size of the window. In the window, mask the positions that the teacher committed last; everything
       before it is clean, everything after it is masked. A second view masks the other positions of the window.
    2. Run one forward over all views; of a block-causal model over [noisy ; clean], see
       [`~d3llm.trainers.block_causal.block_causal_mask`]. The head runs only on the masked positions of the windows,
       in chunks.
    3. Compute the cross entropy of each view, plus the entropy at positions that are already predicted correctly
       (certainty forcing) or the divergence from the teacher. Each term is summed over its positions and divided by
       their number in the whole step. With `config.output_router_logits`, a model with experts adds the loss of its
       routers, times `config.router_aux_loss_coef`.

    The backbone and the head are called inside the forward of the model's wrapper (DDP, FSDP, DeepSpeed, PEFT): the
    wrapper's call is redirected to [`PseudoTrajectoryTrainer.canvas_losses`]. So its hooks run around both, and
    sharded weights of the head are available when they are used.

    Example:

    ```python
    from d3llm.modeling import LLaDAModelLM
    from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
    from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
    from d3llm.trajectories.dataset import load_trajectories

    trainer = PseudoTrajectoryTrainer(
        model=LLaDAModelLM.from_pretrained("teacher", dtype="float32"),
        args=PseudoTrajectoryConfig(output_dir="student", window_sizes=[16, 24, 32]),
        train_dataset=load_trajectories("trajectories"),
    )
    trainer.train()
    ```

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`, *optional*): The student, which starts as a copy of the
            teacher: a masked-diffusion model of `d3llm.modeling`, with or without adapters, or its folder or Hub id,
            loaded with `args.model_init_kwargs`.
        args ([`PseudoTrajectoryConfig`] or `TrainingArguments`, *optional*): The recipe and the training arguments.
        train_dataset (`Dataset` or `IterableDataset`): Trajectories, with the columns of `TRAJECTORY_FEATURES`.
            Recipes that need no order also accept `prompt` and `completion`, or `messages`. An iterable dataset needs
            `args.max_steps`.
        eval_dataset (`Dataset`, `IterableDataset` or `dict`, *optional*): Held-out rows for the loss. Each dataset of
            a dict has its own loss, `eval_NAME_loss`.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The tokenizer, which is saved with the model and
            compared with the teacher's. By default the tokenizer in the model's folder, if there is one.
        teacher (`PreTrainedModel`, *optional*): A teacher for `kl_weight` or `ddo_weight`, with the student's token
            ids; by default the student with its adapters off.
        held_out ([`HeldOutPrompts`], *optional*): Problems to decode at each evaluation, with
            `args.eval_generation_kwargs`. They give `eval_accuracy` and `eval_tokens_per_forward`, which can be used
            as `metric_for_best_model`. Needs an `eval_dataset` too.
        callbacks (`list[TrainerCallback]`, *optional*): As in [`~transformers.Trainer`].
        optimizers (`tuple`, *optional*), optimizer_cls_and_kwargs (`tuple`, *optional*): As there.
        peft_config (`PeftConfig`, *optional*): Trains adapters; see [`~d3llm.trainers.adapters.add_adapter`].
        model_init (`Callable`, *optional*): Given instead of `model`, creates a new student for each training, as
            `hyperparameter_search` needs.
        compute_metrics (`Callable[[EvalPrediction], dict]`, *optional*): As in [`~transformers.Trainer`]; predictions
            are token ids, as from [`~PseudoTrajectoryTrainer.predict`], since no logits are kept.

    Attributes:
        card_facts (`dict[str, Any]`): Further facts for the model's card, which the trainer does not know: fields of
            [`~d3llm.hub_cards.ModelFacts`], such as `recipe`, `trajectories` and `training_tasks`.

    Raises:
        `ValueError`: For a dataset that does not fit the model, or has no rows that fit.
        `ValueError`: For prompts and completions with a recipe that needs an order.
        `ValueError`: For a teacher with another vocabulary or mask token than the student's, or without a weight that
            needs one.
        `ValueError`: For a model of another kind, both or neither of `model` and `model_init`, and adapters that are
            not part of the model's layers.
        `ValueError`: For a `report_to` that is not installed, and arguments of other losses.
        `ValueError`: For `push_to_hub` with checkpoints to resume from, or with a revision.
        `ValueError`: If several processes were launched but have not joined one group.
        `ValueError`: For a canvas of more positions than the model has, or without room for a prompt.
        `ValueError`: For held-out prompts or `args.eval_generation_kwargs` that the decoder refuses.
        `ValueError`: For trained weights in 16 bits without a float32 copy.
        `ValueError`: For a block-causal model whose blocks have no size, or whose attention implementation takes no
            such mask; and for a teacher whose blocks are counted otherwise.
        `ValueError`: During training, if a loss is not finite; it names the step and the samples.
        `OSError`: If a checkpoint cannot be written, or a model given by name cannot be read.
    """

    loss_is_scaled_for_ga: bool | None  # type: ignore[assignment]
    _tag_names = ["trl", "d3llm", "pseudo-trajectory"]
    _name = "Pseudo-trajectory distillation"
    _paper = {"title": "d3LLM: Ultra-Fast Diffusion LLM using Pseudo-Trajectory Distillation", "id": "2601.07568"}

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel | None = None,
        args: PseudoTrajectoryConfig | TrainingArguments | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teacher: PreTrainedModel | None = None,
        held_out: HeldOutPrompts | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        peft_config: PeftConfig | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
    ):
        self.args = args = as_config(args)
        decoding: Any = args.eval_generation_kwargs or {}
        loading: Any = args.model_init_kwargs or {}
        if args.push_to_hub:
            check_push(args)
        check_models(args, model, model_init, teacher, with_optimizers=optimizers != (None, None))
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.peft_config = peft_config
        self.model_init = model_init
        model = self.call_model_init() if model is None else self.as_student(model)

        base = model.get_base_model() if is_peft_model(model) else model
        if processing_class is None:
            processing_class = load_tokenizer_of(base, **loading)
        self.student = student_facts(base, processing_class, args.max_length)
        if teacher is not None:
            check_teacher(teacher, base, self.student.mask_token_id)
        datasets = {} if train_dataset is None else {"train_dataset": train_dataset}
        datasets |= named_eval_datasets(eval_dataset)
        datasets = {name: as_trajectories(data, name, self.student, args) for name, data in datasets.items()}
        check_canvas(args, base.config.max_position_embeddings, datasets)
        self.max_new_tokens = args.max_new_tokens or region_length(datasets, base)
        first = next(iter(datasets.get("train_dataset", ())), None)
        self.teacher_name = (first and first["teacher"]) or None
        # Every process reads all rows of a stream and keeps its share: batches of unequal shape cannot be dispatched.
        args.accelerator_config.dispatch_batches = False
        prepared = {
            name: prepare_trajectories(data, self.student, self.max_new_tokens, name)
            for name, data in datasets.items()
        }
        train_dataset = prepared.pop("train_dataset", None)
        # Means are taken over the positions of the whole step, so accumulation must not divide the loss again.
        self.loss_is_scaled_for_ga = args.normalization == "tokens"
        self.held_out = held_out
        self.card_facts = {}
        self._redirect = _ForwardRedirection()
        super().__init__(
            model=model,
            args=args,
            data_collator=TrajectoryCollator(self.max_new_tokens, self.student),
            train_dataset=train_dataset,
            eval_dataset=unnamed_eval_datasets(eval_dataset, prepared),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        self.model_init = model_init  # not passed to `Trainer.__init__`, which would create another model
        if self.args.n_gpu > 1:
            raise ValueError("One process cannot train on several GPUs here: use `accelerate launch`.")
        check_processes(self.accelerator, self.args.world_size)
        # ZeRO keeps a float32 copy of the 16-bit weights that it trains; accelerate makes one for FSDP.
        is_sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        check_precision(self.model, has_float32_copy=is_sharded and self.accelerator.mixed_precision != "no")
        if held_out is not None:
            check_held_out(held_out.prompts, base, processing_class, decoding)
        if self.teacher is not None:
            self.teacher = self.teacher.to(self.args.device)
        # Subclasses, `compute_metrics` and callbacks may add metrics.
        if type(self) is PseudoTrajectoryTrainer and compute_metrics is None and not callbacks:
            check_best_metric(
                self.args, self.metric_names(list(eval_dataset) if isinstance(eval_dataset, dict) else [])
            )
        self._totals = empty_totals(self.args.device)
        self.model.add_model_tags(self._tag_names)

    def as_student(self, model: str | PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
        """The model to train: loaded, if given by name, and with the adapters of `peft_config`."""
        args = self.args
        loading: Any = args.model_init_kwargs or {}
        if isinstance(model, str):
            model = load_model(model, **{"dtype": "float32", **loading})
        elif loading:
            logger.warning("`model_init_kwargs` have no effect: they are for a `model` that is given by its name.")
        if self.peft_config is not None:
            set_seed(args.seed)  # adapters start from random numbers
            keep_base = args.needs_teacher and self.teacher is None
            model = add_adapter(model, self.peft_config, keep_base=keep_base)
        base = prepare_student(model, args)
        if args.needs_teacher and self.teacher is None:
            check_noise(args)
            if not is_peft_model(model):
                name = "kl_weight" if args.kl_weight else "ddo_weight"
                raise ValueError(f"`{name}` needs a `teacher`, or a student with adapters.")
        self.teacher_grid = block_grid(self.teacher or base) if args.needs_teacher else None
        if args.attention_block_sizes is not None:
            make_block_causal(base, args.attention_block_sizes[-1])
        self.router_weight = router_weight(base)
        self.grid = block_grid(base)
        check_grids(self.grid, self.teacher_grid, args.block_ratios)
        return model

    def call_model_init(self, trial: Any = None) -> PreTrainedModel | PeftModel:
        """A new student, created by `model_init`."""
        return self.as_student(super().call_model_init(trial))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*COLUMNS, self.args.length_column_name]

    def progress_at(self, step: int) -> float:
        """The share of the optimizer steps that are done before a step, 0 to 1."""
        return step / max(1, self.state.max_steps)

    def curriculum(self, progress: float) -> tuple[tuple[float, float], int]:
        """The range of the mask ratio and the size of the windows at a given progress of training."""
        args = self.args
        low = args.min_mask_ratio
        if args.raise_mask_ratio:
            low = mask_ratio_bound(progress, args.min_mask_ratio, args.max_mask_ratio)
        return (low, args.max_mask_ratio), window_size_at(progress, args.window_sizes)

    def grid_at(self, progress: float) -> BlockGrid | None:
        """The blocks of block-causal attention at a given progress of training."""
        if self.grid is None or self.args.attention_block_sizes is None:
            return self.grid
        return replace(self.grid, size=phase_of(progress, self.args.attention_block_sizes))

    def corrupt(self, batch: dict[str, Tensor], step: int, progress: float, micro_batch: int = 0) -> Corruption:
        """
        Draws the masks of a batch; a pure function of the seed, the step and the samples.

        Args:
            batch (`dict[str, Tensor]`): From [`~d3llm.trainers.collator.TrajectoryCollator`].
            step (`int`): Optimizer step, for the random numbers.
            progress (`float`): Progress of training, for the curricula.
            micro_batch (`int`, *optional*, defaults to 0): Its number in the step. With `masking="reference"` each
                micro-batch has one ratio, the same on every process.

        Returns:
            [`~d3llm.trainers.corruption.Corruption`]: One view or two.
        """
        args = self.args
        steps, mask = batch["commit_steps"], batch["attention_mask"]
        region = Region(steps, batch["response_lengths"], batch["canvas_lengths"], batch["ended"])
        draws = draw(args.seed, step, batch["index"], steps.shape[1], self.max_new_tokens)
        ratios, window_size = self.curriculum(progress)
        grid = self.grid_at(progress)
        blocks = None if grid is None else grid.blocks(mask, mask.shape[1] - steps.shape[1])
        of_region = None if blocks is None else blocks[:, -steps.shape[1] :]
        shared: dict[str, Any] = {"complementary": args.layout == "complementary", "mask_ratio_range": ratios}
        if args.corruption == "random":
            corruption = corrupt_response(
                region,
                draws,
                eos_tail=args.eos_tail,
                block_ratios=args.block_ratios,
                blocks=of_region,
                full_mask_share=args.full_mask_share or 0.0,
                **shared,
            )
        elif args.corruption == "state":
            corruption = corrupt_state(
                region,
                draws,
                complementary=shared["complementary"],
                eos_tail=args.eos_tail,
                full_mask_share=args.full_mask_share,
                blocks=of_region if args.block_ratios == "independent" else None,
            )
        elif args.masking == "reference":
            ratio = draw(args.seed, step, batch["index"].new_tensor([-1 - micro_batch]), 0).ratio
            corruption = corrupt_reference(
                region,
                replace(draws, ratio=ratio.expand_as(draws.ratio)),
                use_trajectory=torch.full_like(batch["ended"], args.corruption == "trajectory"),
                window_size=window_size,
                windows_over_canvas=args.reference_windows == "canvas",
                **shared,
            )
        else:
            corruption = corrupt_window(
                region,
                draws,
                use_trajectory=args.corruption == "trajectory",
                window_size=window_size,
                eos_tail=args.eos_tail,
                filled_tail_share=args.filled_tail_share,
                full_mask_share=args.full_mask_share or 0.0,
                mask_noise=args.mask_noise,
                **shared,
            )
        return replace(corruption, blocks=blocks)

    def add_targets(self, batch: dict[str, Any], corruption: Corruption) -> None:
        """Adds to a batch the inputs of the loss, see [`~d3llm.trainers.targets.add_targets`]."""
        add_targets(batch, corruption, self.args, self.student.mask_token_id)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """
        Takes the micro-batches of an optimizer step and corrupts them. The positions in the loss are thus known, and
        counted over all micro-batches and processes, before the first loss is computed.
        """
        batches = self.take_batches(epoch_iterator, num_batches)
        step = self.state.global_step
        for number, batch in enumerate(batches):
            self.add_targets(batch, self.corrupt(batch, step, self.progress_at(step), number))
        if not batches:
            if step == 0:
                raise ValueError(
                    f"`train_dataset` has no row that fits `max_new_tokens` ({self.max_new_tokens}) and `max_length` "
                    f"({self.student.max_length})."
                )
            return batches, None
        counts = torch.stack([batch["counts"] for batch in batches]).sum(dim=0).to(device)
        return batches, self.accelerator.reduce(counts, reduction="sum")

    def canvas_losses(
        self,
        noisy_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        picked: Tensor,
        blocks: Tensor | None = None,
    ) -> TokenLosses:
        """
        Losses of the M picked positions of noisy canvases. Runs inside the forward of the wrapped model.

        Args:
            noisy_ids (`Tensor` of shape `(rows, L)`), attention_mask (`Tensor` of shape `(rows, L)`): The canvases.
            labels (`Tensor` of shape `(rows, L)`): The clean canvases.
            picked (`Tensor` of shape `(2, M)`): Rows and columns of the picked positions.
            blocks (`Tensor` of shape `(rows, L)`, *optional*): For block-causal attention, the block of each position.

        Returns:
            [`~d3llm.trainers.losses.TokenLosses`]: Of the `M` positions.
        """
        model = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if is_peft_model(model) else model
        of_blocks = () if blocks is None else (blocks, labels)[: 1 if self.args.block_context == "noisy" else 2]
        inputs = trim(noisy_ids, attention_mask, picked, *of_blocks)
        labels = labels[tuple(picked)]
        with self.accelerator.autocast():
            teacher = self._run_teacher(model, *inputs) if self.args.needs_teacher else None
            hidden, aux_loss = routed_hidden_states(base, *inputs)
            head = base.get_output_embeddings()
            losses = token_losses(hidden, head, labels, self.args.entropy_temperature, teacher)
            losses = replace(losses, aux_loss=aux_loss)
            if not self.args.own_prediction_weight:
                return losses
            return replace(losses, own_cross_entropy=own_prediction_losses(base, inputs, losses.predicted, labels))

    @torch.no_grad()
    def _run_teacher(
        self, model: nn.Module, noisy_ids: Tensor, attention_mask: Tensor, picked: Tensor, *of_blocks: Tensor
    ) -> tuple[Tensor, nn.Linear]:
        with contextlib.nullcontext() if self.teacher is not None else model.disable_adapter():
            teacher = model.get_base_model() if self.teacher is None else self.teacher
            head = teacher.get_output_embeddings()
            head = getattr(head, "original_module", head)  # `modules_to_save` trains a copy of the head
            of_blocks = of_blocks if self.teacher_grid is not None else ()
            return hidden_states(teacher, noisy_ids, attention_mask, picked, *of_blocks), head

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """
        The loss of a batch with targets: [`~d3llm.trainers.total_loss.total_loss`] has its terms.

        Args:
            model (`nn.Module`): The wrapped model.
            inputs (`dict[str, Tensor]`): A batch after [`~PseudoTrajectoryTrainer.add_targets`].
            return_outputs (`bool`, *optional*, defaults to `False`): Whether to return the parts too.
            num_items_in_batch (`Tensor` of shape `(4,)`, *optional*): The numbers n, n', n_far and rows for the whole
                step; by default those of this batch.

        Returns:
            `Tensor` or `tuple[Tensor, dict[str, Tensor]]`: The loss. With `return_outputs`, also its logged parts and
            `predictions` `(B, N)`, the most likely tokens at the positions in the loss, -100 elsewhere.
        """
        args = self.args
        views, rows, length = inputs["supervised"].shape
        blocks = inputs.get("blocks")
        # A host read, for the number of positions. The others of a micro-batch: the length of its longest row, and
        # whether the loss is finite.
        view, row, position = picked = inputs["supervised"].nonzero(as_tuple=True)
        losses = self._redirect(
            model,
            self.accelerator.unwrap_model(model),
            self.canvas_losses,
            inputs["noisy_ids"],
            inputs["attention_mask"].repeat(views, 1),
            inputs["input_ids"].repeat(views, 1),
            torch.stack([view * rows + row, inputs["input_ids"].shape[1] - length + position]),
            None if blocks is None else blocks.repeat(views, 1),
        )
        losses = replace(losses, certainty=losses.certainty * inputs["is_next"][picked])
        sums = self.sum_up(losses, inputs["far"][picked], inputs["weights"][row, position], view)
        sums |= sum_up_rows(losses, inputs, picked, args)
        counts = (
            inputs["counts"]
            if num_items_in_batch is None or args.normalization == "microbatch"
            # Wrappers average gradients over the processes, but these means are over the positions of all processes.
            else (num_items_in_batch / self.accelerator.num_processes)
        )
        loss = total_loss(sums, counts, args, self.router_weight or 0.0)
        if not torch.isfinite(loss):
            raise ValueError(self._describe_bad_loss(loss, inputs["ids"]))
        sums = {name: value.detach() for name, value in sums.items()}
        self._totals["train" if self.model.training else "eval"] += totals_of(sums, inputs["counts"])
        if not return_outputs:
            return loss
        predictions = torch.full_like(inputs["commit_steps"], -100)
        predictions[row, position] = losses.predicted  # no position is in both views
        return loss, {**sums, "predictions": predictions}

    def sum_up(self, losses: TokenLosses, far: Tensor, weights: Tensor, view: Tensor) -> dict[str, Tensor]:
        """
        The sums and counts in `SUMS`, with which `compute_loss` makes the loss. A subclass changes the losses or the
        weights of positions here.

        Args:
            losses ([`~d3llm.trainers.losses.TokenLosses`]): Losses of M positions.
            far (`torch.BoolTensor` of shape `(M,)`): Those that only count in the divergence.
            weights (`Tensor` of shape `(M,)`): The weight of each.
            view (`torch.LongTensor` of shape `(M,)`): The view of each, 0 or 1.

        Returns:
            `dict[str, Tensor]`: Scalars in float32.
        """
        near = weights * ~far
        sums = {
            "divergence": (losses.divergence * weights * far).sum(),
            "far": far.sum(),
            "masked_entropy": losses.entropy.sum(),
            "share_correct": losses.correct.sum(),
            "all": torch.ones_like(losses.entropy).sum(),
        }
        for number, prefix in enumerate(("", "complementary_")):
            here = near * (view == number)
            sums |= {
                f"{prefix}cross_entropy": (losses.cross_entropy * here).sum(),
                f"{prefix}masked": here.sum(),
                f"{prefix}certainty": (losses.certainty * losses.correct * here).sum(),
                f"{prefix}correct": (losses.correct * here).sum(),
            }
        return {name: value.float() for name, value in sums.items()}

    def _describe_bad_loss(self, loss: Tensor, ids: list[str]) -> str:
        return (
            f"The loss at step {self.state.global_step} is {loss.item()}, for the samples {', '.join(ids)}: the run "
            f"has been stopped. Its last checkpoint is in {self.args.output_dir}; a lower learning rate may help."
        )

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        The loss of held-out rows. Every evaluation uses the same masks, those of the end of training.

        Args:
            model (`nn.Module`), inputs (`dict`), ignore_keys (`list[str]`, *optional*): As in
                [`~transformers.Trainer`].
            prediction_loss_only (`bool`): Whether to return the loss alone.

        Returns:
            `tuple[Tensor, Tensor | None, Tensor | None]`: The loss, and the most likely tokens and the labels
            `(B, N)` at the positions in the loss, -100 elsewhere.
        """
        inputs = self._prepare_inputs(inputs)
        corruption = self.corrupt(inputs, step=0, progress=1.0)
        self.add_targets(inputs, corruption.of_rows(rows_once(self.accelerator, inputs["index"])))
        with torch.no_grad():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        supervised = inputs["supervised"].any(dim=0)
        labels = inputs["input_ids"][:, -supervised.shape[1] :].masked_fill(~supervised, -100)
        return loss, outputs["predictions"], labels

    def take_parts(self, mode: str) -> dict[str, float]:
        """The means in `MEANS` since the last call, on all processes; of an evaluation also its loss."""
        sums, counts = split_totals(self.accelerator.reduce(self._totals[mode]))
        self._totals[mode].zero_()
        parts = means_of(sums)
        if parts and mode == "eval":
            parts["loss"] = total_loss(sums, counts, self.args, self.router_weight or 0.0).item()
        return parts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss since the last log, and the current values of the curricula."""
        parts = self.take_parts("train") if self.model.training else {}
        if parts:
            # The logged step is already counted.
            progress = self.progress_at(self.state.global_step - 1)
            (bound, _), window_size = self.curriculum(progress)
            logs |= parts | {"mask_ratio_bound": bound, "window_size": window_size}
            if (grid := self.grid_at(progress)) is not None:
                logs["attention_block_size"] = grid.size
        super().log(logs, start_time)
