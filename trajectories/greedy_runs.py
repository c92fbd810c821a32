"""The order of an autoregressive model: its own greedy texts, one token per forward from left to right."""

from collections.abc import Sequence

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.autoregressive import generate_autoregressively
from .prompt_rows import Sample
from .row import Trajectory


REPEATED = 16  # tokens at the end of a text that occurred before: a loop
LONGEST_PERIOD = 32
PERIODS = 3  # that a loop repeats at least


class GreedyRuns:
    """
    Decodes samples with a causal language model, always with the most likely token.

    Penalties and sampling of the model's generation config do not apply: what is recorded is what a decoder that
    verifies drafts by the argmax of the logits would give.

    Args:
        model (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        max_new_tokens (`int`): Length of a truncated text.
        eos_token_ids (`Sequence[int]`): What ends a text.
        batch_size (`int`): Rows per batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        eos_token_ids: Sequence[int],
        batch_size: int,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.eos_token_ids = list(eos_token_ids)
        self.batch_size = batch_size

    def __call__(self, samples: list[Sample]) -> list[Trajectory]:
        """
        The text of each sample, and whether it ends in a loop.

        Args:
            samples (`list[Sample]`): The samples, none too long for the model.

        Returns:
            `list[Trajectory]`: One for each sample.
        """
        if not samples:
            return []
        before = self.model.generation_config
        self.model.generation_config = GenerationConfig(eos_token_id=self.eos_token_ids)
        try:
            batches = generate_autoregressively(
                self.model,
                self.tokenizer,
                [sample.prompt_ids for sample in samples],
                batch_size=self.batch_size,
                max_new_tokens=self.max_new_tokens,
            )
            rows = sorted((row for batch in batches for row in batch.rows), key=lambda row: row.index)
        finally:
            self.model.generation_config = before
        return [
            Trajectory(
                response_ids=row.token_ids,
                commit_steps=row.commit_steps,
                num_forwards=row.forwards,
                row_forwards=row.row_forwards,
                loops=ends_in_loop(row.token_ids, self.eos_token_ids),
            )
            for row in rows
        ]


def ends_in_loop(token_ids: Sequence[int], eos_token_ids: Sequence[int] = ()) -> bool:
    """
    Whether a text repeats itself at its end, as small models do: its last 16 tokens have occurred before, or up to 32
    tokens are repeated at least 3 times, over 32 tokens or more. A final EOS does not count.

    Args:
        token_ids (`Sequence[int]`): The text.
        eos_token_ids (`Sequence[int]`, *optional*): What ends a text.

    Returns:
        `bool`: Whether it does.
    """
    text = list(token_ids[:-1] if token_ids and token_ids[-1] in eos_token_ids else token_ids)
    end = text[-REPEATED:]
    if len(text) > 2 * REPEATED and any(text[at : at + REPEATED] == end for at in range(len(text) - REPEATED)):
        return True
    for period in range(1, LONGEST_PERIOD + 1):
        span = max(PERIODS * period, 2 * REPEATED)
        if len(text) >= span and text[-span:-period] == text[-span + period :]:
            return True
    return False
