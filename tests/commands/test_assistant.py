"""`--assistant`: a second checkpoint drafts, and its forwards are told."""

import json

from d3llm.commands.main import main
from tests.commands.test_terminal import run_in_terminal
from tests.helpers.commands import run_fails


def test_texts_are_those_of_the_model_and_both_costs_are_told(tmp_path, tiny_checkpoint, capsys):
    prompts, plain, drafted = (tmp_path / name for name in ("prompts.jsonl", "plain.jsonl", "drafted.jsonl"))
    prompts.write_text('{"prompt": "one plus two"}\n')
    flags = ["generate", "--model", str(tiny_checkpoint), "--preset", "llada", "--max-new-tokens", "8"]
    flags += ["--early-stop", "false", "--device", "cpu"]
    assistant = ["--assistant", str(tiny_checkpoint)]
    from_file = [*flags, "--input", str(prompts)]
    assert main([*from_file, "--output", str(plain)]) == main([*from_file, "--output", str(drafted), *assistant]) == 0
    one, other = (json.loads(file.read_text()) for file in (plain, drafted))
    assert other["text"] == one["text"] and "assistant_forwards" not in one
    assert other["forwards"] < one["forwards"] and other["assistant_forwards"] > 0
    written = run_in_terminal([*flags, "--prompt", "one plus two", *assistant])
    assert f"and {other['assistant_forwards']} of the assistant, TPF" in written
    # a run that drafts does not resume one that does not
    assert "assistant" in run_fails(capsys, *from_file, "--output", str(plain), *assistant)
