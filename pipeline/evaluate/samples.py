"""Samples of a checkpoint on problems: drawn, judged, and kept on disk as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ...data.problem import Problem
from ...rewards.answers import extract_answer
from ..reasoner import Reasoner, Samples
from ..score import is_high, scores_of
from ..sections import EvaluateSection
from .sample_files import SampleFile


@dataclass(frozen=True)
class Setting:
    """How the samples of a problem are drawn.

    Attributes:
        n: Samples of each problem.
        noise: On the latents, as kind:scale.
        temperature: Of the answer tokens; 0 takes the most likely one.
        answers_per_thought: Answers in a row that share a thought.
    """

    n: int = 1
    noise: str | None = None
    temperature: float = 0.0
    answers_per_thought: int = 1

    @property
    def name(self) -> str:
        """A file name: greedy, or such as n16-gaussian-0.3-T1."""
        if self == Setting():
            return "greedy"
        noise = [self.noise.replace(":", "-")] if self.noise is not None else []
        shared = [f"m{self.answers_per_thought}"] if self.answers_per_thought > 1 else []
        return "-".join([f"n{self.n}", *shared, *noise, f"T{self.temperature:g}"])


@dataclass(frozen=True)
class Sampled:
    """The samples of one problem, n of each.

    Attributes:
        texts: Answers without special tokens.
        scores: Of the scorer; None where it gave none.
        logprobs: In nats, each summed over its answer's tokens.
        tokens: Tokens of each answer.
        latents: Latents of each thought.
        seeds: `Reasoner.generate(..., seeds=...)` makes the same samples again.
        latent_rewards: Of the thoughts, where a latent reward model was at hand.
    """

    question: str
    texts: list[str]
    scores: list[float | None]
    logprobs: list[float]
    tokens: list[int]
    latents: list[int]
    seeds: list[int]
    latent_rewards: list[float] | None = None

    @property
    def right(self) -> np.ndarray:
        """(n,) whether each answer is right."""
        return np.array([is_high(score) for score in self.scores])

    @property
    def answers(self) -> list[str]:
        """What majorities count: the answers, extracted and normalised."""
        return [extract_answer(text) for text in self.texts]


def draw_samples(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    setting: Setting,
    options: EvaluateSection,
    seed: int,
    file: SampleFile | None = None,
    judge_thoughts: Callable[[Reasoner, Sequence[str], Sequence[Tensor]], list[list[float]]] | None = None,
) -> list[Sampled]:
    """The samples of each problem; every process gets all of them.

    A sample depends on its problem's place and the seed alone, not on batches or on the number of processes.

    Args:
        options: Scorer, longest answer and batch size.
        file: Where to keep them; what it holds already is not drawn again.
        judge_thoughts: Scores of the latents (n, L, d) of each question.
    """
    state = PartialState()
    seeds = seeds_of(len(problems), setting, seed)
    found = {} if file is None else _held(file, problems, seeds)
    state.wait_for_everyone()  # all have read the file before one writes
    missing = [i for i in range(len(problems)) if i not in found]
    mine = missing[state.process_index :: state.num_processes]
    drawn: dict[int, Sampled] = {}
    waiting: list[tuple[int, Samples]] = []

    def judge() -> None:
        if not waiting:
            return
        rows = _judged([(problems[mine[at]], samples) for at, samples in waiting], options.scorer)
        if judge_thoughts is not None:
            questions, latents = [row.question for row in rows], [samples.latents for _, samples in waiting]
            scores = judge_thoughts(reasoner, questions, latents)
            rows = [replace(row, latent_rewards=score) for row, score in zip(rows, scores, strict=True)]
        new = {mine[at]: row for (at, _), row in zip(waiting, rows, strict=True)}
        drawn.update(new)
        if file is not None:
            file.add({i: asdict(row) for i, row in new.items()})
        for _, samples in waiting:
            samples.latents = samples.latents.new_empty(0)  # many problems' would not fit into memory
        waiting.clear()

    with _progress(setting, len(mine)) as advance:

        def keep(at: int, samples: Samples) -> None:
            waiting.append((at, samples))
            if len(waiting) * setting.n >= options.batch_size:
                judge()
            advance()

        reasoner.generate(
            [problems[i].question for i in mine],
            noise=setting.noise,
            temperature=setting.temperature,
            max_new_tokens=options.max_new_tokens,
            seeds=[seeds[i] for i in mine],
            batch_size=options.batch_size,
            on_samples=keep,
        )
        judge()
    found |= dict(gather_object(list(drawn.items())))
    if file is not None:
        file.finish({i: asdict(found[i]) for i in range(len(problems))})
    return [found[i] for i in range(len(problems))]


def seeds_of(problems: int, setting: Setting, seed: int) -> list[list[int]]:
    """n seeds for each problem; those of answers that share a thought are equal."""
    thoughts = setting.n // setting.answers_per_thought
    drawn = np.random.default_rng(seed).integers(2**62, size=(problems, thoughts))
    return drawn.repeat(setting.answers_per_thought, 1).tolist()


def _held(file: SampleFile, problems: Sequence[Problem], seeds: list[list[int]]) -> dict[int, Sampled]:
    """What the file holds of these very questions and seeds."""
    rows = {i: Sampled(**row) for i, row in file.read().items()}
    return {
        i: row
        for i, row in rows.items()
        if i < len(problems) and (row.question, row.seeds) == (problems[i].question, seeds[i])
    }


def _judged(drawn: Sequence[tuple[Problem, Samples]], scorer: str) -> list[Sampled]:
    scores = scores_of(scorer, [problem for problem, _ in drawn], [samples.texts for _, samples in drawn])
    return [
        Sampled(
            question=problem.question,
            texts=samples.texts,
            scores=[None if value is None else float(value) for value in score],
            logprobs=[round(value, 5) for value in samples.logprobs],
            tokens=[len(ids) for ids in samples.token_ids],
            latents=samples.num_latents,
            seeds=samples.seeds,
        )
        for (problem, samples), score in zip(drawn, scores, strict=True)
    ]


@contextmanager
def _progress(setting: Setting, count: int) -> Iterator[Callable[[], None]]:
    """A bar on the main process, over its own share of the problems."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not PartialState().is_main_process) as progress:
        task = progress.add_task(setting.name, total=count)
        yield lambda: progress.advance(task)
