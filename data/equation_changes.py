"""Variants of problems whose steps are equations: one number of the question differs, steps and answer follow.

Nothing here understands the question. A number is changed only where the steps say what it does: it is an operand that
stands once in the question and is no result of an earlier step. What the words of a question may imply, such as 7 in
one with a week, is not changed.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from .conversation import Conversation
from .equations import equation_holds, value_of
from .problem import Problem

# Whole numbers of a question: no part of a word, a fraction, a decimal, a percentage or a larger number.
_NUMERAL = re.compile(r"(?<![\w.,/])\d+(?![\w/%]|[.,]\d)")
_OPERAND = re.compile(r"\d+(?:\.\d+)?|\.\d+")
# What a question with one of these words may say without a numeral. 0, 1 and 2 are implied too easily to be changed.
_IMPLIED = {
    3: "three|thrice|triple|third", 4: "four|quarter|month", 5: "five|fifth", 6: "six", 7: "seven|week", 8: "eight",
    9: "nine|ninth", 10: "ten", 11: "eleven", 12: "twelve|twelfth|dozen|year|month", 24: "day|hour", 30: "month|day",
    52: "year|week", 60: "hour|minute|second", 100: "percent|%|cent|met(er|re)|hundred", 365: "year|day",
    1000: "thousand|kilo|gram|liter|litre|met(er|re)",
}  # fmt: skip
_TRIES = 8  # new values of a number
_MOST_DECIMALS = 2


def changes(problem: Problem, rng: random.Random) -> Iterator[Problem]:
    """Yields variants with another answer, in random order. None where the steps do not say what a number does."""
    results = _results(problem)
    if results is None or isinstance(problem.question, Conversation):
        return
    found = list(_NUMERAL.finditer(problem.question))
    numbers = [int(match[0]) for match in found]
    places = [match for match in found if _is_free(int(match[0]), numbers, problem.question, results)]
    rng.shuffle(places)
    for match in places:
        old = int(match[0])
        others = [new for new in range(max(2, old // 2), 2 * old + 3) if new not in numbers]
        for new in rng.sample(others, min(_TRIES, len(others))):
            steps = _recomputed(problem, results, numbers, Fraction(old), Fraction(new))
            if steps is not None and (answer := steps[-1].rpartition("=")[2].rstrip("> ").strip()) != problem.answer:
                question = f"{problem.question[: match.start()]}{new}{problem.question[match.end() :]}"
                about = {"question": question, "steps": tuple(steps), "answer": answer}
                yield replace(problem, **about, extra=_about(problem.extra, question, answer), where="")


def _results(problem: Problem) -> list[Fraction] | None:
    """What each step's equation gives. None where a step is no plain equation, or the last does not give the answer."""
    if not problem.steps or not all(_is_plain(step) for step in problem.steps):
        return None
    results = [Fraction(_sides(step)[1]) for step in problem.steps]
    try:
        return results if results[-1] == Fraction(problem.answer) else None
    except ValueError:
        return None


def _about(extra: Mapping[str, Any], question: str, answer: str) -> Mapping[str, Any]:
    """Other columns of a problem, for a variant: reasoning-gym's verifier judges by the column `entry`."""
    entry = extra.get("entry")
    if not isinstance(entry, Mapping):
        return extra
    return {**extra, "entry": {**entry, "question": question, "answer": answer}}


def _is_plain(step: str) -> bool:
    return not set(step) & set("$,%") and step.count("=") == 1 and equation_holds(step)


def _sides(step: str) -> tuple[str, str]:
    left, _, right = step.strip().removeprefix("<<").removesuffix(">>").partition("=")
    return left.strip(), right.strip()


def _is_free(number: int, numbers: list[int], question: str, results: list[Fraction]) -> bool:
    """Whether a number of the question comes from there alone, so that the steps show where it goes."""
    implied = _IMPLIED.get(number)
    return (
        number > 2
        and numbers.count(number) == 1
        and Fraction(number) not in results
        and (implied is None or re.search(implied, question, flags=re.IGNORECASE) is None)
    )


def _recomputed(
    problem: Problem, results: list[Fraction], numbers: list[int], old: Fraction, new: Fraction
) -> list[str] | None:
    """The steps with another number. None where it cannot be told what follows, or where something odd follows."""
    moved, steps, is_used = {old: new}, [], False
    for step, result in zip(problem.steps, results, strict=True):
        left, right = _sides(step)
        values = [Fraction(operand) for operand in _OPERAND.findall(left)]
        if any(moved.get(value, value) != value and value != old and value in numbers for value in values):
            return None  # a changed result, or the number of the same value in the question?
        is_used |= old in values
        changed = _OPERAND.sub(lambda match: _written(moved.get(Fraction(match[0])), match[0]), left)
        try:
            value = value_of(changed)
        except ZeroDivisionError:
            return None
        text = _written(value, None)
        if text is None or (value < 0) != (result < 0) or (value.denominator > 1 and result.denominator == 1):
            return None  # half an apple
        if moved.get(result, value) != value:
            return None  # two steps gave the same, and differ now
        moved[result] = value
        steps.append(step.replace(left, changed).replace(f"={right}", f"={text}").replace(f"= {right}", f"= {text}"))
    return steps if is_used and all(equation_holds(step) for step in steps) else None


def _written(value: Fraction | None, otherwise: str | None) -> str | None:
    """A number as text with few decimals; `otherwise` for None. None where it has more."""
    if value is None:
        return otherwise
    scaled = value * 10**_MOST_DECIMALS
    if scaled.denominator > 1:
        return None
    if value.denominator > 1:
        return f"{float(value):.{_MOST_DECIMALS}f}".rstrip("0")
    return str(value.numerator)
