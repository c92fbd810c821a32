"""Makes the pictures of chat.md, with the shipped models: `python docs/pictures.py [FOLDER]`.

Those of the Space take the extra `demo`, the package playwright and a Chromium.
"""

import argparse
import os
import shutil
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from d3llm.commands.canvas import LiveCanvas
from d3llm.commands.chat import Chat
from d3llm.commands.compare import contenders, decode_sides, load_sides, show_table
from d3llm.commands.conversation import Conversation
from d3llm.commands.loading import load_model
from d3llm.commands.tables import beside
from d3llm.common.files import write_atomically
from d3llm.hub_cards.canvas_space.turns import Turns
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.problem import generate_problems


FOLDER = Path(__file__).parent
PROBLEMS = [problem.question for problem in generate_problems("test", 2, seed=0)]
HALFWAY = 0.6  # of the forwards, where a canvas is shown


def recording_console(width: int, **options: bool) -> Console:
    """A console that nobody sees, for a picture."""
    return Console(record=True, width=width, file=StringIO(), force_terminal=True, highlight=False, **options)


def chat_picture() -> str:
    """An SVG of a chat, with the canvas of each answer on the way."""
    console = recording_console(92, markup=False)
    model, tokenizer = load_model(checkpoint_path("student"), device="cpu")
    chat = Chat(Conversation(model, tokenizer, {}, remembers=False), "student", console)
    console.print("$ d3llm chat", style="dim")
    chat.greet()
    for line in (PROBLEMS[0], "/preset llada", PROBLEMS[0], "/preset d3llm", PROBLEMS[1]):
        console.print(f"\n› {line}")
        if line.startswith("/"):
            chat.take(line)
            continue
        streamer = LiveCanvas(tokenizer)
        answer = chat.conversation.ask(line, streamer)
        forward = max(1, round(HALFWAY * answer.forwards))
        console.print(Panel(streamer.render(forward), title=f"after forward {forward} of {answer.forwards}"))
        chat.show(answer)
    return console.export_svg(title="d3llm chat")


def compare_picture() -> str:
    """An SVG of two sides after the same number of forwards, and at their end."""
    console = recording_console(120)
    args = argparse.Namespace(prompt=PROBLEMS[0], model=None, preset=None, fields=[], chat=None)
    args.device, args.trust_remote_code = "cpu", False
    sides = load_sides(contenders(args), args)
    decode_sides(sides, Turns(len(sides)), lambda: None)
    console.print(Text("$ d3llm compare --prompt ...\n", "dim"))
    console.print(Text(f"{args.prompt}\n", "bold"))
    forward = max(1, round(HALFWAY * min(len(side.streamer.frames) for side in sides)))
    console.print(beside([side.view(forward) for side in sides]))
    console.print(beside(sides))
    show_table(console, sides)
    return console.export_svg(title="d3llm compare")


def space_pictures() -> dict[str, bytes]:
    """Screenshots of the Space by the names of their files: wide and light, narrow and dark."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from playwright.sync_api import sync_playwright

    from d3llm.commands.space import named_models, shipped_examples
    from d3llm.hub_cards.canvas_space.interface import Settings, build

    examples = shipped_examples()
    demo = build(Settings(named_models(None), examples=examples))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    pictures = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for name, width, theme in (("space.png", 1280, "light"), ("space_phone.png", 390, "dark")):
            tab = browser.new_page(viewport={"width": width, "height": 600})
            tab.goto(f"{url}?__theme={theme}")
            tab.fill("#prompt textarea", examples[0])
            tab.click("#fill")
            tab.wait_for_selector("#forward input[type=range]", timeout=60_000)
            slider = tab.locator("#forward input[type=range]")
            slider.evaluate("(e) => {e.value = 5; e.dispatchEvent(new Event('input', {bubbles: true}))}")
            tab.wait_for_selector("#side-left:has-text('forward 5:')")
            pictures[name] = tab.screenshot(full_page=True)
        browser.close()
    demo.close()
    return pictures


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    write_atomically(folder / "chat.svg", chat_picture().encode())
    write_atomically(folder / "compare.svg", compare_picture().encode())
    for name, picture in space_pictures().items():
        write_atomically(folder / name, picture)
