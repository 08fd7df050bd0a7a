"""Equations in the prose of a worked solution, as steps in the form of GSM8K: `<<35*3=105>>`.

`He bought 35 × 3 = 105 kiwi` and `135 clam / 15 clam/minute = $9` are equations with other signs, units and currencies.
"""

import re
from decimal import Decimal

from .equations import equation_holds
from .gsm8k import normalise_number

_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", **dict.fromkeys("$€£¥₹")})
_TIMES = re.compile(r"(?<![A-Za-z])[xX](?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Words between a number and an operator: "135 clam / 15 clam/minute =".
_UNITS = re.compile(r"(?<=[\d%)])\s*[-/]?[A-Za-z][A-Za-z'’/ ]*(?=[-+*/=)])")
# What stands before `=`, and the number behind it.
_EQUATION = re.compile(r"([\d.%()+\-*/ ]*)=(?=\s*(-?(?:\d+\.?\d*|\.\d+))?)")
_END_OF_NUMBER = re.compile(r"(?<=[\d%).]) +(?=[\d(.])")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(%?)")


def equation_steps(prose: str) -> list[str] | None:
    """Return the equations of a worked solution in their order. None where one cannot be read or does not hold.

    Words, units and currencies are left out, `x` and `×` become `*`, `30%` becomes `0.3`. A name before `=` makes no
    equation (`James = 0.5 * 442 + 7 = 228` is one), a lone number does and cannot be read (`48 = 48`), since a step
    that computes nothing hides one that is missing.
    """
    steps = []
    for line in prose.translate(_SIGNS).split("\n"):
        plain = _UNITS.sub(" ", _THOUSANDS.sub("", _TIMES.sub("*", line)))
        for left, right in _EQUATION.findall(plain):
            expression = _expression(left)
            if not expression:
                continue
            step = f"<<{expression}={normalise_number(right)}>>"
            if expression.replace(".", "").isdecimal() or not equation_holds(step):
                return None
            steps.append(step)
    return steps


def _expression(text: str) -> str:
    """The expression at the end of a text of numbers and operators, without spaces; empty if there is none."""
    expression = _END_OF_NUMBER.split(text)[-1].lstrip(" +-*/").rstrip().removeprefix(". ")
    return _NUMBER.sub(_plain_number, expression).replace(" ", "")


def _plain_number(match: re.Match[str]) -> str:
    digits, percent = match.groups()
    return f"{(Decimal(digits) / 100).normalize():f}" if percent else normalise_number(digits)
