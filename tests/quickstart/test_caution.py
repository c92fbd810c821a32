"""The word to a visitor: what can be found of an answer without the right one, and where it is said."""

import io
from dataclasses import replace

import pytest

from d3llm.commands.main import main
from d3llm.quickstart import checkpoint_path, is_shipped
from d3llm.quickstart.stories import caution as caution_module
from d3llm.quickstart.stories.caution import TASK, caution
from d3llm.quickstart.stories.checker import check_solution, find_fault
from d3llm.quickstart.stories.problem import generate_problems


QUESTION = "Tom has 12 pens. Mia gives Tom 5 pens. How many pens does Tom have now?"
SOUND = "Tom now has <<12+5=17>>17 pens.\n#### 17"


def test_solutions_of_the_task_are_sound():
    problems = generate_problems("train", 200) + generate_problems("test", 200, forms="held_out", steps=range(1, 9))
    for problem in problems:
        assert find_fault(problem.question, problem.solution) is None
        assert caution(problem.question, problem.solution + "<|endoftext|>") is None


@pytest.mark.parametrize(
    ("question", "text", "said"),
    [
        ("What is the capital of France?", SOUND, "<<12+5=17>>17 uses 12, which is neither in the question"),
        (QUESTION, "", "does not end in a line"),
        (QUESTION, f"Tom has 5 =. {SOUND}", "outside the equations"),
        (QUESTION, SOUND.replace("Tom", "Zoe"), "'Zoe' is not in the question"),
        (QUESTION, SOUND.replace("#### 17", "#### 18"), "is not the last result"),
        (QUESTION.replace("12", "1200"), SOUND, "The question has 1200."),
        (QUESTION.replace("12", "1,200"), SOUND, "The question has 1,200."),
        (QUESTION.replace("12", "1.5"), SOUND, "The question has 1.5."),
        (QUESTION.replace("12", "٣.٥"), SOUND, "The question has ٣.٥."),
        ("Tom has 12² pens.", "x\n\n\n#### 5", "has no equation"),
    ],
)
def test_what_is_not_of_the_task_is_told_in_one_line(question, text, said):
    told = caution(question, text)
    assert told is not None and told.startswith(f"{TASK}: ") and said in told and "\n" not in told


def test_a_sound_solution_may_have_a_wrong_answer():
    (problem,) = generate_problems("train", 1, steps=(1,))
    expected = problem.answer + 1
    text = problem.solution + "<|endoftext|>"
    assert find_fault(problem.question, text) is None
    assert check_solution(replace(problem, answer=expected), text) == (
        f"The answer is {problem.answer}, expected {expected}."
    )


def test_commands_say_it_below_the_answers_of_shipped_models_alone(monkeypatch, capsys, tiny_checkpoint):
    asked, said = [], "It knows little."
    monkeypatch.setattr(caution_module, "caution", lambda question, text: asked.append((question, text)) or said)
    limits = ["--max-new-tokens", "4"]
    for shipped, folder in ((True, checkpoint_path("student")), (False, tiny_checkpoint)):
        assert is_shipped(folder) == shipped
        told = f"d3llm: {said}\n" if shipped else ""
        assert main(["generate", "--model", str(folder), "--prompt", "one", *limits]) == 0
        generated = capsys.readouterr()
        assert (
            generated.err.endswith(told) and ("little" in generated.err) == shipped and "little" not in generated.out
        )
        monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))
        assert main(["chat", "--model", str(folder), *limits]) == 0
        chatted = capsys.readouterr()
        assert ("little" in chatted.err) == shipped and "little" not in chatted.out
        assert main(["compare", "--model", str(folder), "--prompt", "one", "--preset", "llada", "d3llm", *limits]) == 0
        notes = [line for line in capsys.readouterr().out.splitlines() if line.endswith(said)]
        assert notes == [f"student, {preset}: {said}" for preset in ("llada", "d3llm")] * shipped
        if shipped:
            assert asked[:2] == [("one", generated.out.strip("\n")), ("one", chatted.out.strip("\n"))]
