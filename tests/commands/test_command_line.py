"""The `d3llm` command line on a tiny random checkpoint, and what it says to wrong input."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml

from d3llm.commands import leaderboard
from d3llm.commands.main import main
from d3llm.generation.fields import METHOD_DEFAULTS, RUN_DEFAULTS
from d3llm.generation.presets import PRESETS
from d3llm.quickstart.comparison_plan import DEFAULT_PLAN, read_plan
from tests.helpers.commands import copy_checkpoint, run_fails


def test_presets_lists_every_preset(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    for name in PRESETS:
        assert name in printed


def test_the_help_of_generate_lists_the_fields(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["generate", "--help"])
    printed = capsys.readouterr().out
    for name in {*METHOD_DEFAULTS, *RUN_DEFAULTS, "top_k", "top_p"} - {"output_logprobs", "output_history"}:
        assert f"--{name.replace('_', '-')} " in printed


def test_several_sequences(capsys, tiny_checkpoint):
    arguments = ["generate", "--model", str(tiny_checkpoint), "--prompt", "one", "--max-new-tokens=6"]
    assert main([*arguments, "--num-return-sequences", "3", "--temperature", "1", "--seed", "3"]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_generate_prints_the_text_only(capsys, tiny_checkpoint):
    arguments = ["generate", "--model", str(tiny_checkpoint), "--prompt", "one plus two is", "--preset", "llada"]
    assert main([*arguments, "--max-new-tokens", "12", "--block-size", "5"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1 and "░" not in printed.out and "<mask>" not in printed.out
    assert printed.err == ""


def test_generate_equals_the_library(capsys, tiny_checkpoint):
    import torch
    from transformers import AutoTokenizer

    from d3llm.modeling import LLaDAModelLM

    model, tokenizer = LLaDAModelLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)
    input_ids = torch.tensor([tokenizer("<user> one plus two is")["input_ids"]])
    expected = model.generate(input_ids, preset="d3llm", max_new_tokens=12, block_size=4, threshold=2.0)[0, 5:]
    expected = tokenizer.decode(expected, skip_special_tokens=True)
    main(
        ["generate", "--model", str(tiny_checkpoint), "--prompt", "one plus two is", "--preset", "d3llm"]
        + ["--max-new-tokens", "12", "--block-size", "4", "--threshold", "2.0"]
    )
    assert capsys.readouterr().out.strip() == expected.strip()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["generate"], "--prompt"),
        (["generate", "--prompt", "one", "--thresold", "1"], "--thresold"),
        (["generate", "--prompt", "one", "--max_new_tokens", "4"], "did you mean `--max-new-tokens`"),
        (["generate", "--prompt", "one", "--devise", "cpu"], "did you mean `--device`"),
        (["extract", "--dataset", "one", "--output", "two", "--chek", "number"], "did you mean `--check`"),
        (["generate", "--prompt", "one", "two"], "two"),
        (["generate", "--prompt", "one", "--threshold"], "--threshold"),
        (["generate", "--prompt", "one", "--threshold", "--steps", "3"], "--threshold"),
        (["generate", "--prompt", "one", "--max-new-tokens", "1.5"], "max_new_tokens"),
        (["generate", "--prompt", "one", "--preset", "d3llm", "--threshold", "low"], "threshold"),
        (["generate", "--prompt", "one", "--early-stop", "maybe"], "--early-stop"),
        (["presets", "--thresold", "1"], "--thresold"),
        (["generate", "--prompt", "  "], "--prompt"),
        (["generate", "--prompt", "one", "--model", "nowhere/at/all"], "nowhere/at/all"),
        (["demo", "--problems", "0"], "--problems"),
        (["demo", "--problems", "ten"], "--problems"),
        (["demo", "--problems", "1000000000"], "--problems"),
        (["demo", "--batch-size", "-1"], "--batch-size"),
        (["demo", "--threads", "0"], "--threads"),
        (["demo", "--json", "nowhere/demo.json"], "nowhere"),
        (["demo", "--json", "."], "not a file"),
        (["quickstart"], "ACTION"),
        (["quickstart", "train-teacher", "--recipe", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_arguments_take_one_line(capsys, arguments, named):
    assert named in run_fails(capsys, *arguments)


def test_what_the_encoding_of_the_terminal_lacks_is_an_escape(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["presets"]) == 0
    assert r"\u2026" in written.getvalue().decode("ascii")  # of a name that the table shortens


def test_training_does_not_overwrite_an_unfinished_run(capsys, tmp_path):
    (tmp_path / "training_state.safetensors").touch()
    assert "--resume" in run_fails(capsys, "quickstart", "train-teacher", "--output", tmp_path)


def test_training_from_a_recipe_that_is_none(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    for text in ("steps: 3", "[1, 2]", "seed: [", ""):
        recipe.write_text(text)
        assert str(recipe) in run_fails(
            capsys, "quickstart", "train-teacher", "--recipe", recipe, "--output", tmp_path / "output"
        )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (None, "not YAML"),
        ([1, 2], "not a plan"),
        ({"base": None}, "['base'] is None: expected a valid string; start from shipped/comparison.yaml."),
        ({"problems": {"seed": 1}}, "['problems']['count'] is missing"),
        ({"problems": {"seed": 1, "count": "ten"}}, "['problems']['count'] is 'ten'"),
        ({"problems": {"seed": 1, "count": 0}}, "['problems']['count'] is 0"),
        ({"training": None}, "['training'] is None"),
        ({"trainning": {}}, "['trainning'] is {}: there is no such name"),
        ({"measurement": {"problems": 3}}, "['measurement']['split'] is missing"),
        ({"decoding": {"max_new_tokens": 0}}, "`max_new_tokens`=0"),
        ({"extraction": {"preset": "lada"}}, "`preset`='lada' is unknown"),
        ({"extraction": {"preset": "llada", "chunk": 3}}, "`extraction` cannot set chunk"),
        ({"extraction": {"preset": "llada", "chunk_size": 0}}, "`chunk_size` is 0"),
        ({"training": {"seed": 3}}, "`training` cannot set seed"),
        ({"training": {"learning_rate": -1}}, "`learning_rate` is -1"),
        ({"training": {"window_sizes": "text"}}, "`window_sizes` is 'text'"),
        ({"training": {"lr_scheduler_kwargs": {"a": 1}}}, "`lr_scheduler_kwargs`"),
    ],
)
def test_a_plan_of_students_that_cannot_be_read_to_its_end(capsys, monkeypatch, tmp_path, change, named):
    monkeypatch.setattr("d3llm.quickstart.distill_shipped.Comparison", None)
    file = tmp_path / "own.yaml"
    shipped = yaml.safe_load(DEFAULT_PLAN.read_text())
    plan = {**shipped, **change} if isinstance(change, dict) else change
    file.write_text(yaml.safe_dump(plan, sort_keys=False) if change else "seed: [")
    error = run_fails(capsys, "quickstart", "distill", "--plan", file, "--output", tmp_path / "output")
    assert str(file) in error and named in error.replace(str(DEFAULT_PLAN.parent), "shipped")
    assert not (tmp_path / "output").exists()


def test_decoders_of_a_plan_name_a_preset(tmp_path):
    plan = yaml.safe_load(DEFAULT_PLAN.read_text())
    read_plan(DEFAULT_PLAN)
    for decoder, named in (
        ({}, "['decoders']['d3llm']['preset'] is missing"),
        ({"preset": "d3lm"}, "`preset`='d3lm'"),
        ({"preset": "d3llm", "thresholds": []}, "'thresholds'] is []"),
        ({"preset": "d3llm", "thresholds": [-1.0]}, "'thresholds'][0] is -1.0"),
        ("d3llm", "['decoders']['d3llm'] is 'd3llm'"),
    ):
        plan["decoders"]["d3llm"] = decoder
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
        with pytest.raises(ValueError, match=re.escape(named)):
            read_plan(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--preset", "warp"], "warp"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["--max-new-tokens", "4000"], "max_new_tokens"),
        (["--block-size", "0"], "block_size"),
        (["--threshold", "-1"], "threshold"),
        (["--threshold", "nan"], "threshold"),
        (["--block-add-threshold", "1.5"], "block_add_threshold"),
        (["--score", "loudness"], "score"),
        (["--selection", "all"], "selection"),
        (["--cache", "disk"], "cache"),
        (["--temperature", "-1"], "temperature"),
        (["--window-edge", "round"], "window_edge"),
        (["--device", "abacus"], "abacus"),
        (["--device", "meta"], "Cannot use the device 'meta'"),
    ],
)
def test_wrong_values_name_the_field(capsys, tiny_checkpoint, flags, named):
    assert named in run_fails(capsys, "generate", "--model", tiny_checkpoint, "--prompt", "one", *flags)


def test_a_folder_without_chat_template(capsys, tiny_checkpoint, tmp_path):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    for path in folder.glob("chat_template*"):
        path.unlink()
    arguments = ["generate", "--model", folder, "--prompt", "one", "--max-new-tokens", "4"]
    assert "--no-chat" in run_fails(capsys, *arguments, "--chat")
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_a_damaged_checkpoint(capsys, tiny_checkpoint, tmp_path, name, damage):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "other": b'{"model": 3}'}[damage])
    arguments = ["generate", "--model", str(folder), "--prompt", "one", "--max-new-tokens", "4"]
    if name == "tokenizer_config.json" and damage in ("missing", "other"):
        pytest.skip("the tokenizer loads without its settings")
    assert str(folder) in run_fails(capsys, *arguments)


def test_weights_that_lack_a_tensor_or_do_not_fit(capsys, tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = "model.transformer.blocks.1.q_proj.weight"
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
    assert lost in run_fails(capsys, "generate", "--model", folder, "--prompt", "one")
    save_file({**weights, lost: weights[lost][:8].clone()}, folder / "model.safetensors", {"format": "pt"})
    assert str(folder) in run_fails(capsys, "generate", "--model", folder, "--prompt", "one")


@pytest.mark.parametrize("model_type", ["gpt2", "unheard_of", None])
def test_a_model_of_another_family(capsys, tiny_checkpoint, tmp_path, model_type):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": model_type, "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert repr(model_type) in run_fails(capsys, "generate", "--model", folder, "--prompt", "one")


def test_code_in_a_folder_runs_only_when_allowed(capsys, tiny_checkpoint, tmp_path):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "mine.py").write_text("raise SystemExit('the code ran')")
    arguments = ["generate", "--model", folder, "--prompt", "one"]
    assert "--trust-remote-code" in run_fails(capsys, *arguments)
    with pytest.raises(SystemExit, match="the code ran"):
        main([*map(str, arguments), "--trust-remote-code"])


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from d3llm.commands.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_lack_of_memory_names_no_argument_that_the_command_lacks(monkeypatch, capsys):
    def run(args):
        raise MemoryError

    monkeypatch.setattr(leaderboard, "run", run)
    said = run_fails(capsys, "leaderboard", "--published")
    assert "not enough memory: " in said and "fewer resamples" in said and "--" not in said


def test_a_closed_pipe_is_no_error(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit, match="1"):  # of rich
            main(["presets"])
        stdout.flush()  # as the interpreter does when it exits
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("command", "code"), [(["presets"], 0), (["eval", "--tasks", "none", "--output", "x"], 2)])
def test_a_command_leaves_its_process_group(command, code):
    """A process that exits with one is aborted now and then: its threads still run."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert main(command) == code
        assert not torch.distributed.is_initialized()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "line",
    [
        "generate --prompt one --model=",
        "generate --prompt one --assistant-model=",
        "generate --input prompts.jsonl --output=",
        "eval --tasks stories --output=",
        "tune --tasks stories --output=",
        "extract --dataset prompts.jsonl --output=",
        "extract --output out --dataset=",
        "leaderboard results --output=",
        "doctor --model=",
        "serve --model=",
        "quickstart compare --output=",
    ],
)
def test_an_empty_name_is_no_file_of_the_current_folder(line, capsys, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tiny_checkpoint)  # a model that nobody named
    before = sorted(tiny_checkpoint.iterdir())
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    option = line.split()[-1].rstrip("=")
    printed = capsys.readouterr().err
    assert option in printed and "it is empty" in printed and printed.count("\n") == 1
    assert sorted(tiny_checkpoint.iterdir()) == before


@pytest.mark.parametrize("option", ["model_name_or_path", "output_dir", "trajectories"])
def test_an_empty_name_of_a_training(option, capsys, tiny_checkpoint):
    given = {"model_name_or_path": str(tiny_checkpoint), "output_dir": "student", "trajectories": "trajectories"}
    arguments = [part for name, value in (given | {option: ""}).items() for part in (f"--{name}", value)]
    assert f"`{option}` is ''" in run_fails(capsys, "distill", "--config", "llada_sft", *arguments)


def test_pictures_that_cannot_be_written_are_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message = run_fails(capsys, "leaderboard", "--published", "--output", tmp_path / "pictures")
    assert f"Cannot write into {tmp_path / 'pictures'}: no permission to write there" in message
