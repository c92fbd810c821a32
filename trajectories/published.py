"""The published trajectory datasets (d3LLM/trajectory_data_*): from a canvas per forward to commit steps."""

import numpy as np


TRAJECTORY_COLUMN, CORRECT_COLUMN = "trajectory", "is_correct"


def read_published(
    prompt_ids: list[int], trajectory: list[list[int]], mask_token_id: int
) -> tuple[list[int], list[int]]:
    """
    Response and commit steps of a published row.

    Canvas k of `trajectory`, counted from 0, is the state after forward k + 1: prompt and generated region, with
    the mask token where nothing is committed. So a position was committed in the first canvas that shows a token.

    Args:
        prompt_ids (`list[int]`): The prompt.
        trajectory (`list[list[int]]`): The canvases.
        mask_token_id (`int`): The teacher's mask token.

    Returns:
        `tuple[list[int], list[int]]`: The generated region and the forward that committed each of its positions.

    Raises:
        `ValueError`: For canvases of different lengths, that do not begin with the prompt, that end with masks, or in
            which a committed token changes.
    """
    if not trajectory or len({len(canvas) for canvas in trajectory}) != 1:
        raise ValueError("its trajectory is empty, or its canvases have different lengths")
    canvases = np.array(trajectory)
    if canvases.shape[1] <= len(prompt_ids) or (canvases[:, : len(prompt_ids)] != prompt_ids).any():
        raise ValueError("its canvases do not begin with its prompt")
    canvases = canvases[:, len(prompt_ids) :]
    is_committed = canvases != mask_token_id
    if not is_committed[-1].all():
        masks = int((~is_committed[-1]).sum())
        raise ValueError(f"its last canvas has {masks} masks left: give the `--teacher` that made the dataset")
    first = is_committed.argmax(axis=0)
    forwards = np.arange(len(canvases))[:, None]
    if not np.array_equal(canvases, np.where(first <= forwards, canvases[-1], mask_token_id)):
        raise ValueError("a committed token changes in its trajectory, which commit steps cannot express")
    return canvases[-1].tolist(), (first + 1).tolist()
