"""How a run was launched: what launchers may ask for, how many processes there are, and what is said of it."""

from __future__ import annotations

import logging
import os

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from ...data.errors import UserError
from ..recipe.schema import Recipe

logger = logging.getLogger(__name__)


# Switches of launchers that stages cannot run under, what sets them, and what to do instead.
UNFIT = {
    "ACCELERATE_USE_FSDP": (
        "FSDP (distributed_type: FSDP)",
        "rollouts run parts of a model that it has sharded. Take DeepSpeed: recipes/accelerate/zero3.yaml",
    ),
    "ACCELERATE_USE_MEGATRON_LM": (
        "Megatron-LM",
        "latents need a plain Transformers model. Take DeepSpeed: recipes/accelerate/zero3.yaml",
    ),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (
        "a parallelism_config",
        "passes through a cache cannot be split over tokens or tensors. Take DeepSpeed: recipes/accelerate/zero3.yaml",
    ),
}


class LaunchError(UserError):
    """A launcher that asks for what stages cannot run under, or a recipe that needs another one."""


def check_launcher() -> None:
    """Refuses what would crash in the middle of a run, or train in another precision than is measured in.

    Raises:
        LaunchError: FSDP, Megatron-LM, other parallelism, a compiler, or a precision of the launcher's own.
    """
    for name, (what, why) in UNFIT.items():
        if parse_flag_from_env(name):
            raise LaunchError(f"The launcher asks for {what}, which is refused: {why}.")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no":
        raise LaunchError(
            f"The launcher asks for torch.compile (dynamo backend {backend}), which is refused: passes over latents "
            "change their shape with every batch. Remove dynamo_config or --dynamo_backend."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision != "no":
        raise LaunchError(
            f"The launcher asks for mixed_precision={precision}, but the recipe's model.dtype says what all stages and "
            "measurements compute in. Set mixed_precision: 'no', and model.dtype: bfloat16 where that was meant."
        )


def check_launched(recipe: Recipe) -> None:
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
