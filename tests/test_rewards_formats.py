"""The tables of answer formats in docs/rewards.md: each value is what the built-in reward gives."""

import json
import logging
import random
import re
from pathlib import Path

import pytest
from conftest import ROOT

from neuralese.data.loading import load_problems
from neuralese.rewards import BUILTIN, parse_number

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
    # Which forms reasoning_gym reads is up to the verifiers of that library.
    assert rewards == set(BUILTIN) - {"latent_cost", "length_cost", "reasoning_gym"}
    named = ["1,200", "$1,200.00", "75%", ".75", "3/4", r"\frac{3}{4}", r"\boxed{}", "**18**", "(1,2)", "18kg", "-3"]
    assert {f"### {form}" for form in named} <= forms


MINUS_THREE = [
    "- 3", "x = - 3", "-(3)", r"-\left(3\right)", "-{3}", "{-}3", r"\text{-}3", r"-\boxed{3}", r"- \boxed{3}",
    r"$-\boxed{3}$", r"-$\boxed{3}$", r"x = - \boxed{3}", r"-\boxed{3\text{ eggs}}", r"minus \boxed{3}", "−\\boxed{3}",
    r"-\text{3}", r"a profit of -\text{3}", "-$3$", "- $3$", r"-\(3\)", "negative $3$", "the profit is -$3$",
    "It is $- 3$.", "**- 3**", "Answer: - 3 degrees", "\N{HYPHEN}3", "\N{NON-BREAKING HYPHEN}3",
]  # fmt: skip


@pytest.mark.parametrize("reward", ["numeric_match", "math_verify"])
@pytest.mark.parametrize("text", MINUS_THREE)
def test_no_minus_is_lost(reward, text):
    if reward == "math_verify":
        pytest.importorskip("math_verify")
    assert BUILTIN[reward]([""] * 2, [f"### {text}"] * 2, answer=["-3", "3"]) == [1.0, 0.0]


CALCULATED = [
    "-(-3)", "-+3", "+-3", "+/-3", "-(3-5)", "1e3.5", "1e3x", "(3)²", "3⁻²", "³⁄₄", "3 pi", "2sqrt3", "3n", "3x^2",
    "3xy", "3 x", "3(x)", "3/x", "x/3", "x != 3", "x ≥ 3", "3θ", "2 * -3",
]  # fmt: skip


@pytest.mark.parametrize("text", CALCULATED)
def test_what_is_calculated_or_named_is_no_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    "text", ["18g", "18s", "18h", "18 C", "18F", "18K", "18oz", "18in", "18yr", "18 a day", "18 eggs!"]
)
def test_units_are_no_variables(text):
    assert parse_number(text) == 18


def test_any_heap_of_signs_is_read_or_not_but_never_an_error():
    draw = random.Random(1)
    signs = "0123456789.,-+/()[]{}$%\\ e^±²!x=*_"
    for text in ("".join(draw.choices(signs, k=draw.randrange(30))) for _ in range(20_000)):
        parse_number(text)


@pytest.mark.parametrize(
    "part", ["- ", "-(", "-(3 ", "$ ", "²", "-$", "{-}", "3 ", "-\\text{", "-\\boxed{3}", "is - ", "+ "]
)
def test_the_reader_of_signs_takes_linear_time(part):
    """A pattern that took more would not come back from these."""
    parse_number(part * 20_000 + "; 7")


def test_math_verify_does_not_print_what_took_too_long(monkeypatch, caplog):
    pytest.importorskip("math_verify")
    monkeypatch.setattr("neuralese.rewards.mathematics._SECONDS", 1)
    with caplog.at_level(logging.WARNING):
        assert BUILTIN["math_verify"]([""], ["### " + "(1," * 500], answer=["5"]) == [0.0]
    assert not caplog.records


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
