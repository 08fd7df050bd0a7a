"""Whether scorers and rewards can read the answers in the data, checked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from accelerate import PartialState

from ...data.answer_formats import HASH, answer_format_of
from ...data.errors import shown
from ...data.problem import Problem
from ...rewards.builtin import BUILTIN
from ...rewards.errors import RewardError
from ...rewards.score import call_reward, checked_reward, is_high
from ..recipe.schema import Recipe

logger = logging.getLogger(__name__)

LOOKED_AT = 1000  # most problems of a set to look at, evenly spread: math_verify takes a millisecond for each
SCORER = "evaluate.scorer"
# Built-in rewards that compare a completion with the data. The others charge for latents and tokens.
COMPARING = ("exact_match", "numeric_match", "math_verify", "valid_path", "reasoning_gym")


def compares(function: str | None) -> bool:
    """Whether a reward is a built-in one that compares a completion with the data."""
    return function is not None and function.strip() in COMPARING


def check_scorer(recipe: Recipe, problems: Sequence[Problem], what: str) -> None:
    """Checks that the scorer of the evaluation can read the answers of problems, see `check_golds`."""
    name = recipe.evaluate.scorer.strip()
    if name in BUILTIN:
        check_golds(SCORER, name, problems, what, recipe.data.answer_format)


def check_rewards(recipe: Recipe, train: Sequence[Problem], evaluation: Sequence[Problem]) -> None:
    """Checks that the rewards of rl and of selection can read the answers they compare with, see `check_golds`."""
    chooses = recipe.evaluate.selection_reward
    asked = [("rl.rewards", reward, train, "training") for reward in (recipe.rl.rewards if recipe.rl else [])]
    asked += [("evaluate.selection_reward", chooses, evaluation, "evaluation")] if chooses is not None else []
    for key, reward, problems, what in asked:
        if compares(reward.function):
            check_golds(key, str(reward.function).strip(), problems, what, recipe.data.answer_format)


def check_golds(key: str, name: str, problems: Sequence[Problem], what: str, answer_format: str = HASH.name) -> None:
    """Lets a built-in reward judge each problem's own answer. Warns how many it cannot read or takes for wrong.

    Args:
        key: The recipe key that names the reward.
        name: Of the reward.
        what: Word for the problems in the message, such as training.
        answer_format: How answers are written.

    Raises:
        RewardError: The reward can read none of the answers, or lacks a column that it needs.
    """
    looked_at = problems[:: -(-len(problems) // LOOKED_AT) or 1]
    texts = [[answer_format_of(answer_format).written(problem.answer)] for problem in looked_at]
    judged = call_reward(checked_reward(name), looked_at, texts, answer_format)
    unread = [problem.answer for problem, reward in zip(looked_at, judged, strict=True) if reward is None]
    read = [(p.answer, reward) for p, reward in zip(looked_at, judged, strict=True) if reward is not None]
    wrong = [answer for answer, reward in read if not is_high(reward)]
    effect = "count as wrong" if key == SCORER else "get no reward"
    advice = f"Choose a reward that can in {key} (exact_match compares texts), or correct the answers."
    if unread and len(unread) == len(looked_at):
        raise RewardError(
            f"{key}: {name} can read none of {len(unread)} {what} answers, the first of which is {shown(unread[0])}: "
            f"all completions would {effect}. {advice}"
        )
    if not PartialState().is_main_process:
        return
    counted = f"%d of {len(looked_at)} {what} answers, the first of which is %s"
    if unread:
        logger.warning(
            f"{key}: {name} cannot read {counted}: their completions {effect}. {advice}", len(unread), shown(unread[0])
        )
    if wrong:
        logger.warning(
            f"{key}: {name} takes {counted}, for a wrong answer to its own problem. {advice}",
            len(wrong),
            shown(wrong[0]),
        )
