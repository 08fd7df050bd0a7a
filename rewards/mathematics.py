"""Mathematical answers compared by value, with the library math-verify."""

import logging
import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .answers import stated_answers
from .errors import RewardError
from .markup import answer_text
from .numbers import read_numbers

LIBRARY, EXTRA = "math_verify", "neuralese[math]"
_SECONDS = 5  # for each parse and each comparison
_DIGITS = 300  # of the longest number that is written out

_DELIMITED = re.compile(r"(?<!\\)\$\$?([^$]+)(?<!\\)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_DELIMITER = re.compile(r"\\?[$€£¥₹]|\\[()\[\]]")
_OUTER_MINUS = re.compile(r"(?<![\w.)\]}%$])-(\$\$?|\\[(\[])(?=\s*[.\d\\({])")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d{1,3})(?!\w|\.\d)")
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_UNIT_POWER = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*[A-Za-z][^{}\d]*\}\s*\^\s*\{?-?\d+\}?")
_TEXT_NUMBER = re.compile(r"\\(?:text|textbf|mbox|mathrm|mathbf)\s*\{\s*([-\d.,]+)\s*\}")
_FULL_STOP = re.compile(r"(?<=[\d}])\.$")
_JOINED = re.compile(r"(?<!\s)\s*+,?\s*+\b(?:and|or)\b\s*", re.I)
_COMMAND = re.compile(r"\\(?:text|textbf|mbox|mathrm|operatorname|begin|end)\s*\{[^}]*\}|\\[A-Za-z]+")
_PROSE = re.compile(r"[A-Za-z]{2}|\d\s+\d")


def math_verify(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answer: Sequence[Any],
    answer_format: Sequence[str] | None = None,
    **_: Any,
) -> list[float | None]:
    """1.0 where the text after the last `###` (the whole completion without one) equals the answer in value, else 0.0.

    Numbers, fractions, LaTeX with or without `$`, sets, intervals and equations are compared by math-verify. An answer
    that it cannot read gives None. In the main thread each comparison is given up after 5 s and counts as wrong. In
    other threads nothing ends the power of two huge numbers, which also blocks all other threads.

    Raises:
        RewardError: math-verify is not installed.
    """
    parse, verify = _library()
    golds = {text: parse(text) for text in {str(expected) for expected in answer}}
    rewards: list[float | None] = []
    for text, expected in zip(stated_answers(completions, answer_format), answer, strict=True):
        gold = golds[str(expected)]
        got = parse(text) if gold else []
        rewards.append(float(bool(got) and verify(gold, got)) if gold else None)
    return rewards


def missing() -> RewardError:
    """The error of a built-in whose library is not installed."""
    return RewardError(f"The reward 'math_verify' needs the library math-verify. Install it: pip install '{EXTRA}'.")


def check_timeout(timeout: float | None) -> None:
    """Raise RewardError if `math_verify` was given a timeout, which would move it out of the main thread."""
    if timeout is not None:
        raise RewardError(
            f"The reward 'math_verify' was given a timeout of {timeout:g} s. It gives up each comparison after "
            f"{_SECONDS} s by itself, and can do so in the main thread alone. Remove the timeout."
        )


def _library() -> tuple[Callable[[str], list[Any]], Callable[[Any, Any], bool]]:
    """Parser and comparison. A signal limits their time, which works in the main thread only."""
    try:
        from math_verify import parse, verify
        from math_verify.errors import TimeoutException
    except ImportError as error:
        raise missing() from error
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)  # it would print the whole text that took too long
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None

    def parsed(text: str) -> list[Any]:
        try:
            return parse(_formula(text), parsing_timeout=seconds)
        except TimeoutException:
            return []

    return parsed, partial(verify, timeout_seconds=seconds)


def _formula(text: str) -> str:
    """The part of `text` for the library to read: a formula, several with commas between, or the only number of a text.

    The library by itself takes the last number of a text that it does not understand.
    """
    text = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", _OUTER_MINUS.sub(r"\1-", answer_text(text)))
    text = _UNIT_POWER.sub("", _TEXT_NUMBER.sub(r"\1", _PI.sub(r"\\pi ", text)))
    text = _FULL_STOP.sub("", text.strip())
    formulas = [next(part for part in match if part) for match in _DELIMITED.findall(text)]
    if formulas and not re.search(r"\d", _DELIMITED.sub(" ", text)):
        return f"${', '.join(formulas)}$"
    bare = _JOINED.sub(", ", _DELIMITER.sub("", text)).strip()
    if not _PROSE.search(_COMMAND.sub(" ", bare)):
        return f"${bare}$" if bare else ""
    numbers = read_numbers(text)
    if len(numbers) == 1 and abs(numbers[0].value.adjusted()) < _DIGITS:
        return f"${numbers[0].value:f}{chr(92) + '%' if numbers[0].is_percent else ''}$"
    return text if not numbers and _COMMAND.search(text) else ""
