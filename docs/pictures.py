"""Makes the pictures of these pages, with the shipped models: `python docs/pictures.py [FOLDER]`."""

import argparse
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
from d3llm.quickstart.problems import generate_problems


FOLDER = Path(__file__).parent
PROBLEMS = [problem.question for problem in generate_problems("test", 2, seed=0)]
HALFWAY = 0.6  # of the forwards, where a canvas is shown


def recording_console(width: int) -> Console:
    """A console that nobody sees, for a picture."""
    return Console(record=True, width=width, file=StringIO(), force_terminal=True, highlight=False, markup=False)


def chat_picture() -> str:
    """An SVG of a chat, with the canvas of each answer on the way."""
    console = recording_console(92)
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
    console.print(Text("$ d3llm compare --prompt ...\n", "dim"), args.prompt, "")
    forward = max(1, round(HALFWAY * min(len(side.streamer.frames) for side in sides)))
    console.print(beside([side.view(forward) for side in sides]))
    console.print(beside(sides))
    show_table(console, sides)
    return console.export_svg(title="d3llm compare")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    write_atomically(folder / "chat.svg", chat_picture().encode())
    write_atomically(folder / "compare.svg", compare_picture().encode())
