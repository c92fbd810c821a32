"""Training of block-causal models: one forward of [noisy ; clean] is as many forwards as there are blocks."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from d3llm.modeling import DreamModel, Fast_dLLM_QwenForCausalLM, LLaDAModelLM, SDARForCausalLM
from d3llm.trainers.block_causal import BlockGrid
from tests.helpers.models import OF_WORDS, tiny_model
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


@pytest.mark.parametrize("context", ["clean", "noisy"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
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
    from d3llm.generation.canvas import Canvas

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
    options = {"max_steps": 40, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "min_mask_ratio": 0.5}
    options |= {"max_mask_ratio": 0.5, "train_dataset": random_trajectories(8)}
    trainer = make_trainer(tmp_path, tmp_path, model=model, **options)
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    assert last["cross_entropy"] < 0.6 * first["cross_entropy"]
    assert last["attention_block_size"] == model.attention_block_size
