"""Runs with a wrong answer, corrected by given texts."""

import pytest

from d3llm.trajectories.corrected_runs import CorrectedRuns
from d3llm.trajectories.orders import ResponseReader
from d3llm.trajectories.row import Trajectory


@pytest.mark.parametrize(
    ("response", "steps"),
    [
        ([7, 8, 2], [1, 2, 2, 2]),  # departs at the third token, which forward 2 committed
        ([7, 8, 2, 9, 9], [1, 2, 2, 2]),  # what follows an EOS does not count
        ([7, 8, 9, 2], [1, 3, 2, 3]),
        ([7, 8, 9, 5], None),  # the run itself
        ([7, 8], None),  # no EOS
        ([7, 8, 9, 5, 2], None),  # no room
    ],
)
def test_a_run_is_corrected_from_its_first_departure(response, steps):
    run = Trajectory(response_ids=[7, 8, 9, 5], commit_steps=[1, 4, 2, 3], num_forwards=4, correct=False)
    reader = ResponseReader(None, [2], "response", 10)
    corrected = CorrectedRuns(lambda samples: [run], reader).correct(run, response)
    if steps is None:
        assert corrected is run
        return
    end = response.index(2) + 1
    assert corrected.response_ids == response[:end] and corrected.num_forwards == 4
    assert [*corrected.commit_steps, *corrected.tail_steps] == steps
    assert corrected.corrected and corrected.correct is None
