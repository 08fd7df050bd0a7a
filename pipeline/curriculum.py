"""The curriculum, without tensors: what a problem looks like at every stage, and which stages there are.

Stage 0 is text chain of thought: question, steps, answer. At stage k (Coconut, arXiv 2412.06769, section 3) the first
k steps are replaced by k·c latents between `<|start-latent|>` and `<|end-latent|>`. The last stage drops all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..data.errors import DataError
from ..data.problem import Problem
from .latent.reasoner import IGNORE

SEPARATOR = "\n"
ANSWER_PREFIX = "### "


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum.

    Attributes:
        index: 0 is text chain of thought.
        removed_steps: Text steps dropped from the front; None: all of them.
        num_latents: Latents in their place.
    """

    index: int
    removed_steps: int | None
    num_latents: int


# Text chain of thought: nothing is replaced.
TEXT = Stage(0, 0, 0)


def plan_stages(most_steps: int, latents_per_step: int, max_stage: int | None = None) -> list[Stage]:
    """Stages after text: one step more becomes latent at each, until none is left.

    Args:
        most_steps: Steps of the longest problem.
        latents_per_step: Latents that replace one step (c).
        max_stage: Stop adding latents after this many steps; longer problems then lose their remaining steps in one
            more stage without more latents, as in Coconut's GSM8K schedule. None: one stage per step.
    """
    last = min(max_stage or most_steps, most_steps)
    stages = [Stage(k, k, k * latents_per_step) for k in range(1, last + 1)]
    if last < most_steps:
        stages.append(Stage(last + 1, None, last * latents_per_step))
    return stages


@dataclass(frozen=True)
class Encoded:
    """Token ids of the parts of one problem; concatenating them gives the text form."""

    question: list[int]
    steps: list[list[int]]
    answer: list[int]


def encode(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Tokenizes the parts one by one, so that training and inference cut the text at the same places.

    Raises:
        DataError: A part that tokenizes to nothing.
    """
    texts = [text for problem in problems for text in _parts(problem)]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    bos = _bos(tokenizer)
    encoded = []
    for row, problem in enumerate(problems):
        question, *steps, answer = [next(ids) for _ in range(len(problem.steps) + 2)]
        if not question or not all(steps) or not answer:
            raise DataError(f"Problem {row} has a part that tokenizes to nothing: {problem}. Remove or mend it.")
        encoded.append(Encoded(bos + question, steps, [*answer, tokenizer.eos_token_id]))
    return encoded


def _parts(problem: Problem) -> list[str]:
    return [problem.question + SEPARATOR, *(s + SEPARATOR for s in problem.steps), ANSWER_PREFIX + problem.answer]


def encode_question(question: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The question part alone, for inference."""
    return _bos(tokenizer) + tokenizer(question + SEPARATOR, add_special_tokens=False)["input_ids"]


def latent_block(num_latents: int, token_ids: tuple[int, int, int]) -> list[int]:
    """Placeholders of a thought with their delimiters; nothing when there are none."""
    start, latent, end = token_ids
    return [start, *[latent] * num_latents, end] if num_latents else []


def render(
    encoded: Encoded, stage: Stage, token_ids: tuple[int, int, int], latents_per_step: int, supervise: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids and labels of a problem at a stage. The loss falls on everything after the latents.

    Args:
        supervise: Also label the first latent of each replaced step with the step's first token: the hidden state
            the latent is made from learns to predict the step it stands for.
    """
    removed = len(encoded.steps) if stage.removed_steps is None else stage.removed_steps
    block = latent_block(stage.num_latents, token_ids)
    block_labels = [IGNORE] * len(block)
    if supervise:
        for index, step in enumerate(encoded.steps[: stage.num_latents // latents_per_step]):
            block_labels[1 + index * latents_per_step] = step[0]
    target = [token for step in encoded.steps[removed:] for token in step] + encoded.answer
    return encoded.question + block + target, [IGNORE] * len(encoded.question) + block_labels + target


def check_context(encoded: Sequence[Encoded], stages: Sequence[Stage], limit: int | None) -> None:
    """Makes sure that every problem fits into the context window at every stage.

    Raises:
        DataError: One that does not, with its row.
    """
    if limit is None:
        return
    for row, item in enumerate(encoded):
        for stage in stages:
            kept = 0 if stage.removed_steps is None else sum(map(len, item.steps[stage.removed_steps :]))
            block = stage.num_latents + 2 if stage.num_latents else 0
            length = len(item.question) + block + kept + len(item.answer)
            if length > limit:
                raise DataError(
                    f"Problem {row} of the training data has {length} tokens at curriculum stage {stage.index}, the "
                    f"model's context window is {limit}. Remove the problem or choose a model with a longer window."
                )


def check_one_token_steps(encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes sure that a step is one token, not counting what the separator adds.

    Raises:
        DataError: A step of several tokens, which one label cannot stand for.
    """
    separator = len(tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"])
    for row, item in enumerate(encoded):
        for step in item.steps:
            if len(step) > 1 + separator:
                raise DataError(
                    f"Step {tokenizer.decode(step)!r} of problem {row} has {len(step)} tokens, but latent supervision "
                    "labels a latent with one token. Set curriculum.supervision_weight=0 for steps of several tokens."
                )


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sequence token, for tokenizers that put one before every text (Llama)."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []
