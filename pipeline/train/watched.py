"""Numbers that a process measures between two logs. They stay on its device until the log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Number = Tensor | float
Key = tuple[str, str]  # kind and name


class Watched:
    """Means over what was added since the latest log, on all processes. Adding waits for no device."""

    def __init__(self) -> None:
        self._totals: dict[str, Number] = {}
        self._counts: dict[str, Number] = {}

    def add(self, name: str, total: Number, count: Number = 1.0) -> None:
        """Adds `count` observations that are `total` together; both are scalars.

        All processes must add the same names between two logs. They may add 0 observations.
        """
        if isinstance(total, Tensor):
            total = total.detach().double()
        self._totals[name] = self._totals.get(name, 0.0) + total
        self._counts[name] = self._counts.get(name, 0.0) + count

    def add_all(self, metrics: Mapping[str, Number]) -> None:
        """Adds one observation of each metric."""
        for name, value in metrics.items():
            self.add(name, value)

    def take(self) -> dict[Key, Number]:
        """The totals and counts of this process since the last call, for `means`."""
        found = {("total", name): value for name, value in self._totals.items()}
        found |= {("count", name): value for name, value in self._counts.items()}
        self._totals, self._counts = {}, {}
        return found


def means(gathered: Mapping[Key, list[float]]) -> dict[str, float | None]:
    """The means of what all processes took from their `Watched`; other numbers are left alone.

    A name without observations is left out. A mean that is NaN is None, as TRL logs it.
    """
    found: dict[str, float | None] = {}
    for (kind, name), totals in gathered.items():
        if kind == "total" and (count := sum(gathered["count", name])):
            mean = sum(totals) / count
            found[name] = None if math.isnan(mean) else mean
    return found


def gather(accelerator: Any, numbers: Mapping[Key, Number]) -> dict[Key, list[float]]:
    """The numbers of each process, in the order of the processes, by one collective.

    All processes must give the same keys.
    """
    if not numbers:
        return {}
    keys, device = sorted(numbers), accelerator.device
    tensors = {place: value for place, key in enumerate(keys) if isinstance(value := numbers[key], Tensor)}
    on_host = [0.0 if place in tensors else numbers[key] for place, key in enumerate(keys)]
    vector = torch.tensor(on_host, dtype=torch.float64, device=device)
    if tensors:
        on_device = [value.to(device, torch.float64) for value in tensors.values()]
        vector[torch.tensor(list(tensors), device=device)] = torch.stack(on_device)
    rows = accelerator.gather(vector).view(-1, len(keys)).tolist()
    return {key: [row[place] for row in rows] for place, key in enumerate(keys)}
