"""The problems of a recipe, loaded or generated: training, held-out and evaluation problems."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from accelerate import PartialState

from ...data.answer_formats import HASH
from ...data.given_changes import given_changes
from ...data.gym import GymTask, generate_gym
from ...data.loading import load_problems
from ...data.problem import Problem
from ...data.splits import Split
from ...data.tasks import generate_task
from ..recipe.load import RecipeError
from ..recipe.schema import DataSource, Recipe
from .readable_answers import check_rewards, check_scorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problems:
    """Problems by their use.

    Attributes:
        train: Training problems, without those held out.
        held_out: Training problems kept apart to measure on while training.
        evaluation: Problems that the run is measured on at its end.
        removed: Number of training problems that were left out because their questions are evaluation questions.
    """

    train: list[Problem]
    held_out: list[Problem]
    evaluation: list[Problem]
    removed: int = 0

    @property
    def record(self) -> str:
        """What the run keeps, to tell whether it goes on with the same training problems."""
        left_out = f", without {self.removed} whose questions are evaluation questions" if self.removed else ""
        return fingerprint(self.train) + left_out


def load_all(recipe: Recipe, generate: int | None = None) -> Problems:
    """All problems of a recipe. Training problems whose questions are evaluation questions are left out.

    With `data.keep_overlap` they are kept, with a warning.

    Args:
        generate: Generate at most this number of training problems, plus those held out, for a look at them. The
            held-out ones then differ from those of the run. None: as many as the recipe says.

    Raises:
        UserError: Data cannot be read, there are too few training problems to hold some out, all of them are
            evaluation problems, or the scorer or a reward can read no answer.
    """
    count = recipe.held_out
    source = recipe.data.train
    if generate is not None and source.size is not None:
        source = source.model_copy(update={"size": min(source.size, count + generate)})
    loaded = load_source(source, "train", recipe.seed, recipe.data.answer_format)
    asked_at_end = load_source(recipe.data.eval, "eval", recipe.seed, recipe.data.answer_format)
    evaluation = _measured(recipe, asked_at_end)
    # All of them, also beyond evaluate.problems: what is trained on must not change with how a run is measured. Before
    # some are held out: nothing is chosen by evaluation problems.
    problems = loaded if recipe.data.keep_overlap else without_overlap(loaded, asked_at_end)
    held_out, others = hold_out(problems, count, recipe.seed)
    # A file may ask a question twice.
    asked = {problem.question for problem in held_out}
    train = [problem for problem in others if problem.question not in asked]
    if not train:
        raise RecipeError(
            f"eval_problems={count} of the curriculum or of rl would hold out all {len(problems)} training problems. "
            "Lower it."
        )
    if recipe.data.keep_overlap:
        warn_of_overlap(train, evaluation)
    check_scorer(recipe, held_out, "held-out training")
    check_rewards(recipe, train, evaluation)
    return Problems(train, held_out, evaluation, len(loaded) - len(problems))


def hold_out(problems: Sequence[Problem], count: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Splits problems: `count` of them, drawn at random because files are often sorted, and the others in order.

    A larger count with the same seed holds out the same problems and more.
    """
    order = seeded_order(len(problems), seed, "held out")[:count]
    kept = set(order)
    return [problems[place] for place in order], [one for place, one in enumerate(problems) if place not in kept]


def fingerprint(problems: Sequence[Problem]) -> str:
    """Number and hash of problems, in words."""
    seen = sha256()
    for problem in problems:
        seen.update(repr(problem).encode())
    return f"{len(problems)} problems ({seen.hexdigest()[:8]})"


def draw_training(train: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """Draws `count` training problems, such as those that a latent reward model learns from."""
    return [train[place] for place in seeded_order(len(train), seed, "drawn")[:count]]


def seeded_order(count: int, seed: int, purpose: str) -> list[int]:
    """Shuffles 0 to count − 1. The order depends on the arguments only, so all processes agree."""
    order = list(range(count))
    random.Random(f"{purpose} {seed}").shuffle(order)  # noqa: S311 (reproducible, no secret)
    return order


def load_evaluation(recipe: Recipe) -> list[Problem]:
    """The evaluation problems of a recipe.

    Raises:
        UserError: Data cannot be read, or the scorer can read no answer.
    """
    return _measured(recipe, load_source(recipe.data.eval, "eval", recipe.seed, recipe.data.answer_format))


def _measured(recipe: Recipe, problems: list[Problem]) -> list[Problem]:
    """The first `evaluate.problems` evaluation problems, checked."""
    chosen = problems[: recipe.evaluate.problems]
    check_scorer(recipe, chosen, "evaluation")
    return chosen


def without_overlap(train: list[Problem], evaluation: Sequence[Problem]) -> list[Problem]:
    """The training problems whose questions are no evaluation questions, nor such as these change to, but for white
    space. Says how many are not.

    Raises:
        RecipeError: None is left.
    """
    asked = _questions([*evaluation, *(other for problem in evaluation for other in given_changes(problem))])
    kept = [problem for problem in train if _plain(problem.question) not in asked]
    if not kept:
        raise RecipeError(
            f"All {len(train)} training questions are evaluation questions, on which a model may remember in place of "
            "reasoning. Give data.train and data.eval different problems, or keep them by data.keep_overlap=true."
        )
    if len(kept) < len(train) and PartialState().is_main_process:
        logger.warning(
            "%d of %d training problems were left out: their questions are evaluation questions. "
            "data.keep_overlap=true keeps them.",
            len(train) - len(kept), len(train),
        )  # fmt: skip
    return kept


def warn_of_overlap(train: Sequence[Problem], evaluation: Sequence[Problem]) -> None:
    """Warns of evaluation questions that are also training questions: a model may remember their answers."""
    seen = _questions(train)
    shared = [problem.question for problem in evaluation if _plain(problem.question) in seen]
    if shared and PartialState().is_main_process:
        logger.warning(
            "%d of %d evaluation questions are also training questions, the first: %r. There a model may remember in "
            "place of reasoning. data.keep_overlap=false leaves them out of the training problems.",
            len(shared), len(evaluation), shared[0],
        )  # fmt: skip


def _questions(problems: Sequence[Problem]) -> set[str]:
    return {_plain(problem.question) for problem in problems}


def _plain(question: str) -> str:
    """A question with every run of white space as one space."""
    return " ".join(question.split())


def load_source(source: DataSource, split: Split, seed: int, answer_format: str = HASH.name) -> list[Problem]:
    """Problems of a data source. `split`, train or eval, is that of a generated task; the two are disjoint."""
    if source.task is not None:
        assert source.size is not None
        return generate_task(source.task, source.options, source.size, split, seed)
    if source.reasoning_gym is not None:
        assert source.size is not None
        task = GymTask(options=source.options, **source.reasoning_gym.model_dump())
        return generate_gym(task, source.size, split, seed)
    return load_problems(
        path=source.path,
        dataset=source.dataset,
        name=source.name,
        split=source.split,
        columns=source.columns,
        limit=source.limit,
        step_splitter=source.step_splitter,
        streaming=source.streaming,
        answer_format=answer_format,
    )
