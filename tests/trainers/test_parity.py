"""The trainer's reference mode against recorded batches of the published training code."""

import json
from typing import Any

import pytest
import torch

from d3llm.modeling import DreamModel, LLaDAModelLM
from d3llm.trainers.corruption import Corruption, Draws, Region, corrupt_reference
from d3llm.trainers.curricula import mask_ratio_bound, window_size_at
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from tests.helpers.golden import GOLDEN


pytestmark = pytest.mark.golden
PATH = GOLDEN / "train" / "d3llm_train.json"
RECORDED: dict[str, Any] = json.loads(PATH.read_text())


def test_recorded_cases_are_there():
    assert RECORDED["cases"] and RECORDED["schedules"] and RECORDED["trajectory_selector"]


def make_batch(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The recorded batch as our collator would have it: regions in one column, shorter ones padded on the right."""
    recorded = case["batch"]
    prompts, length = recorded["prompt_lengths"], len(recorded["input_ids"][0])
    left, width = max(prompts), length - min(prompts)
    rows = []
    for row, (tokens, prompt) in enumerate(zip(recorded["input_ids"], prompts, strict=True)):
        records = torch.tensor(recorded["trajectory"][row] or [[0] * length])
        steps = 1 + (records == case["params"]["mask_token_id"]).sum(dim=0)[prompt:]
        response = recorded["full_lengths"][row] - prompt
        steps[response:] = steps[:response].max()
        room, padding = length - prompt, left - prompt
        rows.append(
            {
                "input_ids": torch.tensor([0] * padding + tokens + [0] * (width - room)),
                "attention_mask": torch.tensor([0] * padding + [1] * length + [0] * (width - room)),
                "commit_steps": torch.nn.functional.pad(steps, (0, width - room)),
                "response_lengths": torch.tensor(response),
                "canvas_lengths": torch.tensor(room),
                "ended": torch.tensor(True),
                "index": torch.tensor(row),
            }
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def recorded_corruption(case: dict[str, Any], batch: dict[str, torch.Tensor]) -> Corruption:
    """The corruption of the recorded choices: windows, and numbers of random masks in the order of their windows."""
    params, size = case["params"], len(batch["index"])
    dream = case["family"] == "dream"
    width = batch["commit_steps"].shape[1]
    window_size = None if params["use_blockwise_loss"] is False else params["block_size"]
    window, positions = torch.zeros(size), torch.zeros(size, width)
    by_trajectory = torch.tensor(
        [bool(t) and not params["use_naive_random_mask"] for t in case["batch"]["trajectory"]]
    )
    if window_size is not None:
        span = batch["canvas_lengths"] if dream else batch["response_lengths"]
        window = (torch.tensor(params["chosen_block"]) + 0.5) / (span // window_size + 1)
        uniform_draws = iter(params["uniform_draws"] or [])
        for row in (~by_trajectory).nonzero()[:, 0].tolist():
            numbers = torch.tensor(next(uniform_draws))
            start = params["chosen_block"][row] * window_size
            positions[row, start : start + len(numbers)] = numbers
    return corrupt_reference(
        Region(batch["commit_steps"], batch["response_lengths"], batch["canvas_lengths"], batch["ended"]),
        Draws(torch.zeros(size), window, torch.zeros(size), torch.zeros(size), positions, torch.ones(size)),
        use_trajectory=by_trajectory,
        complementary=params["use_complementary_loss"],
        mask_ratio_range=(params["mask_ratio"], params["mask_ratio"]),
        window_size=window_size,
        windows_over_canvas=dream,
    )


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["id"])
def test_masks_losses_and_gradients(case: dict[str, Any], golden, tmp_path):
    params, expected = case["params"], case["expected"]
    dream = case["family"] == "dream"
    batch = make_batch(case)
    corruption = recorded_corruption(case, batch)

    views = [("noisy_batch", "masked_indices"), ("noisy_batch_rev", "masked_indices_rev")][: len(corruption.masked)]
    noisy = batch["input_ids"].repeat(len(views), 1, 1)
    width = corruption.masked.shape[-1]
    noisy[..., -width:].masked_fill_(corruption.masked, params["mask_token_id"])
    valid = batch["attention_mask"].bool()
    for view, (noisy_name, masked_name) in enumerate(views):
        assert noisy[view][valid].tolist() == [token for row in expected[noisy_name] for token in row]
        supervised = torch.zeros_like(valid)
        supervised[:, -width:] = corruption.supervised[view]
        assert supervised[valid].tolist() == [bool(flag) for row in expected[masked_name] for flag in row]

    model = (DreamModel if dream else LLaDAModelLM).from_pretrained(golden / case["checkpoint"]).eval()
    args = PseudoTrajectoryConfig(
        output_dir=str(tmp_path),
        masking="reference",
        reference_windows="canvas" if dream else "response",
        layout="complementary" if params["use_complementary_loss"] else "single",
        entropy_weight=params["entropy_weight"],
        entropy_temperature=params["temperature"],
        complementary_entropy=dream,
        normalization="microbatch",
        loss_scale=0.25,
        report_to="none",
        use_cpu=True,
    )
    trainer = PseudoTrajectoryTrainer(model, args)
    trainer.student = trainer.student.__class__(**vars(trainer.student) | {"mask_token_id": params["mask_token_id"]})
    trainer.add_targets(batch, corruption)
    loss, sums = trainer.compute_loss(model, batch, return_outputs=True)
    loss.backward()

    assert sums["masked"] == expected["num_masked"]
    assert sums["complementary_masked"] == (expected["num_masked_rev"] or 0)
    assert sums["correct"] == expected["num_correct"]
    close = {"rel": 2e-4, "abs": 2e-5}
    assert sums["cross_entropy"].item() == pytest.approx(expected["ce_loss"] * expected["num_masked"], **close)
    if params["use_complementary_loss"]:
        total = expected["ce_loss_rev"] * expected["num_masked_rev"]
        assert sums["complementary_cross_entropy"].item() == pytest.approx(total, **close)
    certainty = expected["entropy_loss"] * expected["num_correct"]
    assert sums["certainty"].item() == pytest.approx(certainty, **close)
    if expected["num_correct_rev"] is not None:
        assert sums["complementary_correct"] == expected["num_correct_rev"]
        certainty = expected["entropy_loss_rev"] * expected["num_correct_rev"]
        assert sums["complementary_certainty"].item() == pytest.approx(certainty, **close)
    assert loss.item() == pytest.approx(expected["total_loss"], **close)

    if dream:  # its embedding has a `padding_idx`, whose row gets no gradient
        model.get_input_embeddings().weight.grad[model.config.pad_token_id] = 0
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert norm == pytest.approx(expected["grad_norm_total"], rel=1e-3)
    for name, recorded in expected["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(recorded, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("schedule", RECORDED["schedules"], ids=lambda schedule: schedule["family"])
def test_curricula(schedule: dict[str, Any]):
    for step, _, window_size, mask_ratio in schedule["rows"]:
        progress = step / schedule["max_steps"]
        assert window_size_at(progress, schedule["progressive_block_sizes"]) == window_size
        bound = mask_ratio_bound(progress, schedule["min_mask_ratio"], schedule["max_mask_ratio"])
        assert bound == pytest.approx(mask_ratio)


def test_record_chosen_by_the_ratio():
    for case in RECORDED["trajectory_selector"]:
        start, end, records = case["block_start"], case["block_end"], case["n_steps"]
        # One token per record, left to right: what is masked tells which record it was.
        # The canvas is four windows long, so that a window starts at one of its five multiples.
        size = end - start
        length = 4 * size
        steps = torch.arange(2, length + 2).clamp(max=records)[None]
        whole = torch.tensor([length])
        corruption = corrupt_reference(
            Region(steps, whole, whole, torch.tensor([True])),
            Draws(
                *(torch.tensor([u]) for u in (0.0, (start // size + 0.5) / 5, 0.0, 0.0)),
                torch.zeros(1, length),
                torch.ones(1),
            ),
            use_trajectory=torch.tensor([True]),
            complementary=False,
            mask_ratio_range=(case["mask_ratio"], case["mask_ratio"]),
            window_size=size,
            windows_over_canvas=True,
        )
        masked = (steps[0, start:end] > case["index"] + 1).tolist()
        assert corruption.supervised[0, 0, start:end].tolist() == masked, case
