"""Decodes two sides of a demo in turns, and yields what they show."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from .frames import Recording
from .turns import Turns, run_in_turns


LONGEST_PROMPT = 2000  # characters
MOST_NEW_TOKENS = 256
MOST_SECONDS = 60.0  # for both sides together
PRESETS = (
    "llada",
    "dparallel",
    "d3llm",
    "fast_dllm",
    "frechet",
    "wedlm",
    "self_speculative",
    "d2f",
    "sdar",
    "multi_bd",
    "llada2",
    "refusion",
)
PAUSE = 0.08  # seconds between two states that are sent


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and the presets that fit it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    presets: list[str]

    @property
    def new_tokens(self) -> int:
        """The number of new tokens that it was made for, within the limit of the demo."""
        return min(MOST_NEW_TOKENS, self.model.generation_config.max_new_tokens or MOST_NEW_TOKENS // 2)

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special ones included."""
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def load(location: str) -> LoadedModel:
    """
    Loads a model for the demo.

    Args:
        location (`str`): Hub id or folder.
    """
    tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(location, trust_remote_code=True, dtype="auto")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return LoadedModel(model, tokenizer, [preset for preset in PRESETS if _fits(model, preset)])


def _fits(model: PreTrainedModel, preset: str) -> bool:
    try:
        model.diffusion_config(kwargs={"preset": preset})
    except ValueError:
        return False
    return True


class Side(BaseStreamer):
    """
    One side: what it decodes, and its recording.

    Args:
        loaded ([`LoadedModel`]): The model.
        name (`str`): What it is called.
        preset (`str`): The preset.
        prompt (`str`): The user's text.
        max_new_tokens (`int`): Length of the generated region.

    Raises:
        `ValueError`: For what is over a limit of the demo or the model, and a preset that does not fit the model.
    """

    takes_committed = True

    def __init__(self, loaded: LoadedModel, name: str, preset: str, prompt: str, max_new_tokens: int):
        if not prompt.strip():
            raise ValueError("The prompt is empty: write a question.")
        if len(prompt) > LONGEST_PROMPT:
            raise ValueError(f"The prompt has {len(prompt)} characters: at most {LONGEST_PROMPT} are read here.")
        if not 1 <= max_new_tokens <= MOST_NEW_TOKENS:
            raise ValueError(f"{max_new_tokens} new tokens are outside of 1 to {MOST_NEW_TOKENS}.")
        model, tokenizer = loaded.model, loaded.tokenizer
        self.model = model
        self.input_ids = encode(tokenizer, prompt).to(model.device)
        given = {"preset": preset, "max_new_tokens": max_new_tokens, "max_time": MOST_SECONDS}
        self.config = model.diffusion_config(None, given, self.input_ids.shape[1])
        special = model.special_tokens(self.config)
        if special.fill == special.mask:
            self.config.max_time = None  # nothing could fill the rest
        self.recording = Recording(
            f"{name}, {preset}",
            block_starts(self.config, model, self.input_ids.shape[1], max_new_tokens),
            special.mask,
            set(tokenizer.all_special_ids),
            set(special.eos),
        )
        self.final: list[int] | None = None
        self.after_forward: Any = None

    def put(self, value: torch.Tensor) -> None:
        self.final = [] if self.final is None else self.final + value.tolist()

    def put_draft(self, value: torch.Tensor, committed: torch.Tensor) -> None:
        final = self.final or []
        self.after_forward(final + value.tolist(), [True] * len(final) + committed.tolist())

    def end(self) -> None:
        final = self.final or []
        self.after_forward(final, [True] * len(final))

    def run(self) -> None:
        """Decodes."""
        output = self.model.generate(
            self.input_ids, generation_config=self.config, streamer=self, return_dict_in_generate=True
        )
        self.recording.row_forwards = int(output.row_forwards)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> torch.Tensor:
    """Token ids `(1, P)` of a prompt, by the chat template if there is one."""
    if not tokenizer.chat_template:
        return tokenizer(prompt, return_tensors="pt")["input_ids"]
    chat = [{"role": "user", "content": prompt}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return inputs["input_ids"]


def block_starts(config: Any, model: Any, prompt_length: int, new_tokens: int) -> list[int]:
    """First position of each block of the generated region; the first may be short on an absolute grid."""
    size = config.block_size or new_tokens
    absolute = config.attention == "block_causal" and model.attention_grid == "absolute"
    first = -prompt_length % size if absolute else 0
    return sorted({0, *range(first, new_tokens, size)})


def decode_sides(sides: Sequence[Side]) -> Iterator[None]:
    """
    Decodes all sides in turns, so that each is timed alone; yields when there is something new to see.

    Args:
        sides (`Sequence[Side]`): The sides.

    Raises:
        `ValueError`: For what a decoder refuses.
    """
    turns, news = Turns(len(sides)), Queue[BaseException | None]()

    def runner(number: int) -> Any:
        side = sides[number]

        def after_forward(tokens: list[int], committed: list[bool]) -> None:
            def show() -> None:
                side.recording.add(tokens, committed, turns.seconds[number])
                news.put(None)

            turns.next(number, show)

        side.after_forward = after_forward
        return side.run

    def run() -> None:
        try:
            run_in_turns(turns, [runner(number) for number in range(len(sides))])
            news.put(StopIteration())
        except BaseException as error:
            news.put(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while not isinstance(error := _latest(news), StopIteration):
            if error is not None:
                raise error
            yield
    finally:  # also when the visitor has left
        turns.stop()


def _latest(news: Queue) -> BaseException | None:
    """The last of what has arrived, after a pause in which more may; an end comes before all else."""
    latest = news.get()
    time.sleep(PAUSE if latest is None else 0)
    while latest is None:
        try:
            latest = news.get_nowait()
        except Empty:
            break
    return latest
