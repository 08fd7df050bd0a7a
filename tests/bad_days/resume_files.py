"""What a run goes on from: torn files, another folder, stages of another run, and what signals leave."""

import os
import shutil
import signal

from checkpoint_files import cut, make_checkpoint
from transformers import Trainer

from neuralese.pipeline.evaluate.measure import read_results
from neuralese.pipeline.run import results
from neuralese.pipeline.train.callbacks import ProgressCallback

from .begun import KEPT, RESUME, SFT_ALONE, TRAIN, all_is_kept, checkpoint, finished, is_released, with_stage_lost
from .day import TINY, BadDay

SFT = [*TRAIN, *SFT_ALONE]


def torn(name, content=None):
    def before(scene):
        file = finished(scene) / name
        if content is None:
            cut(file)
        else:
            file.write_bytes(content)

    return before


def cut_checkpoint(scene):
    cut(make_checkpoint(with_stage_lost(scene) / "sft" / "checkpoint-2") / "optimizer.pt")


def sft_is_done(scene):
    assert (scene.folder / "tiny" / "sft" / "final").is_dir()
    assert not list((scene.folder / "tiny" / "sft").glob("checkpoint-*"))


def results_are_kept(scene):
    all_is_kept(scene)
    assert read_results(scene.folder / "tiny" / "results.json") == read_results(scene.finished / "results.json")


def without_recipe(scene):
    (finished(scene) / "recipe.yaml").unlink()


def moved(scene):
    finished(scene).rename(scene.folder / "other")


def moved_is_whole(scene):
    assert read_results(scene.folder / "other" / "results.json") == read_results(scene.finished / "results.json")
    assert not (scene.folder / "tiny").exists()


def interrupted(where, name, work):
    """Something that happens in a run, once its third step is done or wherever else."""

    def before(scene):
        scene.monkeypatch.setattr(where, name, work)

    return before


def sigterm_after_three(self, args, state, control, **kwargs):
    if state.global_step == 3:
        os.kill(os.getpid(), signal.SIGTERM)


def ctrl_c_after_three(self, args, state, control, **kwargs):
    if state.global_step == 3:
        raise KeyboardInterrupt


def ctrl_c(*arguments, **options):
    raise KeyboardInterrupt


def goes_on_from_two(scene):
    _goes_on_from(scene, "checkpoint-2")


def goes_on_from_three(scene):
    _goes_on_from(scene, "checkpoint-2", "checkpoint-3")


def _goes_on_from(scene, *checkpoints):
    folder = scene.folder / "tiny"
    assert sorted(path.name for path in (folder / "sft").glob("checkpoint-*")) == list(checkpoints)
    assert not (folder / "running.lock").exists()


DAYS = [
    BadDay(
        "a power cut that tore the only checkpoint of a stage",
        [*RESUME, *SFT_ALONE],
        "checkpoint-2 is not whole (optimizer.pt: BadZipFile: File is not a zip file) and was removed. The stage",
        "finished stages; of two checkpoints the other one",
        code=0,
        before=cut_checkpoint,
        after=sft_is_done,
    ),
    BadDay(
        "a checkpoint whose optimizer's state was deleted",
        [*RESUME, *SFT_ALONE],
        "checkpoint-2 is not whole (optimizer.pt is missing) and was removed",
        "finished stages; of two checkpoints the other one",
        code=0,
        before=checkpoint("optimizer.pt"),
        after=sft_is_done,
    ),
    BadDay(
        "a disk fault in the weights of a finished stage",
        RESUME,
        "sft/final was finished and is whole no more (model.safetensors: SafetensorError",
        KEPT + "; the message says how to train this stage alone",
        before=torn("sft/final/model.safetensors"),
        after=all_is_kept,
    ),
    BadDay(
        "a disk fault in the tokenizer of a finished stage",
        RESUME,
        "rl/final was finished and is whole no more (tokenizer.json: JSONDecodeError",
        KEPT,
        before=torn("rl/final/tokenizer.json"),
        after=all_is_kept,
    ),
    BadDay(
        "a torn report of the curriculum",
        RESUME,
        "curriculum/report.json is whole no more",
        KEPT,
        before=torn("curriculum/report.json"),
        after=all_is_kept,
    ),
    BadDay(
        "a torn results.json",
        [*RESUME, "controls.pause=true", "controls.no_cot=true"],
        "results.json is measured again",
        "all stages and samples: the same results again",
        code=0,
        before=torn("results.json"),
        after=results_are_kept,
    ),
    BadDay(
        "lines of metrics.jsonl that a disk fault made unreadable",
        RESUME,
        "1 lines of {folder}/tiny/metrics.jsonl cannot be read and were removed",
        "the other lines",
        code=0,
        before=torn("metrics.jsonl", b'\0\0\0\n{"stage": "sft", "step": 1}\n'),
        after=all_is_kept,
    ),
    BadDay(
        "a torn seconds.json",
        RESUME,
        "How long earlier stages took is not known",
        "all but the seconds",
        code=0,
        before=torn("seconds.json"),
        after=all_is_kept,
    ),
    BadDay(
        "a torn recipe.yaml in the run folder",
        RESUME,
        "The recipe that the run in {folder}/tiny was begun by cannot be read",
        KEPT,
        before=torn("recipe.yaml", b"name: [tiny"),
        after=all_is_kept,
    ),
    BadDay(
        "a run folder whose recipe.yaml is gone",
        RESUME,
        "exists and holds no run of ours: it has no recipe.yaml",
        KEPT,
        before=without_recipe,
        after=all_is_kept,
    ),
    BadDay(
        "a run folder that was moved and renamed",
        [*RESUME, "name=other"],
        "Results",
        "all of it: the run goes on in its new place",
        code=0,
        before=moved,
        after=moved_is_whole,
    ),
    BadDay(
        "`resume_from` a folder that is no run",
        [*TRAIN, "resume_from={folder}/nowhere@sft"],
        "is no run folder: it has no recipe.yaml. Name one, as in FOLDER@sft.",
    ),
    BadDay(
        "`resume_from` a stage that the other run has not finished",
        [*TRAIN, "name=next", "resume_from={folder}/tiny@rl"],
        "the run has no finished stage 'rl'; finished are sft, curriculum.",
        before=lambda scene: shutil.rmtree(finished(scene) / "rl"),
    ),
    BadDay(
        "`resume_from` a run that trained the stage in another way",
        [*TRAIN, "name=next", "resume_from={folder}/tiny@sft", "sft.trainer.max_steps=9"],
        "this recipe would train its stages in another way: sft.trainer.max_steps: 4 then, 9 now",
        before=finished,
    ),
    BadDay(
        "checkpoints without the optimizer's state, asked for",
        ["check", TINY, "sft.trainer.save_only_model=true"],
        "sft.trainer.save_only_model is set by the pipeline, which resumes with the optimizer's state",
    ),
    BadDay(
        "SIGTERM while a stage is trained",
        SFT,
        "Terminated while training sft. Step 3 was saved in {folder}/tiny/sft/checkpoint-3.",
        "all that was trained; --resume goes on from that step",
        code=143,
        before=interrupted(ProgressCallback, "on_step_end", sigterm_after_three),
        after=goes_on_from_three,
    ),
    BadDay(
        "Ctrl-C while a stage is trained",
        SFT,
        "Interrupted",
        "the last checkpoint, which --resume goes on from",
        code=130,
        before=interrupted(ProgressCallback, "on_step_end", ctrl_c_after_three),
        after=goes_on_from_two,
    ),
    BadDay(
        "Ctrl-C while a checkpoint is written",
        SFT,
        "Interrupted",
        "finished stages; --resume goes on from the checkpoint before",
        code=130,
        before=interrupted(Trainer, "_save_rng_state", ctrl_c),
        after=is_released,
    ),
    BadDay(
        "Ctrl-C while the results are measured",
        SFT,
        "Interrupted",
        "all stages, and every sample so far",
        code=130,
        before=interrupted(results, "write_results", ctrl_c),
        after=sft_is_done,
    ),
]
