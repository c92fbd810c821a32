"""One causal model decoded greedily in several ways, all of which give the same text."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.streamers import BaseStreamer


if TYPE_CHECKING:
    from ..generation.introspective import IntrospectiveOutput
    from ..modeling.introspective_model import IntrospectiveModel

PLAIN = "plain"
EARLY_EXIT = "early exit"
WAYS = {
    PLAIN: "generate() of transformers",
    "packed": "the same with weights packed for few rows",
    "drafter": "the model's own drafts",
    "prompt lookup": "drafts from the prompt, by transformers",
    EARLY_EXIT: "drafts by the first layers, by transformers",
}
EXIT_AFTER = 2 / 3  # of the layers
EARLY_DRAFTS = 2  # most of transformers' default of 20 are rejected


@dataclass
class GreedyText:
    """
    A text, and what it took.

    Attributes:
        tokens (`list[int]`): The new tokens.
        forwards (`int`): Calls of the last layer: what drafts of an early exit cost is in the seconds alone.
        seconds (`float`): From the call to the last token, the prompt's forward included.
        output (`IntrospectiveOutput`, *optional*): Output of the drafter.
    """

    tokens: list[int]
    forwards: int
    seconds: float
    output: IntrospectiveOutput | None = None


class GreedyWays:
    """
    Decodes a prompt in any of `WAYS`.

    Args:
        model (`IntrospectiveModel`): The causal model and its drafter.
        max_new_tokens (`int`): Length of a text without EOS.
        lookup_tokens (`int`): Drafts of prompt lookup.
        fields: Of the drafter: `draft_tokens`, `max_rows`, `draft_confidence`.
    """

    def __init__(self, model: IntrospectiveModel, *, max_new_tokens: int, lookup_tokens: int = 4, **fields: Any):
        self.model = model
        self.greedy = {"do_sample": False, "max_new_tokens": max_new_tokens, "max_length": None}
        exit_layer = max(1, round(model.config.num_hidden_layers * EXIT_AFTER))
        self.by_transformers: dict[str, dict[str, Any]] = {
            PLAIN: {},
            "prompt lookup": {"prompt_lookup_num_tokens": lookup_tokens},
            EARLY_EXIT: {"assistant_early_exit": exit_layer},
        }
        # Only there does transformers look for the number of drafts.
        self.early_exit_config = copy.deepcopy(model.base.generation_config)
        self.early_exit_config.num_assistant_tokens = EARLY_DRAFTS
        self.by_drafter: dict[str, dict[str, Any]] = {"packed": {"draft_tokens": 0}, "drafter": fields}

    def decode(self, way: str, inputs: dict[str, torch.Tensor], streamer: BaseStreamer | None = None) -> GreedyText:
        """
        The text of a prompt.

        Args:
            way (`str`): One of `WAYS`.
            inputs (`dict[str, torch.Tensor]`): `input_ids` and `attention_mask` of shape `(1, P)`.
            streamer (`BaseStreamer`, *optional*): Gets the tokens as they come, if the way is plain or the drafter's.

        Returns:
            [`GreedyText`]: The text and its cost.
        """
        base, forwards = self.model.base, 0

        def count(*_: Any) -> None:
            nonlocal forwards
            forwards += 1

        own_config = base.generation_config
        if way == EARLY_EXIT:
            base.generation_config = self.early_exit_config
        counter = base.get_decoder().layers[-1].register_forward_hook(count)
        output, began = None, time.perf_counter()
        try:
            if way in self.by_transformers:
                options = self.greedy | self.by_transformers[way]
                sequences = base.generate(**inputs, **options, streamer=streamer)
            else:
                options = self.greedy | self.by_drafter[way]
                output = self.model.generate(**inputs, **options, streamer=streamer, return_dict_in_generate=True)
                sequences = output.sequences
            tokens = sequences[0, inputs["input_ids"].shape[1] :].tolist()  # waits for a GPU
        finally:
            counter.remove()
            base.generation_config = own_config
        return GreedyText(tokens, forwards, time.perf_counter() - began, output)
