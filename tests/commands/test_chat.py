"""`d3llm chat`: turns, commands within it, and its terminal."""

import io
import json
import os
import select
import time

import huggingface_hub
import pytest
from transformers import AutoTokenizer

from d3llm.commands.canvas import LiveCanvas
from d3llm.commands.chat import COMMANDS, Chat, typed_lines
from d3llm.commands.conversation import Conversation
from d3llm.commands.main import main
from d3llm.modeling import LLaDAModelLM, SDARForCausalLM
from d3llm.quickstart import checkpoint_path
from tests.helpers.commands import run_fails
from tests.helpers.forks import Fork
from tests.helpers.models import OF_WORDS, tiny_model


SHORT = {"max_new_tokens": 16, "preset": "llada", "block_size": 8}
QUESTIONS = ["one plus two is", "three plus four is", "five plus six is"]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = "{% for message in messages %}<user> {{ message['content'] }} {% endfor %}"
    return tokenizer


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return LLaDAModelLM.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="module")
def block_causal():
    model = tiny_model(SDARForCausalLM, **OF_WORDS, block_size=4)
    model.get_output_embeddings().weight.data[1] = 0.0  # the mask token is never proposed
    return model


def ask(conversation: Conversation, question: str = QUESTIONS[0]):
    return conversation.ask(question, LiveCanvas(conversation.tokenizer))


def chat_with(capsys, monkeypatch, lines: list[str], *arguments: str) -> tuple[str, str]:
    """What a chat without a terminal prints for these lines."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    code = main(["chat", *arguments])
    printed, errors = capsys.readouterr()
    assert code == (2 if "error" in errors else 0)
    return printed, errors


def test_each_turn_sees_the_earlier_ones(model, tokenizer, monkeypatch):
    prompts = []
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda ids, **rest: prompts.append(ids[0].tolist()) or generate(ids, **rest)
    )
    conversation = Conversation(model, tokenizer, SHORT)
    for question in QUESTIONS[:2]:
        ask(conversation, question)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
    expected = tokenizer.apply_chat_template(conversation.messages[:3], add_generation_prompt=True, return_dict=False)
    assert prompts[1] == expected and prompts[1][: len(prompts[0])] == prompts[0]
    alone = Conversation(model, tokenizer, SHORT, remembers=False)
    for question in QUESTIONS[:2]:
        ask(alone, question)
    assert len(prompts[3]) == len(prompts[2]) and len(alone.messages) == 4
    alone.clear()
    assert not alone.messages and not alone.answers


def test_turns_that_no_longer_fit_are_forgotten(model, tokenizer):
    conversation = Conversation(model, tokenizer, {**SHORT, "max_new_tokens": 40, "early_stop": False})
    dropped = [ask(conversation).dropped_turns for _ in range(4)]
    assert dropped[:2] == [0, 0] and sum(dropped) > 0  # 128 positions
    assert len(conversation.messages) == 8  # what is saved is whole
    with pytest.raises(ValueError, match="exceed the 128 positions of the model"):
        ask(conversation, "one " * 120)
    assert len(conversation.messages) == 8


def test_what_an_answer_took(model, tokenizer):
    answer = ask(Conversation(model, tokenizer, {**SHORT, "early_stop": False}))
    assert answer.preset == "llada" and answer.forwards == answer.row_forwards == 16 and answer.seconds > 0
    assert answer.is_truncated == (answer.tokens == 16)


def test_a_cache_of_earlier_turns_changes_no_answer(block_causal, tokenizer, monkeypatch):
    """Only where it is exact is it reused: with block-causal attention on an absolute grid."""
    widths: list[int] = []
    forward = block_causal.forward

    def counted(*args, **kwargs):
        widths.append((kwargs.get("input_ids") if kwargs.get("input_ids") is not None else args[0]).shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(block_causal, "forward", counted)
    reusing = Conversation(block_causal, tokenizer, {"max_new_tokens": 12, "preset": "sdar"})
    assert reusing.reuses_prompt
    texts = [ask(reusing, question).text for question in QUESTIONS]
    narrow = widths.copy()
    widths.clear()
    fresh = Conversation(block_causal, tokenizer, {"max_new_tokens": 12, "preset": "sdar"})
    monkeypatch.setattr(Conversation, "reuses_prompt", False)
    assert [ask(fresh, question).text for question in QUESTIONS] == texts
    assert len(narrow) == len(widths) and sum(narrow) < sum(widths)


def test_bidirectional_attention_has_no_exact_cache_of_earlier_turns(model, tokenizer):
    assert not Conversation(model, tokenizer, {"preset": "fast_dllm"}).reuses_prompt


def test_an_interrupted_turn_leaves_no_trace(block_causal, tokenizer):
    conversation = Conversation(block_causal, tokenizer, {"max_new_tokens": 12, "preset": "sdar"})
    ask(conversation)

    def interrupt(streamer: LiveCanvas) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.ask(QUESTIONS[1], LiveCanvas(tokenizer, interrupt))
    assert len(conversation.messages) == 2 and len(conversation.answers) == 1
    again = Conversation(block_causal, tokenizer, {"max_new_tokens": 12, "preset": "sdar"})
    ask(again)
    assert ask(conversation, QUESTIONS[1]).text == ask(again, QUESTIONS[1]).text


def test_presets_and_thresholds(model, tokenizer):
    conversation = Conversation(model, tokenizer, {"preset": "d3llm", "threshold": 0.9, "max_new_tokens": 16})
    conversation.choose_preset("dparallel")
    assert conversation.config.threshold == 0.5  # its own
    assert conversation.config.max_new_tokens == 16  # not a part of the method
    conversation.choose_threshold(0.3)
    assert conversation.config.threshold == 0.3
    for refused in (lambda: conversation.choose_preset("d3lm"), lambda: conversation.choose_threshold(-1)):
        with pytest.raises(ValueError, match=r"d3lm|threshold"):
            refused()
    assert (conversation.config.preset, conversation.config.threshold) == ("dparallel", 0.3)
    conversation.choose_preset("llada")
    with pytest.raises(ValueError, match="without a threshold"):
        conversation.choose_threshold(0.5)
    assert "d3llm" in conversation.fitting_presets()


def test_a_chat_without_a_terminal(tiny_checkpoint, capsys, monkeypatch, tmp_path):
    saved = tmp_path / "chat.json"
    (tmp_path / "mine.txt").write_text("mine")
    lines = [QUESTIONS[0], "", "/preset d3llm", QUESTIONS[1], f"/save {saved}", f"/save {saved}"]
    lines += [f"/save {tmp_path / 'mine.txt'}", "/presett", "/threshold x", "/save", "/help", "/quit", "never asked"]
    arguments = ["--model", str(tiny_checkpoint), "--preset", "llada", "--max-new-tokens", "16"]
    printed, errors = chat_with(capsys, monkeypatch, lines, *arguments)
    record = json.loads(saved.read_text())
    roles = [message["role"] for message in record["messages"]]
    assert roles == ["user", "assistant"] * 2 and "\x1b" not in printed
    assert [answer["preset"] for answer in record["answers"]] == ["llada", "d3llm"]
    assert all(answer["text"] in printed for answer in record["answers"])
    assert all(name in printed for name in COMMANDS)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    wrong = ["mine.txt exists", "did you mean `/preset`", "/threshold x: give a number", "/save needs the name"]
    assert all(text in line for text, line in zip(wrong, errors.splitlines(), strict=True))


def test_a_new_conversation_is_not_saved_over_an_earlier_one(tiny_checkpoint, capsys, monkeypatch, tmp_path):
    saved = tmp_path / "chat.json"
    lines = [QUESTIONS[0], f"/save {saved}", "/clear", f"/save {saved}", f"/save {tmp_path / 'none' / 'chat.json'}"]
    arguments = ["--model", str(tiny_checkpoint), "--preset", "llada", "--max-new-tokens", "16"]
    _, errors = chat_with(capsys, monkeypatch, lines, *arguments)
    assert len(json.loads(saved.read_text())["messages"]) == 2
    exists, missing = errors.splitlines()
    assert f"{saved} exists" in exists and f"there is no folder {tmp_path / 'none'}" in missing


def test_the_shipped_models_answer_single_questions(capsys, monkeypatch):
    question = "Tom has 3 apples. He buys 4 more. How many apples does Tom have?"
    printed, _ = chat_with(capsys, monkeypatch, [question, question])
    first, second = printed[: len(printed) // 2], printed[len(printed) // 2 :]
    assert first == second and "####" in first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num-return-sequences", "2"], "one answer"),
        (["--preset", "refusion"], "this model was trained with block_causal"),
        (["--threshhold", "1"], "did you mean"),
    ],
)
def test_wrong_arguments(capsys, arguments, said):
    assert said in run_fails(capsys, "chat", *arguments)


def test_typed_lines_are_edited_and_remembered(tmp_path, monkeypatch):
    pytest.importorskip("prompt_toolkit")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("one twx\x7fo\rdropped\x03last\r\x04")
        assert list(typed_lines()) == ["one two", "last"]
    history = (tmp_path / "d3llm/chat_history").read_text()
    assert "+one two" in history and "dropped" not in history
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "file"))  # nothing can be written there
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("\x04")
        assert list(typed_lines()) == []


def main_at_home(home: str, arguments: list[str]) -> int:
    """The command line with another folder of the Hugging Face cache."""
    huggingface_hub.constants.HF_HOME = home
    return main(arguments)


@pytest.mark.slow
def test_a_chat_in_a_terminal(tiny_checkpoint, tmp_path):
    pty = pytest.importorskip("pty")
    pytest.importorskip("prompt_toolkit")
    leader, follower = pty.openpty()
    environment = {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    arguments = ["chat", "--model", str(tiny_checkpoint), "--preset", "llada", "--max-new-tokens", "8"]
    command = Fork(main_at_home, str(tmp_path), arguments, environment=environment, terminal=os.ttyname(follower))
    typed = iter([b"one plus twx\x7fo is\r", b"/threshold 0.5\r", b"\x03", b"\x04"])
    written, deadline = b"", time.monotonic() + 40
    while time.monotonic() < deadline and (command.process.is_alive() or select.select([leader], [], [], 0)[0]):
        if select.select([leader], [], [], 0.1)[0]:
            written += os.read(leader, 65536)
        elif "›".encode() in written[-200:]:
            os.write(leader, next(typed, b""))
            written += b"\n" * 200
    os.close(follower)
    os.close(leader)
    text = written.decode()
    assert command.wait(5).returncode == 0, text
    assert "forward 1, 1 tokens committed" in text and "TPF 1.00" in text and "tokens/s" in text
    assert "without a threshold" in text


def test_a_stopped_answer_in_a_terminal(model, tokenizer, monkeypatch):
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    chat = Chat(Conversation(model, tokenizer, SHORT), "tiny", console)
    chat.is_live = True
    render = LiveCanvas.with_caption

    def interrupt(streamer: LiveCanvas):
        if len(streamer.frames) == 3:
            raise KeyboardInterrupt
        return render(streamer)

    monkeypatch.setattr(LiveCanvas, "with_caption", interrupt)
    chat.talk(iter([QUESTIONS[0]]))
    assert "stopped" in console.file.getvalue() and not chat.conversation.messages
    monkeypatch.setattr(LiveCanvas, "with_caption", render)
    chat.talk(iter([QUESTIONS[0]]))
    assert len(chat.conversation.messages) == 2


def test_the_default_model_is_the_student(monkeypatch, capsys):
    loaded = []

    def load(folder, **options):
        loaded.append(folder)
        raise ValueError("enough")

    monkeypatch.setattr("d3llm.commands.loading.load_model", load)
    run_fails(capsys, "chat")
    assert loaded == [checkpoint_path("student")]
