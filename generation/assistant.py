"""`assistant_model`: a second model that drafts for the one whose text is wanted, as in transformers."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from .canvas import Booleans, Canvas, Integers, blocks_of_positions, starts_of_blocks
from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_run import DecodingRun
from .preparation import SpecialTokens, find_mask_token, tokens_that_end, trained_attention
from .stops import Stops
from .windows import Window


DRAFT_STATES = 8  # with an assistant, unless the caller asks for more than one


@dataclass
class Proposer:
    """
    A model that proposes tokens for the states of a run. It has no cache, since it sees drafts that are dropped.

    Attributes:
        model ([`~d3llm.generation.decoding_diffusion.DiffusionGenerationMixin`]): The model, on a device of its own.
        config ([`DiffusionGenerationConfig`]): How it attends, and the scores of its proposals.
        attention_block_of (`Integers` of shape `(B, L)`): The blocks of its attention, for the caller's batch.
        special ([`~d3llm.generation.preparation.SpecialTokens`]), stops ([`~d3llm.generation.stops.Stops`]): Those of
            the run.
        is_assistant (`bool`): Whether it is another model than the run's.
    """

    model: Any
    config: DiffusionGenerationConfig
    attention_block_of: Integers
    special: SpecialTokens
    stops: Stops
    is_assistant: bool

    def run_on(self, canvas: Canvas, candidates: Booleans, forwards: int) -> DecodingRun:
        """A run at this state, after `forwards` forwards, of which the next proposes for the `candidates` (B, L)."""
        canvas = copy.copy(canvas)
        canvas.attention_block_of = self.attention_block_of[canvas.row_ids]
        run = DecodingRun(
            self.model, canvas, self.config, self.special, self.stops, None, 0, None, None, self.model.device
        )
        run.forwards, run.window = forwards, Window(np.ones_like(candidates), candidates, candidates)
        return run


def prepare_proposer(
    model: Any,
    assistant: Any,
    canvas: Canvas,
    config: DiffusionGenerationConfig,
    special: SpecialTokens,
    stops: Stops,
) -> Proposer | None:
    """The proposer of a run: the assistant; the model itself for a rule that needs a proposer; or none."""
    if assistant is None and config.assistant_rule == "exact":
        return None
    drafts = model if assistant is None else assistant
    own = copy.deepcopy(config)
    own.cache, own.draft_states, own.output_logprobs = "none", 1, False
    own.attention = trained_attention(drafts) or ("bidirectional" if assistant is not None else config.attention)
    blocks, size = canvas.attention_block_of, drafts.attention_block_size
    if own.attention == "block_causal" and size is not None:
        end_of_prompt = np.full_like(canvas.first_real, canvas.region_start or canvas.length)
        first = canvas.first_real + size if drafts.attention_grid == "absolute" else end_of_prompt
        blocks = blocks_of_positions(starts_of_blocks(first, size, canvas.length))
    return Proposer(drafts, own, blocks, special, stops, assistant is not None)


def prepare_assistant(model: Any, assistant: Any, config: DiffusionGenerationConfig, prompt_length: int) -> None:
    """Completes the config of a run with an assistant; raises a `ValueError` for one that does not fit the model."""
    check_assistant(model, assistant, prompt_length + config.max_new_tokens)
    if config.assistant_rule == "exact" and config.draft_states == 1:
        config.draft_states = DRAFT_STATES
        config.check_drafts()


def check_assistant(model: Any, assistant: Any, length: int) -> None:
    """Raises a `ValueError` for an assistant that does not draft for texts of `length` tokens of the model."""
    kind = type(assistant).__name__
    if not hasattr(assistant, "logit_rows") or not hasattr(assistant, "diffusion_config"):
        raise ValueError(f"`assistant_model` is a {kind}: give a masked-diffusion model that d3llm has loaded")
    if trained_attention(assistant) == "causal":
        raise ValueError(f"`assistant_model` is a {kind}, which decodes slot by slot: give one of another family")
    for name, ours, its in (
        ("vocab_size", model.config.vocab_size, assistant.config.vocab_size),
        ("mask_token_id", *(find_mask_token(each.generation_config, each.config) for each in (model, assistant))),
        ("eos_token_id", *(sorted(tokens_that_end(each.generation_config)) for each in (model, assistant))),
    ):
        if ours != its:
            raise ValueError(f"`assistant_model` has `{name}`={its} and the model {ours}: give one with its tokenizer")
    most = assistant.config.max_position_embeddings
    if most is not None and length > most:
        raise ValueError(f"a text of {length} tokens exceeds the {most} positions of `assistant_model`: generate less")
