"""Reads rows of GSM8K and GSM8K-Aug.

GSM8K has one prose answer: `He sells <<48/2=24>>24 clips.\\n#### 24`. GSM8K-Aug has the `<<...>>` expressions as steps,
in a list or in one string, and the answer alone.
"""

import re
from dataclasses import replace
from typing import Any

from .errors import DataError, shown
from .problem import Problem, parse_problem

_EXPRESSION = re.compile(r"<<[^<>]*>>")
_FINAL = "####"
# Digits with or without thousands commas and decimals, with sign, dollar and full stop around them.
_NUMBER = re.compile(r"\$?\s*(-?)\s*\$?\s*((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)\.?")


def parse_gsm8k(row: dict[str, Any], where: str) -> Problem:
    """Return a GSM8K row (question, answer) or a GSM8K-Aug row (question, steps, answer) as a Problem.

    GSM8K: the steps are the `<<...>>` expressions of the answer, brackets included; the answer is what follows the last
    `####`. A row without expressions has no steps. GSM8K-Aug: a row with `steps`, kept as they are; a string of
    expressions separated by spaces is split. An answer that is a number is written by `normalise_number` in both.

    Raises:
        DataError: as `parse_problem`; no `####` in a GSM8K answer; text between the expressions of a steps string.
    """
    if "steps" in row:
        steps = row["steps"]
        problem = parse_problem({**row, "steps": _expressions(steps, where)} if isinstance(steps, str) else row, where)
        return replace(problem, answer=normalise_number(problem.answer))
    answer = row.get("answer")
    if not isinstance(answer, str) or _FINAL not in answer:
        raise DataError(
            f"{where}: answer is {shown(answer)}. A GSM8K answer is prose that ends with '#### <number>'; for "
            f"GSM8K-Aug name the column of its expressions in `columns`, such as steps: cot."
        )
    prose, _, final = answer.rpartition(_FINAL)
    problem = parse_problem({**row, "steps": find_expressions(prose), "answer": final}, where)
    return replace(problem, answer=normalise_number(problem.answer))


def normalise_number(text: str) -> str:
    """Return a number without outer space, dollar sign, thousands commas, trailing `.0` and full stop.

    "$1,250.00." becomes "1250" and "-$3" becomes "-3"; "2.50" stays. Text that is not one number is only stripped.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return text.strip()
    sign, digits = match.groups()
    return sign + re.sub(r"\.0+$", "", digits.replace(",", ""))


def find_expressions(text: str) -> list[str]:
    """Return the parts `<<...>>` of a text, brackets included."""
    return _EXPRESSION.findall(text)


def _expressions(text: str, where: str) -> list[str]:
    rest = _EXPRESSION.sub(" ", text).strip()
    if rest:
        raise DataError(
            f"{where}: steps has {shown(rest)} outside of its <<...>> expressions. Separate expressions by spaces "
            f"only, or use step_splitter 'line' or 'sentence' for prose."
        )
    return find_expressions(text)
