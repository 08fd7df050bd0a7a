"""Runs that are asked for again: beside another process, and under other conditions."""

import subprocess
import sys

from checkpoint_files import make_checkpoint
from filelock import SoftFileLock

from .begun import KEPT, RESUME, SFT_ALONE, TRAIN, all_is_kept, checkpoint, finished, is_released, with_stage_lost
from .day import BadDay


def old_checkpoint(scene):
    made = make_checkpoint(with_stage_lost(scene) / "sft" / "checkpoint-2")
    (made / "trainer_state.json").write_text('{"stateful_callbacks": {}}')


def checkpoint_is_kept(scene):
    assert (scene.folder / "tiny" / "sft" / "checkpoint-2").is_dir()


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
]
