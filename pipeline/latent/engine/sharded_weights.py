"""ZeRO-3 shards weights; some of our code needs them whole for a moment."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from ...system.compat import is_gathered, is_sharded
from .synced_passes import SyncedPasses


def whole(weights: Iterable[Tensor], change: bool = False) -> AbstractContextManager[Any]:
    """Within it the weights are whole, on all processes. Those that are whole already are left alone.

    Args:
        change: What process 0 makes of them is kept.
    """
    theirs: list[Any] = [weight for weight in weights if is_sharded(weight)]
    if not theirs:
        return nullcontext()
    sharded = [weight for weight in theirs if not is_gathered(weight)]
    if not sharded:
        return nullcontext()
    if SyncedPasses.active is not None and not change:
        return SyncedPasses.active.gathering(sharded)
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded, modifier_rank=0 if change else None)
