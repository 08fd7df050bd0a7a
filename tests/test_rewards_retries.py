"""Timeouts and retries of rewards: what is waited for, what is tried again, and that the process can still end."""

import asyncio
import inspect
import logging
import subprocess
import sys
import threading
import time

import pytest

from neuralese.rewards import (
    Patience,
    RewardError,
    check_reward,
    checked,
)
from neuralese.rewards import (
    retries as patience,
)
from neuralese.rewards.retries import Tries

CALL = {"prompts": ["p", "q"], "completions": ["first text", "second text"]}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.001)


def call(wrapper, **columns):
    result = wrapper(**CALL, **columns)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def both(function):
    """A plain reward and an async one that return what `function(**columns)` does."""

    def reward(prompts, completions, **columns):
        return function(**columns)

    async def reward_async(prompts, completions, **columns):
        await asyncio.sleep(0)
        return function(**columns)

    return [reward, reward_async]


def sleeping(seconds):
    """Rewards that take too long: plain, async, and async ones that let nothing else run in their event loop."""

    def plain(prompts, completions, **columns):
        time.sleep(seconds)
        return [1.0, 1.0]

    async def awaiting(prompts, completions, **columns):
        await asyncio.sleep(seconds)
        return [1.0, 1.0]

    async def in_thread(prompts, completions, **columns):
        return await asyncio.to_thread(plain, prompts, completions)

    async def blocking(prompts, completions, **columns):
        return plain(prompts, completions)

    return {"plain": plain, "awaiting": awaiting, "in_thread": in_thread, "blocking": blocking}


class Failing:
    """Raises at the first `times` calls."""

    def __init__(self, times, error=ConnectionError):
        self.times, self.error, self.calls = times, error, 0

    def __call__(self, log_metric=None, **_):
        self.calls += 1
        if log_metric:
            log_metric("call", self.calls)
        if self.calls <= self.times:
            raise self.error("no connection")
        return [1.0, None]


@pytest.mark.parametrize("kind", ["plain", "awaiting", "in_thread", "blocking"])
def test_a_reward_that_hangs_is_given_up(kind):
    start = time.monotonic()
    with pytest.raises(RewardError) as info:
        call(checked(sleeping(20)[kind], "mine", Patience(timeout=0.1, retries=1)))
    assert 0.2 <= time.monotonic() - start < 8
    said = str(info.value)
    assert "'mine' was given up in try 2 of 2 after its timeout of 0.1 s, without rewards for 2 completions" in said
    assert "Raise the timeout" in said and "on_error: none" in said
    assert ("blocks its event loop" in said) == (kind == "blocking")


@pytest.mark.parametrize("kind", ["plain", "awaiting", "in_thread", "blocking"])
def test_a_slow_reward_within_its_timeout_counts(kind):
    assert call(checked(sleeping(0.2)[kind], "mine", Patience(timeout=20))) == [1.0, 1.0]


def test_without_a_timeout_a_reward_runs_where_it_is_called():
    def reward(prompts, completions, **columns):
        return [float(threading.current_thread() is threading.main_thread())] * 2

    assert call(checked(reward, "mine", Patience(retries=1))) == [1.0, 1.0]
    assert call(checked(reward, "mine", Patience(timeout=20))) == [0.0, 0.0]


def test_a_process_ends_though_rewards_hang():
    script = (
        "import asyncio, time\n"
        "from neuralese.rewards import Patience, checked\n"
        "def plain(prompts, completions, **c): time.sleep(100)\n"
        "async def in_thread(prompts, completions, **c): await asyncio.to_thread(time.sleep, 100)\n"
        "async def blocking(prompts, completions, **c): time.sleep(100)\n"
        "patience = Patience(timeout=0.1, on_error='none')\n"
        "print(checked(plain, 'a', patience)(prompts=['p'], completions=['c']))\n"
        "for reward in (in_thread, blocking):\n"
        "    print(asyncio.run(checked(reward, 'a', patience)(prompts=['p'], completions=['c'])))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[None]"] * 3


@pytest.mark.parametrize("kind", [0, 1])
def test_one_that_fails_twice_and_then_works_needs_two_retries(kind, caplog):
    failing = Failing(2)
    with caplog.at_level(logging.WARNING):
        assert call(checked(both(failing)[kind], "mine", Patience(retries=2, timeout=20))) == [1.0, None]
    assert failing.calls == 3
    assert [record.message for record in caplog.records] == [
        "Reward 'mine' failed in try 1 of 3 with ConnectionError: no connection. Trying again in 0.001 s.",
        "Reward 'mine' failed in try 2 of 3 with ConnectionError: no connection. Trying again in 0.002 s.",
    ]
    failing = Failing(2)
    with pytest.raises(RewardError, match="failed in try 2 of 2 with ConnectionError: no connection. The first comp"):
        call(checked(both(failing)[kind], "mine", Patience(retries=1)))
    assert failing.calls == 2


def test_pauses_double_up_to_the_longest(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.5)
    tries = Tries("mine", Patience(retries=6), CALL["completions"])
    assert [tries.failed(ValueError()) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    with pytest.raises(RewardError):
        tries.failed(ValueError())


@pytest.mark.parametrize("kind", [0, 1])
def test_one_that_never_works_gives_none_if_told_so(kind, caplog):
    failing = Failing(99)
    with caplog.at_level(logging.WARNING):
        assert call(checked(both(failing)[kind], "mine", Patience(retries=1, on_error="none"))) == [None, None]
    assert failing.calls == 2
    assert "Its 2 completions get no reward (on_error: none)" in caplog.records[-1].message
    assert call(checked(sleeping(20)["plain"], "mine", Patience(timeout=0.1, on_error="none"))) == [None, None]


@pytest.mark.parametrize("kind", [0, 1])
def test_mistakes_are_not_tried_again_and_end_the_run_whatever_on_error_says(kind):
    calls = []

    def refuses(**_):
        calls.append("refuses")
        raise RewardError("no column 'level'")

    def gives_one(**_):
        calls.append("gives one")
        return [1.0]

    for function, said in ((refuses, "^no column 'level'$"), (gives_one, "returned 1 rewards for 2")):
        with pytest.raises(RewardError, match=said):
            call(checked(both(function)[kind], "mine", Patience(timeout=20, retries=3, on_error="none")))
    assert calls == ["refuses", "gives one"]


def test_a_timeout_error_of_the_function_is_its_own():
    with pytest.raises(RewardError, match="failed with TimeoutError: no connection. The first completion"):
        call(checked(both(Failing(9, TimeoutError))[0], "mine", Patience(timeout=20)))


@pytest.mark.parametrize("kind", [0, 1])
def test_only_the_try_that_works_is_logged(kind):
    logged = []
    wrapper = checked(both(Failing(2))[kind], "mine", Patience(timeout=20, retries=2))
    call(wrapper, log_metric=lambda name, value: logged.append((name, value)))
    assert logged == [("call", 3)]


def test_an_async_reward_with_a_timeout_keeps_its_event_loop_until_that_is_blocked():
    loops, cancelled = [], []

    async def reward(prompts, completions, how, **columns):
        loops.append(asyncio.get_running_loop())
        if how == "block":
            time.sleep(6)
        try:
            await asyncio.sleep(20 if how == "hang" else 0)
        except asyncio.CancelledError:
            cancelled.append(how)
            raise
        return [1.0, 1.0]

    wrapper = checked(reward, "mine", Patience(timeout=1.0, on_error="none"))
    hows = ["work", "hang", "work", "block", "work"]
    assert [call(wrapper, how=how)[0] for how in hows] == [1.0, None, 1.0, None, 1.0]
    assert loops[0] is loops[1] is loops[2] is loops[3] is not loops[4]
    assert cancelled[0] == "hang"


def test_check_reward_takes_a_timeout_and_a_function():
    with pytest.raises(RewardError, match="'plain' was given up after its timeout of 0.1 s"):
        check_reward(sleeping(20)["plain"], ["a"], {}, timeout=0.1)
    assert check_reward(both(Failing(0))[1], ["a", "b"], {}, timeout=20).rewards == [1.0, None]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"timeout": 0}, "timeout of a reward is 0 seconds"),
        ({"timeout": float("nan")}, "timeout of a reward is nan"),
        ({"retries": -1}, "retries of a reward are -1"),
        ({"on_error": "None"}, "on_error of a reward is 'None'"),
    ],
)
def test_patience_out_of_range_is_refused(values, said):
    with pytest.raises(RewardError, match=said):
        Patience(**values)
