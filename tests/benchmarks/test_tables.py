"""The tables of benchmarks/README.md come from the result files."""

import functools
import json

import pytest

from benchmarks import decode, machine, tables


def test_a_result_file_fills_its_table_and_no_other(monkeypatch, tmp_path, capsys):
    result = tmp_path / "docs" / "results" / "decode_tiny.json"
    result.parent.mkdir(parents=True)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    arguments = ["decode", "--model", "random-4m", "--presets", "d3llm", "--new-tokens", "32", "--prompt-length", "8"]
    monkeypatch.setattr("sys.argv", [*arguments, "--repeats", "1", "--threads", "1", "--json", str(result)])
    decode.main()
    row = json.loads(result.read_text())["rows"][0]
    other = "<!-- docs/results/other.json -->\nold\n<!-- end -->"
    readme = tmp_path / "benchmarks" / "README.md"
    readme.parent.mkdir()
    readme.write_text(f"# A\n\n<!-- docs/results/decode_tiny.json -->\nold\n<!-- end -->\n\n{other}\n")
    tables.main()
    text = readme.read_text()
    assert text.endswith(f"{other}\n") and text.count("old") == 1
    assert f"| `d3llm` | own | float32 | 1 | {row['tokens_per_second']:.1f} | {row['forwards']} |" in text
    assert "1 repeat," in text and "(../docs/results/decode_tiny.json)" in text
    assert "/single" not in text  # nothing was decoded one by one
    tables.main()
    assert readme.read_text() == text
    assert "other.json does not exist" in capsys.readouterr().out


@pytest.mark.parametrize("name", tables.PAGES)
def test_the_tables_of_a_page_are_those_of_the_result_files(name):
    page = tables.ROOT / name
    text = page.read_text(encoding="utf-8")
    assert tables.TABLE.sub(functools.partial(tables.filled, page.parent), text) == text


def test_the_sentence_about_the_drafter_is_that_of_its_result_file():
    sentence = tables.drafter_sentence(json.loads((tables.ROOT / tables.DRAFTER).read_text(encoding="utf-8")))
    assert sentence in (tables.ROOT / "README.md").read_text(encoding="utf-8")


def test_peak_memory_is_that_of_the_run():
    import torch

    if machine.peak_memory(lambda: None) is None:
        pytest.skip("the system does not let a process reset its mark")
    large = machine.peak_memory(lambda: torch.ones(2**26))  # 256 MiB
    assert large - machine.peak_memory(lambda: None) > 200
