"""README: its Python lines run, and its numbers are those of the committed result file."""

import json
import re
import shlex

import pytest

from benchmarks import tables
from tests.helpers.forks import Fork, run_script
from tests.helpers.paths import ROOT
from tests.helpers.support_matrix import families_table, presets_table


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_lines_run(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    result = Fork(run_script, block, cwd=tmp_path).wait()
    assert result.returncode == 0, result.stderr
    assert re.search(r"#### 7\n", result.stdout)
    assert re.search(r"\d+ forwards, \d+\.\d tokens per forward", result.stdout)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("line", re.findall(r"^d3llm [^#\n]+", README, re.MULTILINE))
def test_the_command_lines_parse(line):
    from d3llm.commands.main import build_parser
    from d3llm.generation.configuration_diffusion import KNOWN_FIELDS

    args, rest = build_parser().parse_known_args(shlex.split(line)[1:])
    if line.startswith("d3llm distill"):  # TRL reads the rest
        from d3llm.trainers.distill import parse_arguments

        parse_arguments(rest)
        return
    flags = [argument[2:].replace("-", "_") for argument in rest if argument.startswith("--")]
    assert not rest or args.takes_fields
    assert set(flags) <= KNOWN_FIELDS


@pytest.mark.slow
def test_the_small_teacher_is_distilled_as_the_page_says(tmp_path, monkeypatch, capsys):
    from d3llm.commands.main import main

    lines = [line for line in README.splitlines() if line.startswith("d3llm ")]
    lines = [line for line in lines if "quickstart/teacher" in line or "--model small" in line]
    assert [line.split()[1] for line in lines] == ["extract", "distill", "generate"]
    shorter = {"--limit 256": "--limit 2", "--max_steps 60": "--max_steps 2 --per_device_train_batch_size 2 --use_cpu"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").symlink_to(ROOT / "quickstart")  # as in a checkout
    for line in lines:
        for long, short in shorter.items():
            line = line.replace(long, short)
        assert main(shlex.split(line)[1:]) == 0
    assert "####" in capsys.readouterr().out


def test_the_numbers_are_those_of_the_result_file():
    report = json.loads((ROOT / "docs/results/demo.json").read_text())
    (stated,) = re.findall(
        r"<!-- results: docs/results/demo.json -->\n(.*?)<!-- end of results -->", README, re.DOTALL
    )
    for row in report["rows"]:
        low, high = row["accuracy_interval"]
        cells = [
            row["model"],
            row["preset"],
            f"{row['accuracy']:.1%} ({low:.1%} to {high:.1%})",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['forwards']}",
        ]
        assert f"| {' | '.join(cells)} |" in stated
    for fact in (
        f"{report['problems']} unseen problems",
        f"seed {report['seed']}",
        f"batch size {report['batch_size']}",
    ):
        assert fact in stated


def test_the_tables_of_families_and_presets_are_those_of_the_code():
    assert families_table() in README and presets_table() in README


def test_what_is_said_of_the_drafter_is_in_its_result_file():
    result = json.loads((ROOT / tables.DRAFTER).read_text())
    assert f"<!-- drafter -->\n{tables.drafter_sentence(result)}\n" in README
    page = (ROOT / "docs/autoregressive.md").read_text(encoding="utf-8")
    assert tables.introspective_tables(result["rows"]) in page
