"""Trains a drafter: what lets a causal model draft several tokens in the forward that checks the last ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, PredictionOutput
from transformers.utils import SAFE_WEIGHTS_NAME

from ..modeling.drafter import Drafter
from ..modeling.drafter_base import check_base
from ..modeling.loading import load_autoregressive_model
from .counted_rows import rows_once
from .curricula import phase_of
from .draft_losses import CleanKeys, DraftLosses
from .drafter_texts import TextCollator, prepare_texts
from .introspective_config import IntrospectiveConfig
from .mask_groups import MaskGroups, candidate_ids, draw_groups
from .preflight import check_processes
from .writing_trainer import WritingMixin


# The sums of a step, before those of each draft position.
SUMS = ("cross_entropy", "plain_cross_entropy", "certainty", "weight", "rows", "correct", "groups")


class IntrospectiveTrainer(WritingMixin, Trainer):
    """
    Trainer for drafters (introspective drafting, after I-DLM, arXiv 2604.11035, and the sampler head of arXiv
    2507.11851).

    One optimizer step:

    1. The clean rows of each text run through the base once, without gradient.
    2. From (seed, step, text), anchors are drawn in the answer. After each there is a group of mask rows, which see
       the clean rows up to the anchor and their own group. The groups of a text share one forward over the clean keys
       and values, in which the LoRA acts on all rows.
    3. The loss is the cross entropy of the refined rows, plus that of the plain ones and the entropy of those that are
       right already, each a mean over the mask rows of the whole step with the weights of their offsets.

    The base is not changed, and no gradient reaches it. Checkpoints hold the drafter as it is published, in bfloat16,
    and the float32 weights that training resumes from.

    Example:

    ```python
    from transformers import AutoModelForCausalLM
    from d3llm.trainers.introspective import IntrospectiveTrainer
    from d3llm.trainers.introspective_config import IntrospectiveConfig
    from d3llm.trajectories.dataset import load_trajectories

    trainer = IntrospectiveTrainer(
        model=AutoModelForCausalLM.from_pretrained("base"),
        args=IntrospectiveConfig(output_dir="drafter", window_sizes=[2, 3, 4]),
        train_dataset=load_trajectories("texts"),  # d3llm extract --order ar
    )
    trainer.train()
    ```

    Args:
        model (`str` or `PreTrainedModel`): The base, a causal model, or its folder or Hub id, loaded with
            `args.model_init_kwargs`.
        args ([`IntrospectiveConfig`], *optional*): The recipe and the training arguments.
        train_dataset (`Dataset`, *optional*): The base's own texts: trajectories of `d3llm extract --order ar`, or
            rows with `prompt_ids` and `answer_ids`.
        eval_dataset (`Dataset`, *optional*): Held-out texts. They give the loss, the share of accepted drafts by
            position, and `eval_tokens_per_forward`, at anchors of the text with one group each.
        drafter ([`~d3llm.modeling.drafter.Drafter`], *optional*): One of this base to train further, in float32; by
            default a new one.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The tokenizer; it is not saved with a drafter.
        callbacks (`list[TrainerCallback]`, *optional*), optimizers (`tuple`, *optional*): As in
            [`~transformers.Trainer`].

    Raises:
        `ValueError`: For a base that cannot draft for itself, a drafter of another base or another window, texts that
            do not fit the base, and if several processes were launched but have not joined one group.
        `ValueError`: During training, if a loss is not finite; it names the step and the texts.
        `OSError`: If a checkpoint cannot be written, or a model given by name cannot be read.
    """

    args: IntrospectiveConfig
    loss_is_scaled_for_ga: bool | None  # type: ignore[assignment]

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: IntrospectiveConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        drafter: Drafter | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ):
        args = IntrospectiveConfig("drafter") if args is None else args
        if isinstance(model, str):
            loading: Any = args.model_init_kwargs or {}
            model = load_autoregressive_model(model, **loading)
        check_base(model)
        self.base = model.eval().requires_grad_(False).to(args.device)
        self.drafter = self._given_drafter(drafter, args) if drafter is not None else self._new_drafter(args)
        self.max_length = args.max_length or model.config.max_position_embeddings
        datasets = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        prepared = {name: self.prepare(data, name) for name, data in datasets.items() if data is not None}
        self.clean_keys = CleanKeys(self.base, args.cached_texts)
        self.loss_is_scaled_for_ga = True  # the means are over the mask rows of the whole step
        super().__init__(
            model=DraftLosses(self.drafter, args.entropy_temperature),
            args=args,
            data_collator=TextCollator(),
            train_dataset=prepared.get("train_dataset"),
            eval_dataset=prepared.get("eval_dataset"),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if self.args.n_gpu > 1:
            raise ValueError("One process cannot train on several GPUs here: use `accelerate launch`.")
        check_processes(self.accelerator, self.args.world_size)
        self.drafter.to(self.args.device)
        width = len(SUMS) + args.window
        self._sums = {mode: torch.zeros(width, device=self.args.device) for mode in ("train", "eval")}

    def _new_drafter(self, args: IntrospectiveConfig) -> Drafter:
        return Drafter.for_base(
            self.base,
            window=args.window,
            rank=args.rank,
            sampler_size=args.sampler_size,
            head_tokens=args.head_tokens,
            seed=args.seed,
        )

    def _given_drafter(self, drafter: Drafter, args: IntrospectiveConfig) -> Drafter:
        if drafter.base is not self.base:
            raise ValueError("The `drafter` belongs to another base: load it with this `model`.")
        if drafter.config.window < args.window:
            raise ValueError(
                f"The `drafter` has {drafter.config.window} mask rows, and `window_sizes` go up to {args.window}: "
                "give smaller ones."
            )
        return drafter.train().requires_grad_(True).float()

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["id", "prompt_ids", "response_ids", "index", self.args.length_column_name]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in [`~transformers.Trainer`], with a learning rate of their own for the mask embeddings."""
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            embeddings = self.drafter.mask_embeddings
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter is not embeddings]
            rate = self.args.learning_rate * self.args.embedding_lr_factor
            optimizer.add_param_group({"params": [embeddings], "weight_decay": 0.0, "lr": rate})
        return self.optimizer

    def prepare(self, dataset: Dataset, name: str) -> Dataset:
        """Texts ready for training or evaluation: checked, and without those that do not fit."""
        vocab_size = self.base.get_input_embeddings().num_embeddings
        return prepare_texts(dataset, name, vocab_size=vocab_size, max_length=self.max_length)

    def window_at(self, step: int) -> int:
        """Mask rows of a group at an optimizer step."""
        return phase_of(step / max(1, self.state.max_steps), self.args.window_sizes)

    def add_groups(self, batch: dict[str, Any], step: int, window: int, counted: Tensor | None = None) -> None:
        """Draws the groups of a batch and adds them, with the sum of their weights: 0 in texts that do not count."""
        args = self.args
        groups = draw_groups(
            batch,
            seed=args.seed,
            step=step,
            window=window,
            mask_rows=args.mask_rows,
            offset_decay=args.offset_decay,
        )
        if counted is not None:
            groups = replace(groups, weights=groups.weights * counted[:, None, None])
        batch["groups"], batch["weight"] = groups, groups.weights.sum()

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """Takes the micro-batches of an optimizer step and draws their groups, whose weights are thus known."""
        batches = self.take_batches(epoch_iterator, num_batches)
        step = self.state.global_step
        for batch in batches:
            self.add_groups(batch, step, self.window_at(step))
        if not batches:
            return batches, None
        weight = torch.stack([batch["weight"] for batch in batches]).sum().to(device)
        return batches, self.accelerator.reduce(weight, reduction="sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """
        The loss of a batch with groups. With w the weight of a mask row's offset, and W the sum of w, it is

            (sum w CE(refined)  +  w_P sum w CE(plain)  +  w_H sum w H over refined rows that are right) / W

        Args:
            model (`nn.Module`): The wrapped [`~d3llm.trainers.draft_losses.DraftLosses`].
            inputs (`dict[str, Any]`): A batch after [`~IntrospectiveTrainer.add_groups`].
            return_outputs (`bool`, *optional*, defaults to `False`): Whether to return the hidden states too.
            num_items_in_batch (`Tensor`, *optional*): W of the whole step; by default that of this batch.

        Returns:
            `Tensor` or `tuple[Tensor, dict[str, Tensor]]`: The loss, and the `hidden` states of the mask rows.
        """
        args, groups = self.args, inputs["groups"]
        mode = "train" if self.model.training else "eval"
        texts = [(mode, text) for text in inputs["texts"]] if args.cached_texts else []
        clean = self.clean_keys(inputs["input_ids"], inputs["lengths"], texts)
        candidates = candidate_ids(
            groups.targets,
            self.base.get_output_embeddings().weight.shape[0],
            candidates=args.candidates if mode == "train" else 0,
            others=args.random_candidates,
            seed=args.seed,
            step=self.state.global_step,
        )
        refined, plain, hidden = model(clean, groups, candidates)
        weights = groups.weights.flatten()
        cross_entropy = (refined.cross_entropy * weights).sum()
        plain_cross_entropy = (plain.cross_entropy * weights).sum()
        certainty = (refined.certainty * refined.correct * weights).sum()
        total = inputs["weight"] if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = self._weighted(cross_entropy, plain_cross_entropy, certainty) / total.clamp(min=1e-9)
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss at step {self.state.global_step} is {loss.item()}, for the texts {', '.join(inputs['ids'])}"
                f": the run has been stopped. Its last checkpoint is in {args.output_dir}; a lower learning rate may "
                "help."
            )
        counted = weights > 0
        sums = [cross_entropy, plain_cross_entropy, certainty, inputs["weight"], counted.sum()]
        sums += [(refined.correct & counted).sum(), (groups.weights[:, :, 0] > 0).sum()]
        self._sums[mode][: len(SUMS)] += torch.stack([value.detach().float() for value in sums])
        return (loss, {"hidden": hidden}) if return_outputs else loss

    def _weighted(self, cross_entropy: Any, plain_cross_entropy: Any, certainty: Any) -> Any:
        return cross_entropy + self.args.plain_weight * plain_cross_entropy + self.args.entropy_weight * certainty

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        As in [`~transformers.Trainer`].

        Args:
            eval_dataset (`Dataset`, *optional*): Texts to use instead of those given to the constructor, with the same
                checks.
            ignore_keys (`list[str]`, *optional*), metric_key_prefix (`str`, *optional*, defaults to `"eval"`): As
                there.

        Returns:
            `dict[str, float]`: The loss, its parts, the share of accepted drafts by position, and tokens per forward.

        Raises:
            `ValueError`: For texts that do not fit the base.
        """
        texts = None if eval_dataset is None else self.prepare(eval_dataset, "eval_dataset")
        return super().evaluate(texts, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """As [`~IntrospectiveTrainer.evaluate`], with the figures in `metrics`: there are no predictions."""
        return super().predict(self.prepare(test_dataset, "test_dataset"), ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """The loss of held-out texts, over the whole vocabulary, and how many of their drafts would be accepted. Every
        evaluation has the same anchors."""
        inputs = self._prepare_inputs(inputs)
        counted = rows_once(self.accelerator, inputs["index"])
        self.add_groups(inputs, step=0, window=self.args.window, counted=counted)
        with torch.no_grad():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        self._sums["eval"][len(SUMS) :] += self._accepted(outputs["hidden"], inputs["groups"])
        return loss, None, None

    def _accepted(self, hidden: Tensor, groups: MaskGroups) -> Tensor:
        """Groups whose drafts are right up to each offset, `(K,)`, the chain being greedy as in the decoder."""
        drafts, _ = self.drafter.propose(hidden.flatten(0, 1), groups.before[:, :, 0].flatten())
        right = (drafts == groups.targets.flatten(0, 1)) & (groups.weights.flatten(0, 1) > 0)
        return right.long().cumprod(dim=1).sum(dim=0).float()

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The loss of held-out texts, its parts, the share of accepted drafts by position, and tokens per forward."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        parts = self.take_parts("eval")
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in parts.items()})
        return output

    def take_parts(self, mode: str) -> dict[str, float]:
        """
        The means over all sums of `mode`, `"train"` or `"eval"`, since the last call, on all processes; of an
        evaluation also its loss.
        """
        values = self.accelerator.reduce(self._sums[mode]).tolist()
        self._sums[mode].zero_()
        sums, accepted = dict(zip(SUMS, values, strict=False)), values[len(SUMS) :]
        if not sums["groups"]:
            return {}
        parts = {name: sums[name] / sums["weight"] for name in SUMS[:3]} | {
            "share_right": sums["correct"] / sums["rows"]
        }
        if mode == "eval":
            shares = [count / sums["groups"] for count in accepted]
            parts |= {f"accepted_{number}": share for number, share in enumerate(shares, start=1)}
            parts["tokens_per_forward"] = 1 + sum(shares)
            parts["loss"] = self._weighted(*(parts[name] for name in SUMS[:3]))
        return parts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss since the last log, and the current window."""
        if self.model.training and (parts := self.take_parts("train")):
            logs |= parts | {"window": self.window_at(self.state.global_step - 1)}  # the logged step is counted
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        self.drafter.save_pretrained(folder)
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
            save_file(weights, folder / SAFE_WEIGHTS_NAME)
