"""Chooses the best setting among measured points."""

from collections.abc import Sequence

from .result import Result, area


def choose_point(results: Sequence[Result], objective: str = "aup", max_loss: float = 1.0) -> Result:
    """
    The best of the points that lose no more accuracy than allowed.

    The loss is relative to the most accurate point. With `"tpf"`, the best of the allowed points is the one with the
    most tokens per forward, and with `"tps"` the fastest. With `"aup"`, points that differ only in `threshold` form a
    curve, and the best is the point with the most tokens per forward on the curve with the largest AUP.

    Args:
        results (`Sequence[Result]`): Results on the same samples, identified by their `point`.
        objective (`str`, *optional*, defaults to `"aup"`): `"aup"`, `"tpf"` or `"tps"`.
        max_loss (`float`, *optional*, defaults to 1.0): Allowed loss of accuracy, in points.

    Returns:
        [`Result`]: One of the results.
    """
    best = max(result.accuracy_percent for result in results)
    allowed = [result for result in results if best - result.accuracy_percent <= max_loss + 1e-9]
    if objective == "tps":
        return max(allowed, key=lambda result: result.tokens_per_second or 0.0)
    if objective == "tpf":
        return max(allowed, key=lambda result: (result.tokens_per_forward or 0.0, result.accuracy))
    curves: dict[str, list[Result]] = {}
    for result in allowed:
        rest = {name: value for name, value in result.point.items() if name != "threshold"}
        curves.setdefault(repr(rest), []).append(result)
    best_curve = max(curves.values(), key=lambda curve: area(curve, y_max=best or None))
    return max(best_curve, key=lambda result: result.tokens_per_forward or 0.0)
