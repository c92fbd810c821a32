"""`DiffusionGenerationConfig`: the decoding parameters of `generate()`."""

import copy
from typing import Any

from transformers import GenerationConfig
from transformers.utils import logging

from .fields import FIELDS, METHOD_DEFAULTS, RUN_DEFAULTS, SCHEDULED, Number, check_names, check_value
from .presets import PRESETS, Preset


logger = logging.get_logger(__name__)


class DiffusionGenerationConfig(GenerationConfig):
    r"""
    Decoding parameters of a masked-diffusion model. Every published decoder is a `preset`, which explicit fields
    override. A field left at `None` takes the preset's value, else the default below. Serialises to
    generation_config.json.

    Args:
        > The run

        preset (`str`, *optional*): Name of a preset: `d3llm presets` lists them with their sources.
        max_new_tokens (`int`, *optional*, defaults to 256): Positions of the generated region, at least 1; the last
            block may be short.
        early_stop (`bool`, *optional*, defaults to `True`): Whether a row ends at its first EOS, by
            `early_stop_rule`. The rest is filled with it.
        temperature (`float`, *optional*, defaults to 0.0): 0 proposes the most probable token, above 0 samples.
        top_k (`int`, *optional*), top_p (`float`, *optional*): Restrict sampling as in every `generate()`.
        seed (`int` or `list[int]`, *optional*): Makes sampling repeatable: a row with this seed gives the same text
            whatever else is in its batch. A list has a seed for each prompt. Up to 64 bits. The first return sequence
            of a prompt has this seed, the others have seeds derived from it. Drawn from PyTorch's global generator
            when not given.
        num_return_sequences (`int`, *optional*, defaults to 1): Sequences for each prompt, next to each other.
        stop_strings (`str` or `list[str]`, *optional*): End a row after the first of these; needs `tokenizer`.
        compile_config (`CompileConfig`, *optional*): Compile the model's forward with this. Windows and candidates are
            padded to multiples of `block_size`, so that there are few shapes.
        max_time (`float`, *optional*): Seconds after which all rows end.
        output_logprobs, output_history (`bool`, *optional*, defaults to `False`): Add `logprobs`, `history` to the
            output.
        cfg_scale (`float`, *optional*, defaults to 0.0): Weight w of classifier-free guidance (LLaDA, arXiv
            2502.09992, appendix A.2): logits are `unconditional + (1 + w) * (conditional - unconditional)`.
        mask_token_id (`int`, *optional*): The [MASK] token; the model's own when not given.

        > Selection: which proposals a forward commits

        score (`str`, *optional*, defaults to `"entropy"`): How sure the model is of its proposal: its `"probability"`,
            the negative `"entropy"` in nats, the `"margin"` between the two largest probabilities; or, without the
            model, a `"random"` number, or the `"position"`: what is further left is surer.
        selection (`str`, *optional*, defaults to `"threshold"`): `"threshold"` commits what is at least this sure,
            `"count"` a fixed number per forward (LLaDA), `"fraction"` the share 1 - s/t of the masked positions along
            a linear time grid (Dream), `"bernoulli"` each of them with that probability (Dream's `origin`),
            `"factor"` as many as are sure enough for their rank (Fast-dLLM), `"frechet"` the most that are together
            sure enough (Fast-dLLM++),
            `"entropy_bound"` the surest whose entropies sum to a bound (EB-Sampler), `"scheduled_threshold"` what is
            sure enough, up to the number that `"count"` would have reached by now, `"threshold_or_count"` what is sure
            enough, but at least the number that a schedule gives (SDAR, LLaDA2), `"runs"` what is sure enough, and
            the surest of each run of masks (dInfer), `"prefix"` what is before the first one that is not sure enough
            (DMax), `"slots"` drafts of slots that are then verified (ReFusion).
        threshold (`float`, *optional*, defaults to 0.5): In the unit of `score`: nats at most for entropy, probability
            or margin at least.
        factor (`float`, *optional*): Of `"factor"`: rank r needs a probability of at least 1 - factor / (r + 1).
        frechet_margin (`float`, *optional*, defaults to 0.25): Of `"frechet"`: by how much the bound on the
            probability that all of them are right must exceed what the last one leaves to another token. A larger
            margin commits less.
        entropy_bound (`float`, *optional*): Of `"entropy_bound"`, in nats.
        run_threshold (`float`, *optional*): Of `"runs"`: the probability that the surest of a run needs.
        slot_size (`int`, *optional*, defaults to 32): Of `"slots"`: positions of a slot at most.
        slot_threshold (`float`, *optional*, defaults to 0.9): Of `"slots"`: a slot is chosen if its first token has a
            higher probability than this; the best one always is.
        token_threshold (`float`, *optional*, defaults to 0.3): Of `"slots"`: the probability, given what is before it,
            that a drafted token must exceed to be committed.
        position_penalty (`float`, *optional*, defaults to 0.0): What a score loses, in its own unit, for each position
            between the candidate and the first masked one of its row (WeDLM, arXiv 2512.22737), in selection and in
            forced progress. A `threshold` then asks more of what is further right.
        forced_progress (`str`, *optional*, defaults to `"best"`): What a threshold commits in any case: the row's
            `"best"` proposal; the best of the `"first_block"` that is activated and unfinished, when nothing in it was
            sure enough (d3LLM for Dream); both, `"best_and_first_block"` (d3LLM for LLaDA); or the best of
            `"every_block"` that is activated, as the d3LLM paper has it.
        forced_score (`str`, *optional*): The score that ranks proposals for forced progress; `score` when not given.
        steps (`int`, *optional*): Total forwards of the selections with a schedule, divided evenly among the blocks;
            one forward per token when not given.
        edit_threshold (`float`, *optional*): Revise a decoded token of the current block when the model proposes
            another one with a higher probability than this (LLaDA2.1); never when not given.
        edit_forwards (`int`, *optional*, defaults to 16): Forwards that a complete block is edited for at most.
        edit_until (`float`, *optional*): A complete block is no longer edited once all its proposals have at least
            this probability (DMax); when not given, it is until a forward edits nothing.
        soft_inputs (`bool`, *optional*, defaults to `False`): Whether decoded positions of the current block are shown
            to the model between the embedding of the mask token and that of the token that the last forward proposed
            there, as near to it as its probability says (DMax, arXiv 2604.08302). For weights that were trained on
            their own predictions.
        early_stop_rule (`str`, *optional*, defaults to `"at_once"`): When an EOS ends its row: `"at_once"`, while
            masked positions before it are still decoded; once there is `"no_gap"` before it; the same, but asked only
            after a forward that commits a `"new_eos"` and at the end of a block (LLaDA2); or with the blocks that are
            open, after which no other `"block"` opens.
        credit_weight (`float`, *optional*, defaults to 0.0), credit_power (`float`, *optional*, defaults to 0.2),
            credit_decay (`float`, *optional*, defaults to 0.8): Tokens that were the most probable ones of a position
            in earlier forwards gain in its logits: alpha, gamma and beta of CreditDecoding (arXiv 2510.06133).
        eps (`float`, *optional*, defaults to 0.001): Time at the end of the grid of `"fraction"` and `"bernoulli"`.

        > Blocks

        block_size (`int`, *optional*, defaults to 32): Positions per block. With block-causal attention it is that of
            the attention's blocks, unless the preset has one.
        block_add_threshold (`float`, *optional*, defaults to 1.0): Share of the last opened block that must be
            committed before the next block opens; 1 decodes one block after another.
        block_activate_threshold (`float`, *optional*, defaults to 1.0): Share of the previous block that must be
            committed before a block is activated, that is, guaranteed progress.
        max_active_blocks (`int`, *optional*): Blocks that are open at most, from the first unfinished one on (MBD,
            arXiv 2606.29215). 1 decodes one block after another; any number when not given.

        attention (`str`, *optional*): `"bidirectional"`; `"block_causal"`, which hides later blocks from earlier ones;
            or `"causal"`, over slots in the order of their completion. That of the model when not given; bidirectional
            if it does not say.
        attention_block_size (`int`, *optional*): Positions per block of block-causal attention, a multiple of
            `block_size` or a divisor of it. That of the model when not given, or `block_size` if it does not say. The
            model's class says whether its blocks are counted from the end of the prompt (D2F) or from the first token
            (SDAR, LLaDA2).

        > Drafts: several states of a row in one forward

        draft_states (`int`, *optional*, defaults to 1): States of a row that a forward takes at most, as rows of
            their own: the present one, and those that the decoder will most likely pass through in its next
            forwards. The last one that it is known to pass through is kept, so that the text is the same.
        draft_order (`str`, *optional*, defaults to `"score"`): In what order the candidates are expected to be
            committed: `"score"` the surest first, or `"left_to_right"`.
        draft_chance (`float`, *optional*, defaults to 0.02): How likely a state must be to be worth a row, as the
            scores and the row's record of drafts that came true say; 0 takes all.
        assistant_rule (`str`, *optional*, defaults to `"exact"`): What an `assistant_model` drafts: for `"exact"` the
            states of `draft_states`, so that the text is that of the model alone; for `"lossless_distribution"` the
            masks of a block, of which speculative sampling keeps the first ones, so that the text has the distribution
            of block-causal decoding from left to right, one token per forward. Without an assistant the model itself
            drafts. `score`, `selection` and what belongs to them then mean nothing.
        branches (`int`, *optional*, defaults to 1): States of a row that a forward takes: the present one, and the
            same with one of the surest remaining candidates each. The surest of them is kept (LoPA).

        > Cache: which positions a forward recomputes

        cache (`str`, *optional*, defaults to `"none"`): `"none"` the whole canvas; `"prefix"` from the current block
            on; `"dual"` the current block; `"delayed"` masked and freshly committed positions; `"block"` everything
            after the last settled block; `"opened"` the opened blocks that have not settled; `"vicinity"` the current
            block and what is near it.
        cache_delay (`int`, *optional*, defaults to 1): For how many forwards a committed token (`"delayed"`) or a
            completed block (`"block"`, `"opened"`) is still recomputed. Of `"vicinity"`: the first forwards, which
            recompute everything.
        cache_margin (`int`, *optional*, defaults to 16): Of `"vicinity"`: positions on either side of the block.
        cache_refresh_interval (`int`, *optional*): Forwards between full refreshes of `"delayed"` (counted in a
            block), `"block"` and `"opened"`; never when not given; 1 recomputes everything each time, which is exact.
        leave_completed_blocks (`bool`, *optional*, defaults to `False`): Of `"prefix"` and `"dual"`: whether a block
            that its first forward completes is left at once. The published loop makes one more forward, which changes
            nothing but the cache.
        window_edge (`str`, *optional*, defaults to `"exact"`): For models with shifted logits and a cache. `"exact"`
            recomputes the row before the window, which predicts its first position. `"published"` does without, as the
            published decoders do: d3LLM repeats the window's first row, Fast-dLLM commits a block's first position
            from the full forward.

    Raises:
        `ValueError`: For an unknown field, an unknown choice or a value out of its range.
    """

    def __init__(self, **kwargs: Any):
        if not kwargs.get("_from_model_config"):
            check_names(kwargs, known=KNOWN_FIELDS)
            ignored = [name for name in IGNORED if kwargs.get(name) not in NEUTRAL]
            if ignored:
                logger.warning_once(f"{', '.join(ignored)}: no meaning for diffusion decoding, ignored")
        for name in (*METHOD_DEFAULTS, *RUN_DEFAULTS):
            setattr(self, name, kwargs.pop(name, None))
        # the base class has some of these fields too, and would reset them
        own = {name: getattr(self, name) for name in RUN_DEFAULTS if name in BASE_FIELDS}
        super().__init__(**own, **kwargs)

    def validate(self, *args: Any, **kwargs: Any) -> None:
        # GenerationConfig's own checks are about sampling flags and beams. Here temperature alone decides.
        for name in FIELDS:
            check_value(name, getattr(self, name, None))

    def resolve(self, preset_values: dict[str, dict[str, Any]] | None = None) -> "DiffusionGenerationConfig":
        """A copy with every field filled in: explicit value, else the preset's, else the default.

        Args:
            preset_values (`dict[str, dict[str, Any]]`, *optional*): What differs from the values of a preset, by its
                name: a class attribute of the model.

        Raises:
            `ValueError`: If the fields do not fit together.
        """
        config = copy.deepcopy(self)
        values = {**METHOD_DEFAULTS, **RUN_DEFAULTS}
        if self.preset is not None:
            values.update(PRESETS[self.preset].values_for(preset_values or {}))
        if self.do_sample:
            values["temperature"] = 1.0
        for name, value in values.items():
            if getattr(config, name, None) is None:
                setattr(config, name, value)
        if self.do_sample is False:
            config.temperature = 0.0
        config.validate()
        if self.steps is not None and config.selection not in SCHEDULED:
            raise ValueError(
                f"`steps`={self.steps} contradicts `selection`={config.selection!r}, which commits by how sure the "
                f"model is: leave one out, or choose a `selection` of {SCHEDULED}"
            )
        config.check_fit()
        return config

    def check_fit(self) -> None:
        """Raises a `ValueError` for fields, with their values filled in, that do not go with each other."""
        self._check_selection()
        self.check_drafts()
        self._check_slots()
        self.check_blocks()

    def _check_selection(self) -> None:
        if self.selection in ("threshold", "scheduled_threshold", "threshold_or_count", "runs", "prefix"):
            if self.score in ("random", "position"):
                raise ValueError(
                    f"`score`={self.score!r} has no threshold: use it with `selection`='count' or 'fraction'"
                )
            if self.score != "entropy" and Number(0, 1).fault(self.threshold):
                raise ValueError(
                    f"`threshold`={self.threshold!r} is out of its range [0, 1] in the unit of `score`={self.score!r}"
                )
        for selection, field, score in (
            ("factor", "factor", "probability"),
            ("frechet", None, "probability"),
            ("entropy_bound", "entropy_bound", "entropy"),
            ("bernoulli", None, "random"),
            ("runs", "run_threshold", "probability"),
            ("slots", None, "probability"),
        ):
            if self.selection == selection and field is not None and getattr(self, field) is None:
                raise ValueError(f"`selection`={selection!r} needs a value for `{field}`")
            if self.selection == selection and self.score != score:
                raise ValueError(f"`selection`={selection!r} is a rule on `score`={score!r}, not {self.score!r}")
        if self.position_penalty and self.selection in ("bernoulli", "slots"):
            raise ValueError(
                f"`position_penalty`={self.position_penalty!r} does not fit `selection`={self.selection!r}, which "
                "does not rank scores: leave it out"
            )
        if self.edit_threshold is not None and self.score != "probability":
            raise ValueError(f"`edit_threshold` is a probability: it needs `score`='probability', not {self.score!r}")
        if self.edit_threshold is not None and self.cache == "delayed":
            raise ValueError(
                "`edit_threshold` does not go with `cache`='delayed', which reads decoded tokens from the cache and "
                "proposes nothing for them: choose another cache"
            )
        if self.edit_until is not None and self.edit_threshold is None:
            raise ValueError(f"`edit_until`={self.edit_until} ends edits: it needs an `edit_threshold`")
        self._check_soft_inputs()

    def _check_soft_inputs(self) -> None:
        if not self.soft_inputs:
            return
        faults = {
            f"`score`={self.score!r}: it needs 'probability'": self.score != "probability",
            f"`cfg_scale`={self.cfg_scale}, which masks what is given": bool(self.cfg_scale),
            f"`credit_weight`={self.credit_weight}, which raises probabilities": bool(self.credit_weight),
            f"`selection`={self.selection!r}": self.selection == "slots",
        }
        for fault, is_one in faults.items():
            if is_one:
                raise ValueError(f"`soft_inputs` does not go with {fault}")

    def check_drafts(self) -> None:
        """Raises a `ValueError` for drafts of a decoder that does not decide the same again, or a cache not exact."""
        name = "draft_states" if self.draft_states > 1 else "branches"
        if getattr(self, name) == 1:
            return
        exact = self.cache == "none" or (
            self.cache == "block" and self.attention == "block_causal" and not self.cache_delay
        )
        exact = exact or self.draft_states == 1  # branches do not claim to be
        faults = {
            f"`branches`={self.branches} too: choose one of them": self.draft_states > 1 and self.branches > 1,
            f"`temperature`={self.temperature}, which samples": self.temperature > 0,
            f"`score`={self.score!r}, which is drawn at random": "random" in (self.score, self.forced_score),
            f"`cfg_scale`={self.cfg_scale}": bool(self.cfg_scale),
            f"`edit_threshold`={self.edit_threshold}": self.edit_threshold is not None,
            f"`credit_weight`={self.credit_weight}": bool(self.credit_weight),
            "`soft_inputs`": self.soft_inputs,
            f"`selection`={self.selection!r}": self.selection == "slots",
            f"`cache`={self.cache!r}, which is not exact: use 'none', or 'block' on block-causal models": not exact,
            "`compile_config`": self.compile_config is not None,
        }
        for fault, is_one in faults.items():
            if is_one:
                raise ValueError(f"`{name}`={getattr(self, name)} does not go with {fault}")

    def _check_slots(self) -> None:
        slots = self.selection == "slots"
        if slots != (self.attention == "causal"):
            raise ValueError(
                f"`selection`={self.selection!r} and `attention`={self.attention!r}: slots are decoded with causal "
                "attention, and nothing else is; use `preset`='refusion' on a model that was trained for it"
            )
        if slots and self.cache not in ("none", "block"):
            raise ValueError(f"`cache`={self.cache!r} does not fit `selection`='slots': use 'block' or 'none'")
        if slots and self.edit_threshold is not None:
            raise ValueError("`edit_threshold` does not fit `selection`='slots', which revises nothing: leave it out")

    def check_blocks(self) -> None:
        """Raises a `ValueError` for an `attention_block_size` that does not go with the other fields."""
        size, own = self.attention_block_size, self.block_size
        if size is None:
            return
        if self.attention != "block_causal":
            raise ValueError(f"`attention_block_size`={size} is for `attention`='block_causal': leave it out")
        if own is not None and max(size, own) % min(size, own):
            raise ValueError(f"`attention_block_size`={size} and `block_size`={own}: one must divide the other")

    @classmethod
    def from_model_config(cls, model_config: Any) -> "DiffusionGenerationConfig":
        return cls.from_plain(GenerationConfig.from_model_config(model_config))

    @classmethod
    def from_plain(cls, config: GenerationConfig) -> "DiffusionGenerationConfig":
        """Convert any generation config. Fields without a meaning here are skipped, with a warning."""
        if isinstance(config, cls):
            return copy.deepcopy(config)
        check_kind(config)
        values = {name: value for name, value in config.to_dict().items() if value is not None}
        unknown = sorted(set(values) - KNOWN_FIELDS)
        if unknown:
            logger.warning_once(f"generation_config.json: {unknown} have no meaning for diffusion decoding, ignored")
        return cls(**{name: value for name, value in values.items() if name in KNOWN_FIELDS})


def check_kind(generation_config: Any) -> None:
    """Raises a `ValueError` for what is no generation config, such as a `dict` of its fields."""
    if not isinstance(generation_config, GenerationConfig):
        raise ValueError(
            f"`generation_config` is a {type(generation_config).__name__}: give a GenerationConfig, or its fields by "
            "their names"
        )


def register_preset(preset: Preset) -> None:
    """
    Adds a preset, for `generate(preset=name)`.

    Args:
        preset ([`Preset`]): The preset. Its values are checked.

    Raises:
        `ValueError`: For a name that is taken, a value that is not a field of a method, is out of its range or does
            not go with the others.
    """
    if preset.name in PRESETS:
        raise ValueError(f"`preset`={preset.name!r} is taken: give it another name")
    check_names(preset.values, known=METHOD_DEFAULTS)
    DiffusionGenerationConfig(**preset.values).resolve()
    PRESETS[preset.name] = preset


# Fields of transformers that would change the text there, and have no meaning here.
IGNORED = (
    "bad_words_ids", "begin_suppress_tokens", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "guidance_scale", "length_penalty", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_beams",
    "penalty_alpha", "repetition_penalty", "sequence_bias", "suppress_tokens", "typical_p", "watermarking_config",
)  # fmt: skip
NEUTRAL: tuple[Any, ...] = (None, False, 0, 1, [])
BASE_FIELDS = {*GenerationConfig().__dict__, "transformers_version"}
KNOWN_FIELDS = {*METHOD_DEFAULTS, *RUN_DEFAULTS, *BASE_FIELDS}
