"""A repository with a sweep for the tests, and a stand-in for training."""

import json
import os
import shutil
import subprocess
import sys

import sweep
import typer
import yaml
from conftest import ROOT
from sweep_cells import state_of
from sweep_file import cells_of, load_sweep

SWEEP = {
    "title": "Two arms",
    "seeds": [0, 1],
    "overrides": ["rl=null", "tracking.wandb=false"],
    "arms": {
        "latent": {"recipe": "recipes/tiny.yaml"},
        "short": {"recipe": "recipes/tiny.yaml", "overrides": ["sft.trainer.max_steps=2"], "label": "two steps"},
    },
    "show": {"stages": ["curriculum"]},
}
# Stands in for `neuralese train`. behaviour.json names the cells that fail, stop below their threshold, take so many
# seconds, or wait for the file `go`.
FAKE = """
import json, sys, time
from pathlib import Path
from neuralese.pipeline.recipe.load import load_recipe

recipe = load_recipe(sys.argv[1], [item for item in sys.argv[2:] if item != "--resume"])
behaviour = json.loads(Path("behaviour.json").read_text()).get(recipe.name)
folder = recipe.folder
for stage in ("base", "sft", "curriculum"):
    (folder / stage / "final").mkdir(parents=True, exist_ok=True)
(folder / "recipe.yaml").write_text(recipe.to_yaml())
events = open(folder.with_name(recipe.name + ".events"), "a", buffering=1)
events.write("begin ")
if behaviour == "fail":
    sys.exit("nothing works")
time.sleep(behaviour if isinstance(behaviour, float) else 0)
begun = time.monotonic()
while behaviour == "waits" and not Path("go").exists() and time.monotonic() < begun + 600:
    time.sleep(0.02)
value = 0.5 + recipe.seed / 4
row = dict(stage="curriculum", mode="latent", metric="accuracy", k=1, noise=None, temperature=0.0, value=value,
           ci95=[value - 0.25, value + 0.25], n=20, seed=recipe.seed)
(folder / "results.json").write_text(json.dumps([row]))
(folder / "metrics.jsonl").write_text(
    json.dumps({"stage": "sft", "step": 1, "loss": 1.0}) + "\\n"
    + json.dumps({"stage": "rl", "step": 4, "held_out/accuracy": value, "thought/readable": value, "loss": 1.0}) + "\\n"
)
(folder / "seconds.json").write_text(json.dumps({"sft": 2.0, "curriculum": 7.0}))
events.write("end ")
sys.exit(3 if behaviour == "stop" else 0)
"""


def make_repository(tmp_path, monkeypatch):
    """Makes and enters a repository with one sweep, whose runs are faked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "demo.md").write_text(
        "Before\n\n<!-- sweep:demo -->\n<!-- /sweep:demo -->\n\nAfter\n"
    )
    (tmp_path / "recipes").mkdir()
    shutil.copy(ROOT / "tests" / "tiny.yaml", tmp_path / "recipes" / "tiny.yaml")
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(sweep, "TRAIN", [sys.executable, "fake.py"])
    monkeypatch.setattr(sweep, "POLL", 0.02)
    write_sweep(tmp_path, SWEEP)
    behave(tmp_path)
    return tmp_path


def write_sweep(root, values):
    (root / "docs" / "results" / "demo.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def behave(root, **behaviour):
    (root / "behaviour.json").write_text(json.dumps({f"demo-{name}": what for name, what in behaviour.items()}))


def run_sweep(root, **options):
    try:
        sweep.main(root / "docs" / "results" / "demo.yaml", **options)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


def start_sweep(root, *arguments, program=None):
    """The sweep in a process of its own, with the fake unless `program` is given."""
    code = f"import sys, sweep; sweep.TRAIN = {program or [sys.executable, 'fake.py']!r}; sweep.command()"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, "docs/results/demo.yaml", *arguments],
        cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def cells():
    return {f"{cell.arm}-seed{cell.seed}": cell for cell in cells_of("demo", load_sweep(sweep.PLACE / "demo.yaml"))}


def states():
    return {name: state_of(cell)[0] for name, cell in cells().items()}


def edit_recipe(root, old, new):
    file = root / "recipes" / "tiny.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def timeless_row(root, name):
    """A row as its file has it, and the stages that it says the seconds of; without any seconds."""
    row = json.loads((root / cells()[name].row_file).read_text())
    for measured in row["results"]:
        assert measured.pop("seconds") is not None
    return row, set(row.pop("seconds"))
