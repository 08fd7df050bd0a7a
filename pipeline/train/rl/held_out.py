"""Measures RL on problems that it does not train on: greedy and sampled accuracy, and whether the latents matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor
from transformers import TrainerCallback

from ....data.problem import Problem
from ....rewards.score import is_right
from ...latent.engine.synced_passes import meet
from ...latent.noise import Noise, Replacement
from ...latent.noise.values import keeping_bases
from ...latent.thoughts import THOUGHT_SOURCES
from ...model.reasoner import Reasoner, Samples
from ...problems.donors import derange
from ...recipe.schema import EvaluateSection
from ...system.compat import logged_metric
from ...system.processes import my_share
from ..followed import Followed
from ..generation import generating
from .legibility import READ, is_legible, read_thoughts

THOUGHT = ("legibility", "gold_logprob", "text_logprob")  # measured of thoughts, not of answers


class HeldOutCallback(TrainerCallback):
    """Measures held-out problems before training and every few optimizer steps. Processes share out the problems."""

    def __init__(
        self,
        reasoner: Reasoner,
        problems: Sequence[Problem],
        settings: EvaluateSection,
        every: int,
        noise: Noise | None,
        samples: int,
        writer: Reasoner | None = None,
        followed: Followed | None = None,
        **sampling: Any,
    ) -> None:
        """
        Args:
            noise: On the latents of samples.
            samples: Samples of each problem, the k of pass@k.
            writer: A model trained on text steps, to judge by what is read in thoughts.
            followed: Takes the greedy answers.
            sampling: temperature, top_k, top_p and min_p of the answers.
        """
        self.reasoner, self.problems, self.settings, self.every = reasoner, problems, settings, every
        self.noise, self.samples, self.writer, self.sampling = noise, samples, writer, sampling
        self.followed = followed
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:  # what all later measurements are compared with
            self.trainer.log(self.measure())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        with self.trainer.clock.part("eval"):
            measured = self.measure()
        for name, value in measured.items():
            logged_metric(self.trainer, name).append(value)
        control.should_log = True

    def measure(self) -> dict[str, float]:
        """`held_out/...` and `thought/...`, the same on every process."""
        mine = my_share(self.problems)
        with generating(self.trainer) as policy, keeping_bases(policy):
            right = self._right(Reasoner(policy, self.reasoner.tokenizer), mine)
        # Sums and counts: with swapped latents some problems have no donor and do not count.
        pairs = [[sum(values), len(values)] for values in right.values()]
        totals = torch.tensor(pairs, dtype=torch.float32, device=PartialState().device)
        summed = reduce(totals, "sum").tolist()
        counted = [(name, hits / n, n) for name, (hits, n) in zip(right, summed, strict=True) if n]
        found = {name: share for name, share, _ in counted if not name.startswith(READ)}
        # Of places that few problems reach, or label, one would be the worst by chance.
        reads = [share for name, share, n in counted if name.startswith(READ) and 2 * n >= len(self.problems)]
        named = {f"{'thought' if name in THOUGHT else 'held_out'}/{name}": value for name, value in found.items()}
        if found.get("accuracy") and "as_text" in found:
            named["thought/readable"] = found["as_text"] / found["accuracy"]
        if reads:
            named["thought/least_read"] = min(reads)
        return named

    def _right(self, reasoner: Reasoner, problems: Sequence[Problem]) -> dict[str, list[float]]:
        """Share of right answers of each problem, for each way to answer. Swapped: of problems with a donor."""
        questions = [problem.question for problem in problems]
        settings = self.settings
        options: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens, **settings.at_once}
        greedy = reasoner.generate(questions, **options)
        drawn = reasoner.generate(questions, n=self.samples, noise=self.noise, **self.sampling, **options)
        judged = self._judged(problems, greedy)
        if self.followed is not None:
            self.followed.send(reasoner, problems, greedy, judged, self.trainer.state.global_step)
        right = {"accuracy": judged.mean(1).tolist()}
        section = reasoner.config
        if section.num_latents and THOUGHT_SOURCES[section.thought_source].is_recurrent:
            # A process without problems must give the same names as the others.
            latents = torch.cat([sample.latents for sample in greedy]) if greedy else torch.empty(0, 0, 0)
            having, donated = self._swapped(latents, [sample.num_latents[0] for sample in greedy])
            for name, some, given in (("swap", having, donated), ("zero", problems, torch.zeros_like(latents))):
                answered = self._answered(reasoner, some, given)
                right[name] = self._judged(some, answered).mean(1).tolist()
        if is_legible(reasoner):
            text, legibility = read_thoughts(
                reasoner, problems, self.writer, [sample.num_latents[0] for sample in greedy]
            )
            right |= legibility
            right["as_text"] = self._judged(problems, self._answered(reasoner, problems, text)).mean(1).tolist()
        samples = self._judged(problems, drawn)
        return right | {"pass@1": samples.mean(1).tolist(), f"pass@{self.samples}": samples.any(1).tolist()}

    def _answered(self, reasoner: Reasoner, problems: Sequence[Problem], latents: Tensor) -> list[Samples]:
        """Greedy answers with other latents (P, L, d) in place of the model's own."""
        return reasoner.generate(
            [problem.question for problem in problems],
            noise=Replacement(latents=latents),
            seeds=[[place] for place in range(len(problems))],
            max_new_tokens=self.settings.max_new_tokens,
            **self.settings.at_once,
        )

    def _swapped(self, latents: Tensor, counts: list[int]) -> tuple[list[Problem], Tensor]:
        """Problems of this process with a donor, and the latents (R, L, d) of the donors, which have other answers and
        thought as long.

        Donors are drawn among the problems of all processes, so that the number of processes changes nothing.

        Args:
            latents: (P, L, d) of the problems that this process was given.
            counts: Latents of each of their thoughts.
        """
        thoughts = zip(my_share(range(len(self.problems))), map(Tensor.clone, latents.cpu()), counts, strict=True)
        meet()
        every = {place: (latent, count) for place, latent, count in gather_object(list(thoughts))}
        answers = [problem.answer for problem in self.problems]
        lengths = [every[place][1] for place in range(len(answers))]
        rows, donors = (places.tolist() for places in derange(answers, lengths, seed=0))
        mine = my_share(range(len(rows)))
        given = [every[donors[place]][0] for place in mine]
        return [self.problems[rows[place]] for place in mine], torch.stack(given).to(latents) if given else latents[:0]

    def _judged(self, problems: Sequence[Problem], samples: Sequence[Samples]) -> np.ndarray:
        """Whether each sample of each problem is right (P, n)."""
        texts, answer_format = [sample.texts for sample in samples], self.reasoner.config.answer_format
        return is_right(self.settings.scorer, problems, texts, answer_format)
