"""What drawing the rollouts of RL holds at most, in one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...latent.batch import Batch
from ...latent.engine.packed import PassResult
from ...latent.engine.precision import computing
from ...latent.sampling.answers import SamplingParams, write_answers
from ...latent.sampling.budget import Room
from ...latent.sampling.generate import pad_left, prefill_prompts
from ..lora import inner_model
from ..rl.settings import rollout_settings
from .inputs import Inputs, longest_prompts
from .ledger import Bytes
from .peak import counting
from .steps import Step

LAST = 2  # tokens of the answers that are run


def peak_of_draw(inputs: Inputs, update: Step) -> tuple[Bytes, int]:
    """What is held when most is held, and the number of rollouts that are drawn at once: all of a process, or as many
    as `rl.rollout_batch_tokens` lets it.

    Questions are the longest of the data and answers as long as they may be. Thoughts are made as in a draw. Of the
    answers the last tokens alone are run, which see the most.

    Args:
        update: The stage's update.

    Raises:
        EstimateError: A part of the draw needs numbers, which are not there.
    """
    args: Any = update.args
    draw = _Draw(inputs, update)
    width = args.max_completion_length
    answer = [inputs.tokenizer.eos_token_id] * max(width - LAST, 0)
    with counting(update, inputs.recipe.model.quantization) as ledger, torch.no_grad():
        made, _ = draw.think(draw.prompts, spare=width)
        columns = made.hidden.size(1)
        del made
        before = dict(ledger.most)
        made, state = draw.think([prompt + answer for prompt in draw.prompts], spare=min(width, LAST))
        # As wide as it would be without the answers, which are here for their keys and values alone.
        made = replace(made, hidden=made.hidden[:, :columns].clone())
        ledger.forget_peaks()
        draw.answer(made, state)
    return max(before, ledger.most, key=lambda held: sum(held.values())), draw.count


class _Draw:
    """A draw of rollouts, each with a thought of its own or with the thoughts that answers share.

    Attributes:
        prompts: The longest of the data, as many as a draw has.
        count: Rollouts.
    """

    def __init__(self, inputs: Inputs, update: Step) -> None:
        args: Any = update.args
        self.model, self.args, self.settings = inner_model(update.model), args, rollout_settings(inputs.recipe)
        self.pad = inputs.tokenizer.eos_token_id
        longest = longest_prompts(inputs, self.model.latent_config)
        self.count = args.per_device_train_batch_size * args.steps_per_generation
        self.prompts = self._of(longest)
        if self.settings.budget.tokens is not None:
            room = Room.of(self.model, self.prompts, self.count, args.max_completion_length, self.settings.budget)
            self.count = min(self.count, room.rows())
            self.prompts = self._of(longest)

    def _of(self, longest: list[list[int]]) -> list[list[int]]:
        asked = -(-self.count // self.args.num_generations)
        return [longest[place % len(longest)] for place in range(asked)]

    def think(self, prompts: list[list[int]], spare: int) -> tuple[PassResult, Tensor]:
        """The passes over the prompts, and the last states, with `spare` columns for answers."""
        each = self.settings.answers_per_thought
        ids, mask = pad_left(prompts, self.pad, torch.device("cpu"))
        batch = Batch.of(ids, mask, self.model.latent_config.token_ids[1])
        thought = torch.arange(self.count) // each
        seeds = torch.arange(int(thought.max()) + 1)
        rows = seeds * each // self.args.num_generations
        with computing(self.model):
            made, state, _ = prefill_prompts(self.model, batch, rows, seeds, self.settings.noise, spare)
            return (made, state) if each == 1 else (made.select(thought), state[thought])

    def answer(self, made: PassResult, state: Tensor) -> None:
        """The last tokens of the answers."""
        sampling = SamplingParams(
            self.args.temperature, LAST, self.args.top_k or 0, self.args.top_p or 1.0, self.args.min_p
        )
        seeds = torch.arange(self.count)
        write_answers(self.model, made, state, seeds, torch.zeros_like(seeds), sampling, [-1])
