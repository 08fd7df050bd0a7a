"""The problems of a recipe: loaded or generated, parted into training, held-out and evaluation problems."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from accelerate import PartialState

from ...data.loading import load_problems
from ...data.problem import Problem
from ...data.tasks import generate_task
from ..recipe.load import RecipeError
from ..recipe.schema import DataSource, Recipe
from .golds import check_rewards, check_scorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problems:
    """Problems by what they are for.

    Attributes:
        train: Trained on.
        held_out: Training problems kept apart, for stages to be measured on while they train.
        evaluation: Measured on in the end.
    """

    train: list[Problem]
    held_out: list[Problem]
    evaluation: list[Problem]


def load_all(recipe: Recipe, generate: int | None = None) -> Problems:
    """All problems of a recipe. Warns of evaluation questions that are training questions too.

    Args:
        generate: Generate no more training problems than these and those held out, to look at; which are held out
            differs from the run's. None: as many as the recipe says.

    Raises:
        UserError: Data that cannot be read, too few training problems to hold some out, or answers of which the scorer
            or a reward can read none.
    """
    count = recipe.held_out
    source = recipe.data.train
    if generate is not None and source.size is not None:
        source = source.model_copy(update={"size": min(source.size, count + generate)})
    problems = load_source(source, "train", recipe.seed)
    evaluation = load_evaluation(recipe)
    held_out, others = hold_out(problems, count, recipe.seed)
    # Data of one's own may ask a question twice.
    asked = {problem.question for problem in held_out}
    train = [problem for problem in others if problem.question not in asked]
    if not train:
        raise RecipeError(
            f"eval_problems={count} of the curriculum or of rl would hold out all {len(problems)} training problems. "
            "Lower it."
        )
    warn_of_overlap(train, evaluation)
    check_scorer(recipe, held_out, "held-out training")
    check_rewards(recipe, train, evaluation)
    return Problems(train, held_out, evaluation)


def hold_out(problems: Sequence[Problem], count: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Parts problems: `count` of them, drawn by seed, and the others in their order.

    Not the first ones, as files are often sorted. More held out under the same seed are those and further ones.
    """
    order = seeded_order(len(problems), seed, "held out")[:count]
    kept = set(order)
    return [problems[place] for place in order], [one for place, one in enumerate(problems) if place not in kept]


def fingerprint(problems: Sequence[Problem]) -> str:
    """How many problems there are, and what tells them from others."""
    seen = sha256()
    for problem in problems:
        seen.update(repr(problem).encode())
    return f"{len(problems)} problems ({seen.hexdigest()[:8]})"


def draw_training(train: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """Training problems to learn more from, such as which thoughts lead to right answers: `count`, drawn by seed."""
    return [train[place] for place in seeded_order(len(train), seed, "drawn")[:count]]


def seeded_order(count: int, seed: int, purpose: str) -> list[int]:
    """The places 0 to count − 1 in an order that depends on the arguments alone, and on no process."""
    order = list(range(count))
    random.Random(f"{purpose} {seed}").shuffle(order)  # noqa: S311 (reproducible, no secret)
    return order


def load_evaluation(recipe: Recipe) -> list[Problem]:
    """The problems a recipe is measured on.

    Raises:
        UserError: Data that cannot be read, or answers of which the scorer can read none.
    """
    problems = load_source(recipe.data.eval, "eval", recipe.seed)[: recipe.evaluate.problems]
    check_scorer(recipe, problems, "evaluation")
    return problems


def warn_of_overlap(train: Sequence[Problem], evaluation: Sequence[Problem]) -> None:
    """Says which evaluation questions are training questions too: there, a model may remember in place of reasoning."""
    seen = {problem.question for problem in train}
    shared = [problem.question for problem in evaluation if problem.question in seen]
    if shared and PartialState().is_main_process:
        logger.warning(
            "%d of %d evaluation questions are also training questions, the first: %r. There a model may remember in "
            "place of reasoning. Take them out of one of the two.",
            len(shared), len(evaluation), shared[0],
        )  # fmt: skip


def load_source(source: DataSource, split: str, seed: int) -> list[Problem]:
    """Problems of a recipe's data source. A generated task has disjoint `train` and `eval` splits."""
    if source.task is not None:
        assert source.size is not None
        return generate_task(source.task, source.options, source.size, split, seed)
    return load_problems(
        path=source.path,
        dataset=source.dataset,
        name=source.name,
        split=source.split,
        columns=source.columns,
        limit=source.limit,
        step_splitter=source.step_splitter,
    )
