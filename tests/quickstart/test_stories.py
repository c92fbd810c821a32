"""The open word problems: their forms, splits, solutions, checker, tokenizer and tasks."""

import random
import re
from collections import Counter
from typing import get_args

import pytest

from d3llm.evaluation.tasks import find_task
from d3llm.quickstart.stories import problem as problem_module
from d3llm.quickstart.stories.checker import (
    NAMED,
    check_solution,
    extract_answer,
    has_right_names,
    is_right,
    is_right_by_number,
)
from d3llm.quickstart.stories.event import FORM_SETS, Event, form_set, parse_event, slots
from d3llm.quickstart.stories.forms import ASIDES, EVENTS
from d3llm.quickstart.stories.grammar import KINDS
from d3llm.quickstart.stories.numbers import LARGEST_VALUE, Numbers, calculate, draw_numbers
from d3llm.quickstart.stories.people import NAMES
from d3llm.quickstart.stories.problem import (
    SPLITS,
    Problem,
    draw_problem,
    generate_problems,
    split_of_signature,
    with_pronoun,
)
from d3llm.quickstart.stories.task import TASKS
from d3llm.quickstart.stories.tokenizer import build_tokenizer
from d3llm.quickstart.stories.words import InventedShares, draw_words
from d3llm.quickstart.teacher_recipe import StoryKind


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return generate_problems("train", 600) + generate_problems("train", 200, forms="held_out", steps=range(1, 9))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def all_forms() -> list[str]:
    return [form for event in EVENTS for form in event.event.forms] + [form for _, form in ASIDES["train"]]


def test_every_form_renders():
    words, rng = draw_words(random.Random(0)), random.Random(1)
    for event in EVENTS:
        start = Numbers({"u": 60, "v": 120} if event.event.takes else {})
        drawn = next(filter(None, (draw_numbers(rng, event, start) for _ in range(200))), None)
        if drawn is None:  # more than 120, or the first person has more than the other
            start = Numbers({"u": 960, "v": 120})
            drawn = next(filter(None, (draw_numbers(rng, event, start) for _ in range(200))), None)
        assert drawn is not None, event.event.forms
        numbers, shown = drawn
        for form in event.event.forms:
            text = form.format_map({**words, **shown})
            assert "{" not in text and "  " not in text
            assert event.event.smallest < 2 or " 1 " not in text, "a plural of one"
        assert all(calculate(*equation[:3]) == equation[3] <= LARGEST_VALUE for equation in numbers.equations)


def test_forms_are_written_alike():
    for form in all_forms():
        assert not re.search(r"\b([Hh]e|[Ss]he|[Hh]is|[Hh]er|[Hh]im|[Tt]heir)\b", form), form
        assert not re.search(r"(^|[.?!] )\{(things?|box|boxes|friends?|color|place)\d?\}", form), form
        assert not re.search(r"\d", re.sub(r"\{\w+\}", "", form)), form
        assert form.endswith((".", "?", "}")), form
    duplicates = [form for event in EVENTS for form in event.event.forms if event.event.forms.count(form) > 1]
    assert not duplicates


def test_a_form_has_one_solution():
    told: dict[tuple[str | None, str | None, str], str] = {}
    for event in EVENTS:
        for form in event.event.forms:
            key = (event.event.takes, event.event.gives, form)
            assert key not in told, f"{form!r} is in {told[key]} and in {event.kind}"
            told[key] = event.kind


def test_what_people_own_begins_with_their_names():
    owned = {"things": {"name"}, "money": {"name"}, "pair": {"name", "other"}, "purses": {"name", "other"}}
    for event in EVENTS:
        if event.event.takes is None:
            for form in event.event.forms:
                assert owned.get(event.event.gives or "", set()) <= slots(form), form


def test_pronouns_stand_for_the_one_who_acts():
    assert with_pronoun("{name} gives {x} to {third}.") == "{He} gives {x} to {third}."
    assert with_pronoun("Then {name} has {x}.") == "Then {he} has {x}."
    assert with_pronoun("{third} gives {name} {x}.") == "{third} gives {name} {x}."
    assert with_pronoun("How many does {name} have?") == "How many does {he} have?"
    problems = generate_problems("train", 200, seed=2)
    with_pronouns = [problem for problem in problems if re.search(r"\b([Hh]e|[Ss]he)\b", problem.question)]
    assert 10 < len(with_pronouns) < 60
    assert all(problem.names[0] in problem.question and len(problem.names) < 4 for problem in with_pronouns)
    assert not any(re.search(r"\b([Hh]e|[Ss]he)\b", problem.solution) for problem in problems)


def test_every_form_names_its_units():
    for event in EVENTS:
        constants = {operand for e in event.equations for operand in (e.left, e.right) if isinstance(operand, int)}
        for form in event.event.forms:
            words = set(re.findall(r"[a-z]+", form.lower()))
            assert all(words & NAMED[constant] for constant in constants), form


def test_every_form_tells_the_words_of_its_solution():
    for event in EVENTS:
        needed = {slot for sentence in event.sentences for slot in slots(sentence) if len(slot) > 2}
        if event.event.takes is not None:
            needed -= {"name", "other", "things"}  # told before
        for form in event.event.forms:
            assert needed <= slots(form), (form, event.sentences)


def test_held_out_forms_are_of_every_kind():
    for name in FORM_SETS:
        assert {event.kind for event in EVENTS if event.forms[name]} == set(KINDS)
    train, held_out = ({form for event in EVENTS for form in event.forms[name]} for name in FORM_SETS)
    assert all(form_set(form) is None for form in train & held_out)
    assert 0.1 < len(held_out) / len(train | held_out) < 0.3


@pytest.mark.parametrize("name", FORM_SETS)
def test_the_forms_of_a_problem_are_of_the_set_asked_for(monkeypatch, name):
    choose, told = problem_module._choose_form, []
    monkeypatch.setattr(problem_module, "_choose_form", lambda *args: told.append(choose(*args)) or told[-1])
    for seed in range(100):
        draw_problem(random.Random(seed), "train", 1 + seed % 6, name)
    assert len(told) > 200 and {form_set(form) for form in told} - {None} == {name}


def test_solutions_pass_the_checker(problems):
    for problem in problems:
        assert check_solution(problem, problem.solution) is None, problem
        assert check_solution(problem, problem.solution + "<|endoftext|>?") is None
        assert len(problem.equations) == problem.num_steps == problem.solution.count("<<")
        assert problem.answer == problem.equations[-1][3] == extract_answer(problem.solution)
        assert all(name in problem.question for name in problem.names)
        assert "{" not in problem.question and len(set(problem.names)) == len(problem.names)


QUESTION = (
    "Tom has 12 pens. Mia gives Tom 5 pens. Tom sells half of them... How many pens does Tom have now, of 4 boxes?"
)
GOOD = "Tom now has <<12+5=17>>17 pens. Tom has <<17-5=12>>12 pens left.\n#### 12"
PROBLEM = Problem(QUESTION, GOOD, 12, 2, "gains", ((12, "+", 5, 17), (17, "-", 5, 12)), ("Tom", "Mia"), "+5,-5,12")


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("<<12+5=17>>17", "<<12+5 17>>17", "outside the equations"),
        ("<<12+5=17>>17", "<<12 + 5=17>>17", "outside the equations"),
        ("<<12+5=17>>17", "17", "outside the equations"),
        ("<<12+5=17>>17 pens", "<<12+5=17>>17 17 pens", "outside the equations"),
        ("<<12+5=17>>17", "<<12+5=18>>18", "is not right"),
        ("<<12+5=17>>17", "<<12+5=17>>18", "does not copy"),
        ("<<12+5=17>>17", "<<11+6=17>>17", "neither in the question"),
        ("<<17-5=12>>12", "<<60-48=12>>12", "neither in the question"),
        (" pens. Tom has", " pens. Tom is here. Tom has", "exactly one equation"),
        (" pens. Tom has", " pens and", "exactly one equation"),
        ("<<12+5=17>>17 pens. Tom has <<17-5=12>>12", "<<17-5=12>>12 pens. Tom has <<12+5=17>>17", "neither in"),
        ("#### 12", "#### 17", "not the last result"),
        ("#### 12", "12", "does not end"),
        ("#### 12", "#### 12 pens", "does not end"),
        ("\n#### 12", " #### 12", "does not end"),
        (" Tom has <<17-5=12>>12 pens left.\n#### 12", "\n#### 17", "expected 12"),
        ("Tom now", "Zoe now", "'Zoe' is not in the question"),
        ("pens left", "pans left", "'pans' is not in the question"),
    ],
)
def test_checker_names_what_is_wrong(old, new, wrong):
    assert check_solution(PROBLEM, GOOD) is None
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    assert wrong in str(check_solution(PROBLEM, text))
    assert not is_right(PROBLEM, text)


def test_the_number_alone_is_checked_apart():
    text = GOOD.replace("<<12+5=17>>17", "<<12 5=18>>1")
    assert is_right_by_number(PROBLEM, text) and not is_right(PROBLEM, text)
    assert not is_right_by_number(PROBLEM, GOOD.replace("#### 12", "#### 13"))
    assert has_right_names(PROBLEM, text) and not has_right_names(PROBLEM, text.replace("Tom", "Zoe"))


def test_a_constant_needs_its_unit():
    solution = "That is <<4*12=48>>48 pens.\n#### 48"
    for question, expected in (("How many pens are 4 dozen pens?", True), ("How many pens are 4 boxes?", False)):
        problem = Problem(question, solution, 48, 1, "units", ((4, "*", 12, 48),), (), "4,*12")
        assert is_right(problem, solution) == expected


def test_splits_share_no_problem():
    drawn = {split: generate_problems(split, 150, seed=1) for split in SPLITS}
    for split, problems in drawn.items():
        assert all(split_of_signature(problem.signature) == split for problem in problems)
        assert len({problem.signature for problem in problems}) == len(problems)
    signatures = [{problem.signature for problem in problems} for problems in drawn.values()]
    assert len(set.union(*signatures)) == 3 * 150


def test_the_order_of_steps_and_factors_does_not_change_the_signature():
    opening, gain, loss = (
        parse_event("test", event)
        for event in (
            Event(None, "things", (), ("{name} has {v}.",), ranges={"v": (20, 20)}),
            Event("things", "things", ("Now {v=v+x}.",), ("{name} finds {x}.",), ranges={"x": (5, 5)}),
            Event("things", "things", ("Now {v=v-x}.",), ("{name} loses {x}.",), ranges={"x": (3, 3)}),
        )
    )

    def signature(*events):
        numbers = Numbers()
        for event in events:
            numbers, _ = draw_numbers(random.Random(0), event, numbers)
        return numbers.signature()

    assert signature(opening, gain, loss) == signature(opening, loss, gain) == "+20,+5,-3"
    assert signature(opening, gain) != signature(opening, loss)


def test_generation_is_a_function_of_its_arguments():
    assert generate_problems("test", 30, seed=3) == generate_problems("test", 60, seed=3)[:30]
    assert generate_problems("test", 30, seed=3) != generate_problems("test", 30, seed=4)
    assert {problem.num_steps for problem in generate_problems("train", 200)} == set(range(1, 7))
    assert {problem.num_steps for problem in generate_problems("test", 30, steps=(7, 8))} == {7, 8}
    assert draw_problem(random.Random(5), "validation", 4).num_steps == 4


def test_the_share_of_invented_words_can_be_changed():
    """Not the events, numbers and forms: those of a problem are the same with any share."""
    listed = {name for name, _ in NAMES}
    draws = [
        [draw_problem(random.Random(seed), "train", 3, invented=InventedShares(share, share)) for seed in range(40)]
        for share in (0.0, 1.0)
    ]
    plain, invented = ([set(problem.names) & listed for problem in problems] for problems in draws)
    assert all(plain[index] == set(problem.names) for index, problem in enumerate(draws[0]))
    assert not any(invented)
    assert [problem.signature for problem in draws[0]] == [problem.signature for problem in draws[1]]


def test_a_recipe_can_weigh_every_kind():
    assert get_args(StoryKind) == KINDS


def test_a_kind_that_is_named_more_often_is_drawn_more_often():
    kinds = ["comparison"] * 9 + ["units"]
    drawn = Counter(draw_problem(random.Random(seed), "train", 3, kinds=kinds).kind for seed in range(200))
    assert set(drawn) == {"comparison", "units"}
    assert drawn["comparison"] > 4 * drawn["units"]


@pytest.mark.parametrize(
    "arguments", [("dev", 3, "train"), ("test", 9, "train"), ("test", 0, "train"), ("test", 3, "new")]
)
def test_bad_requests_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be 1 to 8|Unknown"):
        draw_problem(random.Random(0), *arguments)


@pytest.mark.parametrize("kinds", [[], ["games", "novels"]])
def test_unknown_kinds_are_refused(kinds):
    with pytest.raises(ValueError, match="expected some of altogether"):
        draw_problem(random.Random(0), "train", 3, kinds=kinds)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(None, "things", ("{name} has many.",), ("{name} has {v}.",)), "0 equations"),
        (Event(None, "things", ("{v=a+b}.",), ("{name} has {a} and {b}.", "{name} has {a}.")), "has the numbers"),
        (Event(None, "things", (), ("{person} has {v}.",)), "unknown slots"),
        (Event("things", "things", ("{v=v+x}.",), ("{name} has {v} and {x}.",)), "only an opening"),
        (Event("things", "things", ("{v=v+y}.",), ("{name} has {x} more.",)), "does not tell"),
        (Event("things", "things", (), ("{name} goes home.",)), "changes nothing"),
    ],
)
def test_bad_events_are_refused(event, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_event("test", event)


def test_tokenizer_spells_every_name_and_number(problems, tokenizer):
    for text in [
        *(p.question for p in problems[:100]),
        *(p.solution for p in problems[:200]),
        "Żółw has 1000 naïve pens.",
    ]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokens = tokenizer.tokenize("Tom <<12*30=360>>360")
    assert [token for token in tokens if token.isdigit()] == list("1230360360")
    # A name is the same tokens at the beginning of a text as within one.
    assert tokenizer("Tom has")["input_ids"] == tokenizer("Then Tom has")["input_ids"][1:]


def test_chat_template_is_the_prompt_and_the_solution(problems, tokenizer):
    problem = problems[0]
    messages = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.solution}]
    whole = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = [*tokenizer(problem.solution)["input_ids"], tokenizer.eos_token_id]
    assert whole["input_ids"] == prompt + answer
    assert sum(whole["assistant_masks"]) == len(answer)


def test_answers_have_the_intended_lengths(problems, tokenizer):
    lengths = [len(tokenizer(problem.solution)["input_ids"]) + 1 for problem in problems]
    assert min(lengths) >= 10 and max(lengths) <= 280 and 60 <= sum(lengths) / len(lengths) <= 120


def test_tasks_judge_by_the_whole_solution():
    tasks = {task.name: task for task in TASKS}
    for task in TASKS:
        (sample,) = task.load(None, "test", 1)
        assert task.check(sample, sample.reference.solution)
        answer = f"#### {sample.reference.answer}"
        assert task.judge(sample, answer) == (False, {"number": True, "names": True})
        assert task.judge(sample, f"Somebody else pays. {answer}") == (False, {"number": True, "names": False})
        assert find_task(task.name, tasks) is task
    assert {s.reference.num_steps for s in tasks["stories_lengths"].load(None, "validation", 20)} == {7, 8}
    with pytest.raises(ValueError, match="omit --data"):
        TASKS[0].load("problems.jsonl", "test", 1)
