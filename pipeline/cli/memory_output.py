"""The table of `neuralese check --memory`."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from ..problems.load import Problems
from ..system.memory import whole_memory
from ..system.processes import on_cpu
from ..train.memory.estimate import Estimate, estimates
from ..train.memory.inputs import Inputs
from ..train.memory.ledger import Kind
from ..train.memory.sharding import held, ways

COLUMNS: dict[Kind, str] = {
    "weights": "weights",
    "reference": "reference",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "keys_and_values": "keys, values",
    "logits": "logits",
}
UNITS = {"GiB": 2**30, "MiB": 2**20}


def print_memory(inputs: Inputs, problems: Problems, processes: int, console: Console) -> None:
    """Prints what each of some processes holds at most in every stage, and what its device has.

    Raises:
        UserError: See `estimates`.
    """
    with console.status("Estimating memory: a step of each stage runs without data ..."):
        found = list(estimates(inputs, problems.train))
    if not found:
        console.print("No memory is estimated: the recipe trains controls alone, which are not counted.")
        return
    quantized = inputs.recipe.model.quantization is not None
    has, device = _device(processes)
    console.print(memory_table(found, processes, quantized, has), highlight=False)
    bound = " ZeRO-3 is a lower bound." if processes > 1 and not quantized else ""
    console.print(
        "Estimates of what one process holds when it holds most, on the longest rows of the data and with answers of "
        f"RL as long as they may be.{bound} {device} Not counted: what kernels take while they run, a CUDA context, "
        "fragmentation, buffers of NCCL, reward models, controls, evaluation. See docs/cluster.md.",
        highlight=False,
    )


def memory_table(found: list[Estimate], processes: int, quantized: bool, has: int) -> Table:
    """A row for each part of a stage and each way to share it.

    Args:
        quantized: The base is kept in few bits.
        has: Bytes that the device of a process has. Sums beyond it are red.
    """
    rows = [(one, way, held(one.peak, way, processes)) for one in found for way in ways(processes, quantized)]
    unit = "GiB" if max(sum(bytes_of.values()) for *_, bytes_of in rows) >= UNITS["GiB"] else "MiB"
    kinds = [kind for kind in COLUMNS if any(bytes_of.get(kind, 0) for *_, bytes_of in rows)]
    table = Table(title=f"Memory of a process in {unit}, of {processes}" if processes > 1 else f"Memory in {unit}")
    for heading in ("stage", "batch"):
        table.add_column(heading)
    if processes > 1:
        table.add_column("shared by")
    for kind in kinds:
        table.add_column(COLUMNS[kind], justify="right")
    table.add_column("sum", justify="right")
    table.add_column("device", justify="right")
    for one, way, bytes_of in rows:
        total = sum(bytes_of.values())
        shown = [_number(bytes_of.get(kind, 0), unit) for kind in kinds]
        label = [way] if processes > 1 else []
        color = "red" if total > has else "green"
        cells = [one.name, f"{one.rows} x {one.longest}", *label, *shown]
        table.add_row(*cells, f"[{color}]{_number(total, unit)}[/]", _number(has, unit))
    return table


def _number(size: int, unit: str) -> str:
    number = size / UNITS[unit]
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"


def _device(processes: int) -> tuple[int, str]:
    """Bytes that the device of a process has, and what device it is."""
    if on_cpu():
        whole = whole_memory(torch.device("cpu"))
        shared = f", shared by {processes} processes" if processes > 1 else ""
        return whole // processes, f"The device is this computer{shared}."
    device = torch.device("cuda", torch.cuda.current_device())
    return whole_memory(device), f"The device is {torch.cuda.get_device_name(device)}, one for each process."
