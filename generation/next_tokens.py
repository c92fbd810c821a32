"""The tokens that a base model itself would choose at rows of its logits, greedily or by sampling."""

import copy
from collections.abc import Callable

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitNormalization,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from .canvas import Integers
from .noise import Draw


# They read the scores alone, so that all rows go through them at once.
WITHOUT_TEXT = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)


class NextTokens:
    """
    Chooses tokens as `generate()` of the base does, with its logits processors.

    A sampled token is the largest of log-probability plus Gumbel noise, and the noise is a function of seed and
    position alone. So a draft is accepted with its probability, and what replaces a refused one has the distribution
    without it: speculative sampling (arXiv 2211.17192) from drafts that are certain. It also makes the text that of
    sampling token by token with this noise, whatever was drafted.

    Args:
        base (`PreTrainedModel`): Makes the processors.
        config (`GenerationConfig`): The settings of sampling.
        max_new_tokens (`int`): Largest number of new tokens, which some processors ask for.
        device (`torch.device`): Device of the logits.
    """

    def __init__(self, base: PreTrainedModel, config: GenerationConfig, max_new_tokens: int, device: torch.device):
        self.base, self.config, self.device = base, copy.deepcopy(config), device
        self.max_new_tokens = max_new_tokens
        self.samples = bool(config.do_sample)
        self.processors = self._processors(torch.zeros(1, 1, dtype=torch.long, device=device))
        self.needs_text = not all(isinstance(processor, WITHOUT_TEXT) for processor in self.processors)

    def choose(
        self, logits: torch.Tensor, seeds: Integers, generated: Integers, texts: Callable[[int, int], Integers]
    ) -> torch.LongTensor:
        """
        The tokens (B, J) after J rows of each text.

        Args:
            logits (`torch.Tensor` of shape `(B, J, V)`): Logits of the base.
            seeds (`Integers` of shape `(B,)`): Seed of each row.
            generated (`Integers` of shape `(B, J)`): For each token, how many were generated before it.
            texts (`Callable[[int, int], Integers]`): The text before token `j` of row `b`.
        """
        scores = logits.to(self.device, torch.float32)
        if self.needs_text:
            scores = self._with_text(scores, generated, texts)
        elif self.processors:
            scores = self.processors(None, scores.flatten(0, 1)).view_as(scores)
        if self.samples:
            draw = Draw(seeds.repeat(generated.shape[1]), generated.flatten(), forward=0)
            scores = scores + draw.gumbel(scores.shape[-1], self.device).view_as(scores)
        return scores.argmax(dim=-1)

    def _with_text(
        self, scores: torch.Tensor, generated: Integers, texts: Callable[[int, int], Integers]
    ) -> torch.Tensor:
        """Processors may read a whole text, which they take one by one since their lengths differ."""
        processed = torch.empty_like(scores)
        for row, column in ((row, column) for row in range(len(scores)) for column in range(scores.shape[1])):
            text = torch.from_numpy(texts(row, column)).to(self.device)[None]
            processors = self._processors(text[:, : text.shape[1] - int(generated[row, column])])
            processed[row, column] = processors(text, scores[row, column][None])[0]
        return processed

    def _processors(self, prompt: torch.LongTensor) -> LogitsProcessorList:
        """Those of a `prompt` (1, P)."""
        self.config.max_length = prompt.shape[1] + self.max_new_tokens
        return self.base._get_logits_processor(
            generation_config=self.config,
            input_ids_seq_length=prompt.shape[1],
            encoder_input_ids=prompt,
            device=self.device,
            model_kwargs={},
        )
