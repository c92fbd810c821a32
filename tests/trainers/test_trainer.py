"""The trainer end to end on a tiny model: what it learns, counts, saves, resumes and refuses."""

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoTokenizer, Trainer, TrainerCallback, TrainerState
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from d3llm.commands.main import main
from d3llm.modeling import LLaDAConfig, LLaDAModelLM
from d3llm.trainers.distill import last_checkpoint
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import HeldOutPrompts
from d3llm.trajectories.fingerprints import tokenizer_fingerprint
from d3llm.trajectories.row import STORED_FEATURES
from tests.helpers.forks import Done, fork_ranks
from tests.helpers.packed_head import pack_head
from tests.helpers.trajectory_rows import EOS, MASK, logged_losses, make_trainer, random_rows, random_trajectories


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **{"atol": 0, "rtol": 0, **tolerance}, msg=name)


def test_training_fits_the_trajectories_and_logs_its_parts(tiny_checkpoint, tmp_path):
    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        train_dataset=random_trajectories(8),
        max_steps=30,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        min_mask_ratio=0.5,
        max_mask_ratio=0.5,
    )
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    assert last["cross_entropy"] < 0.5 * first["cross_entropy"]
    assert last["share_correct"] > first["share_correct"]
    assert last["masked_entropy"] < first["masked_entropy"]
    assert {"complementary_cross_entropy", "certainty", "mask_ratio_bound", "window_size"} <= set(last)
    assert (first["window_size"], last["window_size"]) == (8, 16)


class Dashboard(TrainerCallback):
    """Keeps what a run reports, in place of trackio, wandb or tensorboard."""

    reports: ClassVar[list[dict[str, float]]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.reports.append(logs)


def test_report_to_receives_the_parts_of_the_loss(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "dashboard", Dashboard)
    monkeypatch.setattr(Dashboard, "reports", [])
    options = {"report_to": "dashboard", "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 4}
    make_trainer(tiny_checkpoint, tmp_path, eval_dataset=random_trajectories(8, seed=1), **options).train()
    *steps, evaluation, _ = Dashboard.reports  # the last is the summary of the run
    parts = {"cross_entropy", "complementary_cross_entropy", "certainty", "complementary_certainty"}
    parts |= {"masked_entropy", "share_correct"}
    assert len(steps) == 2
    for report in steps:
        assert parts | {"loss", "learning_rate", "mask_ratio_bound", "window_size"} <= report.keys()
        assert all(math.isfinite(report[name]) for name in parts)
    assert steps[0]["mask_ratio_bound"] < steps[1]["mask_ratio_bound"]
    assert {"eval_loss", *(f"eval_{name}" for name in parts)} <= evaluation.keys()


def test_the_loss_is_the_mean_over_all_masked_positions(tiny_checkpoint, tmp_path):
    """Written out with full logits, for one batch and both views."""
    trainer = make_trainer(tiny_checkpoint, tmp_path, complementary_entropy=True)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    corruption = trainer.corrupt(batch, step=3, progress=0.5)
    trainer.add_targets(batch, corruption)
    loss = trainer.compute_loss(trainer.model, batch)

    length = batch["commit_steps"].shape[1]
    expected = torch.zeros(())
    for view in range(2):
        noisy = batch["input_ids"].clone()
        noisy[:, -length:][corruption.masked[view]] = MASK
        logits = trainer.model(noisy, attention_mask=batch["attention_mask"]).logits[:, -length:]
        picked = corruption.supervised[view]
        logits, labels = logits[picked], batch["input_ids"][:, -length:][picked]
        log_q = (logits / 0.5).log_softmax(-1)
        entropy = -(log_q.exp() * log_q).sum(-1) * (logits.argmax(-1) == labels)
        expected = expected + torch.nn.functional.cross_entropy(logits, labels) + 2.0 * entropy.mean()
    torch.testing.assert_close(loss, expected)


def test_the_logged_entropy_is_what_the_decoder_would_see(tiny_checkpoint, tmp_path):
    """At temperature 1, and not that of the loss."""
    trainer = make_trainer(tiny_checkpoint, tmp_path, layout="single", entropy_temperature=0.5)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    corruption = trainer.corrupt(batch, step=3, progress=0.5)
    trainer.add_targets(batch, corruption)
    _, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    length = batch["commit_steps"].shape[1]
    noisy = batch["input_ids"].clone()
    noisy[:, -length:][corruption.masked[0]] = MASK
    logits = trainer.model(noisy, attention_mask=batch["attention_mask"]).logits[:, -length:]
    log_p = logits[corruption.supervised[0]].log_softmax(-1)
    torch.testing.assert_close(sums["masked_entropy"], -(log_p.exp() * log_p).sum())


def test_the_log_says_where_the_curricula_were_in_that_step(tiny_checkpoint, tmp_path):
    options = {"min_mask_ratio": 0.2, "max_mask_ratio": 0.8, "window_sizes": [4, 12]}
    trainer = make_trainer(tiny_checkpoint, tmp_path, max_steps=4, **options)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "window_size" in entry]
    assert [entry["mask_ratio_bound"] for entry in logged] == pytest.approx([0.2, 0.35, 0.5, 0.65])
    assert [entry["window_size"] for entry in logged] == [4, 8, 12, 12]


@pytest.mark.parametrize("normalization", ["tokens", "microbatch"])
def test_accumulation_changes_nothing(tiny_checkpoint, tmp_path, normalization):
    options: dict[str, Any] = {"max_steps": 2, "normalization": normalization, "optim": "sgd", "max_grad_norm": 0.0}
    whole = make_trainer(tiny_checkpoint, tmp_path, per_device_train_batch_size=4, **options)
    parts = make_trainer(
        tiny_checkpoint, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, **options
    )
    for trainer in (whole, parts):
        trainer.train()
    same = logged_losses(whole) == pytest.approx(logged_losses(parts), rel=1e-5)
    assert same == (normalization == "tokens")  # the reference's means weigh micro-batches alike
    if same:
        assert_same(weights(whole.model), weights(parts.model), atol=1e-6, rtol=1e-4)


def test_activation_checkpointing_changes_nothing(tiny_checkpoint, tmp_path):
    plain, checkpointed = (
        make_trainer(tiny_checkpoint, tmp_path, max_steps=2, activation_checkpointing=flag) for flag in (False, True)
    )
    for trainer in (plain, checkpointed):
        trainer.train()
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.model.modules())
    assert_same(weights(plain.model), weights(checkpointed.model), atol=1e-6, rtol=1e-4)


def test_bf16_trains(tiny_checkpoint, tmp_path):
    plain, mixed = (make_trainer(tiny_checkpoint, tmp_path, max_steps=2, bf16=flag) for flag in (False, True))
    for trainer in (plain, mixed):
        trainer.train()
    assert logged_losses(mixed) != logged_losses(plain)
    assert logged_losses(mixed) == pytest.approx(logged_losses(plain), rel=0.1)
    assert mixed.model.dtype == torch.float32


def test_resumed_run_equals_an_unbroken_one(tiny_checkpoint, tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    whole = make_trainer(tiny_checkpoint, tmp_path, **options)
    whole.train()
    resumed = make_trainer(tiny_checkpoint, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged_losses(resumed)[3:] == logged_losses(whole)[3:]
    assert_same(weights(resumed.model), weights(whole.model))


def test_a_finished_run_that_is_resumed_takes_no_further_step(tiny_checkpoint, tmp_path):
    """It was killed before its model was saved; its last step was not the last one of an epoch."""
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    whole = make_trainer(tiny_checkpoint, tmp_path, **options)
    whole.train()
    assert whole.state.epoch < 1
    resumed = make_trainer(tiny_checkpoint, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 3
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert_same(weights(resumed.model), weights(whole.model))


def kill_a_fork(line: list[str], is_time: Callable[[], bool]) -> list[Done]:
    """Two processes as a launcher starts them; the second one is killed when it is time."""
    ranks = fork_ranks(main, ["distill", *line])
    wait_until(lambda: is_time() or not all(rank.process.is_alive() for rank in ranks))
    ranks[1].process.kill()
    return [rank.wait(timeout=120) for rank in ranks]


def kill_a_worker_of_torchrun(line: list[str], is_time: Callable[[], bool]) -> list[Done]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "d3llm.trainers.distill", *line]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: is_time() or run.poll() is not None)
    assert run.returncode is None, run.communicate()[1]
    children = psutil.Process(run.pid).children(recursive=True)
    workers = [child for child in children if "--trajectories" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    _, stderr = run.communicate(timeout=120)
    return [Done(run.returncode, "", stderr)]


def wait_until(is_time: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_time():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.processes
@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"),
    reason="earlier transformers load the optimizer of several CPU processes onto a device that torch does not know",
)
@pytest.mark.slow
@pytest.mark.parametrize("train_and_kill_one", [kill_a_fork, kill_a_worker_of_torchrun])
def test_two_processes_one_killed_and_resumed(tiny_checkpoint, tmp_path, train_and_kill_one):
    random_trajectories().to_parquet(str(tmp_path / "trajectories" / "part.parquet"))
    arguments = ["--model_name_or_path", str(tiny_checkpoint), "--trajectories", str(tmp_path / "trajectories")]
    arguments += ["--keep", "all", "--use_cpu", "--bf16", "false", "--report_to", "none", "--logging_steps", "1"]
    arguments += ["--max_steps", "30", "--save_steps", "4", "--learning_rate", "1e-3", "--window_sizes", "8", "16"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    to_whole, to_broken = ([*arguments, "--output_dir", str(folder)] for folder in (whole, broken))
    two = ["--per_device_train_batch_size", "2"]

    ended = train_and_kill_one([*to_broken, *two], lambda: last_checkpoint(str(broken)) is not None)
    assert last_checkpoint(str(broken)) is not None, "\n".join(each.stderr for each in ended)
    assert all(each.returncode != 0 for each in ended)
    assert not (broken / "model.safetensors").exists()
    for line in ([*to_broken, *two, "--resume"], [*to_whole, *two]):
        done = [rank.wait() for rank in fork_ranks(main, ["distill", *line])]
        assert [each.returncode for each in done] == [0, 0], "\n".join(each.stderr for each in done)

    def losses(folder: Path) -> list[float]:
        log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        return [entry["loss"] for entry in log if "loss" in entry]

    for folder in (whole, broken):
        assert json.loads((folder / "model_facts.json").read_text())["hyperparameters"]["processes"] == 2
    assert len(losses(whole)) == 30 and losses(broken) == losses(whole)
    assert_same(load_file(whole / "model.safetensors"), load_file(broken / "model.safetensors"))
    # And one process with the whole batch does the same, up to the order of sums.
    alone = [*arguments, "--output_dir", str(tmp_path / "alone"), "--per_device_train_batch_size", "4"]
    assert main(["distill", *alone, "--save_strategy", "no"]) == 0
    assert losses(tmp_path / "alone")[:6] == pytest.approx(losses(whole)[:6], rel=1e-4)


def save_with_a_slow_rank(checkpoint: Path, output: Path) -> None:
    save, write = Trainer._save_rng_state, TrainerState.save_to_json

    def save_slowly(trainer: Trainer, folder: str) -> None:
        time.sleep(0.5 * int(os.environ["RANK"]))
        save(trainer, folder)

    def write_last(state: TrainerState, path: str) -> None:
        assert (Path(path).parent / "rng_state_1.pth").exists()
        write(state, path)

    Trainer._save_rng_state, TrainerState.save_to_json = save_slowly, write_last
    make_trainer(checkpoint, output, save_strategy="steps", save_steps=1, max_steps=1, ddp_backend="gloo").train()
    torch.distributed.destroy_process_group()


@pytest.mark.processes
def test_a_checkpoint_is_complete_when_every_process_has_written(tiny_checkpoint, tmp_path):
    done = [rank.wait() for rank in fork_ranks(save_with_a_slow_rank, tiny_checkpoint, tmp_path)]
    assert [each.returncode for each in done] == [0, 0], "\n".join(each.stderr for each in done)
    assert last_checkpoint(str(tmp_path)) is not None


def test_a_loss_that_is_no_number_stops_the_run(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path)
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight[5] = math.nan
    with pytest.raises(ValueError, match=r"loss at step 0 is nan, for the samples random/\d+, random/"):
        trainer.train()


class FillDisk(TrainerCallback):
    """From a step on no file can grow beyond some kilobytes."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_stops_the_run_and_leaves_what_was_done(tiny_checkpoint, tmp_path):
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(tiny_checkpoint, tmp_path, callbacks=[FillDisk(3)], **options)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match=r"after step 3: .*Checkpoints of earlier steps are complete"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert last_checkpoint(str(tmp_path)) == tmp_path / "checkpoint-2"
    resumed = make_trainer(tiny_checkpoint, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4


def test_held_out_problems_choose_the_best_model(tiny_checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    seen = []

    def check(index: int, text: str) -> bool:
        seen.append(index)
        return len(seen) <= 3  # right at the first evaluation alone

    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        eval_dataset=random_trajectories(8, seed=1),
        processing_class=tokenizer,
        held_out=HeldOutPrompts(["one plus one", "two plus two", "is"], check),
        eval_generation_kwargs={"preset": "d3llm", "max_new_tokens": 16},
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert [entry["eval_accuracy"] for entry in logged] == [1.0, 0.0]
    assert all(entry["eval_tokens_per_forward"] > 0 and entry["eval_loss"] > 0 for entry in logged)
    assert all("eval_masked_entropy" in entry for entry in logged)
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert_same(weights(trainer.model), load_file(tmp_path / "checkpoint-2" / "model.safetensors"))


def test_evaluation_loss_has_the_same_masks_each_time(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, eval_dataset=random_trajectories(8, seed=1))
    first = trainer.evaluate()["eval_loss"]
    trainer.state.global_step = 3
    assert trainer.evaluate()["eval_loss"] == first


def test_other_trajectories_can_be_evaluated(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, eval_dataset=random_trajectories(8, seed=1))
    first = trainer.evaluate()["eval_loss"]
    other = trainer.evaluate(random_trajectories(8, seed=2))
    assert other["eval_loss"] != first and "eval_share_correct" in other
    assert trainer.evaluate()["eval_loss"] == first
    assert trainer.evaluate(random_trajectories(8, seed=1))["eval_loss"] == first
    config = {"mask_token_id": 7, "eos_token_id": [EOS], "max_new_tokens": 24}
    foreign = random_trajectories(8, decode_config=json.dumps(config))
    with pytest.raises(ValueError, match="eval_dataset comes from a teacher whose mask token is 7"):
        trainer.evaluate(foreign)
    assert trainer.evaluate()["eval_loss"] == first
    with pytest.raises(ValueError, match=r"`eval_dataset` is a list: expected one `datasets\.Dataset`"):
        trainer.evaluate(random_rows(4))
    with pytest.raises(ValueError, match="`train_dataset` is a list"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=random_rows(4))


def test_divergence_from_a_teacher(tiny_checkpoint, tmp_path):
    options: dict[str, Any] = {
        "layout": "single",
        "window_sizes": [64],
        "kl_weight": 1.0,
        "near_forwards": 3,
        "entropy_weight": 0.0,
        "max_mask_ratio": 1.0,
    }
    teacher = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    trainer = make_trainer(tiny_checkpoint, tmp_path, teacher=teacher, **options)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    corruption = trainer.corrupt(batch, step=0, progress=1.0)
    trainer.add_targets(batch, corruption)
    steps = batch["commit_steps"].masked_fill(~corruption.supervised[0], 10**6)
    far = corruption.supervised[0] & (steps >= steps.amin(dim=1, keepdim=True) + 3)
    assert torch.equal(batch["far"][0], far)
    _, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert sums["far"] == far.sum()
    assert sums["masked"] == (corruption.supervised[0] & ~far).sum()
    assert sums["divergence"].abs() < 1e-4  # the student still is the teacher
    with torch.no_grad():
        teacher.get_output_embeddings().weight *= 1.5
    _, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert sums["divergence"] > 0.1


def test_a_teacher_whose_tokens_are_not_the_student_s_is_refused(tiny_checkpoint, tmp_path):
    options: dict[str, Any] = {"layout": "single", "kl_weight": 1.0}
    teacher = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    make_trainer(tiny_checkpoint, tmp_path, teacher=teacher, **options)
    with pytest.raises(ValueError, match="`kl_weight`, which is 0: omit it"):
        make_trainer(tiny_checkpoint, tmp_path, teacher=teacher)
    teacher.generation_config.mask_token_id = 7
    with pytest.raises(ValueError, match="The teacher's mask token is 7, the student's 1"):
        make_trainer(tiny_checkpoint, tmp_path, teacher=teacher, **options)
    teacher = LLaDAModelLM(LLaDAConfig(**{**teacher.config.to_dict(), "embedding_size": 20, "vocab_size": 20}))
    with pytest.raises(ValueError, match="a vocabulary of 20 tokens, the student one of 16"):
        make_trainer(tiny_checkpoint, tmp_path, teacher=teacher, **options)


def test_a_packed_head_is_refused(tiny_checkpoint, tmp_path):
    model = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    pack_head(model)
    with pytest.raises(ValueError, match="The LM head of the teacher is packed"):
        make_trainer(tiny_checkpoint, tmp_path, teacher=model, layout="single", kl_weight=1.0)
    with pytest.raises(ValueError, match=r"The LM head of the student is packed .* exclude it from the quantization"):
        make_trainer(tiny_checkpoint, tmp_path, model=model)


def refusal(tiny_checkpoint: Path, tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    from datasets import Dataset

    with pytest.raises(ValueError) as error:  # noqa: PT011  the callers look at the message
        make_trainer(
            tiny_checkpoint,
            tmp_path,
            train_dataset=Dataset.from_list(rows, features=STORED_FEATURES),
            **options,
        )
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit_steps": [1, 2]}, "row 'random/2' has a response of another length than its commit steps"),
        ({"response_ids": []}, "row 'random/2' has an empty response"),
        ({"response_ids": [3, 99, 0], "commit_steps": [1, 2, 3]}, "`response_ids` outside the vocabulary of 16"),
        ({"response_ids": [3, MASK, 0], "commit_steps": [1, 2, 3]}, "'random/2' has the mask token in its response"),
        ({"response_ids": [3, 0, 4], "commit_steps": [1, 2, 3]}, "'random/2' continues after an EOS"),
    ],
)
def test_a_faulty_row_is_named(tiny_checkpoint, tmp_path, change, message):
    rows = random_rows(4)
    rows[2] |= change
    assert message in refusal(tiny_checkpoint, tmp_path, rows)


def test_a_teacher_with_another_vocabulary_is_refused(tiny_checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    config = {"mask_token_id": 7, "eos_token_id": [0], "max_new_tokens": 24}
    message = refusal(tiny_checkpoint, tmp_path, random_rows(4, decode_config=json.dumps(config)))
    assert "whose mask token is 7; the student's is 1" in message
    config = {"mask_token_id": MASK, "eos_token_id": [0], "max_new_tokens": 24, "tokenizer": "another"}
    rows = random_rows(4, decode_config=json.dumps(config))
    assert "another tokenizer or chat template" in refusal(tiny_checkpoint, tmp_path, rows, processing_class=tokenizer)
    other_end = json.dumps(config | {"eos_token_id": [9]})
    assert "ends with [9]; the student ends with [0]" in refusal(
        tiny_checkpoint, tmp_path, random_rows(4, decode_config=other_end)
    )
    config["tokenizer"] = tokenizer_fingerprint(tokenizer)
    dataset = random_trajectories(4, decode_config=json.dumps(config))
    make_trainer(tiny_checkpoint, tmp_path, train_dataset=dataset, processing_class=tokenizer)


def test_what_a_decode_config_does_not_say_is_asked_for(tiny_checkpoint, tmp_path):
    unknown = json.dumps({"mask_token_id": MASK, "eos_token_id": [0]})
    rows = random_rows(4, decode_config=unknown)
    error = refusal(tiny_checkpoint, tmp_path, rows)
    assert "train_dataset does not record the length of the generated region" in error
    assert refusal(tiny_checkpoint, tmp_path, random_rows(4, decode_config="{}")).startswith(
        "`decode_config`['mask_token_id'] is missing"
    )
    dataset = random_trajectories(4, decode_config=unknown)
    trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=dataset, max_new_tokens=24)
    assert len(trainer.train_dataset) == 4


def test_the_reference_draws_one_ratio_for_a_micro_batch(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, masking="reference", filled_tail_share=0.0)
    rows = list(trainer.train_dataset)
    batches = [trainer.data_collator(rows[:4]), trainer.data_collator(rows[4:8])]  # as of two processes
    ratios = [trainer.corrupt(batch, 3, 0.0, micro_batch).ratio for batch in batches for micro_batch in (0, 1)]
    assert all(len(ratio.unique()) == 1 for ratio in ratios)
    assert torch.equal(ratios[0], ratios[2]) and torch.equal(ratios[1], ratios[3])
    assert ratios[0][0] != ratios[1][0]
    exact = make_trainer(tiny_checkpoint, tmp_path).corrupt(batches[0], 3, 0.0)
    assert len(exact.ratio.unique()) == 4


def test_columns_that_are_missing_are_named(tiny_checkpoint, tmp_path):
    dataset = random_trajectories(4).remove_columns(["response_ids", "decode_config"])
    with pytest.raises(
        ValueError, match="train_dataset is not a trajectory dataset: it has no response_ids, decode_config"
    ):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=dataset)


def test_the_canvas_has_the_order_of_the_tail(tiny_checkpoint, tmp_path):
    rows = [row for row in random_rows(16) if len(row["tail_steps"]) >= 4]
    with_tail, without = rows[0], {name: value for name, value in rows[1].items() if name != "tail_steps"}
    for row, max_new_tokens in ((with_tail, 24), (with_tail, 20), (with_tail, 30), (without, 24)):
        dataset = Dataset.from_list([row])
        trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=dataset, max_new_tokens=max_new_tokens)
        (steps,) = trainer.data_collator(list(trainer.train_dataset))["commit_steps"].tolist()
        expected = row["commit_steps"] + row.get("tail_steps", [])
        assert steps == (expected + expected[-1:] * 30)[:max_new_tokens]


def test_rows_that_do_not_fit_are_left_out_and_counted(tiny_checkpoint, tmp_path, caplog):
    rows = random_trajectories(16)
    lengths = [len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows]
    fitting = [length <= 19 for length in lengths]
    assert 0 < sum(fitting) < 16 and 19 in lengths  # which just fits
    with caplog.at_level("WARNING", logger="d3llm"):
        trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=rows, max_length=19)
    assert list(trainer.train_dataset["id"]) == [row["id"] for row, fits in zip(rows, fitting, strict=True) if fits]
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert (batch["attention_mask"].sum(dim=1) <= 19).all()
    assert "has no trajectory left" in refusal(tiny_checkpoint, tmp_path, random_rows(4), max_length=3)
    with pytest.raises(ValueError, match="has no rows"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=random_trajectories(4).select([]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "blocks"}, "`corruption` is 'blocks': expected 'trajectory', 'block', 'state' or 'random'"),
        ({"max_mask_ratio": 1.5}, "`max_mask_ratio` is 1.5: expected less than or equal to 1"),
        ({"window_sizes": [0]}, r"`window_sizes`\[0\] is 0"),
        ({"filled_tail_share": 2.0}, "`filled_tail_share`"),
        ({"entropy_temperature": 0.0}, "`entropy_temperature`"),
        ({"kl_weight": 1.0}, "use `layout='single'`"),
        ({"loss_weighting": "inverse_ratio"}, "needs `corruption='random'`"),
        ({"masking": "reference", "corruption": "random"}, "does not work with"),
        ({"masking": "reference", "corruption": "state"}, "does not work with `corruption='state'`"),
        ({"masking": "reference", "full_mask_share": 0.1}, "`full_mask_share` is not in the published code"),
        ({"masking": "reference", "filled_tail_share": 0.3}, "`filled_tail_share` is not in the published code"),
        ({"corruption": "state", "filled_tail_share": 0.3}, "about windows, which `corruption='state'` does not have"),
        ({"corruption": "random", "filled_tail_share": 0.3}, "about windows, which `corruption='random'` does not"),
        ({"full_mask_share": 1.5}, "`full_mask_share` is 1.5"),
        ({"next_commits": 8, "entropy_weight": 0.0}, "whose `entropy_weight` and `order_weight` are 0"),
        ({"next_commits": 0}, "`next_commits` is 0"),
        ({"order_weight": 1.0}, "in one view: use `layout='single'`"),
        ({"order_weight": -1.0}, "`order_weight` is -1.0"),
        ({"mask_noise": 0.05, "corruption": "block"}, "`mask_noise` is for exceptions to an order"),
        ({"mask_noise": 1.5}, "`mask_noise` is 1.5"),
    ],
)
def test_config_refuses_what_cannot_be(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        PseudoTrajectoryConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **options)
