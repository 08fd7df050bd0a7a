"""What the Trainers of all stages measure of themselves: time, throughput, memory, and means of what is watched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import Trainer

from .clock import Clock, ClockCallback, readings
from .flops import Cost, device_peak
from .lora import inner_model
from .watched import Watched, gather, means


class TimedTrainer(Trainer):
    """Logs `time/`, `throughput/` and `memory/` with every training loss, and what `watched` holds.

    A mix-in before a Trainer of a library. All numbers of a log take one collective.
    """

    ds3_gather_for_generation = True  # see the recipe's model section
    update_part = "forward_backward"  # the part of the step that computes loss and gradients

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.watched = Watched()
        super().__init__(*args, **kwargs)
        self.clock = Clock(self.args.device)
        self.add_callback(ClockCallback(self.clock))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        with self.clock.part(self.update_part):
            self.count_batch(inputs)
            return super().training_step(model, inputs, num_items_in_batch)

    def count_batch(self, inputs: Mapping[str, Tensor]) -> None:
        """Counts the tokens and latents of a micro-batch that is trained on."""
        tokens, latents = token_counts(inputs["input_ids"], inputs["attention_mask"], self.latent_id)
        self.clock.count(tokens=tokens, latents=latents)
        self.count_flops(tokens, latents, (inputs["labels"][:, 1:] != -100).sum(), backward=True)

    def count_flops(self, tokens: Tensor | float, latents: Tensor | float, scored: Any, backward: bool) -> None:
        """Counts operations, where the device's peak is known. See `Cost.flops`."""
        if self.peak is not None and self.cost is not None:
            self.clock.count(flops=self.cost.flops(tokens, latents, scored, backward))

    def _clip_grad_norm(self, model: Any) -> Any:
        with self.clock.part("optimizer"):
            return super()._clip_grad_norm(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # not the summary at the end, or what is measured before the first step
            gathered = gather(self.accelerator, {**self.clock.take(), **self.watched.take()})
            measured: dict[str, Any] = {**readings(gathered, self.peak), **means(gathered)}
            logs |= measured
        super().log(logs, start_time)

    @property
    def latent_id(self) -> int:
        """Token id of the placeholder."""
        return inner_model(self.model).latent_config.token_ids[1]

    @cached_property
    def peak(self) -> float | None:
        """Operations a second of the GPUs of a process; None where it is not known."""
        one = device_peak(self.args.device, inner_model(self.model).latent_config.compute_dtype)
        return one * max(self.args.n_gpu, 1) if one is not None else None

    @cached_property
    def cost(self) -> Cost | None:
        """What the model computes for a position."""
        return Cost.of(inner_model(self.model))


def token_counts(input_ids: Tensor, attention_mask: Tensor, latent_id: int) -> tuple[Tensor, Tensor]:
    """Tokens and latents among the cells (B, T) of a batch that are no padding. Placeholders are no tokens."""
    mask = attention_mask.bool()
    latents = (mask & (input_ids == latent_id)).sum()
    return mask.sum() - latents, latents
