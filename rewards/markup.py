"""What is put around an answer and is no part of it, and characters that stand for others."""

import re
import unicodedata

_BRACE = re.compile(r"\\f?boxed\s*\{|[{}]")
_FENCE = re.compile(r"```\w*\s*(.*?)```", re.S)
# Not inside a word or a product: snake_case_name and 2*3*4 keep theirs. Bounded, so that long texts take no longer.
_EMPHASIS = re.compile(r"(?<![\w*`~])(\*{1,3}|_{1,3}|`+|~~)(?=\S)(.{1,500}?)(?<=\S)\1(?![\w*`~])", re.S)
_MINUS = re.compile("[\N{MINUS SIGN}\N{EN DASH}\N{FIGURE DASH}\N{FULLWIDTH HYPHEN-MINUS}\N{SMALL HYPHEN-MINUS}]")
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\,|\{,\})(?=\d{3})")  # of LaTeX, between groups of digits
_VULGAR = re.compile("[¼-¾⅐-⅞]")


def plain(text: str) -> str:
    """Return `text` without Markdown emphasis and code ticks, with one kind of minus and of thousands, and ½ as 1/2.

    `**18**`, `_18_` and `` `18` `` are 18.
    """
    text = _FENCE.sub(r"\1", text)
    for _ in range(3):  # emphasis inside emphasis
        text = _EMPHASIS.sub(r"\2", text)
    text = _VULGAR.sub(_spelled_out, text.strip(" *`"))  # the ends of emphasis that was cut off
    return _THIN_SPACE.sub(",", _MINUS.sub("-", text).replace("\N{FRACTION SLASH}", "/"))


def _spelled_out(fraction: re.Match[str]) -> str:
    """A fraction of one character in several, apart from a whole number before it."""
    is_mixed = fraction.string[fraction.start() - 1 : fraction.start()].isdigit()
    return f"{' ' if is_mixed else ''}{unicodedata.normalize('NFKC', fraction.group())}"


def boxed(text: str) -> str | None:
    """Return the content of the `\\boxed{...}` that are closed, joined by commas, or None when there is none."""
    opened: list[int | None] = []  # where the content of each open brace begins; None: of one that is no box
    found: list[tuple[int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(None)
        elif brace.group() != "}":
            opened.append(brace.end())
        elif opened:
            begin = opened.pop()
            if begin is not None:
                found = [*(span for span in found if span[1] < begin), (begin, brace.start())]  # without inner ones
    return ", ".join(text[begin:end] for begin, end in found) if found else None
