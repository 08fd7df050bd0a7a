"""The tables of sweeps by hand-worked numbers, and their place in a page."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from sweep_file import cells_of, load_sweep
from sweep_page import around_markers, page_of
from sweep_repository import SWEEP, make_repository, run_sweep, write_sweep
from sweep_table import Group, Run, interval, interval_of, levels_table, render_sweep, results_table

from neuralese.data.errors import UserError
from neuralese.pipeline.evaluate.measure import Measurement


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return make_repository(tmp_path, monkeypatch)


def test_intervals_by_hand():
    # Mean 0.9, s 0.1, t(0.975, 2) = 4.302653: 0.9 ± 4.302653 · 0.1 / √3.
    assert interval([0.8, 0.9, 1.0]) == pytest.approx((0.9 - 0.248414, 0.9 + 0.248414), abs=1e-6)
    # Mean 0.3, s/√2 = 0.1, t(0.975, 1) = 12.706205.
    assert interval([0.2, 0.4]) == pytest.approx((0.3 - 1.2706205, 0.3 + 1.2706205), abs=1e-6)


def test_runs_that_came_out_equal_have_an_interval_over_problems():
    # Wilson of 100 of 100: from 1 / (1 + 1.959964² / 100).
    assert interval_of([measured(seed, 1.0) for seed in range(3)]) == pytest.approx((0.963007, 1.0), abs=1e-6)
    assert interval_of([measured(seed, 1.0 - seed / 1e5) for seed in range(3)])[0] < 0.97  # equal as printed
    assert interval_of([measured(0, 1.0)]) == (0.95, 1.05)  # of one run its own
    assert interval_of([measured(0, 0.8), measured(1, 0.9), measured(2, 1.0)]) == interval([0.8, 0.9, 1.0])


def measured(seed, value, metric="accuracy", k=1, stage="curriculum", temperature=0.0):
    return Measurement(stage, "latent", metric, k, None, temperature, value, (value - 0.05, value + 0.05), 100, seed)


def test_the_table_by_hand():
    def run(seed, value, **options):
        rows = [
            measured(seed, value),
            measured(seed, value / 2, "pass@k", 4, temperature=1.0),
            measured(seed, 0, stage="rl"),
        ]
        return Run(seed, rows, {"curriculum": 10.0 + seed}, **options)

    groups = [
        Group("a", [run(0, 0.8), run(1, 0.9, mark="*"), run(2, 1.0, resumed=True)], ["curriculum"]),
        Group("b", [run(0, 0.2)], ["curriculum"]),
        Group("c", [Run(0), run(1, 0.4)], ["curriculum"]),
        Group("d", [Run(0), Run(1)], ["curriculum"]),
    ]
    assert results_table(groups, [("accuracy", 1), ("pass@k", 4)]) == [
        "| arm | model | samples | problems | greedy | pass@4 | train s |",
        "|---|---|---|---|---|---|---|",
        "| a | latent after curriculum | greedy | 100 | 0.900 [0.652, 1.148] (0.800, 0.900*, 1.000) |  | ≥ 11 |",
        "| a | latent after curriculum | T 1 | 100 |  | 0.450 [0.326, 0.574] (0.400, 0.450*, 0.500) |  |",
        "| b | latent after curriculum | greedy | 100 | 0.200 [0.150, 0.250] one seed |  | 10 |",
        "| b | latent after curriculum | T 1 | 100 |  | 0.100 [0.050, 0.150] one seed |  |",
        "| c | latent after curriculum | greedy | 100 | 0.400 [0.350, 0.450] one seed (missing, 0.400) |  | 11 |",
        "| c | latent after curriculum | T 1 | 100 |  | 0.200 [0.150, 0.250] one seed (missing, 0.200) |  |",
        "| d | missing |  |  |  |  |  |",
    ]


def test_the_table_of_levels_by_hand():
    def report(steps, accuracy, target, promoted):
        return {"steps": steps, "accuracy": accuracy, "target": target, "promoted": promoted}

    reports = {
        "curriculum/level-1": report(550, 0.934, 0.9, True),
        "curriculum/level-2": report(1000, 0.83, 0.9, False),
        "curriculum/level-2-again-1": report(70, 0.9, 0.9, True),
        "pause/level-10": report(70, 0.5, None, False),
    }
    assert levels_table([Group("a", [Run(3, reports=reports)]), Group("b", [Run(3)])]) == [
        "| arm | curriculum | seed | level 1 | level 2 | level 10 |",
        "|---|---|---|---|---|---|",
        "| a | curriculum | 3 | 550 (0.93) | 1000 (0.83) limit, again 70 (0.90) |  |",
        "| a | pause | 3 |  |  | 70 (0.50) |",
    ]
    assert levels_table([Group("b", [Run(3)])]) == []


def test_the_table_of_measurements_during_rl(repository):
    write_sweep(repository, {**SWEEP, "show": {"held_out": ["thought/readable"]}})
    assert run_sweep(repository) == 0
    text = (repository / "docs" / "results" / "demo.md").read_text()
    assert "| arm | RL steps | thought/readable |" in text
    assert "| two steps | 4 | 0.625 (0.500, 0.750) |" in text
    write_sweep(repository, {**SWEEP, "show": {"held_out": ["thought/readible"]}})
    with pytest.raises(UserError, match="no run measured 'thought/readible', did you mean 'thought/readable'"):
        run_sweep(repository)


def test_rendering_replaces_what_is_between_the_markers(repository):
    file = repository / "docs" / "results" / "demo.md"
    before = file.read_text()
    assert run_sweep(repository) == 0
    once = file.read_text()
    # Seeds 0 and 1 measured 0.5 and 0.75: 0.625 ± 12.706205 · 0.125.
    assert "| two steps | latent after curriculum | greedy | 20 | 0.625 [-0.963, 2.213] (0.500, 0.750) | 7 |" in once
    assert "`python scripts/sweep.py docs/results/demo.yaml`, measured at commit unknown; threads a run: 1." in once
    assert run_sweep(repository, render_=True) == 0 and file.read_text() == once
    assert re.sub(r"(demo -->\n).*(<!-- /)", r"\1\2", once, flags=re.DOTALL) == before


@pytest.mark.parametrize("text", ["", "<!-- sweep:demo -->", "<!-- /sweep:demo --> <!-- sweep:demo -->",
                                  "<!-- sweep:demo --> <!-- /sweep:demo --> <!-- sweep:demo -->"])  # fmt: skip
def test_missing_markers_are_named_before_anything_runs(repository, text):
    (repository / "docs" / "results" / "demo.md").write_text(text)
    with pytest.raises(UserError, match="must hold the lines '<!-- sweep:demo -->' and '<!-- /sweep:demo -->'"):
        run_sweep(repository)
    assert not (repository / "outputs").exists() and (repository / "docs" / "results" / "demo.md").read_text() == text


def test_an_arm_without_results_is_missing_whatever_stages_it_is_to_show(repository):
    arms = {**SWEEP["arms"], "later": {"recipe": "recipes/tiny.yaml", "stages": ["pause"]}}
    assert run_sweep(repository) == 0
    write_sweep(repository, {**SWEEP, "arms": arms})
    assert run_sweep(repository, render_=True) == 0
    assert "| later | missing |" in (repository / "docs" / "results" / "demo.md").read_text()


def test_stages_and_metrics_that_no_result_has_are_named(repository):
    assert run_sweep(repository) == 0
    write_sweep(repository, {**SWEEP, "show": {"stages": ["curiculum"]}})
    with pytest.raises(UserError, match="'curiculum' to be shown, did you mean 'curriculum'"):
        run_sweep(repository)
    write_sweep(repository, {**SWEEP, "show": {"metrics": ["pass@16"]}})
    with pytest.raises(UserError, match="no result has 'pass@16'"):
        run_sweep(repository)


def test_run_folders_outside_of_a_sweep_have_the_same_table(tmp_path):
    for seed, value in ((0, 0.2), (1, 0.4)):
        folder = tmp_path / f"quick-seed{seed}"
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps([measured(seed, value).__dict__]))
        (folder / "seconds.json").write_text('{"curriculum": 3.0}')
    command = [sys.executable, "scripts/results_table.py", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == (
        "| latent after curriculum | greedy | 100 | 0.300 [-0.971, 1.571] (0.200, 0.400) | 3 |"
    )


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "results").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_pages_of_results_are_as_rendered(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = load_sweep(file)
    before, after = around_markers(file.stem)
    rendered = render_sweep(file.stem, values, cells_of(file.stem, values))
    assert page_of(file.stem).read_text(encoding="utf-8") == f"{before}\n{rendered}\n{after}"
