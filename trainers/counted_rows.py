"""Which rows of an evaluation are counted: each once, on any number of processes."""

import torch
from accelerate import Accelerator
from torch import Tensor

from .streams import TrajectoryStream


def rows_once(accelerator: Accelerator, index: Tensor) -> Tensor:
    """
    Which rows of an evaluation's batch are counted: in the last one, processes repeat others to have as many each.

    Args:
        accelerator (`Accelerator`): Of the training.
        index (`torch.LongTensor` of shape `(rows,)`): The numbers of the rows. Each process has as many.

    Returns:
        `torch.BoolTensor` of shape `(rows,)`: On the device of the training.
    """
    state, rows = accelerator.gradient_state, len(index)
    if state.end_of_dataloader and state.remainder < 0 and accelerator.num_processes > 1:
        _count_last_rows(accelerator, index)
    is_last = state.end_of_dataloader and state.remainder > 0
    left = state.remainder - accelerator.process_index * rows if is_last else rows
    return torch.arange(rows, device=accelerator.device) < left


def _count_last_rows(accelerator: Accelerator, index: Tensor) -> None:
    """
    Sets how many rows of the last batch are not repeated: of a stream accelerate does not know it, and would also
    gather the predictions of the others. The numbers of a stream's rows rise by 1; repeated ones come earlier.
    """
    loader = accelerator.gradient_state.active_dataloader
    stream = getattr(loader.dataset, "dataset", None)  # of the share of a process
    if isinstance(stream, TrajectoryStream):
        numbers = accelerator.gather(index)
        expected = numbers[0] + torch.arange(len(numbers), device=numbers.device)
        loader.remainder = int((numbers == expected).sum())
