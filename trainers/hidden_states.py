"""Hidden states of a batch of canvases, without the padding that no row needs, and the loss of routers."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..modeling.experts import load_balancing_loss
from .block_causal import block_causal_outputs


def hidden_states(model: PreTrainedModel, *canvases: Tensor) -> Tensor:
    """
    Last hidden states of the rows that predict the picked positions.

    Args:
        model (`PreTrainedModel`): The model, without adapters around it.
        canvases (`Tensor`): As for [`routed_hidden_states`].

    Returns:
        `Tensor` of shape `(M, hidden_size)`: The states.
    """
    return routed_hidden_states(model, *canvases)[0]


def routed_hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    picked: Tensor,
    blocks: Tensor | None = None,
    clean_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """
    The same, and how unevenly the experts are used.

    Args:
        model (`PreTrainedModel`): The model, without adapters around it.
        input_ids (`Tensor` of shape `(rows, L)`), attention_mask (`Tensor` of shape `(rows, L)`): The canvases. The
            tokens of each row are next to each other.
        picked (`Tensor` of shape `(2, M)`): Rows and columns of the picked positions.
        blocks (`Tensor` of shape `(rows, L)`, *optional*): For block-causal attention, the block of each position.
        clean_ids (`Tensor` of shape `(rows, L)`, *optional*): With `blocks`, the canvases without masks, for noisy
            blocks to be conditioned on.

    Returns:
        `tuple[Tensor, Tensor]`: The states `(M, hidden_size)`; and, of shape `()`, the loss of
        [`~d3llm.modeling.experts.load_balancing_loss`], `None` unless `config.output_router_logits` asks for it.
    """
    rows, columns = picked
    predicting = model.logit_rows(columns)
    if blocks is None:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        outputs = model.base_model(**inputs, return_dict=True)
    else:
        outputs = block_causal_outputs(model, input_ids, attention_mask, blocks, clean_ids)
        if clean_ids is not None:
            attention_mask = attention_mask.repeat(1, 2)
            # With shifted logits, the row that predicts the first position of a block is in the block before it, which
            # is clean by the time that the decoder comes to this one.
            in_clean = blocks[rows, predicting] < blocks[rows, columns]
            predicting = predicting + in_clean * input_ids.shape[1]
    router_logits = getattr(outputs, "router_logits", None)
    unevenness = None if router_logits is None else load_balancing_loss(model.config, router_logits, attention_mask)
    return outputs.last_hidden_state[rows, predicting], unevenness


def router_weight(model: PreTrainedModel) -> float | None:
    """
    The weight of the loss of a model's routers.

    Args:
        model (`PreTrainedModel`): The model, without adapters around it.

    Returns:
        `float`, *optional*: `config.router_aux_loss_coef`, where `config.output_router_logits` asks for the loss.
    """
    has_loss = getattr(model.config, "output_router_logits", False)
    return model.config.router_aux_loss_coef if has_loss else None


def trim(input_ids: Tensor, attention_mask: Tensor, picked: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """
    Makes a batch as wide as its longest row. It is wider where `max_length` leaves a long prompt less room than a
    short one, since all regions start in one column: then each row starts at its first token instead. It reads the
    length of the longest row on the host.

    Args:
        input_ids, attention_mask, picked: As for [`hidden_states`], in a batch of width L.
        others (`Tensor` of shape `(rows, L)`): Further values of each position.

    Returns:
        `tuple[Tensor, ...]`: The same for the batch as it is trimmed.
    """
    width = input_ids.shape[1]
    longest = int(attention_mask.sum(dim=1).max())
    if longest == width:
        return input_ids, attention_mask, picked, *others
    first = attention_mask.argmax(dim=1)
    # All that follows a row is padding: also beyond the last column, since it wraps to the padding on the left.
    columns = (first[:, None] + torch.arange(longest, device=first.device)) % width
    rows, of_picked = picked
    return (
        input_ids.gather(1, columns),
        attention_mask.gather(1, columns),
        torch.stack([rows, of_picked - first[rows]]),
        *(values.gather(1, columns) for values in others),
    )
