"""A conversation with a diffusion model, turn by turn: what `d3llm chat` does besides its terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..evaluation import encode_prompt
from ..generation.fields import METHOD_DEFAULTS
from ..generation.preparation import tokens_that_end
from ..generation.presets import PRESETS


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..generation import DiffusionGenerationConfig
    from ..generation.canvas_cache import CanvasCache
    from .canvas import LiveCanvas

# Selections that commit by other numbers than `threshold`.
WITHOUT_THRESHOLD = ("count", "fraction", "bernoulli", "factor", "frechet", "entropy_bound", "slots")


@dataclass(frozen=True)
class Answer:
    """
    An answer and what it took.

    Attributes:
        text (`str`): The answer, without special tokens.
        tokens (`int`): Its tokens, up to and including the first EOS.
        forwards (`int`): Forwards of the transformer.
        row_forwards (`int`): Row forwards: more with drafts and guidance.
        seconds (`float`): Time of decoding, without that of drawing.
        preset (`str`, *optional*): The preset that decoded it.
        is_truncated (`bool`): Whether it filled its canvas without an EOS.
        dropped_turns (`int`): Earlier turns that no longer fitted the model's positions, and were dropped.
    """

    text: str
    tokens: int
    forwards: int
    row_forwards: int
    seconds: float
    preset: str | None
    is_truncated: bool
    dropped_turns: int


class Conversation:
    """
    The turns with a model, and how it decodes.

    Args:
        model (`PreTrainedModel`): A model with the package's decoder.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        fields (`dict[str, Any]`): Fields of [`DiffusionGenerationConfig`].
        remembers (`bool`, *optional*): Whether earlier turns are part of the prompt, which takes a chat template; by
            default if there is one.

    Attributes:
        messages (`list[dict[str, str]]`): The turns so far.
        answers (`list[Answer]`): The answers among them.

    Raises:
        `ValueError`: For fields that do not fit the model, and to remember without a chat template.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        fields: dict[str, Any],
        remembers: bool | None = None,
    ):
        has_template = tokenizer.chat_template is not None
        if remembers and not has_template:
            raise ValueError("The tokenizer has no chat template, so earlier turns cannot be told: omit --history.")
        self.model = model
        self.tokenizer = tokenizer
        self.fields = fields
        self.remembers = has_template if remembers is None else remembers
        self.messages: list[dict[str, str]] = []
        self.answers: list[Answer] = []
        self._begin = 0  # the first message that is part of a prompt
        self._cache: CanvasCache | None = None
        self._check(fields)

    @property
    def config(self) -> DiffusionGenerationConfig:
        """The decoding parameters, all filled in."""
        return self.model.diffusion_config(kwargs=dict(self.fields))

    @property
    def reuses_prompt(self) -> bool:
        """Whether the cache of a turn serves the next one. Only block-causal attention on an absolute grid allows it
        exactly: with any other, keys and values of the prompt depend on what follows it."""
        config = self.config
        absolute = config.attention == "block_causal" and self.model.attention_grid == "absolute"
        return self.remembers and absolute and config.cache == "block" and not config.cfg_scale

    def ask(self, question: str, streamer: LiveCanvas) -> Answer:
        """
        Answers a question; both become turns of the conversation. One that fails or is interrupted leaves no trace.

        Args:
            question (`str`): The user's turn.
            streamer ([`LiveCanvas`]): Sees the canvas after each forward.

        Returns:
            [`Answer`]: The answer.

        Raises:
            `ValueError`: For a question that is too long for the model.
        """
        begin, input_ids, config = self._fit(question)
        cache, self._cache = self._cache, None  # a run that does not end leaves its cache half written
        prompt = torch.tensor([input_ids], device=self.model.device)
        start = time.perf_counter()
        output = self.model.generate(
            prompt,
            generation_config=config,
            cache=cache,
            streamer=streamer,
            tokenizer=self.tokenizer,
            return_dict_in_generate=True,
        )
        seconds = time.perf_counter() - start - streamer.drawing
        forwards, tokens = int(output.forward_passes), int(output.tokens)
        generated = output.sequences[0, len(input_ids) :][:tokens].tolist()
        answer = Answer(
            text=self.tokenizer.decode(generated, skip_special_tokens=True).strip(),
            tokens=tokens,
            forwards=forwards,
            row_forwards=int(output.row_forwards),
            seconds=seconds,
            preset=config.preset,
            is_truncated=tokens == config.max_new_tokens and generated[-1] not in tokens_that_end(config),
            dropped_turns=(begin - self._begin) // 2 if self.remembers else 0,
        )
        self._begin = begin
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer.text}]
        self.answers.append(answer)
        if self.reuses_prompt:
            self._cache = output.cache
        return answer

    def clear(self) -> None:
        """Forgets all turns."""
        self.messages, self.answers, self._begin, self._cache = [], [], 0, None

    def choose_preset(self, name: str) -> None:
        """
        Decodes by another preset from now on, with its own threshold and the like.

        Args:
            name (`str`): Name of the preset.

        Raises:
            `ValueError`: For an unknown preset, and one that does not fit the model; the old one stays.
        """
        kept = {field: value for field, value in self.fields.items() if field not in METHOD_DEFAULTS}
        self._change({**kept, "preset": name})

    def choose_threshold(self, value: float) -> None:
        """
        Decodes with another threshold from now on.

        Args:
            value (`float`): The threshold, in the unit of the preset's score.

        Raises:
            `ValueError`: For a value out of its range, and a preset without a threshold; the old one stays.
        """
        config = self.config
        if config.selection in WITHOUT_THRESHOLD:
            raise ValueError(
                f"the preset {config.preset} decodes without a threshold: choose another, such as `/preset d3llm`"
            )
        self._change({**self.fields, "threshold": value})

    def fitting_presets(self) -> list[str]:
        """Names of the presets that fit the model's attention."""
        return [name for name in PRESETS if self._fits(name)]

    def _fits(self, preset: str) -> bool:
        try:
            self._check({"preset": preset})
        except ValueError:
            return False
        return True

    def _check(self, fields: dict[str, Any]) -> None:
        config = self.model.diffusion_config(kwargs=dict(fields))
        if config.num_return_sequences > 1:
            raise ValueError("A chat has one answer to each question: omit --num-return-sequences.")

    def _change(self, fields: dict[str, Any]) -> None:
        self._check(fields)
        self.fields, self._cache = fields, None

    def _fit(self, question: str) -> tuple[int, list[int], DiffusionGenerationConfig]:
        """The first message that fits before a question, the prompt from there on, and the decoding parameters."""
        longest, wanted = self.model.config.max_position_embeddings, self.config.max_new_tokens
        if longest is not None:
            wanted = min(wanted, max(1, longest // 2))
        begin = self._begin if self.remembers else len(self.messages)
        while True:
            earlier = self.messages[begin:]
            prompt = [*earlier, {"role": "user", "content": question}] if earlier else question
            input_ids = encode_prompt(self.tokenizer, prompt)
            if not earlier or longest is None or len(input_ids) + wanted <= longest:
                break
            begin += 2
        config = self.model.diffusion_config(None, {**self.fields, "max_new_tokens": wanted}, len(input_ids))
        return begin, input_ids, config
