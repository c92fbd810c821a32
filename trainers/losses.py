"""Losses of masked positions from hidden states, without a tensor of all positions × vocabulary."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


CHUNK_ELEMENTS = 2**24  # logits that exist at a time, in float32 64 MiB


@dataclass(frozen=True)
class TokenLosses:
    """
    What the losses are made of, for M positions.

    Attributes:
        cross_entropy (`Tensor` of shape `(M,)`): -log p(label), nats.
        certainty (`Tensor` of shape `(M,)`): Entropy of softmax(logits / temperature), nats: the certainty-forcing
            loss of dParallel (arXiv 2509.26488), for positions that are right already.
        divergence (`Tensor` of shape `(M,)`): KL(teacher ‖ student), nats; zero without a teacher.
        entropy (`Tensor` of shape `(M,)`): Entropy at temperature 1, nats, as the decoder compares it with its
            threshold; no gradient.
        correct (`Tensor` of shape `(M,)`): Whether the likeliest token is the label.
    """

    cross_entropy: Tensor
    certainty: Tensor
    divergence: Tensor
    entropy: Tensor
    correct: Tensor


def token_losses(
    hidden: Tensor,
    head: torch.nn.Linear,
    labels: Tensor,
    temperature: float,
    teacher: tuple[Tensor, torch.nn.Linear] | None = None,
) -> TokenLosses:
    """
    Runs the head on chunks of positions, keeps a few numbers of each, and makes the logits again in the backward pass.

    Args:
        hidden (`Tensor` of shape `(M, hidden_size)`): Last hidden states, of the rows that predict the positions.
        head (`torch.nn.Linear`): The LM head.
        labels (`Tensor` of shape `(M,)`): Tokens.
        temperature (`float`): Of the certainty loss.
        teacher (`tuple[Tensor, torch.nn.Linear]`, *optional*): Hidden states `(M, ...)` and head of the teacher.

    Returns:
        [`TokenLosses`]: In float32.
    """
    device = hidden.device.type
    # Autocast does not reach into a backward pass, so the cast is made here, where autograd sees it.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    student = hidden.to(dtype), head.weight.to(dtype), bias
    if teacher is None:
        fixed = None, None, None
    else:
        states, teacher_head = teacher
        fixed = states.to(dtype).detach(), teacher_head.weight.detach().to(dtype), teacher_head.bias
    with torch.autocast(device, enabled=False):
        return TokenLosses(*_ChunkedHead.apply(*student, labels, temperature, *fixed))


class _ChunkedHead(torch.autograd.Function):
    """
    With z the logits, p = softmax(z), q = softmax(z / T), r the teacher's distribution, H the entropy of q:

        d(-log p_y)/dz = p - 1_y          dH/dz = -q (log q + H) / T          dKL(r ‖ p)/dz = p - r
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, temperature, teacher_hidden, teacher_weight, teacher_bias):
        ctx.save_for_backward(hidden, weight, bias, labels, teacher_hidden, teacher_weight, teacher_bias)
        ctx.temperature = temperature
        results = hidden.new_zeros(4, len(hidden), dtype=torch.float32)
        correct = torch.zeros_like(labels, dtype=torch.bool)
        for part in _chunks(hidden, weight):
            logits = F.linear(hidden[part], weight, bias).float()
            log_p = logits.log_softmax(dim=-1)
            results[0, part] = -log_p.gather(1, labels[part, None])[:, 0]
            correct[part] = logits.argmax(dim=-1) == labels[part]
            results[1, part] = _entropy((logits / temperature).log_softmax(dim=-1))
            results[3, part] = _entropy(log_p)
            if teacher_hidden is not None:
                log_r = F.linear(teacher_hidden[part], teacher_weight, teacher_bias).float().log_softmax(dim=-1)
                results[2, part] = (log_r.exp() * (log_r - log_p)).sum(dim=-1)
        cross_entropy, certainty, divergence, entropy = results.unbind()
        ctx.mark_non_differentiable(entropy, correct)
        return cross_entropy, certainty, divergence, entropy, correct

    @staticmethod
    def backward(ctx, of_cross_entropy, of_certainty, of_divergence, _entropy_grad, _correct_grad):
        hidden, weight, bias, labels, teacher_hidden, teacher_weight, teacher_bias = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        bias_grad = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        for part in _chunks(hidden, weight):
            logits = F.linear(hidden[part], weight, bias).float()
            log_q = (logits / ctx.temperature).log_softmax(dim=-1)
            grad = log_q.exp() * (log_q + _entropy(log_q)[:, None]) * (-of_certainty[part, None] / ctx.temperature)
            p = logits.softmax(dim=-1)
            grad += p * of_cross_entropy[part, None]
            grad.scatter_add_(1, labels[part, None], -of_cross_entropy[part, None])
            if teacher_hidden is not None:
                r = F.linear(teacher_hidden[part], teacher_weight, teacher_bias).float().softmax(dim=-1)
                grad += (p - r) * of_divergence[part, None]
            if bias_grad is not None:
                bias_grad += grad.sum(dim=0)
            grad = grad.to(weight.dtype)
            if hidden_grad is not None:
                hidden_grad[part] = grad @ weight
            if weight_grad is not None:
                weight_grad += grad.T @ hidden[part]
        weight_grad = None if weight_grad is None else weight_grad.to(weight.dtype)
        bias_grad = None if bias_grad is None else bias_grad.to(bias.dtype)
        return hidden_grad, weight_grad, bias_grad, None, None, None, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    rows = max(1, CHUNK_ELEMENTS // len(weight))
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)]


def _entropy(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
