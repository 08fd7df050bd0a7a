"""Built-in reward functions, with TRL's signature `f(prompts, completions, **columns) -> list[float | None]`.

Where an answer is read, the column `answer_format` says how it is announced, see `extract_answer`; without it `hash`.
`BUILTIN` names them. A reward that compares a completion with the data also goes into `COMPARING` of
`pipeline/problems/readable_answers.py`, which checks before training that it can read the answers.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from .answers import completion_text, has_answer_format, normalise_answer, stated_answers
from .errors import RewardError
from .gym import reasoning_gym
from .mathematics import math_verify
from .numbers import read_numbers, same_numbers


def exact_match(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answer: Sequence[Any],
    answer_format: Sequence[str] | None = None,
    **_: Any,
) -> list[float]:
    """1.0 where the text after the last `###` (the whole completion without one) is the answer, else 0.0.

    White space is normalised on both sides; case counts.
    """
    return [
        float(got == normalise_answer(str(expected)))
        for got, expected in zip(stated_answers(completions, answer_format), answer, strict=True)
    ]


def numeric_match(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answer: Sequence[Any],
    answer_format: Sequence[str] | None = None,
    **_: Any,
) -> list[float | None]:
    """1.0 where the text after the last `###` (the whole completion without one) states the answer's numbers, else 0.0.

    The same numbers in the same order, and no others, each within 1e-6; `read_numbers` says which are stated. An answer
    without a number that can be read gives None.
    """
    golds = {text: read_numbers(text) for text in {str(expected) for expected in answer}}
    rewards: list[float | None] = []
    for text, expected in zip(stated_answers(completions, answer_format), answer, strict=True):
        gold = golds[str(expected)]
        got = read_numbers(text) if gold else []
        rewards.append(float(same_numbers(gold, got)) if gold else None)
    return rewards


def answer_format(
    prompts: Sequence[Any], completions: Sequence[Any], answer_format: Sequence[str] | None = None, **_: Any
) -> list[float]:
    """1.0 where the completion has exactly one `###`, followed by an answer of one line, else 0.0."""
    names = ["hash"] * len(completions) if answer_format is None else answer_format
    texts = [completion_text(completion) for completion in completions]
    return [float(has_answer_format(text, name)) for text, name in zip(texts, names, strict=True)]


def valid_path(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    edges: Sequence[Sequence[Sequence[Any]]],
    start: Sequence[Any],
    goal: Sequence[Any],
    answer_format: Sequence[str] | None = None,
    **_: Any,
) -> list[float]:
    """1.0 where the words after the last `###` are the nodes of a path from start to goal, else 0.0.

    A path follows the edges, each a pair (from, to), and visits no node twice. Without `###` the whole completion
    counts.
    """
    rewards = []
    texts = stated_answers(completions, answer_format)
    for text, known, first, last in zip(texts, edges, start, goal, strict=True):
        nodes = text.split()
        allowed = {(str(source), str(end)) for source, end in known}
        joined = bool(nodes) and nodes[0] == str(first) and nodes[-1] == str(last)
        rewards.append(float(joined and len(set(nodes)) == len(nodes) and allowed.issuperset(pairwise(nodes))))
    return rewards


def latent_cost(
    prompts: Sequence[Any], completions: Sequence[Any], num_latents: Sequence[int] | None = None, **_: Any
) -> list[float]:
    """Minus the number of latents of each completion, for use with a small weight.

    Raises:
        RewardError: there is no column `num_latents`.
    """
    if num_latents is None:
        raise RewardError(
            "The reward 'latent_cost' received no column 'num_latents'. Rollouts with latents provide it; add the "
            "column to the data when you call the reward yourself, or remove the reward from the recipe."
        )
    return [-float(count) for count in num_latents]


def length_cost(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    **_: Any,
) -> list[float]:
    """Minus the number of tokens of each answer, the end token included, for use with a small weight.

    Raises:
        RewardError: there are no `completion_ids`.
    """
    if completion_ids is None:
        raise RewardError(
            "The reward 'length_cost' received no 'completion_ids', the tokens of the answers. RL provides them; give "
            "them when you call the reward yourself, or choose another reward where there are only texts, as in "
            "evaluate.scorer."
        )
    return [float(-len(ids)) for ids in completion_ids]


BUILTIN: dict[str, Callable[..., list[float] | list[float | None]]] = {
    "exact_match": exact_match,
    "numeric_match": numeric_match,
    "answer_format": answer_format,
    "valid_path": valid_path,
    "latent_cost": latent_cost,
    "length_cost": length_cost,
    "math_verify": math_verify,
    "reasoning_gym": reasoning_gym,
}
