"""The memory that the stages of a recipe take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ....data.problem import Problem
from ...problems.format import Format
from ..curriculum.arm_plan import ArmPlan, plan_arm
from ..curriculum.arms import LATENT, most_steps
from ..curriculum.visit import level_options
from .draw import peak_of_draw
from .inputs import Inputs
from .peak import Peak, peak_of
from .steps import Step, level_step, rl_step, sft_step


@dataclass(frozen=True)
class Estimate:
    """What a part of a stage holds at most.

    Attributes:
        name: Of the stage, with its level or part.
        rows: Of the batch that it holds at once, in a process.
        longest: Tokens and latents of the longest row.
    """

    name: str
    rows: int
    longest: int
    peak: Peak


def estimates(inputs: Inputs, train: list[Problem]) -> Iterator[Estimate]:
    """The stages of a recipe, one after the other: sft, levels of the curriculum, update and draw of rl.

    Of the curriculum these are the last level, which has most latents, and the one whose rows are longest.

    Args:
        train: The training problems.

    Raises:
        UserError: See `peak_of`; or trainer arguments that are refused.
    """
    recipe, thinking = inputs.recipe, inputs.section()
    if recipe.sft is not None:
        yield _of_step(inputs, sft_step(inputs))
    if recipe.curriculum is not None:
        plan = plan_arm(recipe, LATENT, most_steps(train), len(train))
        last = len(plan.levels) - 1
        thinking = inputs.section(**level_options(recipe, plan, plan.levels[last]))
        if recipe.controls.latent:
            for index in sorted({_longest_level(inputs, plan), last}):
                yield _of_step(inputs, level_step(inputs, plan, plan.levels[index]))
    if recipe.rl is not None:
        update = rl_step(inputs, thinking)
        found = _of_step(inputs, update)
        yield found
        most, rollouts = peak_of_draw(inputs, update)
        most = {**most, "optimizer": found.peak.optimizer}
        gathers = recipe.model.ds3_gather_for_generation
        peak = replace(found.peak, most=most, most_beside_gradients=most, draws=True, draws_whole=gathers)
        yield Estimate("rl, draw", rollouts, found.longest, peak)


def _of_step(inputs: Inputs, step: Step) -> Estimate:
    return Estimate(step.name, step.rows, step.longest, peak_of(step, inputs.recipe.model.quantization))


def _longest_level(inputs: Inputs, plan: ArmPlan) -> int:
    """The index of the level with the longest row of all."""

    def longest(index: int) -> int:
        level = plan.levels[index]
        options = level_options(inputs.recipe, plan, level)
        style = Format(inputs.section(**options), plan.section.pad_latents, inputs.tokenizer.eos_token_id)
        return max(len(style.render(item, level)[0]) for item in inputs.encoded)

    return max(range(len(plan.levels)), key=longest)
