"""A finished run, whole or with a stage to do again from a checkpoint, and the commands that go on with it."""

import shutil

from checkpoint_files import make_checkpoint

from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run import results
from neuralese.pipeline.system import lock

from .day import TINY

TRAIN = ["train", TINY, "output_dir={folder}", "tracking.wandb=false"]
RESUME = [*TRAIN, "--resume"]
SFT_ALONE = ["rl=null", "curriculum=null"]
KEPT = "the run, unchanged"


def finished(scene):
    """A copy of a finished run, of which nothing but the report is left to do; that takes long, and is not done."""
    shutil.copytree(scene.finished, scene.folder / "tiny", symlinks=True)
    scene.monkeypatch.setattr(results, "write_report", lambda folder: None)
    scene.monkeypatch.setattr(lock, "WAIT", 0.2)
    return scene.folder / "tiny"


def with_stage_lost(scene):
    """The same, killed before its SFT was finished."""
    folder = finished(scene)
    recipe = load_recipe(folder / "recipe.yaml", [*SFT_ALONE, "controls={}"])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    for stage in ("sft", "curriculum", "rl", "pause", "no_cot"):
        shutil.rmtree(folder / stage)
    (folder / "sft").mkdir()
    (folder / "results.json").unlink()
    return folder


def checkpoint(*missing, **launch):
    def before(scene):
        made = make_checkpoint(with_stage_lost(scene) / "sft" / "checkpoint-2", **launch)
        for name in missing:
            (made / name).unlink()

    return before


def all_is_kept(scene):
    for file in scene.finished.rglob("final/*"):
        assert (scene.folder / "tiny" / file.relative_to(scene.finished)).exists(), file


def is_released(scene):
    assert not (scene.folder / "tiny" / "running.lock").exists()
