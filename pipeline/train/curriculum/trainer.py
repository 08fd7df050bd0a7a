"""One level of the curriculum: a Transformers Trainer over latents, and the measurement that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from trl.models import unwrap_model_for_generation

from ....data.problem import Problem
from ....rewards.score import is_right
from ...latent.noise import Noise
from ...model.reasoner import Reasoner
from ...recipe.schema import EvaluateSection
from ...system.files import follow_umask
from ..common import inner_model

PARTS = ("token_loss", "latent_loss", "stop_loss")


class LevelTrainer(Trainer):
    """A Trainer whose model computes the loss over latents; logs the parts of the loss."""

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
            noise: Noise on the latents; the batches must bring `noise_seeds`.
            noise_ramp: Share of the steps in which its scale grows from 0 to what it says.
            optimizer_of: File with the optimizer's state to begin with, see `save_optimizer`.
        """
        super().__init__(*args, **kwargs)
        self.noise, self.noise_ramp, self.optimizer_of = noise, noise_ramp, optimizer_of
        self._parts: dict[str, list[torch.Tensor]] = {name: [] for name in PARTS}
        self.measured: dict[str, float] = {}  # held-out accuracies that are not logged yet

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        noise = self.noise_now()
        if noise is None:
            inputs.pop("noise_seeds", None)
        else:
            inputs["noise"] = noise
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        for name, values in self._parts.items():
            if outputs.get(name) is not None:
                values.append(outputs[name])
        return (loss, outputs) if return_outputs else loss

    def noise_now(self) -> Noise | None:
        """The noise of the present step; None where its scale is 0."""
        if self.noise is None:
            return None
        steps = self.noise_ramp * self.args.max_steps
        share = min(1.0, self.state.global_step / steps) if steps else 1.0
        return replace(self.noise, scale=self.noise.scale * share) if share else None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name, values in self._parts.items():
            if values and "loss" in logs:
                logs[name] = torch.stack(values).mean().item()
                values.clear()
        if self.noise is not None and "loss" in logs:
            noise = self.noise_now()
            logs["noise_scale"] = noise.scale if noise is not None else 0.0
        logs |= self.measured
        self.measured = {}
        super().log(logs, start_time)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        # Here the optimizer is ready; a checkpoint that is resumed from is loaded later, and holds.
        if self.optimizer_of is not None:
            # The settings stay those of this level, which has a learning-rate schedule of its own.
            settings = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": load_optimizer(self.optimizer_of), "param_groups": settings})
        return super().create_scheduler(num_training_steps, optimizer)


def save_optimizer(optimizer: Any, file: Path) -> None:
    """Writes the state of an optimizer, tensors and numbers, as safetensors."""
    state = optimizer.state_dict()["state"]
    save_file({f"{i}.{key}": torch.as_tensor(value) for i, of in state.items() for key, value in of.items()}, file)
    follow_umask(file.parent)


def load_optimizer(file: Path) -> dict[int, dict[str, torch.Tensor]]:
    """The state that `save_optimizer` wrote, by parameter."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(file).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return state


class Promotion(TrainerCallback):
    """Measures greedy accuracy on held-out problems every few steps, and ends the level when it says so.

    A level ends as promoted at its target. It also ends after `patience` measurements without a new best.
    """

    def __init__(
        self,
        reasoner: Reasoner,
        problems: Sequence[Problem],
        settings: EvaluateSection,
        num_latents: int,
        target: float | None,
        every: int,
        patience: int | None = None,
    ) -> None:
        self.reasoner, self.problems, self.settings, self.num_latents = reasoner, problems, settings, num_latents
        self.target, self.every, self.patience = target, every, patience
        self.trainer: LevelTrainer | None = None
        self.accuracy = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        assert self.trainer is not None
        self.accuracy = self.measure(self.num_latents)
        # The log survives a resume; what this object remembers does not.
        history = [log["accuracy"] for log in state.log_history if "accuracy" in log] + [self.accuracy]
        since_best = len(history) - 1 - history.index(max(history))
        if self.is_promoted or (self.patience is not None and since_best >= self.patience):
            control.should_training_stop = True
        self.trainer.measured = {"accuracy": self.accuracy}
        control.should_log = True

    @property
    def is_promoted(self) -> bool:
        return self.target is not None and self.accuracy >= self.target

    def measure(self, num_latents: int) -> float:
        """Greedy accuracy on the problems, which the processes share out."""
        assert self.trainer is not None
        state = PartialState()
        mine = self.problems[state.process_index :: state.num_processes]
        with unwrap_model_for_generation(self.trainer.model_wrapped, self.trainer.accelerator) as model:
            samples = Reasoner(inner_model(model), self.reasoner.tokenizer).generate(
                [problem.question for problem in mine],
                num_latents=num_latents,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.batch_size,
            )
        right = is_right(self.settings.scorer, mine, [sample.texts for sample in samples]).sum()
        return float(reduce(torch.tensor(float(right), device=state.device), "sum")) / len(self.problems)
