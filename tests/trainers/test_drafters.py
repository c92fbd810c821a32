"""The training of drafters: mask rows as in a naive loop, gradients, resumption, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from d3llm.commands.main import main
from d3llm.generation.row_cache import run_body
from d3llm.modeling.drafter import Drafter
from d3llm.trainers.draft_losses import CleanKeys
from d3llm.trainers.drafter_texts import prepare_texts
from d3llm.trainers.introspective import IntrospectiveTrainer
from d3llm.trainers.introspective_config import IntrospectiveConfig
from d3llm.trainers.mask_groups import candidate_ids, draw_groups


VOCABULARY = 32


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    special = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 0, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.2, **shape, **special)).eval()


def counting_texts(count: int = 12) -> Dataset:
    """Texts that count up by 1 or by 3: a mask row can predict every token."""
    texts = [[1 + (row + (1 + 2 * (row % 2)) * place) % 30 for place in range(14 + row % 5)] for row in range(count)]
    return Dataset.from_dict({"prompt_ids": [text[:4] for text in texts], "answer_ids": [text[4:] for text in texts]})


def make(folder: Path, *, base: LlamaForCausalLM | None = None, texts: Dataset | None = None, **options: Any):
    options = {"max_steps": 4, "per_device_train_batch_size": 3, "rank": 4, "mask_rows": 12, "candidates": 8} | options
    options |= {"random_candidates": 4, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "seed": 5}
    drafter, held_out = options.pop("drafter", None), options.pop("held_out", None)
    config = IntrospectiveConfig(str(folder), **options)
    return IntrospectiveTrainer(base or base_model(), config, texts or counting_texts(), held_out, drafter=drafter)


def batch_of(trainer: IntrospectiveTrainer, rows: int = 3, window: int = 3) -> dict[str, Any]:
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(rows)])
    trainer.add_groups(batch, step=1, window=window)
    return batch


def trained(drafter: Drafter) -> Drafter:
    """Adds to every weight, so that none is without effect."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return drafter


def test_the_layout_is_one_group_after_the_other_through_the_merged_model(tmp_path):
    trainer = make(tmp_path)
    base, drafter = trainer.base, trained(trainer.drafter)
    batch = batch_of(trainer)
    groups = batch["groups"]
    hidden = trainer.model.hidden(trainer.clean_keys(batch["input_ids"], batch["lengths"], []), groups)
    assert hidden.shape == (3, 4, 3, 32)

    merged = base_model()
    merged.load_state_dict(base.state_dict())
    for path, adapter in zip(drafter._layers, drafter.adapters.values(), strict=True):
        merged.get_submodule(path).weight.data += adapter.up.data @ adapter.down.data
    for row in range(3):
        for group, anchor in enumerate(groups.anchors[row].tolist()):
            cache = DynamicCache()
            run_body(base, cache, input_ids=batch["input_ids"][row : row + 1, : anchor + 1])
            embedded = drafter.mask_embeddings[None, :3]
            position = torch.arange(anchor + 1, anchor + 4)[None]
            alone = run_body(merged, cache, inputs_embeds=embedded, position_ids=position)
            torch.testing.assert_close(hidden[row, group], alone[0], rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_rows_one_by_one(tmp_path):
    trainer = make(tmp_path, candidates=0, entropy_weight=0.7, entropy_temperature=0.5, plain_weight=0.4)
    base, drafter = trainer.base, trained(trainer.drafter)
    batch = batch_of(trainer)
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    total = weight_sum = 0.0
    for row in range(3):
        text = batch["input_ids"][row, : batch["lengths"][row]]
        for group, anchor in enumerate(batch["groups"].anchors[row].tolist()):
            for j in range(1, 4):
                if anchor + j + 1 >= len(text):
                    continue
                g = outputs["hidden"][row, group, j - 1]
                e = base.model.embed_tokens.weight[text[anchor + j]]
                e = e / base.model.embed_tokens.weight.pow(2).mean().sqrt()
                inner = F.silu(drafter.sampler["in"].weight @ torch.cat([g, e]))
                refined = (base.lm_head.weight @ (g + drafter.sampler["out"].weight @ inner)).log_softmax(0)
                plain = (base.lm_head.weight @ g).log_softmax(0)
                target = text[anchor + j + 1]
                sharp = (refined / 0.5).log_softmax(0)
                entropy = -(sharp.exp() * sharp).sum() * (refined.argmax() == target)
                total += 0.8 ** (j - 1) * (-refined[target] - 0.4 * plain[target] + 0.7 * entropy)
                weight_sum += 0.8 ** (j - 1)
    torch.testing.assert_close(loss, total / weight_sum)
    batch["weight"] = batch["weight"] * 2  # of a step with another such micro-batch
    torch.testing.assert_close(
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=batch["weight"]), loss / 2
    )


def test_gradients_reach_every_weight_of_the_drafter_and_nothing_else(tmp_path):
    base = base_model()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    trainer = make(tmp_path, base=base, learning_rate=0.05)
    trained(trainer.drafter)
    trainer.compute_loss(trainer.model, batch_of(trainer, window=4)).backward()
    assert all(parameter.grad is None for parameter in base.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in trainer.drafter.parameters())
    start = {name: value.clone() for name, value in trainer.drafter.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(not torch.equal(value, start[name]) for name, value in trainer.drafter.state_dict().items())


def test_groups_lie_in_the_answer_and_depend_on_seed_step_and_text_alone(tmp_path):
    trainer = make(tmp_path)
    batch = batch_of(trainer)
    options = {"window": 3, "mask_rows": 12, "offset_decay": 0.8}
    groups = draw_groups(batch, seed=5, step=1, **options)
    one = {name: value[1:2] for name, value in batch.items() if isinstance(value, torch.Tensor) and value.ndim}
    alone = draw_groups(one, seed=5, step=1, **options)
    assert torch.equal(alone.anchors[0], groups.anchors[1])
    assert not torch.equal(draw_groups(batch, seed=5, step=2, **options).anchors, groups.anchors)
    drawn = torch.stack([draw_groups(batch, seed=5, step=step, **options).anchors for step in range(40)])
    assert torch.equal(drawn.amin(dim=(0, 2)), batch["prompt_lengths"] - 1)
    assert torch.equal(drawn.amax(dim=(0, 2)), batch["lengths"] - 3)
    assert all(len(set(row)) == 4 for row in groups.anchors.tolist())
    short = {name: value.clone() for name, value in one.items()}
    short["prompt_lengths"] = short["lengths"] - 2  # an answer of two tokens has one anchor
    weights = draw_groups(short, seed=5, step=1, **options).weights
    assert (weights > 0).sum() == 1 and weights.max() == 1


def test_candidates(tmp_path):
    targets = torch.tensor([[3, 30], [9, 9]])
    ids = candidate_ids(targets, 32, candidates=8, others=2, seed=0, step=4)
    assert set(range(8)) | {30, 9} <= set(ids.tolist()) and len(ids) <= 12
    assert ids.tolist() == sorted(set(ids.tolist()))
    assert torch.equal(candidate_ids(targets, 32, candidates=0, others=2, seed=0, step=4), torch.arange(32))


def test_kept_keys_are_those_of_a_new_forward(tmp_path):
    trainer = make(tmp_path)
    batch = batch_of(trainer)
    kept, texts = CleanKeys(trainer.base, 2), [("train", 0), ("train", 1), ("train", 2)]
    fresh = trainer.clean_keys(batch["input_ids"], batch["lengths"], [])
    for _ in range(2):
        found = kept(batch["input_ids"], batch["lengths"], texts)
        for row, length in enumerate(batch["lengths"].tolist()):
            torch.testing.assert_close(found[:, :, row, :, :length], fresh[:, :, row, :, :length])
        assert len(kept.kept) == 2
    options = {"max_steps": 3, "save_strategy": "no"}
    make(tmp_path / "a", cached_texts=50, **options).train()


def expected_loss(trainer: IntrospectiveTrainer, texts: Dataset) -> float:
    """Of all texts in one batch."""
    prepared = trainer.prepare(texts, "texts")
    trainer.model.eval()
    loss, _, _ = trainer.prediction_step(trainer.model, trainer.data_collator([*prepared]), prediction_loss_only=True)
    trainer.take_parts("eval")
    return loss.item()


def test_an_evaluation_depends_neither_on_its_batches_nor_on_kept_texts(tmp_path):
    held_out, others = counting_texts(7), counting_texts(12).select(range(5, 12))
    trainer = make(tmp_path, held_out=held_out, cached_texts=50, entropy_weight=0.5)
    trained(trainer.drafter)
    fresh = make(tmp_path, base=trainer.base, drafter=trainer.drafter, entropy_weight=0.5)
    expected = [expected_loss(fresh, texts) for texts in (held_out, others)]
    assert expected[0] != pytest.approx(expected[1], rel=1e-3)
    for rows in (1, 3, 7):
        trainer.args.per_device_eval_batch_size = rows
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected[0], rel=1e-4)
        assert trainer.evaluate(others)["eval_loss"] == pytest.approx(expected[1], rel=1e-4)
        assert trainer.predict(others).metrics["test_loss"] == pytest.approx(expected[1], rel=1e-4)
    again = trainer.evaluate(trainer.eval_dataset)
    assert again["eval_accepted_1"] == trainer.evaluate()["eval_accepted_1"]


@pytest.mark.parametrize("process", [0, 1])
def test_texts_that_processes_repeat_are_not_counted_again(tmp_path, monkeypatch, process):
    """The last batch of 6 texts on two processes with 4 each: the second one has two of its own."""
    trainer = make(tmp_path)
    trained(trainer.drafter)
    texts = [trainer.train_dataset[index] for index in range(4)]

    def counted(count: int) -> list[float]:
        trainer.take_parts("eval")
        trainer.model.eval()
        trainer.prediction_step(trainer.model, trainer.data_collator(texts[:count]), prediction_loss_only=True)
        return trainer._sums["eval"].tolist()

    whole, half = counted(4), counted(2)
    state = type(trainer.accelerator.gradient_state)
    monkeypatch.setattr(state, "end_of_dataloader", property(lambda self: True))
    monkeypatch.setattr(state, "remainder", property(lambda self: 6))
    monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self: process))
    assert counted(4) == pytest.approx(half if process else whole, rel=1e-5)


def test_texts_to_evaluate_are_checked(tmp_path):
    trainer = make(tmp_path)
    outside = Dataset.from_dict({"prompt_ids": [[1, 32]], "answer_ids": [[3, 4, 5]]})
    with pytest.raises(ValueError, match="eval_dataset: row '0' has `prompt_ids` outside the vocabulary of 32"):
        trainer.evaluate(outside)
    with pytest.raises(ValueError, match="test_dataset: row '0' has `prompt_ids` outside the vocabulary of 32"):
        trainer.predict(outside)
    with pytest.raises(ValueError, match=r"`eval_dataset` is a dict: expected one `datasets.Dataset` of texts"):
        make(tmp_path, held_out={"a": counting_texts(5)})


def test_the_loss_falls_and_drafts_are_accepted(tmp_path):
    texts = counting_texts(24)
    options = {"max_steps": 40, "per_device_train_batch_size": 8, "learning_rate": 2e-2, "candidates": 0, "rank": 8}
    trainer = make(tmp_path, texts=texts, held_out=texts, window_sizes=[2, 3], save_strategy="no", **options)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    shares = [after[f"eval_accepted_{number}"] for number in (1, 2, 3)]
    assert shares == sorted(shares, reverse=True) and shares[0] > before["eval_accepted_1"] + 0.3
    assert after["eval_tokens_per_forward"] == pytest.approx(1 + sum(shares))
    logged = [entry for entry in trainer.state.log_history if "window" in entry]
    assert logged[0]["window"] == 2 and logged[-1]["window"] == 3
    assert logged[-1]["cross_entropy"] < logged[0]["cross_entropy"]


def test_the_rate_of_the_mask_embeddings(tmp_path):
    optimizer = make(tmp_path, learning_rate=0.01, embedding_lr_factor=5.0).create_optimizer()
    rates = [(group["lr"], len(group["params"])) for group in optimizer.param_groups if group["params"]]
    assert rates == [(0.01, 2 * 7 * 2 + 2), (pytest.approx(0.05), 1)]


def test_a_drafter_can_be_trained_further(tmp_path):
    base = base_model()
    drafter = trained(Drafter.for_base(base, window=3, rank=2))
    trainer = make(tmp_path, base=base, drafter=drafter, window_sizes=[2], save_strategy="no")
    trainer.train()
    assert trainer.drafter is drafter and drafter.config.rank == 2
    with pytest.raises(ValueError, match="has 3 mask rows, and `window_sizes` go up to 4"):
        make(tmp_path, base=base, drafter=drafter)
    with pytest.raises(ValueError, match="belongs to another base"):
        make(tmp_path, drafter=drafter, window_sizes=[2])


def test_a_resumed_run_gives_the_same_bits(tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "linear"}
    whole = make(tmp_path / "whole", **options)
    whole.train()
    again = make(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, value in whole.drafter.state_dict().items():
        assert torch.equal(value, again.drafter.state_dict()[name]), name


def test_bad_settings_end_in_one_line(tmp_path):
    for options, message in (
        ({"window_sizes": [9]}, r"`window_sizes`\[0\] is 9"),
        ({"mask_rows": 2, "window_sizes": [3]}, "holds no group of 3"),
        ({"rank": 0}, "`rank` is 0"),
        ({"offset_decay": 1.5}, "`offset_decay` is 1.5"),
        ({"gradient_checkpointing": True}, "would run the base again without the drafter"),
        ({"neftune_noise_alpha": 5.0}, "noise on the embeddings of every forward"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            IntrospectiveConfig(str(tmp_path / "o"), use_cpu=True, report_to="none", **options)
        assert "\n" not in str(caught.value)


def test_bad_texts_end_in_one_line():
    def prepare(**columns):
        return prepare_texts(Dataset.from_dict(columns), "texts", vocab_size=32, max_length=20)

    good = {"prompt_ids": [[1, 2]], "answer_ids": [[3, 4, 5]]}
    assert prepare(**good)["length"] == [5]
    for columns, message in (
        ({"prompt_ids": [[1]]}, "has no response_ids"),
        (good | {"prompt_ids": [[1, 32]]}, "outside the vocabulary of 32"),
        (good | {"prompt_ids": [[]]}, "has an empty prompt"),
        (good | {"answer_ids": [[3]]}, "no text left of 1"),
        (good | {"answer_ids": [[3] * 19]}, "no text left of 1"),
        (good | {"prompt_ids": ["one"]}, "The columns of texts have other types"),
        (good | {"answer_ids": [[3.5, 4.0]]}, "The columns of texts have other types"),
        (good | {"source": ["teacher"]}, "rows of the order 'teacher'"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            prepare(**columns)
        assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_names_the_texts(tmp_path):
    trainer = make(tmp_path)
    with torch.no_grad():
        trainer.drafter.mask_embeddings.fill_(math.nan)
    with pytest.raises(ValueError, match="The loss at step 0 is nan, for the texts"):
        trainer.train()


def test_the_command_trains_resumes_and_saves_the_folder(tmp_path, capsys):
    base_model().save_pretrained(tmp_path / "base")
    rows = counting_texts(16).to_list()
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--config", "introspective_smollm2", "--model_name_or_path", tmp_path / "base", "--dtype", "float32"]
    options += ["--trajectories", tmp_path / "texts.jsonl", "--output_dir", tmp_path / "drafter", "--rank", 4]
    options += ["--mask_rows", 8, "--head_tokens", 24, "--use_cpu", "--report_to", "none", "--disable_tqdm", "true"]
    options += ["--max_steps", 4, "--warmup_steps", 1, "--save_steps", 2, "--eval_trajectories", 2]
    options += ["--lr_scheduler_kwargs", '{"num_decay_steps": 2}', "--eval_strategy", "steps", "--eval_steps", 4]
    command = ["distill", *map(str, options)]
    assert main(command) == 0
    base = base_model()
    drafter = Drafter.from_pretrained(tmp_path / "drafter", base)
    assert drafter.config.window == 5 and drafter.config.head_tokens == 24
    state = json.loads((tmp_path / "drafter" / "trainer_state.json").read_text())
    assert any("eval_tokens_per_forward" in entry for entry in state["log_history"])
    saved = load_file(tmp_path / "drafter" / "drafter.safetensors")
    assert not list((tmp_path / "drafter").glob("*.bin"))

    assert main(command) == 2
    assert "holds a run: resume it" in capsys.readouterr().err
    (tmp_path / "drafter" / "checkpoint-4" / "trainer_state.json").unlink()
    assert main([*command, "--resume", "true"]) == 0
    again = load_file(tmp_path / "drafter" / "drafter.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in saved.items())
    capsys.readouterr()
    assert main([*command, "--resume", "true", "--offset_decay", "0.5"]) == 2
    assert "offset_decay" in capsys.readouterr().err
