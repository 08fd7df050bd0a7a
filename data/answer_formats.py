"""How an answer is written at the end of a solution, and how it is read out of a text again."""

import re
from dataclasses import dataclass

from .errors import DataError, suggest


@dataclass(frozen=True)
class AnswerFormat:
    """One way to write an answer: a marker, the answer, and what closes it.

    Attributes:
        name: The value of `data.answer_format`.
        before: Stands before the answer.
        after: Stands behind it.
        marker: Pattern of what announces an answer in a text; of several the last one counts.
        is_braced: The answer ends at the brace that closes the marker's, not at the end of the text.
    """

    name: str
    before: str
    after: str
    marker: re.Pattern[str]
    is_braced: bool = False

    def written(self, answer: str) -> str:
        """The text that a model learns to write."""
        return self.before + answer + self.after

    def split(self, text: str) -> tuple[str, str] | None:
        """What stands before the last marker, and the answer behind it; None where no answer is announced.

        A box that is not closed is none. White space around the answer is removed, and the full stop of a sentence.
        """
        for found in reversed(list(self.marker.finditer(text))):
            end = _closing(text, found.end()) if self.is_braced else len(text)
            if end is not None:
                answer = text[found.end() : end].strip()
                return text[: found.start()], answer if self.is_braced else answer.removesuffix(self.after).rstrip()
        return None

    def read(self, text: str) -> str:
        """The answer in a text; the whole text where none is announced."""
        parts = self.split(text)
        return text if parts is None else parts[1]

    def is_in(self, text: str) -> bool:
        """Whether a text ends with exactly one answer of one line, as `written` writes it."""
        parts, markers = self.split(text), [found.group() for found in self.marker.finditer(text)]
        if parts is None or markers != [self.before.strip()]:
            return False
        return text.rstrip().endswith(self.after) and bool(parts[1]) and "\n" not in parts[1]

    def clash(self, answer: str) -> str | None:
        """What in an answer would be read as another marker, or as the end of the answer; None: nothing."""
        if self.marker.search(answer):
            return self.before.strip()
        return None if self.read(self.written(answer)) == answer else self.after


def _closing(text: str, begin: int) -> int | None:
    """The place of the brace that closes one opened before `begin`, or None."""
    depth = 1
    for place in range(begin, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return place
    return None


HASH = AnswerFormat("hash", "### ", "", re.compile(r"#{3,}"))
ANSWER_FORMATS = {
    one.name: one
    for one in (
        HASH,
        AnswerFormat("boxed", "\\boxed{", "}", re.compile(r"\\boxed\s*\{"), is_braced=True),
        AnswerFormat("sentence", "The answer is ", ".", re.compile(r"\bthe answer is\b:?", re.IGNORECASE)),
    )
}


def answer_format_of(name: str) -> AnswerFormat:
    """An answer format by its name.

    Raises:
        DataError: there is none of that name.
    """
    if name not in ANSWER_FORMATS:
        raise DataError(
            f"answer_format is {name!r}.{suggest(str(name), ANSWER_FORMATS)} It must be one of "
            f"{', '.join(ANSWER_FORMATS)}."
        )
    return ANSWER_FORMATS[name]
