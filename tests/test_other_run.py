"""`resume_from: FOLDER@STAGE`: a run that begins with the finished stages of another."""

import json
import shutil

import pytest
from runs import assert_same_weights, tiny

from neuralese.pipeline.recipe.load import RecipeError
from neuralese.pipeline.run import other_run
from neuralese.pipeline.run.folder import RunError
from neuralese.pipeline.run.train import run
from neuralese.pipeline.run.validate import check_recipe

OFF = "tracking.report_to=none"


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run, under a path of its own."""
    folder, _ = finished
    return shutil.copytree(folder, tmp_path / "source", symlinks=True)


def test_a_run_begins_where_another_ended(copied, tmp_path):
    """The stages after it, trained by this run, are those of the other one; what was measured is kept."""
    recipe = tiny(tmp_path, OFF, "name=next", f"resume_from={copied}@sft")
    rows = run(recipe)
    for stage in ("sft", "curriculum", "rl"):
        assert_same_weights(recipe.folder / stage / "final", copied / stage / "final")
    logged = [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in logged} == {"curriculum", "rl", "evaluate"}
    assert {row.stage for row in rows} == {"sft", "curriculum", "rl"}
    seconds = [json.loads((folder / "seconds.json").read_text())["sft"] for folder in (recipe.folder, copied)]
    assert seconds[0] == seconds[1]
    run(recipe, resume=True)  # goes on by itself


def test_another_rl_begins_at_the_curriculum(copied, tmp_path):
    recipe = tiny(tmp_path, OFF, "name=next", "rl.noise=gaussian:0.1", f"resume_from={copied}@curriculum")
    run(recipe)
    assert (recipe.folder / "curriculum" / "level-2" / "final").is_dir()
    logged = [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in logged} == {"rl", "evaluate"}


def test_a_copy_that_was_cut_short_is_made_again(copied, tmp_path, monkeypatch):
    recipe = tiny(tmp_path, OFF, "name=next", f"resume_from={copied}@curriculum")
    replace, moved = other_run.Path.replace, []

    def dies(self, target):
        assert not moved, "killed"
        if self.parent.name == "next.partial" and self.name in other_run.SECTIONS:
            moved.append(self)
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="killed"):
        patch.setattr(other_run.Path, "replace", dies)
        run(recipe)
    run(recipe, resume=True)
    assert not (tmp_path / "next.partial").exists()
    assert_same_weights(recipe.folder / "rl" / "final", copied / "rl" / "final")


@pytest.mark.parametrize(
    ("change", "source", "said"),
    [
        ((), "{run}@rl/final", "resume_from"),
        ((), "{run}", "resume_from"),
        ((), "nowhere@sft", "nowhere is no run folder: it has no recipe.yaml"),
        (("sft.trainer.max_steps=5",), "{run}@curriculum", "in another way: sft.trainer.max_steps: 4 then, 5 now"),
        (("seed=1",), "{run}@sft", "seed: 0 then, 1 now"),
        (("curriculum.eval_problems=8",), "{run}@sft", "held-out problems, which training leaves out: 16 then, 8 now"),
        (("evaluate.max_new_tokens=9",), "{run}@curriculum", "evaluate.max_new_tokens: 8 then, 9 now"),
        (("data.keep_overlap=true",), "{run}@sft", "data.keep_overlap: False then, True now"),
        (("sft=null",), "{run}@sft", "the recipe has no section sft"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(copied, tmp_path, change, source, said):
    with pytest.raises((RunError, RecipeError), match=said):
        run(tiny(tmp_path, OFF, "name=next", *change, f"resume_from={source.format(run=copied)}"))
    assert not (tmp_path / "next" / "sft").exists()


def test_unfinished_and_damaged_stages_are_refused(copied, tmp_path):
    shutil.rmtree(copied / "rl")
    with pytest.raises(RunError, match="no finished stage 'rl'; finished are sft, curriculum"):
        run(tiny(tmp_path, OFF, "name=next", f"resume_from={copied}@rl"))
    weights = copied / "sft" / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"sft/final is damaged \(model.safetensors"):
        run(tiny(tmp_path, OFF, "name=next", f"resume_from={copied}@sft"))


def test_a_dtype_that_is_chosen_by_the_model_is_no_difference(copied, tmp_path):
    recipe = tiny(tmp_path, OFF, "name=next", "model.dtype=auto", f"resume_from={copied}@curriculum")
    check_recipe(recipe)


def test_a_run_does_not_begin_with_itself(copied, tmp_path):
    with pytest.raises(RunError, match="is this run itself. Remove the key"):
        other_run.check_source(tiny(tmp_path, OFF, "name=source", f"resume_from={copied}@sft"))
