"""The number of CPU threads is given back."""

import pytest
import torch

from d3llm.common.threads import cpu_threads


def test_the_number_is_given_back_also_after_an_error():
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="inside"), cpu_threads(before + 1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before
