"""On-policy uniform training (DMax, arXiv 2604.08302): the loss where own predictions stand in place of the masks."""

import pytest
import torch
import torch.nn.functional as F

from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from tests.helpers.trajectory_rows import make_trainer


@pytest.mark.parametrize("layout", ["single", "complementary"])
def test_loss_and_gradient_are_those_of_a_second_forward(layout, tiny_checkpoint, tmp_path):
    options = {"layout": layout, "entropy_weight": 0.0, "max_mask_ratio": 0.7}
    trainer = make_trainer(tiny_checkpoint, tmp_path, own_prediction_weight=0.5, **options)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(6)])
    trainer.add_targets(batch, trainer.corrupt(batch, step=0, progress=0.5))
    loss, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    loss.backward()
    model, views = trainer.model, len(batch["supervised"])
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()

    labels, mask = batch["input_ids"].repeat(views, 1), batch["attention_mask"].repeat(views, 1)
    covered = torch.zeros_like(labels, dtype=torch.bool)
    covered[:, -batch["supervised"].shape[2] :] = batch["supervised"].flatten(0, 1)
    logits = model(batch["noisy_ids"], attention_mask=mask).logits
    shown = torch.where(covered, logits.argmax(dim=-1), batch["noisy_ids"])
    again = model(shown, attention_mask=mask).logits
    own = F.cross_entropy(again[covered], labels[covered])
    of_views = covered.unflatten(0, (views, -1))
    masked = sum(
        F.cross_entropy(part[here], label[here])
        for part, label, here in zip(logits.chunk(views), labels.chunk(views), of_views, strict=True)
    )
    (masked + 0.5 * own).backward()
    torch.testing.assert_close(loss, masked + 0.5 * own)
    torch.testing.assert_close(sums["own_cross_entropy"] / sums["own_masked"], own)
    assert (shown[covered] != labels[covered]).any()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert "own_cross_entropy" in trainer.metric_names([])
    assert trainer.take_parts("train" if model.training else "eval")["own_cross_entropy"] > 0


def test_a_recipe_without_a_cross_entropy_has_none_of_it(tmp_path):
    with pytest.raises(ValueError, match="`near_forwards=0` none has one"):
        PseudoTrajectoryConfig(
            str(tmp_path), kl_weight=1.0, near_forwards=0, layout="single", own_prediction_weight=1.0, use_cpu=True
        )
