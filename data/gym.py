"""Problems of the library reasoning-gym: a question, an answer, and for `gsm_symbolic` equations as steps.

A problem has the column `entry`, by which the reward `reasoning_gym` judges answers with the library's own verifier:
the library's question, answer and metadata, and the options that it was made with. `gsm_symbolic` problems also have
the column `template`, the number of the GSM8K problem that they are variants of.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import DataError, shown
from .gsm8k import normalise_number
from .gym_library import create_gym, gsm_templates
from .problem import Problem, parse_problem
from .prose_equations import equation_steps
from .splits import Split, check_choice, check_integer, draw_different, seeded

# Tasks with worked solutions -> the key of their metadata with it, which ends in `#### answer`.
WORKED = {"gsm_symbolic": "answer_cot"}
Templates = Literal["all", "seen", "unseen"]
_TEMPLATES = ("all", "seen", "unseen")
_UNSEEN = 5  # every fifth template is an unseen one
_CHUNK = 500  # problems of a dataset of the library; some make all of them at once
# After this number of draws in a row that give no problem, the task counts as one that has none.
_MOST_UNUSABLE = 2_000


@dataclass(frozen=True)
class GymTask:
    """The distribution of problems: a task of reasoning-gym with its options, and what to keep of it.

    Attributes:
        name: the library's name of the task.
        options: fields of the task's configuration in the library.
        min_steps: fewest steps of a worked solution. With 0 a problem whose solution cannot be read, or is too long,
            is kept without steps.
        max_steps: most steps.
        max_step_chars: most characters of a step, `<<` and `>>` included.
        templates: of gsm_symbolic: all, those to train on (seen), the others (unseen: each fifth, whose number ends
            in 4 or 9), or a list of their numbers.

    Raises DataError when a setting has a bad value, or is one of worked solutions or templates, which the task has not.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    min_steps: int = 1
    max_steps: int = 6
    max_step_chars: int = 24
    templates: Templates | tuple[int, ...] = "all"

    def __post_init__(self) -> None:
        check_integer("min_steps", self.min_steps, 0)
        check_integer("max_steps", self.max_steps, max(1, self.min_steps))
        check_integer("max_step_chars", self.max_step_chars, 1)
        if isinstance(self.templates, str):
            check_choice("templates", self.templates, _TEMPLATES)
        for name in ("min_steps", "max_steps", "max_step_chars", "templates"):
            if self.name not in WORKED and getattr(self, name) != getattr(GymTask, name):
                raise DataError(
                    f"{name} is {shown(getattr(self, name))}, but the task {self.name!r} of reasoning_gym has no "
                    f"worked solutions, so its problems have no steps and no templates. Remove {name}; tasks with "
                    f"worked solutions: {', '.join(WORKED)}."
                )

    def wants(self, template: int) -> bool:
        """Whether problems of a template are wanted."""
        if isinstance(self.templates, str):
            return self.templates == "all" or (template % _UNSEEN == _UNSEEN - 1) == (self.templates == "unseen")
        return template in self.templates


def generate_gym(task: GymTask, size: int, split: Split, seed: int) -> list[Problem]:
    """Return `size` different problems of one split, the same ones for the same arguments.

    A smaller size with the same seed gives the first of them. As with other generated tasks a question's hash decides
    its split, so no question is in both, whatever the sizes, seeds and templates.

    Raises:
        DataError: as `create_gym`; the split holds fewer than `size` problems; the task gives no problem that can be
            used, or has no written answers; a template does not exist.
    """
    problems = _problems(task, seeded(size, split, seed))
    _check_templates(task)

    def draw() -> tuple[str, Problem]:
        problem = next(problems)
        return problem.question, problem

    return draw_different(draw, size, split, task)


def _problems(task: GymTask, rng: random.Random) -> Iterator[Problem]:
    """Problems without end. Those that cannot be used are left out."""
    unusable = 0
    for template, entry in _entries(task, rng):
        problem = _problem(task, template, entry)
        if problem is not None:
            unusable = 0
            yield problem
        elif (unusable := unusable + 1) == _MOST_UNUSABLE:
            raise DataError(
                f"{unusable} draws in a row of {task} gave no problem that can be used: one with a question, an answer "
                f"and {task.min_steps} to {task.max_steps} steps of at most {task.max_step_chars} characters. Allow "
                "more steps or longer ones, or choose other templates or options."
            )


def _entries(task: GymTask, rng: random.Random) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Template, where the task has them, and entry of the library's problems, without end."""
    while True:
        dataset = create_gym(task.name, task.options, rng.randrange(2**31), _CHUNK)
        templates = dataset.task_indices if task.name in WORKED else [None] * _CHUNK
        for index, template in enumerate(templates):
            if template is None or task.wants(template):
                yield template, dataset[index]


def _check_templates(task: GymTask) -> None:
    """Raise DataError if the task names templates that there are none of."""
    if isinstance(task.templates, str):
        return
    known = gsm_templates()
    strange = [template for template in task.templates if template not in known]
    if strange or not task.templates:
        raise DataError(
            f"templates is {list(task.templates)}. It must be all, seen or unseen, or a list of numbers of templates: "
            f"{', '.join(map(str, known))}."
        )


def _problem(task: GymTask, template: int | None, entry: dict[str, Any]) -> Problem | None:
    """An entry as a problem. None if it cannot be one."""
    answer, steps = entry["answer"], []
    extra: dict[str, Any] = {"entry": _writable({**entry, "options": dict(task.options)})}
    if answer is None:
        raise DataError(
            f"The task {task.name!r} of reasoning_gym has no written answers, which a problem needs. Choose another "
            "task."
        )
    if template is not None:
        extra["template"] = template
        answer = normalise_number(answer)
        found = _steps(task, entry["metadata"][WORKED[task.name]], answer)
        if found is None and task.min_steps > 0:
            return None
        steps = found or []
    try:
        return parse_problem({"question": entry["question"], "steps": steps, "answer": answer, **extra}, "")
    except DataError:  # an empty answer, for example
        return None


def _writable(value: Any) -> Any:
    """A value with text in place of what JSON cannot express, such as a Fraction among the variables of a question."""
    if isinstance(value, dict):
        return {key: _writable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_writable, value))
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _steps(task: GymTask, solution: str, answer: str) -> list[str] | None:
    """The equations of a worked solution. None unless all are read, the last gives the answer, and they fit."""
    steps = equation_steps(solution.rpartition("####")[0])
    if not steps or steps[-1].strip("<>").rpartition("=")[2] != answer:
        return None
    fits = task.min_steps <= len(steps) <= task.max_steps and all(len(step) <= task.max_step_chars for step in steps)
    return steps if fits else None
