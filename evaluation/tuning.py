"""Chooses a setting among measured points."""

from collections.abc import Sequence
from typing import Any

from .aup.aup import compute_aup


OBJECTIVES = ("aup", "tps")


def choose_point(results: Sequence[dict[str, Any]], objective: str = "aup", max_loss: float = 1.0) -> dict[str, Any]:
    """
    The best of points that lose no more accuracy than is allowed.

    The loss is against the most accurate of the points. By `"tps"` it is the fastest of the others. By `"aup"` the
    points that differ in `threshold` alone are a curve; the curve with the largest AUP wins, and on it the point with
    the most tokens per forward.

    Args:
        results (`Sequence[dict[str, Any]]`): Results of [`measure`] on the same samples; `point` tells them apart.
        objective (`str`, *optional*, defaults to `"aup"`): `"aup"` or `"tps"`.
        max_loss (`float`, *optional*, defaults to 1.0): Allowed loss of accuracy, in percent.

    Returns:
        `dict[str, Any]`: One of the results.
    """
    best = max(result["accuracy"] for result in results)
    allowed = [result for result in results if 100 * (best - result["accuracy"]) <= max_loss + 1e-9]
    if objective == "tps":
        return max(allowed, key=lambda result: result["tokens_per_second"])
    curves: dict[str, list[dict[str, Any]]] = {}
    for result in allowed:
        rest = {name: value for name, value in result["point"].items() if name != "threshold"}
        curves.setdefault(repr(rest), []).append(result)

    def area(curve: list[dict[str, Any]]) -> float:
        return compute_aup(
            [result["tokens_per_forward"] for result in curve],
            [100 * result["accuracy"] for result in curve],
            y_max=100 * best or None,
        )

    best_curve = max(curves.values(), key=area)
    return max(best_curve, key=lambda result: result["tokens_per_forward"])
