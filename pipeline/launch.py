"""How many processes a run has, and what is said of it."""

from __future__ import annotations

import logging
import os

import torch
from accelerate import PartialState

from ..data.errors import UserError
from .sections import Recipe

logger = logging.getLogger(__name__)


class LaunchError(UserError):
    """A recipe that needs another launcher."""


def check_launch(recipe: Recipe) -> None:
    """Makes sure that a trainer that splits a model over processes was launched.

    Raises:
        LaunchError: It was not.
    """
    for stage in ("sft", "curriculum", "rl"):
        section = getattr(recipe, stage)
        for key in ("deepspeed", "fsdp"):
            if section is not None and section.trainer.get(key) and "WORLD_SIZE" not in os.environ:
                raise LaunchError(
                    f"{stage}.trainer.{key} needs a launcher, which tells the processes of each other. Use accelerate "
                    "launch --config_file recipes/accelerate/zero2.yaml scripts/train.py, or remove the key."
                )


def announce(state: PartialState) -> None:
    """Prints the processes and the device of a run, and warns where the launcher was asked for more."""
    if not state.is_main_process:
        return
    count, threads = state.num_processes, torch.get_num_threads()
    each = " each" if count > 1 else ""
    print(f"Running on {_of(count, 'process', 'processes')}, {_of(threads, 'thread', 'threads')}{each}, {state.device}")
    if asked_for_more(count):
        logger.warning(
            "accelerate launch was asked for several processes and has started one: without a config file it starts "
            "one on CPU. Take --config_file recipes/accelerate/ddp.yaml for several."
        )


def asked_for_more(count: int) -> bool:
    """Whether `accelerate launch` was asked for several processes and started one.

    It then tells the one process where the others would meet, but not how many they are.
    """
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    return count == 1 and is_launched and "WORLD_SIZE" not in os.environ


def _of(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
