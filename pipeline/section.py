"""The base of a recipe's sections: strict, and frozen once read; and paths, whose `~` is read once."""

from __future__ import annotations

import os.path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def expanded(path: str) -> str:
    """A path in which a leading `~` or `~user` is that home folder. Any other string is left as it is.

    Raises:
        ValueError: There is no such user, or nobody knows the home folder.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"{path!r} begins with a home folder that does not exist; write the path in full")
    return found


# A path, or a name that may be one, such as a hub id or a reward function in a file.
HomePath = Annotated[str, AfterValidator(expanded)]
