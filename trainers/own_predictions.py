"""On-policy uniform training: a student learns to recover the text from its own predictions (OPUT, DMax)."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .hidden_states import hidden_states
from .losses import token_losses


def own_prediction_losses(
    model: PreTrainedModel, inputs: tuple[Tensor, ...], predicted: Tensor, labels: Tensor
) -> Tensor:
    """
    The cross entropy of masked positions once they show what the model predicts for them (DMax, arXiv 2604.08302,
    on-policy uniform training): a right prediction is to be kept, a wrong one to be replaced.

    Args:
        model (`PreTrainedModel`): The student, without adapters around it.
        inputs (`tuple[Tensor, ...]`): As for [`~d3llm.trainers.hidden_states.hidden_states`], after the model: the
            canvases `(rows, L)` with their masks, and the M picked positions.
        predicted (`torch.LongTensor` of shape `(M,)`): The most likely tokens there, without a gradient.
        labels (`torch.LongTensor` of shape `(M,)`): The right tokens.

    Returns:
        `Tensor` of shape `(M,)`: -log p(label), nats.
    """
    input_ids, attention_mask, picked, *of_blocks = inputs
    shown = input_ids.index_put(tuple(picked), predicted)
    hidden = hidden_states(model, shown, attention_mask, picked, *of_blocks)
    return token_losses(hidden, model.get_output_embeddings(), labels, temperature=1.0).cross_entropy


def sum_up_own(cross_entropy: Tensor, inputs: dict[str, Tensor], picked: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """
    The sum and the count of this loss, over the positions that have the cross entropy.

    Args:
        cross_entropy (`Tensor` of shape `(M,)`): From [`own_prediction_losses`].
        inputs (`dict[str, Tensor]`): A batch after [`~d3llm.trainers.targets.add_targets`].
        picked (`tuple[Tensor, ...]`): View, row and position of each.

    Returns:
        `dict[str, Tensor]`: Scalars in float32.
    """
    weights = inputs["weights"][picked[1:]] * ~inputs["far"][picked]
    sums = {"own_cross_entropy": (cross_entropy * weights).sum(), "own_masked": weights.sum()}
    return {name: value.to(torch.float32) for name, value in sums.items()}
