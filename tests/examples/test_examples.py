"""examples/: every script runs as it is, and does what it says; the notebook is valid and its cells run."""

import json
import re
import runpy
import sys

import pytest

from tests.helpers.paths import ROOT


EXAMPLES = ROOT / "examples"
NOTEBOOK = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script in a folder of its own, and returns what it printed."""

    def run_example(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


def test_decode(run):
    printed = run("decode.py")
    forwards = [int(number) for number in re.findall(r"(\d+) forwards", printed)]
    assert len(forwards) == 3 and forwards[0] > forwards[1] > forwards[2]
    assert printed.count("#### 7") == 3


def test_infill(run):
    assert re.search(r"^gap: +8>>8$", run("infill.py"), re.MULTILINE)


@pytest.mark.slow
def test_distil(run, tmp_path):
    from d3llm import LLaDAModelLM, checkpoint_path

    run("distil.py", "1")
    trained = LLaDAModelLM.from_pretrained(tmp_path / "student").state_dict()
    teacher = LLaDAModelLM.from_pretrained(checkpoint_path("teacher")).state_dict()
    assert trained.keys() == teacher.keys()
    assert any((trained[name] != teacher[name]).any() for name in teacher)
    assert (tmp_path / "student/README.md").is_file()


def test_evaluate(run, tmp_path):
    printed = run("evaluate.py")
    assert re.search(r"^llada: \d+% right .* tokens per forward$", printed, re.MULTILINE)
    assert re.search(r"^d3llm: \d+% right", printed, re.MULTILINE)
    assert len(list((tmp_path / "results").glob("*.sums.json"))) == 2


def test_push(run, hub):
    printed = run("push.py", "ada/student")
    repository = hub.repository("ada/student")
    assert repository.private and "model.safetensors" in repository.head.files
    assert "ada/student" in printed and "files changed" in printed


def test_push_needs_a_name(run):
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        run("push.py")


def test_the_page_lists_all():
    listed = set(re.findall(r"^\| \[([\w.]+)\]\(\1\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in EXAMPLES.glob("*.*")} - {"README.md"}


def test_the_notebook_is_valid():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK["metadata"]["kernelspec"].keys() >= {"name", "display_name"}
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    for cell in NOTEBOOK["cells"]:
        own = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | own
        assert cell["cell_type"] in ("code", "markdown") and isinstance(cell["source"], list)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    printed = capsys.readouterr().out
    assert printed.count("#### 7") == 2 and "<<5+3=8>>" in printed
