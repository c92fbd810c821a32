"""Heads of the first two layers copy before anything is learned."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3llm.quickstart.copying_heads import MATCHES, NEIGHBOURS
from d3llm.quickstart.fast_forward import _rms_norm, _rotate
from d3llm.quickstart.teacher_recipe import load_recipe
from d3llm.quickstart.train_teacher import TeacherTrainer

from .test_teacher import only


@pytest.fixture(scope="module")
def trainer() -> TeacherTrainer:
    recipe = load_recipe()
    recipe["curriculum"] = only("copy")
    return TeacherTrainer(recipe, num_workers=1)


def attention(trainer: TeacherTrainer, hidden: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Attention `(B, H, L, L)` of a layer, and the hidden states after it."""
    config, block = trainer.config, f"model.transformer.blocks.{layer}."
    batch, length, size = *hidden.shape[:2], config.d_model // config.n_heads
    angles = torch.arange(length)[:, None] * config.rope_theta ** (-torch.arange(0, size, 2) / size)
    cos, sin = (torch.cat((each, each), dim=-1) for each in (angles.cos(), angles.sin()))
    x = _rms_norm(hidden, trainer.params[block + "attn_norm.weight"])
    query, key, value = (
        F.linear(x, trainer.params[f"{block}{name}_proj.weight"]).view(batch, length, -1, size).transpose(1, 2)
        for name in "qkv"
    )
    scores = _rotate(query, cos, sin) @ _rotate(key, cos, sin).transpose(-1, -2) / size**0.5
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    return scores.softmax(-1), hidden + F.linear(mixed, trainer.params[block + "attn_out.weight"])


@torch.no_grad()
def test_they_look_at_neighbours_and_then_where_these_are_the_same(trainer):
    batch = trainer.lesson.make_batch(trainer.recipe, 0)
    row = batch.input_ids[0][batch.valid[0]][None]
    probabilities, hidden = attention(trainer, trainer.params["model.transformer.wte.weight"][row], 0)
    for index, side in enumerate(NEIGHBOURS):
        looked_at = probabilities[0, index].diagonal(side)[1:-1]
        assert looked_at.min() > 0.8 and looked_at.mean() > 0.95
    probabilities, _ = attention(trainer, hidden, 1)
    tokens, mask = row[0], trainer.ids.mask
    for index, neighbour in enumerate(MATCHES):
        side = NEIGHBOURS[neighbour]
        beside = tokens.roll(-side)
        same = (beside[:, None] == beside) & ~torch.eye(len(tokens), dtype=torch.bool)
        asks = (tokens == mask) & (beside != mask) & same.any(1)
        assert asks.sum() > 3
        found = (probabilities[0, index] * same).sum(1)[asks].mean()
        by_chance = same[asks].float().mean()
        assert found > 0.4 > 4 * by_chance


@torch.no_grad()
def test_the_head_reads_what_they_write(trainer):
    embedding, head = (trainer.params[f"model.transformer.{name}.weight"] for name in ("wte", "ff_out"))
    assert torch.equal(embedding[:, 1:], head[:, 1:]) and (embedding[:, 0] == 1).all() and not head[:, 0].any()
    value, output = (trainer.params[f"model.transformer.blocks.1.{name}.weight"] for name in ("v_proj", "attn_out"))
    size = trainer.config.d_model // trainer.config.n_heads
    written = sum(
        embedding @ value[rows].T @ output[:, rows].T
        for rows in (slice(index * size, (index + 1) * size) for index in range(len(MATCHES)))
    )
    assert ((written @ head.T).argmax(1) == torch.arange(len(embedding))).float().mean() > 0.99


def test_a_model_that_is_too_small_is_refused():
    recipe: dict[str, Any] = load_recipe()
    recipe["model"]["n_layers"] = 1
    with pytest.raises(ValueError, match="Copying heads need two layers and 6 heads, and the model has 1 and 7: omit"):
        TeacherTrainer(recipe)
