"""docs/decoding.md: every preset and field is on the page, with the values of the code; its Python compiles."""

import ast
import re

import pytest

from d3llm.evaluation import read_results
from d3llm.generation import PRESETS
from d3llm.generation.fields import CHOICES, METHOD_DEFAULTS, RUN_DEFAULTS
from d3llm.modeling import FAMILIES
from tests.helpers.paths import ROOT


PAGE = (ROOT / "docs" / "decoding.md").read_text(encoding="utf-8")
LOSSLESS = (
    "teacher-llada",
    "teacher-self_speculative",
    "teacher-self_speculative_left_to_right",
    "student-left_to_right",
    "student-self_speculative_left_to_right",
)


def sections(heading: str) -> dict[str, str]:
    """Text under each heading of this level, up to the next heading of any level."""
    return dict(re.findall(rf"^{heading} (.+)\n((?:(?!#+ ).*\n)*)", PAGE, re.MULTILINE))


def rows(text: str) -> list[list[str]]:
    """Cells of the table rows whose first cell is code, without the marks of code."""
    return [
        [cell.strip().strip("`") for cell in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def test_the_presets_on_the_page_are_those_of_the_code():
    assert [title.strip("`") for title in sections("###") if title.startswith("`")] == list(PRESETS)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_the_values_of_a_preset(preset):
    text = sections("###")[f"`{preset.name}`"]
    table, header = rows(text), re.search(r"^\| field \| (.+) \|$", text, re.MULTILINE)[1].split(" | ")
    for family in FAMILIES:
        column = 1 + header.index(family.display_name if family.display_name in header else "value")
        stated = {row[0]: ast.literal_eval(row[column]) for row in table}
        assert stated == preset.values_for(family.preset_values)
    assert f"Source: {preset.source}." in text


def test_every_field_is_there_with_its_default():
    stated = {name: ast.literal_eval(default) for name, default, _ in rows(sections("##")["Fields"])}
    assert stated == METHOD_DEFAULTS | RUN_DEFAULTS


@pytest.mark.parametrize(
    ("title", "field"),
    [
        ("Scores", "score"),
        ("Selections", "selection"),
        ("Forced progress", "forced_progress"),
        ("Cache policies", "cache"),
    ],
)
def test_every_choice_is_explained(title, field):
    assert sorted(ast.literal_eval(row[0]) for row in rows(sections("###")[title])) == sorted(CHOICES[field])


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_python_compiles(block):
    tree = compile(block, "docs/decoding.md", "exec", ast.PyCF_ONLY_AST)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            for keyword in call.keywords:
                if keyword.arg in CHOICES and isinstance(keyword.value, ast.Constant):
                    assert ast.literal_eval(keyword.value) in CHOICES[keyword.arg]


def lossless_table() -> list[str]:
    """The rows of the lossless decoders, and of those that they have the texts of."""
    results = {result.method: result for result in read_results([ROOT / "docs/results/lossless"])}
    lines = []
    for method in LOSSLESS:
        result = results[method]
        model, _, preset = method.partition("-")
        accuracy, interval = f"{result.accuracy:.1%}", " to ".join(f"{end:.1%}" for end in result.accuracy_interval)
        numbers = f"{result.tokens_per_forward:.2f} | {result.forwards:,} | {result.row_forwards:,}"
        lines.append(f"| {model} | `{preset}` | {accuracy} ({interval}) | {numbers} | {result.seconds:.0f} |")
    return lines


def test_the_lossless_rows_are_those_of_the_result_files():
    assert "\n".join(lossless_table()) + "\n" in PAGE
