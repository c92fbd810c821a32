"""The loss of routers: a model with experts adds its own, as its config says, each micro-batch by its rows."""

from typing import Any

import pytest
import torch

from d3llm.modeling import LLaDAMoEModelLM, SDARMoeForCausalLM
from d3llm.modeling.experts import load_balancing_loss
from d3llm.trainers.block_causal import block_causal_mask
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from tests.helpers.models import OF_WORDS, tiny_model
from tests.helpers.trajectory_rows import make_trainer


WEIGHT = 0.3


def student(family: type, **config: Any) -> Any:
    torch.manual_seed(0)
    model = tiny_model(family, **OF_WORDS, kv_heads=1)
    model.config.update({"router_aux_loss_coef": WEIGHT, **config})
    return model


def gradients(trainer: PseudoTrajectoryTrainer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", [LLaDAMoEModelLM, SDARMoeForCausalLM])
def test_it_is_the_loss_of_a_forward_of_the_model(family, tmp_path):
    trainer = make_trainer(tmp_path, tmp_path, model=student(family, output_router_logits=True), layout="single")
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(6)])
    trainer.add_targets(batch, trainer.corrupt(batch, step=0, progress=0.5))
    loss, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    found = gradients(trainer, loss)
    model, mask, noisy = trainer.model, batch["attention_mask"], batch["noisy_ids"]
    inputs = {"input_ids": noisy, "attention_mask": mask}
    if family is SDARMoeForCausalLM:
        inputs["input_ids"] = torch.cat([noisy, batch["input_ids"]], dim=1)
        inputs["attention_mask"] = block_causal_mask(mask, batch["blocks"], doubled=True)
        inputs["position_ids"] = torch.arange(mask.shape[1]).repeat(1, 2)
        keep = mask.repeat(1, 2).bool()
        of_layers = model.base_model(**inputs, output_router_logits=True).router_logits
        expected = load_balancing_loss(model.config, tuple(logits[keep.flatten()] for logits in of_layers))
    else:
        expected = model(**inputs, output_router_logits=True).aux_loss
    torch.testing.assert_close(sums["aux_loss"] / sums["routed"], expected)
    model.config.output_router_logits = False
    plain = trainer.compute_loss(model, batch)
    torch.testing.assert_close(loss, plain + WEIGHT * expected)
    without = gradients(trainer, plain)
    gates = [name for name in found if "gate.weight" in name]
    assert gates and all(not torch.equal(found[name], without[name]) for name in gates)


def test_micro_batches_count_by_their_rows(tmp_path):
    model = student(LLaDAMoEModelLM, output_router_logits=True)
    trainer = make_trainer(tmp_path, tmp_path, model=model, layout="single")
    rows = [trainer.train_dataset[index] for index in range(6)]
    batches = [trainer.data_collator(part) for part in (rows[:2], rows[2:])]
    for batch in batches:
        trainer.add_targets(batch, trainer.corrupt(batch, step=0, progress=0.5))
    counts = sum(batch["counts"] for batch in batches)
    of_step, alone = 0.0, []
    for batch in batches:
        loss, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True, num_items_in_batch=counts)
        alone.append((sums["aux_loss"] / sums["routed"], sums["routed"]))
        trainer.model.config.output_router_logits = False
        of_step += loss - trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
        trainer.model.config.output_router_logits = True
    assert [float(rows) for _, rows in alone] == [2, 4]
    torch.testing.assert_close(of_step, WEIGHT * (alone[0][0] + 2 * alone[1][0]) / 3)


def test_it_is_logged_where_the_config_asks_for_it(tmp_path):
    model = student(LLaDAMoEModelLM, output_router_logits=True)
    asked = make_trainer(tmp_path, tmp_path / "a", model=model, max_steps=1)
    asked.train()
    assert asked._sum_of_losses({"eval_loss": 4.0, "eval_aux_loss": 2.0}) == 4.0
    assert asked.state.log_history[0]["aux_loss"] > 0 and "aux_loss" in asked.metric_names([])
    plain = make_trainer(tmp_path, tmp_path / "b", model=student(LLaDAMoEModelLM), max_steps=1)
    plain.train()
    assert "aux_loss" not in plain.state.log_history[0] and "aux_loss" not in plain.metric_names([])
