"""Reinforcement learning end to end on tiny models: states, gradient, what is learned, resumption, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoTokenizer

from d3llm.commands.main import main
from d3llm.modeling import LLaDAModelLM, SDARForCausalLM
from d3llm.trainers.distill import last_checkpoint, parse_arguments, trainer_of
from d3llm.trainers.distill_rl import RLArguments, rewards_for, rl_plan
from d3llm.trainers.lightning_rl import LightningRLTrainer
from d3llm.trainers.lightning_rl_config import LightningRLConfig
from d3llm.trainers.rewards import Speed
from d3llm.trainers.rollouts import (
    NEVER,
    Rollouts,
    RolloutSampler,
    batch_of_states,
    choose_states,
    seeds_of,
)
from tests.helpers.forks import fork_ranks
from tests.helpers.models import OF_WORDS, VOCABULARY, tiny_model


MASK, EOS = 1, 0
PROMPTS = ["one plus two is", "three plus", "nine", "four is five", "six", "one one", "two", "is is zero"]


def parity(*, completion_ids, wanted, **others) -> list[float]:
    """1 if the first token is even or odd, as wanted."""
    return [float(tokens[0] % 2 == want) for tokens, want in zip(completion_ids, wanted, strict=True)]


def problems() -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS, "wanted": [0, 1] * 4})


def make(folder: Path | str, output: Path, **options: Any) -> LightningRLTrainer:
    """A trainer of steps with two prompts, rolled out four times each in micro-batches of four."""
    names = ("model", "reward_funcs", "train_dataset", "peft_config", "processing_class")
    given = {"model": str(folder), "reward_funcs": [parity, Speed()], "train_dataset": problems()}
    given |= {name: options.pop(name) for name in names if name in options}
    options = {
        "max_steps": 4,
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_new_tokens": 12,
        "generation_kwargs": {"preset": "d3llm", "block_size": 4, "threshold": 1.0},
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return LightningRLTrainer(args=LightningRLConfig(str(output), **options), **given)


def rows_of(trainer: LightningRLTrainer) -> list[dict[str, Any]]:
    sampler = iter(trainer._get_train_sampler())
    return [trainer.train_dataset[next(sampler)] for _ in range(8)]


def weights(trainer: LightningRLTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def test_the_order_of_rollouts_is_a_function_of_seed_and_step():
    step = 0

    def order(seed: int = 3, prompts: int = 7) -> torch.Tensor:
        sampler = RolloutSampler(prompts, 2, 3, 2, seed, lambda: step)
        numbers = list(sampler)
        assert len(numbers) == len(sampler) == 24
        return torch.tensor(numbers).view(2, 2, 3, 2)  # rounds, repeats, prompts, copies

    first = order()
    assert torch.equal(first[:, 0], first[:, 1])
    assert (first[..., 1] == first[..., 0] + 1).all() and (first[..., 0] % 2 == 0).all()
    assert len(first[:, 0].unique()) == 12
    step = 3
    assert torch.equal(order(), first)  # the same epoch
    step = 4
    assert not torch.equal(order(), first)
    assert not torch.equal(order(seed=4), first)


def test_seeds_depend_on_run_round_and_rollout_alone():
    index = torch.arange(1000)
    seeds = seeds_of(5, 2, index)
    assert len(set(seeds)) == 1000 and min(seeds) >= 0 and max(seeds) < 2**62
    assert seeds_of(5, 2, index[[7, 3]]) == [seeds[7], seeds[3]]
    assert not set(seeds) & set(seeds_of(5, 3, index)) and not set(seeds) & set(seeds_of(6, 2, index))


def hand_made() -> Rollouts:
    """
    Two rollouts, of prompts of two and three tokens, with regions of five positions. After its second forward, the
    first is ended by its EOS, which replaces what the first forward had committed after it.
    """
    return Rollouts(
        index=torch.tensor([4, 9]),
        input_ids=torch.tensor([[0, 5, 6, 7, 8, 9, EOS, EOS], [5, 6, 7, 10, 11, 12, 13, 14]]),
        attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1] * 8]),
        commit_steps=torch.tensor([[2, 1, 3, 1, 1], [1, 1, 2, 4, 4]]),
        committed_ids=torch.tensor([[7, 8, 9, EOS, 15], [10, 11, 12, 13, 14]]),
        replaced=torch.tensor([[NEVER] * 4 + [2], [NEVER] * 5]),
        in_response=torch.tensor([[True] * 4 + [False], [True] * 5]),
        advantages=torch.tensor([1.5, -0.5]),
        kept=torch.ones(2, dtype=torch.bool),
        right=torch.tensor([True, False]),
        old_log_p=torch.zeros(2, 5),
    )


def test_a_state_shows_what_was_committed_before_its_forward():
    states = choose_states(hand_made(), None, seed=0, number=0)
    assert list(zip(states.rollout.tolist(), states.forward.tolist(), strict=True)) == [
        *((0, 1), (0, 2), (0, 3)),
        *((1, 1), (1, 2), (1, 4)),
    ]
    batch = batch_of_states(hand_made(), states, MASK)
    assert batch["input_ids"].tolist() == [
        [0, 5, 6, *[MASK] * 5],
        [0, 5, 6, MASK, 8, MASK, EOS, 15],
        [0, 5, 6, 7, 8, MASK, EOS, EOS],
        [5, 6, 7, *[MASK] * 5],
        [5, 6, 7, 10, 11, MASK, MASK, MASK],
        [5, 6, 7, 10, 11, 12, MASK, MASK],
    ]
    assert batch["labels"].tolist() == [8, EOS, 7, 9, 10, 11, 12, 13, 14]
    assert batch["picked"].tolist() == [[0, 0, 1, 2, 3, 3, 4, 5, 5], [4, 6, 3, 5, 3, 4, 5, 6, 7]]
    torch.testing.assert_close(batch["in_policy"], torch.tensor([0.25] * 4 + [0.2] * 5))


def test_drawn_states_stand_for_all_of_them():
    rollouts = hand_made()
    total, rounds = torch.zeros(2, 5), 300
    for number in range(rounds):
        states = choose_states(rollouts, 2, seed=1, number=number)
        assert states.rollout.tolist() == [0, 0, 1, 1]
        batch = batch_of_states(rollouts, states, MASK)
        total[batch["rollout"], batch["position"]] += batch["in_tokens"]
    torch.testing.assert_close(total / rounds, rollouts.in_response.float(), atol=0.15, rtol=0)
    rollouts.kept[0] = False
    assert choose_states(rollouts, 2, seed=1, number=0).rollout.tolist() == [1, 1]
    parts = choose_states(rollouts, 2, seed=1, number=0, at_least=3).parts(3)
    assert [part.rollout.tolist() for part in parts] == [[1], [1], [0]]
    assert batch_of_states(rollouts, parts[2], MASK)["in_policy"].sum() == 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_the_formula_written_out(temperature, tiny_checkpoint, tmp_path):
    options = {"num_iterations": 2, "beta": 0.3, "nll_weight": 0.4, "epsilon": 0.1, "temperature": temperature}
    trainer = make(tiny_checkpoint, tmp_path, **options)
    with torch.no_grad():  # a policy that is no longer the reference
        for parameter in trainer.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    rollouts = hand_made()
    rollouts.old_log_p = -2.5 + 0.2 * torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    trainer.state.global_step = 1  # the second step on these rollouts
    batch = batch_of_states(rollouts, choose_states(rollouts, None, seed=0, number=0), MASK)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    found = [parameter.grad.clone() for parameter in trainer.model.parameters()]

    def log_p_of(model: torch.nn.Module, row: int, forward: int) -> torch.Tensor:
        tokens = rollouts.input_ids[row : row + 1].clone()
        if (row, forward) == (0, 2):
            tokens[0, -1] = 15  # which its EOS has not replaced yet
        tokens[:, 3:][:, rollouts.commit_steps[row] >= forward] = MASK
        logits = model(tokens, attention_mask=rollouts.attention_mask[row : row + 1]).logits[0, 3:] / temperature
        return logits.log_softmax(-1).gather(1, rollouts.input_ids[row, 3:, None])[:, 0]

    trainer.model.zero_grad()
    policy, divergence, nll, outside = torch.zeros(()), torch.zeros(()), torch.zeros(()), 0
    for row, forwards in enumerate([(1, 2, 3), (1, 2, 4)]):
        length = int(rollouts.in_response[row].sum())
        for forward in forwards:
            log_p = log_p_of(trainer.model, row, forward)
            with torch.no_grad():
                reference = log_p_of(trainer.reference, row, forward)
            for place in range(length):
                if rollouts.commit_steps[row, place] != forward:
                    continue
                ratio = (log_p[place] - rollouts.old_log_p[row, place]).exp()
                advantage = rollouts.advantages[row]
                outside += not 0.9 <= ratio <= 1.1
                policy = policy - torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage) / length / 2
                difference = reference[place] - log_p[place]
                divergence = divergence + (difference.exp() - difference - 1) / 9
                nll = nll - log_p[place] * rollouts.right[row] / 4
    assert outside  # the clip is a part of the case
    expected = policy + 0.3 * divergence + 0.4 * nll
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for gradient, parameter in zip(found, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-4)


CASES = [
    (LLaDAModelLM, {"preset": "d3llm", "block_size": 4, "threshold": 1.0, "cache": "none"}),
    (SDARForCausalLM, {"preset": "sdar", "block_size": 4, "threshold": 0.3}),
]


@pytest.mark.parametrize(("family", "decoding"), CASES)
def test_the_states_are_those_in_which_the_decoder_drew_the_tokens(family, decoding, tiny_checkpoint, tmp_path):
    fields = {"kv_heads": 1} if family is SDARForCausalLM else {"kv_heads": None}
    model = tiny_model(family, **OF_WORDS, **fields, positions=128)
    with torch.no_grad():
        model.get_output_embeddings().weight[1:2] -= 5.0 * model.get_output_embeddings().weight[1:2]
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    trainer = make("", tmp_path, model=model, processing_class=tokenizer, generation_kwargs=decoding, num_iterations=2)
    rollouts = trainer.rollouts = trainer.roll_out(rows_of(trainer), 0)
    rollouts.kept[:] = True
    states = choose_states(rollouts, None, seed=0, number=0)
    trainer.compute_loss(trainer.model, trainer._with_blocks(batch_of_states(rollouts, states, MASK)))
    model.eval()
    width = rollouts.input_ids.shape[1] - 12
    for row, seed in enumerate(seeds_of(42, 0, rollouts.index)):
        prompt = rollouts.input_ids[row : row + 1, :width][:, rollouts.attention_mask[row, :width] > 0]
        options = {**decoding, "max_new_tokens": 12, "temperature": 1.0, "seed": seed}
        output = model.generate(prompt, output_logprobs=True, return_dict_in_generate=True, **options)
        inside = rollouts.in_response[row]
        assert torch.equal(output.sequences[0, -12:][inside], rollouts.input_ids[row, width:][inside])
        torch.testing.assert_close(rollouts.old_log_p[row][inside], output.logprobs[0][inside], atol=1e-4, rtol=1e-4)


def test_it_learns_what_is_rewarded(tiny_checkpoint, tmp_path):
    options = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "num_generations": 8}
    options |= {"max_steps": 24, "learning_rate": 1e-2, "states_per_rollout": 2, "num_iterations": 2, "beta": 0.0}
    prompts = Dataset.from_dict({"prompt": PROMPTS, "wanted": [0] * 8})
    trainer = make(tiny_checkpoint, tmp_path, train_dataset=prompts, nll_weight=0.0, min_tpf_range=0.0, **options)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "rewards/parity" in entry]
    right, speed = ([entry[f"rewards/{name}"] for entry in log] for name in ("parity", "tokens_per_forward"))
    assert sum(right[-3:]) > sum(right[:3]) + 0.6
    assert sum(speed[-3:]) > sum(speed[:3])
    assert any(entry.get("clip_ratio", 0) > 0 for entry in trainer.state.log_history)


def test_prompts_may_be_in_tensors(tiny_checkpoint, tmp_path):
    prompts = Dataset.from_dict({"prompt_ids": [[3, 4], [5]] * 4})
    trainers = [make(tiny_checkpoint, tmp_path, train_dataset=prompts.with_format(kind)) for kind in ("torch", None)]
    assert rows_of(trainers[0]) == rows_of(trainers[1])


def test_micro_batches_change_nothing(tiny_checkpoint, tmp_path):
    found = []
    for micro_batches in (1, 4):
        options = {"per_device_train_batch_size": 8 // micro_batches, "gradient_accumulation_steps": micro_batches}
        trainer = make(tiny_checkpoint, tmp_path, max_steps=1, optim="sgd", max_grad_norm=0.0, **options)
        trainer.train()
        found.append((trainer.state.log_history[0], weights(trainer)))
    for log, after in found[1:]:
        assert log["nll"] == pytest.approx(found[0][0]["nll"], rel=1e-5)
        for name, value in found[0][1].items():
            torch.testing.assert_close(after[name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("adapters", [None, pytest.param(LoraConfig(r=4), marks=pytest.mark.slow)])
def test_a_resumed_run_gives_the_same_bits(adapters, tiny_checkpoint, tmp_path):
    """Also from a checkpoint between two steps on the same rollouts, in the second epoch, and after the last step."""
    options = {"max_steps": 6, "num_iterations": 2, "states_per_rollout": 3, "peft_config": adapters}
    options |= {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2, "min_tpf_range": 0.0}
    options["train_dataset"] = problems().select(range(4))  # an epoch of 4 steps
    whole = make(tiny_checkpoint, tmp_path / "whole", **options)
    whole.train()
    for step in (6, 4, 5):
        again = make(tiny_checkpoint, tmp_path / f"from-{step}", **options)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for name, value in weights(whole).items():
            assert torch.equal(value, weights(again)[name]), (step, name)
        assert again.state.global_step == 6
        assert torch.equal(again.constant_rewards.rounds, whole.constant_rewards.rounds)
    logged = [entry["rewards/parity"] for entry in whole.state.log_history if "rewards/parity" in entry]
    assert len(logged) == 3
    assert not torch.equal(again.rollouts.advantages, torch.zeros(8))  # the step had something to learn from
    file, between = (tmp_path / "whole" / f"checkpoint-{step}" / "rollouts-0.safetensors" for step in (5, 4))
    assert "old_log_p" in load_file(file) and "old_log_p" not in load_file(between)
    file.unlink()
    with pytest.raises(ValueError, match="Step 5 trains on rollouts of an earlier step"):
        make(tiny_checkpoint, tmp_path / "lost", **options).train(resume_from_checkpoint=str(file.parent))


def test_a_constant_reward_ends_the_run_also_across_a_kill(tiny_checkpoint, tmp_path):
    def always(**rollouts):
        return [1.0] * len(rollouts["forwards"])

    options = {"reward_funcs": [always, Speed()], "max_constant_rounds": 3, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(ValueError, match="`always` was 1 for every rollout of the last 3 rounds") as caught:
        make(tiny_checkpoint, tmp_path, **options).train()
    assert "\n" not in str(caught.value)
    again = make(tiny_checkpoint, tmp_path / "again", **options)
    with pytest.raises(ValueError, match="of the last 3 rounds"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 2


def test_adapters_are_trained_and_the_reference_is_the_model_without_them(tiny_checkpoint, tmp_path):
    trainer = make(tiny_checkpoint, tmp_path, peft_config=LoraConfig(r=4), learning_rate=1e-2)
    assert trainer.reference is None
    before = weights(trainer)
    trainer.train()
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    divergence = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert divergence[0] == 0 and divergence[-1] > 0


def test_bad_settings_end_in_one_line(tiny_checkpoint, tmp_path):
    for options, message in (
        ({"num_generations": 1}, "`num_generations` is 1"),
        ({"neftune_noise_alpha": 5.0}, "noise on the embeddings of every forward"),
        ({"num_generations": 3}, "8 rollouts .* not a multiple of `num_generations`, 3"),
        ({"auto_find_batch_size": True}, "would divide the rollouts of a prompt among steps"),
        ({"temperature": 0.0}, "`temperature` is 0"),
        ({"reward_weights": [1.0]}, r"1 numbers for 2 rewards \(parity, tokens_per_forward\)"),
        ({"generation_kwargs": {"temperature": 0.5}}, "has 'temperature': omit it there"),
        ({"generation_kwargs": {"top_k": 5}}, "has 'top_k': omit it there, the policy is over"),
        ({"generation_kwargs": {"early_stop": False}}, "`early_stop`=False, .* it must be True"),
        ({"generation_kwargs": {"soft_inputs": True, "score": "probability"}}, "`soft_inputs`=True, .* must be False"),
        ({"generation_kwargs": {"attention": "block_causal"}}, "has 'attention': omit it there"),
        ({"generation_kwargs": {"eos_token_id": [0, 2]}}, "has 'eos_token_id': omit it there"),
        ({"generation_kwargs": {"output_history": True}}, "has 'output_history': omit it there"),
        ({"generation_kwargs": {"preset": "self_speculative"}}, "`draft_states`=.*must be 1|cannot be decoded"),
        ({"generation_kwargs": {"preset": "nothing"}}, "Rollouts cannot be decoded"),
        ({"max_new_tokens": 128}, "exceed the 128 positions|leaves no room for a prompt"),
        ({"max_length": 12}, "leaves no room for a prompt"),
        ({"per_device_train_batch_size": 64}, "There are 8 prompts, and a step takes 32"),
        ({"train_dataset": Dataset.from_dict({"question": ["one"]})}, "no `prompt`, only question"),
        ({"train_dataset": problems().to_iterable_dataset()}, "`train_dataset` is a IterableDataset: expected one"),
        ({"reward_funcs": []}, "Which rewards"),
        (
            {"train_dataset": Dataset.from_dict({"prompt_ids": [[3], []]})},
            "prompt of row 1 cannot be used: it is empty",
        ),
        ({"train_dataset": Dataset.from_dict({"prompt_ids": [[3, 99]]})}, "row 0 .* the vocabulary has 16 tokens"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            make(tiny_checkpoint, tmp_path, **options)
        assert "\n" not in str(caught.value), options


@pytest.fixture
def command(tiny_checkpoint, tmp_path) -> list[str]:
    words = dict(enumerate(VOCABULARY))
    rows = [{"question": text, "reply": f"{number} {words[5]}"} for number, text in enumerate(PROMPTS)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--config", "lightning_rl", "--model_name_or_path", tiny_checkpoint, "--max_new_tokens", 12]
    options += ["--prompts", tmp_path / "problems.jsonl", "--prompt_column", "question", "--answer_column", "reply"]
    options += ["--output_dir", tmp_path / "out", "--num_generations", 4, "--per_device_train_batch_size", 4]
    options += ["--gradient_accumulation_steps", 2, "--max_steps", 4, "--save_steps", 2, "--logging_steps", 1]
    options += ["--generation_kwargs", '{"preset": "d3llm", "block_size": 4, "threshold": 1.0}']
    options += ["--drop_all_wrong", "false", "--max_constant_rounds", "null", "--learning_rate", 1e-2]
    return ["distill", *map(str, options), "--use_cpu", "--report_to", "none", "--disable_tqdm", "true"]


def test_the_command_trains_resumes_and_says_what_differs(command, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(command) == 0
    saved = load_file(output / "model.safetensors")
    plan = json.loads((output / "training_plan.json").read_text())
    assert plan["num_generations"] == 4 and plan["check"] == "number" and plan["reward_speed_of"] == "all"
    facts = json.loads((output / "model_facts.json").read_text())
    assert facts["recipe"] == "lightning_rl" and facts["dataset"] == "problems.jsonl"
    assert facts["hyperparameters"]["num_generations"] == 4
    assert main(command) == 2
    assert "holds a run: resume it (--resume)" in capsys.readouterr().err
    (output / "checkpoint-4" / "trainer_state.json").write_text('{"log_his')  # killed while it was written
    (output / "model.safetensors").unlink()
    assert last_checkpoint(str(output)) == output / "checkpoint-2"
    assert main([*command, "--resume", "--beta", "0.5"]) == 2
    assert "beta was 0.01, is 0.5" in capsys.readouterr().err
    assert main([*command, "--resume", "--reward_speed_of", "right"]) == 2
    assert 'reward_speed_of was "all", is "right"' in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    again = load_file(output / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in saved.items())


def test_the_command_stops_and_says_why(command, tmp_path, capsys):
    for options, message in (
        (["--max_constant_rounds", "2"], "`correctness` was 0 for every rollout of the last 2 rounds"),
        (["--check", "code"], "allow it with --allow_code_execution"),
        (["--answer_column", "answer"], "has no column 'answer', only question, reply"),
        (["--eval_strategy", "steps"], "no evaluations in this training"),
        (["--trajectories", "x"], "Unknown: --trajectories x"),
        (["--prompts", str(tmp_path / "none.jsonl")], "There is no file or folder"),
    ):
        assert main([*command, "--output_dir", str(tmp_path / "stopped"), *options]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
    (tmp_path / "odd.yaml").write_text("trainer: nobody\n")
    assert main(["distill", "--config", str(tmp_path / "odd.yaml")]) == 2
    assert "has the trainer 'nobody': expected one of pseudo_trajectory" in capsys.readouterr().err


def test_the_command_saves_adapters_merged(command, tmp_path):
    assert main([*command, "--use_peft", "--lora_r", "4", "--max_steps", "1"]) == 0
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    model = LLaDAModelLM.from_pretrained(tmp_path / "out" / "merged")
    assert model.generate(torch.tensor([[3, 4]]), max_new_tokens=8).shape == (1, 10)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_share_the_groups_of_a_step(command, tmp_path):
    two = [*command, "--output_dir", str(tmp_path / "two"), "--gradient_accumulation_steps", "1", "--max_steps", "2"]
    ended = [rank.wait() for rank in fork_ranks(main, two)]
    assert [done.returncode for done in ended] == [0, 0], "\n".join(done.stderr for done in ended)
    assert main([*command, "--max_steps", "2"]) == 0
    logs = [json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("two", "out")]
    for name in ("loss", "nll", "kl", "rewards/tokens_per_forward", "completion_length", "share_kept"):
        found, expected = ([entry[name] for entry in log if name in entry] for log in logs)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_the_recipe_has_the_published_values():
    line = ["--config", "lightning_rl", "--output_dir", "out", "--use_cpu", "--report_to", "none"]
    assert trainer_of(line) == "lightning_rl"
    arguments, args, model_args = parse_arguments(line, RLArguments, LightningRLConfig)
    published = {
        "num_generations": 32,
        "temperature": 1.0,
        "generation_kwargs": {"preset": "sdar", "threshold": 0.9, "block_size": 32},
        "epsilon": 0.2,
        "epsilon_high": None,
        "beta": 0.01,
        "nll_weight": 0.1,
        "min_tpf_range": 0.01,
        "drop_all_wrong": True,
        "normalize_advantages": True,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 10,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_steps": 80 * 8,
        "rollouts_per_step": 512 // 8,  # on one of 8 GPUs
    }
    assert {name: getattr(args, name) for name in published} == published
    model = tiny_model(LLaDAModelLM, **OF_WORDS, kv_heads=None)
    plan = rl_plan(args, arguments, model_args, model, "digest")
    own = set(LightningRLConfig.__annotations__)
    missing = {"activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"}
    missing |= {"ddp_find_unused_parameters", "logging_nan_inf_filter", "model_init_kwargs", "max_constant_rounds"}
    assert own - plan.keys() == missing and "weight_decay" in plan
    assert [type(reward).__name__ for reward in rewards_for(arguments)] == ["Correctness", "Speed"]
