"""The tables of answer formats in docs/rewards.md: each value is what the built-in reward gives."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from neuralese.data.loading import load_problems
from neuralese.rewards import BUILTIN

PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
GRAPH = {"edges": [[[3, 7], [7, 2]]], "start": [3], "goal": [2]}


def table(name):
    """Rows of a table between two comments: cells as they are meant, without code ticks."""
    (text,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, flags=re.S)
    rows = [[meant(cell) for cell in line.strip("|").split(" | ")] for line in text.strip().splitlines()]
    return [rows[0], *rows[2:]]


def meant(cell):
    ticks = re.fullmatch(r" ?(?:`` (.*) ``|`(.*)`) ?", cell)
    return (ticks[1] or ticks[2]) if ticks else cell.strip()


def cases():
    for name, marker in (("formats", "### "), ("markers", ""), ("paths", "### ")):
        heads, *rows = table(name)
        for row in rows:
            answer, text = (row[0], row[1]) if name == "formats" else ("18", row[0])
            first = 2 if name == "formats" else 1
            for reward, expected in zip(heads[first:], row[first:], strict=True):
                yield pytest.param(reward, answer, marker + text, expected, id=f"{reward}: {answer}: {text}")


@pytest.mark.parametrize(("reward", "answer", "completion", "expected"), list(cases()))
def test_the_tables_of_the_docs(reward, answer, completion, expected):
    if reward == "math_verify":
        pytest.importorskip("math_verify")
    given = BUILTIN[reward](prompts=[""], completions=[completion], answer=[answer], **GRAPH)
    assert given == [{"1": 1.0, "0": 0.0, "–": None}[expected]]


def test_the_tables_hold_every_form_and_every_reward_that_reads_answers():
    rewards, forms = {case.values[0] for case in cases()}, {case.values[2] for case in cases()}
    assert rewards == set(BUILTIN) - {"latent_cost", "length_cost"}
    named = ["1,200", "$1,200.00", "75%", ".75", "3/4", r"\frac{3}{4}", r"\boxed{}", "**18**", "(1,2)", "18kg", "-3"]
    assert {f"### {form}" for form in named} <= forms


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not here")
@pytest.mark.parametrize("reward", ["exact_match", "numeric_match", "math_verify"])
def test_every_answer_of_gsm8k_is_right_and_its_neighbour_is_not(reward):
    if reward == "math_verify":
        pytest.importorskip("math_verify")
    written = [line.rpartition("#### ")[2] for line in _column("answer")]  # with commas
    answers = [problem.answer for problem in load_problems(path=REAL / "gsm8k_test.jsonl", step_splitter="gsm8k")]
    assert len(answers) == 1319
    right = BUILTIN[reward](prompts=answers, completions=[f"### {answer}" for answer in answers], answer=answers)
    assert sum(right) == 1319
    if reward != "exact_match":
        assert sum(BUILTIN[reward](prompts=written, completions=written, answer=answers)) == 1319
    wrong = BUILTIN[reward](prompts=answers, completions=[f"### {answer}1" for answer in answers], answer=answers)
    assert sum(wrong) == 0


def _column(name):
    lines = (REAL / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[name] for line in lines]
