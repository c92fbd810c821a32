"""The masks that the likelihood of an answer is estimated with."""

import numpy as np

from d3llm.generation.likelihood import blocks_of_answers, mask_answers


def drawn(blocks: list[list[int]], lengths: list[int], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (samples, B, A) and weights (samples, B)."""
    found = [mask_answers(np.array(blocks), np.array(lengths), sample, samples, 0) for sample in range(samples)]
    return tuple(np.stack(values) for values in zip(*found, strict=True))


def test_masks_of_an_answer_are_of_every_size_and_of_it_alone():
    lengths = [4, 2, 1]
    masked, weights = drawn([[0] * 4] * 3, lengths, 16)
    counts = masked.sum(axis=2)
    for row, length in enumerate(lengths):
        assert not masked[:, row, length:].any()
        found, times = np.unique(counts[:, row], return_counts=True)
        assert found.tolist() == list(range(1, length + 1))
        assert times.tolist() == [16 // length] * length
        assert np.allclose(weights[:, row], length / counts[:, row])


def test_a_sample_masks_one_block_and_every_block_is_masked_equally_often():
    blocks = blocks_of_answers(np.array([[0, 0, 3, 3, 3, 3, 4, 4]]), np.arange(1, 8)[None])
    assert blocks.tolist() == [[0, 1, 1, 1, 1, 2, 2]]
    masked, weights = drawn(blocks.tolist(), [7], 24)
    of_block = [np.flatnonzero(masked[:, 0, blocks[0] == block].any(axis=1)) for block in range(3)]
    assert [samples.tolist() for samples in of_block] == [[*range(8)], [*range(8, 16)], [*range(16, 24)]]
    sizes = masked[8:16, 0].sum(axis=1)
    assert np.unique(sizes, return_counts=True)[1].tolist() == [2, 2, 2, 2]
    assert np.allclose(weights[8:16, 0], 3 * 4 / sizes)


def test_a_row_draws_the_same_in_any_batch():
    alone, _ = drawn([[0] * 3], [3], 8)
    batch, _ = drawn([[0] * 5, [0] * 5], [3, 5], 8)
    assert (batch[:, 0, :3] == alone[:, 0]).all()
