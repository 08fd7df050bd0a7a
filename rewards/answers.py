"""The answer in a completion: what follows the last `###`."""

import re
from typing import Any

from ..data.problem import MARKER

_FORMAT = re.compile(r"#{3,}")


def completion_text(completion: Any) -> str:
    """Return the text of a completion: a string, or for conversational data the assistant's messages joined by lines.

    Raises:
        TypeError: the completion is neither a string nor a list of messages with text content.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, list) or not all(isinstance(message, dict) for message in completion):
        raise TypeError(f"a completion is a string or a list of messages, got {type(completion).__name__}")
    return "\n".join(_content(message) for message in completion if message.get("role") == "assistant")


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is None:  # a message that only calls a tool
        return ""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError(f"the content of a message is a string, got {type(content).__name__}")
    return content


def normalise_answer(text: str) -> str:
    """Return `text` without outer white space and with every inner run of white space as one space."""
    return " ".join(text.split())


def extract_answer(text: str) -> str:
    """Return what follows the last `###`, or the whole text when there is none; white space normalised.

    `####` (GSM8K) works too.
    """
    return normalise_answer(text.rpartition(MARKER)[2])


def has_answer_format(text: str) -> bool:
    """Tell whether `text` has exactly one marker, `###` and not `####`, before one line that is not blank."""
    markers = _FORMAT.findall(text)
    answer = text.rpartition(MARKER)[2].strip()
    return markers == [MARKER] and bool(answer) and "\n" not in answer
