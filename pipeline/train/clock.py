"""What a training step costs: seconds of its parts, what it processes in a second, and the memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from .watched import Key, Number

GIB = 2**30
FLOPS = "flops"
REST = "rest"  # a part that is measured, so that no other is charged for it, and not logged


class Clock:
    """Measures the steps between two logs of a process.

    A part that runs inside another one is not counted in that one. On a GPU a part lasts from one event on the stream
    of the device to the next, so that the work a part has launched counts in it and nothing waits for it before the
    log. On a CPU it lasts as long as its code.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_cuda = device.type == "cuda"
        self.begin()

    def begin(self) -> None:
        """Forgets all, and measures from now on."""
        self.steps = 0
        self._open: list[str] = []
        self._spans: list[tuple[str, Any, Any]] = []
        self._counts: dict[str, Number] = {}
        self._since: Any = None  # when the innermost open part began, or went on
        self._begin = time.perf_counter()
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time inside the block as a part of the step."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        """Begins a part. What it is inside of stands still until `leave`."""
        self._close_span()
        self._open.append(name)

    def leave(self) -> None:
        """Ends the part that was entered last."""
        self._close_span()
        self._open.pop()

    def count(self, **numbers: Number) -> None:
        """Adds what was processed: tokens, latents, rollouts, flops; scalars."""
        for name, number in numbers.items():
            self._counts[name] = self._counts.get(name, 0.0) + number

    def take(self) -> dict[Key, Number]:
        """What this process measured since the last call, for `readings`; nothing without steps. Not inside a part."""
        if not self.steps:
            return {}
        if self._is_cuda and self._spans:
            self._spans[-1][2].synchronize()
        seconds: dict[str, float] = {"step": time.perf_counter() - self._begin}
        for name, begin, end in self._spans:
            passed = begin.elapsed_time(end) / 1000 if self._is_cuda else end - begin
            seconds[name] = seconds.get(name, 0.0) + passed
        found: dict[Key, Number] = {
            ("seconds", name): value / self.steps for name, value in seconds.items() if name != REST
        }
        found |= {("processed", name): value / self.steps for name, value in self._counts.items()}
        found["memory", "peak"] = float(self._peak_memory())
        self.begin()
        return found

    def _close_span(self) -> None:
        now = self._now()
        if self._open:
            self._spans.append((self._open[-1], self._since, now))
        self._since = now

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _peak_memory(self) -> int:
        """Bytes: on a GPU the most that tensors took since `begin`, on a CPU the most the process ever took."""
        if self._is_cuda:
            return torch.cuda.max_memory_allocated(self.device)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024  # macOS counts in bytes, Linux in KiB


class ClockCallback(TrainerCallback):
    """Counts the steps of a Trainer, and measures the step of its optimizer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.enter("optimizer")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.leave()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.steps += 1


def readings(gathered: Mapping[Key, list[float]], peak_flops: float | None) -> dict[str, float]:
    """The metrics of what all processes took from their clocks; other numbers are left alone.

    Args:
        peak_flops: Of the GPUs of one process, in floating-point operations a second; None: not known.
    """
    seconds = {name: sum(values) / len(values) for (kind, name), values in gathered.items() if kind == "seconds"}
    found = {f"time/{name}": value for name, value in seconds.items()}
    training = seconds.get("step", 0.0) - seconds.get("eval", 0.0)
    for (kind, name), numbers in gathered.items():
        if kind == "memory":
            found["memory/peak_gib"] = max(numbers) / GIB
        elif kind == "processed" and name != FLOPS and sum(numbers) > 0:
            found[f"throughput/{name}_per_second"] = sum(numbers) / training
        elif kind == "processed" and name == FLOPS and peak_flops is not None:
            found["throughput/mfu"] = sum(numbers) / training / (peak_flops * len(numbers))
    return found
