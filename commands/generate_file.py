"""`d3llm generate --input`: decodes a file of prompts to a file of results, and resumes if it was interrupted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from d3llm.evaluation import PromptLine
    from d3llm.generation import DiffusionGenerationConfig

BATCH_SIZE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files of prompts")
    files.add_argument("--output", type=Path, metavar="FILE", help="file to write the texts to, as JSON lines")
    files.add_argument("--batch-size", type=int, metavar="N", help=f"prompts per batch (default: {BATCH_SIZE})")
    files.add_argument("--overwrite", action="store_true", help="start again if the output exists")


def check_arguments(args: argparse.Namespace) -> None:
    """Raises a `ValueError` for arguments that contradict each other, before anything is loaded."""
    if args.input is None:
        given = {"--output": args.output, "--batch-size": args.batch_size, "--overwrite": args.overwrite or None}
        for flag, value in given.items():
            if value is not None:
                raise ValueError(f"{flag} belongs to --input, not to --prompt.")
        return
    if args.output is None:
        raise ValueError("--input needs --output, the file to write the texts to.")
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    if args.output.exists() and args.input.exists() and args.output.samefile(args.input):
        raise ValueError(f"--input and --output are the same file, {args.input}: give another --output.")


def run(args: argparse.Namespace, folder: Path, fields: dict[str, Any]) -> None:
    """
    Decodes the prompts that the output does not have yet, and appends their texts to it.

    Args:
        args (`argparse.Namespace`): The parsed arguments.
        folder (`Path`): The checkpoint.
        fields (`dict[str, Any]`): The given fields of `DiffusionGenerationConfig`.

    Raises:
        `ValueError`: After all other prompts are decoded, if some lines of the file are not prompts.
    """
    from d3llm.common.files import check_writable
    from d3llm.common.fingerprints import fingerprint, fingerprint_checkpoint
    from d3llm.common.progress import RunProgress
    from d3llm.evaluation import (
        ResultsFile,
        decoding_fields,
        generate_as_rows_finish,
        read_prompts,
    )

    from .loading import load_assistant, load_model

    lines, faults = read_prompts(args.input)
    for fault in faults:
        sys.stderr.write(f"d3llm: warning: {args.input}, {fault}; skipped\n")
    check_writable(args.output)
    model, tokenizer = load_model(folder, device=args.device, trust_remote_code=args.trust_remote_code)
    assistant = load_assistant(args)
    encoded = [_encode(tokenizer, line, args) for line in lines]
    config = _resolve(model, lines, encoded, fields, args.input)
    sequences = range(config.num_return_sequences)
    settings = {
        "model": str(folder.resolve()),
        "weights": fingerprint_checkpoint(folder),
        **({} if assistant is None else {"assistant": fingerprint_checkpoint(Path(args.assistant))}),
        "prompts": fingerprint([[line.id, ids] for line, ids in zip(lines, encoded, strict=True)]),
        **decoding_fields(config),
    }
    keys = [(line.id, sequence) for line in lines for sequence in sequences]
    with ResultsFile(args.output, keys, settings, overwrite=args.overwrite) as results:
        done = {
            index
            for index, line in enumerate(lines)
            if all((line.id, number) in results.lines for number in sequences)
        }
        with RunProgress("decoding", len(lines), len(done)) as progress:
            for batch in generate_as_rows_finish(
                model,
                tokenizer,
                encoded,
                batch_size=args.batch_size or BATCH_SIZE,
                done=done,
                assistant_model=assistant,
                **fields,
            ):
                results.append(
                    {
                        "id": lines[row.index].id,
                        **({"sequence": row.sequence} if len(sequences) > 1 else {}),
                        "text": row.text,
                        "tokens": row.tokens,
                        "forwards": row.forwards,
                        "row_forwards": row.row_forwards,
                        **({} if assistant is None else {"assistant_forwards": row.assistant_forwards}),
                        "tokens_per_forward": round(row.tokens_per_forward, 4),
                    }
                    for row in batch.rows
                )
                progress.advance(len({row.index for row in batch.rows} - done))
        results.finish()
    earlier = f", {len(done)} of {len(lines)} prompts were already done" if done else ""
    sys.stdout.write(f"{len(keys)} texts in {args.output}{earlier}\n")
    if faults:
        raise ValueError(f"{args.input} has {len(faults)} lines that are not prompts, the first is {faults[0]}.")


def _encode(tokenizer: PreTrainedTokenizerBase, line: PromptLine, args: argparse.Namespace) -> list[int]:
    from d3llm.evaluation import encode_prompt

    try:
        return encode_prompt(tokenizer, line.prompt, chat=args.chat)
    except ValueError as error:
        raise ValueError(f"{args.input}, line {line.line}: {error}") from error


def _resolve(
    model: PreTrainedModel, lines: list[PromptLine], encoded: list[list[int]], fields: dict[str, Any], path: Path
) -> DiffusionGenerationConfig:
    """The decoding parameters of the run. If the longest prompt causes an error, the error names its line."""
    from d3llm.evaluation import resolve_generation_config

    lengths = [len(ids) for ids in encoded]
    longest = lines[lengths.index(max(lengths))].line
    shortest = resolve_generation_config(model, [min(lengths)], **fields)  # fails if the fields are invalid
    try:
        config = resolve_generation_config(model, lengths, **fields)
    except ValueError as error:
        raise ValueError(f"{path}, line {longest}: {error}") from error
    if config.max_new_tokens < shortest.max_new_tokens:
        sys.stderr.write(
            f"max_new_tokens is {config.max_new_tokens}: the longest prompt (line {longest}) leaves no more room\n"
        )
    return config
