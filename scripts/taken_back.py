"""Takes back, in the process that calls, what makes an RL step cheap: for measurements of what it was worth."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from neuralese.pipeline.latent import label_scores
from neuralese.pipeline.train.rl import grpo, latent_trainer
from neuralese.pipeline.train.rl.call_state import Work
from neuralese.pipeline.train.rl.logps import answers_of
from neuralese.pipeline.train.rl.ppo import LatentPPOTrainer


def unshare() -> None:
    """Takes back what makes our step cheap: shared questions, and logits in parts."""
    shared = grpo.generate

    def each_its_own(model: Any, prompts: list[list[int]], rows: torch.Tensor, *args: Any) -> Any:
        return shared(model, [prompts[row] for row in rows.tolist()], torch.arange(len(rows)), *args)

    grpo.generate = each_its_own
    latent_trainer.replayed_logps = functools.partial(latent_trainer.replayed_logps, share_questions=False)  # type: ignore[assignment]
    label_scores.MOST_LOGITS = sys.maxsize


def replay_again() -> None:
    """Replays drawn rollouts of PPO once without gradient."""
    draw = LatentPPOTrainer._draw

    def drawn_and_replayed(self: LatentPPOTrainer, inputs: list[dict[str, Any]]) -> Any:
        drawn = draw(self, inputs)
        answers, size = answers_of(drawn.rollouts), self.args.per_device_train_batch_size
        with torch.no_grad(), self.working(Work(drawn.rollouts)):
            self._get_per_token_logps_and_entropies(self.model, answers.ids, answers.mask, answers.width, size)
        return drawn

    LatentPPOTrainer._draw = drawn_and_replayed  # type: ignore[method-assign]
