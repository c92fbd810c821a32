"""Training of block-causal models: one forward of [noisy ; clean] is as many forwards as there are blocks."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from d3llm.generation.canvas import Canvas
from d3llm.modeling import DreamModel, Fast_dLLM_QwenForCausalLM, LLaDAModelLM, SDARForCausalLM
from d3llm.trainers.block_causal import BlockGrid
from d3llm.trajectories.dataset import load_trajectories, read_decode_config
from d3llm.trajectories.extract import ExtractionConfig, extract_trajectories
from tests.helpers.models import OF_WORDS, WORDS, tiny_model
from tests.helpers.trajectory_rows import MASK, make_trainer, random_trajectories


FAMILIES = {
    "sdar": (SDARForCausalLM, {"block_size": 4}),
    "fast_dllm_v2": (Fast_dLLM_QwenForCausalLM, {"bd_size": 8}),
    "llada": (LLaDAModelLM, {"attention": "block_causal", "attention_block_size": 5}),
    "dream": (DreamModel, {"attention": "block_causal", "attention_block_size": 6}),
}


def student(name: str, **fields):
    family, own = FAMILIES[name]
    return tiny_model(family, **OF_WORDS, kv_heads=1, **{**own, **fields})


def blocks_alone(model, prompt: int, length: int) -> list[int]:
    """The blocks of a row without padding, counted one by one."""
    size = model.attention_block_size
    if model.attention_grid == "absolute":
        return [position // size for position in range(length)]
    return [0] * prompt + [1 + position // size for position in range(length - prompt)]


def logits_alone(model, blocks: list[int], noisy: torch.Tensor, clean: torch.Tensor, noisy_context: bool = False):
    """Logits (L, vocab) of the tokens of one row: for each block, a forward over [clean prefix ; noisy block]."""
    numbers = torch.tensor(blocks)
    visible = (numbers[:, None] >= numbers[None])[None, None]
    found = []
    for block in range(max(blocks) + 1):
        positions = (numbers == block).nonzero()[:, 0]
        end = int(positions[-1]) + 1
        canvas = (noisy if noisy_context else torch.where(numbers < block, clean, noisy))[:end]
        logits = model(canvas[None], attention_mask=visible[:, :, :end, :end]).logits[0]
        found.append(logits[model.logit_rows(positions)])
    return torch.cat(found)


def losses_alone(trainer, batch, corruption, noisy_context: bool = False) -> torch.Tensor:
    """The loss of d3LLM, from each row and view by itself."""
    model, width = trainer.model, batch["commit_steps"].shape[1]
    loss = torch.zeros(())
    for view in range(len(corruption.masked)):
        logits, labels = [], []
        for row, valid in enumerate(batch["attention_mask"].bool()):
            noisy = batch["input_ids"][row].clone()
            noisy[-width:][corruption.masked[view, row]] = MASK
            picked = torch.zeros_like(valid)
            picked[-width:] = corruption.supervised[view, row]
            prompt = int(valid[:-width].sum())
            clean = batch["input_ids"][row][valid]
            blocks = blocks_alone(model, prompt, len(clean))
            logits.append(logits_alone(model, blocks, noisy[valid], clean, noisy_context)[picked[valid]])
            labels.append(clean[picked[valid]])
        all_logits, all_labels = torch.cat(logits), torch.cat(labels)
        log_q = (all_logits / 0.5).log_softmax(-1)
        certainty = -(log_q.exp() * log_q).sum(-1) * (all_logits.argmax(-1) == all_labels)
        loss = loss + cross_entropy(all_logits, all_labels) + 2.0 * certainty.mean()
    return loss


def batch_of(trainer, rows: int = 6, progress: float = 0.5):
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(rows)])
    corruption = trainer.corrupt(batch, step=3, progress=progress)
    trainer.add_targets(batch, corruption)
    return batch, corruption


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


WAYS = [("sdpa", "clean"), ("eager", "noisy"), ("sdpa", "noisy"), ("eager", "clean")]
OF_FAMILIES = {"sdar": WAYS[:2], "fast_dllm_v2": WAYS[2:], "llada": WAYS[2:], "dream": WAYS[:2]}


@pytest.mark.parametrize(
    ("name", "implementation", "context"),
    [
        pytest.param(name, *way, marks=() if way in OF_FAMILIES[name] else pytest.mark.slow)
        for name in FAMILIES
        for way in WAYS
    ],
)
def test_losses_and_gradients_are_those_of_a_forward_per_block(name, implementation, context, tmp_path):
    """Of batches with padding on both sides: `max_length` leaves a long prompt less room than a short one."""
    model = student(name)
    model.set_attn_implementation(implementation)
    options = {"complementary_entropy": True, "max_length": 27, "block_context": context, "window_sizes": [16]}
    trainer = make_trainer(tmp_path, tmp_path, model=model, **options)
    batch, corruption = batch_of(trainer)
    assert not batch["attention_mask"][:, 0].all() and not batch["attention_mask"][:, -1].all()
    loss, expected = trainer.compute_loss(model, batch), losses_alone(trainer, batch, corruption, context == "noisy")
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    found, wanted = gradients(model, loss), gradients(model, expected)
    assert found.keys() == wanted.keys()
    for weight in found:
        torch.testing.assert_close(found[weight], wanted[weight], atol=1e-4, rtol=1e-3, msg=weight)


@pytest.mark.parametrize("grid", ["absolute", "prompt"])
def test_blocks_are_those_of_the_decoder(grid):
    prompt = torch.tensor([[9, 9, 9, 9, 9], [0, 0, 9, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    canvas = Canvas.from_prompt(
        prompt.numpy(),
        mask.numpy(),
        new_tokens=11,
        block_size=4,
        mask_token_id=MASK,
        seeds=torch.zeros(2).long().numpy(),
        grid=grid,
    )
    whole = torch.cat([mask, torch.ones(2, 11, dtype=torch.long)], dim=1)
    assert BlockGrid(grid, 4).blocks(whole, 5).tolist() == canvas.attention_block_of.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_training_fits_the_trajectories(name, tmp_path):
    model = student(name, attention_block_size=4) if name in ("llada", "dream") else student(name)
    options = {"max_steps": 20, "learning_rate": 2e-2, "per_device_train_batch_size": 2, "min_mask_ratio": 0.5}
    options |= {"max_mask_ratio": 0.5, "train_dataset": random_trajectories(2)}
    trainer = make_trainer(tmp_path, tmp_path, model=model, **options)
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    assert last["cross_entropy"] < 0.6 * first["cross_entropy"]
    assert last["attention_block_size"] == model.attention_block_size


def test_the_size_of_the_blocks_grows_in_phases_and_the_last_is_the_model_s(tmp_path):
    model = student("sdar")
    trainer = make_trainer(tmp_path, tmp_path, model=model, attention_block_sizes=[1, 2, 8], max_steps=6)
    trainer.train()
    sizes = [entry["attention_block_size"] for entry in trainer.state.log_history if "attention_block_size" in entry]
    assert sizes == [1, 1, 2, 2, 8, 8]
    trainer.save_model(str(tmp_path / "student"))
    saved = SDARForCausalLM.from_pretrained(tmp_path / "student")
    assert saved.config.block_size == saved.attention_block_size == 8
    assert saved.diffusion_config(kwargs={"preset": "sdar"}).attention_block_size == 8


@pytest.mark.parametrize("family", [LLaDAModelLM, DreamModel])
def test_a_bidirectional_model_becomes_block_causal(family, tmp_path):
    model = tiny_model(family, **OF_WORDS, kv_heads=1)
    trainer = make_trainer(tmp_path, tmp_path, model=model, attention_block_sizes=[6])
    assert trainer.grid == BlockGrid("prompt", 6)
    batch, corruption = batch_of(trainer)
    loss = trainer.compute_loss(model, batch)
    trainer.args.complementary_entropy = True
    torch.testing.assert_close(trainer.compute_loss(model, batch), losses_alone(trainer, batch, corruption))
    trainer.save_model(str(tmp_path / "student"))
    saved = family.from_pretrained(tmp_path / "student")
    assert saved.attention_block_size == 6 and family.attention_block_size is None
    assert saved.diffusion_config().attention == "block_causal" and torch.isfinite(loss)


def ratios_of(trainer, step: int = 3):
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(32)])
    corruption = trainer.corrupt(batch, step=step, progress=0.5)
    width = batch["commit_steps"].shape[1]
    return batch, corruption, corruption.blocks[:, -width:], corruption.ratio


@pytest.mark.parametrize("kind", ["independent", "rising"])
def test_each_block_has_its_own_mask_ratio(kind, tmp_path):
    options = {"corruption": "random", "block_ratios": kind, "layout": "single", "raise_mask_ratio": False}
    options |= {"min_mask_ratio": 0.2, "max_mask_ratio": 0.7}
    trainer = make_trainer(tmp_path, tmp_path, model=student("sdar"), **options)
    _, corruption, blocks, ratio = ratios_of(trainer)
    assert ratio.min() >= 0.2 and ratio.max() <= 0.7
    same_block, change = blocks.diff(dim=1) == 0, ratio.diff(dim=1)
    assert (change[same_block] == 0).all()
    if kind == "independent":
        assert (change[~same_block] < 0).any() and (change[~same_block] > 0).any()
        assert abs(ratio.mean() - 0.45) < 0.03
    else:
        assert (change >= 0).all() and (change > 0).any()
        end = corruption.end[:, None]
        after = (torch.arange(ratio.shape[1]) >= end) & (blocks > blocks.gather(1, end - 1))
        assert (change[after[:, 1:]] == 0).all()  # only blocks in the loss share the rise
    rows = torch.arange(len(ratio))
    drawn = [ratios_of(trainer, step) for step in range(60)]
    masked = torch.stack([corruption.masked[0] for _, corruption, _, _ in drawn]).float()
    of_ratio = torch.stack([ratio for _, _, _, ratio in drawn])
    inside = torch.arange(ratio.shape[1]) < corruption.end[:, None]
    assert abs((masked - of_ratio)[:, inside].mean()) < 0.01 and len(rows) == 32


def test_each_block_has_its_own_state(tmp_path):
    options = {"corruption": "state", "block_ratios": "independent", "layout": "single", "filled_tail_share": 0.0}
    trainer = make_trainer(tmp_path, tmp_path, model=student("sdar"), **options)
    _, corruption, blocks, _ = ratios_of(trainer)
    inside = torch.arange(blocks.shape[1]) < corruption.end[:, None]
    for row, (number, masked) in enumerate(zip(blocks, corruption.supervised[0], strict=True)):
        assert set(number[inside[row]].tolist()) == set(number[masked].tolist())  # each has something to learn


def test_a_bidirectional_teacher_of_a_block_causal_student_sees_the_whole_canvas(tmp_path):
    """D2F's loss, written out."""
    options = {"corruption": "random", "block_ratios": "rising", "layout": "single", "raise_mask_ratio": False}
    options |= {"min_mask_ratio": 0.2, "max_mask_ratio": 0.7, "loss_weighting": "inverse_ratio", "max_length": 27}
    options |= {"kl_weight": 1.0, "near_forwards": 0, "entropy_weight": 0.0, "block_context": "noisy"}
    teacher = tiny_model(LLaDAModelLM, **OF_WORDS, kv_heads=1, seed=1)
    model = tiny_model(LLaDAModelLM, **OF_WORDS, kv_heads=1)
    trainer = make_trainer(tmp_path, tmp_path, model=model, teacher=teacher, attention_block_sizes=[5], **options)
    batch, corruption = batch_of(trainer)
    width, parts = batch["commit_steps"].shape[1], []
    for row, valid in enumerate(batch["attention_mask"].bool()):
        noisy, picked = batch["noisy_ids"][row][valid], torch.zeros_like(valid)
        picked[-width:] = corruption.supervised[0, row]
        blocks = blocks_alone(model, int(valid[:-width].sum()), len(noisy))
        log_p = logits_alone(model, blocks, noisy, noisy, noisy_context=True)[picked[valid]].log_softmax(-1)
        log_r = teacher(noisy[None]).logits[0][picked[valid]].log_softmax(-1)
        probability = 0.999 * corruption.ratio[row][corruption.supervised[0, row]] + 0.001
        parts.append((log_r.exp() * (log_r - log_p)).sum(-1) / probability)
    torch.testing.assert_close(trainer.compute_loss(model, batch), torch.cat(parts).mean(), atol=1e-5, rtol=1e-4)


def test_the_student_learns_to_tell_labels_from_the_guesses_of_the_reference(tmp_path):
    """DDO, written out: of each row, means over its masked positions."""
    options = {"layout": "single", "min_mask_ratio": 1.0, "max_mask_ratio": 1.0, "entropy_weight": 0.0}
    options |= {"ddo_weight": 5.0, "ddo_beta": 0.3, "ddo_fake_weight": 0.7, "loss_scale": 0.2}
    reference, model = student("sdar"), tiny_model(SDARForCausalLM, **OF_WORDS, kv_heads=1, seed=1)
    trainer = make_trainer(tmp_path, tmp_path, model=model, teacher=reference, **options)
    batch, corruption = batch_of(trainer)
    width, of_rows, entropies = batch["commit_steps"].shape[1], [], []
    for row, valid in enumerate(batch["attention_mask"].bool()):
        noisy, clean = batch["noisy_ids"][row][valid], batch["input_ids"][row][valid]
        picked = torch.zeros_like(valid)
        picked[-width:] = corruption.supervised[0, row]
        picked = picked[valid]
        blocks = blocks_alone(model, int(valid[:-width].sum()), len(clean))
        log_p, log_r = (logits_alone(one, blocks, noisy, clean)[picked].log_softmax(-1) for one in (model, reference))
        labels, guess, every = clean[picked], log_r.argmax(-1), torch.arange(int(picked.sum()))
        real, fake = ((log_p - log_r)[every, tokens].mean() for tokens in (labels, guess))
        of_rows.append(-(0.3 * real).sigmoid().log() - 0.7 * (1 - (0.3 * fake).sigmoid()).log())
        entropies.append(-log_p[every, labels])
    expected = 0.2 * torch.cat(entropies).mean() + torch.stack(of_rows).mean()
    loss, sums = trainer.compute_loss(model, batch, return_outputs=True)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sums["discriminative"] / sums["rows"], torch.stack(of_rows).mean().detach())
    found, wanted = gradients(model, loss), gradients(model, expected)
    for weight in found:
        torch.testing.assert_close(found[weight], wanted[weight], atol=1e-4, rtol=1e-3, msg=weight)


@pytest.mark.slow
def test_flex_attention_sees_the_same(tmp_path):
    """Without gradients, which it does not compute on CPUs."""
    model = student("sdar")
    trainer = make_trainer(tmp_path, tmp_path, model=model)
    batch, _ = batch_of(trainer)
    with torch.no_grad():
        expected = trainer.compute_loss(model, batch)
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(trainer.compute_loss(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path):
    def refusal(model, **options) -> str:
        with pytest.raises(ValueError, match=r"\S") as error:
            make_trainer(tmp_path, tmp_path, model=model, **options)
        return str(error.value)

    plain = tiny_model(LLaDAModelLM, **OF_WORDS, kv_heads=1)
    random = {"corruption": "random", "layout": "single"}
    assert "is for block-causal models" in refusal(plain, block_ratios="rising", **random)
    assert "needs `corruption='random'`" in refusal(student("sdar"), block_ratios="rising")
    assert "or `corruption='state'`" in refusal(student("sdar"), block_ratios="independent")
    states = {"corruption": "state", "block_ratios": "independent", "block_context": "noisy", "filled_tail_share": 0.0}
    assert "needs `block_context='clean'`" in refusal(student("sdar"), **states)
    nameless = tiny_model(LLaDAModelLM, **OF_WORDS, kv_heads=1, attention="block_causal")
    assert "does not state the size of its blocks" in refusal(nameless)
    comparing = {"kl_weight": 1.0, "layout": "single", "teacher": student("sdar")}
    assert "The teacher attends block by block (absolute grid)" in refusal(plain, **comparing)
    packed = student("sdar")
    packed.config._attn_implementation = "flash_attention_2"
    assert "cannot be trained with `attn_implementation` 'flash_attention_2'" in refusal(packed)
    assert "`ddo_weight` needs a `teacher`" in refusal(student("sdar"), ddo_weight=1.0)


@pytest.mark.parametrize(
    ("name", "decoding"),
    [
        ("sdar", {"preset": "sdar", "threshold": 0.3}),
        ("fast_dllm_v2", {}),
        ("sdar", {"preset": "sdar_static"}),
        pytest.param("fast_dllm_v2", {"preset": "sdar", "threshold": 0.3}, marks=pytest.mark.slow),
        pytest.param("sdar", {}, marks=pytest.mark.slow),
        pytest.param("fast_dllm_v2", {"preset": "sdar_static"}, marks=pytest.mark.slow),
    ],
)
def test_trajectories_of_a_block_causal_teacher_train_its_student(name, decoding, tiny_checkpoint, tmp_path):
    tokenizer, teacher = AutoTokenizer.from_pretrained(tiny_checkpoint), student(name)
    prompts = [{"prompt": " ".join(WORDS[: 1 + index % 5])} for index in range(6)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    fields = {"max_new_tokens": 14, **decoding}
    config = ExtractionConfig(str(tmp_path / "problems.jsonl"), tmp_path / "out", "tiny", decoding=fields)
    extract_trajectories(teacher, tokenizer, config)
    trajectories = load_trajectories(tmp_path / "out")
    for row in trajectories:
        start, size = len(row["prompt_ids"]), teacher.attention_block_size
        blocks = [(start + position) // size for position in range(len(row["response_ids"]))]
        order = np.argsort(row["commit_steps"], kind="stable")
        assert (np.diff(np.array(blocks)[order]) >= 0).all()  # block after block of the absolute grid
        assert read_decode_config(row)["attention"] == "block_causal"
        assert decoding or len(set(row["commit_steps"])) == len(row["commit_steps"])
    trainer = make_trainer(tmp_path, tmp_path, model=student(name), train_dataset=trajectories, max_steps=2)
    trainer.train()
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
