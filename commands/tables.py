"""A console for tables with names from files and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.console import Console


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
