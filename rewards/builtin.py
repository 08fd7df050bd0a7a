"""Built-in reward functions, with TRL's signature `f(prompts, completions, **columns) -> list[float | None]`."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from .answers import completion_text, extract_answer, has_answer_format, normalise_answer, parse_number
from .errors import RewardError
from .mathematics import math_verify

_TOLERANCE = 1e-6


def exact_match(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """1.0 where the text after the last `###` (the whole completion without one) is the answer, else 0.0.

    White space is normalised on both sides; case counts.
    """
    return [
        float(extract_answer(completion_text(completion)) == normalise_answer(str(expected)))
        for completion, expected in zip(completions, answer, strict=True)
    ]


def numeric_match(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """1.0 where the last number after the last `###` is within 1e-6 of the answer, else 0.0, also without a number.

    Numbers are read by `parse_number`: commas, `$`, `%` and a trailing dot do not count.
    """
    rewards = []
    for completion, expected in zip(completions, answer, strict=True):
        got, want = parse_number(extract_answer(completion_text(completion))), parse_number(str(expected))
        rewards.append(float(got is not None and want is not None and abs(got - want) <= _TOLERANCE))
    return rewards


def answer_format(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    """1.0 where the completion has exactly one `###`, followed by an answer of one line, else 0.0."""
    return [float(has_answer_format(completion_text(completion))) for completion in completions]


def valid_path(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    edges: Sequence[Sequence[Sequence[Any]]],
    start: Sequence[Any],
    goal: Sequence[Any],
    **_: Any,
) -> list[float]:
    """1.0 where the words after the last `###` are the nodes of a path from start to goal, else 0.0.

    A path follows the edges, each a pair (from, to), and visits no node twice. Without `###` the whole completion
    counts.
    """
    rewards = []
    for completion, known, first, last in zip(completions, edges, start, goal, strict=True):
        nodes = extract_answer(completion_text(completion)).split()
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
}
