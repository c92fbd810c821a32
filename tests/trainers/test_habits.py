"""What users of TRL's trainers do by habit, in the order of TRL's own tests: it works, or says why it does not."""

import json
import shutil
import sys
import types
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS
from transformers.trainer_utils import BestRun, HPSearchBackend

from d3llm.hub_cards import ModelFacts, read_facts
from d3llm.hub_cards.push_checks import card_metadata
from d3llm.modeling import LLaDAModelLM
from d3llm.trainers.evaluating_trainer import HeldOutPrompts
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from tests.helpers.trajectory_rows import logged_losses, make_trainer, random_rows, random_trajectories


PLAIN = {"max_steps": 2, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True}


def changed(trainer: PseudoTrajectoryTrainer, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logged(trainer: PseudoTrajectoryTrainer, name: str) -> list[Any]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.fixture(scope="module")
def plain(tiny_checkpoint, tmp_path_factory) -> PseudoTrajectoryTrainer:
    """Trained on eight rows with nothing besides, to compare with."""
    return trained(tiny_checkpoint, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def plain_lora(tiny_checkpoint, tmp_path_factory) -> PseudoTrajectoryTrainer:
    return trained(tiny_checkpoint, tmp_path_factory.mktemp("plain_lora"), peft_config=LoraConfig(r=2))


def trained(checkpoint: Path, output: Path, **options: Any) -> PseudoTrajectoryTrainer:
    trainer = make_trainer(checkpoint, output, **{"train_dataset": random_trajectories(8), **options})
    trainer.train()
    return trainer


# Models and tokenizers


def test_a_model_by_its_name_is_float32_and_brings_its_tokenizer(tiny_checkpoint, tmp_path):
    folder = tmp_path / "bfloat16"
    shutil.copytree(tiny_checkpoint, folder)
    LLaDAModelLM.from_pretrained(tiny_checkpoint, dtype="bfloat16").save_pretrained(folder)
    trainer = make_trainer(tiny_checkpoint, tmp_path, model=str(folder))
    assert isinstance(trainer.model, LLaDAModelLM)
    assert trainer.model.dtype == torch.float32
    assert trainer.processing_class.get_vocab() == AutoTokenizer.from_pretrained(tiny_checkpoint).get_vocab()
    before = weights(trainer.model)
    trainer.train()
    assert changed(trainer, before)
    trainer.save_model()
    assert (tmp_path / "tokenizer.json").is_file()


def test_model_init_kwargs_are_of_a_model_by_name(tiny_checkpoint, tmp_path, caplog):
    kwargs = {"dtype": "bfloat16", "attn_implementation": "eager"}
    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        model=str(tiny_checkpoint),
        model_init_kwargs=kwargs,
        peft_config=LoraConfig(r=2),
    )
    base = trainer.model.get_base_model()
    assert base.config._attn_implementation == "eager"
    assert base.get_output_embeddings().weight.dtype == torch.bfloat16
    with caplog.at_level("WARNING", logger="d3llm"):
        make_trainer(tiny_checkpoint, tmp_path, model_init_kwargs=kwargs)
    assert "`model_init_kwargs` have no effect: they are for a `model` that is given by its name" in caplog.text


def test_the_default_arguments_are_enough(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = PseudoTrajectoryTrainer(str(tiny_checkpoint), train_dataset=random_trajectories(4))
    assert trainer.args.output_dir == "pseudo-trajectory"
    assert trainer.args.corruption == "trajectory"


def test_plain_training_arguments_are_taken(tiny_checkpoint, tmp_path):
    args = TrainingArguments(str(tmp_path), **PLAIN, learning_rate=3e-3, hub_token="secret")
    trainer = PseudoTrajectoryTrainer(str(tiny_checkpoint), args, random_trajectories(4))
    assert (trainer.args.learning_rate, trainer.args.hub_token) == (3e-3, "secret")
    trainer.train()
    assert trainer.state.global_step == 2


@dataclass
class OtherArguments(TrainingArguments):
    """As those of another trainer."""

    packing: bool = False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: {"output_dir": folder}, "`args` is a dict"),
        (lambda folder: OtherArguments(folder, use_cpu=True), "`args` is a OtherArguments, .* field `packing`"),
    ],
)
def test_arguments_of_another_trainer_are_refused(tiny_checkpoint, tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        PseudoTrajectoryTrainer(str(tiny_checkpoint), make(str(tmp_path)), random_trajectories(4))


def test_another_kind_of_model_is_refused(tmp_path, tiny_checkpoint):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="`model` is a Linear: expected a masked-diffusion model, LLaDA, Dream"):
        make_trainer(tiny_checkpoint, tmp_path, model=model)


def test_a_peft_model_trains_and_takes_no_second_config(tiny_checkpoint, tmp_path):
    from peft import get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(LLaDAModelLM.from_pretrained(tiny_checkpoint), config)
    with pytest.raises(ValueError, match="`peft_config` is for a model without adapters"):
        make_trainer(tiny_checkpoint, tmp_path, model=model, peft_config=config)
    trainer = make_trainer(tiny_checkpoint, tmp_path, model=model)
    before = weights(trainer.model)
    trainer.train()
    assert changed(trainer, before) == {name for name in before if "lora_" in name}


# Datasets


@pytest.mark.parametrize("options", [{}, {"remove_unused_columns": False}])
def test_columns_besides_are_left_out(tiny_checkpoint, tmp_path, plain, options):
    extra = random_trajectories(8).add_column("length", ["long"] * 8).add_column("comment", ["x"] * 8)
    trainer = trained(tiny_checkpoint, tmp_path, train_dataset=extra, **options)
    assert logged_losses(trainer) == logged_losses(plain)


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas"])
@pytest.mark.parametrize("columns", [None, ["prompt_ids", "response_ids"]])
def test_the_format_of_a_dataset_changes_nothing(tiny_checkpoint, tmp_path, plain, kind, columns):
    rows = random_trajectories(8)
    formatted = rows.with_format(kind, columns=columns)
    trainer = trained(tiny_checkpoint, tmp_path, train_dataset=formatted, eval_dataset=formatted)
    assert logged_losses(trainer) == logged_losses(plain)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate(rows)["eval_loss"]


def test_several_eval_datasets_have_a_loss_each(tiny_checkpoint, tmp_path):
    several = {"a": random_trajectories(8, seed=1), "b": random_trajectories(8, seed=2)}
    seen = []

    def check(index: int, text: str) -> bool:
        seen.append(index)
        return index == 0

    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        eval_dataset=DatasetDict(several),
        held_out=HeldOutPrompts(["one plus one", "is"], check),
        eval_generation_kwargs={"max_new_tokens": 8},
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="b_loss",
    )
    trainer.train()
    alone = make_trainer(tiny_checkpoint, tmp_path, model=trainer.model, eval_dataset=several["b"])
    metrics = trainer.evaluate()
    assert metrics["eval_b_loss"] == pytest.approx(alone.evaluate()["eval_loss"])
    assert metrics["eval_a_loss"] != metrics["eval_b_loss"]
    assert {"eval_a_cross_entropy", "eval_b_share_correct"} <= metrics.keys()
    assert not {"eval_loss", "eval_cross_entropy", "eval_a_accuracy"} & metrics.keys()
    assert metrics["eval_accuracy"] == 0.5 and metrics["eval_tokens_per_forward"] > 0
    assert len(seen) == 3 * 2  # three evaluations, of two problems each
    assert len(logged(trainer, "eval_a_loss")) == len(logged(trainer, "eval_accuracy")) == 3
    assert trainer.state.best_metric == min(logged(trainer, "eval_b_loss")[:2])
    only = trainer.evaluate({"c": several["b"]})
    assert only["eval_c_loss"] == metrics["eval_b_loss"] and "eval_a_loss" not in only


def test_an_error_names_the_key_of_an_eval_dataset(tiny_checkpoint, tmp_path):
    several = {"good": random_trajectories(4), "bad": random_trajectories(4, num_forwards=1)}
    with pytest.raises(ValueError, match=r"eval_dataset\['bad'\]: row 'random/\d' has a commit step above"):
        make_trainer(tiny_checkpoint, tmp_path, eval_dataset=several)
    trainer = make_trainer(tiny_checkpoint, tmp_path)
    with pytest.raises(ValueError, match=r"eval_dataset\['bad'\]: row"):
        trainer.evaluate(several)


def test_an_iterable_dataset_trains_as_the_same_rows_in_order(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("d3llm.trainers.streams.STREAM_BATCH", 5)
    rows, held_out = random_trajectories(16), random_trajectories(8, seed=1)
    listed = make_trainer(
        tiny_checkpoint, tmp_path, train_dataset=rows, eval_dataset=held_out, train_sampling_strategy="sequential"
    )
    stream = make_trainer(
        tiny_checkpoint,
        tmp_path,
        train_dataset=rows.to_iterable_dataset(),
        eval_dataset=held_out.to_iterable_dataset(),
    )
    for trainer in (listed, stream):
        trainer.train()
    assert logged_losses(stream) == logged_losses(listed)
    assert stream.evaluate()["eval_loss"] == pytest.approx(listed.evaluate()["eval_loss"])
    assert stream.teacher_name == "tiny"
    assert stream.accelerator.dispatch_batches is False


def test_rows_of_an_iterable_dataset_are_checked_while_they_are_read(tiny_checkpoint, tmp_path, caplog):
    rows = random_rows(8)
    rows[2]["response_ids"] = [3] * 25
    rows[2]["commit_steps"] = list(range(1, 26))
    rows[2]["num_forwards"] = 25
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(ValueError, match="max_steps has to be specified"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=stream, max_steps=-1)
    trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=stream)
    with caplog.at_level("WARNING", logger="d3llm"):
        ids = [row["id"] for row in trainer.train_dataset]
    assert ids == [f"random/{index}" for index in (0, 1, 3, 4, 5, 6, 7)]
    assert "train_dataset: skipped 1 of 8 rows" in caplog.text
    rows[3]["num_forwards"] = 1
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(ValueError, match="row 'random/3' has a commit step above its `num_forwards`"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=stream).train()


STRATEGIES = {field.name: field.metadata for field in fields(TrainingArguments)}["train_sampling_strategy"]["choices"]


@pytest.mark.parametrize("strategy", sorted({"group_by_length", "batch_rebalance"} & set(STRATEGIES)))
def test_rows_are_grouped_by_the_length_of_their_canvas(tiny_checkpoint, tmp_path, strategy):
    rows = random_trajectories(32)
    trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=rows, train_sampling_strategy=strategy)
    spread = [row["length"] - len(row["prompt_ids"]) for row in trainer.train_dataset]
    assert spread == [24] * 32
    widths = [batch["attention_mask"].sum(dim=1) for batch in trainer.get_train_dataloader()]
    random = make_trainer(tiny_checkpoint, tmp_path, train_dataset=rows).get_train_dataloader()
    random_widths = [batch["attention_mask"].sum(dim=1) for batch in random]
    if strategy == "group_by_length":
        assert sum(w.max() - w.min() for w in widths) < sum(w.max() - w.min() for w in random_widths)
    trainer.train()
    assert trainer.state.global_step == 4


# Evaluation and prediction


def test_predict_gives_tokens_and_labels_of_masked_positions(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, held_out=None)
    dataset = random_trajectories(12, seed=1)
    output = trainer.predict(dataset)
    assert output.predictions.shape == output.label_ids.shape == (12, 24)
    asked = output.label_ids != -100
    assert ((output.predictions != -100) == asked).all()
    right = (output.predictions == output.label_ids)[asked].mean()
    assert output.metrics["test_share_correct"] == pytest.approx(right)
    assert output.metrics["test_loss"] == pytest.approx(trainer.evaluate(dataset)["eval_loss"])
    for row, labels in zip(dataset, output.label_ids, strict=True):
        response = row["response_ids"] + [0] * 24
        assert all(label in (-100, response[place]) for place, label in enumerate(labels))
    config = {"mask_token_id": 7, "eos_token_id": [0], "max_new_tokens": 24}
    other = random_trajectories(4, decode_config=json.dumps(config))
    with pytest.raises(ValueError, match="test_dataset comes from a teacher whose mask token is 7"):
        trainer.predict(other)


def test_compute_metrics_gets_token_ids(tiny_checkpoint, tmp_path):
    def share(prediction):
        asked = prediction.label_ids != -100
        return {"share": float((prediction.predictions == prediction.label_ids)[asked].mean())}

    trainer = make_trainer(
        tiny_checkpoint, tmp_path, eval_dataset=random_trajectories(12, seed=1), compute_metrics=share
    )
    metrics = trainer.evaluate()
    assert metrics["eval_share"] == pytest.approx(metrics["eval_share_correct"])


@pytest.mark.parametrize("argument", ["preprocess_logits_for_metrics", "data_collator", "formatting_func", "nonsense"])
def test_an_argument_that_has_no_meaning_here_is_named(tiny_checkpoint, argument):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
        PseudoTrajectoryTrainer(str(tiny_checkpoint), **{argument: lambda *given: given})


# Hyperparameter search


class GridSearch:
    """In place of optuna and its like: two learning rates."""

    @staticmethod
    def ensure_available():
        pass

    @staticmethod
    def default_hp_space(trial):
        return trial

    @staticmethod
    def run(trainer, n_trials, direction, **kwargs):
        objectives = []
        for trial in range(n_trials):
            trainer.objective = None
            trainer.train(trial={"learning_rate": (1e-2, 1e-9)[trial]})
            objectives.append(trainer.objective)
        best = min(range(n_trials), key=objectives.__getitem__)
        return BestRun(str(best), objectives[best], {"learning_rate": (1e-2, 1e-9)[best], "all": objectives})


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2)])
def test_hyperparameters_are_searched_with_model_init(tiny_checkpoint, tmp_path, monkeypatch, peft_config):
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.WANDB, GridSearch)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=types.SimpleNamespace(id="0")))
    made = []

    def model_init(trial):
        made.append(trial)
        return LLaDAModelLM.from_pretrained(tiny_checkpoint)

    rows = random_trajectories(8)
    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        model_init=model_init,
        train_dataset=rows,
        eval_dataset=rows,
        peft_config=peft_config,
        max_steps=8,
        eval_strategy="steps",
        eval_steps=8,
    )
    best = trainer.hyperparameter_search(backend="wandb", n_trials=2)
    first, second = best.hyperparameters["all"]
    assert best.run_id == "0" and first < second
    assert logged(trainer, "eval_loss") == [pytest.approx(second)]  # of the last trial
    assert made == [None, {"learning_rate": 1e-2}, {"learning_rate": 1e-9}]
    assert (peft_config is not None) == any("lora_" in name for name, _ in trainer.model.named_parameters())


def test_one_of_model_and_model_init(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="Give one of `model` and `model_init`"):
        PseudoTrajectoryTrainer(train_dataset=random_trajectories(4))
    with pytest.raises(ValueError, match="Give one of `model` and `model_init`"):
        PseudoTrajectoryTrainer(str(tiny_checkpoint), model_init=lambda: None)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="`optimizers` belong to one model, but `model_init` creates several"):
        PseudoTrajectoryTrainer(model_init=lambda: None, optimizers=(optimizer, None))


# Training arguments


REENTRANT, NOT_REENTRANT = (
    {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": flag}}
    for flag in (True, False)
)


@pytest.mark.parametrize(
    ("options", "peft_config"),
    [
        (REENTRANT, None),
        (REENTRANT, LoraConfig(r=2)),
        (NOT_REENTRANT, LoraConfig(r=2)),
        ({"torch_compile": True, "torch_compile_backend": "eager"}, None),
        ({"dataloader_num_workers": 1}, None),
        ({"accelerator_config": {"dispatch_batches": True}, "torch_empty_cache_steps": 1}, None),
    ],
)
def test_how_it_is_computed_changes_nothing(tiny_checkpoint, tmp_path, plain, plain_lora, options, peft_config):
    trainer = trained(tiny_checkpoint, tmp_path, peft_config=peft_config, **options)
    assert logged_losses(trainer) == pytest.approx(logged_losses(plain_lora if peft_config else plain), rel=1e-4)


def test_noise_on_the_embeddings_is_in_the_training_and_goes_afterwards(tiny_checkpoint, tmp_path, plain):
    noisy = trained(tiny_checkpoint, tmp_path, neftune_noise_alpha=5.0)
    assert logged_losses(plain)[0] != logged_losses(noisy)[0]
    assert not noisy.model.get_input_embeddings()._forward_hooks


def test_a_batch_that_is_too_large_is_made_smaller(tiny_checkpoint, tmp_path):
    sizes = []

    class Small(PseudoTrajectoryTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            sizes.append(len(inputs["input_ids"]))
            if sizes[-1] > 2:
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(model, inputs, *args, **kwargs)

    args = make_trainer(tiny_checkpoint, tmp_path, auto_find_batch_size=True).args
    trainer = Small(LLaDAModelLM.from_pretrained(tiny_checkpoint), args, random_trajectories())
    trainer.train()
    assert sizes[0] == 4 and sizes[-1] <= 2
    assert trainer.state.global_step == 4


def test_epochs_without_max_steps(tiny_checkpoint, tmp_path):
    options = {"max_steps": -1, "num_train_epochs": 2, "dataloader_drop_last": True}
    trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=random_trajectories(10), **options)
    trainer.train()
    assert trainer.state.global_step == 2 * 2


def test_own_optimizers_are_used(tiny_checkpoint, tmp_path):
    model = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    trainer = make_trainer(tiny_checkpoint, tmp_path, model=model, optimizers=(optimizer, schedule))
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    assert set(logged(trainer, "learning_rate")) == {5e-4}
    kind = (torch.optim.SGD, {"lr": 1e-2})
    trainer = make_trainer(tiny_checkpoint, tmp_path, optimizer_cls_and_kwargs=kind)
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_a_callback_may_stop_the_training(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, callbacks=[Stop])
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_schedule_may_follow_the_evaluation(tiny_checkpoint, tmp_path):
    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        eval_dataset=random_trajectories(4, seed=1),
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "threshold": 1e3, "factor": 0.5},
        metric_for_best_model="loss",
    )
    trainer.train()
    assert len(logged(trainer, "eval_loss")) == 5
    assert logged(trainer, "learning_rate")[-1] < 1e-3


# Saving


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2)], ids=["all", "lora"])
def test_the_best_model_is_loaded_and_a_checkpoint_resumed(tiny_checkpoint, tmp_path, peft_config):
    options = {
        "eval_dataset": random_trajectories(8, seed=1),
        "peft_config": peft_config,
        "learning_rate": 0.3,  # so that the first checkpoint is the best
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
    }
    trainer = make_trainer(tiny_checkpoint, tmp_path, **options)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    losses = logged(trainer, "eval_loss")
    assert best.name == f"checkpoint-{2 * (losses.index(min(losses)) + 1)}"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses))
    again = make_trainer(tiny_checkpoint, tmp_path, **options, max_steps=6)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6 and len(logged_losses(again)) == 6
    half = make_trainer(tiny_checkpoint, tmp_path, **options)
    half.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged_losses(half) == logged_losses(trainer)


def test_only_the_model_may_be_saved(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, save_only_model=True, save_strategy="steps", save_steps=2)
    trainer.train()
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {"model.safetensors", "trainer_state.json", "tokenizer.json"} <= names
    assert not {"optimizer.pt", "scheduler.pt"} & names
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in trainer.model.state_dict().items())


def test_what_a_training_saves_is_loaded_by_auto_classes(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, max_steps=1)
    trainer.train()
    trainer.save_model()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer("one plus one", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=8).shape == (1, 11)


# Reports and cards


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_liger_kernel": True}, "`use_liger_kernel` has no kernels for masked-diffusion models: omit it"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is not part of a recipe's loss: omit it"),
        ({"push_to_hub": True, "hub_strategy": "checkpoint"}, "use 'end' or 'every_save'"),
    ],
)
def test_what_has_no_effect_here_is_refused(tiny_checkpoint, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_checkpoint, tmp_path, **options)


def test_tensorboard_gets_the_parts_of_the_loss(tiny_checkpoint, tmp_path, monkeypatch):
    scalars: dict[str, float] = {}

    class Writer:
        def __init__(self, log_dir=None):
            pass

        def add_scalar(self, name, value, step):
            scalars[name] = value

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    available = ["tensorboard"]
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: True)
    monkeypatch.setattr("d3llm.trainers.argument_checks.get_available_reporting_integrations", lambda: available)
    rows = random_trajectories(4)
    trainer = make_trainer(
        tiny_checkpoint, tmp_path, eval_dataset={"a": rows}, report_to="tensorboard", eval_strategy="epoch"
    )
    trainer.train()
    assert {
        "train/loss",
        "train/cross_entropy",
        "train/window_size",
        "eval/a_loss",
        "eval/a_certainty",
    } <= scalars.keys()
    available.clear()
    with pytest.raises(ValueError, match=r"tensorboard, not installed here: pip install 'd3llm\[tensorboard\]'"):
        make_trainer(tiny_checkpoint, tmp_path, report_to="tensorboard")


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2)], ids=["all", "lora"])
def test_the_model_is_tagged(tiny_checkpoint, tmp_path, peft_config):
    trainer = make_trainer(tiny_checkpoint, tmp_path, peft_config=peft_config)
    base = trainer.model.get_base_model() if peft_config else trainer.model
    assert {"trl", "d3llm", "pseudo-trajectory"} <= set(base.model_tags)


@pytest.mark.parametrize("tags", [None, "math", ["math", "d3llm"]])
def test_the_card_has_name_dataset_and_tags(tiny_checkpoint, tmp_path, tags):
    trainer = make_trainer(tiny_checkpoint, tmp_path)
    trainer.create_model_card(model_name="Small", dataset_name="ada/orders", tags=tags)
    text = (tmp_path / "README.md").read_text()
    card = card_metadata(text)
    assert "# Small\n" in text
    assert card["datasets"] == ["ada/orders"]
    assert {"trl", "d3llm", "masked-diffusion", "generated_from_trainer"} <= set(card["tags"])
    assert ("math" in card["tags"]) == bool(tags)
    assert len(card["tags"]) == len(set(card["tags"]))
    assert read_facts(ModelFacts, tmp_path / "model_facts.json").trajectories == "ada/orders"
