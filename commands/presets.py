"""`d3llm presets`: the table of presets and their sources."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("presets", help="list the presets and the papers they come from")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from d3llm.generation import PRESETS

    table = Table("preset", "what it does", "source", "parameters", title="Presets", title_justify="left")
    for preset in PRESETS.values():
        parameters = _fields(preset.values)
        for family, values in preset.family_values.items():
            parameters += f"\n{family}: {_fields(values)}"
        table.add_row(f"[bold]{preset.name}[/bold]", preset.summary, preset.source, parameters, end_section=True)
    Console().print(table)


def _fields(values: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
