"""Which rows of an evaluation are counted: each once, on any number of processes."""

import torch
from accelerate import Accelerator
from torch import Tensor


def rows_once(accelerator: Accelerator, rows: int) -> Tensor:
    """
    Which rows of an evaluation's batch are counted: in the last one, processes repeat others to have as many each.

    Args:
        accelerator (`Accelerator`): Of the training.
        rows (`int`): Rows of the batch, on each process.

    Returns:
        `torch.BoolTensor` of shape `(rows,)`: On the device of the training.
    """
    state = accelerator.gradient_state
    is_last = state.end_of_dataloader and state.remainder > 0
    left = state.remainder - accelerator.process_index * rows if is_last else rows
    return torch.arange(rows, device=accelerator.device) < left
