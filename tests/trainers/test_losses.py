"""The chunked losses against the plain ones over all logits, in numbers and in memory."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from d3llm.modeling import LLaDAConfig, LLaDAModelLM
from d3llm.trainers import losses
from d3llm.trainers.losses import token_losses
from tests.helpers.trajectory_rows import make_trainer


class Allocations(TorchDispatchMode):
    """
    Notes what the operations inside allocate, in the backward pass too.

    Attributes:
        largest (`int`): Elements of the largest tensor.
        peak (`int`): Largest sum of the bytes that are in use at a time.
    """

    def __init__(self):
        super().__init__()
        self.largest = self.peak = 0
        self.in_use = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(x.untyped_storage()) for x in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if id(tensor.untyped_storage()) not in given:  # no view, nor a result in place
                self.in_use[tensor.untyped_storage()] = tensor.untyped_storage().nbytes()
                self.largest = max(self.largest, tensor.numel())
        self.peak = max(self.peak, sum(self.in_use.values()))
        return result


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


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
    weights = torch.rand(4, 10)
    parameters = [hidden, *head.parameters()]

    logits = head(hidden)
    log_p, log_q = logits.log_softmax(-1), (logits / 0.5).log_softmax(-1)
    log_r = teacher_head(teacher_hidden).log_softmax(-1)
    expected = [
        F.cross_entropy(logits, labels, reduction="none"),
        -(log_q.exp() * log_q).sum(-1),
        F.kl_div(log_p, log_r, log_target=True, reduction="none").sum(-1) * with_teacher,
        F.cross_entropy(logits, log_r.argmax(-1), reduction="none") * with_teacher,
    ]
    expected_grads = torch.autograd.grad(
        sum((w * part).sum() for w, part in zip(weights, expected, strict=True)), parameters
    )

    teacher = (teacher_hidden, teacher_head) if with_teacher else None
    actual = token_losses(hidden, head, labels, 0.5, teacher)
    parts = [actual.cross_entropy, actual.certainty, actual.divergence, actual.guess_cross_entropy]
    grads = torch.autograd.grad(sum((w * part).sum() for w, part in zip(weights, parts, strict=True)), parameters)
    for got, wanted in zip(parts, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, wanted, atol=5e-5, rtol=5e-5)
    torch.testing.assert_close(actual.entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=1e-5)
    assert torch.equal(actual.correct, logits.argmax(-1) == labels)
    of_teacher = F.cross_entropy(log_r, labels, reduction="none") * with_teacher, -log_r.amax(-1) * with_teacher
    for got, wanted in zip(
        (actual.teacher_cross_entropy, actual.teacher_guess_cross_entropy), of_teacher, strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        assert not got.requires_grad


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


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])  # of the logits: entropies of about 11, 5 and 2 nats
def test_entropies_are_exact_over_a_vocabulary_of_real_size(spread):
    vocabulary, width, temperature = 126_464, 16, 0.5
    torch.manual_seed(0)
    hidden, head = torch.randn(8, width), torch.nn.Linear(width, vocabulary, bias=False)
    with torch.no_grad():
        head.weight.copy_(spread * torch.randn(vocabulary, width) + 5)  # all logits far from 0
        result = token_losses(hidden, head, torch.randint(vocabulary, (8,)), temperature)
        logits = head(hidden).double()
    for found, at in ((result.entropy, 1.0), (result.certainty, temperature)):
        log_p = (logits / at).log_softmax(-1)
        torch.testing.assert_close(found.double(), -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows_at_a_time", [3, 10])
def test_a_second_backward_pass_gives_the_same_gradients(rows_at_a_time, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", rows_at_a_time * 50)
    torch.manual_seed(0)
    hidden, head = torch.randn(10, 8, requires_grad=True), torch.nn.Linear(8, 50)
    found = token_losses(hidden, head, torch.randint(50, (10,)), 0.5)
    loss = (found.cross_entropy + found.certainty).sum()
    first, second = (torch.autograd.grad(loss, [hidden, *head.parameters()], retain_graph=True) for _ in range(2))
    for once, again in zip(first, second, strict=True):
        torch.testing.assert_close(once, again, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("positions", "recomputed"), [(10, 0), (12, 6), (30, 20)])
def test_logits_of_the_last_chunk_are_not_computed_twice(positions, recomputed, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 10 * 50)
    hidden, head = torch.randn(positions, 8, requires_grad=True), torch.nn.Linear(8, 50, bias=False)
    with FlopCounterMode(display=False) as flops:
        token_losses(hidden, head, torch.zeros(positions, dtype=torch.long), 0.5).certainty.sum().backward()
    # Two products per position, for its logits and its gradient. The counter does not see the one added in place.
    assert flops.get_total_flops() == (2 * positions + recomputed) * 2 * 8 * 50


def plain_losses(hidden, head, labels, temperature) -> list[torch.Tensor]:
    """The way over all logits, for comparison."""
    logits = head(hidden).float()
    log_q = (logits / temperature).log_softmax(-1)
    return [F.cross_entropy(logits, labels, reduction="none"), -(log_q.exp() * log_q).sum(-1)]


@pytest.mark.parametrize("with_teacher", [False, True])
def test_the_loss_of_a_batch_of_llada_takes_less_than_a_gigabyte(with_teacher):
    """Batch 4 x 384, vocabulary 126,464, on tensors without contents. A narrow model, whose weights weigh little."""
    positions, vocabulary, width = 4 * 384, 126_464, 64
    with FakeTensorMode():
        hidden, teacher_hidden = torch.randn(positions, width, requires_grad=True), torch.randn(positions, width)
        head, teacher_head = (torch.nn.Linear(width, vocabulary, bias=False) for _ in range(2))
        labels = torch.zeros(positions, dtype=torch.long)
        teacher = (teacher_hidden, teacher_head) if with_teacher else None
        with Allocations() as chunked:
            found = token_losses(hidden, head, labels, 0.5, teacher)
            (found.cross_entropy + found.certainty + found.divergence).sum().backward()
        with Allocations() as plain:
            sum(plain_losses(hidden, head, labels, 0.5)).sum().backward()
    assert plain.largest == positions * vocabulary and plain.peak > 2 * 4 * plain.largest
    assert chunked.largest <= losses.CHUNK_ELEMENTS
    assert chunked.peak < 2**30


@pytest.mark.parametrize("with_teacher", [False, True])
def test_a_step_never_has_the_logits_of_all_positions(with_teacher, tiny_checkpoint, tmp_path, monkeypatch):
    vocabulary = 4096
    tiny = LLaDAModelLM.from_pretrained(tiny_checkpoint).config.to_dict()
    model, teacher = (
        LLaDAModelLM(LLaDAConfig(**{**tiny, "vocab_size": vocabulary, "embedding_size": vocabulary})) for _ in range(2)
    )
    model.save_pretrained(tmp_path / "model")
    options: dict[str, Any] = {"layout": "single", "kl_weight": 1.0, "teacher": teacher} if with_teacher else {}
    trainer = make_trainer(tmp_path / "model", tmp_path, max_mask_ratio=1.0, eos_tail=24, **options)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(16)])
    trainer.add_targets(batch, trainer.corrupt(batch, step=0, progress=1.0))
    weights = model.get_output_embeddings().weight.numel()
    assert batch["supervised"].sum() * vocabulary > 4 * weights
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 8 * vocabulary)
    with Allocations() as step:
        trainer.compute_loss(trainer.model, batch).backward()
    assert step.largest == weights  # their gradient is the largest tensor of all
