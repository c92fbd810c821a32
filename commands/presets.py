"""`d3llm presets`: the table of presets and their sources."""

import argparse
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("presets", help="list the presets and the papers they come from")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from d3llm.generation.presets import PRESETS

    table = Table(title="Presets", title_justify="left", show_lines=True)
    table.add_column("preset", style="bold")
    table.add_column("what it does, and its source")
    table.add_column("parameters", overflow="fold")
    for preset in PRESETS.values():
        method = Text.assemble(preset.summary, "\n", (preset.source, "dim"))
        parameters = _lines(preset.values)
        for family, values in preset.family_values.items():
            parameters += [f"for {family}:", *_lines(values)]
        table.add_row(preset.name, method, Text("\n".join(parameters)))
    Console(highlight=False).print(table)


def _lines(values: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]
