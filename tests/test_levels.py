"""Levels of the curriculum through the pipeline: when one ends, which is kept, and how a killed one goes on."""

import json

import pytest
import torch
from runs import TINY
from safetensors.torch import load_file
from tiny_curriculum import DECODER, PROJECTION, STOPPING, recipe, report

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.cli.errors import STOPPED
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train import callbacks
from neuralese.pipeline.train.curriculum import promotion
from neuralese.pipeline.train.curriculum.arms import latent_levels
from neuralese.pipeline.train.curriculum.limits import level_limits


def test_a_missed_threshold_keeps_the_best_level_and_says_so(tmp_path, monkeypatch, capsys):
    """Level 1 is promoted, level 2 is not: its weights are left, level 1 is measured, RL is not trained."""
    measured = iter([1.0, 0.25])
    monkeypatch.setattr(promotion.Promotion, "measure", lambda self, latents, followed=None: next(measured))
    command = ["train", str(TINY), f"output_dir={tmp_path}", "tracking.wandb=false", "curriculum.at_limit=stop"]
    with pytest.raises(SystemExit) as exit:
        main(command)
    assert exit.value.code == STOPPED
    message = " ".join(capsys.readouterr().err.split())
    assert (
        "level 2 ended after 4 optimizer steps with held-out accuracy 0.250, below curriculum.promote_at=0.95"
        in message
    )
    folder = tmp_path / "tiny"
    assert load_reasoner(folder / "curriculum" / "final").config.num_latents == 1
    assert not (folder / "rl").exists() and (folder / "report.html").is_file()
    rows = json.loads((folder / "results.json").read_text())
    assert {(row["stage"], row["mode"]) for row in rows} == {("sft", "text"), ("curriculum", "hybrid")}
    with pytest.raises(SystemExit):
        main(["eval", str(folder), "--output", str(tmp_path / "again.json")])
    assert {row["mode"] for row in json.loads((tmp_path / "again.json").read_text())} == {"text", "hybrid"}
    # Asked again, it says the same and trains nothing.
    with pytest.raises(SystemExit) as exit:
        main([*command, "--resume"])
    assert exit.value.code == STOPPED


def test_no_level_promoted_keeps_the_weights_it_started_from(tmp_path, monkeypatch):
    monkeypatch.setattr(promotion.Promotion, "measure", lambda self, latents, followed=None: 0.0)
    rows = run(recipe(tmp_path, "curriculum.at_limit=stop"))
    assert {row.stage for row in rows} == {"sft"}  # text CoT is no result of the curriculum
    folder = tmp_path / "tiny"
    kept, began = (load_file(folder / name / "final" / "model.safetensors") for name in ("curriculum", "sft"))
    assert all(torch.equal(kept[name], began[name]) for name in began)
    assert report(folder / "curriculum")["kept"] is None
    with pytest.raises(SystemExit):
        main(["eval", str(folder), "--output", str(tmp_path / "again.json")])
    assert {row["stage"] for row in json.loads((tmp_path / "again.json").read_text())} == {"sft"}


def test_it_steps_back_to_a_level_whose_accuracy_fell(tmp_path, monkeypatch):
    """Measured in order: level 1; level 2, and level 1 after it, which has fallen; level 1 again; level 2, level 1."""
    measured = iter([1.0, 1.0, 0.1, 1.0, 1.0, 0.9])
    monkeypatch.setattr(promotion.Promotion, "measure", lambda self, latents, followed=None: next(measured))
    run(recipe(tmp_path, "curriculum.step_back_at=0.5"))
    folder = tmp_path / "tiny" / "curriculum"
    assert [visit["level"] for visit in report(folder)["visits"]] == [1, 2, 1, 2]
    assert (folder / "final").resolve() == (folder / "level-2-again-1" / "final").resolve()


@pytest.mark.parametrize(("threshold", "is_promoted"), [(0.5, True), (0.501, False), (None, False)])
def test_an_accuracy_at_the_threshold_promotes(threshold, is_promoted):
    measured = promotion.Promotion(None, [], None, 1, threshold, 1)
    measured.accuracy = 0.5
    assert measured.is_promoted == is_promoted


def test_patience_ends_a_level_also_when_it_was_killed_and_resumed(tmp_path, monkeypatch):
    values = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3, 5: 0.3, 6: 0.3}
    monkeypatch.setattr(
        promotion.Promotion, "measure", lambda self, latents, followed=None: values[self.trainer.state.global_step]
    )
    options = ["curriculum.eval_every=1", "curriculum.patience=2", "curriculum.steps_per_level=2"]
    # Resumed from the checkpoint at step 2, which the best measurement was made at.
    killed_and_resumed(tmp_path, monkeypatch, "level-1", *options, "curriculum.trainer.max_steps=9")
    for name in ("whole", "broken"):
        assert [visit["steps"] for visit in report(tmp_path / name / "tiny" / "curriculum")["visits"]] == [4]


def test_levels_may_be_as_long_as_epochs_of_the_data(tmp_path):
    trainer = "curriculum.trainer={num_train_epochs: 0.5, per_device_train_batch_size: 8}"
    run(recipe(tmp_path, trainer, "curriculum.last_level_trainer={num_train_epochs: 1}"))
    # 200 problems, 16 of them held out: 184 / 8 = 23 steps an epoch.
    of = recipe(tmp_path, "curriculum.last_level_trainer={num_train_epochs: 1}", "curriculum.trainer.max_steps=7")
    planned = latent_levels(of, 2)
    assert level_limits(of, planned, 184) == [7, 23]
    assert level_limits(recipe(tmp_path, trainer.replace("{", "{max_steps: null, ", 1)), planned, 184) == [12, 12]
    assert [visit["steps"] for visit in report(tmp_path / "tiny" / "curriculum")["visits"]] == [12, 23]


def test_noise_grows_in_the_last_level(tmp_path):
    """Over half of its 8 steps, from 0 to 0.4; earlier levels have none."""
    options = ["curriculum.last_level_trainer={max_steps: 8}", "curriculum.promote_at=null"]
    run(recipe(tmp_path, *options, "curriculum.noise=gaussian:0.4"))
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    scales = [[r.get("noise_scale") for r in rows if r.get("curriculum_level") == k and "loss" in r] for k in (1, 2)]
    assert scales[0] == [None] * 4
    assert scales[1] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])  # as of the step that follows
    run(recipe(tmp_path / "still", *options))
    final = "tiny/curriculum/final/model.safetensors"
    noisy, still = (load_file(folder / final) for folder in (tmp_path, tmp_path / "still"))
    assert any(not torch.equal(noisy[name], still[name]) for name in noisy)


def killed_and_resumed(tmp_path, monkeypatch, at, *options):
    """Weights of a whole run, and of one that was killed in a level after a checkpoint and resumed."""
    whole, broken = recipe(tmp_path / "whole", *options), recipe(tmp_path / "broken", *options)
    run(whole)

    def die(self, args, state, control, **kwargs):
        assert not (at in args.output_dir and state.global_step == 3), "killed"

    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="killed"):
        patch.setattr(callbacks.ProgressCallback, "on_step_end", die)
        run(broken)
    torch.manual_seed(99)
    run(broken, resume=True)
    return [load_file(of.folder / "curriculum" / "final" / "model.safetensors") for of in (whole, broken)]


@pytest.mark.parametrize(
    "options",
    [
        [*DECODER, PROJECTION],
        ["curriculum.supervision=distillation", "curriculum.noise=gaussian:0.3"],
        ["curriculum.reset_optimizer=false", "latent.thought_source=soft_vocabulary", "latent.delimiters=true"],
        [*STOPPING, "latent.thought_source=gaussian_head", "curriculum.noise=learned:1"],
        ["latent.loops=blocks", "curriculum.supervision=step_tokens", "curriculum.noise=gaussian:0.3"],
    ],
    ids=["decoder", "distillation", "optimizer", "stop", "looped"],
)  # fmt: skip
def test_a_killed_level_resumes_to_the_same_weights(tmp_path, monkeypatch, options):
    whole, resumed = killed_and_resumed(tmp_path, monkeypatch, "level-2", *options)
    assert whole.keys() == resumed.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def as_of_version_0_1(folder):
    """Rewrites a half-trained run in the words of version 0.1, in which a level was called a stage."""

    def rewrite(file, change):
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    for file in folder.rglob("config.json"):
        rewrite(file, lambda values: values["latent"].update(version=4, stage=values["latent"].pop("level")))
    for file in (folder / "curriculum").rglob("report.json"):
        rewrite(file, lambda values: values.update(stage=values.pop("level")))
    for path in sorted((folder / "curriculum").glob("level-*")):
        path.rename(path.with_name(path.name.replace("level", "stage")))
    text = (folder / "recipe.yaml").read_text()
    for old, new in (
        ("per_stage", "per_level"),
        ("last_stage_at", "last_level_at"),
        ("last_stage_tr", "last_level_tr"),
    ):
        assert new in text
        text = text.replace(new, old)
    (folder / "recipe.yaml").write_text(text)


def test_a_run_of_version_0_1_is_gone_on_with(tmp_path, monkeypatch, caplog):
    asked = recipe(tmp_path, "curriculum.trainer.save_steps=1")
    folder = tmp_path / "tiny"

    def die(self, args, state, control, **kwargs):
        assert not ("level-2" in args.output_dir and state.global_step == 3), "killed"

    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="killed"):
        patch.setattr(callbacks.ProgressCallback, "on_step_end", die)
        run(asked)
    kept = (folder / "curriculum" / "level-1" / "final" / "model.safetensors").stat().st_ino
    as_of_version_0_1(folder)
    run(asked, resume=True)
    assert "curriculum.steps_per_stage is called curriculum.steps_per_level now" in caplog.text
    first, last = report(folder / "curriculum")["visits"]
    assert (first["level"], last["level"]) == (1, 2)
    assert (folder / "curriculum" / "level-1" / "final" / "model.safetensors").stat().st_ino == kept
    assert not list((folder / "curriculum").glob("stage-*"))


def test_a_killed_step_back_resumes_to_the_same_weights(tmp_path, monkeypatch):
    def measure(self, latents, followed=None):
        return 0.1 if latents == 1 and self.trainer.args.output_dir.endswith("level-2") else 1.0

    monkeypatch.setattr(promotion.Promotion, "measure", measure)
    options = ["curriculum.step_back_at=0.5", "curriculum.reset_optimizer=false"]
    whole, resumed = killed_and_resumed(tmp_path, monkeypatch, "level-1-again-1", *options)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for name in ("whole", "broken"):
        visits = report(tmp_path / name / "tiny" / "curriculum")["visits"]
        assert [visit["level"] for visit in visits] == [1, 2, 1, 2]


def test_a_level_may_go_on_with_the_optimizer_of_the_one_before(tmp_path):
    carried, fresh = (recipe(tmp_path / str(reset), f"curriculum.reset_optimizer={reset}") for reset in (False, True))
    for of in (carried, fresh):
        run(of)
    first = [load_file(of.folder / "curriculum" / "level-1" / "final" / "model.safetensors") for of in (carried, fresh)]
    last = [load_file(of.folder / "curriculum" / "final" / "model.safetensors") for of in (carried, fresh)]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    assert any(not torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert not list(carried.folder.rglob("optimizer.safetensors"))  # cleared away in the end
    with pytest.raises(UserError, match="reset_optimizer=false does not work with LoRA"):
        run(recipe(tmp_path / "lora", "curriculum.reset_optimizer=false", "model.lora={target_modules: [c_attn]}"))
