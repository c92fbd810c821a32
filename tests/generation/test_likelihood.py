"""The masks that the likelihood of an answer is estimated with."""

import torch

from d3llm.generation.likelihood import mask_answer


def test_masks_of_an_answer_are_of_every_size_and_of_it_alone():
    answer = torch.zeros(3, 12, dtype=torch.bool)
    answer[0, [1, 4, 5, 11]], answer[1, 3:5], answer[2, 7] = True, True, True
    counts, generator = [], torch.Generator().manual_seed(0)
    for sample in range(16):
        masked, count = mask_answer(answer, sample, 16, generator)
        assert not (masked & ~answer).any()
        assert torch.equal(masked.sum(dim=1), count)
        counts.append(count)
    for row, sizes in enumerate(([1, 2, 3, 4], [1, 2], [1])):
        found, times = torch.stack(counts)[:, row].unique(return_counts=True)
        assert found.tolist() == sizes
        assert times.tolist() == [16 // len(sizes)] * len(sizes)
