"""How long a call of a reward may take, how often it is tried again, and what happens after the last failure."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Literal

from ..data.errors import reason, shown
from .arguments import LOGS, checked_logs, own_copies
from .errors import RewardError

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds between two tries; each is twice the one before


@dataclass(frozen=True)
class Patience:
    """What to do when a reward is slow or fails. A `RewardError` or a bad result is never tried again.

    Attributes:
        timeout: Seconds that one try may take; None: any.
        retries: Further tries after one that raised or took too long.
        on_error: After the last try: "raise" a RewardError, or log a warning and give "none" to every completion.

    Raises:
        RewardError: A value out of range.
    """

    timeout: float | None = None
    retries: int = 0
    on_error: Literal["raise", "none"] = "raise"

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise RewardError(f"The timeout of a reward is {self.timeout} seconds. Give a number above 0, or None.")
        if self.retries < 0:
            raise RewardError(f"The retries of a reward are {self.retries}. Give 0 or more.")
        if self.on_error not in ("raise", "none"):
            raise RewardError(f"on_error of a reward is {self.on_error!r}. Write 'raise' or 'none'.")


class TimedOut(Exception):
    """A try took too long. `blocks`: it was async and held its event loop, so that nothing else could run there."""

    def __init__(self, blocks: bool = False) -> None:
        super().__init__("no result in time")
        self.blocks = blocks


class Tries:
    """The tries of one call of a reward."""

    def __init__(self, name: str, patience: Patience, completions: Sequence[Any]) -> None:
        self.name, self.patience, self.completions = name, patience, completions
        self._made = 0
        self._notes: list[Callable[[], Any]] = []

    def columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Copies of the columns for the next try. Its logs are held back until it succeeds."""
        notes = self._notes = []
        held = {name: partial(_note, notes, value) if name in LOGS else value for name, value in columns.items()}
        return checked_logs(self.name, self.completions, own_copies(held))

    def log(self) -> None:
        """Writes the logs that the last try held back."""
        for note in self._notes:
            note()

    def failed(self, error: BaseException) -> float | None:
        """What follows a failed try: the seconds to wait before the next, or None to give None for every completion.

        Raises:
            RewardError: It was the last try, and on_error is "raise".
        """
        self._made += 1
        if self._made <= self.patience.retries:
            pause = min(FIRST_PAUSE * 2 ** (self._made - 1), LONGEST_PAUSE)
            logger.warning("%s Trying again in %g s.", self._what(error), pause)
            return pause
        if self.patience.on_error == "none":
            logger.warning(
                "%s Its %d completions get no reward (on_error: none).", self._what(error), len(self.completions)
            )
            return None
        raise RewardError(f"{self._what(error)} {self._remedy(error)}") from error

    def _what(self, error: BaseException) -> str:
        count = self.patience.retries + 1
        nth = f" in try {self._made} of {count}" if count > 1 else ""
        if isinstance(error, TimedOut):
            return (
                f"Reward {self.name!r} was given up{nth} after its timeout of {self.patience.timeout:g} s, without "
                f"rewards for {len(self.completions)} completions."
            )
        return f"Reward {self.name!r} failed{nth} with {reason(error)}."

    def _remedy(self, error: BaseException) -> str:
        if isinstance(error, TimedOut):
            block = "It blocks its event loop: await what it waits for, or call it by asyncio.to_thread. "
            return (
                f"{block if error.blocks else ''}Raise the timeout, make the reward faster, or go on without its "
                "rewards by on_error: none."
            )
        first = shown(self.completions[0], 200) if self.completions else "none"
        return (
            f"The first completion it was given: {first}. Correct the function, or let it return None for completions "
            f"it cannot judge."
        )


def _note(notes: list[Callable[[], Any]], log: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    notes.append(partial(log, *args, **kwargs))


def in_time(reward: Callable[..., Any], timeout: float | None, arguments: Mapping[str, Any]) -> Any:
    """Call a reward and give up waiting after `timeout` seconds; None: wait for ever, in this thread.

    A call that is given up goes on in its daemon thread, since nothing can end it, but it does not keep the process
    alive. A call that holds the interpreter's lock, such as the power of two huge numbers, also delays the timeout.

    Raises:
        TimedOut: It took longer.
    """
    if timeout is None:
        return reward(**arguments)
    running = _in_daemon_thread(reward, **arguments)
    wait([running], timeout)
    if not running.done():
        raise TimedOut
    return running.result()


class DaemonLoop:
    """An event loop in a daemon thread. It is the same in every call, as clients of services need it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    async def in_time(self, reward: Callable[..., Any], timeout: float | None, arguments: Mapping[str, Any]) -> Any:
        """Await a reward and cancel it after `timeout` seconds; None: wait for ever, in the running loop.

        Raises:
            TimedOut: It took longer.
        """
        if timeout is None:
            return await reward(**arguments)

        async def call() -> tuple[Any, BaseException | None]:
            try:
                return await reward(**arguments), None
            except (SystemExit, KeyboardInterrupt) as error:
                return None, error  # raised here they would end the loop

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_default_executor(_DaemonThreads())
            _in_daemon_thread(self._loop.run_forever)
        running = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self._loop))
        await asyncio.wait([running], timeout=timeout)
        if running.done():
            result, error = running.result()
            if error is not None:
                raise error
            return result
        running.cancel()
        raise TimedOut(blocks=await self._is_blocked(self._loop))

    async def _is_blocked(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether nothing runs in the loop any more. The next call then gets a new one."""
        answer = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop))
        await asyncio.wait([answer], timeout=1)
        if answer.done():
            return False
        self._loop = None
        return True


class _DaemonThreads(ThreadPoolExecutor):
    """A daemon thread for each `asyncio.to_thread`. At its end a process waits for threads of the usual pool."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _in_daemon_thread(function, *args, **kwargs)


def _in_daemon_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    future: Future[Any] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # handed to whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=work, name=getattr(function, "__name__", None), daemon=True).start()
    return future
