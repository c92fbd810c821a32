"""The demo Space: frames as HTML, what decodes them, its page, and its limits."""

import json
import re
import shutil
import threading
import time
from html import unescape

import pytest
import torch

import d3llm.modeling  # noqa: F401
from d3llm.commands.space import named_models, shipped_examples
from d3llm.hub_cards.canvas_space import decoding
from d3llm.hub_cards.canvas_space.decoding import LoadedModel, Side, block_starts, decode_sides, load
from d3llm.hub_cards.canvas_space.frames import Recording, canvas_html, numbers_html, split_text
from d3llm.hub_cards.repositories import space_repository
from tests.helpers.commands import run_fails


MASK, EOS = 1, 0
WORDS = {EOS: "<eos>", MASK: "<mask>", 2: "a", 3: "<b>", 4: "c", 5: "d"}


def decode(tokens) -> str:
    return " ".join(WORDS[token] for token in tokens)


@pytest.fixture
def recording() -> Recording:
    """Four positions in two blocks: three forwards, of which the second revises a token and the last one ends."""
    recording = Recording("tiny, llada", [0, 2], MASK, {EOS, MASK}, {EOS})
    recording.add([2, MASK, MASK, MASK], [True, False, False, False], 0.5)
    recording.add([4, 3, MASK, MASK], [True, True, False, False], 1.0)
    recording.add([4, 3, EOS], [True, True, True], 1.5)
    recording.row_forwards = 3
    return recording


def visible(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def spans(html: str) -> list[tuple[str, str, str]]:
    """Class, other attributes and text of each span."""
    return [
        (kind, rest.strip(), unescape(text))
        for kind, rest, text in re.findall(r'<span class="([^"]+)"([^>]*)>([^<]*)', html)
    ]


def test_the_forward_that_committed_a_position(recording):
    assert recording.steps == [[1, 0, 0, 0], [2, 2, 0, 0], [2, 2, 3, 3]]
    assert recording.tokens[-1] == [4, 3, EOS, EOS]  # the end fills the rest
    assert [recording.count(forward) for forward in (1, 2, 3)] == [1, 2, 3]


def test_a_frame(recording):
    first, second, last = (canvas_html(recording, forward, decode) for forward in (1, 2, 3))
    assert [html.count("class=block") for html in (first, second, last)] == [2, 2, 2]
    assert [kind for kind, _, _ in spans(first)] == ["committed new", "draft", "draft", "draft"]
    assert visible(first) == "a ░ ░ ░"
    assert "<b>" not in second and "&lt;b&gt;" in second  # a text is not markup
    kinds = spans(last)
    assert [kind for kind, _, _ in kinds] == ["committed", "committed", "draft", "draft"]
    assert "--hue: 118" in kinds[0][1] and 'title="forward 2"' in kinds[0][1]  # halfway between the hues
    assert visible(last).endswith(" · ·")
    assert canvas_html(recording, 9, decode) == last and canvas_html(recording, 0, decode) == first
    assert "block" in canvas_html(Recording("empty"), 1, decode)


def test_numbers(recording):
    assert visible(numbers_html(recording, 1)) == "tiny, lladaforward 1: 1 tokens, 0.50 s"
    assert visible(numbers_html(recording, 3)) == "tiny, llada3 tokens in 3 forwards, TPF 1.00, 1.50 s"
    recording.row_forwards = 24
    assert "(24 row forwards)" in numbers_html(recording, 3)
    recording.name = "<script>"
    assert "<script>" not in numbers_html(recording, 3) + numbers_html(Recording("<script>"), 1)


def test_pieces_of_a_text_join_to_it():
    from d3llm.quickstart.stories.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()  # words of several tokens, and a space before the text that is not shown
    text = "That makes <<3*4=12>>12 pens.\n#### 12"
    tokens = tokenizer(text)["input_ids"]
    pieces = split_text(tokenizer.decode, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens) and len(pieces) == len(tokens)
    assert [piece.strip() for piece in pieces[:2]] == ["That", "makes"]
    assert split_text(tokenizer.decode, []) == [] and split_text(lambda tokens: "é", [7, 8]) == ["é", ""]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint) -> LoadedModel:
    return load(str(tiny_checkpoint))


def test_two_sides(loaded):
    sides = [Side(loaded, "tiny", preset, "one plus two is", 16) for preset in ("llada", "dparallel")]
    for _ in decode_sides(sides):
        pass
    for side in sides:
        again = loaded.model.generate(side.input_ids, generation_config=side.config, return_dict_in_generate=True)
        assert side.recording.tokens[-1] == again.sequences[0, side.input_ids.shape[1] :].tolist()
        assert side.recording.forwards == again.forward_passes[0] == side.recording.row_forwards
        assert side.recording.seconds == sorted(side.recording.seconds)
        in_time = torch.tensor(side.recording.steps[-1]) == again.commit_steps[0]
        assert in_time[: side.recording.count(side.recording.forwards)].all()


def test_a_visitor_who_leaves_ends_the_decoding(loaded, monkeypatch):
    monkeypatch.setattr(decoding, "PAUSE", 0.0)
    side = Side(loaded, "tiny", "llada", "one plus two is", 96)
    side.config.early_stop = False
    before = threading.active_count()
    states = decode_sides([side])
    next(states)
    states.close()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert side.recording.forwards < 96 and threading.active_count() == before


@pytest.mark.parametrize(
    ("preset", "prompt", "length", "said"),
    [
        ("llada", " ", 16, "empty"),
        ("llada", "one " * 501, 16, "at most 2000"),
        ("llada", "one", 100_000, "outside of 1 to 256"),
        ("llada", "one " * 120, 16, "exceed the 128 positions"),
        ("d3lm", "one", 16, "d3lm"),
    ],
)
def test_limits(loaded, preset, prompt, length, said):
    with pytest.raises(ValueError, match=said):
        Side(loaded, "tiny", preset, prompt, length)


def test_a_side_has_a_limit_of_time(loaded):
    assert Side(loaded, "tiny", "llada", "one", 16).config.max_time == decoding.MOST_SECONDS


def test_an_error_while_decoding_is_raised(loaded, monkeypatch):
    side = Side(loaded, "tiny", "llada", "one", 16)

    def fail(*_, **__):
        raise ValueError("broken")

    monkeypatch.setattr(loaded.model, "forward", fail)
    with pytest.raises(ValueError, match="broken"):
        list(decode_sides([side]))


def test_the_presets_are_those_that_fit(loaded, monkeypatch):
    assert {"llada", "d3llm"} <= set(loaded.presets) and "sdar" in decoding.PRESETS
    monkeypatch.setattr(loaded.model.config, "attention", "bidirectional", raising=False)
    assert not decoding._fits(loaded.model, "sdar") and decoding._fits(loaded.model, "llada")


def test_blocks_on_an_absolute_grid(loaded):
    config = loaded.model.diffusion_config(kwargs={"preset": "llada", "block_size": 8})
    assert block_starts(config, loaded.model, 13, 20) == [0, 8, 16]

    class Absolute:
        attention_grid = "absolute"

    config.attention = "block_causal"
    assert block_starts(config, Absolute, 13, 20) == [0, 3, 11, 19]


def test_what_is_pushed_runs_alone(tmp_path, tiny_checkpoint, monkeypatch):
    """The page, from the files of the Space."""
    gradio = pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    for path, content in space_repository(["ada/m"]).files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (tmp_path / "settings.json").write_text(json.dumps({"models": {"tiny": str(tmp_path / "model")}}))
    monkeypatch.syspath_prepend(tmp_path)
    import importlib.util

    spec = importlib.util.spec_from_file_location("space_app", tmp_path / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    assert isinstance(app.demo, gradio.Blocks)
    from canvas_space.interface import Demo

    demo = Demo({"tiny": load(str(tiny_checkpoint))})
    *_, (left, right, slider, scale, kept) = demo.fill("one plus two is", 16, "tiny", "llada", "tiny", "dparallel")
    forwards = max(recording.forwards for recording, _ in kept)
    assert slider["maximum"] == slider["value"] == forwards > 1 and "last forward" in scale
    assert "TPF" in left and "TPF" in right and "tiny, dparallel" in visible(right)
    first = demo.show(kept, 1)
    assert all("forward 1: " in visible(side) and "░" in side for side in first)
    with pytest.raises(gradio.Error, match="empty"):
        next(demo.fill("", 16, "tiny", "llada", "tiny", "dparallel"))


def test_what_is_to_be_said_of_an_answer(loaded):
    """Of the models that have a caution, below the canvases, and not as markup."""
    pytest.importorskip("gradio")
    from d3llm.hub_cards.canvas_space.interface import Demo

    asked, said = [], "It knows <little>."
    demo = Demo({"tiny": loaded, "other": loaded}, {"tiny": lambda *given: asked.append(given) or said})
    *_, (_, _, _, below, kept) = demo.fill("one plus two is", 16, "tiny", "llada", "other", "llada")
    assert unescape(below).count(f"tiny, llada: {said}") == 1 and "<little>" not in below
    text = loaded.tokenizer.decode(kept[0][0].tokens[-1], skip_special_tokens=True).strip()
    assert asked == [("one plus two is", text)]


def test_the_models_of_the_command(capsys, tmp_path):
    assert list(named_models(None)) == ["teacher", "student"]
    assert named_models(["ada/m"]) == {"ada/m": "ada/m"}
    assert len(shipped_examples()) == 4
    assert "two sides" in run_fails(capsys, "space", "--model", "a", "b", "c")
    assert "same name" in run_fails(capsys, "space", "--model", "a", "a")


def test_a_space_has_one_or_two_models():
    for models in ([], ["ada/m", "ada/m"], ["ada/m", "ada/n", "ada/o"]):
        with pytest.raises(ValueError, match="one or two different models"):
            space_repository(models)


@pytest.fixture(scope="module")
def page():
    """The page of the shipped models in a headless browser, if there is one."""
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("gradio")
    from d3llm.hub_cards.canvas_space.interface import Settings, build

    browser_path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=browser_path)
        except playwright.Error as error:
            pytest.skip(f"no browser: {error}")
        demo = build(Settings(named_models(None), examples=shipped_examples()))
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
        yield browser.new_page(), url
        browser.close()
        demo.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_in_a_browser(page, width, theme):
    """Types, runs, drags the slider, reads the numbers."""
    tab, url = page
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(f"{url}?__theme={theme}")
    tab.fill("#prompt textarea", shipped_examples()[0])
    tab.click("#fill")
    tab.wait_for_selector("#side-left:has-text('TPF')", timeout=60_000)
    tab.wait_for_selector("#side-right:has-text('TPF')")
    handle = tab.locator("#forward input[type=range]")
    handle.evaluate("(e) => {e.value = 1; e.dispatchEvent(new Event('input', {bubbles: true}))}")
    tab.wait_for_selector("#side-left:has-text('forward 1:')")
    assert tab.locator("#side-left .committed").count() == 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
