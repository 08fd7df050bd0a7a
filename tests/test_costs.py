"""What samples cost: latents that are shared, given up or none, and the time of judging."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from neuralese.pipeline.evaluate import draw_samples as drawing
from neuralese.pipeline.evaluate.draw_samples import Effort, draw_samples
from neuralese.pipeline.evaluate.measure import _latents, measure
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.scoring.latent_reward import judge_thoughts
from neuralese.pipeline.scoring.problem_samples import Sampled
from neuralese.pipeline.scoring.sampling_setting import Search, Setting

OPTIONS = EvaluateSection(max_new_tokens=4, batch_size=24)
TREE = Search.tree(4, 2, 3)


def test_latents_made_count_shared_thoughts_once(reasoner, problems):
    counts = {
        Setting(6, "gaussian:0.5"): 18,
        Setting(6, "gaussian:0.5", 1.0, answers_per_thought=3): 6,
        Setting(6, None, 1.0): 3,
        Setting(4, "gaussian:0.5", search=TREE): 9,
        Setting(6, "gaussian:0.5", num_latents=2): 12,
        Setting(num_latents=0): 0,
    }
    for setting, made in counts.items():
        rows = draw_samples(reasoner, problems[:2], setting, OPTIONS, 0)
        assert [row.latents_made for row in rows] == [made] * 2, setting
        assert [len(row.texts) for row in rows] == [setting.n] * 2
        thoughts = 1 if setting.search else setting.n
        assert [len(row.seeds) for row in rows] == [thoughts] * 2


def test_latents_of_some_samples_by_enumeration():
    """Of 6 samples with thoughts a a a b b b any k are taken; a thought has 3 latents."""
    setting = Setting(6, "gaussian:0.5", 1.0, answers_per_thought=3)
    row = Sampled("q", ["x"] * 6, [1.0] * 6, [0.0] * 6, [1] * 6, [3] * 6, 6, [1, 1, 1, 2, 2, 2])
    for k in range(1, 7):
        chosen = list(itertools.combinations("aaabbb", k))
        assert _latents([row], setting, k) == pytest.approx(3 * np.mean([len(set(some)) for some in chosen]))
    apart = Setting(6, "gaussian:0.5")
    assert [_latents([replace(row, latents_made=18)], apart, k) for k in (1, 4)] == pytest.approx([3, 12])
    assert _latents([replace(row, latents_made=3)], Setting(6, None, 1.0), 2) == 3


def test_thoughts_are_judged_once_each_and_apart_from_the_drawing(reasoner, problems, judge, monkeypatch):
    original, judged = judge_thoughts, []

    def counting(model, reasoner, questions, latents, batch_size):
        judged.append([len(row) for row in latents])
        return original(model, reasoner, questions, latents, batch_size)

    monkeypatch.setattr("neuralese.pipeline.evaluate.draw_samples.judge_thoughts", counting)
    effort, shared = Effort(), Setting(6, "gaussian:0.5", 1.0, answers_per_thought=3)
    rows = draw_samples(reasoner, problems[:4], shared, OPTIONS, 0, judge=judge, effort=effort)
    assert judged == [[2, 2, 2, 2]] and effort.judging > 0
    for row in rows:
        assert row.latent_rewards[:3] == row.latent_rewards[:1] * 3 != row.latent_rewards[3:]
        drawn = reasoner.generate([row.question], noise="gaussian:0.5", max_new_tokens=1, seeds=[row.seeds])
        (scores,) = original(judge, reasoner, [row.question], [drawn[0].latents])
        assert row.latent_rewards == pytest.approx(scores, abs=1e-4)
    for setting in (Setting(), Setting(6, None, 1.0), Setting(4, "gaussian:0.5", search=TREE)):
        draw_samples(reasoner, problems[:4], setting, OPTIONS, 0, judge=judge)
    assert len(judged) == 1  # one thought has nothing to be held against, a search scores its own


def test_only_who_needs_the_judge_pays_for_it(reasoner, problems, judge, tmp_path, monkeypatch):
    """Judging that takes 50 seconds is in the seconds of selectors by thoughts, and in no others."""
    judge.save_pretrained(tmp_path)
    now, original = [0.0], drawing._judge

    def slow(*arguments):
        now[0] += 50
        original(*arguments)

    monkeypatch.setattr(drawing, "_judge", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    options = EvaluateSection.model_validate(
        {
            "num_samples": 4, "k": [4], "sampling": [{"noise": "gaussian:0.5"}], "max_new_tokens": 4, "batch_size": 256,
            "selectors": ["majority", "latent_reward", "latent_weighted"], "latent_reward": str(tmp_path),
        }
    )  # fmt: skip
    rows = measure(reasoner, problems[:10], options, "rl", 0)
    spent = {row.metric: row.seconds for row in rows}
    assert spent == {"accuracy": 0, "pass@k": 0, "maj@k": 0, "latent_reward@k": 5, "latent_weighted@k": 5}


def test_pause_tokens_are_no_latents(make, problems):
    options = EvaluateSection(num_samples=4, k=[4], max_new_tokens=4)
    for source in ("pause", "pause_multi"):
        rows = measure(make(num_latents=3, thought_source=source), problems[:4], options, "pause", 0)
        assert {row.latents for row in rows} == {0.0}
    rows = measure(make(num_latents=3), problems[:4], options, "rl", 0)
    assert {row.latents for row in rows} == {3.0}
