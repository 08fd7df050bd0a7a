"""What an arm trains: its levels, and for each one the most optimizer steps and the threshold it is promoted at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...problems.schedule import Level
from ...recipe.schema import CurriculumSection, Recipe
from .arms import ARMS, LATENT, Arm, latent_levels
from .limits import level_limits
from .order import Rules


@dataclass(frozen=True)
class ArmPlan:
    """What an arm of one recipe trains.

    Attributes:
        name: Of the arm.
        arm: How it differs from training latents.
        section: The curriculum section of the recipe.
        levels: The arm's levels, in order; level k is `levels[k - 1]`.
        limits: The most optimizer steps of a visit of each level.
        rules: When the arm stops or steps back.
    """

    name: str
    arm: Arm
    section: CurriculumSection
    levels: list[Level]
    limits: list[int]
    rules: Rules

    def is_last(self, level: Level) -> bool:
        return level is self.levels[-1]

    def threshold(self, level: Level) -> float | None:
        """Held-out accuracy at which a level is promoted, which ends it. None: it trains to its limit."""
        if self.arm.as_rl:
            return None
        # `last_level_at` ends the latent arm early, to leave RL something to improve. Controls train on.
        if self.is_last(level) and self.name == LATENT and self.section.last_level_at is not None:
            return self.section.last_level_at
        return self.section.promote_at


def plan_arm(recipe: Recipe, name: str, longest: int, num_problems: int) -> ArmPlan:
    """Plans an arm.

    Args:
        longest: Steps of the longest training problem.
        num_problems: Training problems, of which limits in epochs are counted.

    Raises:
        DataError: No problem has steps, or `steps_per_level` leaves some in the last level.
        RecipeError: Trainer keys or values that are refused.
    """
    assert recipe.curriculum is not None
    latent = latent_levels(recipe, longest)
    arm = ARMS[name]
    levels = arm.plan(latent)
    limits = _limits(recipe, arm, levels, latent, num_problems)
    return ArmPlan(name, arm, recipe.curriculum, levels, limits, rules_of(recipe.curriculum, name))


def _limits(recipe: Recipe, arm: Arm, levels: Sequence[Level], latent: Sequence[Level], num_problems: int) -> list[int]:
    """Optimizer steps of each level. An arm with one level gets those of all latent levels together."""
    if arm.as_rl:
        assert recipe.rl is not None
        return [recipe.rl.trainer["max_steps"]]
    limits = level_limits(recipe, latent, num_problems)
    return limits if len(levels) == len(limits) else [sum(limits)]


def rules_of(section: CurriculumSection, name: str) -> Rules:
    """When an arm stops or steps back. A control does neither: it gets all its steps, whatever accuracy it reaches."""
    if name != LATENT:
        return Rules(stop_at_limit=False)
    return Rules(section.at_limit == "stop", section.step_back_at, section.max_step_backs)
