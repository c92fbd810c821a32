"""Hidden states of a batch of canvases, without the padding that no row needs."""

import torch
from torch import Tensor
from transformers import PreTrainedModel


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, picked: Tensor) -> Tensor:
    """
    Last hidden states of the rows that predict the picked positions.

    Args:
        model (`PreTrainedModel`): The model, without adapters around it.
        input_ids (`Tensor` of shape `(rows, L)`), attention_mask (`Tensor` of shape `(rows, L)`): The canvases. The
            tokens of each row are next to each other.
        picked (`Tensor` of shape `(2, M)`): Rows and columns of the picked positions.

    Returns:
        `Tensor` of shape `(M, hidden_size)`: The states.
    """
    rows, columns = picked
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    hidden = model.base_model(**inputs, return_dict=True).last_hidden_state
    return hidden[rows, model.logit_rows(columns)]


def trim(input_ids: Tensor, attention_mask: Tensor, picked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Makes a batch as wide as its longest row. It is wider where `max_length` leaves a long prompt less room than a
    short one, since all regions start in one column: then each row starts at its first token instead. It reads the
    length of the longest row on the host.

    Args:
        input_ids, attention_mask, picked: As for [`hidden_states`], in a batch of width L.

    Returns:
        `tuple[Tensor, Tensor, Tensor]`: The same for the batch as it is trimmed.
    """
    width = input_ids.shape[1]
    longest = int(attention_mask.sum(dim=1).max())
    if longest == width:
        return input_ids, attention_mask, picked
    first = attention_mask.argmax(dim=1)
    # All that follows a row is padding: also beyond the last column, since it wraps to the padding on the left.
    columns = (first[:, None] + torch.arange(longest, device=first.device)) % width
    rows, of_picked = picked
    return (
        input_ids.gather(1, columns),
        attention_mask.gather(1, columns),
        torch.stack([rows, of_picked - first[rows]]),
    )
