"""Code of a user's that registers noises or thought sources."""

from __future__ import annotations

from collections.abc import Sequence

from ...data.user_code import import_source


def load_plugins(sources: Sequence[str]) -> None:
    """Imports modules (`package.module`) or files (`path/to/file.py`).

    Raises:
        UserError: One that cannot be imported.
    """
    for source in sources:
        import_source(source, f"Plugin {source!r}")
