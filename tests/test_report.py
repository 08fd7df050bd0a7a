"""The report: the figures hold the numbers of results.json, the page what the run left, and a browser shows it."""

import json
import re
import shutil
from dataclasses import asdict, replace
from xml.etree import ElementTree

import markupsafe
import pytest
from test_cli import neuralese
from wandb_reader import read_run

from neuralese.pipeline.evaluate.measure import Measurement, write_results
from neuralese.pipeline.evaluate.report.data import read_setting_results, selector_k
from neuralese.pipeline.evaluate.report.figures import (
    frontier,
    pass_curves,
    selector_plot,
    thoughts_map,
    trust_plots,
)
from neuralese.pipeline.evaluate.report.page import write_report
from neuralese.pipeline.run.audit import audit_folder
from neuralese.pipeline.scoring.problem_samples import Sampled
from neuralese.pipeline.scoring.sample_files import SampleFile


def test_pass_curves_are_the_results_and_what_lies_between(finished):
    folder, rows = finished
    results = read_setting_results(folder / "samples", rows, 50)
    assert len(results) == 7  # noise is for the two models with latents alone
    for sampling in results:
        points = {k: rest for k, *rest in sampling.points}
        assert list(points) == [1, 2, 4]
        for row in sampling.measured:
            if row.metric == "pass@k":
                assert points[row.k] == [row.value, *row.ci95]
    plots = pass_curves(results)
    assert len(plots) == 5
    drawn = {
        tuple(line.get_ydata())
        for plot in plots
        for line in plot.figure.axes[0].lines
        if line.get_label() != "guessing"
    }
    assert drawn == {tuple(value for _, value, *_ in sampling.points) for sampling in results}


def test_points_bars_and_costs_by_hand(tmp_path):
    """Three problems of which 4, 1 and 0 of 4 samples are right, under noise 0; another setting without samples."""
    one = Sampled("q", ["### 1"] * 4, [], [0.0] * 4, [3, 3, 3, 5], [2, 2, 2, 2], 8, [0] * 4)
    scores = [[1.0] * 4, [0.0, None, 0.0, 1.0], [0.0] * 4]
    file = SampleFile(tmp_path / "samples" / "rl" / "n4-gaussian-0.3-T0.jsonl", {})
    file.finish({place: asdict(replace(one, scores=score)) for place, score in enumerate(scores)})

    def row(metric, k, value, noise="gaussian:0.3", temperature=0.0):
        guess = 0.1 * k if metric == "pass@k" else None
        ends = (value - 0.1, value + 0.1)
        name = "n4-gaussian-0.3-T0" if noise else "n4-T1"
        return Measurement("rl", "latent", metric, k, noise, temperature, value, ends, 3, 0, guess, name)

    rows = [row("pass@k", 1, 5 / 12), row("pass@k", 4, 2 / 3), row("maj@k", 4, 0.5)]
    rows += [row("pass@k", 1, 0.2, None, 1.0), row("pass@k", 4, 0.3, None, 1.0), row("maj@k", 4, 0.25, None, 1.0)]
    beam = replace(row("maj@k", 3, 0.6), search="beam3x2", setting="n3-beam3x2-gaussian-0.3-T0", tokens=9, latents=12)
    rows += [replace(beam, metric="pass@k", value=0.7), beam]
    noisy, plain, found = read_setting_results(tmp_path / "samples", [row("accuracy", 1, 0.9, None), *rows], 50)
    assert (noisy.stage, noisy.model, noisy.setting) == ("rl", "latent after RL", "gaussian:0.3, T 0")
    assert [k for k, *_ in noisy.points] == [1, 2, 4] and [k for k, *_ in plain.points] == [1, 4]
    assert [value for _, value, *_ in noisy.points] == pytest.approx([5 / 12, 0.5, 2 / 3])
    assert (noisy.is_kept, plain.is_kept, found.is_kept) == (True, False, False)
    assert (found.setting, found.is_search) == ("beam3x2, gaussian:0.3, T 0", True)
    assert noisy.guess == [(1, 0.1), (4, 0.4)] and plain.points[1] == (4, 0.3, *row("", 4, 0.3).ci95)
    (plot,) = pass_curves([noisy, plain])
    lines = {line.get_label(): line.get_xydata().tolist() for line in plot.figure.axes[0].lines}
    assert lines["gaussian:0.3, T 0"] == [[k, value] for k, value, *_ in noisy.points]
    assert lines["T 1"] == [[1, 0.2], [4, 0.3]] and lines["guessing"] == [[1, 0.1], [4, 0.4]]
    assert centres(frontier([noisy, plain])) == [pytest.approx((5 / 12, 2 / 3)), (0.2, 0.3)]
    assert selector_k([noisy, plain, found]) == 4
    ways = [replace(row("maj@k", k, 0.5), tokens=3 * k, latents=2 * k) for k in (4, 16, 64)]
    drawn = replace(noisy, measured=ways)
    assert (selector_k([drawn]), selector_k([drawn, found])) == (64, 4)  # the beam cost 21, the samples 20, 80, 320
    assert centres(selector_plot([found], 4)) == [(0.6, 0), (0.7, 0)]
    assert centres(selector_plot([noisy, plain], 4)) == [
        pytest.approx(point) for point in ((5 / 12, 0), (0.5, 0), (2 / 3, 0), (0.2, 1), (0.25, 1), (0.3, 1))
    ]


def test_agreement_as_confidence_by_hand(tmp_path):
    """Of 5 samples 5, 3, 3 and 1 agree; the majorities are right, right, wrong, and right for one in five."""
    texts = [["1"] * 5, ["1", "1", "1", "2", "3"], ["1", "1", "1", "2", "3"], ["1", "2", "3", "4", "5"]]
    scores = [[1.0] * 5, [1.0] * 3 + [0.0] * 2, [0.0] * 3 + [1.0, 0.0], [1.0] + [0.0] * 4]
    file = SampleFile(tmp_path / "samples" / "rl" / "n5-T1.jsonl", {})
    rows = {
        place: asdict(Sampled("q", [f"### {x}" for x in text], score, [0.0] * 5, [3] * 5, [2] * 5, 2, [0] * 5))
        for place, (text, score) in enumerate(zip(texts, scores, strict=True))
    }
    file.finish(rows)
    one = Measurement("rl", "latent", "pass@k", 5, None, 1.0, 1.0, (1.0, 1.0), 4, 0, setting="n5-T1")
    (plain,) = read_setting_results(tmp_path / "samples", [one], 50)
    (found,) = read_setting_results(tmp_path / "samples", [one, replace(one, metric="agreement@k", value=0.6)], 50)
    assert plain.trust == [] and trust_plots([plain]) == []
    assert found.trust == [(0.2, 0.2, 1), (pytest.approx(0.6), 0.5, 2), (1.0, 1.0, 1)]
    (plot,) = trust_plots([found])
    assert plot.figure.axes[0].lines[1].get_ydata().tolist() == [0.2, 0.5, 1.0]
    assert [text.get_text() for text in plot.figure.axes[0].texts] == ["1", "2", "1"]


def test_the_page_of_a_whole_run(finished):
    folder, rows = finished
    page = (folder / "report.html").read_text()
    for heading in ("Learning curves", "pass@k", "pass@1 against pass@k", "Selectors", "Audit", "Timings", "Recipe"):
        assert f"<h2>{heading}</h2>" in page
    images = list((folder / "report").glob("*.png"))
    assert page.count("<svg") == len(images) == 3 + 5 + 1 + 1
    for row in rows:
        assert f"{row.value:.3f}" in page
    # No address is asked for anything: those of namespaces are names.
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)|src=", page)
    assert set(re.findall(r"https?://[^\"\s<]+", page)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_frontier_and_selectors_are_the_results(finished):
    folder, rows = finished
    results = read_setting_results(folder / "samples", rows, 50)
    value = {(row.stage, row.metric, row.k, row.noise, row.temperature): row.value for row in rows}
    assert selector_k(results) == 4
    ways = {(one.stage, one.measured[0].noise, one.measured[0].temperature): one for one in results}
    points = centres(frontier(results))
    assert points == [
        (value[stage, "pass@k", 1, *way], value[stage, "pass@k", 4, *way]) for stage, *way in ways
    ]  # fmt: skip
    assert [x for x, _ in centres(selector_plot(results, 4))] == [
        value[stage, *metric, *way]
        for stage, *way in ways
        for metric in (("pass@k", 1), ("maj@k", 4), ("pass@k", 4))
    ]  # fmt: skip
    for one in results:
        row = one.measured[0]
        # Without noise the samples of a problem share one thought.
        assert row.latents == (0 if row.mode != "latent" else 2 * row.k if row.noise else 2)
        assert row.k <= row.tokens <= 8 * row.k
    assert frontier(results[:1]) is None


def centres(plot):
    """The points of error bars, in the order they were drawn."""
    return [(float(x[0]), float(y[0])) for one in plot.figure.axes[0].containers for x, y in [one[0].get_data()]]


def test_without_samples_the_measured_k_are_shown(finished, tmp_path):
    folder, rows = finished
    results = read_setting_results(tmp_path / "samples", rows, 50)
    assert all([k for k, *_ in one.points] == [1, 4] and not one.is_kept for one in results)
    assert [one.points for one in results] == [
        [point for point in one.points if point[0] != 2] for one in read_setting_results(folder / "samples", rows, 50)
    ]
    # Samples of another evaluation beside the results are not theirs.
    other = [replace(row, setting=row.setting.replace("n4", "n8")) for row in rows]
    assert not any(one.is_kept for one in read_setting_results(folder / "samples", other, 50))
    fewer = [replace(row, n=10) for row in rows]
    assert not any(one.is_kept for one in read_setting_results(folder / "samples", fewer, 50))
    for name in ("results.json", "recipe.yaml"):
        shutil.copy(folder / name, tmp_path)
    page = write_report(tmp_path).read_text()
    assert "Without kept samples only the measured k" in page and page.count("<svg") == 5 + 1 + 1
    assert "Without kept samples" not in (folder / "report.html").read_text()


def test_what_eval_measured_later_has_a_section(finished, tmp_path, capsys):
    copy = tmp_path / "tiny"
    shutil.copytree(finished[0], copy, ignore=shutil.ignore_patterns("wandb"))
    before = (copy / "report.html").read_text()
    keys = ["evaluate.num_samples=8", "evaluate.k=[8]", "evaluate.sampling=[{noise: gaussian:0.5}]"]
    keys.append("evaluate.search=[{kind: tree, noise: gaussian:0.5, at: 1, children: 4}]")
    code, out, _ = neuralese(capsys, "eval", copy, *keys)
    page = (copy / "report.html").read_text()
    assert code == 0 and "Report       " in out and "Evaluated again" not in before
    section = page[page.index("<h2>Evaluated again</h2>") : page.index("<h2>Audit</h2>")]
    assert "tree-4at1, gaussian:0.5" in section and section.count("<svg") == 2 + 1 + 1
    assert page.count("<svg") == before.count("<svg") + 4
    names = {path.name for path in (copy / "report").iterdir()}
    assert {"eval-pass-at-k-rl.png", "pass-at-k-rl.png", "eval-selectors.png"} <= names
    neuralese(capsys, "eval", copy, *keys, "--output", tmp_path / "elsewhere.json")
    assert (copy / "report.html").read_text() == page


def test_a_folder_with_nothing_in_it_has_a_page(tmp_path):
    page = write_report(tmp_path).read_text()
    assert "Nothing was measured yet" in page and "Audit" not in page and "<svg" not in page


def test_equal_runs_have_equal_pages_and_old_images_go(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb", "final"))
    (copy / "report" / "gone.png").write_bytes(b"")
    write_report(copy)
    assert (copy / "report.html").read_text() == (folder / "report.html").read_text()
    images = {path.name: path.read_bytes() for path in (copy / "report").iterdir()}
    assert images == {path.name: path.read_bytes() for path in (folder / "report").iterdir()}


EVIL = '<b>&"$x_1$-->'


def reading(**changed):
    one = {"question": EVIL, "steps": [EVIL, "2"], "answer": EVIL, "lens": [[EVIL, "a"], ["思", "b"], ["", "c"]]}
    return one | {"probabilities": [0.9, 0.2, 0.1], "hits": [True, False, None], "decoded": None} | changed


def test_what_comes_from_data_is_escaped(tmp_path):
    share = {"value": 0.5, "ci95": [0.4, 0.6], "n": 10}
    effect = {"name": EVIL, "accuracy": share, "loss": share, "unchanged": share, "donor": None}
    audit = {
        "checkpoint": EVIL, "problems": 10, "accuracy": share, "verdict": EVIL, "effects": [effect],
        "gates": [{"name": EVIL, "passed": None, "because": EVIL}],
        "tables": [{"title": EVIL, "headings": [EVIL], "rows": [[EVIL]], "caption": EVIL}],
        "readings": [reading(), reading(decoded=[EVIL], lens=[[EVIL, "a"]], probabilities=[0.5], hits=[False])],
    }  # fmt: skip
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    row = Measurement(EVIL, "latent", "pass@k", 1, None, 1.0, 0.5, (0.4, 0.6), 10, 0)
    rows = [row, replace(row, k=4), replace(row, metric="accuracy"), replace(row, metric="maj@k", k=4)]
    write_results(tmp_path / "results.json", rows)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"stage": EVIL, "step": 1, "loss": 2.0}) + "\n")
    page = write_report(tmp_path).read_text()
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(svgs) == 4
    for svg in svgs:
        ElementTree.fromstring(svg)
    cells = [text.get_text() for text in thoughts_map(audit["readings"]).figure.axes[0].texts]
    assert cells == [f"{EVIL[:8]}…", "思", "␣", f"{EVIL[:8]}…"]


def test_an_audit_goes_into_the_report_of_its_run(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb"))
    audit_folder(copy, ["evaluate.bootstrap=20"], None, 12, None, tmp_path / "elsewhere.json", None)
    assert "Not audited" in (copy / "report.html").read_text()
    audit_folder(copy, ["evaluate.bootstrap=20"], None, 12, None, None, None)
    found, page = json.loads((copy / "audit.json").read_text()), (copy / "report.html").read_text()
    assert f"<strong>{markupsafe.escape(found['verdict'])}</strong>" in page and "Not audited" not in page
    assert [markupsafe.escape(one["question"]) in page for one in found["readings"]] == [True] * 10
    assert all(markupsafe.escape(gate["because"]) in page for gate in found["gates"])
    titles = [grid["title"] for grid in found["tables"]]
    assert len(titles) == 3 and all(f"<h3>{markupsafe.escape(title)}</h3>" in page for title in titles)
    assert all(markupsafe.escape(cell) in page for grid in found["tables"] for row in grid["rows"] for cell in row)
    assert (copy / "report" / "thoughts.png").is_file()
    (logged,) = (read_run(path) for path in copy.glob("wandb/offline-run-*/*.wandb"))
    keys = {key for row in logged["rows"] for key in row}
    assert logged["job_type"] == "audit" and "report/thoughts._type" in keys
    assert {"audit/gates.nrows", "audit/effects.nrows"} <= keys
    shown = thoughts_map(found["readings"]).figure.axes[0].images[0].get_array()
    assert shown.tolist() == [one["probabilities"] for one in found["readings"]]
