"""The loop of introspective decoding: its state, and what it takes from the device after each forward."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from .canvas import Floats, Integers
from .introspective_settings import IntrospectiveSettings
from .next_tokens import NextTokens
from .preparation import prepare_seeds
from .row_cache import RowCache, attention_mask, run_body


class DrafterLike(Protocol):
    """What decoding asks of a drafter, see `Drafter` of modeling."""

    first_mask_row: int | None
    config: Any

    def attached(self) -> AbstractContextManager[Any]: ...

    def mask_rows(self, count: int) -> torch.Tensor: ...

    def propose(
        self, hidden: torch.Tensor, tokens: torch.LongTensor, least_confidence: float
    ) -> tuple[torch.LongTensor, torch.Tensor]: ...


@dataclass
class Rows:
    """
    The unfinished rows of a batch, on the host.

    Attributes:
        ids (`Integers` of shape `(B,)`): Rows of the caller's batch.
        texts (`Integers` of shape `(B, L)`): Prompt, generated tokens, and the drafts after them.
        prompts (`Integers` of shape `(B,)`): Lengths of the prompts.
        cached (`Integers` of shape `(B,)`): Tokens whose keys and values are known.
        ends (`Integers` of shape `(B,)`): Lengths of prompt and generated tokens.
        drafts (`Integers` of shape `(B,)`): How many drafts follow.
        confidences (`Floats` of shape `(B, K)`): Products of the probabilities of these drafts.
        seeds (`Integers` of shape `(B,)`): Seeds of sampling.
    """

    ids: Integers
    texts: Integers
    prompts: Integers
    cached: Integers
    ends: Integers
    drafts: Integers
    confidences: Floats
    seeds: Integers

    def keep(self, kept: np.ndarray) -> None:
        """Keeps some rows, by a bit for each."""
        for name, values in vars(self).items():
            setattr(self, name, values[kept])


@dataclass
class Plan:
    """
    What a forward takes of each row, on the host.

    Attributes:
        width (`int`): Base rows, of the longest.
        judged (`Integers` of shape `(B, J)`): Base rows that predict: of a prompt the last one.
        anchors (`Integers` of shape `(B, G)`): Groups of mask rows, by how many drafts they assume to be accepted.
        used (`np.ndarray` of shape `(B, G)`): Which of them are not filling.
    """

    width: int
    judged: Integers
    anchors: Integers
    used: np.ndarray


class IntrospectiveRun:
    """The state of a run, and the steps of its loop."""

    def __init__(
        self,
        base: PreTrainedModel,
        drafter: DrafterLike,
        settings: IntrospectiveSettings,
        tokens: Integers,
        lengths: Integers,
    ):
        self.base, self.drafter, self.settings = base, drafter, settings
        self.embedding = base.get_input_embeddings()
        self.device = self.embedding.weight.device
        self.next_tokens = NextTokens(base, settings.config, settings.max_new_tokens, self.device)
        self.cache = RowCache(base.config.num_hidden_layers)
        batch, most = len(tokens), settings.draft_tokens
        texts = np.pad(tokens, ((0, 0), (0, settings.max_new_tokens + most + 1)))
        empty = np.zeros(batch, dtype=np.int64)
        seeds = prepare_seeds(settings, batch) if self.next_tokens.samples else empty
        confidences = np.zeros((batch, most), dtype=np.float32)
        ids = np.arange(batch)
        self.rows = Rows(ids, texts, lengths, empty, lengths.copy(), empty, confidences, seeds)
        self.new_tokens = np.full((batch, settings.max_new_tokens), settings.pad_token_id)
        self.counts, self.forward_passes, self.row_forwards = empty.copy(), empty.copy(), empty.copy()
        self.ended = np.zeros(batch, dtype=bool)
        self.proposed = np.zeros((batch, most), dtype=np.int64)
        self.accepted = np.zeros_like(self.proposed)

    def forwards(self) -> Iterator[Integers]:
        """Decodes; after each forward, the tokens of the first row."""
        while len(self.rows.ids):
            plan = self.plan()
            chosen, accepted, drafts, confidences = self.forward(plan)
            self.count(plan, accepted)
            kept = self.last_kept(chosen, accepted)
            yield chosen[0, : kept[0]]
            self.advance(chosen, accepted, kept, drafts, confidences)

    def plan(self) -> Plan:
        """Base rows and groups of mask rows of the next forward."""
        rows, most = self.rows, self.settings.draft_tokens
        width = int((rows.ends + rows.drafts - rows.cached).max())
        judged = (rows.ends - rows.cached - 1)[:, None] + np.arange(int(rows.drafts.max()) + 1)
        places = np.arange(judged.shape[1])
        reached = np.ones((len(rows.ids), judged.shape[1] + 1), dtype=np.float32)
        reached[:, 1:-1] = rows.confidences[:, : judged.shape[1] - 1]
        reached[:, 1:][places >= rows.drafts[:, None]] = 0
        chances = reached[:, :-1] - reached[:, 1:]
        # A draft is of use where two more tokens are wanted: one comes without.
        room = rows.prompts + self.settings.max_new_tokens - rows.ends
        useful = (places <= rows.drafts[:, None]) & (room[:, None] - places > 2)
        chances[~useful] = -1
        groups = int(useful.sum(axis=1).max()) if most else 0
        groups = min(groups, max(1, (self.settings.max_rows - judged.shape[1]) // max(most, 1)))
        anchors = np.sort(np.argsort(-chances, axis=1, kind="stable")[:, :groups], axis=1)
        used = np.take_along_axis(useful, anchors, axis=1)
        return Plan(width, judged, np.minimum(anchors, rows.drafts[:, None]), used)

    @torch.inference_mode()
    def forward(self, plan: Plan) -> tuple[Integers, Integers, Integers, Floats]:
        """
        One call of the base, and the one read of its results.

        Returns:
            The base's tokens (B, J), how many drafts they accept (B,), and new drafts (B, K) with the products of
            their probabilities.
        """
        rows, most = self.rows, self.settings.draft_tokens
        batch, groups = plan.anchors.shape
        hidden, tokens = self.run_base(plan)
        judged = torch.from_numpy(plan.judged).to(self.device)
        known = rows.cached[:, None] + plan.judged + 1
        chosen = self.next_tokens.choose(
            self.logits(hidden, plan.judged),
            rows.seeds,
            known - rows.prompts[:, None],
            lambda row, column: rows.texts[row, : known[row, column]],
        )
        numbers = torch.from_numpy(np.concatenate([rows.drafts[:, None], plan.anchors], axis=1)).to(self.device)
        places = torch.arange(judged.shape[1] - 1, device=self.device)
        right = tokens.gather(1, (judged[:, :-1] + 1).clamp(max=plan.width - 1)) == chosen[:, :-1]
        accepted = (right & (places < numbers[:, :1])).long().cumprod(dim=1).sum(dim=1)
        drafts = chosen.new_zeros(batch, most)
        confidences = torch.zeros(batch, most, device=self.device)
        if groups:
            found = numbers[:, 1:] == accepted[:, None]
            of_group = hidden[:, plan.width :].unflatten(1, (groups, most))
            picked = of_group[torch.arange(batch, device=hidden.device), found.long().argmax(dim=1)]
            last = chosen.gather(1, accepted[:, None])[:, 0]
            drafts, confidences = self.drafter.propose(picked, last, self.settings.draft_confidence)
            confidences = confidences * found.any(dim=1, keepdim=True)
        return self.read(chosen, accepted, drafts, confidences)

    def run_base(self, plan: Plan) -> tuple[torch.Tensor, torch.LongTensor]:
        """The hidden states (B, R, D) of base rows and mask rows, and the tokens (B, width) of the base rows."""
        rows, most = self.rows, self.settings.draft_tokens
        batch, groups = plan.anchors.shape
        masks = groups * most
        offsets = np.arange(plan.width + masks)
        slots = rows.cached[:, None] + offsets
        # Per row of the forward: its position, the last slot of the text and the first of its group that it sees.
        positions, seen, firsts = slots.copy(), slots.copy(), slots.copy()
        anchors = (rows.ends[:, None] - 1 + plan.anchors).repeat(most, axis=1)
        positions[:, plan.width :] = anchors + 1 + np.tile(np.arange(most), groups)
        seen[:, plan.width :] = anchors
        firsts[:, plan.width :] = (rows.cached + plan.width)[:, None] + (np.arange(masks) // max(most, 1)) * most
        layout = torch.from_numpy(np.stack([slots, positions, seen, firsts])).to(self.device)
        tokens = torch.from_numpy(np.take_along_axis(rows.texts, slots[:, : plan.width], axis=1)).to(self.device)
        embedded = self.embedding(tokens)
        if groups:
            of_masks = self.drafter.mask_rows(most).repeat(groups, 1).expand(batch, -1, -1)
            embedded = torch.cat([embedded, of_masks], dim=1)
        end = int(slots[:, -1].max()) + 1
        columns = torch.arange(end, device=self.device)
        own, position_ids, last, first = layout[..., None]
        visible = (columns <= last) | ((columns >= first) & (columns <= own))
        same = (rows.cached == rows.cached[0]).all()
        self.cache.slots.place(layout[0], int(rows.cached[0]) if same else None, end)
        self.drafter.first_mask_row = plan.width if groups else None
        hidden = run_body(
            self.base,
            self.cache,
            inputs_embeds=embedded,
            attention_mask=attention_mask(self.base, visible[:, None]),
            position_ids=position_ids[..., 0],
        )
        return hidden.to(self.device), tokens

    def logits(self, hidden: torch.Tensor, judged: Integers) -> torch.Tensor:
        """The base's logits (B, J, V) at its rows `judged` (B, J)."""
        head, (batch, count) = self.base.get_output_embeddings(), judged.shape
        if count == 1:
            places = torch.from_numpy(judged[:, 0]).to(hidden.device)
            return head(hidden[torch.arange(batch, device=hidden.device), places, None])
        return head(hidden[:, :count])  # with drafts, the rows that predict are the first ones

    def read(
        self, chosen: torch.Tensor, accepted: torch.Tensor, drafts: torch.Tensor, confidences: torch.Tensor
    ) -> tuple[Integers, Integers, Integers, Floats]:
        """The results of a forward on the host, in one read: the bits of `confidences` travel as integers."""
        bits = confidences.contiguous().view(torch.int32)
        packed = torch.cat([chosen, accepted[:, None], drafts, bits], dim=1).cpu().numpy()
        most, width = drafts.shape[1], chosen.shape[1]
        bits = np.ascontiguousarray(packed[:, width + 1 + most :].astype(np.int32))
        return packed[:, :width], packed[:, width], packed[:, width + 1 : width + 1 + most], bits.view(np.float32)

    def count(self, plan: Plan, accepted: Integers) -> None:
        """Adds a forward to the counts of its rows."""
        rows, most = self.rows, self.settings.draft_tokens
        places = np.arange(most)
        self.forward_passes[rows.ids] += 1
        self.row_forwards[rows.ids] += 1 + rows.drafts + plan.used.sum(axis=1) * most
        self.proposed[rows.ids] += places < rows.drafts[:, None]
        self.accepted[rows.ids] += places < accepted[:, None]

    def last_kept(self, chosen: Integers, accepted: Integers) -> Integers:
        """How many (B,) of the tokens of a forward each row keeps: up to its end. Writes them into the texts."""
        rows, places = self.rows, np.arange(chosen.shape[1])
        room = rows.prompts + self.settings.max_new_tokens - rows.ends
        is_eos = np.isin(chosen, self.settings.eos_token_ids)
        first_eos = np.where(is_eos.any(axis=1), is_eos.argmax(axis=1), chosen.shape[1])
        kept = np.minimum(accepted, first_eos) + 1  # within `room`, since drafts are
        columns = np.minimum(rows.ends[:, None] + places, rows.texts.shape[1] - 1)
        within = places < kept[:, None]
        old = np.take_along_axis(rows.texts, columns, axis=1)
        np.put_along_axis(rows.texts, columns, np.where(within, chosen, old), axis=1)
        self.ended = (kept == room) | (first_eos < kept)
        if self.settings.criteria:
            self._apply_criteria(kept)
        return kept

    def _apply_criteria(self, kept: Integers) -> None:
        """Criteria are called token by token, since they read the end of a text."""
        rows = self.rows
        for row, most in enumerate(kept.tolist()):
            texts = (rows.texts[row, : rows.ends[row] + number] for number in range(1, most + 1))
            stops = (bool(self.settings.criteria(torch.from_numpy(text)[None], None).all()) for text in texts)
            first = next((number for number, stop in enumerate(stops, start=1) if stop), None)
            if first is not None:
                kept[row], self.ended[row] = first, True

    def advance(
        self, chosen: Integers, accepted: Integers, kept: Integers, drafts: Integers, confidences: Floats
    ) -> None:
        """Moves the rows on to their last token and its drafts, and stores and drops those that ended."""
        rows, most = self.rows, self.settings.draft_tokens
        rows.cached = rows.ends + accepted
        rows.ends = rows.ends + kept
        if self.ended.any():
            self._store(self.ended)
            self.cache.keep_rows(torch.from_numpy(np.flatnonzero(~self.ended)))
            drafts, confidences = drafts[~self.ended], confidences[~self.ended]
            rows.keep(~self.ended)
        room = rows.prompts + self.settings.max_new_tokens - rows.ends
        sure = (confidences > 0) & (confidences >= self.settings.draft_confidence)
        rows.drafts = np.minimum(sure.cumprod(axis=1).sum(axis=1), np.maximum(room - 1, 0))
        rows.confidences = confidences
        np.put_along_axis(rows.texts, rows.ends[:, None] + np.arange(most), drafts, axis=1)

    def _store(self, ended: np.ndarray) -> None:
        rows = self.rows
        ids, counts = rows.ids[ended], (rows.ends - rows.prompts)[ended]
        columns = rows.prompts[ended][:, None] + np.arange(self.settings.max_new_tokens)
        tokens = np.take_along_axis(rows.texts[ended], columns, axis=1)
        within = np.arange(self.settings.max_new_tokens) < counts[:, None]
        self.new_tokens[ids] = np.where(within, tokens, self.settings.pad_token_id)
        self.counts[ids] = counts
