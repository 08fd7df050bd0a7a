"""Removes markup around answers, and replaces characters that have several forms."""

import re
import unicodedata

_BRACE = re.compile(r"(?P<minus>(?<![\w.)\]}%])-[\s$]*)?\\(?:boxed|fbox)\s*\{|[{}]")
_FENCE = re.compile(r"```\w*\s*(.*?)```", re.S)
# Not inside a word or a product: snake_case_name and 2*3*4 keep theirs. Bounded, so that long texts take no longer.
_EMPHASIS = re.compile(r"(?<![\w*`~])(\*{1,3}|_{1,3}|`+|~~)(?=\S)(.{1,500}?)(?<=\S)\1(?![\w*`~])", re.S)
_MINUS = re.compile(
    "[\N{MINUS SIGN}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}\N{FIGURE DASH}\N{FULLWIDTH HYPHEN-MINUS}"
    "\N{SMALL HYPHEN-MINUS}]"
)
_MINUS_GROUP = re.compile(r"(?:\\(?:text|mbox|mathrm))?\{-\}")
_MINUS_WORD = re.compile(r"\b(?:minus|negative)\s+(?=[$\d.\\({])", re.I)
# After a word, "Answer - 18", it is a dash; after a number it subtracts.
_LOOSE_MINUS = re.compile(
    r"(^|[=≈(\[{,:;]|(?<![\w.)\]}])\$|\\(?:approx|equiv)|\b(?:is|are|equals?|and|or)\b)(\s*)-\s++(?=[$€£¥₹\d.\\({])",
    re.I,
)
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\,|\{,\})(?=\d{3})")  # of LaTeX, between groups of digits
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_SUPERSCRIPT = re.compile("[²³¹⁰⁴-⁹⁺⁻]+")


def answer_text(text: str) -> str:
    """Return the answer in `text` as plain text: the content of its boxes, or without boxes all of it."""
    text = plain(text)
    inner = boxed(text)
    return text if inner is None else plain(inner)


def plain(text: str) -> str:
    """Return `text` without Markdown emphasis and code ticks, with one form for signs and fractions that have several.

    `**18**`, `_18_` and `` `18` `` are 18; `−3`, `- 3` and `minus 3` are -3; ½ is 1/2, 3² is 3^{2}.
    """
    text = _FENCE.sub(r"\1", text)
    for _ in range(3):  # emphasis inside emphasis
        text = _EMPHASIS.sub(r"\2", text)
    text = _VULGAR.sub(_spelled_out, text.strip(" *`"))  # the ends of emphasis that was cut off
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match.group())}}}", text)
    text = _MINUS_WORD.sub("-", _MINUS_GROUP.sub("-", _MINUS.sub("-", text)))
    return _THIN_SPACE.sub(",", join_minus(text).replace("\N{FRACTION SLASH}", "/"))


def join_minus(text: str) -> str:
    """Return `text` with each minus that cannot subtract directly before its number."""
    return _LOOSE_MINUS.sub(r"\1\2-", text)


def _spelled_out(fraction: re.Match[str]) -> str:
    """A one-character fraction spelled out, with a space after a whole number before it."""
    is_mixed = fraction.string[fraction.start() - 1 : fraction.start()].isdigit()
    return f"{' ' if is_mixed else ''}{unicodedata.normalize('NFKC', fraction.group())}"


def boxed(text: str) -> str | None:
    """Return the content of the `\\boxed{...}` that are closed, joined by commas, or None when there is none.

    A minus directly before a box belongs to its content.
    """
    opened: list[re.Match[str] | None] = []  # None: a brace that is no box
    found: list[tuple[int, int, bool]] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(None)
        elif brace.group() != "}":
            opened.append(brace)
        elif opened:
            box = opened.pop()
            if box is not None:
                while found and found[-1][0] > box.end():  # inner ones
                    found.pop()
                found.append((box.end(), brace.start(), box["minus"] is not None))
    return ", ".join(_signed(text[begin:end], minus) for begin, end, minus in found) if found else None


def _signed(content: str, minus: bool) -> str:
    if not minus:
        return content
    return f"-({content})" if re.search(r"[-+(]", content) else f"-{content.lstrip()}"
