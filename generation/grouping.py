"""Which rows of a batch share a call: their windows differ in width, and a call is as wide as its widest row."""

from itertools import pairwise

import numpy as np


CALL_POSITIONS = 32  # the price of a further call: 30 to 38 on a CPU, measured on models of 2, 4 and 168 M
MOST_CALLS = 8


def group_rows(widths: np.ndarray) -> list[tuple[np.ndarray | None, int]]:
    """
    Divides rows into calls such that the fewest positions are computed, with `CALL_POSITIONS` more for each call.

    The rows of a call are neighbours in the order of their widths, so the best division is found by dynamic
    programming over the number of calls. It runs on the host.

    Args:
        widths (`np.ndarray` of shape `(B,)`): Positions that each row recomputes.

    Returns:
        `list[tuple[np.ndarray | None, int]]`: For each call its rows, `None` for all of them, and its width.
    """
    rows, widest = len(widths), int(widths.max())
    if widest * rows <= widths.sum() + CALL_POSITIONS:
        return [(None, widest)]
    order = np.argsort(-widths, kind="stable")
    ordered, numbers = widths[order], np.arange(rows + 1)
    # cost[i, j]: of rows i to j - 1 of this order in one call
    cost = (numbers - numbers[:rows, None]) * ordered[:, None] + float(CALL_POSITIONS)
    cost[numbers <= numbers[:rows, None]] = np.inf
    cheapest, starts = [cost[0]], []  # of the first j rows in 1, 2, ... calls, and where the last call starts
    for _ in range(min(rows, MOST_CALLS) - 1):
        total = cheapest[-1][:rows, None] + cost
        starts.append(total.argmin(axis=0))
        cheapest.append(total.min(axis=0))
    calls = int(np.argmin([total[rows] for total in cheapest]))
    bounds = [rows]
    for start in reversed(starts[:calls]):
        bounds.append(int(start[bounds[-1]]))
    return [(order[start:end], int(ordered[start])) for start, end in pairwise([0, *reversed(bounds)])]
