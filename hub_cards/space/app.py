"""Shows how a model fills its canvas: committed tokens are marked, everything else may still change."""

import json
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import gradio as gr
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


SETTINGS = json.loads((Path(__file__).parent / "settings.json").read_text())
PRESETS = ["d3llm", "dparallel", "fast_dllm", "llada"]
LONGEST = 512

tokenizer = AutoTokenizer.from_pretrained(SETTINGS["model"], trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(SETTINGS["model"], trust_remote_code=True, dtype="auto")
model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


class SpanStreamer(BaseStreamer):
    """Turns the states of a canvas into (text, label) spans and puts them on a queue, which ends with `None`."""

    takes_committed = True

    def __init__(self):
        self.states: Queue = Queue()
        self.final: list[int] = []
        self.prompt_is_next = True

    def put(self, value: torch.Tensor):
        if self.prompt_is_next:
            self.prompt_is_next = False
            return
        self.final += value.tolist()
        self.states.put(self.spans([], []))

    def put_draft(self, value: torch.Tensor, committed: torch.Tensor):
        self.states.put(self.spans(value.tolist(), committed.tolist()))

    def end(self):
        self.states.put(None)

    def spans(self, draft: list[int], committed: list[bool]) -> list[tuple[str, str | None]]:
        """Spans of final text, of committed tokens in open blocks, and of masks."""
        kinds = ["final"] * len(self.final) + ["committed" if is_committed else "mask" for is_committed in committed]
        groups: list[tuple[str, list[int]]] = []
        for token, kind in zip([*self.final, *draft], kinds, strict=True):
            if not groups or groups[-1][0] != kind:
                groups.append((kind, []))
            groups[-1][1].append(token)
        return [
            ("░" * len(ids), "draft") if kind == "mask" else (decode(ids), None if kind == "final" else "committed")
            for kind, ids in groups
        ]


def decode(ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True)


def fill(question: str, preset: str, max_new_tokens: int) -> Iterator[tuple[list, str]]:
    """Yields the canvas after each forward, and finally the number of forwards."""
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    else:
        inputs = tokenizer(question, return_tensors="pt")
    streamer, outcome = SpanStreamer(), {}

    def run():
        try:
            outcome["output"] = model.generate(
                inputs["input_ids"].to(model.device),
                preset=preset,
                max_new_tokens=int(max_new_tokens),
                streamer=streamer,
                return_dict_in_generate=True,
            )
        except ValueError as error:
            outcome["error"] = str(error)
            streamer.end()

    thread = Thread(target=run, daemon=True)
    thread.start()
    state: list = []
    while (update := streamer.states.get()) is not None:
        state = update
        yield state, ""
    thread.join()
    if "error" in outcome:
        raise gr.Error(outcome["error"])
    output = outcome["output"]
    forwards, rows = output.forward_passes[0], output.get("row_forwards", output.forward_passes)[0]
    counted = f"{forwards} forwards" + (f" ({rows} row forwards)" if rows != forwards else "")
    yield state, f"{counted}, {output.tokens_per_forward[0]:.1f} tokens per forward"


with gr.Blocks(title=SETTINGS["model"]) as demo:
    gr.Markdown(f"# [{SETTINGS['model']}](https://huggingface.co/{SETTINGS['model']}) fills its canvas")
    question = gr.Textbox(label="Prompt", lines=2)
    with gr.Row():
        preset = gr.Dropdown(PRESETS, value=PRESETS[0], label="Preset")
        length = gr.Slider(32, LONGEST, value=128, step=32, label="Maximum new tokens")
    start = gr.Button("Fill", variant="primary")
    canvas = gr.HighlightedText(label="Canvas", color_map={"committed": "green", "draft": "gray"})
    summary = gr.Markdown()
    start.click(fill, [question, preset, length], [canvas, summary])

if __name__ == "__main__":
    demo.launch()
