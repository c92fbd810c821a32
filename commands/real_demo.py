"""`d3llm demo --real`: a language model answers a question, alone and with its drafter, and gives the same text."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers.generation.streamers import BaseStreamer


if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType
    from transformers import PreTrainedTokenizerBase

    from d3llm.evaluation.greedy_ways import GreedyText

PROMPT = "Explain to a child why the sea is salty."
MAX_NEW_TOKENS = 96
SHOWN = {"plain": "SmolLM2-135M, token by token", "drafter": "the same model, with its drafter"}
SHADES = ("bright_white on grey23", "bright_white on dark_green")  # take turns, forward by forward


@dataclass
class TextPanel(BaseStreamer):
    """
    A text while it is written, in another shade after each forward.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`): For the text.
        caption (`str`): Title of the panel.
        listener (`Callable`, *optional*): Called after each forward.
        forwards (`list[list[int]]`): The tokens of each forward.
        drawing (`float`): Seconds in the listener.
    """

    tokenizer: PreTrainedTokenizerBase
    caption: str
    listener: Any = None
    forwards: list[list[int]] = field(default_factory=list)
    drawing: float = 0.0
    has_prompt: bool = False
    subtitle: str = ""

    def put(self, value: torch.Tensor) -> None:
        if not self.has_prompt:  # what transformers puts first
            self.has_prompt = True
            return
        self.forwards.append(value.flatten().tolist())
        if self.listener is not None:
            began = time.perf_counter()
            self.listener()
            self.drawing += time.perf_counter() - began

    def end(self) -> None:
        pass

    def __rich__(self) -> RenderableType:
        from rich.panel import Panel
        from rich.text import Text

        text, before, known = Text(), "", []
        for number, tokens in enumerate(self.forwards):
            known += tokens
            # A token may be a part of a character, which its successor completes.
            now = self.tokenizer.decode(known, skip_special_tokens=True)
            text.append(now[len(before) :], SHADES[number % 2] if len(tokens) > 1 else "")
            before = now
        counted = self.subtitle or f"{len(known)} tokens in {len(self.forwards)} forwards"
        return Panel(text, title=f"[bold]{self.caption}[/bold]", subtitle=counted)


def run(args: argparse.Namespace) -> None:
    """Shows the demo, and writes what it measured to `args.json`, if that is given."""
    from rich.console import Console
    from rich.live import Live
    from transformers import AutoTokenizer

    from d3llm import IntrospectiveModel
    from d3llm.common.files import check_writable, write_atomically
    from d3llm.evaluation.greedy_ways import WAYS, GreedyWays
    from d3llm.quickstart.smollm2 import DECODING, drafter_folder, smollm2_folder

    from .loading import quiet_libraries
    from .tables import beside

    prompt = PROMPT if args.prompt is None else args.prompt
    if not prompt.strip():
        raise ValueError("--prompt is empty: give at least one word.")
    if args.json is not None:
        check_writable(args.json)
    quiet_libraries()
    console = Console(highlight=False)
    drafter = drafter_folder()
    with console.status("loading SmolLM2-135M-Instruct"):
        folder = smollm2_folder()
        model = IntrospectiveModel.from_pretrained(drafter, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ways = GreedyWays(model, max_new_tokens=MAX_NEW_TOKENS, **DECODING)
    for way in SHOWN:  # so that none pays for what the first call sets up
        GreedyWays(model, max_new_tokens=4, **DECODING).decode(way, inputs)
    console.print(f"[bold]{prompt}[/bold]\n")
    texts: dict[str, GreedyText] = {}
    panels = {way: TextPanel(tokenizer, caption) for way, caption in SHOWN.items()}
    with Live(beside([*panels.values()]), console=console, auto_refresh=False) as live:
        for way, panel in panels.items():
            if console.is_terminal:
                panel.listener = lambda: live.update(beside([*panels.values()]), refresh=True)
            texts[way] = ways.decode(way, inputs, panel)
            texts[way].seconds -= panel.drawing
            panel.subtitle = f"{_facts(texts[way])}, {texts[way].seconds:.1f} s"
        live.update(beside([*panels.values()]), refresh=True)
    with console.status("the same text by what transformers has"):
        texts |= {way: ways.decode(way, inputs) for way in WAYS if way not in texts}
    console.print()
    console.print(_table({way: texts[way] for way in WAYS}))
    if args.json is not None:
        write_atomically(args.json, (json.dumps(_report(texts, prompt, args), indent=2) + "\n").encode())


def _facts(text: GreedyText) -> str:
    return f"{len(text.tokens)} tokens in {text.forwards} forwards"


def _table(texts: dict[str, GreedyText]) -> RenderableType:
    from rich.table import Table

    from d3llm.evaluation.greedy_ways import PLAIN, WAYS

    plain = texts[PLAIN]
    table = Table(title="One question, one text", title_justify="left")
    table.add_column("way")
    for name in ("text", "forwards", "TPF", "seconds", "times as fast"):
        table.add_column(name, justify="right")
    for way, text in texts.items():
        table.add_row(
            f"[bold]{way}[/bold]: {WAYS[way]}",
            "the same" if text.tokens == plain.tokens else "[red]another[/red]",
            f"{text.forwards}",
            f"{len(text.tokens) / text.forwards:.2f}",
            f"{text.seconds:.1f}",
            f"{plain.seconds / text.seconds:.2f}",
        )
    return table


def _report(texts: dict[str, GreedyText], prompt: str, args: argparse.Namespace) -> dict[str, Any]:
    plain = texts["plain"]
    rows = [
        {
            "way": way,
            "is_same_text": text.tokens == plain.tokens,
            "tokens": len(text.tokens),
            "forwards": text.forwards,
            "seconds": text.seconds,
        }
        for way, text in texts.items()
    ]
    return {"prompt": prompt, "max_new_tokens": MAX_NEW_TOKENS, "threads": args.threads, "rows": rows}
