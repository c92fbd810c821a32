"""`d3llm presets`: the table of presets and their sources."""

import argparse
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("presets", help="list the presets and their papers")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from d3llm.generation.presets import PRESETS
    from d3llm.modeling import families

    table = Table(title="Presets", title_justify="left", show_lines=True)
    table.add_column("preset", style="bold")
    table.add_column("method and source")
    table.add_column("parameters", overflow="fold")
    for preset in PRESETS.values():
        method = Text.assemble(preset.summary, "\n", (preset.source, "dim"))
        parameters = _lines(preset.values)
        for family in families():
            if preset.name in family.preset_values:
                values = family.preset_values[preset.name]
                parameters += [f"for {family.config_class.model_type}:", *_lines(values)]
        table.add_row(preset.name, method, Text("\n".join(parameters)))
    Console(highlight=False).print(table)


def _lines(values: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]
