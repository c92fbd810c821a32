"""Curricula, such as d3LLM's (arXiv 2601.07568), as pure functions of the progress of training, from 0 to 1."""

from collections.abc import Sequence


def mask_ratio_bound(progress: float, min_mask_ratio: float, max_mask_ratio: float) -> float:
    """
    The lower bound `c` of the mask ratio, which is drawn from U(c, `max_mask_ratio`). It rises linearly.

    Args:
        progress (`float`): Share of the optimizer steps done, 0 to 1.
        min_mask_ratio (`float`), max_mask_ratio (`float`): The bound at the start and at the end.

    Returns:
        `float`: The bound.
    """
    return min_mask_ratio + (max_mask_ratio - min_mask_ratio) * progress


def window_size_at(progress: float, window_sizes: Sequence[int]) -> int:
    """
    The window size in positions. Training has as many equal phases as there are sizes. Phase `i` grows linearly from
    size `i` to size `i + 1`, rounded down; the last phase is constant.

    Args:
        progress (`float`): Share of the optimizer steps done, 0 to 1.
        window_sizes (`Sequence[int]`): Sizes at the start of each phase. The reference has one phase per epoch.

    Returns:
        `int`: The size.
    """
    phase = min(int(progress * len(window_sizes)), len(window_sizes) - 1)
    first, second = window_sizes[phase], window_sizes[min(phase + 1, len(window_sizes) - 1)]
    return int(first + (second - first) * (progress * len(window_sizes) - phase))


def phase_of(progress: float, sizes: Sequence[int]) -> int:
    """
    The size of the current phase, of as many equal phases as there are sizes. Unlike the window, it does not grow
    within a phase: blocks of a size that no phase names would be new to the model.

    Args:
        progress (`float`): Share of the optimizer steps done, 0 to 1.
        sizes (`Sequence[int]`): The size of each phase.

    Returns:
        `int`: The size.
    """
    return sizes[min(int(progress * len(sizes)), len(sizes) - 1)]
