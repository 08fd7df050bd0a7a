"""What differs between the recipe that a run was begun with and the one it is to go on with, as lines for a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..recipe.schema import Recipe

# Sections and keys that change no weights: where the run lies and began, how it is measured, which controls follow.
FREE = {"name", "output_dir", "resume_from", "evaluate", "controls", "tracking"}
UNSET = object()
SHOWN = 5  # changed keys that a message names


def differences(held: Recipe, asked: Recipe) -> list[str]:
    """`dotted.key: 8 then, 4 now` for every changed key that the weights depend on.

    Args:
        held: The recipe of the run folder.
        asked: The recipe of this launch.
    """
    then, now = _as_trained(held), _as_trained(asked)
    return [line for key in now for line in _differences(then[key], now[key], key)]


def named(changed: Sequence[str]) -> str:
    """Changed keys for a message: the first ones, and how many more there are."""
    more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return "; ".join(changed[:SHOWN]) + more


def _differences(then: Any, now: Any, key: str) -> list[str]:
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        then, now = dict(enumerate(then)), dict(enumerate(now))
    if isinstance(then, dict) and isinstance(now, dict):
        pairs = {name: (then.get(name, UNSET), now.get(name, UNSET)) for name in {**then, **now}}
        return [line for name, pair in pairs.items() for line in _differences(*pair, f"{key}.{name}")]
    return [] if then == now else [f"{key}: {_shown(then)} then, {_shown(now)} now"]


def _shown(value: Any) -> str:
    text = "unset" if value is UNSET else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_trained(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe that the weights depend on.

    How long rewards and other processes are waited for is left out: after a slow one ended a run, it may go on with
    more patience. So is how many tokens of rollouts are drawn at once, which may have to be lowered and changes no
    rollout. So is whether evaluation questions are trained on: the fingerprint of the training problems tells, and a
    run of an earlier version, which kept them, may go on with `data.keep_overlap`.
    """
    values = recipe.model_dump(mode="json", exclude=FREE)
    del values["data"]["keep_overlap"]
    for stage in recipe.stages:
        for key in ("trainer", "last_level_trainer"):
            values[stage].get(key, {}).pop("ddp_timeout", None)
    if values["rl"] is not None:
        del values["rl"]["rollout_batch_tokens"]
    for reward in (values["rl"] or {}).get("rewards", []):
        for key in ("timeout", "retries", "on_error"):
            del reward[key]
    return values
