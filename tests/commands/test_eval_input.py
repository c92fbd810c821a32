"""What comes from outside into `d3llm eval`, `leaderboard` and `tune`: task data, result files, arguments."""

import copy
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d3llm.commands import eval as eval_command
from d3llm.commands.leaderboard import board_table
from d3llm.commands.main import main
from d3llm.commands.tables import table_console
from d3llm.common.fingerprints import fingerprint_files
from d3llm.evaluation.leaderboard import make_boards, result_curves
from d3llm.evaluation.plots import curves_png
from d3llm.evaluation.result import SCHEMA, read_result, read_results, result_files
from d3llm.evaluation.tasks import TASKS, data
from d3llm.hub_cards.facts import ModelFacts
from d3llm.hub_cards.from_results import with_results
from tests.helpers.commands import run_fails
from tests.helpers.paths import ROOT
from tests.helpers.results import whole_result


ROWS = {
    "gsm8k_cot": {"question": "Ann has 3 pens and buys 4. How many?", "answer": "3+4=7\n#### 7"},
    "math": {"problem": "$1+1$?", "solution": r"It is $\boxed{2}$."},
    "humaneval": {
        "task_id": "a",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(f):\n    assert f(1)",
    },
    "mbpp": {"task_id": 11, "text": "Add.", "test_list": ["assert add(1, 2) == 3"], "test_setup_code": ""},
    "arc_challenge": {
        "id": "a",
        "question": "Which is a color?",
        "choices": {"label": ["A", "B"], "text": ["red", "two"]},
        "answerKey": "A",
    },
    "mmlu": {"question": "One and one?", "choices": ["two", "three"], "answer": 0},
}
LONG = "x" * 5000


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("gsm8k_cot", {"answer": 7}, "['answer'] is 7: expected a valid string"),
        ("gsm8k_cot", {"answer": ["#### 7"]}, "['answer'] is ['#### 7']: expected a valid string"),
        ("gsm8k_cot", {"answer": "7"}, "`answer` without `#### `"),
        ("gsm8k_cot", {"question": " "}, "['question'] is ' '"),
        ("math", {"solution": 2}, "['solution'] is 2"),
        ("math", {"solution": ["2"]}, "['solution'] is ['2']"),
        ("humaneval", {"task_id": [1]}, "['task_id'] is [1]"),
        ("humaneval", {"prompt": 5}, "['prompt'] is 5"),
        ("humaneval", {"entry_point": "g"}, "no `def g` in its `prompt`"),
        ("mbpp", {"test_list": 5}, "['test_list'] is 5"),
        ("mbpp", {"test_list": [5]}, "['test_list'][0] is 5"),
        ("mbpp", {"test_list": []}, "['test_list'] is []"),
        ("mbpp", {"text": None}, "neither `text` nor `prompt`"),
        ("arc_challenge", {"choices": 5}, "['choices'] is 5"),
        ("arc_challenge", {"choices": ["A", "B"]}, "['choices'] is ['A', 'B']"),
        ("arc_challenge", {"choices": {"label": ["A"], "text": ["red", "two"]}}, "['choices']['label'] is ['A']"),
        ("arc_challenge", {"choices": {"label": ["A", "B", "C"], "text": ["red", "two"]}}, "3 labels for 2 choices"),
        ("arc_challenge", {"answerKey": "C"}, "`answerKey` 'C', which is none of its labels"),
        ("arc_challenge", {"question": 5}, "['question'] is 5"),
        ("arc_challenge", {"question": ["x"]}, "['question'] is ['x']"),
        ("mmlu", {"question": 5}, "['question'] is 5"),
        ("mmlu", {"question": ["x"]}, "['question'] is ['x']"),
        ("mmlu", {"choices": 5}, "['choices'] is 5"),
        ("mmlu", {"choices": [1, 2]}, "['choices'][0] is 1"),
        ("mmlu", {"choices": ["two"]}, "['choices'] is ['two']"),
        ("mmlu", {"answer": [0]}, "['answer'] is [0]"),
        ("mmlu", {"answer": "A"}, "['answer'] is 'A'"),
        ("mmlu", {"answer": 2}, "`answer` 2, counted from 0, of 2 choices"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "tune"])
def test_rows_of_another_form_are_refused(command, tmp_path, capsys, tiny_checkpoint, task, change, message):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[task] | change) + "\n")
    flags = ["--tasks", task, "--data", file, "--output", tmp_path / "out", "--allow-code-execution"]
    said = run_fails(capsys, command, *flags, "--model", tiny_checkpoint)
    assert f"{file}, row 1" in said and message in said and len(said) < 400
    assert not (tmp_path / "out").exists()


def test_the_rows_themselves_are_taken(tmp_path):
    for task, row in ROWS.items():
        file = tmp_path / f"{task}.jsonl"
        file.write_text(json.dumps(row) + "\n")
        assert len(TASKS[task].load(file, "test", None)) == 1
        file.write_text((json.dumps(row) + "\n") * 2)
        if task in ("humaneval", "mbpp", "arc_challenge"):  # which name their problems
            with pytest.raises(ValueError, match=r"row 2 has the id '\w+' of .*row 1: give each problem once"):
                TASKS[task].load(file, "test", None)
            assert len(TASKS[task].load(file, "test", 1)) == 1
        else:
            assert len(TASKS[task].load(file, "test", None)) == 2


def odd_values(seed: int = 0) -> list[Any]:
    """JSON values of every kind, and some nested ones."""
    plain = [None, True, 0, -1, 0.5, 10**30, float("nan"), float("inf"), "", "x", "[/b]", "\x1b[2J", "\ud800", [], {}]
    draw = random.Random(seed)

    def nested(depth: int) -> Any:
        kind = draw.choice(("list", "dict", "plain")) if depth else "plain"
        if kind == "list":
            return [nested(depth - 1) for _ in range(draw.randrange(4))]
        if kind == "dict":
            return {draw.choice("abc"): nested(depth - 1) for _ in range(draw.randrange(4))}
        return draw.choice(plain)

    return plain + [nested(3) for _ in range(5)]


def changed(value: dict[str, Any], path: tuple[str, ...], new: Any) -> dict[str, Any]:
    """The value with another one at a path; a path whose new value is `...` goes."""
    value = copy.deepcopy(value)
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def places(value: Any) -> list[tuple[str, ...]]:
    """The paths to all that is in a dictionary of dictionaries."""
    return [
        (name, *rest)
        for name, inner in value.items()
        for rest in [(), *(places(inner) if isinstance(inner, dict) else [])]
    ]


@pytest.mark.parametrize("task", ROWS)
def test_any_value_in_a_row_is_taken_or_refused(monkeypatch, task):
    """Never anything but a `ValueError`."""
    outcomes = set()
    for path in places(ROWS[task]):
        for value in [..., *odd_values()]:
            rows = [changed(ROWS[task], path, value)]
            monkeypatch.setattr(data, "_read", lambda *_, rows=rows: rows)
            try:
                (sample,) = TASKS[task].load(Path("rows.jsonl"), "test", None)
                assert sample.prompt.strip() and isinstance(sample.id, str)
                outcomes.add("taken")
            except ValueError as error:
                assert "\n" not in str(error)
                outcomes.add("refused")
    assert outcomes == {"taken", "refused"}


def write(folder: Path, result: Any, name: str = "result.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(result))
    return path


NAMES = ("task", "title", "method")
KEYS = (*NAMES, "data", "accuracy", "tokens_per_forward", "tokens_per_second", "hardware", "samples")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: ...}, f"['{name}'] is missing") for name in KEYS),
        *(({name: value}, f"['{name}'] is ") for name in NAMES for value in (None, -1, [], {}, "")),
        *(({"data": value}, "['data'] is ") for value in (None, -1, [], {})),
        *(({"assistant_model": value}, "['assistant_model'] is ") for value in (-1, [], {})),
        *(({"assistant_weights": value}, "['assistant_weights'] is ") for value in (-1, [], {})),
        *(({"chat": value}, "['chat'] is ") for value in (None, "x", -1, [], {})),
        *(({"accuracy": value}, "['accuracy'] is ") for value in (None, "x", [], {}, 50, -0.1, float("nan"))),
        *(
            ({name: value}, f"['{name}'] is ")
            for name in ("tokens_per_forward", "tokens_per_second")
            for value in ("x", [], {}, -1, float("inf"))
        ),
        *(({"hardware": value}, "['hardware'] is ") for value in (None, "x", -1, [])),
        ({"hardware": {}}, "['hardware']['device'] is missing"),
        *(({"samples": value}, "['samples'] is ") for value in (None, "x", -1, [])),
        ({"samples": {}}, "['samples']['id'] is missing"),
        ({"accuracy": 0.9}, "['accuracy'] is 0.9, and its samples say 0.8"),
        ({"tokens_per_forward": 9.0}, "['tokens_per_forward'] is 9.0, and its samples say 3.0"),
        ({"tokens_per_forward": None}, "['tokens_per_forward'] is None, and its samples say 3.0"),
        ({"tokens_per_second": None}, "['tokens_per_second'] is None"),
        ({"seconds": 0}, "no forward or no time"),
        ({"num_samples": 99}, "['num_samples'] is 99"),
        ({"samples": {**whole_result()["samples"], "tokens": [30]}}, "'tokens': 1"),
        ({"samples": {**whole_result()["samples"], "forwards": [0] * 100}}, "no forward or no time"),
        ({"schema": "d3llm-result-0"}, f"['schema'] is 'd3llm-result-0': expected '{SCHEMA}'"),
        ({"schema": ...}, "not a result file"),
        ({"title": "a\nb"}, "['title'] is 'a\\nb': expected a name of printable characters"),
        ({"method": "\x1b[2J"}, "['method'] is '\\x1b[2J': expected a name of printable characters"),
        ({"method": "\ud800"}, "not a result file"),
    ],
)
def test_result_files_of_another_form_are_refused(tmp_path, capsys, changes, message):
    result = {name: value for name, value in (whole_result() | changes).items() if value is not ...}
    path = write(tmp_path, result)
    said = run_fails(capsys, "leaderboard", path)
    assert str(path) in said and message in said and len(said) < 500


@pytest.mark.slow
def test_any_value_in_a_result_file_is_taken_or_refused(tmp_path, tiny_checkpoint):
    """By every reader of result files; never anything but a `ValueError`."""
    weights = fingerprint_files([tiny_checkpoint / "config.json", *tiny_checkpoint.glob("*.safetensors")])
    result = whole_result(num_samples=4, correct=3, weights=weights, method="teacher-llada")
    facts = ModelFacts("m", license="mit", architecture="a", parameters=1)
    file = tmp_path / "result.json"
    readers: dict[str, Callable[[], Any]] = {
        "leaderboard": lambda: print_board(result_curves(read_results([file]))),
        "card": lambda: with_results(facts, tiny_checkpoint, read_results([file])),
    }
    outcomes = set()
    for number, path in enumerate(places(result)):
        for value in [..., *odd_values(number)]:
            file.write_text(json.dumps(changed(result, path, value)))
            for name, read in readers.items():
                try:
                    read()
                    outcomes.add((name, "taken"))
                except ValueError as error:
                    assert "\n" not in str(error)
                    outcomes.add((name, "refused"))
    assert outcomes == {(name, outcome) for name in readers for outcome in ("taken", "refused")}


def print_board(curves) -> str:
    (board,) = make_boards(curves, resamples=2)
    file = io.StringIO()
    console = table_console(140)
    console.file = file
    console.print(board_table(board))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 100, b"1e999", b"null"])
def test_what_is_no_json_is_no_result(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json is not a result file"):
        read_result(path)


def test_names_are_printed_and_drawn_as_they_are(tmp_path, capsys):
    names = ["[/]", "[/foo]", "[red]x[/red]", ":smile:", "$\\frac{$ and $", "%s {x}"]
    paths = [
        write(tmp_path, whole_result(title="[/] $\\frac{$ :smile:", method=name), f"{number}.json")
        for number, name in enumerate(names)
    ]
    assert main(["leaderboard", *map(str, paths), "--output", str(tmp_path / "[/out]")]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*names, "[/] $\\frac{$ :smile:", "[/out]"])
    assert len(list((tmp_path / "[/out]").iterdir())) == 6
    eval_command.print_table([read_result(path) for path in paths])
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


def test_long_names_are_shortened(tmp_path, capsys):
    path = write(tmp_path, whole_result(method="begin" + LONG + "end", title=LONG))
    assert main(["leaderboard", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "begin" in printed and "end" in printed and len(printed) < 2000
    assert len(curves_png(read_results([path]))) < 200_000


def test_points_on_other_samples_are_no_curve(tmp_path, capsys):
    paths = [write(tmp_path, whole_result(num_samples=count), f"{count}.json") for count in (80, 100)]
    assert "different samples" in run_fails(capsys, "leaderboard", *paths)


def test_a_measured_method_does_not_replace_a_published_one(tmp_path, capsys):
    path = write(tmp_path, whole_result(method="d3LLM-LLaDA"))
    flags = ["leaderboard", str(path), "--published"]
    assert "two curves of d3LLM-LLaDA on GSM8K-CoT" in run_fails(capsys, *flags, "--join", "LLaDA")
    assert main(flags) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", ""], "--method is ''"),
        (["--method", " "], "--method is ' '"),
        (["--method", "a\x1b[2Jb"], "--method is 'a\\x1b[2Jb'"),
        (["--num-return-sequences", "3"], "`num_return_sequences` must be 1 here"),
        (["--sweep", "threshold=0.1,0.1"], "threshold=0.1 twice"),
        (["--sweep", "threshold=0.1,0.10"], "threshold=0.10 twice"),
        (["--sweep", "threshold=0.1", "--sweep", "threshold=0.5"], "--sweep has threshold twice"),
        (["--sweep", "block-size=8", "--sweep", "block_size=16"], "--sweep has block_size twice"),
        (["--sweep", "block-size=4,8", "--block-size", "2"], "block_size is swept (--sweep) and given (--block-size)"),
    ],
)
def test_arguments_that_make_no_points(tmp_path, capsys, flags, message):
    said = run_fails(capsys, "eval", "--tasks", "stories", "--output", tmp_path / "out", *flags)
    assert message in said and not (tmp_path / "out").exists()
    if "--sweep" in flags:
        model = ["--model", tmp_path]
        said = run_fails(capsys, "tune", "--tasks", "stories", *model, "--output", tmp_path / "out", *flags)
        assert message in said and not (tmp_path / "out").exists()


def measure_stories(tiny_checkpoint, folder: Path, *flags) -> int:
    common = ["--model", tiny_checkpoint, "--tasks", "stories", "--limit", 2, "--max-new-tokens", 4]
    common += ["--device", "cpu", "--preset", "llada", "--output", folder]
    return main([str(flag) for flag in ["eval", *common, *flags]])


def test_a_checkpoint_that_returns_several_texts_is_measured_by_one(tmp_path, tiny_checkpoint):
    for name, count in (("one", 1), ("several", 3)):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / f"model-{name}")
        path = folder / "generation_config.json"
        given = {"num_return_sequences": count, "do_sample": True, "temperature": 1.0, "seed": 0}
        path.write_text(json.dumps(json.loads(path.read_text()) | given))
        assert measure_stories(folder, tmp_path / name) == 0
    one, several = ((tmp_path / name).glob("*.samples.jsonl") for name in ("one", "several"))
    texts = [[json.loads(line)["text"] for line in next(files).read_text().splitlines()] for files in (one, several)]
    assert texts[0] == texts[1] and len(texts[0]) == 2


def test_a_long_method_names_short_files(tmp_path, tiny_checkpoint, capsys):
    for method in (LONG, LONG + "y", "ä" * 200):
        assert measure_stories(tiny_checkpoint, tmp_path / "out", "--method", method) == 0
        assert len(capsys.readouterr().out) < 3000
    results = map(read_result, result_files([tmp_path / "out"]))
    assert {result.method for result in results} == {LONG, LONG + "y", "ä" * 200}
    assert measure_stories(tiny_checkpoint, tmp_path / "out", "--method", LONG) == 0  # finds its file


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({"correct": "yes"}, False),
        ({"tokens": -1}, False),
        ({"forwards": 1.5}, False),
        ({"seconds": None}, False),
        ({"text": ["x"]}, False),
        ({}, True),
    ],
)
def test_lines_of_samples_are_held_against_their_form(tmp_path, tiny_checkpoint, capsys, change, taken):
    assert measure_stories(tiny_checkpoint, tmp_path) == 0
    (samples,) = tmp_path.glob("*.samples.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    samples.write_text("".join(json.dumps(line | change) + "\n" for line in lines))
    before = samples.read_text()
    capsys.readouterr()
    assert measure_stories(tiny_checkpoint, tmp_path) == (0 if taken else 2)
    assert taken or re.search(r"line 1, is not a result of this run: .*--overwrite", capsys.readouterr().err)
    assert samples.read_text() == before


def test_a_damaged_result_is_not_replaced(tmp_path, tiny_checkpoint, capsys):
    assert measure_stories(tiny_checkpoint, tmp_path) == 0
    (file,) = result_files([tmp_path])
    result = json.loads(file.read_text())
    for path in tmp_path.glob("*.samples.*"):  # else the result follows from them
        path.unlink()
    file.write_text(json.dumps(result | {"accuracy": "high"}))
    assert measure_stories(tiny_checkpoint, tmp_path) == 2
    assert "is not this measurement: choose another folder, or start again (--overwrite)" in capsys.readouterr().err
    assert json.loads(file.read_text())["accuracy"] == "high"


@pytest.mark.parametrize("task", ["mmlu", "arc_challenge", "gsm8k_cot", "mbpp"])
def test_a_sample_longer_than_the_model_is_named_before_any_forward(
    tmp_path, tiny_checkpoint, capsys, monkeypatch, task
):
    monkeypatch.setattr("d3llm.modeling.LLaDAModelLM.forward", None)
    name = "text" if task == "mbpp" else "question"
    rows = [ROWS[task] | {name: text} for text in ("Short?", "word " * 20_000)]
    identity = next((key for key in ("id", "task_id") if key in ROWS[task]), None)
    if identity is not None:
        rows[1][identity] = 12 if task == "mbpp" else "b"
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--tasks", task, "--data", file, "--output", tmp_path / "out", "--device", "cpu", "--max-new-tokens", "4"]
    said = run_fails(capsys, "eval", *flags, "--model", tiny_checkpoint, "--allow-code-execution")
    expected = {"mmlu": "1", "gsm8k_cot": "1", "arc_challenge": "b", "mbpp": "12"}[task]
    assert f"The sample '{expected}' takes" in said and "128 positions" in said and len(said) < 300
    assert not list((tmp_path / "out").iterdir())


def test_tuning_needs_thresholds(tmp_path, capsys, tiny_checkpoint):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS["mmlu"]) + "\n")
    flags = ["--tasks", "mmlu", "--data", file, "--output", tmp_path / "out", "--model", tiny_checkpoint]
    assert "answered by likelihood" in run_fails(capsys, "tune", *flags)


@pytest.mark.parametrize("content", ["[]", '"x"', "{", "[" * 100_000, '{"preset": "x"}', '{"score": 3}'])
def test_tuning_refuses_a_damaged_generation_config(tmp_path, capsys, content):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text(content)
    flags = ["--tasks", "stories", "--output", tmp_path / "out", "--model", tmp_path]
    said = run_fails(capsys, "tune", *flags)
    assert any(word in said for word in ("generation_config.json", "`preset`", "`score`"))
    assert (tmp_path / "generation_config.json").read_text() == content


def test_a_result_file_is_written_as_it_was_read(tmp_path):
    """Byte for byte; those of a comparison lack keys that `d3llm eval` writes."""
    folders = [ROOT / "docs/results" / name for name in ("teacher", "student")]
    for file in result_files(folders):
        read_result(file).write(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
