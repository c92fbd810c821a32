"""Runs whose wrong answers are corrected by given texts, from the first forward that departs from them."""

from collections.abc import Callable
from dataclasses import replace

from .orders import ResponseReader, length_up_to_eos
from .prompt_rows import Sample
from .row import Trajectory


class CorrectedRuns:
    """
    An order that lets a model learn from its mistakes: a run with a wrong answer becomes the given text, in the order
    of the run up to the forward that first committed another token than the text has. What that forward and later ones
    committed counts as committed by it. So the states of the row are those that the model was in until it went wrong,
    and the text says what it should have committed there (DAgger, arXiv 1011.0686, Algorithm 3.1, with the states
    before the first mistake alone).

    Args:
        runs (`Callable`): The runs: a function of samples that gives a [`Trajectory`] for each, with verdicts.
        responses ([`~d3llm.trajectories.orders.ResponseReader`]): The given texts.
    """

    def __init__(self, runs: Callable[[list[Sample]], list[Trajectory]], responses: ResponseReader):
        self.runs = runs
        self.responses = responses

    def __call__(self, samples: list[Sample]) -> list[Trajectory]:
        """
        The runs, corrected where the answer is wrong and the given text can be compared with it.

        Args:
            samples (`list[Sample]`): The samples.

        Returns:
            `list[Trajectory]`: One for each sample.
        """
        return [
            self.correct(trajectory, self.responses.read_response(sample))
            if trajectory.correct is False
            else trajectory
            for sample, trajectory in zip(samples, self.runs(samples), strict=True)
        ]

    def correct(self, run: Trajectory, response: list[int]) -> Trajectory:
        """
        A run with a given response. It stays as it is if that has no EOS or does not fit on the canvas, or if the two
        are the same.

        Args:
            run ([`Trajectory`]): The run, up to the end of its canvas.
            response (`list[int]`): The response; what follows its EOS is left out.

        Returns:
            [`Trajectory`]: If it has the response, it is `corrected` and without a verdict.
        """
        steps = [*run.commit_steps, *run.tail_steps]
        ends = self.responses.eos_token_ids
        response = response[: length_up_to_eos(response, ends)]
        if response[-1] not in ends or len(response) > len(steps):
            return run
        fill = ends[0]
        decoded, given = ([*ids, *[fill] * (len(steps) - len(ids))] for ids in (run.response_ids, response))
        departures = [step for step, own, right in zip(steps, decoded, given, strict=True) if own != right]
        if not departures:
            return run
        departure = min(departures)
        steps = [min(step, departure) for step in steps]
        return replace(
            run,
            response_ids=response,
            commit_steps=steps[: len(response)],
            tail_steps=steps[len(response) :],
            correct=None,
            corrected=True,
        )
