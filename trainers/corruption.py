"""The masks of training: which positions of a trajectory are masked, and which of them are in the loss."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..generation.noise import GOLDEN_GAMMA, mix


# From the linear noise schedule of LLaDA (arXiv 2502.09992, Algorithms 1 and 2): no ratio is exactly 0.
MIN_MASK_PROBABILITY = 1e-3


@dataclass(frozen=True)
class Draws:
    """
    Random numbers for a batch, each from U(0, 1). Given these numbers, a corruption is deterministic.

    Attributes:
        ratio, window, filled, known (`Tensor` of shape `(B,)`): For the mask ratio or the state, the start of the
            window, whether the tail is filled, and where it starts.
        positions (`Tensor` of shape `(B, N)`): For the positions that are masked at random.
        full (`Tensor` of shape `(B,)`): For whether everything is masked.
        blocks (`Tensor` of shape `(B, N)`, *optional*): For the mask ratio of each block; there are at most N.
        noise (`Tensor` of shape `(B, N)`, *optional*): For the exceptions to an order.
    """

    ratio: Tensor
    window: Tensor
    filled: Tensor
    known: Tensor
    positions: Tensor
    full: Tensor
    blocks: Tensor | None = None
    noise: Tensor | None = None


def draw(seed: int, step: int, index: Tensor, length: int, longest: int | None = None) -> Draws:
    """
    Random numbers that depend only on the seed, the optimizer step and the sample. They are the same for any number of
    processes, in any batch, and in a resumed run.

    A counter-based generator (SplitMix64, Steele et al. 2014) avoids one `torch.Generator` per sample and a loop over
    the rows.

    Args:
        seed (`int`): Seed of the run.
        step (`int`): Optimizer step.
        index (`Tensor` of shape `(B,)`): Rows of the dataset.
        length (`int`): N, positions of the generated regions of this batch.
        longest (`int`, *optional*, defaults to `length`): Positions of the longest region of any batch. It spaces the
            streams of numbers, so that those of a row do not depend on the batch that it is in.

    Returns:
        [`Draws`]: On the device of `index`.
    """
    state = _mix(_mix(_mix(torch.full_like(index, seed)) + step) + index)
    longest = length if longest is None else longest
    place = torch.arange(length, device=index.device)
    of_positions = (place + longest * torch.arange(3, device=index.device)[:, None] + 4).flatten()
    of_rows = torch.tensor([0, 1, 2, 3, 3 * longest + 4], device=index.device)
    numbers = _mix(state[:, None] + (torch.cat([of_rows, of_positions]) + 1) * GOLDEN_GAMMA)
    uniform = ((numbers >> 40) & 0xFFFFFF).float() / 2**24
    ratio, window, filled, known, full = uniform[:, :5].unbind(dim=1)
    positions, blocks, noise = uniform[:, 5:].unflatten(1, (3, length)).unbind(dim=1)
    return Draws(ratio, window, filled, known, positions, full, blocks=blocks, noise=noise)


def _mix(state: Tensor) -> Tensor:
    return mix(state + GOLDEN_GAMMA)


@dataclass(frozen=True)
class Region:
    """
    The generated regions of a batch, N positions wide, without their prompts.

    Attributes:
        commit_steps (`Tensor` of shape `(B, N)`): The teacher's commit steps, including positions after the response:
            whenever an EOS is committed ahead of earlier ones, the decoder fills the rest of the canvas.
        response_lengths (`Tensor` of shape `(B,)`): Tokens up to and including the first EOS.
        canvas_lengths (`Tensor` of shape `(B,)`): Positions of the row's own region; the rest up to N is padding.
        ended (`Tensor` of shape `(B,)`): Whether the response ends with EOS. If not, nothing is known after it.
    """

    commit_steps: Tensor
    response_lengths: Tensor
    canvas_lengths: Tensor
    ended: Tensor

    def commit_order(self) -> Tensor:
        """
        Distinct keys `(B, N)`, larger = committed later. Among positions committed by the same forward, those further
        right count as later. From the first EOS on it is those further left, since an early stop fills from the right.
        """
        length = self.commit_steps.shape[1]
        position = torch.arange(length, device=self.commit_steps.device)
        place = torch.where(position < self.response_lengths[:, None] - 1, position, 2 * length - position)
        return self.commit_steps.long() * (2 * length + 1) + place

    def supervised_lengths(self, eos_tail: int) -> Tensor:
        """Length `(B,)` of the part that windows and losses may cover: the response and at most `eos_tail` EOS."""
        with_tail = self.response_lengths + eos_tail * self.ended
        return torch.minimum(with_tail, self.canvas_lengths)


@dataclass(frozen=True)
class Corruption:
    """
    One view of a batch, or two complementary ones.

    Attributes:
        masked (`Tensor` of shape `(views, B, N)`): Positions that show the mask token. All others show their token,
            which is EOS after the response.
        supervised (`Tensor` of shape `(views, B, N)`): Masked positions whose token is a target.
        ratio (`Tensor` of shape `(B,)` or `(B, N)`): Mask ratio of each row, or of each position.
        start, end (`Tensor` of shape `(B,)`): The window `[start, end)`.
        blocks (`Tensor` of shape `(B, L)`, *optional*): For block-causal attention, the block of each position of the
            canvas.
    """

    masked: Tensor
    supervised: Tensor
    ratio: Tensor
    start: Tensor
    end: Tensor
    blocks: Tensor | None = None

    def of_rows(self, counted: Tensor) -> "Corruption":
        """With the rows `(B,)` that are not counted out of the loss, and out of what it is divided by."""
        end = torch.where(counted, self.end, self.start)
        return replace(self, supervised=self.supervised & counted[:, None], end=end)


def corrupt_window(
    region: Region,
    draws: Draws,
    *,
    use_trajectory: bool,
    complementary: bool,
    mask_ratio_range: tuple[float, float],
    window_size: int | None,
    eos_tail: int,
    filled_tail_share: float = 0.0,
    full_mask_share: float = 0.0,
    mask_noise: float = 0.0,
) -> Corruption:
    """
    A clean prefix, a partly masked window and a masked rest (d3LLM, arXiv 2601.07568, section on distillation).

    1. The supervised part is the response and at most `eos_tail` EOS after it. It is divided into windows from its
       start, and one of them is drawn. No window is empty; the last may be short.
    2. Of the k positions in the window, exactly round(t k) are masked, where t ~ U(`mask_ratio_range`), and t = 1 in
       `full_mask_share` of the rows. With `use_trajectory` these are the last in the teacher's commit order, otherwise
       random ones.
    3. Positions before the window are clean. Positions after it are masked up to the end of the canvas, as in the
       decoder, and are not in the loss. The exception are EOS after the response: they are shown if the teacher had
       committed them, or its early stop had filled them in, by the last forward whose tokens the window shows.
    4. In `filled_tail_share` of the rows, pretend the decoder committed an EOS at or after the end of the response
       earlier than the teacher did: everything from there on is EOS, and the window stops there.
    5. Each position of the window is an exception with probability `mask_noise`: masked instead of shown, or shown
       instead of masked (TRIMS, arXiv 2604.00666: 0.05).
    6. The complementary view masks the other positions of the window.

    Args:
        region ([`Region`]): Commit steps and lengths.
        draws ([`Draws`]): Random numbers.
        use_trajectory (`bool`): Whether to mask by the commit order, or at random.
        complementary (`bool`): Whether there is a second view.
        mask_ratio_range (`tuple[float, float]`): Bounds of the mask ratio's uniform distribution.
        window_size (`int`, *optional*): Positions per window, at most the supervised part. `None` for all of it.
        eos_tail (`int`): Number of EOS after the first one that a window may cover.
        filled_tail_share (`float`, *optional*, defaults to 0.0): Share of rows with a filled tail; 0 in the paper.
        full_mask_share (`float`, *optional*, defaults to 0.0): Share of rows whose whole window is masked; 0 in the
            paper.
        mask_noise (`float`, *optional*, defaults to 0.0): Share of exceptions; 0 in the paper.

    Returns:
        [`Corruption`]: Masks and windows.
    """
    length = region.commit_steps.shape[1]
    position = torch.arange(length, device=region.commit_steps.device)
    is_full = draws.full < full_mask_share
    ratio = _ratio(draws, mask_ratio_range).masked_fill(is_full, 1.0)

    supervised = region.supervised_lengths(eos_tail)
    size = torch.full_like(supervised, length if window_size is None else window_size)
    start = (draws.window * (supervised + size - 1).div(size, rounding_mode="floor")).long() * size
    end = torch.minimum(start + size, supervised)

    is_filled = region.ended & (draws.filled < filled_tail_share)
    first_known = torch.maximum(region.response_lengths - 1, start + 1)
    known = first_known + (draws.known * (supervised - first_known + 1)).long()
    known = torch.where(is_filled, known, region.canvas_lengths)
    end = torch.minimum(end, known)

    inside = (position >= start[:, None]) & (position < end[:, None])
    after = (position >= end[:, None]) & (position < torch.minimum(known, region.canvas_lengths)[:, None])
    count = (ratio * (end - start) + 0.5).floor().long()
    masked = inside & _last(region.commit_order() if use_trajectory else draws.positions, inside, count)
    if use_trajectory:
        shown = (position < end[:, None]) & ~masked
        last_forward = region.commit_steps.masked_fill(~shown, 0).amax(dim=1, keepdim=True)
        is_tail = region.ended[:, None] & (position >= region.response_lengths[:, None])
        after = after & ~(is_tail & (region.commit_steps <= last_forward))
    if mask_noise and draws.noise is not None:
        masked = masked ^ (inside & (draws.noise < mask_noise))
    return _views(masked, inside, after, complementary, ratio, start, end)


def corrupt_state(
    region: Region,
    draws: Draws,
    *,
    complementary: bool,
    eos_tail: int,
    full_mask_share: float | None = None,
    blocks: Tensor | None = None,
) -> Corruption:
    """
    A state that the recorded run was in: what it committed after a drawn forward is masked, on the whole canvas.

    The forward s is drawn from 0, after which nothing is committed yet, to the one before the last that committed a
    position of the supervised part, so that a position is left to learn. There are no windows and no mask ratio.
    Positions after a response without EOS are unknown, and masked.

    With `blocks`, each block has a forward of its own, drawn from the one before its first commit to the one before
    its last: for blocks that see those before them without masks, so that every block of a row is half done.

    Args:
        region, draws, complementary, eos_tail: As in [`corrupt_window`].
        full_mask_share (`float`, *optional*): Share of rows with s = 0, where all that the run committed is masked; s
            is at least 1 in the others. By default 0 is as likely as any other forward. With `blocks`, read the
            forward before the first commit of each block for 0.
        blocks (`Tensor` of shape `(B, N)`, *optional*): The block of each position, rising by at most 1 along a row.

    Returns:
        [`Corruption`]: The window is the supervised part, and the ratio the share of it that is masked.
    """
    position = torch.arange(region.commit_steps.shape[1], device=region.commit_steps.device)
    end = region.supervised_lengths(eos_tail)
    inside = position < end[:, None]
    steps = region.commit_steps.long()
    number = torch.zeros_like(steps) if blocks is None else blocks - blocks[:, :1]
    last = torch.zeros_like(steps).scatter_reduce(1, number, steps.masked_fill(~inside, 0), "amax")
    before = torch.zeros_like(steps)  # the last forward after which all of a block is masked
    uniform = draws.ratio[:, None]
    if blocks is not None and draws.blocks is not None:
        before = last.scatter_reduce(1, number, torch.where(inside, steps, last.gather(1, number)), "amin") - 1
        uniform = draws.blocks
    lowest = before if full_mask_share is None else before + 1
    state = lowest + (uniform * (last - lowest).clamp(min=0)).long()
    if full_mask_share is not None:
        state = torch.where(draws.full[:, None] < full_mask_share, before, state)
    hidden = steps > state.gather(1, number)
    is_unknown = ~region.ended[:, None] & (position >= region.response_lengths[:, None])
    after = (hidden | is_unknown) & ~inside & (position < region.canvas_lengths[:, None])
    masked = hidden & inside
    ratio = masked.sum(dim=1) / end
    return _views(masked, inside, after, complementary, ratio, torch.zeros_like(end), end)


def corrupt_response(
    region: Region,
    draws: Draws,
    *,
    complementary: bool,
    mask_ratio_range: tuple[float, float],
    eos_tail: int,
    block_ratios: str = "shared",
    blocks: Tensor | None = None,
    full_mask_share: float = 0.0,
) -> Corruption:
    """
    Every position of the generated region is masked independently with probability (1 - 1e-3) t + 1e-3 (LLaDA,
    arXiv 2502.09992, Algorithm 2), or all are. The loss covers those of the response and of at most `eos_tail` EOS
    after it.

    Args:
        region, draws, complementary, mask_ratio_range, eos_tail: As in [`corrupt_window`].
        block_ratios (`str`, *optional*, defaults to `"shared"`): `"shared"`, one ratio t for the row; `"independent"`,
            one for each block; `"rising"`, from block to block, see [`rising_ratios`].
        blocks (`Tensor` of shape `(B, N)`, *optional*): For the latter two, the block of each position, rising by at
            most 1 along a row.
        full_mask_share (`float`, *optional*, defaults to 0.0): Share of rows in which t = 1.

    Returns:
        [`Corruption`]: The window is the supervised part.
    """
    length = region.commit_steps.shape[1]
    position = torch.arange(length, device=region.commit_steps.device)
    ratio = _ratio(draws, mask_ratio_range)
    end = region.supervised_lengths(eos_tail)
    probability = mask_probability(ratio)[:, None]
    if block_ratios != "shared" and blocks is not None and draws.blocks is not None:
        low, high = mask_ratio_range
        number = blocks - blocks[:, :1]
        count = number.gather(1, end[:, None] - 1) + 1
        rising = block_ratios == "rising"
        of_blocks = rising_ratios(ratio, high, count, draws.blocks) if rising else low + (high - low) * draws.blocks
        ratio = of_blocks.gather(1, number)
        probability = mask_probability(ratio)
    is_full = draws.full < full_mask_share
    ratio = ratio.masked_fill(is_full if ratio.ndim == 1 else is_full[:, None], 1.0)
    hidden = (draws.positions < probability) | is_full[:, None]
    inside = position < end[:, None]
    after = (position >= end[:, None]) & (position < region.canvas_lengths[:, None])
    unknown = after & ~region.ended[:, None]
    views = _views(hidden & inside, inside, unknown, complementary, ratio, torch.zeros_like(end), end)
    tails = torch.stack([hidden & after, ~hidden & after][: len(views.masked)])
    return Corruption(views.masked | tails, views.supervised, ratio, views.start, end)


def corrupt_reference(
    region: Region,
    draws: Draws,
    *,
    use_trajectory: Tensor,
    complementary: bool,
    mask_ratio_range: tuple[float, float],
    window_size: int | None,
    windows_over_canvas: bool,
) -> Corruption:
    """
    The masking of the published training code, to reproduce its runs.

    The window starts at a multiple of `window_size`, drawn from 0 to the span inclusive; the last choice extends to
    the end of the canvas. A position is masked if the teacher's record number `start + int((1 - t) size)`, counted
    over the whole response, had not committed it. This assumes one token per forward, strictly block after block, and
    gives a different ratio where the windows do not align with the teacher's blocks. The records are counted from 0
    and begin after the first commit, which the index does not take into account. Without a trajectory, positions of
    the window are masked independently.

    Args:
        region ([`Region`]), draws ([`Draws`]), complementary (`bool`), mask_ratio_range (`tuple[float, float]`),
        window_size (`int`): As in [`corrupt_window`].
        use_trajectory (`Tensor` of shape `(B,)`): Rows that are masked by their trajectory.
        windows_over_canvas (`bool`): Whether windows are drawn over the padding too (Dream), or only over the
            response.

    Returns:
        [`Corruption`]: Masks and windows.
    """
    length = region.commit_steps.shape[1]
    position = torch.arange(length, device=region.commit_steps.device)
    ratio = _ratio(draws, mask_ratio_range)
    if window_size is None:
        start, end = torch.zeros_like(region.canvas_lengths), region.canvas_lengths
    else:
        span = region.canvas_lengths if windows_over_canvas else region.response_lengths
        last = span.div(window_size, rounding_mode="floor")
        choice = (draws.window * (last + 1)).long()
        start = choice * window_size
        end = torch.where(choice == last, region.canvas_lengths, start + window_size)
        end = torch.minimum(end, region.canvas_lengths)
    inside = (position >= start[:, None]) & (position < end[:, None])
    after = (position >= end[:, None]) & (position < region.canvas_lengths[:, None])
    last_record = region.commit_steps.amax(dim=1) - 1
    record = torch.minimum(start + ((1 - ratio) * (end - start)).long(), last_record)
    by_order = region.commit_steps > (record + 1)[:, None]
    # The published records are padded with masks for LLaDA and with EOS for Dream.
    outside = position >= region.response_lengths[:, None]
    by_order = by_order & ~outside if windows_over_canvas else by_order | outside
    by_chance = draws.positions < mask_probability(ratio)[:, None]
    masked = inside & torch.where(use_trajectory[:, None], by_order, by_chance)
    return _views(masked, inside, after, complementary, ratio, start, end)


def _ratio(draws: Draws, mask_ratio_range: tuple[float, float]) -> Tensor:
    low, high = mask_ratio_range
    return low + (high - low) * draws.ratio


def rising_ratios(first: Tensor, highest: float, count: Tensor, draws: Tensor) -> Tensor:
    """
    Mask ratios that never fall from block to block, as in D2F (arXiv 2508.09192): the decoder meets later blocks with
    more masks. To the first ratio, each further block adds U(0, 1) times (highest - first) / (count - 1).

    Args:
        first (`Tensor` of shape `(B,)`): Ratio of the first block.
        highest (`float`): Bound of the last ratio.
        count (`Tensor` of shape `(B, 1)`): Blocks that share the rise; later ones have the ratio of the last of them.
        draws (`Tensor` of shape `(B, M)`): From U(0, 1), for each block.

    Returns:
        `Tensor` of shape `(B, M)`: The ratios.
    """
    block = torch.arange(draws.shape[1], device=draws.device)
    share = (draws * ((block > 0) & (block < count))).cumsum(dim=1) / (count - 1).clamp(min=1)
    return first[:, None] + (highest - first[:, None]) * share


def mask_probability(ratio: Tensor) -> Tensor:
    """The probability that random corruption masks a position at a given ratio."""
    return (1 - MIN_MASK_PROBABILITY) * ratio + MIN_MASK_PROBABILITY


def _last(key: Tensor, inside: Tensor, count: Tensor) -> Tensor:
    """In each row, the `count` positions `inside` with the largest keys. Keys must not be negative."""
    return ranks(key, inside) >= (inside.sum(dim=1) - count)[:, None]


def ranks(key: Tensor, inside: Tensor) -> Tensor:
    """
    The places of positions in the order of their keys.

    Args:
        key (`Tensor` of shape `(..., N)`): Distinct keys, such as [`Region.commit_order`], not negative.
        inside (`Tensor` of shape `(..., N)`): Positions that have a place.

    Returns:
        `torch.LongTensor` of shape `(..., N)`: From 0 in each row; negative for the other positions.
    """
    order = key.masked_fill(~inside, -1).argsort(dim=-1, stable=True)
    place = torch.arange(key.shape[-1], device=key.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place) - (~inside).sum(dim=-1, keepdim=True)


def _views(
    masked: Tensor, inside: Tensor, after: Tensor, complementary: bool, ratio: Tensor, start: Tensor, end: Tensor
) -> Corruption:
    supervised = torch.stack([masked, inside & ~masked] if complementary else [masked])
    return Corruption(supervised | after, supervised, ratio, start, end)
