"""Introspective decoding: a causal model checks its last drafts and drafts anew in one forward.

A forward takes, of each row of the batch, base rows (the last token and the drafts after it) and groups of mask rows.
A group follows one of the base rows, and is used if exactly the drafts up to there are accepted: so there are new
drafts after any acceptance (I-DLM, arXiv 2604.11035). The base's weights alone act on base rows: the text is its own.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .introspective_run import DrafterLike, IntrospectiveRun
from .introspective_settings import PRESET, check_prompt, prepare_settings, unpadded


@dataclass
class IntrospectiveOutput(ModelOutput):
    """
    Output of `generate(..., return_dict_in_generate=True)`, for B prompts of P positions and at most N new ones.

    Args:
        sequences (`torch.LongTensor` of shape `(B, P + N)`): The prompts as given and the new tokens.
        forward_passes (`torch.LongTensor` of shape `(B,)`): Calls of the base for the row (NFE).
        row_forwards (`torch.LongTensor` of shape `(B,)`): Base rows and mask rows of these calls, without what only
            fills the batch. Of the prompt only its last token counts, so that it is `forward_passes` without drafts.
        tokens (`torch.LongTensor` of shape `(B,)`): Number of new tokens up to and including the first EOS.
        tokens_per_forward (`torch.FloatTensor` of shape `(B,)`): `tokens` divided by `forward_passes` (TPF).
        proposed (`torch.LongTensor` of shape `(B, K)`): How many drafts were verified, by their place after the token.
        accepted (`torch.LongTensor` of shape `(B, K)`): How many of them were accepted.
    """

    sequences: torch.LongTensor | None = None
    forward_passes: torch.LongTensor | None = None
    row_forwards: torch.LongTensor | None = None
    tokens: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None
    proposed: torch.LongTensor | None = None
    accepted: torch.LongTensor | None = None


class PackedLike(Protocol):
    """What decoding asks of packed weights, see `PackedWeights` of modeling."""

    def used(self) -> AbstractContextManager[None]: ...


class IntrospectiveGenerationMixin:
    """`generate()` of a causal model, `base`, with a `drafter`."""

    base: PreTrainedModel
    drafter: DrafterLike
    packed: PackedLike

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        preset: str = PRESET,
        streamer: BaseStreamer | None = None,
        stopping_criteria: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **fields: Any,
    ) -> torch.LongTensor | IntrospectiveOutput:
        """
        Generates the text that the base itself generates, in fewer forwards.

        Greedily it is that of `base.generate(do_sample=False)`, token by token; with sampling it has the same
        distribution. Two tokens whose logits differ by less than the rounding of the dtype may change places, as they
        do between batches of different sizes.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, P)`): The prompts, padded on the left.
            attention_mask (`torch.Tensor` of shape `(B, P)`, *optional*): 0 for padding.
            generation_config (`GenerationConfig`, *optional*): By default that of the base. Its logits processors are
                applied, those that read the text (repetition penalty and others) draft by draft.
            preset (`str`): "introspective", the only one.
            streamer (`BaseStreamer`, *optional*): Gets the prompt, then the tokens of each forward. For one row.
            stopping_criteria (`StoppingCriteriaList`, *optional*): Called after each token, for one row at a time and
                without padding.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): For `stop_strings`.
            fields: Fields of the generation config, `max_new_tokens`, `do_sample`, `temperature`, `stop_strings` and
                so on, and of this decoder:

                - `draft_tokens` (`int`): Most drafts of a forward, by default the window of the drafter; 0 for plain
                  decoding.
                - `max_rows` (`int`, defaults to 16): Base rows and mask rows of a forward aim to be at most this many.
                  The groups of the likeliest acceptances are kept, at least one.
                - `draft_confidence` (`float`, defaults to 0): Drafts are verified while the product of their
                  probabilities is at least this.
                - `seed` (`int` or `list[int]`, *optional*): Seed, one for all rows or one for each. A row is
                  sampled the same in any batch and with any drafts.

        Returns:
            `torch.LongTensor` of shape `(B, P + N)`, or an [`IntrospectiveOutput`] by `return_dict_in_generate=True`.

        Raises:
            `ValueError`: For an empty prompt or one that is longer than the base takes, and for fields that are
                unknown, out of their range, or mean another decoder.
        """
        if preset != PRESET:
            raise ValueError(f"`preset`={preset!r} is not for a causal model with a drafter: it has '{PRESET}' alone")
        prompt = check_prompt(self.base, input_ids)
        window = self.drafter.config.window
        settings = prepare_settings(self.base, window, prompt, generation_config, stopping_criteria, tokenizer, fields)
        if streamer is not None and len(prompt) > 1:
            raise ValueError(f"a `streamer` takes one row, and `input_ids` has {len(prompt)}")
        run = IntrospectiveRun(self.base, self.drafter, settings, *unpadded(prompt, attention_mask, settings))
        if streamer is not None:
            streamer.put(prompt.cpu())
        with self.drafter.attached(), self.packed.used():
            for tokens in run.forwards():
                if streamer is not None:
                    streamer.put(torch.from_numpy(tokens))
        if streamer is not None:
            streamer.end()
        output = _output(run, prompt)
        return output if settings.config.return_dict_in_generate else output.sequences


def _output(run: IntrospectiveRun, prompt: torch.LongTensor) -> IntrospectiveOutput:
    new_tokens = run.new_tokens[:, : run.counts.max()]

    def on_device(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(prompt.device)

    return IntrospectiveOutput(
        sequences=torch.cat([prompt, on_device(new_tokens)], dim=1),
        forward_passes=on_device(run.forward_passes),
        row_forwards=on_device(run.row_forwards),
        tokens=on_device(run.counts),
        tokens_per_forward=on_device(run.counts.astype(np.float32) / run.forward_passes.astype(np.float32)),
        proposed=on_device(run.proposed),
        accepted=on_device(run.accepted),
    )
