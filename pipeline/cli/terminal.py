"""What all commands share: types of arguments, and defaults of the process (threads, privacy, silence)."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ..recipe.schema import expanded

Place = TypeVar("Place", Path, str, None)


def home(path: Place) -> Place:
    """Expands `~` in a path. A shell leaves it as it is in `--output=~/x`."""
    try:
        return None if path is None else type(path)(expanded(str(path)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Overrides = Annotated[list[str] | None, typer.Argument(help="Recipe keys to change, as dotted.key=value.")]
Output = Annotated[Path | None, typer.Option(help="Where to write the results as JSON.", callback=home)]
RunFolder = Annotated[Path, typer.Argument(help="Run folder, or a checkpoint of one.", callback=home)]
LatentFolder = Annotated[Path, typer.Argument(help="Run folder, or a checkpoint with latents.", callback=home)]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe, for checkpoints outside a run folder.", callback=home)
]


def quiet() -> None:
    """Sets defaults for privacy and speed, and silences messages of no use to a user. Call before importing torch."""
    # Spinning threads of small CPU models lose several times their work as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # DeepSpeed looks for ninja on PATH, where it is only in an active virtual environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it reports every attempt to reach the hub, twice
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import warnings

    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(torch|transformers|trl|accelerate|peft)\.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels on CPUs that we do not use
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed finds this out with a warning
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
