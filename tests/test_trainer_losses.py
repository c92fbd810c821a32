"""The chunked losses against the plain ones over all logits."""

import pytest
import torch
import torch.nn.functional as F

from d3llm.trainers import losses
from d3llm.trainers.losses import token_losses


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_teacher", [False, True])
def test_values_and_gradients_equal_the_dense_ones(bias, with_teacher, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 3 * 50)  # three positions at a time
    torch.manual_seed(0)
    hidden, head = torch.randn(10, 8, requires_grad=True), torch.nn.Linear(8, 50, bias=bias)
    teacher_hidden, teacher_head = torch.randn(10, 8), torch.nn.Linear(8, 50)
    with torch.no_grad():
        head.weight *= 5
        teacher_head.weight *= 5
    labels = torch.randint(50, (10,))
    weights = torch.rand(3, 10)
    parameters = [hidden, *head.parameters()]

    logits = head(hidden)
    log_p, log_q = logits.log_softmax(-1), (logits / 0.5).log_softmax(-1)
    log_r = teacher_head(teacher_hidden).log_softmax(-1)
    expected = [
        F.cross_entropy(logits, labels, reduction="none"),
        -(log_q.exp() * log_q).sum(-1),
        F.kl_div(log_p, log_r, log_target=True, reduction="none").sum(-1) * with_teacher,
    ]
    expected_grads = torch.autograd.grad(
        sum((w * part).sum() for w, part in zip(weights, expected, strict=True)), parameters
    )

    teacher = (teacher_hidden, teacher_head) if with_teacher else None
    actual = token_losses(hidden, head, labels, 0.5, teacher)
    parts = [actual.cross_entropy, actual.certainty, actual.divergence]
    grads = torch.autograd.grad(sum((w * part).sum() for w, part in zip(weights, parts, strict=True)), parameters)
    for got, wanted in zip(parts, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, wanted, atol=5e-5, rtol=5e-5)
    torch.testing.assert_close(actual.entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=1e-5)
    assert torch.equal(actual.correct, logits.argmax(-1) == labels)


def test_nothing_picked_is_a_zero_with_gradients():
    hidden, head = torch.randn(0, 8, requires_grad=True), torch.nn.Linear(8, 50)
    token_losses(hidden, head, torch.zeros(0, dtype=torch.long), 0.5).cross_entropy.sum().backward()
    assert head.weight.grad.abs().sum() == 0


def test_bfloat16_under_autocast_stays_close():
    torch.manual_seed(0)
    hidden, head = torch.randn(6, 16, requires_grad=True), torch.nn.Linear(16, 50, bias=False)
    labels = torch.randint(50, (6,))
    plain = token_losses(hidden, head, labels, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = token_losses(hidden, head, labels, 0.5)
    assert mixed.cross_entropy.dtype == torch.float32
    torch.testing.assert_close(mixed.cross_entropy, plain.cross_entropy, atol=0.05, rtol=0.05)
    mixed.cross_entropy.sum().backward()
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32


def test_saturated_logits_have_no_nan():
    hidden = torch.tensor([[200.0]], requires_grad=True)
    head = torch.nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [-1.0], [0.0]]))
    result = token_losses(hidden, head, torch.tensor([1]), 0.5)
    (result.cross_entropy + result.certainty).sum().backward()
    assert result.certainty.item() == 0
    assert torch.isfinite(hidden.grad).all()
