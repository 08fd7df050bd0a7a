"""The Trainer of one level: the loss over latents, noise that ramps up, and the optimizer's state it begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...latent.noise import Noise
from ...latent.supervision import IGNORE
from ..timed_trainer import TimedTrainer
from .optimizer_state import load_optimizer

# Parts of the loss, logged beside it. `LatentOutput` explains them.
PARTS = ("token_loss", "latent_loss", "stop_loss")


class LevelTrainer(TimedTrainer):
    """A Transformers Trainer whose model computes the loss over latents. Logs the parts of the loss."""

    # The model divides by `num_items_in_batch`, the items of all micro-batches of a step.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        noise: Noise | None = None,
        noise_ramp: float = 0.0,
        optimizer_of: Path | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            noise: Noise on the latents. The batches must hold `noise_seeds`.
            noise_ramp: Share of the optimizer steps over which the scale of the noise grows linearly from 0.
            optimizer_of: File of `save_optimizer`: the optimizer's state to begin with.
        """
        super().__init__(*args, **kwargs)
        self.noise, self.noise_ramp, self.optimizer_of = noise, noise_ramp, optimizer_of
        self.measured: dict[str, float] = {}  # what `Promotion` has measured since the last log

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of an optimizer step and their number of labels, as the Trainer counts them.

        Labels on slots are counted apart, in the same micro-batches and processes (see `Supervision.count`).
        """
        samples, items = super().get_batch_samples(*args, **kwargs)
        if samples and "slot_labels" in samples[0].get("supervision_inputs", {}):
            count = sum((sample["supervision_inputs"]["slot_labels"] != IGNORE).sum() for sample in samples)
            if self.args.average_tokens_across_devices:
                count = self.accelerator.gather(count.to(self.args.device)).sum()
            for sample in samples:
                sample["supervision_inputs"]["num_items_in_batch"] = count
        return samples, items

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        noise = self.noise_now()
        if noise is None:
            inputs.pop("noise_seeds", None)
        else:
            inputs["noise"] = noise
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        for name in PARTS:
            if outputs.get(name) is not None:
                self.watched.add(name, outputs[name])
        return (loss, outputs) if return_outputs else loss

    def noise_now(self) -> Noise | None:
        """The noise of the present optimizer step. None where its scale is 0."""
        if self.noise is None:
            return None
        steps = self.noise_ramp * self.args.max_steps
        share = min(1.0, self.state.global_step / steps) if steps else 1.0
        return replace(self.noise, scale=self.noise.scale * share) if share else None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.noise is not None and "loss" in logs:
            noise = self.noise_now()
            logs["noise_scale"] = noise.scale if noise is not None else 0.0
        logs |= self.measured
        self.measured = {}
        super().log(logs, start_time)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        # The Trainer calls this once the optimizer is made. A checkpoint is loaded later and replaces the state.
        if self.optimizer_of is not None:
            # Only the state: this level has its own learning-rate schedule.
            settings = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": load_optimizer(self.optimizer_of), "param_groups": settings})
        return super().create_scheduler(num_training_steps, optimizer)
