"""The processes that a launcher started, and whether they know of each other."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """
    The processes that share a run, as `accelerate launch` and `torchrun` start them.

    Attributes:
        index (`int`): Which this one is, counted from 0.
        count (`int`): How many there are.
        gather (`Callable[[Any], list[Any]]`): Collects a value of each process on all of them; so they wait for each
            other.
        device (`str`, *optional*): Where this one computes; `None` if no launcher says so.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    device: str | None = None

    @classmethod
    def launched(cls, cpu: bool = False) -> "Processes":
        """
        The processes that were launched together; one if there was no launcher.

        Args:
            cpu (`bool`, *optional*, defaults to `False`): Whether they compute on CPUs though there is an accelerator.

        Returns:
            [`Processes`]: This one and its number.

        Raises:
            `ValueError`: If several were launched and do not know of each other.
        """
        import torch
        from accelerate import PartialState
        from accelerate.utils import gather_object
        from accelerate.utils.environment import parse_flag_from_env

        # Without being told, accelerate counts one process where there is no accelerator.
        cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        state = PartialState(cpu=cpu)
        check_joined(state.num_processes)
        if state.num_processes == 1:
            return cls(device=str(state.device))
        return cls(state.process_index, state.num_processes, lambda value: gather_object([value]), str(state.device))

    @property
    def is_main(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.index == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        self.gather(None)


def check_joined(*joined: int) -> None:
    """
    Some ways to launch several processes leave each of them alone, without a word: each would do all the work.

    Args:
        joined (`int`): How many processes know of each other, by one or more accounts.

    Raises:
        `ValueError`: If more or fewer were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    alone = [count for count in joined if count != launched]
    if alone:
        raise ValueError(
            f"{launched} processes were launched, of which {alone[0]} know of each other: on CPUs launch them with "
            "torchrun or `accelerate launch --cpu`; see docs/training.md."
        )
