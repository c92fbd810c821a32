"""The processes started by a launcher, and a check that they have joined one group."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """
    The processes that share a run, as `accelerate launch` and `torchrun` start them.

    Attributes:
        index (`int`): The index of this process, counted from 0.
        count (`int`): The number of processes.
        gather (`Callable[[Any], list[Any]]`): Collects one value from every process and returns them all on each
            process. It also makes the processes wait for each other.
        device (`str`, *optional*): The device of this process; `None` if the launcher does not set one.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    device: str | None = None

    @classmethod
    def launched(cls, cpu: bool = False) -> "Processes":
        """
        The processes that were launched together; a single one if there was no launcher.

        Args:
            cpu (`bool`, *optional*, defaults to `False`): Whether to compute on CPUs even if there is an accelerator.

        Returns:
            [`Processes`]: As seen from this process.

        Raises:
            `ValueError`: If several processes were launched but have not joined one group.
        """
        import torch
        from accelerate import PartialState
        from accelerate.utils import gather_object
        from accelerate.utils.environment import parse_flag_from_env

        # Without an accelerator, accelerate counts a single process unless told to use CPUs.
        cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        state = PartialState(cpu=cpu)
        check_joined(state.num_processes)
        if state.num_processes == 1:
            return cls(device=str(state.device))
        return cls(state.process_index, state.num_processes, lambda value: gather_object([value]), str(state.device))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes shared files."""
        return self.index == 0

    def wait(self) -> None:
        """Returns once every process has called it."""
        self.gather(None)


def check_joined(*joined: int) -> None:
    """
    Checks that all launched processes have joined one group. Some launchers silently leave each process on its own, so
    that each would do all the work.

    Args:
        joined (`int`): Sizes of the group, one for each library that knows it.

    Raises:
        `ValueError`: If it is not the number of launched processes.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    alone = [count for count in joined if count != launched]
    if alone:
        raise ValueError(
            f"{launched} processes were launched, but only {alone[0]} joined one group: on CPUs launch them with "
            "torchrun, or `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu`; see docs/training.md."
        )
