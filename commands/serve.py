"""`d3llm serve`: answers chat requests in OpenAI's protocol with a masked-diffusion model."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from .fields import not_empty


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("serve", help="answer chat requests in OpenAI's protocol")
    parser.add_argument(
        "--model",
        type=not_empty,
        metavar="DIR_OR_REPO",
        help="checkpoint folder or Hub id (default: the shipped student)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 for a free one (default: %(default)s)")
    parser.add_argument("--device", help="for example cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the tokenizer run code from the folder")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="rows decoded at a time (default: %(default)s)"
    )
    limits.add_argument(
        "--queue", type=int, default=256, metavar="N", help="requests decoded or waiting (default: %(default)s)"
    )
    limits.add_argument(
        "--prompt-tokens", type=int, metavar="N", help="longest prompt (default: the model's positions)"
    )
    limits.add_argument(
        "--new-tokens", type=int, default=1024, metavar="N", help="longest answer (default: %(default)s)"
    )
    limits.add_argument(
        "--shutdown-seconds", type=int, default=30, metavar="S", help="for open answers (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """
    Serves until it is interrupted.

    Args:
        args (`argparse.Namespace`): The parsed arguments.

    Raises:
        `ValueError`: For limits below 1, and an empty host.
        `OSError`: For a model that cannot be loaded, and a port that is in use.
        `ImportError`: Without the extra `serve`.
    """
    for name in ("batch_size", "queue", "prompt_tokens", "new_tokens", "shutdown_seconds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}.")
    if not args.host:
        raise ValueError("--host is empty, which would be every address: give one, such as 127.0.0.1 or 0.0.0.0.")
    check_packages()
    listening = listen(args.host, args.port)
    from d3llm.generation.scheduler import Scheduler

    from .loading import load_model
    from .serve_app import Server, build_app
    from .serve_requests import Limits
    from .serve_worker import Worker

    with listening:
        folder = checkpoint_of(args.model).resolve()
        model, tokenizer = load_model(folder, device=args.device, trust_remote_code=args.trust_remote_code)
        model.special_tokens(model.diffusion_config())  # a model that cannot decode is an error now
        limits = Limits(args.prompt_tokens, args.new_tokens, args.queue)
        worker = Worker(Scheduler(model, tokenizer, rows=args.batch_size), limits.requests)
        is_folder = args.model is None or Path(args.model).is_dir()
        names = [name for name in (folder.name if is_folder else None, args.model) if name is not None]
        app = build_app(worker, tokenizer, names, limits)
        worker.start()
        host, port = listening.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"{names[0]} on http://{host}:{port}/v1", flush=True)
        Server(app, worker, args.shutdown_seconds).run(sockets=[listening])


def check_packages() -> None:
    """Raises an `ImportError` if the packages of the extra are not installed."""
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise ImportError("`d3llm serve` needs fastapi, uvicorn and openai: pip install 'd3llm[serve]'")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before the model is loaded."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen on {host}:{port} ({error}): give another --host or --port") from error


def checkpoint_of(model: str | None) -> Path:
    """The folder of a checkpoint: of the shipped student by default, and of a model on the Hub after its download."""
    from d3llm.quickstart import checkpoint_path

    if model is None:
        return checkpoint_path("student")
    if Path(model).exists() or model.count("/") != 1 or model[0] in "/.~":
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, ignore_patterns=["*.bin", "*.pth", "*.pt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"{model} is neither a folder nor a model that can be downloaded: {reason}") from error
