"""A console for tables with names from files and arguments, views side by side, and how texts count forwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from d3llm.evaluation.result import Result


def table_console(width: int) -> Console:
    """
    A console that prints names unchanged: `[red]` and `:smile:` in a name are text.

    Args:
        width (`int`): Minimum width, in columns, when there is no terminal: a log has no right edge.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, width)
    return console


def count_forwards(forwards: int, row_forwards: int, assistant_forwards: int = 0) -> str:
    """
    Forwards in words, with their rows if they are not as many: drafts and guidance take several rows in one forward.
    Those of an assistant are told beside them.

    Args:
        forwards (`int`): Forwards.
        row_forwards (`int`): Row forwards.
        assistant_forwards (`int`, *optional*, defaults to 0): Forwards of the assistant.
    """
    rows = f" ({row_forwards} row forwards)" if row_forwards != forwards else ""
    return f"{forwards} forwards{rows}" + (f" and {assistant_forwards} of the assistant" if assistant_forwards else "")


def accuracy_text(percent: float, low: float, high: float, check: str | None = None) -> str:
    """
    An accuracy in words, with the name of the check that it is by.

    Args:
        percent (`float`), low (`float`), high (`float`): The accuracy and the ends of its interval, from 0 to 100.
        check (`str`, *optional*): The name.
    """
    from d3llm.evaluation.result import short_name

    return f"{percent:.1f}% ({low:.1f}% to {high:.1f}%)" + (f" by {short_name(check)}" if check else "")


def further_text(result: Result) -> str:
    """
    The accuracies by further checks that differ from the deciding one, a line each.

    Args:
        result ([`~d3llm.evaluation.result.Result`]): A measured point.
    """
    return "\n".join(accuracy_text(*by, check=name) for name, by in result.differing_percent.items())


def beside(views: Sequence[RenderableType]) -> RenderableType:
    """
    Views side by side, each as wide as the others.

    Args:
        views (`Sequence[RenderableType]`): The views, from left to right.
    """
    from rich.table import Table

    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in views:
        grid.add_column(ratio=1)
    grid.add_row(*views)
    return grid
