"""A few held-out problems that are followed through training: how their thoughts and answers change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...data.problem import Problem
from ..model.reading import thought_texts
from ..model.reasoner import Reasoner, Samples
from ..tracking.tracker import Tracker

FOLLOWED = 16
COLUMNS = ["step", "question", "thought", "completion", "right"]


class Followed:
    """Adds rows to a table in Weights & Biases at every measurement: the same problems each time.

    With several processes they are the first of those that the main process measures.
    """

    def __init__(self, tracker: Tracker, offset: int = 0) -> None:
        """
        Args:
            offset: Optimizer steps of earlier Trainers of the stage.
        """
        self.tracker, self.offset = tracker, offset

    def send(
        self, reasoner: Reasoner, problems: Sequence[Problem], samples: Sequence[Samples], right: np.ndarray, step: int
    ) -> None:
        """Sends greedy answers of this process, if it is the main one.

        Args:
            reasoner: The model that gave them.
            samples: Of each problem, one answer.
            right: (P, 1) whether it is right.
        """
        if not self.tracker.sends_media or self.tracker.recipe.tracking.tables_every is None:
            return
        some = list(zip(problems, samples, right[:, 0], strict=True))[:FOLLOWED]
        prompts = [reasoner.prompt_ids(problem.question, answer.num_latents[0]) for problem, answer, _ in some]
        step += self.offset
        rows = [
            [step, problem.question, thought, answer.texts[0], bool(is_right)]
            for (problem, answer, is_right), thought in zip(some, thought_texts(reasoner, prompts), strict=True)
        ]
        self.tracker.log_table("held_out/followed", COLUMNS, rows, step, grows=True)
