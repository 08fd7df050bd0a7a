"""Selectors against enumeration, and where they are asked for."""

import itertools
import json
import math

import numpy as np
import pytest
from runs import tiny

from neuralese.pipeline.evaluate.table import results_columns
from neuralese.pipeline.recipe.load import RecipeError
from neuralese.pipeline.recipe.schema import Reward
from neuralese.pipeline.run.train import run
from neuralese.pipeline.scoring import selectors
from neuralese.pipeline.scoring.problem_samples import Sampled
from neuralese.pipeline.scoring.recipe_rewards import recipe_reward
from neuralese.pipeline.scoring.selectors import METRICS, fewest, select, selection_rewards
from neuralese.pipeline.statistics.at_k import best_at_k, vote_at_k
from neuralese.rewards.errors import RewardError


def sampled(answers, right, logprobs=None, latent_rewards=None):
    n = len(answers)
    return Sampled(
        question="?", texts=[f"### {answer}" for answer in answers], scores=[float(ok) for ok in right],
        logprobs=logprobs or [0.0] * n, tokens=[2] * n, latents=[1] * n, latents_made=n, seeds=list(range(n)),
        latent_rewards=latent_rewards,
    )  # fmt: skip


def subsets(n, k):
    return [list(chosen) for chosen in itertools.combinations(range(n), k)]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_best_of_k_equals_enumeration(k):
    values = np.array([[3.0, 1.0, 2.0, 3.0, 1.0], [1.0] * 5, [5.0, 4.0, 3.0, 2.0, 1.0]])
    right = np.array([[1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1]], dtype=bool)
    expected = []
    for row, ok in zip(values, right, strict=True):
        chances = [ok[chosen][row[chosen] == row[chosen].max()].mean() for chosen in subsets(5, k)]
        expected.append(np.mean(chances))
    assert best_at_k(values, right, k) == pytest.approx(expected)


def test_the_best_of_many_is_finite():
    values = np.arange(1024.0)[None]
    right = (np.arange(1024) == 1023)[None]
    assert best_at_k(values, right, 512) == pytest.approx([0.5])


def test_weighted_votes_by_hand():
    answers = [["a", "a", "b"], ["a", "a", "b"], ["a", "b", "c"]]
    right = np.array([[answer == "b" for answer in row] for row in answers])
    weights = np.array([[1.0, 1.0, 3.0], [1.0, 1.0, 1.5], [2.0, 2.0, 0.0]])
    assert vote_at_k(answers, right, 3, weights) == pytest.approx([1.0, 0.0, 0.5])
    # No vote counts anything: any answer that was given may be chosen, none that others gave.
    assert vote_at_k(answers, right, 3, np.zeros((3, 3))) == pytest.approx([1 / 2, 1 / 2, 1 / 3])


def test_each_selector_chooses_what_it_says():
    rows = [sampled("aab", [0, 0, 1], [-3.0, -2.0, -1.0]), sampled("abc", [1, 0, 0], [-1.0, -2.0, -0.5])]
    rewards = np.array([[0.0, 0.1, 1.0], [0.5, 0.2, 0.1]])
    assert select("majority", rows, None, 3) == pytest.approx([0, 1 / 3])
    assert select("likelihood", rows, None, 3) == pytest.approx([1, 0])
    assert select("reward", rows, rewards, 3) == pytest.approx([1, 1])
    assert select("weighted", rows, rewards, 3) == pytest.approx([1, 1])
    assert select("weighted", rows, rewards + 5, 3) == pytest.approx([1, 1])  # a reward's zero means nothing


def test_rewards_see_columns_and_what_has_none_comes_last(problems, tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text(
        "def mine(prompts, completions, answer, **columns):\n"
        "    return [None if c.endswith('x') else float(c == f'### {a}') - 2 for c, a in zip(completions, answer)]\n"
    )
    rows = [sampled([problem.answer, "0", "x"], [1, 0, 0]) for problem in problems[:2]]
    found = selection_rewards(recipe_reward(Reward(function=f"{reward}:mine")), problems[:2], rows)
    assert found[:, 0].tolist() == [-1, -1] and found[:, 2].tolist() == [-2, -2]


def test_a_reward_that_fails_on_another_process_fails_here(monkeypatch, problems):
    """It would wait for the rewards of a process that has gone."""
    others = [[RewardError("the judge is down")], []]
    monkeypatch.setattr(selectors, "gather_object", lambda mine: [*mine, *others.pop(0)])
    reward = recipe_reward(Reward(function="numeric_match"))
    with pytest.raises(RewardError, match="the judge is down"):
        selection_rewards(reward, problems[:1], [sampled([1, 2], [True, False])])


def test_a_recipe_chooses_selectors(finished, tmp_path):
    overrides = ["evaluate.selectors=[majority, likelihood, reward, weighted]",
                 "evaluate.selection_reward={function: exact_match}", "tracking.wandb=false", "rl=null"]  # fmt: skip
    rows = run(tiny(tmp_path, *overrides))
    assert results_columns(rows) == [
        ("accuracy", 1), ("pass@k", 1), ("pass@k", 4), ("maj@k", 4), ("likelihood@k", 4), ("reward@k", 4),
        ("weighted@k", 4),
    ]  # fmt: skip
    # Chosen by whether it is right, the best of k is right where any of them is: an oracle.
    for row in rows:
        if row.metric == "reward@k":
            (oracle,) = (
                other.value for other in rows
                if (other.stage, other.metric, other.k, other.noise) == (row.stage, "pass@k", 4, row.noise)
            )  # fmt: skip
            assert row.value == pytest.approx(oracle)
    files = list((tmp_path / "tiny" / "samples").rglob("*.jsonl"))
    assert len(files) == 5 and all(len(file.read_text().splitlines()) == 21 for file in files)
    assert json.loads(files[0].read_text().splitlines()[0])["scorer"] == "exact_match"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.selectors=[reward, weighted]", "selectors reward, weighted choose by a reward"),
        ("evaluate.selection_reward={function: exact_match}", "selection_reward is used by the selectors reward and"),
        ("evaluate.selectors=[majorty]", "evaluate.selectors.0"),
    ],
)
def test_selectors_that_cannot_choose_are_refused(override, message):
    with pytest.raises(RecipeError, match=message):
        tiny("outputs", override)


def test_votes_weighed_by_the_odds_of_their_thoughts():
    # exp: 1, 1, 4, 2 -> answer 1 has 2, answer 2 has 4, answer 3 has 2; scores may be of any size.
    scores = [math.log(x) + 900 for x in (1.0, 1.0, 4.0, 2.0)]
    one = sampled(["1", "1", "2", "3"], [0, 0, 1, 0], latent_rewards=scores)
    assert select("latent_weighted", [one], None, 4).tolist() == [1.0]
    assert select("majority", [one], None, 4).tolist() == [0.0]
    # Odds count the same among some of the samples, however small they are beside those of the others.
    near, far = (sampled(["1", "2", "3"], [0, 1, 0], latent_rewards=[0.0, low, low - 10]) for low in (-2.0, -20.0))
    assert select("latent_weighted", [near], None, 2) == select("latent_weighted", [far], None, 2) > 0
    flat = sampled(["1", "1", "2", "3"], [0, 0, 1, 0], latent_rewards=[7.0] * 4)
    assert select("latent_weighted", [flat], None, 4).tolist() == [0.0]


def test_selectors_need_samples_to_choose_among():
    assert {name: fewest(name) for name in METRICS} == {name: 3 if name == "majority" else 2 for name in METRICS}
    assert fewest("agreement") == 3
