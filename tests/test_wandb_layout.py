"""The view of a W&B project: its panels show metrics that runs log and that docs/metrics.md explains."""

import json
import re

import pytest
import wandb_workspaces.workspaces as ws
from conftest import ROOT

from neuralese.pipeline.cli.app import main
from neuralese.pipeline.tracking import wandb_layout

# Of TRL and Transformers, whose documentation explains them, and of the curriculum's own loss.
THEIRS = {
    "loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy", "kl", "completions/mean_length",
    "completions/clipped_ratio", "accuracy", "curriculum_level", "token_loss", "latent_loss", "stop_loss",
}  # fmt: skip
METRICS = [name for plots in wandb_layout.SECTIONS.values() for metrics in plots.values() for name in metrics]


def ends(code, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["wandb-layout", *arguments])
    assert (ended.value.code or 0) == code


def test_all_panels_show_metrics_that_are_explained():
    explained = set(re.findall(r"`([a-z_/0-9@]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    assert set(METRICS) <= explained | THEIRS


def test_what_others_explain_is_logged(finished):
    folder, _ = finished
    logged = {key for line in (folder / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert set(METRICS) & THEIRS <= logged | {"kl", "stop_loss"}  # with a reference model, with a stop head


def test_the_view_has_a_section_for_each_stage_and_groups_runs_by_pipeline():
    view = wandb_layout.workspace("me", "mine")
    assert (view.entity, view.project, view.name) == ("me", "mine", "neuralese")
    assert [section.name for section in view.sections[:3]] == ["How good", "Tables", "Supervised"]
    assert {panel.table_name for panel in view.sections[1].panels} == set(wandb_layout.TABLES)
    plots = [panel for section in view.sections if section.name != "Tables" for panel in section.panels]
    axes = {panel.title: panel.x for panel in plots}
    assert list(axes) == [title for titles in wandb_layout.SECTIONS.values() for title in titles]
    assert {title for title, x in axes.items() if x != "global_step"} == {
        title for title, x in axes.items() if x == "rollouts"
    } == set(wandb_layout.AXES)  # fmt: skip
    assert [str(group.name) for group in view.runset_settings.groupby] == ["Group", "JobType"]


def test_the_command_saves_the_view_and_says_where(monkeypatch, capsys):
    saved = []

    def save(self):
        saved.append((self.entity, self.project))
        return self

    monkeypatch.setattr(ws.Workspace, "save", save)
    monkeypatch.setattr(ws.Workspace, "url", "https://wandb.example/me/mine?nw=1")
    ends(0, "me/mine")
    assert saved == [("me", "mine")]
    assert "https://wandb.example/me/mine?nw=1" in capsys.readouterr().out


def test_a_dry_run_prints_the_panels_and_asks_nobody(monkeypatch, capsys):
    monkeypatch.setattr(ws.Workspace, "save", None)
    ends(0, "me/mine", "--dry-run")
    printed = capsys.readouterr().out
    assert "How good\n" in printed and "  rewards: group/mean, group/best\n" in printed and "  completions\n" in printed


@pytest.mark.parametrize("name", ["mine", "me/", "/mine", "me/mine/more"])
def test_a_project_needs_its_entity(name, capsys):
    ends(2, name)
    assert f"{name!r} is not of the form ENTITY/PROJECT" in capsys.readouterr().err


def test_a_refusal_of_the_server_is_one_sentence(monkeypatch, capsys):
    def refuse(self):
        raise RuntimeError("project not found.\nmore")

    monkeypatch.setattr(ws.Workspace, "save", refuse)
    ends(2, "me/mine")
    assert "W&B did not save the view in me/mine: project not found. Look at the key" in capsys.readouterr().err
