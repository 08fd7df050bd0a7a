"""Whether equations hold: `17 + 5 = 22`, `<<48/2=24>>`, also modulo a number."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

_BRACKETS = re.compile(r"<<([^<>]*)>>")
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")
_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
# Longer than any step; the parser would spend long on texts without end.
_LONGEST = 200


def equation_holds(text: str, modulus: int | None = None) -> bool:
    """Return whether `text` is one equation `expression = number` of + - * / and brackets, and holds.

    `<<` and `>>` around it, dollar signs and commas in numbers are left out, and `50%` is 0.5. A right side with
    decimals may be rounded or cut at its last one. With a modulus both sides are equal modulo it, and the right side
    lies in 0..modulus-1.
    """
    found = _BRACKETS.fullmatch(text.strip())
    plain = re.sub(r"(?<=\d)%", "/100", (found[1] if found else text).replace("$", "").replace(",", ""))
    left, separator, right = plain.partition("=")
    if not separator or len(plain) > _LONGEST or _NUMBER.fullmatch(right.strip()) is None:
        return False
    try:
        value, said = value_of(left), Fraction(right.strip())
    except (ValueError, ZeroDivisionError):
        return False
    if modulus is not None:
        return (value - said) % modulus == 0 and 0 <= said < modulus
    decimals = len(right.strip().partition(".")[2])
    if decimals == 0:
        return value == said
    unit = Fraction(1, 10**decimals)
    is_cut = 0 <= abs(value) - abs(said) < unit and value * said >= 0
    return is_cut or abs(value - said) <= unit / 2


def value_of(expression: str) -> Fraction:
    """Return the exact value of an expression of numbers, + - * / and brackets.

    Raises ValueError where it has other parts, and ZeroDivisionError.
    """
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError("not arithmetic") from error


def _value(node: ast.expr) -> Fraction:
    """The exact value of an expression. Raises ValueError where it has other parts than numbers and operators."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not arithmetic")
