"""What `accelerate launch` may ask for, checked before anything is trained."""

from __future__ import annotations

import os

from accelerate.utils import parse_flag_from_env

from ...data.errors import UserError

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
    """A launcher that asks for what stages cannot run under."""


def check_launch() -> None:
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
