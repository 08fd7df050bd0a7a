"""Runs that go on after a kill, under other conditions, from files that a fault has torn."""

import os
import shutil
import signal
import subprocess
import sys

from checkpoint_files import cut, make_checkpoint
from filelock import SoftFileLock
from transformers import Trainer

from neuralese.pipeline.evaluate.measure import read_results
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run import results
from neuralese.pipeline.system import lock
from neuralese.pipeline.train.callbacks import ProgressCallback

from .day import TINY, BadDay

TRAIN = ["train", TINY, "output_dir={folder}", "tracking.wandb=false"]
RESUME = [*TRAIN, "--resume"]
SFT_ALONE = ["rl=null", "curriculum=null"]
SFT = [*TRAIN, *SFT_ALONE]
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


def torn(name, content=None):
    def before(scene):
        file = finished(scene) / name
        if content is None:
            cut(file)
        else:
            file.write_bytes(content)

    return before


def checkpoint(*missing, **launch):
    def before(scene):
        made = make_checkpoint(with_stage_lost(scene) / "sft" / "checkpoint-2", **launch)
        for name in missing:
            (made / name).unlink()

    return before


def old_checkpoint(scene):
    made = make_checkpoint(with_stage_lost(scene) / "sft" / "checkpoint-2")
    (made / "trainer_state.json").write_text('{"stateful_callbacks": {}}')


def checkpoint_is_kept(scene):
    assert (scene.folder / "tiny" / "sft" / "checkpoint-2").is_dir()


def cut_checkpoint(scene):
    cut(make_checkpoint(with_stage_lost(scene) / "sft" / "checkpoint-2") / "optimizer.pt")


def sft_is_done(scene):
    assert (scene.folder / "tiny" / "sft" / "final").is_dir()
    assert not list((scene.folder / "tiny" / "sft").glob("checkpoint-*"))


def all_is_kept(scene):
    for file in scene.finished.rglob("final/*"):
        assert (scene.folder / "tiny" / file.relative_to(scene.finished)).exists(), file


def results_are_kept(scene):
    all_is_kept(scene)
    assert read_results(scene.folder / "tiny" / "results.json") == read_results(scene.finished / "results.json")


LIVE = []  # held for the day: its own process is the one that runs


def live(scene):
    LIVE.append(SoftFileLock(finished(scene) / "running.lock"))
    LIVE[-1].acquire()


def lives_on(scene):
    assert (scene.folder / "tiny" / "running.lock").is_file()
    LIVE.pop().release()
    all_is_kept(scene)


def live_evaluation(scene):
    LIVE.append(SoftFileLock(finished(scene) / "eval.lock"))
    LIVE[-1].acquire()


def evaluation_lives_on(scene):
    assert not (scene.folder / "tiny" / "eval.json").exists()
    LIVE.pop().release()


def dead(scene):
    code = "import os, sys; from filelock import SoftFileLock as L; lock = L(sys.argv[1]); lock.acquire(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(finished(scene) / "running.lock")])


def on_another_host(scene):
    (finished(scene) / "running.lock").write_text("4242\nelsewhere\n")


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


def is_released(scene):
    assert not (scene.folder / "tiny" / "running.lock").exists()


DAYS = [
    BadDay(
        "a second launch of a run that is running",
        TRAIN,
        "already running: pid",
        "the running one; neither writes into the other",
        before=live,
        after=lives_on,
    ),
    BadDay(
        "`--resume` beside a run that is running",
        RESUME,
        "Wait for it, kill it, or choose another name (name=...)",
        "the running one",
        before=live,
        after=lives_on,
    ),
    BadDay(
        "a run that another computer holds, or held when it was switched off",
        RESUME,
        "pid 4242 on host elsewhere since",
        KEPT + "; the message names the file to delete",
        before=on_another_host,
        after=all_is_kept,
    ),
    BadDay("a run that was killed by force", RESUME, "Results", "all of it", code=0, before=dead, after=is_released),
    BadDay(
        "a second `neuralese eval` of a run into the same file",
        ["eval", "{folder}/tiny"],
        "eval.json: already running: pid",
        "the running one",
        before=live_evaluation,
        after=evaluation_lives_on,
    ),
    BadDay(
        "the same command again, without `--resume`",
        TRAIN,
        "already holds a run of this recipe. Nothing was changed. Add --resume",
        KEPT,
        before=finished,
        after=all_is_kept,
    ),
    BadDay(
        "`--resume` with another batch size",
        [*RESUME, "rl.trainer.per_device_train_batch_size=4"],
        "it differs in rl.trainer.per_device_train_batch_size: 8 then, 4 now",
        KEPT,
        before=finished,
        after=all_is_kept,
    ),
    BadDay(
        "`--resume` with another number of steps",
        [*RESUME, "sft.trainer.max_steps=9"],
        "it differs in sft.trainer.max_steps: 4 then, 9 now",
        KEPT,
        before=finished,
        after=all_is_kept,
    ),
    BadDay(
        "`--resume` with another seed and another model",
        [*RESUME, "seed=1", "model.config.n_embd=8"],
        "it differs in seed: 0 then, 1 now; model.config.n_embd: 16 then, 8 now",
        KEPT,
        before=finished,
        after=all_is_kept,
    ),
    BadDay(
        "`--resume` without DeepSpeed of a stage that was trained under ZeRO-3",
        [*RESUME, *SFT_ALONE],
        "was made under other conditions: backend: DeepSpeed ZeRO-3 then, none now",
        "the checkpoint",
        before=checkpoint(processes=2, backend="DeepSpeed ZeRO-3"),
        after=checkpoint_is_kept,
    ),
    BadDay(
        "`--resume` in bfloat16 of a run that was begun in float32",
        [*RESUME, "model.dtype=bfloat16"],
        'it differs in model.dtype: "float32" then, "bfloat16" now',
        KEPT,
        before=finished,
        after=all_is_kept,
    ),
    BadDay(
        "`--resume` after the training data were changed",
        [*RESUME, *SFT_ALONE],
        "other conditions: training_data: 1 problem (ab) then, 200 problems",
        "the checkpoint",
        before=checkpoint(),
        after=checkpoint_is_kept,
    ),
    BadDay(
        "`--resume` from a checkpoint of an earlier version",
        [*RESUME, *SFT_ALONE],
        "does not say under which launch it was made; another version of this program wrote it",
        "the checkpoint",
        before=old_checkpoint,
        after=checkpoint_is_kept,
    ),
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
