"""A task of one's own, from YAML: what it asks and accepts, what its results say, and which files are refused."""

import gzip
import json
import logging
import re
import shlex
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from d3llm.commands.main import main
from d3llm.evaluation.result import read_results
from d3llm.evaluation.tasks import find_task, load_task
from d3llm.evaluation.tasks import task_file as task_files
from tests.helpers.commands import run_fails
from tests.helpers.paths import ROOT


PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Your own task\n")[2].partition("\n## ")[0]
DEFINITION = {"data": "rows.jsonl", "prompt": "{{ question }}", "answer": "{{ answer }}", "metric": "exact"}
ROWS = [{"question": "one plus two is", "answer": "three"}, {"question": "two plus two is", "answer": "four"}]


def code(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return block


def write(folder: Path, rows: Any = ROWS, **changes: Any) -> Path:
    """A task's file and its data; a value of `...` leaves the key out."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {key: value for key, value in (DEFINITION | changes).items() if value is not ...}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The files of the page, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("capitals.jsonl").write_text(code("json"))
    Path("capitals.yaml").write_text(code("yaml"))


@pytest.mark.usefixtures("page")
def test_the_command_of_the_page(tiny_checkpoint):
    program, *arguments = shlex.split(code("sh").replace("DIR", str(tiny_checkpoint)))
    assert program == "d3llm" and main([*arguments, "--device", "cpu"]) == 0
    results = read_results([Path("results")])
    assert [result.point for result in results] == [{"threshold": 0.1}, {"threshold": 0.5}]
    for result in results:
        assert (result.task, result.title, result.source, result.num_samples) == (
            "capitals", "capitals", "capitals.jsonl", 3,
        )  # fmt: skip
        assert re.fullmatch(r"capitals\.yaml [0-9a-f]{16}", result.definition)
        assert result.decoding["max_new_tokens"] == 32 and result.chat is False
    task = load_task("capitals.yaml")
    samples = task.load(None, "test", 2)
    prompt = 'What is the capital of Japan? Think, then end with "The answer is ...".'
    assert [sample.reference for sample in samples] == ["Paris", "Tokyo"] and samples[1].prompt == prompt
    assert task.check(samples[0], "The answer is Lyon? No: the answer is Paris.")
    assert not task.check(samples[0], "Paris")


@pytest.mark.usefixtures("page")
def test_the_program_of_the_page(tiny_checkpoint, capsys):
    exec(compile(code("python"), "docs/evaluation.md", "exec"), {"folder": tiny_checkpoint})
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert {result.task for result in read_results([Path("results")])} == {"numbers", "capitals"}


def test_every_key_is_on_the_page():
    for key in task_files.TaskFile.__annotations__:
        assert f"`{key}`" in SECTION


@pytest.mark.parametrize(
    ("extract", "metric", "answer", "right", "wrong"),
    [
        ("text", "exact", "four", [" four\n"], ["five", "four.", ""]),
        ("text", "numeric", "0.5", ["1/2", " 0.50 "], ["0.51", "half", "is 0.5"]),
        ("number", "numeric", "1,200", ["It is 7, no, $1200.00."], ["1200 or 1201", "none"]),
        ("number", "exact", "7", ["6 or 7"], ["7.0"]),
        ("boxed", "exact", "x", [r"\boxed{y} \boxed{x}"], ["x", r"\boxed{x"]),
        ("hash", "numeric", "18", ["#### 3\n#### 18"], ["18"]),
        ({"regex": r"is (\w+)"}, "exact", "b", ["it is a, it is b"], ["it is b, it is a", "b"]),
        ({"regex": r"\d+"}, "exact", "12", ["3 12"], ["12 3"]),
        ({"regex": r"is(?: (\w+))?!"}, "exact", "b", ["is b!"], ["is b! is!"]),
    ],
)
def test_which_answers_are_right(tmp_path, extract, metric, answer, right, wrong):
    path = write(tmp_path, extract=extract, metric=metric, rows=[{"question": "?", "answer": answer}])
    task = load_task(path)
    (sample,) = task.load(None, "test", None)
    assert all(task.check(sample, text) for text in right)
    assert not any(task.check(sample, text) for text in wrong)


def test_a_regex_that_does_not_end_is_wrong_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(task_files, "REGEX_SECONDS", 0.2)
    task = load_task(write(tmp_path, extract={"regex": "(?:a|aa)+$"}))
    (sample, _) = task.load(None, "test", None)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert not task.check(sample, "a" * 200 + "b")
    assert time.monotonic() - began < 5
    assert "did not end within 0.2 seconds" in caplog.text


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_forms_of_data(tmp_path, suffix):
    table = datasets.Dataset.from_list([{"a b": "x", "n": 3, "c": "yes"}, {"a b": "y", "n": 4, "c": None}])
    getattr(table, f"to_{suffix}")(str(tmp_path / f"rows.{suffix}"))
    prompt = "{{ row['a b'] }} {{ n + 1 }}{% if c %} {{ c }}{% endif %}"
    task = load_task(write(tmp_path, data=f"rows.{suffix}", prompt=prompt, answer="{{ n }}", metric="numeric"))
    samples = task.load(None, "test", None)
    assert [(sample.prompt, sample.reference) for sample in samples] == [("x 4 yes", "3"), ("y 5", "4")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"a": "2024-03-01"}\n{"a": "2024-03-02"}\n', ["2024-03-01", "2024-03-02"]),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2.5}\n{"a": "\u2028x"}\n', ["1", "2.5", "x"]),
        ("a.json", '[{"a": "12:30:00"},\n {"a": true}]', ["12:30:00", "True"]),
        ("a.json", '{\n"a": 1\n}\n{"a": "01"}', ["1", "01"]),
        ("a.csv", "\ufeffa\n007\n1.50\n2\n", ["007", "1.50", "2"]),
        ("a.csv", "a\n1.5\n2\n", ["1.5", "2"]),
        ("a.csv", "a\nNA\nNone\ntrue\n2024-03-01\n", ["NA", "None", "true", "2024-03-01"]),
        ("a.csv", 'a,b\n"x, ""y""",1\n z ,\n', ['x, "y"', "z"]),
    ],
)
def test_answers_are_those_that_were_written(tmp_path, name, content, expected):
    path = write(tmp_path, data=name, prompt="{{ a }}", answer="{{ a }}")
    (tmp_path / name).write_text(content, encoding="utf-8")
    samples = load_task(path).load(None, "test", None)
    assert [(sample.prompt.strip(), sample.reference) for sample in samples] == [(text, text) for text in expected]
    (tmp_path / name).write_bytes(gzip.compress(content.encode("utf-8")))
    assert load_task(path).load(None, "test", None) == samples


def test_columns_of_csv_count_where_they_are_rendered_as_written(tmp_path):
    path = write(tmp_path, data="a.csv", prompt="{{ n + x }}{% if yes %} yes{% endif %}", answer="{{ n }}")
    (tmp_path / "a.csv").write_text("n,x,yes\n1,0.5,True\n\n2,1,False\n")
    assert [sample.prompt for sample in load_task(path).load(None, "test", None)] == ["1.5 yes", "3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl as json: Expecting value: line 3 column 1"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "a.jsonl as json: row 2: expected an object"),
        ("a.jsonl", '{"a": "\\ud800"}\n', "row 1: there is half of a surrogate pair"),
        ("a.jsonl", "[" * 100_000, "a.jsonl as json: "),
        ("a.jsonl", "", "a.jsonl has no rows"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "a.csv as csv: line 3: expected 2 fields, found 3"),
        ("a.csv", 'a,b\n1,2\n"1,2\n', "a.csv as csv: line 3: unexpected end of data"),
        ("a.csv", "a,a\n1,2\n", "two columns have the name 'a'"),
        ("a.csv", "a\n\xff\n", "'utf-8' codec can't decode byte 0xff"),
        ("a.csv", "a\n", "a.csv has no rows"),
        ("a.csv", "b\n1\n", "row 1 has no column 'a'"),
        ("a.csv", "a,b\n,1\n", "the row has no value there"),
    ],
)
def test_damaged_data_is_refused_with_its_place(tmp_path, name, content, message):
    path = write(tmp_path, data=name, prompt="{{ a }}", answer="{{ a }}")
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as raised:
        load_task(path).load(None, "test", None)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_dataset_on_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: asked.append((names, options)) or ROWS)
    hub = {"dataset": "owner/name", "dataset_config": "main", "dataset_splits": {"test": "dev"}}
    task = load_task(write(tmp_path, data=..., **hub))
    assert [sample.reference for sample in task.load(None, "test", None)] == ["three", "four"]
    assert asked == [(("owner/name", "main"), {"split": "dev"})] and task.source == "owner/name on the Hub"
    with pytest.raises(ValueError, match="no validation split"):
        task.load(None, "validation", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promt": "x"}, "unknown key 'promt' (did you mean `prompt`?)"),
        ({"prompt": ...}, "['prompt'] is missing"),
        ({"metric": ...}, "['metric'] is missing"),
        ({"metric": "bleu"}, "['metric'] is 'bleu': expected 'exact' or 'numeric'"),
        ({"chat": "yes"}, "['chat'] is 'yes'"),
        ({"max_new_tokens": 0}, "['max_new_tokens'] is 0"),
        ({"stop_strings": "\n"}, "['stop_strings'] is"),
        ({"name": "a/b"}, "['name'] is 'a/b'"),
        ({"extract": "words"}, "['extract'] is 'words'"),
        ({"extract": {"regex": "("}}, "expected a regular expression (missing )"),
        ({"extract": {"regex": "(a)(b)"}}, "it has 2 groups"),
        ({"extract": {"regexp": "a"}}, "['extract']"),
        ({"data": ...}, "needs `data`, a file, or `dataset`"),
        ({"dataset": "owner/name"}, "needs `data`, a file, or `dataset`"),
        ({"dataset_config": "main"}, "`dataset_config` without `dataset`"),
        ({"data": {}}, "`data` without a file"),
        ({"data": {"validation": "rows.jsonl"}}, "has no test split: give it a file in `data`"),
        ({"data": {"train": "rows.jsonl"}}, "there is no such name"),
        ({"data": "missing.jsonl"}, "missing.jsonl: give a file"),
        ({"data": "."}, "give a file"),
        ({"data": "mine.yaml"}, "of no known form"),
        ({"prompt": "{{ qestion }}"}, "row 1 has no column 'qestion' (did you mean `question`?), which `prompt` of"),
        ({"answer": "{{ reply }}"}, "has no column 'reply', which `answer` of"),
        ({"prompt": "{{ range(9) }}"}, "has no column 'range'"),
        ({"prompt": "{question}"}, "names no column"),
        ({"prompt": "{{ question"}, "is not a template of jinja"),
        ({"prompt": "{{ question | nothing }}"}, "is not a template of jinja"),
        ({"prompt": "{{ question.a.b }}"}, "row 1: `prompt` of "),
        ({"prompt": "{{ question.__class__.__mro__ }}"}, "cannot be filled in"),
        ({"prompt": "{{ row['x'] }}"}, "cannot be filled in"),
        ({"prompt": "{% if not question %}x{% endif %}"}, "makes an empty text"),
        ({"metric": "numeric"}, "row 1 has the answer 'three', which is not a number"),
        ({"rows": []}, "rows.jsonl"),
        ({"rows": [ROWS[0], {"question": "one", "answer": None}]}, "row 2: `answer` of "),
        ({"rows": [ROWS[0], {"question": "one", "answer": " "}]}, "makes an empty text"),
    ],
)
def test_files_that_make_no_task_are_refused_before_the_model_is_loaded(tmp_path, capsys, changes, message):
    path = write(tmp_path, **changes)
    said = run_fails(capsys, "eval", "--tasks", path, "--model", tmp_path / "none", "--output", tmp_path / "out")
    assert message in said and str(tmp_path) in said and len(said) < 600
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: give a YAML file"),
        (..., "is a folder: give a YAML file"),
        (b"data: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- a\n", "is not a task: expected names with values"),
        (b"metric: exact\nmetric: numeric\n", "'metric' is there twice: give it once"),
    ],
)
def test_what_is_no_file_of_a_task(tmp_path, capsys, content, message):
    path = tmp_path / "mine.yaml"
    if content is ...:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    said = run_fails(capsys, "eval", "--tasks", path, "--model", tmp_path / "none", "--output", tmp_path / "out")
    assert message in said and str(path) in said


def test_python_is_not_run(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("raise SystemExit('run')")
    assert "pass its `Task` to `d3llm.measure`" in run_fails(capsys, "eval", "--tasks", path, "--output", tmp_path)


def test_a_name_is_that_of_one_task(tmp_path, capsys):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    said = run_fails(capsys, "eval", "--tasks", f"{first},{second}", "--output", tmp_path / "out")
    assert "two tasks of the name mine" in said
    with pytest.raises(ValueError, match="defines gsm8k_cot, which is a task of d3llm"):
        find_task(str(write(tmp_path / "c", name="gsm8k_cot")))


def test_tuning_does_not_take_the_test_problems(tmp_path, capsys, tiny_checkpoint):
    flags = ["--model", tiny_checkpoint, "--output", tmp_path / "out", "--preset", "d3llm"]
    said = run_fails(capsys, "tune", "--tasks", write(tmp_path), *flags)
    assert "mine.yaml has no validation split" in said


def test_another_definition_or_other_data_do_not_mix(tmp_path, tiny_checkpoint, capsys):
    flags = ["--model", tiny_checkpoint, "--output", tmp_path / "out", "--preset", "d3llm", "--device", "cpu"]
    flags += ["--max-new-tokens", 8]

    def evaluate(path: Path) -> int:
        return main(["eval", "--tasks", *map(str, [path, *flags])])

    assert evaluate(write(tmp_path / "a")) == 0
    (before,) = read_results([tmp_path / "out"])
    assert evaluate(write(tmp_path / "b")) == 0  # the same in another folder
    (tmp_path / "b" / "data").mkdir()
    (tmp_path / "b" / "rows.jsonl").rename(tmp_path / "b" / "data" / "rows.jsonl")
    path = tmp_path / "b" / "mine.yaml"
    path.write_text(path.read_text().replace("rows.jsonl", "data/rows.jsonl"))
    assert evaluate(path) == 0
    assert read_results([tmp_path / "out"]) == [before]
    for changes, named in (
        ({"extract": "number"}, "definition was"),
        ({"metric": "numeric", "rows": [ROWS[0] | {"answer": 3}, ROWS[1] | {"answer": 4}]}, "definition was"),
        ({"rows": [ROWS[0], ROWS[0]]}, "data was"),
        ({"stop_strings": ["x"]}, "definition was"),
    ):
        said = run_fails(capsys, "eval", "--tasks", write(tmp_path / "b", **changes), *flags)
        assert "holds another run" in said and named in said and "--overwrite" in said
    assert read_results([tmp_path / "out"]) == [before]
