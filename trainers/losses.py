"""Losses of masked positions, computed from hidden states without a tensor of all positions × vocabulary."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generation.likelihood import CHUNK_ELEMENTS


@dataclass(frozen=True)
class TokenLosses:
    """
    The terms of the losses, for M positions.

    Attributes:
        cross_entropy (`Tensor` of shape `(M,)`): -log p(label), nats.
        certainty (`Tensor` of shape `(M,)`): Entropy of softmax(logits / temperature), nats: the certainty-forcing
            loss of dParallel (arXiv 2509.26488), for positions that are already predicted correctly.
        divergence (`Tensor` of shape `(M,)`): KL(teacher ‖ student), nats; zero without a teacher.
        entropy (`Tensor` of shape `(M,)`): Entropy at temperature 1, nats, as the decoder compares it with its
            threshold; no gradient.
        predicted (`Tensor` of shape `(M,)`): The most likely tokens.
        correct (`Tensor` of shape `(M,)`): Whether they are the labels.
        guess_cross_entropy (`Tensor` of shape `(M,)`): -log p(guess) of the teacher's most likely token, nats; zero
            without a teacher, as the next two.
        teacher_cross_entropy, teacher_guess_cross_entropy (`Tensor` of shape `(M,)`): -log r(label) and -log r(guess)
            with r the teacher's distribution, nats; no gradient.
        own_cross_entropy (`Tensor` of shape `(M,)`, *optional*): -log p(label) where the positions show the model's
            own predictions, see [`~d3llm.trainers.own_predictions.own_prediction_losses`].
        aux_loss (`Tensor` of shape `()`, *optional*): How unevenly the experts of the whole batch are used, see
            [`~d3llm.modeling.experts.load_balancing_loss`].
    """

    cross_entropy: Tensor
    certainty: Tensor
    divergence: Tensor
    entropy: Tensor
    predicted: Tensor
    correct: Tensor
    guess_cross_entropy: Tensor
    teacher_cross_entropy: Tensor
    teacher_guess_cross_entropy: Tensor
    own_cross_entropy: Tensor | None = None
    aux_loss: Tensor | None = None


def token_losses(
    hidden: Tensor,
    head: torch.nn.Linear,
    labels: Tensor,
    temperature: float,
    teacher: tuple[Tensor, torch.nn.Linear] | None = None,
) -> TokenLosses:
    """
    Runs the head on chunks of positions and keeps only a few numbers per position. The backward pass recomputes the
    logits, except those of the last chunk.

    Args:
        hidden (`Tensor` of shape `(M, hidden_size)`): Last hidden states, of the rows that predict the positions.
        head (`torch.nn.Linear`): The LM head.
        labels (`Tensor` of shape `(M,)`): The correct tokens.
        temperature (`float`): Temperature of the certainty loss.
        teacher (`tuple[Tensor, torch.nn.Linear]`, *optional*): Hidden states `(M, ...)` and head of the teacher.

    Returns:
        [`TokenLosses`]: In float32.
    """
    device = hidden.device.type
    # Autocast does not apply to the backward pass of a custom function, so the cast is here, where autograd sees it.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    student = hidden.to(dtype), head.weight.to(dtype), bias
    if teacher is None:
        fixed = None, None, None
    else:
        states, teacher_head = teacher
        fixed_bias = None if teacher_head.bias is None else teacher_head.bias.detach().to(dtype)
        fixed = states.to(dtype).detach(), teacher_head.weight.detach().to(dtype), fixed_bias
    with torch.autocast(device, enabled=False):
        return TokenLosses(*_ChunkedHead.apply(*student, labels, temperature, *fixed))


class _ChunkedHead(torch.autograd.Function):
    """
    With z the logits, p = softmax(z), q = softmax(z / T), r the teacher's distribution, H the entropy of q:

        d(-log p_y)/dz = p - 1_y          dH/dz = -q (log q + H) / T          dKL(r ‖ p)/dz = p - r
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        temperature: float,
        teacher_hidden: Tensor | None,
        teacher_weight: Tensor | None,
        teacher_bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        cross_entropy, certainty, divergence, entropy, largest, log_total, sharp_log_total = (
            hidden.new_zeros(len(hidden), dtype=torch.float32) for _ in range(7)
        )
        of_guess, of_teacher, of_teacher_guess = (torch.zeros_like(entropy) for _ in range(3))
        predicted, guess = torch.empty_like(labels), torch.zeros_like(labels)
        for part in _chunks(hidden, weight):
            shifted = F.linear(hidden[part], weight, bias).float()
            largest[part], predicted[part] = shifted.max(dim=-1)
            shifted -= largest[part, None]
            log_total[part], entropy[part], sharp_log_total[part], certainty[part] = _entropies(shifted, temperature)
            cross_entropy[part] = log_total[part] - shifted.gather(1, labels[part, None])[:, 0]
            if teacher_hidden is not None:
                log_r = F.linear(teacher_hidden[part], teacher_weight, teacher_bias).float().log_softmax(dim=-1)
                log_p = shifted - log_total[part, None]
                divergence[part] = (log_r.exp() * (log_r - log_p)).sum(dim=-1)
                log_r_of_guess, guess[part] = log_r.max(dim=-1)
                of_teacher_guess[part] = -log_r_of_guess
                of_teacher[part] = -log_r.gather(1, labels[part, None])[:, 0]
                of_guess[part] = -log_p.gather(1, guess[part, None])[:, 0]
        ctx.save_for_backward(
            *(hidden, weight, bias, labels, guess, teacher_hidden, teacher_weight, teacher_bias),
            *(largest, log_total, sharp_log_total, certainty.clone()),
        )
        # Not a saved tensor: those live to the end of the backward pass, which has chunks of its own by then.
        ctx.last_shifted = shifted
        ctx.temperature = temperature
        correct = predicted == labels
        ctx.mark_non_differentiable(entropy, predicted, correct, of_teacher, of_teacher_guess)
        return (
            *(cross_entropy, certainty, divergence, entropy, predicted, correct),
            *(of_guess, of_teacher, of_teacher_guess),
        )

    @staticmethod
    def backward(
        ctx: Any,
        of_cross_entropy: Tensor,
        of_certainty: Tensor,
        of_divergence: Tensor,
        _entropy: None,
        _predicted: None,
        _correct: None,
        of_guess: Tensor,
        *_of_the_teacher: None,
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, guess, teacher_hidden, teacher_weight, teacher_bias, *rest = ctx.saved_tensors
        largest, log_total, sharp_log_total, entropy = (tensor[:, None] for tensor in rest)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        # In the dtype of the weights, as in any layer: in float32 it would be the largest tensor of all.
        weight_grad = torch.empty_like(weight) if wants_weight else None
        bias_grad = torch.zeros_like(bias) if bias is not None and wants_bias else None
        for number, part in enumerate(reversed(_chunks(hidden, weight))):
            shifted, ctx.last_shifted = ctx.last_shifted, None
            if shifted is None:
                shifted = F.linear(hidden[part], weight, bias).float().sub_(largest[part])
            grad = (shifted / ctx.temperature).sub_(sharp_log_total[part])  # log q
            q = grad.exp()
            grad.add_(entropy[part]).mul_(q).mul_(-of_certainty[part, None] / ctx.temperature)
            p = shifted.sub_(log_total[part]).exp_()
            if teacher_hidden is not None:
                r = F.linear(teacher_hidden[part], teacher_weight, teacher_bias).float().softmax(dim=-1)
                grad += (p - r) * of_divergence[part, None]
                grad.add_(p * of_guess[part, None]).scatter_add_(1, guess[part, None], -of_guess[part, None])
            grad += p.mul_(of_cross_entropy[part, None])
            grad.scatter_add_(1, labels[part, None], -of_cross_entropy[part, None])
            if bias_grad is not None:
                bias_grad += grad.sum(dim=0)
            grad = grad.to(weight.dtype)
            if hidden_grad is not None:
                hidden_grad[part] = grad @ weight
            if weight_grad is not None:
                weight_grad.addmm_(grad.T, hidden[part], beta=min(number, 1))
        return hidden_grad, weight_grad, bias_grad, None, None, None, None, None


def discriminative_losses(
    losses: TokenLosses, sample: Tensor, samples: int, beta: float, fake_weight: float
) -> Tensor:
    """
    The loss of direct discriminative optimization (DDO, arXiv 2503.01103), as T3D (arXiv 2602.12262) takes it: the
    student learns to tell the labels from the guesses of a fixed reference, by how much likelier than the reference it
    finds them. With m the mean over a sample's positions of log p - log r,

        -log sigmoid(beta m(labels))  -  fake_weight log(1 - sigmoid(beta m(guesses)))

    Args:
        losses ([`TokenLosses`]): Losses of M positions, with the reference as teacher.
        sample (`torch.LongTensor` of shape `(M,)`): The sample of each position.
        samples (`int`): Number of samples.
        beta (`float`): Scale of the margins.
        fake_weight (`float`): Weight of the second term.

    Returns:
        `Tensor` of shape `(samples,)`: Nats; 0 for a sample without positions.
    """
    margins = torch.stack(
        [
            losses.teacher_cross_entropy - losses.cross_entropy,
            losses.teacher_guess_cross_entropy - losses.guess_cross_entropy,
            torch.ones_like(losses.cross_entropy),
        ]
    )
    real, fake, count = margins.new_zeros(3, samples).index_add(1, sample, margins)
    real, fake = real / count.clamp(min=1), fake / count.clamp(min=1)
    return (F.softplus(-beta * real) + fake_weight * F.softplus(beta * fake)) * (count > 0)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    """At least one slice. All are nearly equal, so that the last one, whose logits are kept, is not a small rest."""
    count = max(1, math.ceil(len(hidden) / max(1, CHUNK_ELEMENTS // len(weight))))
    rows = math.ceil(len(hidden) / count)
    return [slice(number * rows, (number + 1) * rows) for number in range(count)]


def _entropies(shifted: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each row of logits whose largest is 0, the results of [`_log_total_and_entropy`] at temperatures 1 and T."""
    exponentials = shifted.exp()
    plain = _log_total_and_entropy(shifted, exponentials, 1.0)
    torch.div(shifted, temperature, out=exponentials).exp_()
    return *plain, *_log_total_and_entropy(shifted, exponentials, temperature)


def _log_total_and_entropy(shifted: Tensor, exponentials: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """
    For each row of logits z, log S with S = sum exp(z / T), and the entropy log S - sum exp(z / T) z / (S T).
    Overwrites the `exponentials`.

    Not as a product of matrices: over a vocabulary of 126,464 that is a thousand times less exact in float32, and TF32
    would apply to it.
    """
    total = exponentials.sum(dim=-1)
    log_total = total.log()
    return log_total, log_total - exponentials.mul_(shifted).sum(dim=-1) / (total * temperature)
