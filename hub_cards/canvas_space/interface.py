"""The page of the demo."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from .decoding import LONGEST_PROMPT, MOST_NEW_TOKENS, LoadedModel, Side, decode_sides, load
from .frames import STYLE, Recording, canvas_html, notes_html, numbers_html, scale_html


TITLE = "Watch a diffusion language model fill its canvas"
EXPLANATION = """
Both sides decode the same prompt, and take turns: each is timed alone. A position has the colour of the forward that
**committed** it, what the last forward committed is outlined, and **drafts** (`░`), which may still change, are pale.
Each frame is a **block**. Drag the slider to see any forward again. TPF is generated tokens per forward.
"""
QUEUE = 16  # visitors who wait; further ones are told that it is full
KEPT_SECONDS = 1800  # that a visitor's recordings stay
Caution = Callable[[str, str], str | None]


@dataclass(frozen=True)
class Settings:
    """
    What a demo shows, as in its settings.json.

    Attributes:
        models (`dict[str, str]`): Hub id or folder of each model, by the name that visitors see. The first is on the
            left, and the last on the right.
        presets (`list[str]`): The presets of left and right at the start.
        examples (`list[str]`): Prompts to click on.
    """

    models: dict[str, str]
    presets: list[str] = field(default_factory=lambda: ["llada", "d3llm"])
    examples: list[str] = field(default_factory=lambda: ["What is 17 plus 25?", "Name three animals that can fly."])


def read_settings(path: Path) -> Settings:
    """The settings of a settings.json."""
    return Settings(**json.loads(path.read_text(encoding="utf-8")))


def build(settings: Settings, cautions: Mapping[str, Caution] | None = None) -> gr.Blocks:
    """
    Loads the models and builds the page.

    Args:
        settings ([`Settings`]): What it shows.
        cautions (`Mapping[str, Callable[[str, str], str | None]]`, *optional*): By the name of a model, what gets a
            prompt and its answer and returns a line to say below the answer, or `None`.

    Returns:
        `gr.Blocks`: The page, with its queue.
    """
    demo = Demo({name: load(location) for name, location in settings.models.items()}, cautions)
    names = list(demo.models)
    fitting = {preset: None for loaded in demo.models.values() for preset in loaded.presets}
    with gr.Blocks(title=TITLE) as page:
        gr.HTML(f"<style>{STYLE}</style><h1>{TITLE}</h1>", padding=False)
        gr.Markdown(EXPLANATION)
        prompt = gr.Textbox(label="Prompt", lines=2, max_length=LONGEST_PROMPT, elem_id="prompt")
        gr.Examples([[example] for example in settings.examples], [prompt], label="Examples")
        choices: list[Any] = []
        outputs: list[Any] = []
        with gr.Row():
            for place, name, preset in zip(("left", "right"), (names[0], names[-1]), settings.presets, strict=True):
                with gr.Column(min_width=300):
                    with gr.Row():
                        choices.append(gr.Dropdown(names, value=name, label="Model", elem_id=f"model-{place}"))
                        start = preset if preset in fitting else next(iter(fitting))
                        choices.append(gr.Dropdown([*fitting], value=start, label="Preset", elem_id=f"preset-{place}"))
                    outputs.append(gr.HTML(elem_id=f"side-{place}"))
        length = gr.Slider(
            8,
            MOST_NEW_TOKENS,
            value=demo.models[names[-1]].new_tokens,
            step=8,
            label="Maximum new tokens",
        )
        button = gr.Button("Fill both canvases", variant="primary", elem_id="fill")
        forward = gr.Slider(1, MOST_NEW_TOKENS, value=1, step=1, label="Forward", elem_id="forward", visible=False)
        scale = gr.HTML(elem_id="scale")
        state = gr.State([], time_to_live=KEPT_SECONDS)
        shown = [*outputs, forward, scale, state]
        inputs = [prompt, length, *choices]
        for trigger in (button.click, prompt.submit):
            trigger(demo.fill, inputs, shown, show_progress="hidden", concurrency_id="fill")
        forward.input(
            demo.show, [state, forward], outputs, show_progress="hidden", trigger_mode="always_last", queue=False
        )
    return page.queue(max_size=QUEUE, default_concurrency_limit=1)


class Demo:
    """
    What the page calls.

    Args:
        models (`dict[str, LoadedModel]`): The models by name.
        cautions (`Mapping[str, Callable[[str, str], str | None]]`, *optional*): As for [`build`].
    """

    def __init__(self, models: dict[str, LoadedModel], cautions: Mapping[str, Caution] | None = None):
        self.models = models
        self.cautions = cautions or {}

    def fill(
        self, prompt: str, length: int, left: str, left_preset: str, right: str, right_preset: str
    ) -> Iterator[tuple[Any, ...]]:
        """Yields both sides, the slider, the scale and the recordings while both decode."""
        chosen = ((left, left_preset), (right, right_preset))
        try:
            sides = [Side(self.models[name], name, preset, prompt, int(length)) for name, preset in chosen]
            kept = [(side.recording, name) for side, (name, _) in zip(sides, chosen, strict=True)]
            hidden: tuple[Any, ...] = (gr.update(visible=False), "", [])
            yield (*self.show(kept), *hidden)
            for _ in decode_sides(sides):
                yield (*self.show(kept), *hidden)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        most = max(recording.forwards for recording, _ in kept)
        slider = gr.update(maximum=max(2, most), value=most, visible=most > 1)
        yield (*self.show(kept), slider, scale_html() + notes_html(self.notes(prompt, kept)), kept)

    def notes(self, prompt: str, kept: list[tuple[Recording, str]]) -> list[str]:
        """What is to be said of the answers, a line for each model that has something."""
        notes = []
        for recording, name in kept:
            tokens = recording.tokens[-1][: recording.count(recording.forwards)]
            text = self.models[name].tokenizer.decode(tokens, skip_special_tokens=True).strip()
            note = self.cautions[name](prompt, text) if name in self.cautions else None
            if note is not None:
                notes.append(f"{recording.name}: {note}")
        return notes

    def show(self, kept: list[tuple[Recording, str]], forward: float = float("inf")) -> list[str]:
        """The HTML of both sides after a forward; after the last one by default."""
        shown = []
        for recording, name in kept:
            number = int(min(forward, max(1, recording.forwards)))
            canvas = canvas_html(recording, number, self.models[name].decode)
            shown.append(numbers_html(recording, number) + canvas)
        return shown or [gr.skip()] * 2
