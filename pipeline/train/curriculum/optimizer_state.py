"""The optimizer's state as a file, for `curriculum.reset_optimizer=false`: the next level begins with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ...system.files import follow_umask

OPTIMIZER = "optimizer.safetensors"


def save_optimizer(optimizer: Any, file: Path) -> None:
    """Writes the state of an optimizer, tensors and numbers, as safetensors."""
    state = optimizer.state_dict()["state"]
    save_file({f"{i}.{key}": torch.as_tensor(value) for i, of in state.items() for key, value in of.items()}, file)
    follow_umask(file.parent)


def load_optimizer(file: Path) -> dict[int, dict[str, torch.Tensor]]:
    """Reads what `save_optimizer` wrote: the state of each parameter, by its number."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(file).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return state
