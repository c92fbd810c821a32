"""`d3llm generate --drafter`: a causal model's own text, in fewer forwards."""

from __future__ import annotations

import argparse
from typing import Any

from .fields import flags_of, read_options


SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")


def run(args: argparse.Namespace) -> None:
    """
    Answers the prompt of the command line with `args.model` and its drafter; the text is printed as it comes.

    Args:
        args (`argparse.Namespace`): The parsed arguments, with the fields of the decoder as `fields`.

    Raises:
        `ValueError`: For arguments of a diffusion model, unknown fields, and a drafter of another model.
        `OSError`: For a model or a drafter that is missing or damaged.
    """
    fields = _fields(args)
    import torch
    from rich.console import Console
    from transformers import TextStreamer

    from d3llm import IntrospectiveModel
    from d3llm.evaluation import encode_prompt
    from d3llm.modeling.drafter import Drafter
    from d3llm.modeling.loading import load_autoregressive_model, load_tokenizer

    from .loading import quiet_libraries

    quiet_libraries()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    base = load_autoregressive_model(args.model, trust_remote_code=args.trust_remote_code).to(device)
    tokenizer = load_tokenizer(args.model, trust_remote_code=args.trust_remote_code)
    model = IntrospectiveModel(Drafter.from_pretrained(args.drafter, base))
    input_ids = torch.tensor([encode_prompt(tokenizer, args.prompt, chat=args.chat)], device=device)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(input_ids, streamer=streamer, return_dict_in_generate=True, tokenizer=tokenizer, **fields)
    console = Console(highlight=False)
    if console.is_terminal:
        forwards, parallelism = int(output.forward_passes), float(output.tokens_per_forward)
        console.print(f"{int(output.tokens)} tokens in {forwards} forwards, TPF {parallelism:.2f}", style="dim")


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    from d3llm.generation.introspective_settings import OWN_FIELDS, PRESET

    if args.model is None:
        raise ValueError("--drafter needs --model, the causal model that it belongs to.")
    if args.input is not None:
        raise ValueError("--drafter takes one --prompt; for batches use `IntrospectiveModel.generate` in Python.")
    if args.assistant is not None:
        raise ValueError("--drafter and --assistant exclude each other: one is for a causal model.")
    if args.preset not in (None, PRESET):
        raise ValueError(f"--preset {args.preset} is for diffusion models: a drafter has '{PRESET}' alone.")
    names = ["max_new_tokens", *SAMPLING, *OWN_FIELDS]
    return {"max_new_tokens": 256} | read_options(args.fields, names, flags_of(args))
