"""Samples of a checkpoint on problems: drawn, judged, and kept on disk as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from accelerate import PartialState
from accelerate.utils import gather_object
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...data.problem import Problem
from ...rewards.score import scores_of
from ..latent.noise import parse_noise
from ..latent.sampling.answers import SamplingParams
from ..latent.sampling.budget import Budget
from ..model.from_text import answer_from_text
from ..model.reasoner import Reasoner, Samples
from ..recipe.schema import EvaluateSection
from ..scoring.latent_reward import LatentRewardModel, judge_thoughts
from ..scoring.monitor import Monitor
from ..scoring.problem_samples import Sampled
from ..scoring.sample_files import SampleFile
from ..scoring.sampling_setting import Setting, seeds_of
from ..system.processes import my_share
from .search import search_thoughts


@dataclass
class Effort:
    """What drawing samples took.

    Attributes:
        reused: Problems whose samples were on disk.
        judging: Seconds that the latent reward model took for thoughts that were drawn. In a search it is part of the
            search.
        monitoring: Seconds that the monitor took.
    """

    reused: int = 0
    judging: float = 0.0
    monitoring: float = 0.0


def draw_samples(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    setting: Setting,
    options: EvaluateSection,
    seed: int,
    file: SampleFile | None = None,
    judge: LatentRewardModel | None = None,
    effort: Effort | None = None,
    monitor: Monitor | None = None,
) -> list[Sampled]:
    """The samples of each problem. Every process gets all of them.

    A sample depends on its problem's place and on the seed only, not on batches or on the number of processes.

    Args:
        options: Scorer, longest answer and batch size.
        file: Where to keep the samples. Samples that it holds already are not drawn again.
        judge: Gives thoughts their latent rewards, and chooses the thoughts of a beam.
        effort: Is filled with what drawing took.
        monitor: Reads and scores the thoughts, which have no noise.
    """
    effort = Effort() if effort is None else effort
    seeds = seeds_of(len(problems), setting, seed)
    found = {} if file is None else _held(file, problems, seeds, monitor)
    effort.reused = len(found)
    PartialState().wait_for_everyone()  # all have read the file before one writes
    missing = [i for i in range(len(problems)) if i not in found]
    mine = my_share(missing)
    drawn: dict[int, Sampled] = {}
    waiting: list[_Drawn] = []

    def score() -> None:
        if not waiting:
            return
        if judge is not None and setting.search is None and setting.has_noise:
            started = time.perf_counter()
            _judge(judge, reasoner, waiting, options.batch_size)
            effort.judging += time.perf_counter() - started
        rows = _scored(waiting, options.scorer, setting, reasoner.config.answer_format)
        if monitor is not None:
            started = time.perf_counter()
            rows = _monitored(monitor, reasoner, waiting, rows, setting, options)
            effort.monitoring += time.perf_counter() - started
        new = {mine[one.at]: row for one, row in zip(waiting, rows, strict=True)}
        drawn.update(new)
        if file is not None:
            file.add({i: row.to_dict() for i, row in new.items()})
        for one in waiting:
            one.samples.latents = one.samples.latents.new_empty(0)  # many problems' would not fit into memory
        waiting.clear()

    with _progress(setting, len(mine)) as advance:

        def keep(at: int, samples: Samples, rewards: list[float] | None = None) -> None:
            waiting.append(_Drawn(at, problems[mine[at]], samples, rewards))
            if len(waiting) * setting.n >= options.batch_size:
                score()
            advance()

        _draw(reasoner, [problems[i].question for i in mine], setting, options, [seeds[i] for i in mine], judge, keep)
        score()
    found |= dict(gather_object(list(drawn.items())))
    if file is not None:
        file.finish({i: found[i].to_dict() for i in range(len(problems))})
    return [found[i] for i in range(len(problems))]


@dataclass
class _Drawn:
    """Samples of a problem that are not scored yet."""

    at: int
    problem: Problem
    samples: Samples
    rewards: list[float] | None


def _draw(
    reasoner: Reasoner,
    questions: Sequence[str],
    setting: Setting,
    options: EvaluateSection,
    seeds: Sequence[Sequence[int]],
    judge: LatentRewardModel | None,
    on_samples: Callable[..., None],
) -> None:
    """Samples or searches, question by question."""
    if setting.search is None:
        ask = reasoner.generate if setting.thought is None else partial(answer_from_text, reasoner)
        ask(
            questions,
            noise=setting.noise,
            temperature=setting.temperature,
            max_new_tokens=options.max_new_tokens,
            num_latents=setting.num_latents,
            loops=setting.loops,
            seeds=seeds,
            **options.at_once,
            on_samples=on_samples,
        )
        return
    noise = parse_noise(setting.noise)
    assert noise is not None
    sampling = SamplingParams(setting.temperature, options.max_new_tokens)
    first = [row[0] for row in seeds]
    budget = Budget(options.batch_tokens, options.batch_size)
    search_thoughts(reasoner, questions, setting.search, noise, sampling, first, judge, budget, on_samples)


def _judge(judge: LatentRewardModel, reasoner: Reasoner, drawn: Sequence[_Drawn], batch_size: int) -> None:
    """Gives each thought its latent reward, once for all answers that share it."""
    questions = [one.problem.question for one in drawn]
    places = [list({seed: place for place, seed in enumerate(one.samples.seeds)}.values()) for one in drawn]
    latents = [one.samples.latents[rows] for one, rows in zip(drawn, places, strict=True)]
    judged = judge_thoughts(judge, reasoner, questions, latents, batch_size)
    for one, rows, found in zip(drawn, places, judged, strict=True):
        by_seed = {one.samples.seeds[place]: reward for place, reward in zip(rows, found, strict=True)}
        one.rewards = [by_seed[seed] for seed in one.samples.seeds]


def _held(
    file: SampleFile, problems: Sequence[Problem], seeds: list[list[int]], monitor: Monitor | None
) -> dict[int, Sampled]:
    """The samples in a file that are of these questions and seeds, and have the monitor's scores."""
    scores = set(monitor.names) if monitor is not None else set()
    rows = {i: Sampled.from_dict(row) for i, row in file.read().items()}
    return {
        i: row
        for i, row in rows.items()
        if i < len(problems)
        and (row.question, row.seeds) == (problems[i].question, seeds[i])
        and scores <= set(row.monitored or ())
    }


def _scored(drawn: Sequence[_Drawn], scorer: str, setting: Setting, answer_format: str) -> list[Sampled]:
    texts = [one.samples.texts for one in drawn]
    scores = scores_of(scorer, [one.problem for one in drawn], texts, answer_format)
    return [
        Sampled(
            question=one.problem.question,
            texts=one.samples.texts,
            scores=[None if value is None else float(value) for value in score],
            logprobs=[round(value, 5) for value in one.samples.logprobs],
            tokens=[len(ids) for ids in one.samples.token_ids],
            latents=one.samples.num_latents,
            latents_made=_latents_made(one.samples, setting),
            seeds=one.samples.seeds[:1] if setting.search is not None else one.samples.seeds,
            latent_rewards=one.rewards,
            answer_format=answer_format,
        )
        for one, score in zip(drawn, scores, strict=True)
    ]


def _monitored(
    monitor: Monitor,
    reasoner: Reasoner,
    drawn: Sequence[_Drawn],
    rows: Sequence[Sampled],
    setting: Setting,
    options: EvaluateSection,
) -> list[Sampled]:
    """The samples with what is read in their thoughts."""
    problems, counts = [one.problem for one in drawn], [one.samples.num_latents[0] for one in drawn]
    width = options.latents_per_step
    read = monitor.read(reasoner, problems, counts, setting.loops, width, options.batch_size)
    return [replace(row, thought=one.texts, monitored=one.scores) for row, one in zip(rows, read, strict=True)]


def _latents_made(samples: Samples, setting: Setting) -> int:
    if setting.search is not None:
        return sum(setting.search.widths)
    if not setting.has_noise:
        return samples.num_latents[0]  # there is one thought
    return sum(dict(zip(samples.seeds, samples.num_latents, strict=True)).values())


@contextmanager
def _progress(setting: Setting, count: int) -> Iterator[Callable[[], None]]:
    """A bar on the main process, over its own share of the problems."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not PartialState().is_main_process) as progress:
        task = progress.add_task(setting.name, total=count)
        yield lambda: progress.advance(task)
