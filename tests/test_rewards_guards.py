"""What a reward may do to others and to the run: nothing. Its arguments, its exits, its logs."""

import asyncio
import inspect
import signal
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from neuralese.data.errors import TerminatedError
from neuralese.rewards import Patience, RewardError, checked

KINDS = ["plain", "async"]
WAYS = [Patience(), Patience(timeout=20), Patience(retries=1)]


def call(wrapper, **columns):
    result = wrapper(**{"prompts": ["p", "q"], "completions": ["first text", "second text"], **columns})
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def both(function):
    """A plain reward and an async one that return what `function(**columns)` does."""

    async def reward_async(**columns):
        return function(**columns)

    return [function, reward_async]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("neuralese.rewards.retries.FIRST_PAUSE", 0.01)


@pytest.mark.parametrize("kind", [0, 1], ids=KINDS)
@pytest.mark.parametrize("patience", WAYS, ids=["", "timeout", "retries"])
def test_a_reward_edits_copies_alone(kind, patience):
    """Also inside lists, objects, tuples and arrays."""
    columns = {
        "prompts": [["q"], ["r"]], "completions": ["a", "b"], "steps": [["x", "y"], ["z"]],
        "completion_ids": [[1], [2]],
        "meta": [{"at": [1]}, {"at": [2]}], "array": [np.zeros(1), np.zeros(1)], "pair": [([0],), ([0],)],
    }  # fmt: skip

    def edits(prompts, completions, steps, completion_ids, meta, array, pair, **_):
        prompts[0].append("more")
        completions.reverse()
        steps[0].clear()
        steps.pop()
        completion_ids[1] += [9]
        meta[0]["at"][0] = 5
        array[0] += 1
        pair[0][0][0] = 7
        return [0.0, 0.0]

    call(checked(both(edits)[kind], "edits", patience), **columns)
    assert columns.pop("array") == [np.zeros(1), np.zeros(1)]
    assert columns == {
        "prompts": [["q"], ["r"]], "completions": ["a", "b"], "steps": [["x", "y"], ["z"]],
        "completion_ids": [[1], [2]],
        "meta": [{"at": [1]}, {"at": [2]}], "pair": [([0],), ([0],)],
    }  # fmt: skip


def test_another_try_finds_the_arguments_as_they_were():
    seen = []

    def edits_and_fails(completions, **_):
        seen.append(list(completions))
        completions.clear()
        if len(seen) == 1:
            raise ValueError
        return [1.0, 1.0]

    assert call(checked(edits_and_fails, "mine", Patience(retries=1))) == [1.0, 1.0]
    assert seen[0] == seen[1] and len(seen[0]) == 2


def test_objects_that_are_no_data_stay_the_same_ones():
    thing, got = threading.Lock(), []
    call(checked(both(lambda tool, **_: got.append(tool) or [1.0, 1.0])[0], "mine"), tool=[thing, thing])
    assert got[0][0] is thing


def _exits(**_):
    raise SystemExit(3)


class _Panic(BaseException):
    """As native libraries raise them."""


def _panics(**_):
    raise _Panic("at the worst")


@pytest.mark.parametrize("kind", [0, 1], ids=KINDS)
@pytest.mark.parametrize("patience", WAYS, ids=["", "timeout", "retries"])
@pytest.mark.parametrize(("function", "said"), [(_exits, "SystemExit: 3"), (_panics, "_Panic: at the worst")])
def test_an_exit_inside_a_reward_is_a_failure_like_any_other(kind, patience, function, said):
    with pytest.raises(RewardError, match=f"'mine' failed.* with {said}.*Correct the function"):
        call(checked(both(function)[kind], "mine", patience))
    forgiving = Patience(patience.timeout, patience.retries, "none")
    assert call(checked(both(function)[kind], "mine", forgiving)) == [None, None]


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("kind", [0, 1], ids=KINDS)
def test_an_interrupt_stays_an_interrupt(kind, timeout):
    calls = []

    def interrupted(**_):
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(checked(both(interrupted)[kind], "mine", Patience(timeout, 3, "none")))
    assert calls == [1]


def test_an_interrupt_in_an_event_loop_of_another_thread_reaches_the_main_thread():
    """As the trainer awaits async rewards; raised in its loop, the interrupt would end that, and all would wait.

    A handler of our own takes the interrupt: by default it is raised wherever the main thread is at that moment."""
    loop, received = asyncio.new_event_loop(), []
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def interrupted(**_):
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        reward = checked(interrupted, "mine")(prompts=["p"], completions=["c"])
        with pytest.raises(CancelledError):
            asyncio.run_coroutine_threadsafe(reward, loop).result(timeout=20)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert received == [signal.SIGINT]
    assert loop.is_running()
    loop.call_soon_threadsafe(loop.stop)


@pytest.mark.parametrize("patience", WAYS, ids=["", "timeout", "retries"])
def test_the_code_of_a_generator_runs_under_the_guards(patience):
    def halves(completions, **_):
        for text in completions:
            yield len(text) / 2

    def broken(completions, **_):
        yield 1.0
        raise KeyError("level")

    assert call(checked(halves, "mine", patience), completions=["ab", "c"], prompts=["", ""]) == [1.0, 0.5]
    with pytest.raises(RewardError, match="'mine' failed.* with KeyError: 'level'"):
        call(checked(broken, "mine", patience))


@pytest.mark.parametrize(
    ("log", "values", "said"),
    [
        ("log_metric", ("near", "half"), r"log_metric\('near', 'half'\).*a name and a number"),
        ("log_metric", (3, 1.0), r"log_metric\(3, 1.0\)"),
        ("log_extra", ("note", ["one"]), r"log_extra\('note', \['one'\]\).*each of the 2 completions"),
        ("log_extra", ("note", "ab"), r"log_extra\('note', 'ab'\)"),
        ("log_extra", ("note", 1), r"log_extra\('note', 1\)"),
    ],
)
def test_what_the_trainer_cannot_log_is_refused_at_once(log, values, said):
    def logs(**columns):
        columns[log](*values)
        return [1.0, 1.0]

    with pytest.raises(RewardError, match=said):
        call(checked(logs, "mine"), log_metric=None, log_extra=None)


def test_what_can_be_logged_is_logged_as_it_is():
    logged = []

    def logs(log_metric, log_extra, **_):
        log_metric("a", np.float32(0.5))
        log_metric("b", True)
        log_extra("c", ("x", None))
        return [1.0, 1.0]

    call(checked(logs, "mine"), log_metric=lambda *row: logged.append(row), log_extra=lambda *row: logged.append(row))
    assert logged == [("a", 0.5), ("b", 1.0), ("c", ["x", None])]


@pytest.mark.parametrize("kind", [0, 1], ids=KINDS)
@pytest.mark.parametrize(
    "patience", [*WAYS, Patience(on_error="none"), Patience(on_error="none", timeout=20)],
    ids=["", "timeout", "retries", "none", "none, timeout"],
)  # fmt: skip
def test_a_sigterm_while_a_reward_works_is_no_fault_of_the_reward(kind, patience):
    """It ends the process: nothing is tried again, and no reward is put in its place."""
    calls = []

    def terminated(**columns):
        calls.append(columns)
        raise TerminatedError

    with pytest.raises(TerminatedError):
        call(checked(both(terminated)[kind], "mine", patience))
    assert len(calls) == 1
