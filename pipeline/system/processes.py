"""The processes of a launch: join, leave, and let one work for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from ...data.errors import UserError, first_line
from .builds import free_dead_builds
from .compat import set_collective_timeout
from .network import choose_interface

Result = TypeVar("Result")
Item = TypeVar("Item")
LONG = 30 * 86400.0  # seconds


def on_main(work: Callable[[], Result]) -> Result:
    """Calls `work` on the main process while others wait. All return its result, or raise its UserError or OSError.

    After any other error of the main process the others raise a UserError that says so.
    """
    outcome: list[Any] = [None, None]
    unforeseen: Exception | None = None
    if PartialState().is_main_process:
        try:
            outcome[0] = work()
        except (UserError, OSError) as error:
            outcome[1] = error
        except Exception as error:
            unforeseen, outcome[1] = error, UserError(f"The main process has failed: {first_line(error)}.")
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise unforeseen or outcome[1]
    return outcome[0]


def my_share(items: Sequence[Item]) -> Sequence[Item]:
    """What this process does of work that is shared out: one item for each process in turn."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def join_processes() -> PartialState:
    """Joins the processes of a launch. Launchers do not tell their workers that they are on CPU, so this does."""
    free_dead_builds()  # joining loads an extension where the launcher asks for DeepSpeed on CPUs
    choose_interface()
    return PartialState(cpu=on_cpu())


def alone(work: Callable[[], None]) -> None:
    """Joins the processes of a launch for a command that the main one does alone.

    The others wait as long as it takes. All raise its errors as `on_main` does, or leave together.
    """
    join_processes()
    set_collective_timeout(LONG)
    on_main(work)
    leave_processes()


def leave_processes() -> None:
    """Ends the processes of a launch together.

    A gloo thread with pending work would abort the process as the interpreter ends, so all meet and wait a moment.
    """
    if dist.is_initialized():
        dist.barrier()
        time.sleep(0.5)
        dist.destroy_process_group()


def on_cpu() -> bool:
    """Whether to run on the CPU: there is no GPU, or the launcher says not to use it."""
    return not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
