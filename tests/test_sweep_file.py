"""Bad sweep files and options: one paragraph that says what to change, before anything runs."""

import re

import pytest
import sweep
from conftest import ROOT
from sweep_cells import read_row
from sweep_file import cells_of, load_sweep
from sweep_repository import SWEEP, make_repository, run_sweep, start_sweep, write_sweep
from waiting import LONG

from neuralese.data.errors import UserError


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return make_repository(tmp_path, monkeypatch)


def without(key):
    return {name: value for name, value in SWEEP.items() if name != key}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**SWEEP, "seeds": []}, "seeds: List should have at least 1 item"),
        ({**SWEEP, "seeds": [0, 0]}, "a seed stands twice in [0, 0]"),
        ({**SWEEP, "override": []}, "unknown key 'override', did you mean 'overrides'?"),
        ({**SWEEP, "arms": {"a": {"recpie": "x"}}}, "unknown key 'arms.a.recpie', did you mean 'recipe'?"),
        ({**SWEEP, "show": {"metric": []}}, "unknown key 'show.metric', did you mean 'metrics'?"),
        ({**SWEEP, "show": {"metrics": ["pass"]}}, "'pass' is no metric; write accuracy, pass@16 or maj@16"),
        (without("title"), "key 'title' is missing"),
        ([1], "sweep file: "),
        ({**SWEEP, "arms": {"a": {"recipe": "recipes/tinny.yaml"}}}, "Arm 'a': No recipe at recipes/tinny.yaml"),
        ({**SWEEP, "arms": {"a": {"recipe": "recipes/tiny.yaml", "overrides": ["seed=3"]}}}, "is set by the sweep"),
        ({**SWEEP, "arms": {"a": {"recipe": "recipes/tiny.yaml", "overrides": ["sfd=3"]}}}, "did you mean 'sft'"),
        ({**SWEEP, "arms": {n: {"recipe": "recipes/tiny.yaml", "label": "x"} for n in "ab"}}, "are labelled 'x'"),
    ],
)  # fmt: skip
def test_a_bad_sweep_file_is_told_what_is_wrong(repository, values, message):
    write_sweep(repository, values)
    with pytest.raises(UserError) as error:
        run_sweep(repository)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (repository / "outputs").exists()


def test_a_row_is_compared_with_what_auto_stands_for(repository):
    write_sweep(repository, {**SWEEP, "overrides": ["model.dtype=auto", "model.config.dtype=bfloat16"]})
    cells = cells_of("demo", load_sweep(repository / "docs" / "results" / "demo.yaml"))
    assert {cell.recipe.model.dtype for cell in cells} == {"bfloat16"}


def test_two_arms_of_one_name_are_refused(repository):
    file = repository / "docs" / "results" / "demo.yaml"
    file.write_text("title: t\nseeds: [0]\narms:\n  a: {recipe: recipes/tiny.yaml}\n  a: {recipe: recipes/tiny.yaml}\n")
    with pytest.raises(UserError, match="Line 4: the key 'a' stands twice"):
        run_sweep(repository)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["latnt"]}, "no arm 'latnt', did you mean 'latent'?"),
        *(({"shard": shard}, "is not of the form I/N") for shard in ("0/2", "3/2", "2", "a/b", "1/0")),
    ],
)
def test_bad_options_are_refused(repository, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        run_sweep(repository, **options)


def test_the_command_line_complains_in_one_paragraph(repository):
    for arguments, message in (["--only", "x"], "no arm 'x'"), (["--shard", "5"], "of the form I/N"):
        process = start_sweep(repository, *arguments)
        output, _ = process.communicate(timeout=LONG)
        assert process.returncode == 2 and message in output and len(output.splitlines()) == 1
    process = start_sweep(repository, "--list")
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0 and [line.split() for line in output.splitlines()] == [
        [arm, "seed", seed, "missing"] for arm in ("latent", "short") for seed in "01"
    ]
    with pytest.raises(UserError, match="No sweep file at .*dmo.yaml, did you mean 'demo.yaml'"):
        sweep.main(repository / "docs" / "results" / "dmo.yaml")
    with pytest.raises(UserError, match="A sweep file is docs/results/<name>.yaml"):
        sweep.main(repository / "recipes" / "tiny.yaml")


def test_every_sweep_of_the_repository_can_be_run_and_rendered(monkeypatch):
    monkeypatch.chdir(ROOT)
    for file in sweep.PLACE.glob("*.yaml"):
        for cell in cells_of(file.stem, load_sweep(file)):
            read_row(cell)
        sweep.around_markers(file.stem)
