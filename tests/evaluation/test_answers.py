"""Answers: found in a text, and compared."""

import json
from pathlib import Path

import pytest

from d3llm.evaluation.answers import answers_match, extract_boxed, extract_hash_answer, extract_number
from tests.helpers.paths import ROOT


DATA = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"It is \boxed{42}.", "42"),
        (r"First \boxed{1}, then \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed{\{1, \{2\}\}} and no more", r"\{1, \{2\}\}"),
        (r"\boxed{x^{2^{3}}} is cut: \boxed{4", "x^{2^{3}}"),
        (r"\fbox{7}", "7"),
        (r"the set \boxed{\}x\{}", r"\}x\{"),
        (r"no box, \boxed 5", None),
    ],
)
def test_extract_boxed(text, answer):
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1+1=2\n#### 2", "2"),
        ("#### 1\nno: #### 1,234 \nQ: next", "1,234"),
        ("no marker 5", None),
        ("nothing after it ####  \n", None),
    ],
)
def test_extract_hash_answer(text, answer):
    assert extract_hash_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 12.", "12"),
        ("She earns $1,234.50!", "1234.50"),
        ("from 3 to -5", "-5"),
        ("10-3", "3"),
        ("half is .5 of it", ".5"),
        ("the pair 1,2", "2"),
        ("it costs -$7", "-7"),
        ("ten", None),
    ],
)
def test_extract_number(text, answer):
    assert extract_number(text) == answer


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("1,200", "1200"),
        ("$1200.00", " 1200 "),
        ("50%", "50"),
        (r"50\%", "50"),
        ("18.", "18"),
        ("0.5", r"\frac{1}{2}"),
        (r"-\frac12", "-1/2"),
        (r"\dfrac{x}{2}", r"\frac x2"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"90^\circ", "90"),
        (r"\text{Evelyn}", "Evelyn"),
        ("x = 5", "5"),
        ("1/0", "1/0"),
    ],
)
def test_answers_that_match(answer, reference):
    assert answers_match(answer, reference) and answers_match(reference, answer)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("12", "1.2"),
        ("5", "-5"),
        ("(1,200)", "1200"),
        ("2x", "x+x"),
        ("18", None),
        (None, None),
        ("", ""),
        ("0.3333333", "1/3"),
        ("9" * 30, "9" * 29 + "8"),
    ],
)
def test_answers_that_do_not_match(answer, reference):
    assert not answers_match(answer, reference)


@pytest.mark.skipif(not DATA.is_dir(), reason="no data of the tasks beside the repository")
@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "gsm8k_train.jsonl"])
def test_references_of_gsm8k(name):
    answers = [json.loads(line)["answer"] for line in Path(DATA / name).read_text(encoding="utf-8").splitlines()]
    references = [extract_hash_answer(answer) for answer in answers]
    assert all(references) and all(map(answers_match, map(extract_number, answers), references))


@pytest.mark.parametrize(("answer", "reference"), [("-1/2", "-0.5"), (r"-\frac{3}{4}", "-0.75")])
def test_a_fraction_keeps_its_sign(answer, reference):
    assert answers_match(answer, reference)
    assert not answers_match(answer.lstrip("-"), reference)
