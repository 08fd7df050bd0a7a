"""What all commands share: how they take recipe keys, and how quiet they are."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(help="Recipe keys to change, as dotted.key=value.")]


def quiet() -> None:
    """Privacy and speed defaults, and silence for what tells a user nothing. Call before torch is imported."""
    # Spinning threads of small CPU models lose several times their work as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # DeepSpeed looks for ninja on the path, where it is only if the virtual environment is active.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import warnings

    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(torch|transformers|trl|accelerate|peft)\.")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed would find out, and warn about
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
