"""Reads the numbers that an answer states, in the forms that people and models write."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal

from .markup import answer_text, join_minus

TOLERANCE = Decimal("1e-6")
# Nothing is trapped: what cannot be expressed becomes NaN or infinite, and such a number is none.
_CONTEXT = Context(prec=50, traps=[])
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}

_LATEX_TEXT = re.compile(r"(-?)\\(?:text|textbf|textit|mbox|mathrm|mathbf|operatorname)\s*\{\s*+([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[;:! ()\[\]]|~")
_DEGREES = re.compile(r"\^\s*(?:\{\s*)?\\(?:circ|degree)(?:\s*\})?|\\degree(?![A-Za-z])|°")
_PLAIN = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)"
_FRACTION = re.compile(
    rf"\\[dtc]?frac\s*(?:\{{\s*(?P<top>{_PLAIN})\s*\}}|(?P<top1>\d))\s*"
    rf"(?:\{{\s*(?P<bottom>{_PLAIN})\s*\}}|(?P<bottom1>\d))"
)
_POWER_OF_TEN = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|[x×·*])\s*10\s*(?:\^|\*\*)\s*\{?\s*([+-]?\d+)\s*\}?")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s*\^\s*\{?-?\d+\}?(?!\s*[-+*/])")
_TUPLE = re.compile(rf"[(\[{{]\s*{_PLAIN}%?(?:\s*,\s*{_PLAIN}%?)+\s*[)\]}}]")
_SEPARATOR = re.compile(r";|,(?!\d)|\b(?:and|or)\b", re.I)
_MINUS_BRACKET = re.compile(r"(?<![\w.)\]}%])-([(\[{]\s*)(?=(?:[$€£¥₹]\s?)?\.?\d[\d.,/ ]*+[^\d()\[\]{}+*^-]*[)\]}])")
_EQUALS = re.compile(r"(?<!!)=|≈|\\approx(?![A-Za-z])|\\equiv(?![A-Za-z])")
# What is calculated or named is not stated. Letters that are units as a rule, as in 18m and 18L, are no variables.
_EXPRESSION = re.compile(
    r"""
    [\w)}]\s*[+*×÷·]+\s*-?[\w({\\] | \^                 # 9*2, x+1, 2^3
    | \b[A-Za-z]\s*-\s*\d | \d\s*-\s*[A-Za-z]\b           # x-1, 1-x
    | (?<![+-])[+-]\s*+(?:/\s*+)?[+-]\s*+[\d.(] | -[(\[{]  # -+3, +/-3, -(3-5)
    | [√π∞±∓≠≤≥] | \\[A-Za-z] | \d\s*! | !=               # 2π, 2\sqrt{3}, 3!, x != 3
    | \d/?(?:[abfijnoqruvwxyzXYZα-λν-ω]|e(?![+-]?\d))(?![A-Za-z])  # 3x, 3/x
    | \d\s*+(?:[(/]\s*+)?[xyz]{1,3}(?![A-Za-z]) | [A-Za-z)\]}]\s*/\s*\d  # 3xy, 3 x, 3(x), x/3
    | \d\s*+pi(?![A-Za-z]) | (?<![A-Za-z])(?:sqrt|log|ln|exp|sin|cos|tan)\s*[\d(]  # 2pi, 2sqrt3
    """,
    re.ASCII | re.VERBOSE,
)
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]}%])[+-])?"  # a minus after a digit or a bracket subtracts
    r"(?:[$€£¥₹]\s?)?(?<![\w.^])"  # a digit after a letter belongs to its word: cm2, H2O
    r"(?:(?P<whole>\d++)\s+(?=\d+\s*/\s*\d))?"
    r"(?P<number>(?:\d{1,3}(?:,\d{3})++(?!,?\d)|\d++)(?:\.\d++)?+|\.\d++)(?P<exponent>[eE][+-]?\d++(?!\w|\.\d))?+"
    r"(?!_|\.\d|[eE][+-]?\d)"  # 1_000, 1.2.3 and 1e3x are no numbers
    r"(?:\s*/\s*(?P<divisor>\d+(?:\.\d+)?))?"
    r"(?:\s*(?P<scale>hundred|thousand|million|billion|trillion)\b)?"
    r"(?P<percent>\s*(?:%|percent\b|per\s?cent\b))?",
    re.I,
)


@dataclass(frozen=True)
class Number:
    """A number as it was written: 75% has the value 75 and is a percentage."""

    value: Decimal
    is_percent: bool = False

    def equals(self, other: "Number") -> bool:
        """Whether two numbers differ by at most 1e-6, or by at most 1e-6 of the larger one if both are below 1.

        A percentage is both its figure and its share: 75% equals 75 and 0.75.
        """
        if _close(self.value, other.value):
            return True
        return self.is_percent != other.is_percent and _close(self._share, other._share)

    @property
    def _share(self) -> Decimal:
        return self.value.scaleb(-2, _CONTEXT) if self.is_percent else self.value


def _close(one: Decimal, other: Decimal) -> bool:
    size = max(_CONTEXT.abs(one), _CONTEXT.abs(other))
    return _CONTEXT.abs(_CONTEXT.subtract(one, other)) <= TOLERANCE * min(Decimal(1), size)


def same_numbers(one: list[Number], other: list[Number]) -> bool:
    """Whether two texts state the same numbers in the same order, at least one."""
    return bool(one) and len(one) == len(other) and all(a.equals(b) for a, b in zip(one, other, strict=True))


def parse_number(text: str) -> float | None:
    """Return the number that `text` states, or None where it states none, several, or one too large for a float.

    As `read_numbers`: "$1,250." is 1250, "3/4" and "\\frac{3}{4}" are 0.75, "75%" is 75, "16 - 3 = 13" is 13.
    """
    numbers = read_numbers(text)
    if len(numbers) != 1:
        return None
    value = float(numbers[0].value)
    return value if abs(value) < float("inf") else None


def read_numbers(text: str) -> list[Number]:
    """Return the numbers that `text` states, in order; none where it cannot be read.

    The content of \\boxed{} stands for the whole text. Of an equation the part after its last equals sign counts:
    "x = 5" and "2 + 3 = 5" state 5. Emphasis, units, currencies and words do not count. Commas part groups of three
    digits, but in brackets they part numbers: "1,200" is one number, "(1,200)" two. "2 1/2" is 2.5. Terms that would
    have to be calculated, such as "2^3", "9*2", "5!" or "2\\sqrt{3}", and terms with variables, such as "3x", are not
    read.
    """
    text = _plain(answer_text(text))
    numbers: list[Number] = []
    for part in _SEPARATOR.split(text):
        sides = [side for side in _EQUALS.split(part) if re.search(r"\d", side)]
        if not sides:
            continue
        if _EXPRESSION.search(sides[-1]):
            return []
        found = list(_stated(sides[-1]))
        if not all(number.value.is_finite() for number in found):
            return []
        numbers += found
    return numbers


def _plain(text: str) -> str:
    """`text` without LaTeX, with signs, fractions, powers of ten and lists in one form."""
    text = _LATEX_TEXT.sub(r" \1\2 ", text).replace("\\,", " ")
    text = _LATEX_SPACE.sub("", text).replace("\\%", "%").replace("\\$", "$").replace("\\{", "{").replace("\\}", "}")
    text = _DEGREES.sub(" ", text)
    text = _FRACTION.sub(_one_line, text)
    text = _UNIT_POWER.sub("", _POWER_OF_TEN.sub(r"e\1", text))
    text = _MINUS_BRACKET.sub(r"\1-", join_minus(text))  # -(3) is (-3)
    return _TUPLE.sub(lambda match: match.group().replace(",", ", "), text)


def _one_line(fraction: re.Match[str]) -> str:
    """A LaTeX fraction as a/b, with a space after a whole number before it."""
    parts = fraction.groupdict()
    top, bottom = parts["top"] or parts["top1"], parts["bottom"] or parts["bottom1"]
    sign = "-" if top.startswith("-") != bottom.startswith("-") else ""
    is_mixed = fraction.string[max(0, fraction.start() - 5) : fraction.start()].rstrip()[-1:].isdigit()
    return f"{' ' if is_mixed else ''}{sign}{top.lstrip('+-')}/{bottom.lstrip('+-')}"


def _stated(text: str) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        whole, digits, divisor, scale = match.group("whole", "number", "divisor", "scale")
        value = _CONTEXT.create_decimal(digits.replace(",", "") + (match["exponent"] or ""))
        if divisor is not None:
            value = _CONTEXT.divide(value, _CONTEXT.create_decimal(divisor))
        sign = Decimal(-1 if match["sign"] == "-" else 1)
        if whole is not None and (value.is_nan() or value >= 1):  # "5 7/2": no mixed number, two numbers
            yield Number(_CONTEXT.multiply(sign, _CONTEXT.create_decimal(whole)))
            whole, sign = None, Decimal(1)
        value = _CONTEXT.multiply(sign, _CONTEXT.add(value, _CONTEXT.create_decimal(whole or 0)))
        yield Number(_CONTEXT.scaleb(value, _SCALES[scale.lower()] if scale else 0), match["percent"] is not None)
