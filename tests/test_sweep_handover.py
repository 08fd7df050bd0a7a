"""Arms that begin with the finished stages of another one."""

import json
import shutil
import sys

import pytest
from sweep_cells import read_row
from sweep_file import SweepError
from sweep_handover import common_stages, take_over
from sweep_repository import (
    SWEEP,
    cells,
    edit_recipe,
    make_repository,
    run_sweep,
    start_sweep,
    timeless_row,
    write_sweep,
)
from waiting import LONG

from neuralese.pipeline.recipe.load import load_recipe

TINY = {"recipe": "recipes/tiny.yaml"}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return make_repository(tmp_path, monkeypatch)


def with_arms(root, seeds=(0,), **arms):
    write_sweep(root, {**SWEEP, "seeds": list(seeds), "overrides": ["tracking.wandb=false"], "arms": arms})


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        (["rl.noise=null"], ["base", "sft", "curriculum"]),
        (["evaluate.num_samples=9"], ["base", "sft", "curriculum", "rl"]),
        (["curriculum.promote_at=0.5"], ["base", "sft"]),
        (["evaluate.scorer=numeric"], ["base", "sft"]),  # it judges the promotions
        (["sft.trainer.max_steps=2"], ["base"]),
        (["rl.eval_every=2", "rl.eval_problems=20"], ["base"]),  # more problems are held out
        (["data.train.size=99"], []),
    ],
)
def test_stages_are_taken_over_as_far_as_both_recipes_train_them_alike(repository, overrides, stages):
    with_arms(repository, start=TINY, rl={**TINY, "overrides": overrides, "after": "start"})
    cell = cells()["rl-seed0"]
    assert common_stages(cell, cell.after) == stages


def test_an_arm_waits_for_the_one_it_comes_after(repository):
    later = {**TINY, "overrides": ["rl.noise=null", "curriculum.promote_at=0.5"], "after": "start"}
    with_arms(repository, seeds=[0, 1], start=TINY, rl=later)
    assert run_sweep(repository, jobs=2) == 0
    folder = repository / "outputs" / "sweeps"
    begun = [(folder / f"demo-{arm}-seed0.events").stat().st_mtime_ns for arm in ("start", "rl")]
    assert begun[0] < begun[1]
    starts = json.loads((folder / "demo-rl-seed0.json").read_text())
    assert starts["taken_over"] == starts["commits"] == ["unknown"] and not read_row(cells()["rl-seed0"]).resumed


def test_results_are_taken_over_where_both_are_measured_alike(repository):
    others = {**TINY, "overrides": ["rl.noise=null", "evaluate.num_samples=9"], "after": "start"}
    with_arms(repository, start=TINY, same={**TINY, "overrides": ["rl.noise=null"], "after": "start"}, other=others)
    assert run_sweep(repository, only=["start"]) == 0
    for arm, is_there in ("same", True), ("other", False):
        cell = cells()[f"{arm}-seed0"]
        assert take_over(cell) == ["unknown"]
        assert (cell.recipe.folder / "results.json").is_file() == is_there
        assert load_recipe(cell.recipe.folder / "recipe.yaml") == cell.recipe


def test_nothing_is_taken_from_a_run_of_another_recipe(repository, capsys):
    with_arms(repository, start=TINY, rl={**TINY, "overrides": ["rl.noise=null"], "after": "start"})
    assert run_sweep(repository, only=["start"]) == 0
    edit_recipe(repository, "sft:\n  trainer: {max_steps: 4,", "sft:\n  trainer: {max_steps: 3,")
    cell = cells()["rl-seed0"]
    assert take_over(cell) == [] and not cell.recipe.folder.exists()
    assert "begins with no stage of demo-start-seed0 (its recipe has changed since: sft)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rl.noise=null"], 'base, sft, curriculum of demo-start-seed0 (rl.noise: "gaussian:0.3" then, null now)'),
        (["rl.eval_every=2", "rl.eval_problems=20"], "base of demo-start-seed0 (held-out problems, which training"),
        (["data.train.size=99"], "no stage of demo-start-seed0 (data.train.size: "),
        (["evaluate.num_samples=9"], "base, sft, curriculum of demo-start-seed0\n"),
    ],
)
def test_it_is_said_which_stages_are_taken_over_and_what_ends_them(repository, capsys, overrides, said):
    with_arms(repository, start=TINY, rl={**TINY, "overrides": overrides, "after": "start"})
    assert run_sweep(repository, only=["start"]) == 0
    take_over(cells()["rl-seed0"])
    assert f"demo-rl-seed0 begins with {said}" in capsys.readouterr().out


def test_it_is_said_where_the_other_run_is_gone(repository, capsys):
    with_arms(repository, start=TINY, rl={**TINY, "overrides": ["rl.noise=null"], "after": "start"})
    assert run_sweep(repository, only=["start"]) == 0
    shutil.rmtree("outputs/sweeps/demo-start-seed0")
    assert take_over(cells()["rl-seed0"]) == []
    assert "no stage of demo-start-seed0 (outputs/sweeps/demo-start-seed0 is not here" in capsys.readouterr().out


def test_an_arm_that_is_not_above_is_refused(repository):
    with_arms(repository, rl={**TINY, "after": "start"}, start=TINY)
    with pytest.raises(SweepError, match="Arm 'rl': after='start' is no arm above it with seed 0"):
        run_sweep(repository)


def test_a_run_that_took_stages_over_ends_as_one_that_trained_them(repository, tmp_path_factory):
    """With nothing faked: RL after another arm's curriculum, and all in one."""
    train = [sys.executable, "-m", "neuralese.pipeline.cli", "train"]
    start = {**TINY, "overrides": ["rl=null"]}
    with_arms(repository, start=start, rl={**TINY, "after": "start"})
    other = shutil.copytree(repository, tmp_path_factory.mktemp("alone") / "repository")
    for root, arguments in (repository, []), (other, ["--only", "rl"]):
        output, _ = start_sweep(root, *arguments, "--shard", "1/1", program=train).communicate(timeout=LONG)
        assert (root / cells()["rl-seed0"].row_file).is_file(), output
    row = json.loads((repository / cells()["rl-seed0"].row_file).read_text())
    logged = (repository / "outputs" / "sweeps" / "demo-rl-seed0" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in logged} == {"rl", "evaluate"}  # nothing was trained again
    source = json.loads((repository / cells()["start-seed0"].row_file).read_text())
    assert {name: row["seconds"][name] for name in ("sft", "curriculum")} == {
        name: source["seconds"][name] for name in ("sft", "curriculum")
    }
    rows, timed = zip(*(timeless_row(root, "rl-seed0") for root in (repository, other)), strict=True)
    assert list(timed) == [{"sft", "curriculum", "rl", "evaluate"}] * 2
    assert rows[0] == rows[1] and {row["stage"] for row in rows[0]["results"]} == {"sft", "curriculum", "rl"}
