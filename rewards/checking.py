"""Guards around a reward function: how long it takes, what it raises and what it returns, at every call."""

import _thread
import asyncio
import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from ..data.errors import TerminatedError, shown
from .answers import completion_text
from .errors import RewardError
from .loading import load_reward
from .mathematics import check_timeout, math_verify
from .retries import DaemonLoop, Patience, Tries, in_time

Rewards = list[float | None]
LARGEST = 1e12  # the largest reward, and so 1e18 with its weight, the variance of which float32 can hold


def checked(reward: Callable[..., Any], name: str, patience: Patience | None = None) -> Callable[..., Any]:
    """Return `reward` with checks; sync or async as it was, and under its own `__name__`, which the trainer logs.

    All keyword arguments are passed on. The rewards come back as a list of floats and None.

    Args:
        reward: a function `f(prompts, completions, **columns)`.
        name: names the reward in messages, and becomes `__name__` where `reward` has none.
        patience: timeout in seconds, retries, and what follows the last failed try; None: any time, one try.

    Raises:
        RewardError: `math_verify` with a timeout.

    Raises (from the returned function):
        RewardError: `reward` raised or took too long in its last try (chained; its own RewardError passes as it is, at
            once), returned another number of rewards than completions, or returned a value that is neither a finite
            number up to `LARGEST` nor None.
    """
    patience = patience or Patience()
    if reward is math_verify:
        check_timeout(patience.timeout)
    wrapper = (_checked_async if is_async(reward) else _checked)(reward, name, patience)
    wrapper.__name__ = wrapper.__qualname__ = getattr(reward, "__name__", name)
    wrapper.__doc__ = reward.__doc__
    return wrapper


def _checked(reward: Callable[..., Any], name: str, patience: Patience) -> Callable[..., Any]:
    def wrapper(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        tries, given = Tries(name, patience, completions), {"prompts": prompts, "completions": completions}
        while True:
            try:
                arguments = tries.columns({**given, **columns})
                result = in_time(_listed(reward), patience.timeout, arguments)
                break
            except (RewardError, KeyboardInterrupt, TerminatedError):
                raise
            except BaseException as error:  # sys.exit() and what native libraries raise, too
                pause = tries.failed(error)
            if pause is None:
                return [None] * len(completions)
            time.sleep(pause)
        tries.log()
        return _check_result(name, result, completions)

    return wrapper


def _checked_async(reward: Callable[..., Any], name: str, patience: Patience) -> Callable[..., Any]:
    loop = DaemonLoop()

    async def wrapper(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        tries, given = Tries(name, patience, completions), {"prompts": prompts, "completions": completions}
        while True:
            try:
                arguments = tries.columns({**given, **columns})
                result = await loop.in_time(_listed_async(reward), patience.timeout, arguments)
                break
            except (RewardError, asyncio.CancelledError, GeneratorExit, TerminatedError):
                raise
            except KeyboardInterrupt:
                raise _interrupt() from None
            except BaseException as error:  # sys.exit() and what native libraries raise, too
                pause = tries.failed(error)
            if pause is None:
                return [None] * len(completions)
            await asyncio.sleep(pause)
        tries.log()
        return _check_result(name, result, completions)

    return wrapper


def _listed(reward: Callable[..., Any]) -> Callable[..., Any]:
    """The reward with its result as a list. The code of a generator then runs under the same guards."""

    def call(**arguments: Any) -> Any:
        return _as_list(reward(**arguments))

    return call


def _listed_async(reward: Callable[..., Any]) -> Callable[..., Any]:
    async def call(**arguments: Any) -> Any:
        return _as_list(await reward(**arguments))

    return call


def _as_list(result: Any) -> Any:
    return list(result) if isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping) else result


def _interrupt() -> BaseException:
    """What an async reward raises when it is interrupted.

    In another thread a KeyboardInterrupt would end that thread's event loop, and the main thread would wait for it for
    ever. So the main thread is interrupted, and the reward is cancelled.
    """
    if threading.current_thread() is threading.main_thread():
        return KeyboardInterrupt()
    _thread.interrupt_main()
    return asyncio.CancelledError()


def is_async(reward: Callable[..., Any]) -> bool:
    """Tell whether a call of `reward` must be awaited: an async function, a partial of one, or an async `__call__`."""
    while isinstance(reward, partial):
        reward = reward.func
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__)


def _check_result(name: str, result: Any, completions: Sequence[Any]) -> Rewards:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else Python warns that it was never awaited
        raise RewardError(f"Reward {name!r} returned a coroutine. Define it with `async def`.")
    if not isinstance(result, list):
        raise RewardError(
            f"Reward {name!r} returned {type(result).__name__} {shown(result)}. Return a list with one reward per "
            f"completion."
        )
    if len(result) != len(completions):
        raise RewardError(
            f"Reward {name!r} returned {len(result)} rewards for {len(completions)} completions. Return exactly one "
            f"per completion, None for those it does not judge."
        )
    return [_check_value(name, index, value, completions) for index, value in enumerate(result)]


def _check_value(name: str, index: int, value: Any, completions: Sequence[Any]) -> float | None:
    if value is None:
        return None
    received = (
        f"Reward {name!r} returned {type(value).__name__} {shown(value)} at index {index}, for the completion "
        f"{shown(completions[index], 200)}."
    )
    if not isinstance(value, Real | np.bool_) or _is_nan_or_inf(value):
        raise RewardError(f"{received} Return finite numbers or None; of a tensor, return tensor.tolist().")
    if _is_too_large(value):
        raise RewardError(
            f"{received} Rewards must lie between {-LARGEST:g} and {LARGEST:g}: training counts in float32, where the "
            "squares of larger ones are infinite. Return smaller ones, such as between 0 and 1."
        )
    return float(value)


def _is_too_large(value: Any) -> bool:
    return bool(abs(value) > LARGEST)  # exact: a float of 10**400 would overflow


def _is_nan_or_inf(value: Any) -> bool:
    return isinstance(value, float | np.floating) and not math.isfinite(value)


@dataclass(frozen=True)
class RewardCheck:
    """What a reward function gave on a few completions.

    `seconds` is the wall time of the one call. `min`, `max` and `mean` are over the rewards that are not None, and
    None when all are; `none_count` is the number of None.
    """

    rewards: Rewards
    seconds: float
    min: float | None
    max: float | None
    mean: float | None
    none_count: int


def check_reward(
    reward: str | Callable[..., Any],
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    timeout: float | None = None,
) -> RewardCheck:
    """Load a reward function and call it once, as the trainer does.

    Args:
        reward: its name as in `load_reward`, or the function itself.
        completions: strings or lists of messages. Their `completion_ids` are one for each word.
        columns: one value per completion each. `prompts`, when absent, is the column `prompt`, or else `question`, or
            else empty strings.
        timeout: seconds that the call may take; None: any.

    Raises:
        RewardError: as `load_reward` and `checked`; no completions; a column of another length than the completions.
    """
    if not completions:
        raise RewardError("There are no completions to check the reward with. Give at least one.")
    for column, values in columns.items():
        if len(values) != len(completions):
            raise RewardError(
                f"Column {column!r} has {len(values)} values for {len(completions)} completions. Give one for each."
            )
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)
    function = load_reward(reward) if isinstance(reward, str) else reward
    call = checked(function, name, Patience(timeout))
    arguments = _arguments(completions, columns)
    start = time.perf_counter()
    result = _run(call(**arguments)) if is_async(call) else call(**arguments)
    return _summary(result, time.perf_counter() - start)


def _arguments(completions: Sequence[Any], columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    empty = [""] * len(completions)
    prompts = next((columns[key] for key in ("prompts", "prompt", "question") if key in columns), empty)
    # The trainer keeps the two singular columns to itself.
    rest = {key: values for key, values in columns.items() if key not in ("prompts", "prompt", "completion")}
    trainer: dict[str, Any] = {
        "completion_ids": [list(range(len(completion_text(text).split()))) for text in completions],
        "trainer_state": None,
        "log_extra": lambda column, values: None,
        "log_metric": lambda name, value: None,
    }
    return {**trainer, **rest, "prompts": prompts, "completions": completions}


def _run(pending: Awaitable[Rewards]) -> Rewards:
    async def main() -> Rewards:
        return await pending

    # In a thread of its own, so that it also works where an event loop already runs (notebooks).
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, main()).result()


def _summary(rewards: Rewards, seconds: float) -> RewardCheck:
    values = [value for value in rewards if value is not None]
    return RewardCheck(
        rewards=rewards,
        seconds=seconds,
        min=min(values, default=None),
        max=max(values, default=None),
        mean=sum(values) / len(values) if values else None,
        none_count=len(rewards) - len(values),
    )
