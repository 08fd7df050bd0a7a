"""Samples of a checkpoint on problems: drawn, judged, and kept on disk as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...data.problem import Problem
from ...rewards.answers import extract_answer
from ..evaluate_sections import EvaluateSection
from ..latent.generate import Sampling
from ..latent.noise import parse_noise
from ..reasoner import Reasoner, Samples
from ..score import is_high, scores_of
from .latent_reward import LatentRewardModel, judge_thoughts
from .sample_files import SampleFile
from .search import Search, search_thoughts


@dataclass(frozen=True)
class Setting:
    """How the samples of a problem are drawn.

    Attributes:
        n: Samples of each problem.
        noise: On the latents, as kind:scale.
        temperature: Of the answer tokens; 0 takes the most likely one.
        answers_per_thought: Answers in a row that share a thought.
        num_latents: Of each thought; None: those of the checkpoint, 0: reason in text.
        search: How the thoughts of a question are found, where they are not drawn apart from each other.
    """

    n: int = 1
    noise: str | None = None
    temperature: float = 0.0
    answers_per_thought: int = 1
    num_latents: int | None = None
    search: Search | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setting:
        """A setting as the head of its file has it."""
        search = values.get("search")
        return cls(**{**values, "search": None if search is None else Search(tuple(search[0]), search[1])})

    @property
    def is_greedy(self) -> bool:
        """One answer without noise, the most likely tokens."""
        return (self.n, self.noise, self.temperature, self.search) == (1, None, 0.0, None)

    @property
    def name(self) -> str:
        """A file name: greedy, or such as n16-gaussian-0.3-T1."""
        latents = [f"L{self.num_latents}"] if self.num_latents is not None else []
        if self.is_greedy:
            return "-".join(["greedy", *latents])
        noise = [self.noise.replace(":", "-")] if self.noise is not None else []
        shared = [f"m{self.answers_per_thought}"] if self.answers_per_thought > 1 else []
        found = [self.search.name] if self.search is not None else []
        return "-".join([f"n{self.n}", *shared, *latents, *found, *noise, f"T{self.temperature:g}"])


@dataclass(frozen=True)
class Sampled:
    """The samples of one problem, n of each.

    Attributes:
        texts: Answers without special tokens.
        scores: Of the scorer; None where it gave none.
        logprobs: In nats, each summed over its answer's tokens.
        tokens: Tokens of each answer.
        latents: Latents of each thought.
        latents_made: For all of them: answers may share a thought, and a search makes latents that it gives up.
        seeds: `Reasoner.generate(..., seeds=...)` makes the same samples again; of a search: the one it began from.
        latent_rewards: Of the thoughts, where a latent reward model was at hand.
    """

    question: str
    texts: list[str]
    scores: list[float | None]
    logprobs: list[float]
    tokens: list[int]
    latents: list[int]
    latents_made: int
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
    judge: LatentRewardModel | None = None,
) -> list[Sampled]:
    """The samples of each problem; every process gets all of them.

    A sample depends on its problem's place and the seed alone, not on batches or on the number of processes.

    Args:
        options: Scorer, longest answer and batch size.
        file: Where to keep them; what it holds already is not drawn again.
        judge: Scores the thoughts, and keeps a beam narrow.
    """
    state = PartialState()
    seeds = seeds_of(len(problems), setting, seed)
    found = {} if file is None else _held(file, problems, seeds)
    state.wait_for_everyone()  # all have read the file before one writes
    missing = [i for i in range(len(problems)) if i not in found]
    mine = missing[state.process_index :: state.num_processes]
    drawn: dict[int, Sampled] = {}
    waiting: list[tuple[int, Samples]] = []

    def score() -> None:
        if not waiting:
            return
        rows = _scored([(problems[mine[at]], samples) for at, samples in waiting], options.scorer, setting)
        if judge is not None:
            questions, latents = [row.question for row in rows], [samples.latents for _, samples in waiting]
            scores = judge_thoughts(judge, reasoner, questions, latents)
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
                score()
            advance()

        _draw(reasoner, [problems[i].question for i in mine], setting, options, [seeds[i] for i in mine], judge, keep)
        score()
    found |= dict(gather_object(list(drawn.items())))
    if file is not None:
        file.finish({i: asdict(found[i]) for i in range(len(problems))})
    return [found[i] for i in range(len(problems))]


def _draw(
    reasoner: Reasoner,
    questions: Sequence[str],
    setting: Setting,
    options: EvaluateSection,
    seeds: Sequence[Sequence[int]],
    judge: LatentRewardModel | None,
    on_samples: Callable[[int, Samples], None],
) -> None:
    """Samples or searches, question by question."""
    if setting.search is None:
        reasoner.generate(
            questions,
            noise=setting.noise,
            temperature=setting.temperature,
            max_new_tokens=options.max_new_tokens,
            num_latents=setting.num_latents,
            seeds=seeds,
            batch_size=options.batch_size,
            on_samples=on_samples,
        )
        return
    noise = parse_noise(setting.noise)
    assert noise is not None
    sampling = Sampling(setting.temperature, options.max_new_tokens)
    first = [row[0] for row in seeds]
    search_thoughts(reasoner, questions, setting.search, noise, sampling, first, judge, options.batch_size, on_samples)


def seeds_of(problems: int, setting: Setting, seed: int) -> list[list[int]]:
    """n seeds for each problem, those of answers that share a thought equal; a search has one."""
    if setting.search is not None:
        return np.random.default_rng(seed).integers(2**62, size=(problems, 1)).tolist()
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


def _scored(drawn: Sequence[tuple[Problem, Samples]], scorer: str, setting: Setting) -> list[Sampled]:
    scores = scores_of(scorer, [problem for problem, _ in drawn], [samples.texts for _, samples in drawn])
    return [
        Sampled(
            question=problem.question,
            texts=samples.texts,
            scores=[None if value is None else float(value) for value in score],
            logprobs=[round(value, 5) for value in samples.logprobs],
            tokens=[len(ids) for ids in samples.token_ids],
            latents=samples.num_latents,
            latents_made=_latents_made(samples, setting),
            seeds=samples.seeds,
        )
        for (problem, samples), score in zip(drawn, scores, strict=True)
    ]


def _latents_made(samples: Samples, setting: Setting) -> int:
    if setting.search is not None:
        return sum(setting.search.widths)
    if setting.noise is None:
        return samples.num_latents[0]  # there is one thought
    return sum(dict(zip(samples.seeds, samples.num_latents, strict=True)).values())


@contextmanager
def _progress(setting: Setting, count: int) -> Iterator[Callable[[], None]]:
    """A bar on the main process, over its own share of the problems."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not PartialState().is_main_process) as progress:
        task = progress.add_task(setting.name, total=count)
        yield lambda: progress.advance(task)
