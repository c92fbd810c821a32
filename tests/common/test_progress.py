"""Progress of a run: a bar in a terminal, lines of the log elsewhere, nothing on the other processes."""

import io
import logging

from rich.console import Console

from d3llm.common.progress import RunProgress


def test_a_bar_is_drawn_in_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RunProgress("decoding [b]", 8, 2, console=console) as progress:
        progress.advance(6, "3.00 TPF")
    shown = console.file.getvalue()
    assert "decoding [b]" in shown and "8/8" in shown and "3.00 TPF" in shown


def test_elsewhere_the_log_has_a_line_of_each_update(caplog):
    caplog.set_level(logging.INFO, logger="d3llm")
    console = Console(file=io.StringIO(), force_terminal=False)
    with RunProgress("extracting", 8, console=console, log=True) as progress:
        progress.advance(2, "50.0% correct")
        progress.update(8)
    assert console.file.getvalue() == ""
    first, last = caplog.messages
    assert first.startswith("extracting: 2 of 8, 50.0% correct") and last.startswith("extracting: 8 of 8")
    with RunProgress("extracting", 8, console=console, log=True, visible=False) as progress:
        progress.advance()
    assert len(caplog.messages) == 2
