"""What a recipe and a prompt may hold: wrong values take one line, whatever they are."""

import math
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest
from peft import LoraConfig
from transformers import AutoTokenizer

from d3llm.common.yaml_files import read_yaml
from d3llm.evaluation import encode_prompt, prompts
from d3llm.modeling.loading import load_empty_model
from d3llm.trainers.adapters import add_adapter
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import HeldOutPrompts
from d3llm.trajectories.prompt_rows import load_rows
from tests.helpers.commands import run_fails
from tests.helpers.trajectory_rows import make_trainer, random_trajectories


ODD = [None, "x", "", -1, 0, 1.5, math.nan, math.inf, 2**70, [], {}, [0], ["x"], True, object()]
FIELDS = sorted(field.name for field in fields(PseudoTrajectoryConfig) if field.init)


@pytest.mark.parametrize("name", FIELDS)
def test_an_odd_value_constructs_or_is_refused_in_one_line(name, tmp_path):
    for value in ODD:
        try:
            PseudoTrajectoryConfig(**{"output_dir": str(tmp_path), "report_to": "none", name: value})
        except ValueError as error:
            assert len(str(error)) < 400 and "\n" not in str(error).strip(), (value, error)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"max_steps": 1.5}, "`max_steps` is 1.5"),
        ({"max_steps": 0}, "`max_steps` is 0"),
        ({"max_steps": -5}, "`max_steps` is -5"),
        ({"num_train_epochs": -1}, "`num_train_epochs` is -1"),
        ({"per_device_train_batch_size": None}, "`per_device_train_batch_size` is None"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` is 0"),
        ({"learning_rate": math.inf}, "`learning_rate` is inf"),
        ({"weight_decay": -1}, "`weight_decay` is -1"),
        ({"weight_decay": math.nan}, "`weight_decay` is nan"),
        ({"max_grad_norm": -1}, "`max_grad_norm` is -1"),
        ({"save_steps": 0}, "`save_steps` is 0"),
        ({"seed": 2**70}, "`seed` is 1180591620717411303424"),
        ({"window_sizes": "text"}, "`window_sizes` is 'text': expected a valid list"),
        ({"window_sizes": 16}, "`window_sizes` is 16"),
        ({"window_sizes": [1.5]}, "`window_sizes`[0] is 1.5"),
        ({"window_sizes": [2**70]}, "`window_sizes`[0] is 1180591620717411303424"),
        ({"eos_tail": 2**70}, "`eos_tail` is 1180591620717411303424"),
        ({"loss_scale": -1}, "`loss_scale` is -1"),
        ({"near_forwards": -1}, "`near_forwards` is -1"),
        ({"max_length": 0}, "`max_length` is 0"),
        ({"length_column_name": "size"}, "`length_column_name` is 'size': it is not supported here, omit it"),
        ({"max_new_tokens": 0}, "`max_new_tokens` is 0"),
        ({"load_best_model_at_end": True}, "give an `eval_strategy`"),
        ({"deepspeed": "nowhere.json"}, "`deepspeed` is 'nowhere.json'"),
        ({"fp16": True, "use_cpu": True}, "`fp16` is for GPUs"),
        ({"report_to": "nope"}, "`report_to` names 'nope': there is no such name."),
        ({"report_to": ["tensorbord"]}, "(did you mean `tensorboard`?)"),
        (
            {"lr_scheduler_kwargs": {"a": 1}},
            "`lr_scheduler_kwargs` {'a': 1} do not fit `lr_scheduler_type` 'linear'",
        ),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "'num_decay_steps'"),
        ({"accelerator_config": {"a": 1}}, "`accelerator_config`['a'] is 1: there is no such name."),
        ({"accelerator_config": '{"a": 1}'}, "its ['a'] is 1: there is no such name."),
        ({"accelerator_config": {"split_batches": "x"}}, "['split_batches'] is 'x'"),
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 0}}}, "['num_steps'] is 0"),
        ({"torch_compile_mode": "nope"}, "`torch_compile_mode` is 'nope'"),
        ({"dataloader_num_workers": 99999}, "`dataloader_num_workers` is 99999"),
        ({"debug": ["nope"]}, "expected 'underflow_overflow'"),
    ],
)
def test_a_value_out_of_its_range_is_named(values, named, tmp_path):
    with pytest.raises(ValueError, match=re.escape(named)):
        PseudoTrajectoryConfig(**{"output_dir": str(tmp_path), "report_to": "none", **values})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[1, 2]", "expected names with values"),
        ("seed: [", "not YAML"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
                for before, name in zip("abcdefg", "bcdefgh", strict=True)
            ),
            "more than 10000 values",
        ),
        ("[" * 1000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_recipe(text, named, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        read_yaml(file)
    assert len(str(error.value)) < 500


def test_a_plan_that_is_not_there(capsys, tmp_path):
    said = run_fails(capsys, "quickstart", "compare", "--plan", "nowhere.yaml", "--output", tmp_path / "out")
    assert "There is no plan nowhere.yaml: give the path of a YAML file, or one of comparison, recipes." in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].content.index('nowhere') }}",
        "{{ messages[5].content }}",
        "{{ raise_exception('no system prompt') }}",
        "{% if",
    ],
)
def test_a_chat_template_that_cannot_be_filled_in(template, tiny_checkpoint, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 0.5)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="chat template") as error:
        encode_prompt(tokenizer, "one", chat=True)
    assert "\n" not in str(error.value)


def test_a_chat_template_that_does_not_end_is_stopped(tiny_checkpoint, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 0.5)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(ValueError, match=r"did not end within 0\.5 seconds"):
        encode_prompt(tokenizer, "one", chat=True)


def test_a_timer_of_the_caller_goes_on(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    rings = []
    before = signal.signal(signal.SIGALRM, lambda *_: rings.append(time.monotonic()))
    try:
        for delay in (5.0, 50.0):  # sooner and later than the limit of a template
            signal.setitimer(signal.ITIMER_REAL, delay, 7.0)
            encode_prompt(tokenizer, "one", chat=True)
            left, interval = signal.getitimer(signal.ITIMER_REAL)
            assert delay - 1 < left <= delay and interval == 7.0
        tokenizer.chat_template = "{% for i in range(90000) %}{% for j in range(60) %}{% endfor %}{% endfor %}one"
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        encode_prompt(tokenizer, "one", chat=True)
        assert rings[0] - began < (time.monotonic() - began) / 2  # while the template is filled in, not afterwards
        assert len(rings) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_template_is_filled_in_by_any_thread_and_without_timers(tiny_checkpoint, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    expected = encode_prompt(tokenizer, "one", chat=True)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(encode_prompt, tokenizer, "one", chat=True).result() == expected
    monkeypatch.delattr(signal, "setitimer")
    assert encode_prompt(tokenizer, "one", chat=True) == expected


@pytest.mark.parametrize("name", ["nowhere.jsonl", "a/nowhere.parquet", "./nowhere", "/nowhere", "a/b/c", "~/x", "x/"])
def test_a_dataset_that_is_not_on_disk_is_not_looked_for_on_the_hub(capsys, monkeypatch, tiny_checkpoint, name):
    monkeypatch.setattr("d3llm.trajectories.dataset.load_dataset", None)
    monkeypatch.setattr("d3llm.trajectories.prompt_rows.load_dataset", None)
    training = ["distill", "--model_name_or_path", tiny_checkpoint, "--report_to", "none", "--output_dir", "nowhere"]
    assert f"There is no file or folder {name}." in run_fails(capsys, *training, "--trajectories", name)
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        load_rows(name, None, "train")


@pytest.mark.parametrize("chat", [True, False])
def test_half_of_a_surrogate_pair_is_no_text(tiny_checkpoint, chat):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    with pytest.raises(ValueError, match="surrogate"):
        encode_prompt(tokenizer, "one \udcff", chat=chat)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            "--lora_target_modules nope",
            "No layer of the 'llada' model is called nope: `target_modules` may name q_proj",
        ),
        ("--lora_target_modules q_proj wup", "is called wup: `target_modules`"),
        ("--lora_target_modules .*_prok", "is called .*_prok: `target_modules`"),
        ("--lora_target_modules (", "`target_modules` is '(', which is not a pattern"),
        ("--lora_modules_to_save wte nope", "is called nope: `modules_to_save` may name wte, "),
        ("--lora_target_parameters nope", "is called nope: `target_parameters` may name wte.weight, "),
        ("--lora_task_type nope", "Invalid task type: 'nope'"),
        ("--attn_implementation nope", '`attn_implementation="nope"` is not supported'),
        ("--attn_implementation flash_attention_2", "'flash_attention_2' needs a package that is not installed here"),
        ("--attn_implementation kernels-community/flash-attn", "kernels-community/flash-attn' needs a package"),
        ("--trajectories=", "`trajectories` is '': "),
        ('--model_init_kwargs {"attn_implementation":3}', "attn_implementation=3 is not a name"),
    ],
)
def test_what_does_not_go_with_the_student_is_said_before_data_are_read(
    capsys, monkeypatch, tiny_checkpoint, tmp_path, options, named
):
    monkeypatch.setattr("d3llm.trainers.distill.read_rows", None)
    common = ["distill", "--use_cpu", "--report_to", "none", "--use_peft", "--trajectories", "anything"]
    common += ["--model_name_or_path", tiny_checkpoint, "--output_dir", tmp_path / "out"]
    assert named in run_fails(capsys, *common, *options.split())


@pytest.mark.parametrize(
    ("options", "metric", "taken"),
    [
        ({}, "nope", False),
        ({}, "loss", True),
        ({}, "eval_certainty", True),
        ({}, "divergence", False),
        ({}, "accuracy", False),
        ({"layout": "single"}, "complementary_cross_entropy", False),
        ({"named": True}, "loss", False),
        ({"named": True}, "eval_second_loss", True),
        ({"held_out": HeldOutPrompts([[3]], lambda index, text: True)}, "accuracy", True),
        ({"compute_metrics": lambda prediction: {"mine": 1.0}}, "mine", True),
    ],
)
def test_the_metric_of_the_best_model_is_one_that_there_is(tiny_checkpoint, tmp_path, options, metric, taken):
    rows = random_trajectories(4)
    data = {"first": rows, "second": rows} if options.get("named") else rows
    options = {name: value for name, value in options.items() if name != "named"}
    options |= {"eval_dataset": data, "eval_strategy": "steps", "metric_for_best_model": metric}
    if "held_out" in options:
        options["processing_class"] = AutoTokenizer.from_pretrained(tiny_checkpoint)
    if taken:
        trainer = make_trainer(tiny_checkpoint, tmp_path, **options)
        assert f"eval_{metric.removeprefix('eval_')}" in trainer.evaluate()
        return
    with pytest.raises(
        ValueError, match=f"`metric_for_best_model` is '{metric}', which is not a metric of the evaluation"
    ):
        make_trainer(tiny_checkpoint, tmp_path, **options)


def test_one_name_of_layers_is_a_name(tiny_checkpoint):
    """TRL makes a text of it, and PEFT takes a text for a pattern of whole paths."""
    adapted = add_adapter(load_empty_model(str(tiny_checkpoint)), LoraConfig(target_modules="q_proj"))
    wrapped = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in adapted.named_modules() if ".lora_A." in name}
    assert wrapped == {"q_proj"}
    add_adapter(load_empty_model(str(tiny_checkpoint)), LoraConfig(modules_to_save=["blocks.0"]))
