"""`d3llm space`: the demo Space on this machine."""

import argparse
import os
from pathlib import Path

from .fields import not_empty


EXAMPLES = 4


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("space", help="run the demo Space on this machine (extra `demo`)")
    parser.add_argument(
        "--model",
        type=not_empty,
        nargs="+",
        metavar="DIR",
        help="one or two checkpoint folders or Hub ids, whose code may run (default: the shipped teacher and student)",
    )
    parser.add_argument("--port", type=int, metavar="N", help="port to listen on (default: a free one from 7860)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    models = named_models(args.model)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it would call home
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError("The Space needs gradio: pip install 'd3llm[demo]'.") from error
    import d3llm.modeling  # noqa: F401  registers the families: a folder of them needs no code of its own
    from d3llm.hub_cards.canvas_space.interface import Settings, build
    from d3llm.quickstart.stories.caution import caution_of

    from .loading import quiet_libraries

    quiet_libraries()
    settings = Settings(models, examples=shipped_examples()) if args.model is None else Settings(models)
    cautions = {name: caution_of(Path(location)) for name, location in models.items()}
    build(settings, cautions).launch(server_port=args.port, quiet=False)


def named_models(folders: list[str] | None) -> dict[str, str]:
    """
    The models of the page by name.

    Raises:
        `ValueError`: For more than two, and for two of the same name.
    """
    from d3llm.quickstart import CHECKPOINTS, checkpoint_path

    if folders is None:
        return {name: str(checkpoint_path(name)) for name in CHECKPOINTS}
    if len(folders) > 2:
        raise ValueError(f"--model names {len(folders)} models: the page has two sides.")
    named = {(Path(folder).resolve().name if Path(folder).is_dir() else folder): folder for folder in folders}
    if len(named) < len(folders):
        raise ValueError("Both models of --model have the same name: rename one folder.")
    return named


def shipped_examples() -> list[str]:
    """Problems that the shipped models have not seen."""
    from d3llm.quickstart.stories.problem import generate_problems

    return [problem.question for problem in generate_problems("test", EXAMPLES, seed=1)]
