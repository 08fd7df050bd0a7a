"""How a run was launched: refuses launcher settings that stages cannot run under, and prints processes and device."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from ...data.errors import UserError
from ..latent.engine.compiling import NO_SHARDS
from ..recipe.schema import Recipe
from ..system.processes import on_cpu

logger = logging.getLogger(__name__)


# Environment variable of a launcher setting that is refused -> its name in messages, and why with what to do instead.
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
    """A launcher setting that stages cannot run under, or a recipe that needs another launcher."""


def check_launcher() -> None:
    """Refuses launcher settings that would crash in the middle of a run, or train and measure in different precisions.

    Raises:
        LaunchError: FSDP, Megatron-LM, a parallelism config, torch.compile or mixed precision.
    """
    for name, (what, why) in UNFIT.items():
        if parse_flag_from_env(name):
            raise LaunchError(f"The launcher asks for {what}, which is refused: {why}.")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no":
        raise LaunchError(
            f"The launcher asks for torch.compile (dynamo backend {backend}) of a whole model, which is refused: the "
            "passes over latents are a loop around it. Remove dynamo_config or --dynamo_backend, and set model.compile "
            "where the layers were meant."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision != "no":
        raise LaunchError(
            f"The launcher asks for mixed_precision={precision}, but the recipe's model.dtype says what all stages and "
            "measurements compute in. Set mixed_precision: 'no', and model.dtype: bfloat16 where that was meant."
        )


def check_quantized_launch(recipe: Recipe) -> None:
    """Checks that nothing splits the weights of a model that is quantised, which bitsandbytes' layers cannot bear.

    Raises:
        LaunchError: DeepSpeed is asked for by a stage or by the launcher.
    """
    if recipe.model.quantization is None:
        return
    keys = [f"{section}.deepspeed" for section, values in _trainers(recipe).items() if values.get("deepspeed")]
    if keys or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise LaunchError(
            f"{keys[0] if keys else 'The launcher'} asks for DeepSpeed, which cannot hold the weights that "
            "model.quantization keeps in few bits. Take recipes/accelerate/ddp.yaml, or remove model.quantization."
        )


def check_compiled_launch(recipe: Recipe, args: Mapping[str, Any]) -> None:
    """Checks that no stage asks ZeRO-3 for the shards of a model that is to be compiled.

    What the launcher asks for is seen when the first model is loaded.

    Args:
        args: What trainers are built with (TrainingArguments), by their sections in the recipe.

    Raises:
        LaunchError: A stage does.
    """
    for section, built in args.items():
        if recipe.model.compile and built.deepspeed and built.hf_deepspeed_config.is_zero3():
            raise LaunchError(f"{section}.deepspeed does not go with model.compile: {NO_SHARDS}")


def check_launched(recipe: Recipe) -> None:
    """Checks that a recipe with a `deepspeed` or `fsdp` trainer key was started by a launcher, and one with a quantised
    model where several GPUs are in sight: without a launcher its weights would be copied to all, and break.

    Raises:
        LaunchError: It was not.
    """
    if recipe.model.quantization is not None and "WORLD_SIZE" not in os.environ and not on_cpu():
        count = torch.cuda.device_count()
        if count > 1:
            raise LaunchError(
                f"{count} GPUs are in sight of one process, and a model with model.quantization takes one GPU a "
                "process. Use accelerate launch --config_file recipes/accelerate/ddp.yaml scripts/train.py, or "
                "CUDA_VISIBLE_DEVICES=0."
            )
    for section, values in _trainers(recipe).items():
        for key in ("deepspeed", "fsdp"):
            if values.get(key) and "WORLD_SIZE" not in os.environ:
                raise LaunchError(
                    f"{section}.{key} needs a launcher, which tells the processes of each other. Use accelerate "
                    "launch --config_file recipes/accelerate/zero2.yaml scripts/train.py, or remove the key."
                )


def _trainers(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Values for trainers, by their sections in the recipe."""
    found = {f"{stage}.trainer": section.trainer for stage, section in recipe.stages.items()}
    if recipe.curriculum is not None:
        found["curriculum.last_level_trainer"] = recipe.curriculum.last_level_trainer
    return found


def announce(state: PartialState) -> None:
    """Prints processes, threads and device. Warns if the launcher was asked for several processes but started one."""
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

    In that case it sets MASTER_PORT, where processes would meet, but not WORLD_SIZE, their number.
    """
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    return count == 1 and is_launched and "WORLD_SIZE" not in os.environ


def _of(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
