"""What all sections share."""

from __future__ import annotations

import os.path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def expanded(path: str) -> str:
    """Replaces a leading `~` or `~user` by the home folder. Any other string is left as it is.

    Raises:
        ValueError: There is no such user, or the home folder is not known.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"{path!r} begins with a home folder that does not exist; write the path in full")
    return found


# A path, or a name that may be a path, such as a hub id or a reward function in a file.
HomePath = Annotated[str, AfterValidator(expanded)]
