"""`assistant_rule="lossless_distribution"`: speculative sampling on block-causal models.

The target is the model's own decoding from left to right, one token per forward: blocks of one token, so that each
masked position sees the tokens before it and itself. A draft proposes all masks of a block at once, each token from a
distribution p of its own. One forward then reads the draft, and beside it a mask for each of its positions, which sees
what is before that position and so gives the target's distribution q (the layout of S2D2, arXiv 2603.25702). From left
to right a token is accepted with the probability min(1, q / p); the first one that is not is drawn again from what q
has more than p, and what follows is dropped (Leviathan et al., arXiv 2211.17192). The text has the distribution of the
target's, whatever the draft: that of an assistant, or of the model itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .canvas import Booleans, Integers, PerRow, Proposal, gather
from .canvas_cache import CanvasCache
from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_run import DecodingRun
from .noise import Draw
from .output_diffusion import DiffusionGenerationOutput
from .proposals import largest, restrict
from .visibility import Visibility
from .windows import Window, indices_of


def check_speculation(
    model: Any, config: DiffusionGenerationConfig, *, with_processor: bool, with_cache: bool
) -> None:
    """Raises a `ValueError` for a model or a config whose decoding from left to right is not verified so."""
    faults = {
        f"`attention`={config.attention!r}: use it on block-causal models": config.attention != "block_causal",
        f"{type(model).__name__}, whose masked positions predict the token after them": model.logits_shift > 0,
        f"`cache`={config.cache!r}: use 'block' or 'none'": config.cache not in ("none", "block"),
        "the cache of an earlier run": with_cache,
        f"`draft_states`={config.draft_states}: leave it out": config.draft_states > 1,
        f"`branches`={config.branches}: leave it out": config.branches > 1,
        f"`cfg_scale`={config.cfg_scale}": bool(config.cfg_scale),
        f"`edit_threshold`={config.edit_threshold}": config.edit_threshold is not None,
        f"`credit_weight`={config.credit_weight}": bool(config.credit_weight),
        "`soft_inputs`": config.soft_inputs,
        "`compile_config`": config.compile_config is not None,
        "`logits_processor`": with_processor,
    }
    for fault, is_one in faults.items():
        if is_one:
            raise ValueError(f"`assistant_rule`='lossless_distribution' does not go with {fault}")


class Causal(Visibility):
    """Every position sees those up to itself; and beside a canvas of L positions there are masks, each of which sees
    what is before its position, and itself."""

    def mask_beside(
        self, window: torch.LongTensor, positions: torch.LongTensor, first_real: torch.LongTensor, beside: int
    ) -> torch.Tensor:
        """The attention mask (B, 1, W + K, L + `beside`) of a window (B, W) of the canvas, and of masks at `positions`
        (B, K) in the first of so many slots beside it."""
        slots = torch.arange(self.length, device=positions.device)
        last = torch.cat([window.maximum(first_real[:, None]), positions - 1], dim=1)
        before = (slots >= first_real[:, None])[:, None] & (slots <= last[:, :, None])
        itself = torch.eye(positions.shape[1], beside, device=positions.device, dtype=torch.bool)
        itself = torch.cat([itself.new_zeros(window.shape[1], beside), itself]).expand(len(window), -1, -1)
        return self.as_mask(torch.cat([before, itself], dim=2)[:, None])


@dataclass
class Settled(PerRow):
    """Of each row the positions before this one (B,) have the keys and values of their final tokens in the cache."""

    before: Integers


class SpeculativeRun(DecodingRun):
    """
    A run of which each round drafts the masks of the current block, and verifies them.

    Attributes:
        rounds (`int`): Rounds so far; random numbers are a function of these.
        settled ([`Settled`]): What the verifying forward reads from the cache, if there is one.
        draft (`DecodingRun`): The run of the proposer in this round.
        draft_states (`torch.Tensor` of shape `(B, K, hidden)`): The hidden states that its proposals are from.
    """

    drafts: Integers

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rounds, self.settled = 0, Settled(np.zeros_like(self.canvas.row_ids))
        if self.cache is not None:
            masks = int(self.canvas.masks_at_start.max())
            self.cache = CanvasCache(len(self.cache.layers), self.canvas.length + masks)

    def states(self) -> list[Any]:
        return [*super().states(), self.settled]

    def choose_window(self) -> None:
        candidates = self.masked & (self.canvas.block_of == self.canvas.current[:, None])
        self.window = Window(np.ones_like(candidates), candidates, candidates)

    def forward(self) -> torch.Tensor:
        canvas, proposer = self.canvas, self.proposer
        self.rounds += 1
        self.draft = proposer.run_on(canvas, self.window.candidates, 2 * self.rounds - 2)
        self.draft_states = self.draft.forward()
        self.positions, self.eligible = self.draft.positions, self.draft.eligible
        self.drafts = self.draft.propose(self.draft_states).tokens
        if proposer.is_assistant:
            self.result.count_assistant(canvas.row_ids)
        self.forwards += 1 if proposer.is_assistant else 2
        return self._verify()

    def _verify(self) -> torch.Tensor:
        """Hidden states (B, K, ..) of masks that see what is before each of the candidates, with its draft."""
        canvas, (batch, beside) = self.canvas, self.positions.shape
        tokens = canvas.tokens.copy()
        rows, columns = self.eligible.nonzero()
        tokens[rows, self.positions[rows, columns]] = self.drafts[rows, columns]
        window, slots = np.tile(canvas.positions, (batch, 1)), beside
        if self.cache is not None:
            recomputed = (canvas.positions >= self.settled.before[:, None]) & (canvas.positions < self.end[:, None])
            window = indices_of(recomputed, int(recomputed.sum(axis=1).max()), canvas.first_real)
            slots = self.cache.layers[0].canvas_length - canvas.length
        tokens = np.append(gather(tokens, window), np.full_like(self.positions, self.special.mask), axis=1)
        positions = np.append(window, self.positions, axis=1)
        inputs = {
            "input_ids": self.upload(tokens),
            "position_ids": self.upload((positions - canvas.first_real[:, None]).clip(min=0)),
            "attention_mask": Causal(self.model, canvas, False, self.device).mask_beside(
                self.upload(window), self.upload(self.positions), self.upload(canvas.first_real), slots
            ),
            "logits_to_keep": self.upload(np.tile(window.shape[1] + np.arange(beside), (batch, 1))),
            "run_head": False,
            "return_dict": True,
        }
        if self.cache is not None:
            beside_canvas = np.tile(canvas.length + np.arange(beside), (batch, 1))
            inputs |= {"cache": self.cache, "cache_positions": self.upload(np.append(window, beside_canvas, axis=1))}
        return self.call(**inputs).hidden_states[0]

    @property
    def end(self) -> Integers:
        """Where the candidates of each row end (B,)."""
        return np.where(self.window.candidates, self.canvas.positions + 1, 0).max(axis=1)

    def propose(self, states: torch.Tensor) -> Proposal:
        """The token of each candidate: the draft, if `self.agrees` says so, or another. The one read of the forward
        that verifies."""
        rows = np.arange(len(self.positions)).repeat(self.positions.shape[1])
        generated = (self.positions - self.canvas.region_starts[:, None]).flatten()
        parts, start = [], 0
        theirs = self.draft.logits_in_parts(self.draft_states, self.device.type)
        for part, draft_part in zip(self.logits_in_parts(states), theirs, strict=True):
            span = slice(start, start + len(part))
            start += len(part)
            draw = Draw(self.canvas.seeds[rows[span]], generated[span], 2 * self.rounds)
            drafts = self.upload(self.drafts.flatten()[span])
            draft_part = draft_part.to(part.device)
            parts.append(verify_part(part.float(), draft_part.float(), drafts, draw, self.config, self.special.mask))
        numbers = torch.cat(parts, dim=1).numpy(force=True).reshape(3, *self.positions.shape)
        self.agrees, logprobs = numbers[1] > 0, numbers[2]
        self.check_numbers(logprobs)
        return Proposal(numbers[0].view(np.int32).astype(np.int64), logprobs, logprobs, logprobs)

    def select(self, proposal: Proposal) -> Booleans:
        drawn_again = self.eligible & ~self.agrees
        first = gather(self.positions, drawn_again.argmax(axis=1)[:, None])[:, 0]
        self.settled.before = np.where(drawn_again.any(axis=1), first, self.end)
        return accepted_from_the_left(self.agrees, self.eligible)

    def output(self) -> DiffusionGenerationOutput:
        self.cache = None  # its keys and values are of another attention than those of other runs
        return super().output()


def accepted_from_the_left(agrees: Booleans, eligible: Booleans) -> Booleans:
    """The candidates (B, K), in the order of their positions, up to the first one whose draft was drawn again."""
    drawn_again = eligible & ~agrees
    return eligible & (drawn_again.cumsum(axis=1) - drawn_again == 0)


def verify_part(
    logits: torch.Tensor,
    draft_logits: torch.Tensor,
    drafts: torch.LongTensor,
    draw: Draw,
    config: DiffusionGenerationConfig,
    mask_token_id: int,
) -> torch.Tensor:
    """Accepts the drafts (candidates,) of some candidates, or draws other tokens.

    Args:
        logits, draft_logits (`torch.Tensor` of shape `(candidates, vocab)`): In float32, of the target and of the
            draft; they are overwritten.

    Returns:
        `torch.Tensor` of shape `(3, candidates)`: The bits of the tokens as int32, whether they are the drafts, and
        their log-probabilities in the target, without temperature.
    """
    logprobs = logits.log_softmax(dim=-1)
    target, draft = (distribution(each, config, mask_token_id) for each in (logits, draft_logits))
    at = drafts[:, None]
    uniform = torch.from_numpy(draw.uniform()).to(logits.device)
    agrees = uniform * draft.gather(-1, at)[:, 0] <= target.gather(-1, at)[:, 0]
    more = (target - draft).clamp(min=0)
    more = torch.where(more.sum(dim=-1, keepdim=True) > 0, more, target)
    others = largest(more.log() + draw.gumbel(logits.shape[-1], logits.device))
    tokens = torch.where(agrees, drafts, others)
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
    return torch.stack([tokens.int().view(torch.float32), agrees.float(), chosen])


def distribution(logits: torch.Tensor, config: DiffusionGenerationConfig, mask_token_id: int) -> torch.Tensor:
    """The probabilities (candidates, vocab) that a token is drawn with; of one token at a temperature of 0."""
    logits[:, mask_token_id] = -torch.inf
    if config.temperature > 0:
        return restrict(logits / config.temperature, config).softmax(dim=-1)
    return torch.zeros_like(logits).scatter_(-1, largest(logits)[:, None], 1)
