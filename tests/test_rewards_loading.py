"""Rewards by name: built-in, module and file, and what each mistake says."""

import importlib
import sys
from pathlib import Path

import pytest

from neuralese.rewards import RewardError, exact_match, load_reward

SOURCE = """
import asyncio
from dataclasses import dataclass
import {helper}

@dataclass
class Length:
    factor: float = 1.0
    def __call__(self, prompts, completions, **columns):
        return [self.factor * len(text) for text in completions]

length = Length()
LIMIT = 5

def shorter(completions, **columns):
    return [-float(len(text)) for text in completions]

def no_columns(prompts, completions):
    return [0.0] * len(completions)

def by_position(prompts, completions, /, **columns):
    return [0.0] * len(completions)
"""


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """A folder outside the repository with a reward file and a module that it imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    helper = f"helper_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{helper}.py").write_text("VALUE = 1\n")
    (tmp_path / "mine.py").write_text(SOURCE.format(helper=helper))
    return tmp_path


def test_a_built_in_by_its_bare_name():
    assert load_reward("exact_match") is exact_match


def test_a_function_of_a_module():
    assert load_reward("neuralese.rewards.builtin:exact_match") is exact_match


def test_a_function_of_a_file_outside_the_repository(outside):
    assert load_reward(f"{outside}/mine.py:shorter")(prompts=["p"], completions=["abc"], x=[1]) == [-3.0]
    assert load_reward(f"{outside}/mine.py:length")(prompts=["p"], completions=["abc"]) == [3.0]


def test_a_path_relative_to_the_working_directory(outside, monkeypatch):
    monkeypatch.chdir(outside)
    assert load_reward("mine.py:shorter")(prompts=["p"], completions=["ab"]) == [-2.0]
    assert load_reward("./mine.py:shorter")(prompts=["p"], completions=["ab"]) == [-2.0]


def test_a_module_in_the_working_directory(outside, monkeypatch):
    (outside / "my_module_of_rewards.py").write_text("def zero(completions, **_):\n    return [0.0]\n")
    monkeypatch.chdir(outside)
    importlib.invalidate_caches()
    try:
        assert load_reward("my_module_of_rewards:zero")(prompts=["p"], completions=["ab"]) == [0.0]
    finally:
        sys.modules.pop("my_module_of_rewards", None)


def test_two_files_of_one_name_do_not_hide_each_other_or_an_installed_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = []
    for value in (1, 2):
        (tmp_path / str(value)).mkdir()
        (tmp_path / str(value) / "json.py").write_text(f"def f(completions, **_):\n    return [{value}.0]\n")
        loaded.append(load_reward(f"{tmp_path}/{value}/json.py:f"))
    assert [reward(prompts=[""], completions=[""]) for reward in loaded] == [[1.0], [2.0]]
    assert importlib.import_module("json").dumps(1) == "1"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("exact_mach", "is not a built-in .* has no colon. Did you mean 'exact_match'"),
        ("mine.py", "has no colon"),
        ("", "named by a string"),
        (None, "named by a string"),
        (":f", "lacks the part before the colon"),
        ("mine:", "lacks the part after the colon"),
        ("{folder}/mind.py:f", "there is no file .*mind.py. Did you mean 'mine.py'"),
        ("{folder}/nowhere/mine.py:f", "there is no file .*nowhere/mine.py. Check"),
        ("{folder}/mine.txt:f", "mine.txt is not a Python file"),
        ("{folder}/mine.py:shortr", "has no 'shortr'. Did you mean 'shorter'"),
        ("{folder}/mine.py:LIMIT", "is int, which cannot be called"),
        ("{folder}/mine.py:Length", "is a class"),
        ("{folder}/mine.py:no_columns", r"\(prompts, completions\), which has no \*\*columns"),
        ("{folder}/mine.py:by_position", "takes prompts by position only"),
        ("no_such_package_of_ours.rewards:f", "could not be imported: ModuleNotFoundError: No module named 'no_such_"),
        ("builtins:max", "no signature|no \\*\\*columns"),
    ],
)
def test_a_mistake_in_the_name_is_explained(outside, spec, said):
    (outside / "mine.txt").write_text("")
    with pytest.raises(RewardError, match=said):
        load_reward(spec.format(folder=outside) if spec else spec)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_thing_at_all\n", "ModuleNotFoundError: No module named 'no_such_thing_at_all'"),
        ("def f(:\n", "SyntaxError"),
        ("raise ValueError('no key\\nsecond line')\n", "ValueError: no key. Make"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_file_that_fails_to_import_shows_its_own_error(tmp_path, monkeypatch, source, said):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "bad.py").write_text(source)
    before = set(sys.modules)
    with pytest.raises(RewardError, match=f"bad.py:f' could not be imported: {said}") as info:
        load_reward(f"{tmp_path}/bad.py:f")
    assert info.value.__cause__ is not None
    assert not {name for name in set(sys.modules) - before if "bad" in name}
