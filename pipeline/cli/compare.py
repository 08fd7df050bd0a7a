"""`neuralese compare`: compares two evaluated models on the same problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import Output, home, quiet


def compare(
    a: Annotated[
        Path, typer.Argument(help="Run folder, a folder in its samples/, or a file of samples.", callback=home)
    ],
    b: Annotated[Path, typer.Argument(help="The same for the second model.", callback=home)],
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Of pass@k; repeat for more.")] = None,
    output: Output = None,
) -> None:
    """Compare two evaluated models on the same problems: paired differences, intervals and tests."""
    quiet()
    from ..evaluate.compare import compare

    compare(a, b, sorted(set(k or [1, 4, 16])), output)
