"""`d3llm chat`: a conversation in the terminal, with the canvas of each answer while it fills."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .fields import add_decoding_arguments, checkpoint_folder, parse_fields


if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from rich.console import Console

    from .canvas import LiveCanvas
    from .conversation import Answer, Conversation

DEFAULT_MODEL = "student"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "chat",
        help="talk with a diffusion language model, and watch its canvas",
        usage="%(prog)s [--model DIR] [--preset NAME] [--FIELD VALUE]...",
        add_help=False,
    )
    add_decoding_arguments(parser, default_model=DEFAULT_MODEL)
    parser.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether earlier turns are part of the prompt (default: if there is a chat template; not for the shipped "
        "models, which know single questions)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    fields = parse_fields(args)
    from rich.console import Console

    from ..quickstart import is_shipped
    from ..quickstart.stories.caution import caution_of
    from .conversation import Conversation
    from .loading import load_model

    folder = checkpoint_folder(args, DEFAULT_MODEL)
    model, tokenizer = load_model(folder, device=args.device, trust_remote_code=args.trust_remote_code)
    remembers = False if args.history is None and is_shipped(folder) else args.history
    conversation = Conversation(model, tokenizer, fields, remembers)
    chat = Chat(conversation, str(folder), Console(highlight=False, markup=False, emoji=False), caution_of(folder))
    chat.talk(typed_lines() if chat.is_live else iter(sys.stdin))
    return 2 if chat.has_failed else 0


class Command(NamedTuple):
    """
    A command within the chat.

    Attributes:
        run (`Callable[[Chat, str], None]`): Gets the rest of the line.
        argument (`str`): What the rest of the line is, for the help.
        meaning (`str`): What it does.
    """

    run: Callable[[Chat, str], None]
    argument: str
    meaning: str


class Chat:
    """
    The terminal of a conversation.

    Args:
        conversation ([`Conversation`]): The conversation.
        name (`str`): What the model is called.
        console (`Console`): Where to draw. One that is not a terminal gets the texts alone.
        caution (`Callable[[str, str], str | None]`, *optional*): Gets a question and its answer; returns a line to say
            below the answer, or `None`.
    """

    def __init__(
        self,
        conversation: Conversation,
        name: str,
        console: Console,
        caution: Callable[[str, str], str | None] = lambda question, text: None,
    ):
        self.conversation = conversation
        self.name = name
        self.console = console
        self.caution = caution
        self.is_live = console.is_terminal and sys.stdin.isatty()
        self.saved: set[Path] = set()
        self.ended = False
        self.has_failed = False  # for the exit code, where nobody sees the error and asks again

    def talk(self, lines: Iterator[str]) -> None:
        """
        Answers lines until they end or one of them is `/quit`.

        Args:
            lines (`Iterator[str]`): What the user types.
        """
        if self.is_live:
            self.greet()
        for line in lines:
            try:
                self.take(line.strip())
            except (ValueError, OSError) as error:
                self._complain(error)
            if self.ended:
                break

    def take(self, line: str) -> None:
        """Runs a command, or answers a question."""
        from ..generation.fields import suggestion

        if not line:
            return
        if not line.startswith("/"):
            self._answer(line)
            return
        name, _, rest = line.partition(" ")
        if name not in COMMANDS:
            raise ValueError(f"unknown command {name}{suggestion(name, COMMANDS)}: /help lists them")
        COMMANDS[name].run(self, rest.strip())

    def _answer(self, question: str) -> None:
        from .canvas import LiveCanvas

        streamer = LiveCanvas(self.conversation.tokenizer)
        if not self.is_live:
            answer = self.conversation.ask(question, streamer)
            self.console.print(answer.text, soft_wrap=True)
            self._warn(question, answer)
            return
        try:
            answer = self._draw(question, streamer)
        except KeyboardInterrupt:
            if streamer.frames:
                self.console.print(streamer.render())
            self._note("stopped: this turn is not part of the conversation")
            return
        self.show(answer)
        self._warn(question, answer)

    def show(self, answer: Answer) -> None:
        """Prints an answer and what it took."""
        if answer.dropped_turns:
            self._note(f"the first {answer.dropped_turns} turns no longer fitted the model, and are forgotten")
        self.console.print(answer.text)
        self._note(speed(answer))

    def _draw(self, question: str, streamer: LiveCanvas) -> Answer:
        from rich.live import Live

        with Live(console=self.console, transient=True, auto_refresh=False) as live:
            streamer.listener = lambda streamer: live.update(streamer.with_caption(), refresh=True)
            return self.conversation.ask(question, streamer)

    def greet(self) -> None:
        """Says what answers, and how earlier turns are treated."""
        conversation = self.conversation
        self.console.print(f"{self.name}, decoded by {conversation.config.preset or 'its own values'}", style="bold")
        self._note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends")
        if not conversation.remembers:
            self._note("each question stands alone")
        elif conversation.reuses_prompt:
            self._note("the cache of earlier turns is reused")
        else:
            self._note("each turn computes its whole prompt: with this decoding a cache of earlier turns is not exact")

    def _note(self, text: str) -> None:
        self.console.print(text, style="dim", soft_wrap=not self.is_live)

    def _warn(self, question: str, answer: Answer) -> None:
        text = self.caution(question, answer.text)
        if text is None:
            return
        if self.is_live:
            self._note(text)
        else:
            sys.stderr.write(f"d3llm: {text}\n")

    def _complain(self, error: Exception) -> None:
        text = " ".join(str(error).split())
        if self.is_live:
            self.console.print(text, style="red")
        else:
            sys.stderr.write(f"d3llm: error: {text}\n")
            self.has_failed = True

    def choose_preset(self, name: str) -> None:
        """`/preset`: shows the presets, or chooses one."""
        if name:
            self.conversation.choose_preset(name)
        current = self.conversation.config.preset
        fitting = ", ".join(self.conversation.fitting_presets())
        self._note(f"preset {current}" + ("" if name else f"; these fit the model: {fitting}"))

    def choose_threshold(self, value: str) -> None:
        """`/threshold`: shows the threshold, or sets it."""
        if value:
            try:
                number = float(value)
            except ValueError:
                raise ValueError(f"/threshold {value}: give a number, such as 0.5") from None
            self.conversation.choose_threshold(number)
        config = self.conversation.config
        self._note(f"threshold {config.threshold:g}, of the {config.score}")

    def save(self, name: str) -> None:
        """`/save`: writes the conversation to a file, which may only be one that this chat has written."""
        from ..common.files import check_writable, write_atomically

        if not name:
            raise ValueError("/save needs the name of a file, such as `/save chat.json`")
        path = Path(name).expanduser()
        if path.exists() and path.resolve() not in self.saved:
            raise ValueError(f"{path} exists: save to another name")
        check_writable(path)
        write_atomically(path, (json.dumps(self._record(), indent=2, ensure_ascii=False) + "\n").encode())
        self.saved.add(path.resolve())
        turns = len(self.conversation.answers)
        self._note(f"saved {turns} {'turn' if turns == 1 else 'turns'} to {path}")

    def _record(self) -> dict[str, object]:
        """The conversation as `messages`, which chat templates and datasets take, and what each answer took."""
        answers = [dataclasses.asdict(answer) for answer in self.conversation.answers]
        fields = self.conversation.fields
        return {"model": self.name, "fields": fields, "messages": self.conversation.messages, "answers": answers}

    def clear(self, _: str) -> None:
        """`/clear`: begins a new conversation, which is not saved over an earlier one."""
        self.conversation.clear()
        self.saved.clear()
        self._note("a new conversation")

    def show_help(self, _: str) -> None:
        """`/help`: lists the commands."""
        width = max(len(f"{name} {command.argument}") for name, command in COMMANDS.items())
        for name, command in COMMANDS.items():
            self._note(f"{f'{name} {command.argument}':<{width}}  {command.meaning}")

    def quit(self, _: str) -> None:
        """`/quit`: ends the chat."""
        self.ended = True


COMMANDS = {
    "/preset": Command(Chat.choose_preset, "[NAME]", "decode by another preset, with its own threshold; or list them"),
    "/threshold": Command(Chat.choose_threshold, "[NUMBER]", "commit tokens by another threshold; or show it"),
    "/save": Command(Chat.save, "FILE", "write the conversation to a file, as JSON"),
    "/clear": Command(Chat.clear, "", "begin a new conversation"),
    "/help": Command(Chat.show_help, "", "list the commands"),
    "/quit": Command(Chat.quit, "", "end; so does Ctrl-D"),
}


def speed(answer: Answer) -> str:
    """What an answer took, in one line."""
    from .tables import count_forwards

    counted = count_forwards(answer.forwards, answer.row_forwards)
    rates = f"TPF {answer.tokens / answer.forwards:.2f}, {answer.seconds:.2f} s"
    ending = ", truncated at its length" if answer.is_truncated else ""
    return f"{answer.tokens} tokens in {counted}, {rates}, {answer.tokens / answer.seconds:.0f} tokens/s{ending}"


def typed_lines() -> Iterator[str]:
    """The lines that a user types, with editing, history and completion. Ctrl-C drops a line, Ctrl-D ends them."""
    session = _session()
    while True:
        try:
            yield session.prompt("› ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _session() -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    from ..generation.presets import PRESETS

    lines = [*COMMANDS, *(f"/preset {name}" for name in PRESETS)]
    history: History = InMemoryHistory()
    path = _history_file()
    if path is not None:
        history = FileHistory(str(path))
    completer = WordCompleter(lines, sentence=True)
    return PromptSession(history=history, completer=completer, complete_while_typing=False)


def _history_file() -> Path | None:
    """Where the questions of earlier chats are; `None` if nothing can be written there."""
    from huggingface_hub.constants import HF_HOME

    path = Path(HF_HOME, "d3llm", "chat_history")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError:
        return None
    return path
