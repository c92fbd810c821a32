"""What each task asks and accepts: programs, references, exemplars, final answers."""

import gzip
import json

import pytest

from d3llm.evaluation.code_execution import run_program
from d3llm.evaluation.tasks import TASKS
from d3llm.evaluation.tasks.code import complete_program, extract_code, without_broken_end
from d3llm.evaluation.tasks.competition_math import MATH_VERIFY, extract_final_answer
from d3llm.evaluation.tasks.data import exemplars
from tests.helpers.code_problems import HUMANEVAL
from tests.helpers.paths import ROOT


DATA = ROOT.parent / "shared" / "data"
requires_data = pytest.mark.skipif(not DATA.is_dir(), reason="no data of the tasks beside the repository")


@pytest.mark.parametrize(
    "text",
    [
        "    return floor(helper(x) / 2)\n",
        "    return floor(helper(x) / 2)\n\nThat halves it.",
        "    return floor(helper(x) / 2)\n\ndef unfinished(",
        "Here it is:\n```python\ndef half(x):\n    return floor(helper(x) / 2)\n```\nAs you see.\n```\nno\n```",
        "```\ndef half(x):\n    return floor(helper(x) / 2)",
    ],
)
def test_what_makes_a_program(tmp_path, text):
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(HUMANEVAL) + "\n")
    (sample,) = TASKS["humaneval"].load(path, "test", None)
    result = run_program(complete_program(text, sample.reference))
    assert result.passed, result
    assert not run_program(complete_program(text.replace("/ 2", "/ 3"), sample.reference)).passed


def test_code_clean_up():
    assert extract_code("a = 1\n```\nwords", inside_fence=True) == "a = 1\n"
    assert extract_code("no fence\r\n") == "no fence\n"
    assert without_broken_end("a = 1\nb = (2\nNo Python here") == "a = 1"
    assert without_broken_end("    return 1\nand so on", "def f():\n") == "    return 1"
    assert without_broken_end("No Python here") == "No Python here"
    assert without_broken_end("a = 1\0") == "a = 1\0"


def reference_solutions(name: str) -> tuple[list, dict[str, str]]:
    if name.startswith("humaneval"):
        file = DATA / "HumanEval.jsonl.gz"
        with gzip.open(file, "rt") as lines:
            texts = {row["task_id"]: row["canonical_solution"] for row in map(json.loads, lines)}
    else:
        file = DATA / "mbpp.jsonl"
        rows = map(json.loads, file.read_text().splitlines())
        texts = {str(row["task_id"]): row["code"] + "\n[DONE]\n" for row in rows}
    return TASKS[name].load(file, "test", None), texts


def failures(name: str, samples: list, texts: dict[str, str]) -> list[str]:
    task, failed = TASKS[name], []
    for sample in samples:
        text = texts[sample.id].replace("[DONE]", "```") if sample.prefix else texts[sample.id]
        if not task.check(sample, task.cut(text)):
            failed.append(sample.id)
    return failed


@requires_data
@pytest.mark.parametrize(("name", "count"), [("humaneval", 164), ("mbpp", 500)])
def test_some_reference_solutions_pass(name, count):
    samples, texts = reference_solutions(name)
    assert len(samples) == count
    assert failures(name, samples[:: count // 8], texts) == []


@pytest.mark.slow
@requires_data
@pytest.mark.parametrize("name", ["humaneval", "humaneval_instruct", "mbpp", "mbpp_instruct"])
def test_all_reference_solutions_pass(name):
    samples, texts = reference_solutions(name)
    assert failures(name, samples, texts) == []


@requires_data
def test_the_splits_and_prompts_of_mbpp_are_the_published_ones():
    rows = {row["task_id"]: row for row in map(json.loads, (DATA / "mbpp.jsonl").read_text().splitlines())}
    for split, first, last in (("test", 11, 510), ("validation", 511, 600)):
        samples = TASKS["mbpp"].load(DATA / "mbpp.jsonl", split, None)
        assert len(samples) == last - first + 1
        for sample, number in ((samples[0], first), (samples[-1], last)):
            assert rows[number]["text"] in sample.prompt
            assert all(test in sample.prompt for test in rows[number]["test_list"][:3])


@requires_data
def test_references_of_gsm8k_score_100_percent():
    file = DATA / "gsm8k_test.jsonl"
    answers = [json.loads(line)["answer"] for line in file.read_text().splitlines()]
    for name in ("gsm8k_cot", "gsm8k_long_instruct"):
        samples = TASKS[name].load(file, "test", None)
        assert len(samples) == 1319
        assert all(TASKS[name].check(*pair) for pair in zip(samples, answers, strict=True))


@requires_data
def test_exemplars_are_those_of_the_data():
    rows = [json.loads(line) for line in (DATA / "gsm8k_train.jsonl").read_text().splitlines()[:5]]
    assert exemplars()["gsm8k"] == rows
    rows = [json.loads(line) for line in (DATA / "mbpp.jsonl").read_text().splitlines()]
    for exemplar in exemplars()["mbpp"]:
        (row,) = (row for row in rows if row["task_id"] == exemplar["task_id"])
        assert exemplar == {**{name: row[name] for name in exemplar}, "code": row["code"].replace("\r\n", "\n")}
    assert [row["task_id"] for row in exemplars()["mbpp"]] == [2, 3, 4] and len(exemplars()["math"]) == 4


def test_math(tmp_path):
    path = tmp_path / "math.jsonl"
    path.write_text(json.dumps({"problem": "$1/2+1/4$?", "solution": r"It is $\boxed{\frac{3}{4}}$."}) + "\n")
    (sample,) = TASKS["math"].load(path, "test", None)
    assert sample.reference == r"\frac{3}{4}" and sample.prompt.count("Problem:") == 5
    assert sample.prompt.endswith("Problem:\n$1/2+1/4$?\n\nSolution:")
    check = TASKS["math"].check
    assert check(sample, "So.\nFinal Answer: The final answer is $0.75$. I hope it is correct.")
    assert (
        check(sample, r"\boxed{\dfrac34}") and not check(sample, r"\boxed{\frac{4}{3}}") and not check(sample, "0.75")
    )
    assert check(sample, r"\boxed{\frac{6}{8} + 0}") is MATH_VERIFY
    assert ("math_verify" in TASKS["math"].checker) is MATH_VERIFY
    assert extract_final_answer(r"\boxed{1} The final answer is 2. I hope it is correct. \boxed{3}") == "2"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_data_of_another_task_is_named(tmp_path, name):
    path = tmp_path / "other.jsonl"
    path.write_text('{"something": 1}\n')
    with pytest.raises(ValueError, match=r"other.jsonl, row 1\['\w+'\] is missing: its columns are 'something';"):
        TASKS[name].load(path, "test", None)
