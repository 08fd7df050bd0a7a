"""The report in headless Chromium: it opens, says nothing on the console, has its plots, and fits a phone."""

import re
import shutil
import subprocess

import pytest
from conftest import ROOT

from neuralese.pipeline.run.audit import audit_folder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The page itself has no script: this one goes into a copy, and writes down what the browser made of it.
MEASURE = """<script>
const seen = [...document.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().height > 100);
const root = document.documentElement;
document.body.dataset.found = [seen.length, root.scrollWidth - root.clientWidth, getComputedStyle(root).colorScheme];
console.log("the console is heard");
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_it(finished, tmp_path, width):
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("wandb"))
    shutil.copy(folder / "results.json", folder / "eval.json")
    audit_folder(folder, ["evaluate.bootstrap=20"], None, 12, None, None, None)
    page = (folder / "report.html").read_text()
    assert "Evaluated again" in page and "Thoughts in words" in page
    asked, copy = page.count("<svg"), tmp_path / "report.html"
    copy.write_text(page.replace("</body>", MEASURE))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--enable-logging=stderr", f"--window-size={width},2000", "--dump-dom", copy.as_uri()]
    done = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=120, cwd=ROOT)
    found = re.search(r'data-found="(\d+),(-?\d+),light dark"', done.stdout)
    assert found is not None, done.stderr
    assert int(found[1]) == asked > 15  # every plot takes up room
    assert int(found[2]) <= 0  # nothing is wider than the page
    said = re.findall(r"CONSOLE.*", done.stderr)
    assert len(said) == 1 and "the console is heard" in said[0]
