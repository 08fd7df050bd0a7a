"""The whole pipeline on a tiny recipe: what a run leaves, resuming it, and refusing to overwrite it."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from conftest import ROOT
from runs import assert_same_weights, tiny, weights
from waiting import LONG
from wandb_reader import read_run

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train import sft
from neuralese.pipeline.train.curriculum import visit
from neuralese.pipeline.train.rl import stage as rl


def test_a_run_leaves_what_the_design_names(finished):
    folder, rows = finished
    for stage in ("sft", "curriculum", "rl", "pause", "no_cot"):
        files = {path.name for path in (folder / stage / "final").iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= files
        assert not any(name.endswith((".bin", ".pt", ".pth")) for name in files)  # no pickles
        assert not list((folder / stage).rglob("checkpoint-*"))
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps([asdict(row) for row in rows]))
    assert {"recipe.yaml", "metrics.jsonl", "report.html"} <= {path.name for path in folder.iterdir()}


def test_checkpoints_know_what_they_are(finished):
    folder, _ = finished

    def section(stage):
        return load_reasoner(folder / stage / "final").config

    assert (section("sft").level, section("sft").num_latents) == (0, 0)
    assert (section("curriculum").level, section("curriculum").num_latents) == (2, 2)
    assert section("curriculum").noise is None and section("rl").noise == "gaussian:0.3"
    assert section("rl").num_latents == 2 and section("rl").embedding_rms == section("curriculum").embedding_rms
    assert section("pause").thought_source == "pause" and section("no_cot").num_latents == 0


def test_results_have_the_rows_the_design_names(finished):
    _, rows = finished
    found = {(row.stage, row.mode, row.metric, row.k, row.noise, row.temperature) for row in rows}
    assert ("sft", "text", "accuracy", 1, None, 0.0) in found
    assert ("curriculum", "latent", "pass@k", 4, "gaussian:0.3", 0.0) in found
    assert ("rl", "latent", "maj@k", 4, None, 1.0) in found
    assert ("pause", "pause", "accuracy", 1, None, 0.0) in found
    assert ("no_cot", "no_cot", "accuracy", 1, None, 0.0) in found
    assert not any(row.noise for row in rows if row.mode != "latent")
    assert all(row.n == 20 and row.ci95[0] <= row.value <= row.ci95[1] for row in rows)


MEDIA = ("results.", "report/", "held_out/followed", "completions.", "histogram/")  # rows of their own


def test_wandb_holds_the_same_numbers_as_the_metrics_file(finished):
    folder, _ = finished
    ours = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    runs = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        found = read_run(path)
        runs[found["job_type"]] = found
    assert set(runs) == {"sft", "curriculum", "rl", "pause", "no_cot", "evaluate"}
    for stage, found in runs.items():
        assert found["group"] == "tiny" and found["id"].startswith(f"tiny-{stage}-")
        assert found["name"] == f"tiny-{stage}-seed0"
        assert found["config"]["rl"]["noise"] == "gaussian:0.3"
        made = found["config"]["run"]
        assert made["stage"] == stage and made["processes"] == 1 and made["versions"]["torch"] == torch.__version__
        theirs = [row for row in found["rows"] if not any(key.startswith(MEDIA) for key in row)]
        mine = [row for row in ours if row["stage"] == stage]
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert one["step"] == other["global_step"]
            for key in ("loss", "reward", "accuracy", "token_loss", "entropy"):
                assert one.get(key) == other.get(key)
    (images,) = [row for row in runs["evaluate"]["rows"] if any(key.startswith("report/") for key in row)]
    shown = {key.partition(".")[0] for key in images} - {"global_step"}
    assert {key for key in shown if key.startswith("report/")} == {
        f"report/{path.stem}" for path in (folder / "report").glob("*.png")
    }
    assert not any("train_loss" in row for row in ours)  # wrong after a resume
    assert not any("num_tokens" in row for row in ours if row["stage"] == "sft")  # TRL counts anew after a resume
    assert [row["rollouts"] for row in ours if row["stage"] == "rl" and "loss" in row] == [8, 16, 24, 32]
    curriculum = [row for row in ours if row["stage"] == "curriculum" and "loss" in row]
    assert [row["step"] for row in curriculum] == [1, 2, 3, 4, 5, 6, 7, 8]  # one axis through both levels
    assert [row["curriculum_level"] for row in curriculum] == [1] * 4 + [2] * 4


def test_completions_reach_wandb_when_asked_for(tmp_path):
    run(tiny(tmp_path, "rl.trainer.log_completions=true", "evaluate.num_samples=1", "evaluate.k=[1]"))
    rl = next(
        found for path in (tmp_path / "tiny").glob("wandb/offline-run-*/*.wandb")
        if (found := read_run(path))["job_type"] == "rl"
    )  # fmt: skip
    tables = [row for row in rl["rows"] if row.get("completions._type") == "table-file"]
    assert [row["global_step"] for row in tables] == [0, 1, 2, 3]  # as they are drawn, before the step
    assert {(row["completions.nrows"], row["completions.ncols"]) for row in tables} == {(8, 6)}


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    folder, rows = finished
    again = run(tiny(tmp_path, "tracking.wandb=false"))
    assert_same_weights(folder / "rl" / "final", tmp_path / "tiny" / "rl" / "final")
    assert again == [row for row in rows if row.stage in ("sft", "curriculum", "rl")]
    other = run(tiny(tmp_path, "tracking.wandb=false", "name=other", "seed=1"))
    assert other != again


def test_results_are_measured_anew_when_asked_for_otherwise(finished, tmp_path):
    folder, rows = finished
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy, symlinks=True)
    again = run(tiny(tmp_path, "evaluate.problems=10", "tracking.wandb=false"), resume=True)
    assert {row.n for row in again} == {10} and {row.n for row in rows} == {20}
    assert load_recipe(copy / "recipe.yaml").evaluate.problems == 10


def test_a_finished_run_is_not_trained_again(finished, monkeypatch, capsys):
    folder, rows = finished
    for module in (sft, visit, rl):
        monkeypatch.setattr(module, "train_and_hand_over", None)
    recipe = tiny(folder.parent, "controls.pause=true", "controls.no_cot=true")
    assert run(recipe, resume=True) == rows
    shown = capsys.readouterr().out
    assert "report.html" in shown and "wandb" in shown and "rl/final" in shown


def test_a_folder_that_holds_a_run_is_not_overwritten(finished):
    folder, _ = finished
    before = (folder / "recipe.yaml").read_text()
    with pytest.raises(UserError, match="already holds a run of this recipe.*--resume"):
        run(tiny(folder.parent))
    with pytest.raises(UserError, match="another recipe: it differs in seed"):
        run(tiny(folder.parent, "seed=7"), resume=True)
    assert (folder / "recipe.yaml").read_text() == before


def test_a_run_that_ended_before_its_first_stage_is_begun_anew(tmp_path):
    """What bad data left holds nothing to protect, and the mended recipe is another one."""
    with pytest.raises(UserError, match="has no latents to fall on"):
        run(tiny(tmp_path, "curriculum=null"))
    assert (tmp_path / "tiny" / "base" / "final").is_dir()
    run(tiny(tmp_path, "curriculum=null", "rl=null", "model.config.n_embd=8"))
    assert load_reasoner(tmp_path / "tiny" / "sft" / "final").model.config.n_embd == 8


def test_a_folder_of_something_else_is_not_used(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds no run of ours"):
        run(tiny(tmp_path))


def test_a_reward_from_a_file_outside_the_repository_is_used(finished, tmp_path):
    folder, _ = finished
    reward = tmp_path / "mine.py"
    reward.write_text(
        "def short(prompts, completions, num_latents, modulus=None, **columns):\n"
        "    assert set(num_latents) == {2}\n"
        "    return [-float(len(c)) for c in completions]\n"
    )
    run(tiny(tmp_path, "tracking.wandb=false", f"rl.rewards=[{{function: '{reward}:short', weight: 2.0}}]"))
    logged = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    rewards = [row for row in logged if "rewards/short/mean" in row]
    assert rewards and all(row["reward"] == pytest.approx(2 * row["rewards/short/mean"]) for row in rewards)
    theirs = weights(folder / "rl" / "final")
    ours = weights(tmp_path / "tiny" / "rl" / "final")
    assert any(not torch.equal(theirs[name], ours[name]) for name in ours)


def test_promotion_stops_a_level_and_is_recorded(tmp_path):
    run(tiny(tmp_path, "tracking.wandb=false", "rl=null", "curriculum.promote_at=1e-9", "curriculum.eval_every=2"))
    reports = [json.loads(p.read_text()) for p in sorted((tmp_path / "tiny").glob("curriculum/*/final/report.json"))]
    # An accuracy of zero is no promotion, so a level ends at 2 or at its limit of 4 steps.
    assert len(reports) == 2
    for report in reports:
        assert report["promoted"] == (report["accuracy"] > 0)
        assert report["steps"] == 4 or report["promoted"]


def test_activation_checkpointing_trains_to_the_same_weights(finished, tmp_path):
    switched_on = [f"{stage}.trainer.gradient_checkpointing=true" for stage in ("sft", "curriculum", "rl")]
    run(tiny(tmp_path, "tracking.wandb=false", *switched_on))
    for stage in ("curriculum", "rl"):
        theirs = weights(finished[0] / stage / "final")
        for name, weight in weights(tmp_path / "tiny" / stage / "final").items():
            assert torch.allclose(weight, theirs[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # A longer task would show their effect; here the first latent alone is made by one sweep.
        ({"jacobi_sweeps": 1, "backprop_steps": 0}, {"mode": "jacobi", "jacobi_sweeps": 1, "backprop_steps": 0}),
        ({"loops": 3}, {"mode": "looped", "loops": 3, "injection": "add"}),
        ({"loops": "blocks", "injection": "replace"}, {"mode": "looped", "loops": 2, "injection": "replace"}),
        ({"window": 1}, {"mode": "sequential", "window": 1, "sees_question": True}),
        ({"window": 2, "sees_question": "false"}, {"window": 2, "sees_question": False}),
    ],
)
def test_options_of_the_recurrence_reach_the_checkpoints(finished, tmp_path, options, expected):
    run(tiny(tmp_path, "tracking.wandb=false", *(f"latent.{key}={value}" for key, value in options.items())))
    for stage in ("curriculum", "rl"):
        section = load_reasoner(tmp_path / "tiny" / stage / "final").config
        assert {key: getattr(section, key) for key in expected} == expected
    first = load_reasoner(tmp_path / "tiny" / "curriculum" / "level-1" / "final").config
    assert first.loops == (1 if options.get("loops") == "blocks" else options.get("loops"))
    ours, theirs = weights(tmp_path / "tiny" / "rl" / "final"), weights(finished[0] / "rl" / "final")
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    logged = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["rollout/replay_gap"] for row in logged if "rollout/replay_gap" in row]
    assert len(gaps) == 4 and max(gaps) < 1e-4


def test_lora_trains_merges_and_hands_over_full_weights(tmp_path):
    lora = "model.lora={r: 4, target_modules: [c_attn]}"
    run(tiny(tmp_path, "tracking.wandb=false", lora, "rl.trainer.beta=0.1"))
    folder = tmp_path / "tiny"
    base, sft, rl = (weights(folder / stage / "final") for stage in ("base", "sft", "rl"))
    assert base.keys() == sft.keys() == rl.keys()
    changed = {name for name in base if not torch.equal(base[name], sft[name])}
    assert "transformer.h.0.attn.c_attn.weight" in changed
    assert "transformer.h.0.mlp.c_fc.weight" not in changed
    assert not torch.equal(sft["transformer.h.0.attn.c_attn.weight"], rl["transformer.h.0.attn.c_attn.weight"])
    latent_row = load_reasoner(folder / "rl" / "final").config.token_ids[1]
    start_row = load_reasoner(folder / "rl" / "final").config.token_ids[0]
    embedding = "transformer.wte.weight"
    assert torch.equal(base[embedding][5], rl[embedding][5])  # a word: frozen
    assert not torch.equal(base[embedding][start_row], rl[embedding][start_row])  # a special token: trained
    assert latent_row < len(base[embedding])


def test_a_plain_hub_folder_becomes_a_reasoner(finished, tmp_path):
    """A model without a latent section or special tokens, as it comes from the hub."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = finished
    model = AutoModelForCausalLM.from_pretrained(folder / "base" / "final")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base" / "final")
    del model.config.latent
    model.resize_token_embeddings(model.config.vocab_size - 3)
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    run(tiny(tmp_path, "tracking.wandb=false", "model.config=null", f"model.name_or_path={tmp_path / 'plain'}"))
    assert load_reasoner(tmp_path / "tiny" / "rl" / "final").config.num_latents == 2


def test_a_run_of_which_nothing_is_left_to_measure_says_so(tmp_path, capsys):
    stopped = ["curriculum.at_limit=stop", "curriculum.promote_at=1.0", "curriculum.trainer.max_steps=1"]
    assert run(tiny(tmp_path, "tracking.wandb=false", "sft=null", "rl=null", *stopped)) == []
    assert "Nothing was measured: no stage left a model of its own." in capsys.readouterr().out
    assert (tmp_path / "tiny" / "report.html").is_file()


@pytest.mark.launch
def test_accelerate_launch_runs_the_script(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
    command += ["scripts/train.py", "tests/tiny.yaml", f"output_dir={tmp_path}", "tracking.wandb=false", "rl=null"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert "text CoT" in done.stdout and "Traceback" not in done.stderr
    # Launchers make 1 of every exit code but 0; the message says what it was.
    done = subprocess.run(
        [*command, "name=short", "curriculum.at_limit=stop"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "The curriculum was stopped: level 1 ended after 4 optimizer steps" in done.stderr
    assert (tmp_path / "short" / "results.json").is_file()
