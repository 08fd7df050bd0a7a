"""What RL does to problems it is not trained on: greedy and sampled accuracy, and whether the latents matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback
from trl.models import unwrap_model_for_generation

from ...data.problem import Problem
from ..evaluate_sections import EvaluateSection
from ..latent.given import Replacement
from ..latent.noise import Noise
from ..latent.thoughts import THOUGHT_SOURCES
from ..latent.value_noise import keeping_bases
from ..reasoner import Reasoner
from ..score import is_right
from .common import inner_model


class HeldOutCallback(TrainerCallback):
    """Measures held-out problems every few steps; docs/metrics.md explains the names. The processes share them out."""

    def __init__(
        self,
        reasoner: Reasoner,
        problems: Sequence[Problem],
        settings: EvaluateSection,
        every: int,
        noise: Noise | None,
        samples: int,
        **sampling: Any,
    ) -> None:
        """
        Args:
            noise: On the latents of sampled answers.
            samples: Of each problem, k of pass@k.
            sampling: temperature, top_k, top_p, min_p of their tokens.
        """
        self.reasoner, self.problems, self.settings, self.every = reasoner, problems, settings, every
        self.noise, self.samples, self.sampling = noise, samples, sampling
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        for name, value in self.measure().items():
            self.trainer._metrics["train"][name].append(value)
        control.should_log = True

    def measure(self) -> dict[str, float]:
        """`held_out/...`, the same on every process."""
        state = PartialState()
        mine = self.problems[state.process_index :: state.num_processes]
        with unwrap_model_for_generation(self.trainer.model_wrapped, self.trainer.accelerator) as model:
            policy = inner_model(model)
            with keeping_bases(policy):
                right = self._right(Reasoner(policy, self.reasoner.tokenizer), mine)
        names = list(right)
        totals = torch.tensor([sum(right[name]) for name in names], dtype=torch.float64, device=state.device)
        values = reduce(totals.float(), "sum") / len(self.problems)
        return {f"held_out/{name}": value for name, value in zip(names, values.tolist(), strict=True)}

    def _right(self, reasoner: Reasoner, problems: Sequence[Problem]) -> dict[str, list[float]]:
        """Share of right answers of each problem, under each way to answer it."""
        questions = [problem.question for problem in problems]
        settings = self.settings
        options: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}
        greedy = reasoner.generate(questions, **options)
        drawn = reasoner.generate(questions, n=self.samples, noise=self.noise, **self.sampling, **options)
        found = {"accuracy": greedy, "samples": drawn}
        section = reasoner.config
        if section.num_latents and THOUGHT_SOURCES[section.thought_source].is_recurrent:
            # A process may have no problem, and must give the same names all the same.
            latents = torch.cat([sample.latents for sample in greedy]) if greedy else torch.empty(0, 0, 0)
            seeds = [[i] for i in range(len(problems))]
            for name, others in (("swap", latents.roll(1, 0)), ("zero", torch.zeros_like(latents))):
                found[name] = reasoner.generate(questions, noise=Replacement(latents=others), seeds=seeds, **options)
        right = {name: is_right(settings.scorer, problems, [s.texts for s in found[name]]) for name in found}
        samples = right.pop("samples")
        shares = {name: values.mean(1).tolist() for name, values in right.items()}
        return shares | {"pass@1": samples.mean(1).tolist(), f"pass@{self.samples}": samples.any(1).tolist()}
