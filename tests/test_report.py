"""The report: the figures hold the numbers of results.json, the page what the run left, and a browser shows it."""

import re

import pytest
from runs import tiny

from neuralese.pipeline.evaluate.report_data import read_samplings
from neuralese.pipeline.evaluate.report_figures import pass_curves


@pytest.fixture
def settings(finished):
    return tiny(finished[0].parent).evaluate


def test_pass_curves_are_the_results_and_what_lies_between(finished, settings):
    folder, rows = finished
    samplings = read_samplings(folder, rows, settings)
    assert len(samplings) == 7  # noise is for the two models with latents alone
    for sampling in samplings:
        points = {k: rest for k, *rest in sampling.points}
        assert list(points) == [1, 2, 4]
        for row in sampling.measured:
            if row.metric == "pass@k":
                assert points[row.k] == [row.value, *row.ci95]
    plots = pass_curves(samplings)
    assert len(plots) == 5
    drawn = {
        tuple(line.get_ydata())
        for plot in plots
        for line in plot.figure.axes[0].lines
        if line.get_label() != "guessing"
    }
    assert drawn == {tuple(value for _, value, *_ in sampling.points) for sampling in samplings}


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
