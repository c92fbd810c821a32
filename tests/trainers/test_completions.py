"""Training from prompts and completions: what becomes of them, and which recipes take them."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from d3llm.commands.main import main
from d3llm.evaluation import encode_prompt
from d3llm.hub_cards import ModelFacts, read_facts
from d3llm.modeling import LLaDAModelLM
from d3llm.trainers.distill import last_checkpoint
from tests.helpers.models import WORDS
from tests.helpers.trajectory_rows import EOS, logged_losses, make_trainer, random_trajectories


TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user> {{ message['content'] }} is "
    "{% else %}plus {{ message['content'] }} <eos> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}plus {% endif %}"
)


@pytest.fixture(scope="module")
def chat_checkpoint(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with a template that knows roles, a generation prompt and an end of the answer."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(tiny_checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def texts(count: int = 16) -> Dataset:
    rows = [{"prompt": f"{WORDS[i % 10]} plus one", "completion": f"is {WORDS[(i + 1) % 10]}"} for i in range(count)]
    return Dataset.from_list(rows)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def random_trainer(folder: Path, output: Path, dataset: Dataset, **options):
    return make_trainer(folder, output, train_dataset=dataset, **{"corruption": "random", **options})


def decoded(trainer, index: int = 0) -> tuple[str, str]:
    row = trainer.train_dataset[index]
    return tuple(trainer.processing_class.decode(row[part]) for part in ("prompt_ids", "response_ids"))


def test_texts_are_used_as_they_are_and_get_an_eos(chat_checkpoint, tmp_path, caplog):
    with caplog.at_level("WARNING", logger="d3llm"):
        trainer = random_trainer(chat_checkpoint, tmp_path, texts())
    assert decoded(trainer) == ("zero plus one", "is one <eos>")
    assert "train_dataset: texts are used as they are" in caplog.text
    row = trainer.train_dataset[3]
    assert (row["id"], row["source"], row["correct"]) == ("train_dataset/3", "none", None)
    assert trainer.max_new_tokens == 127  # what the model decodes when it is not told, in its 128 positions
    assert trainer.train_dataset[0]["length"] == 128


@pytest.mark.parametrize("iterable", [False, True])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("one"), assistant("two"), user("three"), assistant("four five")]},
        {"prompt": [user("one"), assistant("two"), user("three")], "completion": [assistant("four five")]},
        {
            "conversations": [
                {"from": "user", "value": "one"},
                {"from": "assistant", "value": "two"},
                {"from": "user", "value": "three"},
                {"from": "assistant", "value": "four five"},
            ]
        },
    ],
    ids=["messages", "prompt and completion", "from and value"],
)
def test_chats_go_through_the_template(chat_checkpoint, tmp_path, row, iterable, caplog):
    dataset = Dataset.from_list([{**row, "comment": "x"}] * 4)
    dataset = dataset.to_iterable_dataset() if iterable else dataset
    with caplog.at_level("WARNING", logger="d3llm"):
        trainer = random_trainer(chat_checkpoint, tmp_path, dataset, max_steps=2)
    assert "texts are used as they are" not in caplog.text
    first = next(iter(trainer.train_dataset))
    tokenizer = trainer.processing_class
    chat = [user("one"), assistant("two"), user("three")]
    assert first["prompt_ids"] == encode_prompt(tokenizer, chat)  # as `generate` is asked
    assert tokenizer.decode(first["response_ids"]) == "four five <eos>"
    trainer.train()
    assert len(logged_losses(trainer)) == 2


def test_the_student_learns_the_answers(tiny_checkpoint, tmp_path):
    rows = texts(10)
    trainer = random_trainer(
        tiny_checkpoint,
        tmp_path,
        rows,
        eval_dataset=rows,
        max_new_tokens=8,
        max_steps=80,
        per_device_train_batch_size=10,
        learning_rate=1e-2,
        layout="single",
        max_mask_ratio=1.0,
        raise_mask_ratio=False,
        logging_steps=50,
    )
    trainer.train()
    tokenizer = trainer.processing_class
    prompts = tokenizer([row["prompt"] for row in rows], return_tensors="pt")
    answers = trainer.model.eval().generate(**prompts, max_new_tokens=8)[:, 3:]
    right = sum(tokenizer.decode(a[:2]) == row["completion"] for a, row in zip(answers, rows, strict=True))
    assert right >= 8
    assert (answers[:, 2] == EOS).sum() >= 8


def test_a_completion_ends_with_its_first_eos(tiny_checkpoint, tmp_path):
    rows = Dataset.from_list([{"prompt": "one", "completion": "two <eos> three"}, {"prompt": "one", "completion": ""}])
    trainer = random_trainer(tiny_checkpoint, tmp_path, rows)
    assert [row["response_ids"] for row in trainer.train_dataset] == [[6, EOS], [EOS]]


def test_rows_that_do_not_fit_are_left_out_and_counted(tiny_checkpoint, tmp_path, caplog):
    long = [{"prompt": "one", "completion": "two " * 8}, {"prompt": "one " * 60, "completion": "two two two two"}]
    rows = Dataset.from_list([*texts(3).to_list(), *long])
    with caplog.at_level("WARNING", logger="d3llm"):
        trainer = random_trainer(tiny_checkpoint, tmp_path, rows, max_new_tokens=8, max_length=64)
    assert list(trainer.train_dataset["id"]) == [f"train_dataset/{index}" for index in range(3)]
    assert "train_dataset: skipped 2 of 5 rows" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [user("one"), user("two")]}, "the completion of a chat must be one message of the assistant"),
        ({"messages": []}, "row 'train_dataset/0'|row 0"),
        ({"messages": [assistant("two")]}, "a chat must begin with a message of the user"),
        (
            {"prompt": [user("a")], "completion": [assistant("b"), assistant("c")]},
            "must be one message of the assistant",
        ),
        ({"prompt": [{"role": "system", "content": "a"}], "completion": [assistant("b")]}, "Invalid role in the last"),
        ({"prompt": "", "completion": "two"}, "row 'train_dataset/0' has an empty prompt"),
        ({"prompt": "one", "completion": "<mask>"}, "has the mask token in its response"),
        ({"text": "one"}, r"not a trajectory dataset: .*give prompts and completions \(columns `prompt` and"),
    ],
)
def test_a_row_that_is_no_prompt_and_completion_is_named(chat_checkpoint, tmp_path, row, message):
    with pytest.raises(ValueError, match=f"train_dataset.*{message}"):
        random_trainer(chat_checkpoint, tmp_path, Dataset.from_list([row]))


def test_texts_need_a_tokenizer_and_chats_a_template(tiny_checkpoint, tmp_path):
    bare = tmp_path / "bare"
    LLaDAModelLM.from_pretrained(tiny_checkpoint).save_pretrained(bare)
    with pytest.raises(ValueError, match=r"train_dataset holds texts, but there is no tokenizer .*`processing_class`"):
        random_trainer(bare, tmp_path, texts())
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = None
    chats = Dataset.from_list([{"messages": [user("one"), assistant("two")]}])
    with pytest.raises(ValueError, match="row 0 is not a prompt and completion: the tokenizer has no chat template"):
        random_trainer(bare, tmp_path, chats, processing_class=tokenizer)


def test_what_needs_an_order_is_refused(tiny_checkpoint, tmp_path):
    way_out = r"set corruption='random' .*or record them with `d3llm extract`"
    with pytest.raises(ValueError, match=f"train_dataset holds .*corruption='trajectory' needs them: {way_out}"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=texts())
    with pytest.raises(ValueError, match=f"eval_dataset holds .*{way_out}"):
        make_trainer(tiny_checkpoint, tmp_path, eval_dataset=texts())
    teacher = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    with pytest.raises(ValueError, match=f"`kl_weight` needs them: {way_out}"):
        random_trainer(tiny_checkpoint, tmp_path, texts(), teacher=teacher, kl_weight=1.0, layout="single")
    for options in ({"next_commits": 8}, {"order_weight": 1.0, "layout": "single"}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` needs them: {way_out}"):
            random_trainer(tiny_checkpoint, tmp_path, texts(), **options)


def test_any_row_without_an_order_is_refused_where_one_is_needed(tiny_checkpoint, tmp_path):
    rows = random_trajectories(8)
    mixed = rows.add_column("number", range(8)).map(
        lambda row: {"source": "none" if row["number"] == 5 else row["source"]}, remove_columns=["number"]
    )
    with pytest.raises(ValueError, match="corruption='trajectory' needs them"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=mixed)


@pytest.mark.parametrize("corruption", ["random", "block"])
def test_both_corruptions_at_random_take_them(tiny_checkpoint, tmp_path, corruption):
    """The commit steps of a trajectory with the same tokens change nothing."""
    rows = random_trajectories(8)
    without = rows.map(
        lambda row: {"commit_steps": [0] * len(row["response_ids"]), "tail_steps": [], "source": "none"}
    )
    ordered, random = (
        random_trainer(tiny_checkpoint, tmp_path, data, corruption=corruption, max_new_tokens=24, max_steps=2)
        for data in (rows, without)
    )
    for trainer in (ordered, random):
        trainer.train()
    assert logged_losses(random) == logged_losses(ordered)


def distill(folder: Path, output: Path, data: Path, *options: str) -> int:
    small = ["--use_cpu", "--report_to", "none", "--bf16", "false", "--disable_tqdm", "true", "--lora_r", "2"]
    small += ["--gradient_accumulation_steps", "1", "--per_device_train_batch_size", "4", "--dtype", "float32"]
    small += ["--model_name_or_path", str(folder), "--output_dir", str(output), "--trajectories", str(data)]
    return main(["distill", *small, "--max_new_tokens", "16", "--max_length", "64", *options])


@pytest.mark.parametrize(("recipe", "suffix"), [("dparallel_llada", ".jsonl"), ("llada_sft", "")])
def test_command_trains_from_a_file_or_folder(tiny_checkpoint, tmp_path, recipe, suffix, capsys):
    data = tmp_path / f"sums{suffix}"
    file = data if suffix else data / "train.jsonl"
    file.parent.mkdir(exist_ok=True)
    texts().to_json(str(file))
    options = ["--config", recipe, "--max_steps", "4", "--save_steps", "2", "--eval_trajectories", "4"]
    options += ["--eval_strategy", "steps", "--eval_steps", "2"]
    output = tmp_path / "student"
    assert distill(tiny_checkpoint, output, data, *options) == 0
    facts = read_facts(ModelFacts, output / "model_facts.json")
    assert (facts.teacher, facts.trajectories, facts.dataset, facts.recipe) == (None, None, data.name, recipe)
    text = (output / "README.md").read_text()
    assert f"- Prompts and completions: {data.name}." in text
    assert "Teacher:" not in text and "Trajectories:" not in text
    state = json.loads((output / "trainer_state.json").read_text())
    assert sum("eval_loss" in entry for entry in state["log_history"]) == 2

    shutil.rmtree(output / "checkpoint-4")
    for weights in output.glob("*.safetensors"):
        weights.unlink()
    assert last_checkpoint(str(output)) == output / "checkpoint-2"
    texts(15).to_json(str(file))
    assert distill(tiny_checkpoint, output, data, *options, "--resume") == 2
    assert "rows was 12, is 11" in capsys.readouterr().err
    texts().to_json(str(file))
    assert distill(tiny_checkpoint, output, data, *options, "--resume") == 0


def test_command_refuses_a_recipe_with_an_order_before_it_loads_the_model(
    tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    texts().to_json(str(tmp_path / "sums.jsonl"))
    monkeypatch.setattr("d3llm.trainers.distill.load_model", None)
    code = distill(tiny_checkpoint, tmp_path / "student", tmp_path / "sums.jsonl", "--config", "d3llm_llada")
    assert code == 2
    assert "sums.jsonl holds prompts and completions" in capsys.readouterr().err
