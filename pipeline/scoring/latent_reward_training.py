"""Trains a latent reward model on thoughts of training problems. The answers after a thought judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.problem import Problem
from ...rewards.score import is_right
from ..model.reasoner import Reasoner, Samples
from ..recipe.schema import EvaluateSection
from ..statistics.at_k import best_at_k
from .latent_reward import (
    LatentRewardConfig,
    LatentRewardError,
    LatentRewardModel,
    step_loss,
    thought_states,
)
from .problem_samples import Sampled
from .sampling_setting import Setting, seeds_of

HELD_OUT = 0.2  # share of the problems that choose the epoch, and share of those that measure the result
BATCH = 64  # questions in a step


@dataclass(frozen=True)
class Thoughts:
    """Thoughts of Q questions, K each.

    Attributes:
        states: (Q, K, L, d) after each latent.
        right: (Q, K) share of right answers after each thought.
    """

    states: Tensor
    right: Tensor


@dataclass(frozen=True)
class Report:
    """What a training reached, on held-out problems that did not choose the epoch.

    Attributes:
        chosen: Chance that the thought with the highest latent reward is right.
        mean: Chance that any thought is right: pass@1.
        oracle: Chance that one of them is: pass@K.
        mixed: Training problems with right and wrong thoughts. Only these teach.
        epoch: The epoch whose weights were kept.
    """

    chosen: float
    mean: float
    oracle: float
    mixed: int
    epoch: int


def draw_thoughts(
    reasoner: Reasoner, problems: Sequence[Problem], setting: Setting, options: EvaluateSection, seed: int
) -> Thoughts:
    """Draws thoughts of problems and judges each by its answers. Thoughts of a question differ by their noise.

    Raises:
        LatentRewardError: No noise, no latents, or fewer than two thoughts a question.
    """
    shared, count = _check_differ(reasoner, setting)
    seeds = seeds_of(len(problems), setting, seed)
    states, right = [], []
    per_batch = max(1, options.batch_size // setting.n)
    for begin in range(0, len(problems), per_batch):
        part = problems[begin : begin + per_batch]
        questions = [problem.question for problem in part]
        samples = reasoner.generate(
            questions, noise=setting.noise, temperature=setting.temperature, max_new_tokens=options.max_new_tokens,
            seeds=seeds[begin : begin + per_batch], **options.at_once,
        )  # fmt: skip
        found = thought_states(reasoner, questions, [sample.latents[::shared] for sample in samples])
        states.append(found.unflatten(0, (len(part), count)).cpu())
        judged = is_right(options.scorer, part, [sample.texts for sample in samples], reasoner.config.answer_format)
        right.append(torch.tensor(judged.reshape(len(part), count, shared).mean(2), dtype=torch.float32))
    return Thoughts(torch.cat(states), torch.cat(right))


def kept_thoughts(
    reasoner: Reasoner, sampled: Sequence[Sampled], setting: Setting, options: EvaluateSection
) -> Thoughts:
    """Makes the thoughts of an evaluation's samples again from their seeds. Their scores are known.

    Args:
        setting: How the samples were drawn.

    Raises:
        LatentRewardError: As of `draw_thoughts`, or what a search found.
    """
    if setting.search is not None or setting.num_latents is not None:
        raise LatentRewardError(
            f"Samples of the setting {setting.name} cannot be learned from: their thoughts were searched, or were not "
            "as long as trained. Name samples that were drawn under noise alone."
        )
    shared, count = _check_differ(reasoner, setting)
    states: list[Tensor] = []
    questions = [row.question for row in sampled]

    def keep(at: int, samples: Samples) -> None:
        states.append(thought_states(reasoner, [questions[at]], [samples.latents]).cpu())

    # Seeds give the noise, and noise the thoughts. The answers need not be written again, so one token is enough.
    reasoner.generate(
        questions, noise=setting.noise, max_new_tokens=1, seeds=[row.seeds[::shared] for row in sampled],
        **options.at_once, on_samples=keep,
    )  # fmt: skip
    right = np.array([row.right for row in sampled]).reshape(len(sampled), count, shared).mean(2)
    return Thoughts(torch.stack(states), torch.tensor(right, dtype=torch.float32))


def _check_differ(reasoner: Reasoner, setting: Setting) -> tuple[int, int]:
    """Returns answers for each thought and thoughts for each question.

    Raises:
        LatentRewardError: Thoughts of a question do not differ.
    """
    shared, count = setting.answers_per_thought, setting.n // setting.answers_per_thought
    if setting.noise is None or reasoner.config.num_latents == 0 or count < 2:
        raise LatentRewardError(
            f"A latent reward model learns from thoughts that differ: {count} of {reasoner.config.num_latents} latents "
            f"with noise={setting.noise} do not. Give noise and two thoughts or more, of a checkpoint with latents."
        )
    return shared, count


def held_out(count: int) -> int:
    """How many of `count` problems choose the epoch. As many others measure the result."""
    return max(1, round(HELD_OUT * count))


def train_latent_reward(
    thoughts: Thoughts, epochs: int, learning_rate: float, seed: int
) -> tuple[LatentRewardModel, Report]:
    """Trains on three fifths of the problems, keeps the epoch that is best on one fifth, and measures on the last.

    The fifth that chooses the epoch would flatter it: with random labels by 0.1 to 0.2 on 40 problems. The seed decides
    which problems are for what.

    Raises:
        LatentRewardError: No problem to train on has right and wrong thoughts.
    """
    train, choosing, unseen = _parts(thoughts, seed)
    mixed = (train.right.max(1).values > train.right.min(1).values).nonzero().squeeze(1)
    if len(mixed) == 0:
        raise LatentRewardError(
            f"None of {len(train.right)} training problems has right and wrong thoughts: there is nothing to learn "
            "from. Raise the noise or the number of problems or samples."
        )
    torch.manual_seed(seed)
    _, _, places, size = thoughts.states.shape
    model = LatentRewardModel(LatentRewardConfig(state_size=size, num_latents=places))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    best, epoch_kept, kept = _chosen(model, choosing), 0, _weights(model)
    for epoch in range(1, epochs + 1):
        for part in mixed[torch.randperm(len(mixed))].split(BATCH):
            rewards = model(train.states[part].flatten(0, 1)).unflatten(0, (len(part), -1))
            loss = step_loss(rewards, train.right[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        now = _chosen(model, choosing)
        if now > best:
            best, epoch_kept, kept = now, epoch, _weights(model)
    model.load_state_dict(kept)
    right = unseen.right
    oracle = (right.max(1).values > 0).float().mean().item()
    return model.eval(), Report(_chosen(model, unseen), right.mean().item(), oracle, len(mixed), epoch_kept)


def _parts(thoughts: Thoughts, seed: int) -> list[Thoughts]:
    """Problems to train on, problems that choose the epoch, and problems to measure on."""
    count, held = len(thoughts.right), held_out(len(thoughts.right))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    rows = order[2 * held :], order[:held], order[held : 2 * held]
    return [Thoughts(thoughts.states[part], thoughts.right[part]) for part in rows]


def _weights(model: LatentRewardModel) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


@torch.no_grad()
def _chosen(model: LatentRewardModel, thoughts: Thoughts) -> float:
    """Chance that the thought of a problem with the highest latent reward is right."""
    rewards = model(thoughts.states.flatten(0, 1))[:, -1].unflatten(0, thoughts.right.shape)
    return float(best_at_k(rewards.numpy(), thoughts.right.numpy(), thoughts.right.size(1)).mean())
