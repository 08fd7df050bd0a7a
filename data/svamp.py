"""Reads word problems with one equation: SVAMP, and MAWPS and ASDiv in its format.

CSV files of SVAMP have the numbers apart from the text: Question `… with number0 kids …`, Numbers `18 10`, Equation
`- number0 number1` with the operator first, Answer `8.0`. SVAMP.json has Body, Question, Equation `( 18.0 - 10.0 )` and
Answer. Source: https://github.com/arkilpatel/SVAMP (MIT).
"""

import ast
import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .equations import equation_holds
from .errors import DataError, shown
from .gsm8k import normalise_number
from .problem import Problem, parse_problem

# Our field -> its column in these files.
SVAMP_COLUMNS = {"question": "Question", "steps": "Equation", "answer": "Answer"}
_PLACE = re.compile(r"number(\d+)")
_SIGNS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_DECIMALS = 4  # most of a value that is a step's result; one with more goes on as an expression

# A number, or an operator with its two sides.
Tree = str | tuple[str, Any, Any]


def parse_svamp(row: dict[str, Any], where: str) -> Problem:
    """Return a row (question, steps: the equation, answer; Numbers or Body) as a Problem.

    The question has its numbers filled in. Each operation of the equation is a step as in GSM8K, `<<18-10=8>>`; one
    whose value has more than four decimals is part of the next one, `<<10/3*6=20>>`. The steps of a problem whose
    equation does not give its answer, also when rounded as the answer is, are left out.

    Raises:
        DataError: as `parse_problem`; the equation cannot be read; a number of the text is missing.
    """
    question, equation = row["question"], row["steps"]
    if not isinstance(question, str) or not isinstance(equation, str):
        raise DataError(f"{where}: Question and Equation are {shown(question)} and {shown(equation)}, and not texts.")
    if "Numbers" in row:
        numbers = [normalise_number(number) for number in str(row["Numbers"]).split()]
        question = _filled(question, numbers, where)
        tree = _prefix_tree(_filled(equation, numbers, where).split(), where)
    else:
        question = " ".join(str(part).strip() for part in (row.get("Body"), question) if part)
        tree = _infix_tree(equation, where)
    problem = parse_problem({**row, "question": question, "steps": []}, where)
    answer = normalise_number(problem.answer)
    return replace(problem, answer=answer, steps=tuple(_steps(tree, answer)))


def _filled(text: str, numbers: list[str], where: str) -> str:
    def number(match: re.Match[str]) -> str:
        if int(match[1]) >= len(numbers):
            raise DataError(f"{where}: {match[0]} is not among the {len(numbers)} Numbers {' '.join(numbers)}.")
        return numbers[int(match[1])]

    return _PLACE.sub(number, text)


def _prefix_tree(words: list[str], where: str) -> Tree:
    """The tree of an equation with each operator before its two sides."""
    waiting: list[Tree] = []
    for word in reversed(words):
        if word not in _SIGNS.values():
            waiting.append(normalise_number(word))
        elif len(waiting) > 1:
            waiting.append((word, waiting.pop(), waiting.pop()))
        else:
            raise _unreadable(" ".join(words), where)
    if len(waiting) != 1:
        raise _unreadable(" ".join(words), where)
    return waiting[0]


def _infix_tree(equation: str, where: str) -> Tree:
    def tree(node: ast.expr) -> Tree:
        if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
            return _SIGNS[type(node.op)], tree(node.left), tree(node.right)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return normalise_number(str(node.value))
        raise _unreadable(equation, where)

    try:
        return tree(ast.parse(equation.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise _unreadable(equation, where) from error


def _unreadable(equation: str, where: str) -> DataError:
    return DataError(
        f"{where}: Equation is {shown(equation)}. Write numbers and + - * /, with the operator first and a column "
        f"Numbers ('- number0 number1'), or as ( 18.0 - 10.0 )."
    )


def _steps(tree: Tree, answer: str) -> list[str]:
    """One equation for each operation, in the order in which they are computed. None of them if they give no answer."""
    steps: list[str] = []

    def text(part: Tree) -> tuple[str, Fraction]:
        """What stands for a part in an equation, and its exact value."""
        if isinstance(part, str):
            return part, Fraction(part)
        operator, (left, a), (right, b) = part[0], text(part[1]), text(part[2])
        expression = f"{_bracketed(left)}{operator}{_bracketed(right)}"
        value = {"+": a + b, "-": a - b, "*": a * b}[operator] if operator != "/" else a / b
        written = _decimal(value)
        if written is None:
            return expression, value
        steps.append(f"<<{expression}={written}>>")
        return written, value

    try:
        rest, value = text(tree)
    except (ZeroDivisionError, ValueError):  # a word that is no number
        return []
    if _decimal(value) is None:
        steps.append(f"<<{rest}={answer}>>")
    return steps if steps and equation_holds(steps[-1]) and steps[-1].endswith(f"={answer}>>") else []


def _bracketed(text: str) -> str:
    return text if text.replace(".", "").isdecimal() else f"({text})"


def _decimal(value: Fraction) -> str | None:
    """A value as a decimal number; None if it has too many decimals."""
    scaled = value * 10**_DECIMALS
    if scaled.denominator != 1:
        return None
    return f"{(Decimal(scaled.numerator) / 10**_DECIMALS).normalize():f}"
