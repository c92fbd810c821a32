"""`d3llm infill`: fills gaps in the middle of a text."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from .fields import add_decoding_arguments, checkpoint_folder, parse_fields


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GAP = re.compile(r"\[MASK(?::([0-9]+))?\]")
LONGEST_GAP = 2**16


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "infill",
        help="fill gaps in the middle of a text",
        usage="%(prog)s --text TEXT [--model DIR] [--preset NAME] [--FIELD VALUE ...]",
        add_help=False,
    )
    parser.add_argument(
        "--text",
        required=True,
        metavar="TEXT",
        help="[MASK] is one token to fill in, [MASK:n] are n tokens; spaces around them are part of the text",
    )
    add_decoding_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    lengths = gap_lengths(args.text)
    fields = parse_fields(args)

    import torch

    from d3llm.evaluation.prompts import check_text

    from .loading import load_model

    check_text(args.text, "--text")
    model, tokenizer = load_model(
        checkpoint_folder(args), device=args.device, trust_remote_code=args.trust_remote_code
    )
    mask_token_id = fields.get("mask_token_id", model.config.mask_token_id)
    if mask_token_id is None or mask_token_id >= len(tokenizer):
        raise ValueError(f"The tokenizer has no mask token {mask_token_id}: give its id with --mask-token-id.")
    input_ids = torch.tensor([encode(tokenizer, args.text, lengths, mask_token_id)], device=model.device)
    for ids in model.infill(input_ids, **fields):
        sys.stdout.write(tokenizer.decode(ids, skip_special_tokens=True).strip("\n") + "\n")


def gap_lengths(text: str) -> list[int]:
    """The number of tokens in each gap of a text."""
    lengths = []
    for gap in re.findall(r"\[MASK[^\]]*\]?", text):
        match = GAP.fullmatch(gap)
        length = int(match[1] or 1) if match and len(match[1] or "") < 10 else 0
        if not 1 <= length <= LONGEST_GAP:
            raise ValueError(f"--text has the gap {gap}: write [MASK] or [MASK:n] with n from 1 to {LONGEST_GAP}.")
        lengths.append(length)
    if not lengths:
        raise ValueError("--text has no gap: write [MASK] for each token to fill in, or [MASK:n] for n tokens.")
    return lengths


def encode(tokenizer: PreTrainedTokenizerBase, text: str, lengths: list[int], mask_token_id: int) -> list[int]:
    """The token ids of a text, with mask tokens in its gaps."""
    mask = tokenizer.convert_ids_to_tokens(mask_token_id)
    remaining = iter(lengths)
    ids = tokenizer(GAP.sub(lambda gap: mask * next(remaining), text))["input_ids"]
    if ids.count(mask_token_id) < sum(lengths):
        raise ValueError(
            f"The tokenizer does not encode {mask!r} as the mask token {mask_token_id}: give its id with "
            "--mask-token-id."
        )
    return ids
