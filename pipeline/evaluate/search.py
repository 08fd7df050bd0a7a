"""Search among thoughts: trees that branch at chosen latents, and beams that a latent reward model keeps narrow.

All thoughts of a question grow together, one pass a latent, from one prefill. A thought with more than one child goes
on with noise on the next latent, a draw for each child; a thought with one child goes on with the model's own latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..latent.batch import Batch, Draw
from ..latent.config import LatentConfig
from ..latent.engine.packed import Keep
from ..latent.noise import Noise, check_fits, parse_noise
from ..latent.philox import Stream, new_seeds
from ..latent.sampling.answers import SamplingParams, write_answers
from ..latent.sampling.budget import Budget, Room, check_holds
from ..latent.sampling.generate import pad_left
from ..model.reasoner import Reasoner, Samples
from ..problems.checks import check_room
from ..problems.encode import encode_prompts
from ..recipe.schema import LatentSection
from ..scoring.latent_reward import LatentRewardModel
from ..scoring.sampling_setting import Search, SearchError


class Growth:
    """The thoughts of B questions while they grow: says, as the engine's `branch`, which go on.

    Attributes:
        latent_rewards: (B, W) latent reward of each thought that goes on.
    """

    def __init__(self, search: Search, epsilon: Tensor, judge: LatentRewardModel | None) -> None:
        """
        Args:
            epsilon: (B, most, L, w) draws; thought j at latent t of question b moves by [b, j, t].
            judge: Needed where not all thoughts are kept.
        """
        self.search, self.epsilon, self.judge = search, epsilon, judge
        self.turn = 0
        self.latent_rewards = torch.zeros(len(epsilon), 1, device=epsilon.device)

    def __call__(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows (M,) of the states (N, d) that go on, those of a question in a row, and epsilon (M, w) or None."""
        count, width = self.latent_rewards.shape
        rows = torch.arange(count * width, device=states.device).view(count, width)
        if self.turn > 0 and self.judge is not None:
            self.latent_rewards = self.latent_rewards + self.judge.rewards(states[:, None], self.turn - 1).view(
                count, width
            )
            if self.search.keep is not None and width > self.search.keep:
                kept = self.latent_rewards.topk(self.search.keep).indices
                self.latent_rewards, rows = self.latent_rewards.gather(1, kept), rows.gather(1, kept)
        if self.turn == len(self.search.children):
            return rows.flatten(), None
        children = self.search.children[self.turn]
        rows, self.latent_rewards = (
            rows.repeat_interleave(children, 1),
            self.latent_rewards.repeat_interleave(children, 1),
        )
        epsilon = self.epsilon[:, : rows.size(1), self.turn].flatten(0, 1) if children > 1 else None
        self.turn += 1
        return rows.flatten(), epsilon


def check_search(spec: str, section: LatentConfig | LatentSection, model: Any = None) -> None:
    """Makes sure that thoughts made as `section` says can be searched with a noise.

    Args:
        model: A reasoner whose thoughts a latent reward model judges.

    Raises:
        NoiseError: The thought source has no part that the noise falls on.
        SearchError: They cannot be searched.
    """
    key, noise = "evaluate.search", parse_noise(spec)
    check_fits(key, noise, section.thought_source)
    if section.stop_head or section.mode != "sequential":
        raise SearchError(f"{key} needs latents made one after the other, and as many for all questions. Remove it.")
    if noise is None:
        raise SearchError(f"{key}: noise {spec} makes all thoughts equal. Give a scale above 0.")
    if noise.first_only:
        raise SearchError(f"{key} says itself where noise falls. Remove @first from noise={noise}, and give at: 1.")
    if noise.moves_question:
        raise SearchError(
            f"{key}: noise={noise} falls on the whole thought, question included, so thoughts cannot begin alike and "
            "part. Choose another kind, such as gaussian."
        )
    if model is not None and noise.value_shift(model) is not None:
        raise SearchError(
            f"{key}: noise={noise} moves what later tokens read of a latent and not the latent, which is all that a "
            "latent reward model sees. Choose another kind, such as gaussian."
        )


@torch.no_grad()
def search_thoughts(
    reasoner: Reasoner,
    questions: Sequence[str],
    search: Search,
    noise: Noise,
    sampling: SamplingParams,
    seeds: Sequence[int],
    judge: LatentRewardModel | None,
    budget: Budget,
    on_samples: Callable[[int, Samples, list[float] | None], None],
) -> None:
    """Grows thoughts for each question and answers after each of them.

    The result for a question depends on its seed, and not on the rest of its batch.

    Args:
        budget: Of thoughts, those of a question where they are most; each holds its question and room for an answer.
            The thoughts of a question grow together, even if they are more than its answers.
        on_samples: Called with a question's place, its samples (best thought first in a beam), and the latent rewards
            of their thoughts.

    Raises:
        ModelError: A question that leaves no room in the context window, a budget of tokens that does not hold the
            thoughts of one question, or too little memory.
    """
    if not questions:
        return  # a process may have none
    model, count = reasoner.model.eval(), reasoner.config.num_latents
    prompts = encode_prompts(questions, count, reasoner.tokenizer, reasoner.config)
    check_room(questions, prompts, sampling.max_new_tokens, reasoner.context_window)
    noise.prepare(model)
    most = max(search.widths)
    room = Room.of(model, prompts, most * len(prompts), sampling.max_new_tokens, budget)
    check_holds(budget.key, budget.tokens, room.footprint, most)
    for part in room.runs(most):
        some = range(part.start, part.stop)
        with room.explaining(most * len(some), some):
            found, rewards = _searched(reasoner, prompts[part], search, noise, sampling, seeds[part], judge)
        for row, samples in enumerate(found):
            on_samples(part.start + row, samples, None if rewards is None else rewards[row])


def _searched(
    reasoner: Reasoner,
    prompts: list[list[int]],
    search: Search,
    noise: Noise,
    sampling: SamplingParams,
    seeds: Sequence[int],
    judge: LatentRewardModel | None,
) -> tuple[list[Samples], list[list[float]] | None]:
    """The samples of a batch of prompts and the latent rewards of their thoughts."""
    model, count, most = reasoner.model, reasoner.config.num_latents, max(search.widths)
    ids, mask = pad_left(prompts, reasoner.eos_token_ids[0], model.device)
    own = torch.tensor(seeds)
    growth = Growth(search, _draws(noise, own.to(model.device), most, count, noise.width(model)), judge)
    batch = Batch.of(ids, mask, reasoner.config.token_ids[1])
    keep = Keep(spare=sampling.max_new_tokens)
    grown, _ = model.run_latents(batch, count, Draw(noise), keep=keep, branch=growth)
    rows = own.repeat_interleave(search.thoughts)
    number = torch.arange(search.thoughts).repeat(len(own))
    drawn = write_answers(model, grown, grown.last_state(), rows, number, sampling, reasoner.eos_token_ids)
    found = growth.latent_rewards.tolist()
    rewards = None if judge is None else [[round(reward, 5) for reward in row] for row in found]
    return reasoner.samples_of(drawn, search.thoughts), rewards


def _draws(noise: Noise, seeds: Tensor, most: int, num_latents: int, width: int) -> Tensor:
    """Draws (B, most, L, width) from a seed for each question, on the device of the seeds."""
    each = new_seeds(seeds, Stream.THOUGHT, most)
    return noise.sample_batch(each.flatten(), num_latents, width).unflatten(0, each.shape)
