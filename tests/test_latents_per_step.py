"""`latents_per_step: auto`, and steps that have more tokens than latents."""

import json

import pytest
from conftest import ROOT
from runs import tiny
from test_cli import neuralese

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.problems.encode import Encoded
from neuralese.pipeline.recipe.load import RecipeError
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.checked_problems import with_latents_per_step

PROBLEMS = [Encoded([6, 7], [[8, 9, 10], [8]], [5, 1]), Encoded([6], [[7, 8]], [5, 1], named="the problem 'b'")]
AUTO = ["latent.latents_per_step=auto", "curriculum.supervision=step_tokens"]


def resolved(reasoner, tmp_path, *overrides):
    return with_latents_per_step(
        tiny(tmp_path, *AUTO, *overrides), PROBLEMS, reasoner.tokenizer
    ).latent.latents_per_step


def test_auto_is_the_longest_step(reasoner, tmp_path, caplog):
    assert resolved(reasoner, tmp_path) == 3
    assert resolved(reasoner, tmp_path, "latent.max_latents=6") == 3
    assert not caplog.records


def test_the_cap_says_how_many_steps_it_cuts(reasoner, tmp_path, caplog):
    assert resolved(reasoner, tmp_path, "latent.max_latents_per_step=2") == 2
    (record,) = caplog.records
    shown = reasoner.tokenizer.decode([8, 9, 10])
    assert record.getMessage() == (
        "1 of 3 steps have more tokens than their 2 latents, which stand for the first ones only. The longest is "
        f"{shown!r} of a problem with 3. Raise latent.max_latents_per_step."
    )


def test_a_number_of_ones_own_is_warned_of_where_slots_have_labels(reasoner, tmp_path, caplog):
    recipe = tiny(tmp_path, "latent.latents_per_step=1")
    assert with_latents_per_step(recipe, PROBLEMS, reasoner.tokenizer) == recipe and not caplog.records
    assert resolved(reasoner, tmp_path, "latent.latents_per_step=1") == 1
    assert "2 of 3 steps" in caplog.text and "Raise latent.latents_per_step." in caplog.text


def test_max_latents_that_do_not_fit_are_named(reasoner, tmp_path):
    with pytest.raises(RecipeError, match="max_latents=4 is no multiple of 3, .* Remove it, or set it to 3"):
        resolved(reasoner, tmp_path, "latent.max_latents=4")


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_what_is_no_number_of_latents(tmp_path, value):
    with pytest.raises(RecipeError, match="latents_per_step"):
        tiny(tmp_path, f"latent.latents_per_step={value}")


def test_a_run_with_labelled_looped_latents(tmp_path, capsys):
    """Steps of several tokens, every slot labelled; the stage after it measures and trains as on any latents."""
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"{i % 5} + 1 =", "steps": [f"{i % 5} + 1", f"= {i % 5 + 1}"], "answer": str(i % 5 + 1)}
            for i in range(40)]  # fmt: skip
    path.write_text(
        "".join(json.dumps(row | {"question": f"{i} : {row['question']}"}) + "\n" for i, row in enumerate(rows))
    )
    data = [f"data.{part}={{path: '{path}'}}" for part in ("train", "eval")] + ["data.keep_overlap=true"]
    options = [*data, *AUTO, "latent.loops=blocks", "curriculum.supervision_options={label_padding: true}"]
    code, out, _ = neuralese(capsys, "check", ROOT / "tests" / "tiny.yaml", *options)
    assert code == 0 and "2 x auto" in out and "latents_per_step: auto is 3" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "▪[" in lines[lines.index("level 2") + 1] and "▪[<|end|>]" in lines[lines.index("level 2") + 1]
    measured = run(tiny(tmp_path, *options, "tracking.wandb=false"))
    assert {row.stage for row in measured} == {"sft", "curriculum", "rl"}
    section = load_reasoner(tmp_path / "tiny" / "rl" / "final").config
    assert (section.latents_per_step, section.num_latents, section.loops) == (3, 6, 2)
    logged = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    parts = [row for row in logged if row["stage"] == "curriculum" and "latent_loss" in row]
    assert parts and all(row["latent_loss"] > 0 for row in parts)
    for row in parts:  # the weight is that of the mean over slots
        assert row["loss"] == pytest.approx(row["token_loss"] + 0.5 * row["latent_loss"], rel=0.02)
