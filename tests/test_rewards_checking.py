"""Guards around rewards: values, failures, names and async functions, as the trainer calls them."""

import asyncio
import functools
import inspect
import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from neuralese.data import UserError
from neuralese.rewards import (
    RewardCheck,
    RewardError,
    check_reward,
    checked,
    exact_match,
    latent_cost,
)

CALL = {"prompts": ["p", "q"], "completions": ["first text", "second text"]}


def _returning(value):
    def reward(prompts, completions, **columns):
        return value

    async def reward_async(prompts, completions, **columns):
        await asyncio.sleep(0)
        return value

    return reward, reward_async


def _call(wrapper, **arguments):
    result = wrapper(**arguments)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    ("value", "rewards"),
    [
        ([1, None], [1.0, None]),
        ((0.5, True), [0.5, 1.0]),
        (np.array([0.5, 2], dtype=np.float32), [0.5, 2.0]),
        ([Fraction(1, 4), np.int64(3)], [0.25, 3.0]),
        (np.array([True, False]), [1.0, 0.0]),
        (np.array([2, 3], dtype=np.uint8), [2.0, 3.0]),
        ([-1e12, 10**12], [-1e12, 1e12]),
    ],
)
def test_good_rewards_pass_as_floats(kind, value, rewards):
    result = _call(checked(_returning(value)[kind], "mine"), **CALL)
    assert result == rewards
    assert all(item is None or type(item) is float for item in result)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0], "'mine' returned 1 rewards for 2 completions"),
        ([1.0] * 3, "'mine' returned 3 rewards for 2 completions"),
        (None, "'mine' returned NoneType None"),
        (1.0, "'mine' returned float 1.0"),
        ("ab", "'mine' returned str 'ab'"),
        ({0: 1.0, 1: 2.0}, "'mine' returned dict"),
        ([1.0, math.nan], "returned float nan at index 1, for the completion 'second text'"),
        ([math.inf, 1.0], "returned float inf at index 0, for the completion 'first text'"),
        ([1.0, "1.0"], "returned str '1.0' at index 1, for the completion 'second text'"),
        ([[1.0], 1.0], r"returned list \[1.0\] at index 0"),
        ([1j, 1.0], "returned complex 1j at index 0"),
        ([1.0, 1e300], r"returned float 1e\+300 at index 1, for .*'second text'\. Rewards must lie between"),
        ([-1.1e12, 1.0], "returned float -1100000000000.0 at index 0.*squares of larger ones are infinite"),
        ([10**400, 1.0], "returned int 10000.* at index 0.*must lie between -1e\\+12 and 1e\\+12"),
        ([10**5000, 1.0], "returned int that cannot be shown at index 0.*must lie between"),
        ([Fraction(10**400, 3), 1.0], "returned Fraction .* at index 0.*must lie between"),
        (np.array([1.0, np.nan]), "returned float64 np.float64.nan. at index 1"),
        ([np.float32("inf"), 1.0], "returned float32 .*inf.* at index 0.*Return finite numbers"),
        (torch.tensor([1.0, 2.0]), r"returned Tensor tensor\(1.\) at index 0.*of a tensor, return tensor.tolist\(\)"),
        ([torch.tensor(1.0), 1.0], r"returned Tensor tensor\(1.\) at index 0"),
        (torch.tensor(1.0), "failed with TypeError: iteration over a 0-d tensor"),
        (np.ones((2, 1)), "returned ndarray array.*at index 0"),
    ],
)
def test_bad_rewards_are_named(kind, value, said):
    with pytest.raises(RewardError, match=said):
        _call(checked(_returning(value)[kind], "mine"), **CALL)


def _raising(prompts, completions, **columns):
    return [columns["nothing"][0]]


async def _raising_async(prompts, completions, **columns):
    await asyncio.sleep(0)
    return [columns["nothing"][0]]


@pytest.mark.parametrize("reward", [_raising, _raising_async])
def test_an_exception_inside_is_chained_and_shows_the_first_completion(reward):
    said = "'mine' failed with KeyError: 'nothing'. The first completion it was given: 'first text'"
    with pytest.raises(UserError, match=said) as info:
        _call(checked(reward, "mine"), **CALL)
    assert isinstance(info.value.__cause__, KeyError)


def test_a_long_completion_is_cut_in_the_message():
    with pytest.raises(RewardError) as info:
        checked(_raising, "mine")(prompts=["p"], completions=["x" * 5_000])
    assert len(str(info.value)) < 500


def test_a_missing_column_of_a_built_in_is_explained():
    with pytest.raises(RewardError, match=r"'exact_match' failed with TypeError: .*'answer'"):
        checked(exact_match, "exact_match")(**CALL)
    with pytest.raises(RewardError, match=r"^The reward 'latent_cost' received no column"):
        checked(latent_cost, "latent_cost")(**CALL)


def test_a_coroutine_from_a_plain_function_is_explained():
    with pytest.raises(RewardError, match=r"returned a coroutine. Define it with `async def`"):
        checked(lambda prompts, completions, **_: _returning([1.0, 1.0])[1](prompts, completions), "mine")(**CALL)


class _Callable:
    def __call__(self, prompts, completions, **columns):
        return [1.0] * len(completions)


class _AsyncCallable:
    async def __call__(self, prompts, completions, **columns):
        return [1.0] * len(completions)


def test_name_and_kind_are_kept():
    plain, is_async = _returning([1.0, 1.0])
    cases = [
        (plain, "reward", False),
        (is_async, "reward_async", True),
        (_Callable(), "mine", False),
        (_AsyncCallable(), "mine", True),
        (functools.partial(is_async, level=1), "mine", True),
        (functools.partial(plain, level=1), "mine", False),
    ]
    for reward, name, expected in cases:
        wrapper = checked(reward, "mine")
        assert wrapper.__name__ == name
        assert inspect.iscoroutinefunction(wrapper) == expected
        assert _call(wrapper, **CALL) == [1.0, 1.0]


def test_every_argument_of_the_trainer_is_passed_on():
    got = {}

    def reward(prompts, completions, **rest):
        got.update(rest, prompts=prompts, completions=completions)
        rest["log_metric"]("m", 1.0)
        return [0.0, 0.0]

    logged = []
    extra = {
        "completion_ids": [[1], [2]],
        "trainer_state": object(),
        "log_extra": print,
        "log_metric": lambda name, value: logged.append((name, value)),
        "answer": ["1", "2"],
    }
    checked(reward, "mine")(**CALL, **extra)
    plain = {name: value for name, value in {**CALL, **extra}.items() if name not in ("log_extra", "log_metric")}
    assert {name: got[name] for name in plain} == plain and got.keys() == {**CALL, **extra}.keys()
    assert got["trainer_state"] is extra["trainer_state"]
    assert logged == [("m", 1.0)]


@pytest.fixture
def rewards_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(
        "import asyncio\n"
        "def half(prompts, completions, answer, trainer_state, log_extra, log_metric, completion_ids, **_):\n"
        "    log_extra('answer', answer)\n"
        "    log_metric('n', len(completion_ids))\n"
        "    return [None if a == '' else len(p) + 0.5 for p, a in zip(prompts, answer)]\n"
        "async def slow(prompts, completions, **_):\n"
        "    await asyncio.sleep(0.02)\n"
        "    return [float(len(text)) for text in completions]\n"
        "def none(completions, **_):\n"
        "    return [None for _ in completions]\n"
    )
    return tmp_path / "mine.py"


def test_check_reward_sums_up_one_call(rewards_file):
    columns = {"question": ["q", "qq", "qqq"], "answer": ["1", "", "3"]}
    result = check_reward(f"{rewards_file}:half", ["a", "b", "c"], columns)
    assert result.rewards == [1.5, None, 3.5]
    assert (result.min, result.max, result.mean, result.none_count) == (1.5, 3.5, 2.5, 1)
    assert 0 <= result.seconds < 1


def test_check_reward_awaits_an_async_reward_also_inside_a_running_loop(rewards_file):
    async def inside():
        return check_reward(f"{rewards_file}:slow", ["a", "bcd"], {})

    for result in (check_reward(f"{rewards_file}:slow", ["a", "bcd"], {}), asyncio.run(inside())):
        assert result.rewards == [1.0, 3.0]
        assert result.seconds >= 0.02


def test_check_reward_of_only_none(rewards_file):
    result = check_reward(f"{rewards_file}:none", ["a", "b"], {})
    assert result == RewardCheck([None, None], result.seconds, None, None, None, 2)


def test_check_reward_of_a_built_in():
    result = check_reward("exact_match", ["### 1", "### 2"], {"question": ["a", "b"], "answer": ["1", "1"]})
    assert result.rewards == [1.0, 0.0]


def test_check_reward_errors(rewards_file):
    with pytest.raises(RewardError, match="no completions"):
        check_reward("exact_match", [], {})
    with pytest.raises(RewardError, match="Column 'answer' has 1 values for 2 completions"):
        check_reward("exact_match", ["a", "b"], {"answer": ["a"]})
    with pytest.raises(RewardError, match=r"mine\.py:half' failed with TypeError"):
        check_reward(f"{rewards_file}:half", ["a", "b"], {})
    with pytest.raises(RewardError, match="not a built-in"):
        check_reward("nothing", ["a"], {})
