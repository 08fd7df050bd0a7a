"""What a Trainer of RL measures of itself beside the clock: latents, their gradients, and what rollouts take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...latent.geometry import cosine_sums
from ...latent.noise import Noise
from ...latent.sampling.answers import Generated
from ...model.reasoner import Reasoner
from ..timed_trainer import TimedTrainer
from .logps import Answers
from .metrics import LatentGradients, spread_metrics, thought_metrics


class MeasuredTrainer(TimedTrainer):
    """A mix-in before GRPOTrainer. Its subclass calls `watch_rollouts` and `replaying`."""

    update_part = "replay"
    reasoner: Reasoner
    noise: Noise | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._gradients = LatentGradients(self.reasoner.config.num_latents)
        # (B, L, d) of the latest rollouts, and (B,) how many each has where they differ, until the log
        self._latents: tuple[Tensor | None, Tensor | None] = None, None
        super().__init__(*args, **kwargs)
        self.reasoner.model.latent_watch = self._gradients

    def count_batch(self, inputs: Any) -> None:
        """Counts nothing: rollouts and their replays are counted where they run."""

    def watch_rollouts(self, policy: Any, prompts: list[list[int]], rows: Tensor, drawn: Generated) -> None:
        """Measures rollouts (B,) that were drawn, and counts what they took.

        A thought counts once, however many answers share it, and so does a question that thoughts share.

        Args:
            policy: The model that drew them.
            prompts: As token ids, placeholders included.
            rows: (B,) prompt of each rollout, on the CPU.
        """
        latents = drawn.latents.size(1)
        self.watched.add_all(thought_metrics(drawn, rows, self.reasoner.config.embedding_rms))
        if self.noise is not None and self.noise.moves_first_latent(policy) and latents:
            # Over the pairs of all processes, of which one may hold a single rollout of each question.
            self.watched.add("latent/cosine", *cosine_sums(drawn.latents, rows, drawn.num_latents))
        stops = drawn.stop_logps is not None
        self._latents = drawn.latents, drawn.num_latents if stops else None
        seeds = drawn.seeds.tolist() if self.noise is not None or stops else [0] * len(rows)
        made = drawn.num_latents.tolist() if stops else [latents] * len(rows)
        thoughts = dict(zip(zip(rows.tolist(), seeds, strict=True), made, strict=True))
        thought, answers = sum(thoughts.values()), sum(map(len, drawn.token_ids))
        shares = self.noise is None or not self.noise.moves_question
        questions = prompts if shares else [prompts[row] for row, _ in thoughts]
        asked = sum(len(ids) - (ids.count(self.latent_id) if latents else 0) for ids in questions)
        self.clock.count(tokens=answers, latents=thought, rollouts=len(rows))
        fed = answers - len(rows)  # the last token of an answer is drawn and not fed
        self.count_flops(asked + fed, thought, answers, backward=False)

    @contextmanager
    def replaying(self, answers: Answers, backward: bool) -> Iterator[None]:
        """Measures a forward over rollouts inside the block, and counts the backward that will follow it."""
        if self.peak is not None:
            self.count_flops(*replay_counts(answers, self.latent_id), backward)
        with self.clock.part("replay"):
            yield

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            for name, sums in self._gradients.take().items():
                self.watched.add(name, *sums)
            self.watched.add_all(spread_metrics(*self._latents))
            self._latents = None, None
        if "train_runtime" not in logs:  # the summary at the end
            logs["rollouts"] = self._rollouts()
        super().log(logs, start_time)

    def _rollouts(self) -> int:
        """Rollouts that the optimizer steps so far learned from, on all processes."""
        args: Any = self.args
        micro_batches = self.state.global_step * args.gradient_accumulation_steps
        draws = math.ceil(micro_batches / (args.steps_per_generation * args.num_iterations))
        return draws * int(args.generation_batch_size)


def replay_counts(answers: Answers, latent_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and latents that a forward over rollouts runs, and answer tokens that it scores.

    Rollouts of one question that stand side by side run what comes before their first latent once, as the engine does.
    """
    mask = answers.mask.bool()
    is_latent, is_answer = mask & (answers.ids == latent_id), answers.labels != -100
    is_question = mask & ((is_latent | is_answer).cumsum(1) == 0)
    asked = answers.ids.masked_fill(~is_question, -1)
    is_again = (asked[1:] == asked[:-1]).all(1, keepdim=True)  # (B - 1, 1)
    shared = (is_question[1:] & is_again).sum()
    return mask.sum() - is_latent.sum() - shared, is_latent.sum(), is_answer.sum()
