"""On-policy rounds: what each learns from, what is refused, and that killed ones resume as if nothing had happened."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from d3llm.commands.main import main
from d3llm.evaluation.answer_checks import ANSWERS, CHECKS, Reference
from d3llm.modeling import LLaDAModelLM
from d3llm.trainers.round_steps import RoundFolder
from d3llm.trainers.rounds import publish, train_rounds
from d3llm.trainers.rounds_config import RoundsConfig
from d3llm.trainers.training_plan import ROUNDS_FILE
from d3llm.trajectories.dataset import load_trajectories, read_decode_config
from tests.helpers.extraction import write_jsonl
from tests.helpers.kills import contents, is_killed
from tests.helpers.models import WORDS
from tests.helpers.trajectory_rows import random_trajectories


DECODING = {"preset": "dparallel", "threshold": 1.0, "block_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setitem(CHECKS, "third", lambda text, answer: answer != "two")  # wrong are prompts 2, 7 and so on
    monkeypatch.setitem(ANSWERS, "third", Reference)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [
        {"prompt": " ".join(WORDS[: 1 + index % 4]), "answer": WORDS[index % 5], "solution": f"is {WORDS[index]}"}
        for index in range(12)
    ]
    return write_jsonl(tmp_path / "problems.jsonl", rows)


def distill(student: Path, problems: Path, output: Path, *options: str, **named: str) -> int:
    named = {
        "config": "on_policy",
        "model_name_or_path": str(student),
        "prompts": str(problems),
        "check": "third",
        "decoding": json.dumps(DECODING),
        "output_dir": str(output),
        "max_new_tokens": "16",
        "max_steps": "1",
        "warmup_steps": "0",
        "per_device_train_batch_size": "4",
        "report_to": "none",
        "disable_tqdm": "true",
        **named,
    }
    given = [part for name, value in named.items() if value for part in (f"--{name}", value)]
    return main(["distill", *given, "--use_cpu", *options])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_each_student_learns_from_the_right_runs_of_the_one_before(tiny_checkpoint, problems, tmp_path, capsys):
    out = tmp_path / "out"
    fresh = {"prompts_per_round": "4"}
    assert distill(tiny_checkpoint, problems, out, rounds="2", **fresh) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round ")]
    assert [line.partition(" answers")[0] for line in lines] == ["round 1: 3 of 4", "round 2: 3 of 4"]

    tokenizer, decoder = AutoTokenizer.from_pretrained(tiny_checkpoint), tiny_checkpoint
    for number in (1, 2):
        folder = RoundFolder(out, number)
        rows = load_trajectories(folder.trajectories)
        first = 4 * (number - 1)
        assert list(rows["id"]) == [f"problems/train/{first + index}" for index in range(4)]
        model = LLaDAModelLM.from_pretrained(decoder)
        for row in rows:
            output = model.generate(
                torch.tensor([row["prompt_ids"]]), max_new_tokens=16, return_dict_in_generate=True, **DECODING
            )
            length = len(row["response_ids"])
            assert output.sequences[0, len(row["prompt_ids"]) :][:length].tolist() == row["response_ids"]
            assert output.commit_steps[0, :length].tolist() == row["commit_steps"]
            assert read_decode_config(row)["temperature"] == 0
        assert not folder.training.exists()
        alone = tmp_path / f"alone{number}"  # a plain training on the same trajectories is the same
        plain = {"prompts": "", "check": "", "decoding": "", "trajectories": str(folder.trajectories)}
        assert distill(decoder, problems, alone, seed=str(42 + number - 1), **plain) == 0
        assert same_weights(alone, folder.student)
        assert not same_weights(decoder, folder.student)
        decoder = folder.student
    assert same_weights(out, decoder)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == tokenizer.get_vocab()
    assert not list(out.rglob("*.bin")) and not list(out.rglob("*.pt"))

    before = contents(out / "rounds")
    assert distill(tiny_checkpoint, problems, out, "--resume", rounds="3", **fresh) == 0
    after = contents(out / "rounds")
    assert before.items() <= after.items()
    assert same_weights(out, RoundFolder(out, 3).student) and not same_weights(out, decoder)


def test_the_same_prompts_and_given_texts(tiny_checkpoint, problems, tmp_path):
    """Without a number of fresh prompts, all rounds have the same ones; given texts are not decoded."""
    given = {"texts": "given", "response_column": "solution", "check": "", "decoding": "", "rounds": "2"}
    assert distill(tiny_checkpoint, problems, tmp_path / "given", skip="8", **given) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    first, second = (load_trajectories(RoundFolder(tmp_path / "given", number).trajectories) for number in (1, 2))
    assert list(first["id"]) == list(second["id"]) == [f"problems/train/{index}" for index in (8, 9, 10, 11)]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in first["response_ids"]]
    assert texts == [f"is {word}" for word in WORDS[8:12]]
    assert list(first["commit_steps"]) != list(second["commit_steps"])  # another random order
    assert set(first["source"]) == {"random"}


def test_wrong_runs_are_corrected(tiny_checkpoint, problems, tmp_path):
    """They have the given text, and the states of the run before its first forward that committed another token."""
    out = tmp_path / "out"
    assert distill(tiny_checkpoint, problems, out, keep="corrected", response_column="solution") == 0
    rows = load_trajectories(RoundFolder(out, 1).trajectories)
    assert list(rows["correct"]) == [None if index % 5 == 2 else True for index in range(12)]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_checkpoint), LLaDAModelLM.from_pretrained(tiny_checkpoint)
    for index in (2, 7):
        row = rows[index]
        ids = tokenizer(f"is {WORDS[index]}", add_special_tokens=False)["input_ids"]
        given = torch.full((16,), model.config.eos_token_id)
        given[: len(ids)] = torch.tensor(ids)
        assert row["response_ids"] == given[: len(ids) + 1].tolist()
        prompt = torch.tensor([row["prompt_ids"]])
        run = model.generate(prompt, max_new_tokens=16, return_dict_in_generate=True, **DECODING)
        is_other = run.sequences[0, prompt.shape[1] :] != given
        steps = run.commit_steps[0]
        departure = steps[is_other].min()
        assert row["commit_steps"] + row["tail_steps"] == steps.clamp(max=departure).tolist()
        assert row["num_forwards"] == run.forward_passes[0]  # those of the whole run


def test_adapters_are_merged_after_each_round(tiny_checkpoint, problems, tmp_path):
    options = ["--use_peft", "--lora_r", "2", "--keep", "all", "--prompts_per_round", "4"]
    assert distill(tiny_checkpoint, problems, tmp_path / "out", *options, check="", rounds="1") == 0
    assert not list((tmp_path / "out").rglob("adapter*"))
    model = LLaDAModelLM.from_pretrained(tmp_path / "out")
    assert model.generate(torch.tensor([[3, 4]]), max_new_tokens=8).shape == (1, 10)
    assert not same_weights(tiny_checkpoint, tmp_path / "out")


def test_a_check_that_passes_nothing_or_everything(tiny_checkpoint, problems, tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setitem(CHECKS, "third", lambda text, answer: False)
    assert distill(tiny_checkpoint, problems, tmp_path / "none") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Round 1: none of 12 answers is right by the check 'third'" in error and "--keep all" in error
    assert not list((tmp_path / "none").rglob("*.safetensors"))
    monkeypatch.setitem(CHECKS, "third", lambda text, answer: True)
    with caplog.at_level("WARNING", logger="d3llm"):
        assert distill(tiny_checkpoint, problems, tmp_path / "all") == 0
    assert "Round 1: all 12 answers are right by the check 'third'" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "", "rounds": "1"}, "Which prompts?"),
        ({"check": ""}, "Which check? Give --check number"),
        ({"check": "nobody"}, "`check` is 'nobody': expected 'boxed', 'hash', 'number', 'code'"),
        ({"check": "code"}, "allow it with --allow_code_execution"),
        ({"rounds": "0"}, "`rounds` is 0"),
        ({"trajectories": "x"}, "--trajectories is for a training without rounds"),
        ({"rounds": "4", "prompts_per_round": "4"}, "has 12 rows, too few to skip 0 and take 4 in each of 4 rounds"),
        ({"skip": "12"}, "has 12 rows, too few to skip 12 and take any"),
        ({"answer_column": "result"}, "has no column 'result'"),
        ({"prompts": "/nowhere.jsonl"}, "There is no file or folder /nowhere.jsonl"),
        ({"decoding": ""}, "names no decoder: give one with --decoding"),
        ({"decoding": '{"treshold": 0.3}'}, "`treshold`"),
        ({"decoding": '{"temperature": 0.3}'}, "`temperature` is set by the extraction"),
        ({"decoding": "d3llm"}, "`decoding` is 'd3llm': expected"),
        ({"response_column": "solution"}, "`response_column` is for texts='given'"),
        ({"keep": "corrected"}, "name their column with --response_column"),
        ({"keep": "corrected", "check": ""}, "Which check? Give --check number"),
        ({"texts": "given"}, "Which texts?"),
        ({"texts": "given", "response_column": "solution"}, "`check` is for texts='own'"),
        ({"eval_strategy": "epoch"}, "Rounds have no evaluations"),
        ({"kl_weight": "1.0"}, "give --use_peft"),
        ({"push_to_hub": "true"}, "push the result with `d3llm push model`"),
    ],
)
def test_what_is_refused_before_anything_runs(tiny_checkpoint, problems, tmp_path, capsys, options, message):
    assert distill(tiny_checkpoint, problems, tmp_path / "out", **options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("d3llm: error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_rounds_or_a_plain_training(tiny_checkpoint, problems, tmp_path, capsys):
    rounds, plain = tmp_path / "rounds", tmp_path / "plain"
    trajectories = tmp_path / "trajectories"
    random_trajectories().to_parquet(str(trajectories / "part.parquet"))
    without = {"prompts": "", "check": "", "decoding": "", "max_new_tokens": "24", "trajectories": str(trajectories)}
    assert distill(tiny_checkpoint, problems, plain, "--save_strategy", "no", **without) == 0
    assert distill(tiny_checkpoint, problems, plain, "--resume") == 2
    assert "plain holds a training without rounds, or a model" in capsys.readouterr().err

    rounds.mkdir()
    (rounds / ROUNDS_FILE).write_text("{}")  # as a run leaves it that is killed in its first round
    assert distill(tiny_checkpoint, problems, rounds, "--resume", **without) == 2
    assert "rounds holds rounds: continue them" in capsys.readouterr().err
    assert distill(tiny_checkpoint, problems, rounds) == 2
    assert "rounds holds rounds: continue them (--resume)" in capsys.readouterr().err
    shutil.rmtree(rounds)
    assert distill(tiny_checkpoint, problems, rounds) == 0
    changed = {"learning_rate": "1e-3", "decoding": json.dumps({**DECODING, "threshold": 0.1})}
    assert distill(tiny_checkpoint, problems, rounds, "--resume", **changed) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "learning_rate was 0.0002, is 0.001" in error and "threshold was 1.0, is 0.1" in error
    shutil.copytree(rounds / "rounds" / "1", rounds / "rounds" / "2")
    assert distill(tiny_checkpoint, problems, rounds, "--resume") == 2
    assert "holds 2 finished rounds: give --rounds 2 or more" in capsys.readouterr().err.splitlines()[-1]
    shutil.rmtree(rounds / "rounds" / "2")
    problems.write_text(problems.read_text().replace("one", "nine"))
    assert distill(tiny_checkpoint, problems, rounds, "--resume") == 2
    assert "its prompts differ" in capsys.readouterr().err.splitlines()[-1]


def test_an_interrupted_copy_is_no_model(tmp_path, monkeypatch):
    student, output = tmp_path / "student", tmp_path / "out"
    student.mkdir()
    for name in ("config.json", "model.safetensors", "zero.py"):
        (student / name).write_text("new")
    output.mkdir()
    (output / "config.json").write_text("old")
    copied: list[str] = []

    def copy(source: Path, target: Path) -> None:
        copied.append(source.name)
        if len(copied) == 3:
            raise OSError("No space left on device")
        Path(target).write_bytes(source.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr("d3llm.trainers.rounds.shutil.copyfile", copy)
        with pytest.raises(OSError, match="No space left"):
            publish(student, output)
    assert copied[-1] == "config.json" and not (output / "config.json").exists()
    publish(student, output)
    assert contents(student) == contents(output)


@pytest.mark.parametrize(
    ("rounds", "kills", "states"),
    [
        (1, (19, 140), {"extraction", "training"}),
        pytest.param(
            2, (19, 140, 300, 600, 900), {"extraction", "training", "between", "copy"}, marks=pytest.mark.slow
        ),
    ],
)
def test_killed_rounds_go_on(tiny_checkpoint, problems, tmp_path, rounds, kills, states):
    """Killed before one of the changes to files, the next run leaves what an uninterrupted one does."""
    options = {"prompts_per_round": "3", "chunk_size": "2", "max_steps": "2", "save_steps": "1"}

    def run(out: Path, *more: str) -> None:
        assert distill(tiny_checkpoint, problems, out, *more, rounds=str(rounds), **options) == 0

    run(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    names = [name for name in whole if name.endswith((".safetensors", ".parquet"))]
    assert len(names) == rounds * (2 + 1) + 1
    met = set()
    for at in kills:
        out = tmp_path / f"killed{at}"
        assert is_killed(lambda: run(out), out, at)  # noqa: B023
        met.add(state_of(out, rounds))
        run(out, *(["--resume"] if (out / ROUNDS_FILE).exists() else []))
        assert contents(out).keys() == whole.keys()
        assert [name for name in names if (out / name).read_bytes() != whole[name]] == []
    assert met == states


def state_of(out: Path, rounds: int) -> str:
    """What a killed run was doing."""
    if RoundFolder(out, rounds).student.exists():
        return "copy"
    if RoundFolder(out, 1).student.exists():
        return "between"
    return "training" if RoundFolder(out, 1).training.exists() else "extraction"


def test_from_python(tiny_checkpoint, problems, tmp_path):
    from trl import ModelConfig

    from d3llm import PseudoTrajectoryConfig

    args = PseudoTrajectoryConfig(
        output_dir=str(tmp_path / "out"),
        corruption="state",
        layout="single",
        full_mask_share=0.0,
        max_steps=1,
        use_cpu=True,
        report_to="none",
    )
    config = RoundsConfig(prompts=str(problems), check="third", decoding={**DECODING, "max_new_tokens": 8})
    seen = []
    (only,) = train_rounds(ModelConfig(model_name_or_path=str(tiny_checkpoint)), args, config, on_round=seen.append)
    assert seen == [only] and (only.number, only.counts.correct, only.counts.wrong) == (1, 10, 2)
    assert only.student == tmp_path / "out" / "rounds" / "1" / "student"
    assert only.describe().startswith("round 1: 10 of 12 answers right (83.3%), ")


def test_the_help_is_that_of_the_rounds(capsys):
    with pytest.raises(SystemExit):
        main(["distill", "--rounds", "1", "--help"])
    shown = capsys.readouterr().out
    assert "--prompts_per_round" in shown and "--full_mask_share" in shown and "--trajectories" not in shown
