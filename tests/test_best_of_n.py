"""scripts/best_of_n.py: searches within the budget, and tables by hand."""

import json
from dataclasses import replace

import pytest
import yaml
from best_of_n import Plan, names, render, searches
from conftest import ROOT

from neuralese.pipeline.evaluate.measure import Measurement, write_results
from neuralese.pipeline.recipe.schema import SearchSection
from neuralese.pipeline.scoring.sampling_setting import Search

FILE = ROOT / "docs" / "results" / "best_of_n" / "plan.yaml"


@pytest.fixture
def plan():
    return Plan.model_validate(yaml.safe_load(FILE.read_text()))


@pytest.mark.parametrize("num_latents", [3, 4, 8])
@pytest.mark.parametrize("tokens", [3.0, 6.9])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_searches_spend_the_budget_and_no_more(plan, num_latents, tokens, place):
    budget = plan.budget * (num_latents + tokens)
    for keys in searches(plan, num_latents, tokens, place):
        section = SearchSection.model_validate(keys)
        if section.at == "each":
            continue
        if section.kind == "beam":
            search = Search.beam(section.width, section.children, num_latents)
            more = Search.beam(section.width, section.children + 1, num_latents)
        else:
            search = Search.tree(section.children, section.at, num_latents)
            more = Search.tree(section.children + 1, section.at, num_latents)
        costs = [sum(one.widths) + one.thoughts * tokens for one in (search, more)]
        assert costs[0] <= budget < costs[1]


def test_a_budget_must_be_measured(plan):
    with pytest.raises(ValueError, match="budget=8 must be one of k="):
        Plan.model_validate({**plan.model_dump(), "budget": 8})


def row(metric, k, value, noise="gaussian:0.3", **changed):
    one = Measurement("curriculum", "latent", metric, k, noise, 0.0, value, (0.0, 1.0), 1000, 0, latents=80, tokens=48)
    return replace(one, **changed)


def test_names_say_where_a_tree_branches():
    tree = row("pass@k", 16, 0.5, search="tree-16at1")
    assert names(tree, 1) == [
        "tree at the most sensitive latent, gaussian:0.3",
        "tree at the first latent, gaussian:0.3",
    ]
    assert names(tree, 2) == ["tree at the first latent, gaussian:0.3"]
    assert names(replace(tree, search="tree-2each"), 2) == ["tree at each latent, gaussian:0.3"]
    assert names(replace(tree, search="beam8x2"), 2) == ["beam of 8, gaussian:0.3"]


def test_gains_are_paired_by_seed(plan, tmp_path):
    """Majority 0.5, 0.6, 0.7 and a beam's 0.6, 0.7, 0.8: the gain is 0.1 whatever the seed."""
    for seed in plan.seeds:
        base = 0.5 + 0.1 * seed
        rows = [
            row("accuracy", 1, base, None, setting="greedy"), row("pass@k", 16, 0.9), row("maj@k", 16, base),
            row("latent_weighted@k", 16, base + 0.01 * seed), row("maj@k", 8, base + 0.1, search="beam8x2"),
            row("pass@k", 8, 0.9, search="beam8x2"),
        ]  # fmt: skip
        file = tmp_path / f"graph-curriculum-seed{seed}.json"
        write_results(file, rows)
        file.with_suffix(".reward.json").write_text(json.dumps({"commit": "abc", "sensitive": 2}))
    text = render(plan, tmp_path)
    assert "| greedy, one answer | +0.000 [+0.000, +0.000] |" in text
    assert "| beam of 8, majority | +0.100 [+0.100, +0.100] |" in text
    assert "| samples, latent weighted | +0.010 [-0.015, +0.035] |" in text  # 0, 0.01, 0.02: t(0.975, 2) = 4.303
    assert "**graph, before RL** (3 seeds, 1000 problems, commit abc). Greedy: 0.600 [0.352, 0.848]." in text
    assert "| beam of 8, gaussian:0.3 | 8 | 0.700 [0.452, 0.948] |" in text and "quickstart" not in text
