"""Arguments shared by the commands that decode: a checkpoint, a preset, and a flag for every field of the config."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class _Help(argparse.Action):
    """`--help` that also lists the fields of the config. They are imported only here, to keep start-up fast."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        from d3llm.generation.fields import CHOICES

        lines = ["fields of DiffusionGenerationConfig, which override the preset:"]
        for name, default in config_fields().items():
            choices = f": {', '.join(CHOICES[name])}" if name in CHOICES else ""
            lines.append(f"  --{name.replace('_', '-')} (default {json.dumps(default)}){choices}")
        parser.epilog = "\n".join(lines)
        parser.print_help()
        parser.exit()


def add_decoding_arguments(
    parser: argparse.ArgumentParser, *model_flags: str, default_model: str | None = "teacher", nargs: str | None = None
) -> None:
    """Adds the arguments of all commands that decode. The parser must be created with `add_help=False`. With `nargs`
    there may be several models and presets."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help message and exit")
    parser.add_argument(
        *(model_flags or ("--model",)),
        dest="model",
        type=not_empty,
        nargs=nargs,
        metavar="DIR",
        required=default_model is None,
        help="checkpoint folder" + (f" (default: the shipped {default_model})" if default_model else ""),
    )
    parser.add_argument(
        "--preset", nargs=nargs, metavar="NAME", help="see `d3llm presets` (default: the checkpoint's own)"
    )
    parser.add_argument("--device", help="for example cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the tokenizer run code from the folder")
    parser.set_defaults(takes_fields=True, parser=parser)


def not_empty(text: str) -> str:
    """The `type` of arguments that name a file, a model or a dataset: `--model "$UNSET"` is none."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def config_fields() -> dict[str, Any]:
    """The fields of `DiffusionGenerationConfig` that are flags, with their defaults."""
    from d3llm.generation.fields import METHOD_DEFAULTS, RUN_DEFAULTS

    fields = {**RUN_DEFAULTS, "top_k": None, "top_p": None, **METHOD_DEFAULTS}
    for name in ("preset", "output_logprobs", "output_history"):  # has its own argument; do not affect the text
        del fields[name]
    return fields


def read_options(options: list[str], names: Iterable[str], others: Iterable[str] = ()) -> dict[str, Any]:
    """
    Reads options: `["--block-size", "8", "--cache=block"]` gives `{"block_size": 8, "cache": "block"}`.

    Args:
        options (`list[str]`): As on the command line.
        names (`Iterable[str]`): The names that there are.
        others (`Iterable[str]`, *optional*): Further flags that an unknown one may have meant.

    Returns:
        `dict[str, Any]`: Their values, each a JSON value or a text.

    Raises:
        `ValueError`: For an unknown option or one without a value.
    """
    from d3llm.generation.fields import suggestion

    fields = {f"--{name.replace('_', '-')}": name for name in names}
    values: dict[str, Any] = {}
    rest = list(options)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        if flag not in fields:
            raise ValueError(f"unknown option {flag}{suggestion(flag, [*fields, *others])}, see --help")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{flag} needs a value")
            text = rest.pop(0)
        name = fields[flag]
        try:
            values[name] = json.loads(text)  # a number, true or false
        except (ValueError, RecursionError):
            values[name] = text
        if values[name] is None:
            raise ValueError(f"{flag} needs a value: omit it for the default")
    return values


def parse_fields(args: argparse.Namespace) -> dict[str, Any]:
    """
    Parses the given fields.

    Args:
        args (`argparse.Namespace`): The parsed arguments, with the unknown ones as `fields`.

    Returns:
        `dict[str, Any]`: Arguments of `generate`, with the preset. Their values are already checked by the config, so
        that errors are reported before the weights are loaded.

    Raises:
        `ValueError`: For an unknown field or an invalid value.
    """
    from d3llm.generation import DiffusionGenerationConfig
    from d3llm.generation.fields import FIELDS, Flag

    values = read_options(args.fields, config_fields(), flags_of(args))
    for name, value in values.items():
        if isinstance(FIELDS[name].kind, Flag) and not isinstance(value, bool):
            raise ValueError(f"--{name.replace('_', '-')} is true or false, not {value}")
    if args.preset is not None:
        values["preset"] = args.preset
    config = DiffusionGenerationConfig(**values)
    if args.preset is not None:
        config.resolve()
    return values


def flags_of(args: argparse.Namespace) -> list[str]:
    """The flags of a command besides the fields."""
    return [flag for action in args.parser._actions for flag in action.option_strings]


def checkpoint_folder(args: argparse.Namespace, default: str = "teacher") -> Path:
    """The folder given by `--model`; by default that of a shipped model."""
    from d3llm.quickstart import checkpoint_path

    return checkpoint_path(default) if args.model is None else Path(args.model)
