"""What a decoder has shown of its canvas, and how a frame of it becomes HTML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape


FIRST_HUE, LAST_HUE = 215, 20  # of the first and the last forward: from blue to orange
MASK, SPECIAL = "░", "·"
SHADES = ", ".join(f"hsl({FIRST_HUE + (LAST_HUE - FIRST_HUE) * share / 6:.0f} 75% 60%)" for share in range(7))
STYLE = """
.canvas { display: flex; flex-direction: column; gap: 4px; font: 15px/1.75 ui-monospace, monospace; }
.canvas .block { border: 1px solid var(--border-color-primary, #ccc); border-radius: 6px; padding: 2px 8px;
  white-space: pre-wrap; overflow-wrap: anywhere; min-height: 1.75em; }
.canvas .committed { background: hsl(var(--hue) 75% 86%); color: #111; border-radius: 3px; }
.canvas .new { outline: 2px solid hsl(var(--hue) 80% 42%); }
.canvas .draft { opacity: .4; letter-spacing: .2em; }
.dark .canvas .committed { background: hsl(var(--hue) 45% 28%); color: #f5f5f5; }
.dark .canvas .new { outline-color: hsl(var(--hue) 80% 65%); }
.scale { height: 8px; border-radius: 4px; background: linear-gradient(to right, SHADES); }
.scale-ends { display: flex; justify-content: space-between; font-size: 12px; opacity: .75; }
.notes { font-size: 14px; margin-top: 8px; opacity: .75; }
.numbers { font-variant-numeric: tabular-nums; margin-bottom: 6px; }
""".replace("SHADES", SHADES)


@dataclass
class Recording:
    """
    The generated region of one sequence after each forward.

    Attributes:
        name (`str`): What decodes: model and preset.
        block_starts (`list[int]`): First position of each block, counted from the start of the generated region.
        mask_token_id (`int`, *optional*): The mask token.
        special_ids (`set[int]`): Tokens without a text of their own.
        eos_ids (`set[int]`): Tokens that end the text.
        tokens (`list[list[int]]`): Tokens after each forward.
        steps (`list[list[int]]`): The forward that committed a position, or last revised it, after each forward; 0 =
            draft.
        seconds (`list[float]`): Time of decoding after each forward.
        row_forwards (`int`, *optional*): Row forwards, once it has ended.
    """

    name: str
    block_starts: list[int] = field(default_factory=lambda: [0])
    mask_token_id: int | None = None
    special_ids: set[int] = field(default_factory=set)
    eos_ids: set[int] = field(default_factory=set)
    tokens: list[list[int]] = field(default_factory=list)
    steps: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    row_forwards: int | None = None

    @property
    def forwards(self) -> int:
        """Forwards so far."""
        return len(self.tokens)

    def add(self, tokens: Sequence[int], committed: Sequence[bool], seconds: float) -> None:
        """
        Adds the state after a forward. The last one may be shorter: its last token, an EOS, fills the rest.

        Args:
            tokens (`Sequence[int]`): The generated region.
            committed (`Sequence[bool]`): Which of it is committed.
            seconds (`float`): Time of decoding until then.
        """
        missing = len(self.tokens[0]) - len(tokens) if self.tokens else 0
        now = [*tokens, *list(tokens[-1:]) * missing]
        known = [*committed, *[True] * missing]
        before = (self.tokens[-1], self.steps[-1]) if self.tokens else (now, [0] * len(now))
        forward = self.forwards + 1
        steps = [
            0 if not is_known else step if step and token == old else forward
            for token, is_known, old, step in zip(now, known, *before, strict=True)
        ]
        self.tokens.append(now)
        self.steps.append(steps)
        self.seconds.append(seconds)

    def count(self, forward: int) -> int:
        """Tokens committed after a forward, up to and including the first EOS."""
        count = 0
        for token, step in zip(self.tokens[forward - 1], self.steps[forward - 1], strict=True):
            count += step > 0
            if step and token in self.eos_ids:
                break
        return count


def split_text(decode: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> list[str]:
    """
    The text of each token, so that all of them together are the text: white space may depend on the neighbours, and a
    character may have several tokens.

    Args:
        decode (`Callable`): Decodes tokens to text.
        tokens (`Sequence[int]`): The tokens.

    Returns:
        `list[str]`: A text for each, which may be empty.
    """
    whole = decode(tokens)
    ends = [i + 1 for i, character in enumerate(whole) if not character.isspace()]  # after each visible character
    pieces, start = [], 0
    for count in range(1, len(tokens)):
        visible = min(len("".join(decode(tokens[:count]).split())), len(ends))
        end = max(start, ends[visible - 1] if visible else 0)
        pieces.append(whole[start:end])
        start = end
    return [*pieces, whole[start:]] if tokens else []


def canvas_html(recording: Recording, forward: int, decode: Callable[[Sequence[int]], str]) -> str:
    """
    The canvas after a forward: each block outlined, each position in the hue of the forward that committed it, drafts
    pale.

    Args:
        recording ([`Recording`]): What the decoder has shown.
        forward (`int`): The forward, counted from 1; after the last one the canvas stays as it is.
        decode (`Callable`): Decodes tokens to text, special ones included.

    Returns:
        `str`: HTML, with the classes of `STYLE`.
    """
    if not recording.forwards:
        return '<div class="canvas"><div class="block"></div></div>'
    forward = max(1, min(forward, recording.forwards))
    tokens, steps = recording.tokens[forward - 1], recording.steps[forward - 1]
    spans = [
        _span(recording, token, step, text, forward)
        for token, step, text in zip(tokens, steps, split_text(decode, tokens), strict=True)
    ]
    starts = recording.block_starts
    blocks = ["".join(spans[a:b]) for a, b in zip(starts, [*starts[1:], len(spans)], strict=True)]
    return f'<div class="canvas">{"".join(f"<div class=block>{block}</div>" for block in blocks if block)}</div>'


def _span(recording: Recording, token: int, step: int, text: str, forward: int) -> str:
    if not step or token in recording.special_ids:
        mark = SPECIAL if step else MASK if token == recording.mask_token_id else text.lstrip()
        return f'<span class="draft">{escape(text[: len(text) - len(text.lstrip())] + mark)}</span>'
    share = (step - 1) / max(1, recording.forwards - 1)
    hue = round(FIRST_HUE + (LAST_HUE - FIRST_HUE) * share)
    kind = "committed new" if step == forward else "committed"
    return f'<span class="{kind}" style="--hue: {hue}" title="forward {step}">{escape(text)}</span>'


def numbers_html(recording: Recording, forward: int) -> str:
    """
    What a decoder has reached after a forward, in one line.

    Args:
        recording ([`Recording`]): What it has shown.
        forward (`int`): The forward, counted from 1.
    """
    if not recording.forwards:
        return f'<div class="numbers"><b>{escape(recording.name)}</b></div>'
    forward = max(1, min(forward, recording.forwards))
    tokens, seconds = recording.count(forward), recording.seconds[forward - 1]
    rows = recording.row_forwards
    if forward == recording.forwards and rows is not None:
        counted = f"{forward} forwards" + (f" ({rows} row forwards)" if rows != forward else "")
        text = f"{tokens} tokens in {counted}, TPF {tokens / forward:.2f}, {seconds:.2f} s"
    else:
        text = f"forward {forward}: {tokens} tokens, {seconds:.2f} s"
    return f'<div class="numbers"><b>{escape(recording.name)}</b><br>{text}</div>'


def scale_html() -> str:
    """The hues of the forwards of a side, from its first to its last."""
    ends = "<span>first forward</span><span>last forward of the side</span>"
    return f'<div class="scale"></div><div class="scale-ends">{ends}</div>'


def notes_html(notes: Sequence[str]) -> str:
    """Lines of text below the canvases."""
    return "".join(f'<div class="notes">{escape(note)}</div>' for note in notes)
