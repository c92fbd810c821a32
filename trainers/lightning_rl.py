"""Trains a policy by reinforcement learning for right answers in few forwards."""

import contextlib
import copy
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from ..evaluation import resolve_generation_config
from ..modeling.loading import load_model, load_tokenizer_of
from .adapters import add_adapter
from .block_causal import block_grid
from .collator import student_facts
from .hidden_states import hidden_states, trim
from .lightning_rl_config import LightningRLConfig
from .losses import TokenLosses, token_losses
from .policy_loss import divergences, policy_losses
from .preflight import check_precision, check_processes, prepare_student
from .publishing_trainer import PublishingTrainer, check_push
from .rewards import ConstantRewards, RewardFunction, advantages_of, informative, name_of, rewards_of
from .rl_prompts import PROMPT_IDS, columns_of, prepare_prompts
from .rollouts import Rollouts, RolloutSampler, batch_of_states, choose_states, decode, rollouts_of, seeds_of
from .trl_base import _ForwardRedirection
from .writing_trainer import WritingMixin


# The sums of a step over its tokens.
SUMS = ("policy", "divergence", "nll", "clipped", "entropy", "rollouts", "tokens", "right_tokens")
# The means in the log, and the sum that each is divided by.
MEANS = {
    "policy_loss": ("policy", "rollouts"),
    "kl": ("divergence", "tokens"),
    "nll": ("nll", "right_tokens"),
    "clip_ratio": ("clipped", "tokens"),
    "entropy": ("entropy", "tokens"),
}
# Decoding parameters with which the tokens of a forward are independent draws from its distributions.
DRAWN_ONCE = {
    "early_stop": True,
    "cfg_scale": 0.0,
    "credit_weight": 0.0,
    "soft_inputs": False,
    "edit_threshold": None,
    "draft_states": 1,
    "branches": 1,
    "assistant_rule": "exact",
}
ROLLOUTS_FILE = "rollouts-{rank}.safetensors"  # in a checkpoint, for each process


class LightningRLTrainer(WritingMixin, PublishingTrainer):
    """
    Trainer for right answers in few forwards (LightningRL, arXiv 2603.13319), in the manner of TRL's `GRPOTrainer`.

    A round, `num_iterations` optimizer steps:

    1. Each prompt is decoded `num_generations` times by the diffusion decoder at `temperature`, with seeds that depend
       on (seed, round, prompt, copy) alone.
    2. Each reward is standardised in the group of a prompt; their weighted sums, standardised over the step, are the
       advantages. Groups without a right answer, or of one speed, are left out.
    3. The policy is a product over the forwards of a rollout: of each token that a forward committed, given the state
       before it. So the states of the recorded run are forwarded again, and the loss is the clipped surrogate of PPO
       at the tokens committed in them, plus the divergence from the reference, plus the negative log-likelihood of
       tokens of right rollouts.

    The head runs in chunks on those tokens alone, inside the forward of the model's wrapper, as in
    [`~d3llm.trainers.pseudo_trajectory_trainer.PseudoTrajectoryTrainer`].

    Example:

    ```python
    from datasets import load_dataset
    from d3llm import LightningRLConfig, LightningRLTrainer
    from d3llm.evaluation.answer_checks import check_number
    from d3llm.trainers.rewards import Correctness, Speed

    trainer = LightningRLTrainer(
        model="student",
        reward_funcs=[Correctness(check_number), Speed()],
        args=LightningRLConfig("faster", generation_kwargs={"preset": "d3llm"}),
        train_dataset=load_dataset("json", data_files="problems.jsonl", split="train"),  # prompt, answer
    )
    trainer.train()
    ```

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`): The policy: a masked-diffusion model of `d3llm.modeling`, with
            or without adapters, or its folder or Hub id, loaded with `args.model_init_kwargs`.
        reward_funcs (`RewardFunction` or `list`): Functions as in TRL, see `RewardFunction`. The first says what is
            right: where it is positive.
        args ([`LightningRLConfig`], *optional*): The recipe and the training arguments.
        train_dataset (`Dataset`): Rows with `prompt`, a text or a list of messages, or `prompt_ids`; their other
            columns are passed to the reward functions.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The tokenizer; by default that in the model's folder.
        callbacks (`list[TrainerCallback]`, *optional*), optimizers (`tuple`, *optional*): As in
            [`~transformers.Trainer`].
        peft_config (`PeftConfig`, *optional*): Trains adapters; see [`~d3llm.trainers.adapters.add_adapter`].

    Attributes:
        card_facts (`dict[str, Any]`): Further facts for the model's card.

    Raises:
        `ValueError`: For a model of another kind, prompts that do not fit, fewer prompts than a step has, decoding
            parameters that the decoder refuses, as many weights as there are no rewards, and sharded weights.
        `ValueError`: During training, for a reward that is constant or not finite, and a loss that is not finite.
        `OSError`: If a checkpoint cannot be written, or a model given by name cannot be read.
    """

    args: LightningRLConfig
    loss_is_scaled_for_ga: bool | None  # type: ignore[assignment]
    reference: PreTrainedModel | None
    _tag_names = ["trl", "d3llm", "lightning-rl"]
    _name = "LightningRL"
    _paper = {
        "title": "LightningRL: Breaking the Accuracy-Parallelism Trade-off of Block-wise dLLMs via Reinforcement "
        "Learning",
        "id": "2603.13319",
    }
    config_class = LightningRLConfig

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardFunction | list[RewardFunction],
        args: LightningRLConfig | None = None,
        train_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        args = LightningRLConfig("lightning-rl") if args is None else args
        self.args = args
        if args.push_to_hub:
            check_push(args)
        if train_dataset is None:
            raise ValueError("Which prompts? Give a `train_dataset`.")
        self.reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        if not self.reward_funcs:
            raise ValueError("Which rewards? Give at least one in `reward_funcs`.")
        self.reward_names = [name_of(function) for function in self.reward_funcs]
        weights = args.reward_weights or [1.0] * len(self.reward_funcs)
        if len(weights) != len(self.reward_funcs):
            raise ValueError(
                f"`reward_weights` has {len(weights)} numbers for {len(self.reward_funcs)} rewards "
                f"({', '.join(self.reward_names)}): give one for each."
            )
        self.reward_weights = torch.tensor(weights)
        self.constant_rewards = ConstantRewards(self.reward_names)
        self.rollouts: Rollouts | None = None

        model = self._policy(model, peft_config)
        base = model.get_base_model() if is_peft_model(model) else model
        loading: Any = args.model_init_kwargs or {}
        if processing_class is None:
            processing_class = load_tokenizer_of(base, **loading)
        if processing_class is None:
            raise ValueError("Rollouts are decoded to text: give a `processing_class`.")
        self.student = student_facts(base, processing_class, args.max_length)
        self.decoding = self._decoding(base)
        prompts = prepare_prompts(
            train_dataset,
            processing_class,
            vocab_size=self.student.vocab_size,
            longest=self.student.max_length - self.decoding["max_new_tokens"],
        )
        self.prompts_per_step = args.rollouts_per_step // args.num_generations
        if len(prompts) < self.prompts_per_step:
            raise ValueError(
                f"There are {len(prompts)} prompts, and a step takes {self.prompts_per_step}: give more of them, or "
                "smaller steps (`per_device_train_batch_size`, `gradient_accumulation_steps`)."
            )
        self.teacher_name = None
        self.card_facts = {}
        self.loss_is_scaled_for_ga = True  # the means are over the rollouts and tokens of the whole step
        self._redirect = _ForwardRedirection()
        super().__init__(
            model=model,
            args=args,
            data_collator=_as_rows,
            train_dataset=_Copies(prompts, args.num_generations),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if self.args.n_gpu > 1:
            raise ValueError("One process cannot train on several GPUs here: use `accelerate launch`.")
        check_processes(self.accelerator, self.args.world_size)
        if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            raise ValueError(
                "Rollouts are decoded with the weights of a process, which FSDP and ZeRO-3 shard: train with DDP or "
                "ZeRO-2, or adapters (--use_peft)."
            )
        has_float32_copy = self.is_deepspeed_enabled and self.accelerator.mixed_precision != "no"
        check_precision(self.model, has_float32_copy=has_float32_copy)
        if self.reference is not None:
            self.reference = self.reference.to(self.args.device)
        self._sums = torch.zeros(len(SUMS), device=self.args.device)
        self._logged: list[dict[str, float]] = []
        self.model.add_model_tags(self._tag_names)

    def _policy(
        self, model: str | PreTrainedModel | PeftModel, peft_config: PeftConfig | None
    ) -> PreTrainedModel | PeftModel:
        """The model to train, and in `reference` a copy of it, unless it has adapters."""
        args = self.args
        if isinstance(model, str):
            loading: Any = args.model_init_kwargs or {}
            model = load_model(model, **{"dtype": "float32", **loading})
        if peft_config is not None:
            set_seed(args.seed)  # adapters start from random numbers
            model = add_adapter(model, peft_config, keep_base=bool(args.beta))
        base = prepare_student(model, args)
        if args.temperature != 1 and base.get_output_embeddings().bias is not None:
            raise ValueError("`temperature` must be 1 for a model whose LM head has a bias.")
        self.reference = None
        if args.beta and not is_peft_model(model):
            self.reference = copy.deepcopy(model).eval().requires_grad_(False)
        self.grid = block_grid(base)
        return model

    def _decoding(self, base: PreTrainedModel) -> dict[str, Any]:
        """The arguments of `generate` for rollouts, checked."""
        args = self.args
        given: Any = args.generation_kwargs or {}
        fields = {"max_new_tokens": args.max_new_tokens, **given, "temperature": args.temperature}
        try:
            config = resolve_generation_config(base, [1], **fields)
        except ValueError as error:
            raise ValueError(f"Rollouts cannot be decoded with `generation_kwargs` {given}: {error}") from error
        if config.selection == "slots":
            raise ValueError(f"`generation_kwargs` {given} draft slots and verify them: choose another preset.")
        for name, plain in DRAWN_ONCE.items():
            if (value := getattr(config, name)) != plain:
                raise ValueError(
                    f"Rollouts would be decoded with `{name}`={value!r}, but in the loss each token is drawn once, "
                    f"from the softmax of the logits, until the row ends: it must be {plain!r}."
                )
        if config.max_new_tokens >= self.student.max_length:
            raise ValueError(
                f"`max_new_tokens` is {config.max_new_tokens}, which leaves no room for a prompt in the "
                f"{self.student.max_length} positions of prompt and region (`max_length`): give less."
            )
        # A model may come with a `top_k` and a `top_p` of its own; these leave nothing out.
        unrestricted = {"top_p": 1.0} | ({"top_k": self.student.vocab_size} if config.top_k else {})
        fields |= {"max_new_tokens": config.max_new_tokens, "batch_size": args.rollout_batch_size}
        return fields | unrestricted

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)

    def _get_train_sampler(self, train_dataset: Any = None) -> RolloutSampler:
        args = self.args
        return RolloutSampler(
            len(self.train_dataset.prompts),
            args.num_generations,
            self.prompts_per_step,
            args.num_iterations,
            args.seed if args.data_seed is None else args.data_seed,
            lambda: self.state.global_step,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """
        Decodes the rollouts of a round, and divides their states evenly among the micro-batches of a step. So the
        rollouts and tokens of the means are counted, over all processes, before the first loss is computed.
        """
        args, step = self.args, self.state.global_step
        rows = list(itertools.chain.from_iterable(self.take_batches(epoch_iterator, num_batches)))
        if not rows:
            return [], None
        number = step // args.num_iterations
        if step % args.num_iterations == 0:
            self.rollouts = self.roll_out(rows, number)
        if self.rollouts is None:
            raise ValueError(
                f"Step {step} trains on rollouts of an earlier step, which the checkpoint does not have: resume from "
                f"one at a multiple of `num_iterations`, {args.num_iterations}."
            )
        options: dict[str, Any] = {"seed": args.seed, "number": number, "at_least": num_batches}
        states = choose_states(self.rollouts, args.states_per_rollout, **options)
        batches = [
            self._with_blocks(batch_of_states(self.rollouts, part, self.student.mask_token_id))
            for part in states.parts(num_batches)
        ]
        kept = self.rollouts.kept
        tokens = self.rollouts.in_response.sum(dim=1)
        counts = torch.stack([kept.sum(), (tokens * kept).sum(), (tokens * (kept & self.rollouts.right)).sum()])
        return batches, self.accelerator.reduce(counts.float().to(device), reduction="sum")

    def _with_blocks(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.grid is None:
            return batch
        region = batch["input_ids"].shape[1] - self.decoding["max_new_tokens"]
        return batch | {"blocks": self.grid.blocks(batch["attention_mask"], region)}

    @torch.no_grad()
    def roll_out(self, rows: Sequence[dict[str, Any]], number: int) -> Rollouts:
        """
        Decodes rollouts, calls the rewards, and computes the advantages over all processes.

        Args:
            rows (`Sequence[dict]`): n rows of the dataset, one for each rollout of this process.
            number (`int`): The round, from 0.

        Returns:
            [`~d3llm.trainers.rollouts.Rollouts`]: Those of this process, on the CPU.

        Raises:
            `ValueError`: For a reward that has been constant for `max_constant_rounds`, or is not finite.
        """
        args = self.args
        wrapped = self.accelerator.unwrap_model(self.model)
        base = wrapped.get_base_model() if is_peft_model(wrapped) else wrapped
        index = torch.tensor([row["rollout"] for row in rows])
        prompts = [row[PROMPT_IDS] for row in rows]
        wrapped.eval()
        decoded = decode(base, self.processing_class, prompts, seeds_of(args.seed, number, index), **self.decoding)
        wrapped.train()
        facts, finished = self.student, [rollout.row for rollout in decoded]
        pad = self.processing_class.pad_token_id or 0
        rollouts = rollouts_of(index, prompts, decoded, fill_token_id=facts.fill_token_id, pad_token_id=pad)
        given: dict[str, list[Any]] = {
            "completions": [row.text for row in finished],
            "completion_ids": [row.token_ids for row in finished],
            "forwards": [row.forwards for row in finished],
            "ended": [row.token_ids[-1] in facts.eos_token_ids for row in finished],
        }
        rewards = rewards_of(self.reward_funcs, columns_of(rows) | given, len(rows))
        speed = torch.tensor([row.tokens_per_forward for row in finished])
        self._set_advantages(rollouts, rewards, speed)
        return rollouts

    def _set_advantages(self, rollouts: Rollouts, rewards: Tensor, speed: Tensor) -> None:
        """Fills in what depends on the rewards: a group may have rollouts on several processes."""
        args, count = self.args, len(speed)

        def gather(values: Tensor) -> Tensor:
            return self.accelerator.gather(values.to(self.args.device)).cpu()

        rollouts.right = rewards[:, 0] > 0
        lengths = gather(rollouts.in_response.sum(dim=1).float())
        _, groups = gather(rollouts.index // args.num_generations).unique(return_inverse=True)
        rewards, speed = gather(rewards), gather(speed)
        kept = informative(rewards, speed, groups, min_range=args.min_tpf_range, need_right=args.drop_all_wrong)
        advantages = advantages_of(rewards, groups, self.reward_weights, kept, over_step=args.normalize_advantages)
        own = slice(self.args.process_index * count, (self.args.process_index + 1) * count)
        rollouts.kept, rollouts.advantages = kept[own], advantages[own]
        means = rewards.mean(dim=0).tolist()
        self._logged.append(
            {f"rewards/{name}": mean for name, mean in zip(self.reward_names, means, strict=True)}
            | {"share_kept": kept.float().mean().item(), "completion_length": lengths.mean().item()}
        )
        self.constant_rewards.count(rewards)
        self.constant_rewards.check(args.max_constant_rounds)

    def state_losses(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        picked: Tensor,
        labels: Tensor,
        blocks: Tensor | None = None,
    ) -> tuple[TokenLosses, Tensor | None]:
        """
        Losses of M tokens in the states that committed them. Runs inside the forward of the wrapped model.

        Args:
            input_ids (`Tensor` of shape `(R, L)`), attention_mask (`Tensor` of shape `(R, L)`): The states.
            picked (`Tensor` of shape `(2, M)`): Rows and columns of the tokens.
            labels (`Tensor` of shape `(M,)`): The tokens.
            blocks (`Tensor` of shape `(R, L)`, *optional*): For block-causal attention, the block of each position.

        Returns:
            `tuple[TokenLosses, Tensor | None]`: Of the policy at its temperature, and the log-probabilities `(M,)` of
            the reference, if there is one.
        """
        model = self.accelerator.unwrap_model(self.model)
        inputs = trim(input_ids, attention_mask, picked, *(() if blocks is None else (blocks,)))
        with self.accelerator.autocast():
            of_reference = self._reference_log_p(model, inputs, labels) if self.args.beta else None
            base = model.get_base_model() if is_peft_model(model) else model
            hidden = hidden_states(base, *inputs) / self.args.temperature
            return token_losses(hidden, base.get_output_embeddings(), labels, 1.0), of_reference

    @torch.no_grad()
    def _reference_log_p(self, model: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        with contextlib.nullcontext() if self.reference is not None else model.disable_adapter():
            reference = model.get_base_model() if self.reference is None else self.reference
            head = reference.get_output_embeddings()
            head = getattr(head, "original_module", head)  # `modules_to_save` trains a copy of the head
            hidden = hidden_states(reference, *inputs) / self.args.temperature
            return -token_losses(hidden, head, labels, 1.0).cross_entropy

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """
        The loss of a batch of states. With L the clipped surrogate of each token
        ([`~d3llm.trainers.policy_loss.policy_losses`]), KL its divergence from the reference and T the tokens of a
        rollout, it is

            mean over rollouts of (sum L / T)  +  beta mean over tokens of KL  +  w_NLL mean of -log p

        where the last mean is over the tokens of right rollouts, and all are over the rollouts that are kept.

        Args:
            model (`nn.Module`): The wrapped model.
            inputs (`dict[str, Tensor]`): From [`~d3llm.trainers.rollouts.batch_of_states`].
            return_outputs (`bool`, *optional*, defaults to `False`): Whether to return the log-probabilities too.
            num_items_in_batch (`Tensor` of shape `(3,)`, *optional*): Rollouts, tokens and tokens of right rollouts of
                the whole step; by default those of this batch.

        Returns:
            `Tensor` or `tuple[Tensor, dict[str, Tensor]]`: The loss, and `log_p` `(M,)`.
        """
        args = self.args
        losses, of_reference = self._redirect(
            model,
            self.accelerator.unwrap_model(model),
            self.state_losses,
            *(inputs[name] for name in ("input_ids", "attention_mask", "picked", "labels")),
            inputs.get("blocks"),
        )
        log_p = -losses.cross_entropy
        is_first = self.state.global_step % args.num_iterations == 0
        old_log_p = log_p.detach() if is_first else inputs["old_log_p"]
        if is_first and args.num_iterations > 1 and self.rollouts is not None:
            place = inputs["rollout"].cpu(), inputs["position"].cpu()
            self.rollouts.old_log_p[place] = old_log_p.cpu()
        epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
        of_policy, clipped = policy_losses(log_p, old_log_p, inputs["advantages"], args.epsilon, epsilon_high)
        divergence = torch.zeros_like(log_p) if of_reference is None else divergences(log_p, of_reference)
        in_policy, in_tokens, in_right = inputs["in_policy"], inputs["in_tokens"], inputs["in_right"]
        sums = [(of_policy * in_policy).sum(), (divergence * in_tokens).sum(), (-log_p * in_right).sum()]
        own = torch.stack([in_policy.sum(), in_tokens.sum(), in_right.sum()])
        counts = own if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        parts = torch.stack(sums) / counts.clamp(min=1e-9)
        loss = (parts * parts.new_tensor([1.0, args.beta, args.nll_weight])).sum()
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss at step {self.state.global_step} is {loss.item()}: the run has been stopped. Its last "
                f"checkpoint is in {args.output_dir}; a lower learning rate may help."
            )
        sums += [(clipped * in_tokens).sum(), (losses.entropy * in_tokens).sum(), *own]
        self._sums += torch.stack([value.detach().float() for value in sums])
        return (loss, {"log_p": log_p}) if return_outputs else loss

    def take_parts(self) -> dict[str, float]:
        """The means in `MEANS` and those of the rounds since the last call, on all processes."""
        sums = dict(zip(SUMS, self.accelerator.reduce(self._sums).tolist(), strict=True))
        self._sums.zero_()
        parts = {name: sums[part] / sums[count] for name, (part, count) in MEANS.items() if sums[count]}
        rounds, self._logged = self._logged, []
        names = rounds[0] if rounds else ()
        return parts | {name: sum(values[name] for values in rounds) / len(rounds) for name in names}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss and the rewards since the last log."""
        super().log(logs | (self.take_parts() if self.model.training else {}), start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Saves the rollouts too, if the next step trains on them once more, and the counts of constant rewards."""
        super()._save_optimizer_and_scheduler(output_dir)
        constant = self.constant_rewards
        tensors = {"constant.value": constant.value, "constant.rounds": constant.rounds}
        if self.rollouts is not None and self.state.global_step % self.args.num_iterations:
            tensors |= self.rollouts.tensors()
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)  # the first process, which saves the model there, may be slower
        save_file(tensors, folder / ROLLOUTS_FILE.format(rank=self.args.process_index))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        file = Path(checkpoint or "", ROLLOUTS_FILE.format(rank=self.args.process_index))
        if checkpoint is None or not file.is_file():
            return
        tensors = load_file(file)
        self.constant_rewards.value, self.constant_rewards.rounds = (
            tensors.pop(f"constant.{name}") for name in ("value", "rounds")
        )
        self.rollouts = Rollouts(**tensors) if tensors else None


def _as_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows


class _Copies(torch.utils.data.Dataset):
    """The rows of a dataset, each as often as it is rolled out; `rollout` is the number of the copy."""

    def __init__(self, prompts: Dataset, copies: int):
        self.prompts, self.copies = prompts, copies
        self.column_names = [*prompts.column_names, "rollout"]

    def __len__(self) -> int:
        return len(self.prompts) * self.copies

    def __getitem__(self, rollout: int) -> dict[str, Any]:
        return self.prompts[rollout // self.copies] | {"rollout": rollout}
