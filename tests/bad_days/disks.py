"""Disks that are full, read-only or in the wrong place, before and while a run writes."""

import errno
import shutil
import tempfile
from types import SimpleNamespace

import pytest
from disks import mount, read_only_run, remount
from runs import assert_same_weights

from neuralese.pipeline.cli.app import main
from neuralese.pipeline.system.integrity import fault_in
from neuralese.pipeline.train import callbacks, hand_over

from .day import AS_BEFORE, FINISHED, SFT, TINY, BadDay

WIDE = [*SFT, "output_dir={folder}/disk", "model.config.n_embd=64", "sft.trainer.max_steps=8"]
AT_STEP_END = callbacks.ProgressCallback.on_step_end


def read_only(scene):
    read_only_run(scene.finished, scene.folder / "disk", scene.cleanup)


def full(scene):
    scene.monkeypatch.setattr(tempfile, "tempdir", str(scene.folder))  # where the trace goes then
    mount(scene.folder / "disk", "104k", scene.cleanup)


def goes_on_after_room_is_made(scene):
    disk = scene.folder / "disk"
    assert (disk / "tiny" / "base" / "final").is_dir() and not (disk / "tiny" / "sft" / "final").exists()
    remount(disk, "size=20m")
    with pytest.raises(SystemExit) as done:
        main([*(argument.replace("{folder}", str(disk)) for argument in SFT), "--resume"])
    assert not done.value.code
    assert (disk / "tiny" / "sft" / "final" / "model.safetensors").is_file()


def filled(left):
    """At the third step, after a checkpoint, others leave so many bytes of the disk."""

    def before(scene):
        disk = scene.folder / "disk"
        scene.monkeypatch.setattr(tempfile, "tempdir", str(scene.folder))
        mount(disk, "20000k", scene.cleanup)

        def fill(self, args, state, control, **_):
            if state.global_step == 3:
                (disk / "of others").write_bytes(bytes(shutil.disk_usage(disk).free - left))

        scene.monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", fill)

    return before


def goes_on_from_the_checkpoint_before(scene):
    """As a run that had room all the time, bit for bit."""
    disk = scene.folder / "disk"
    assert fault_in(disk / "tiny" / "sft" / "checkpoint-2") is None
    (disk / "of others").unlink()
    scene.monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", AT_STEP_END)
    for folder, options in ((disk, ["--resume"]), (scene.folder / "whole", [])):
        with pytest.raises(SystemExit) as done:
            main([*(argument.replace("{folder}", str(folder)) for argument in WIDE), f"output_dir={folder}", *options])
        assert not done.value.code
    assert_same_weights(disk / "tiny" / "sft" / "final", scene.folder / "whole" / "tiny" / "sft" / "final")


def nearly_full(scene):
    scene.monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000, total=2_000_000))


def never_trained(scene):
    assert (scene.folder / "tiny" / "base" / "final").is_dir() and not list(scene.folder.rglob("checkpoint-*"))


def quota(scene):
    def fail(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(scene.folder / "tiny" / "sft" / "final.partial"))

    scene.monkeypatch.setattr(hand_over, "release", fail)


DAYS = [
    BadDay(
        "`train`, `check`: a read-only `output_dir`",
        ["check", TINY, "output_dir={folder}/disk/tiny/new"],
        "{folder}/disk/tiny/new/tiny cannot be written to: Read-only file system",
        before=read_only,
    ),
    BadDay(
        "`train --resume` of a run on a read-only disk",
        ["train", TINY, "output_dir={folder}/disk", "--resume"],
        "{folder}/disk/tiny cannot be written to: Read-only file system ({folder}/disk/tiny). Name another place with "
        "output_dir",
        AS_BEFORE,
        before=read_only,
    ),
    *(
        BadDay(
            f"`{command}` of a run on a read-only disk",
            [command, "{folder}/disk/tiny"],
            "cannot be written to: Read-only file system ({folder}/disk/tiny). Name another place with --output",
            AS_BEFORE,
            before=read_only,
        )
        for command in ("eval", "audit", "calibrate", "reward-model")
    ),
    BadDay(
        "`compare --output` on a read-only disk",
        ["compare", "{finished}", "{finished}", "--output", "{folder}/disk/tiny/differences.json"],
        "cannot be written to: Read-only file system ({folder}/disk/tiny). Name another place with --output",
        before=read_only,
    ),
    BadDay(
        "`recipes copy` on a read-only disk",
        ["recipes", "copy", "quickstart", "{folder}/disk/my.yaml"],
        "cannot be written to: Read-only file system ({folder}/disk). Name another place with a second argument",
        before=read_only,
    ),
    BadDay(
        "`eval --output` in a folder that does not exist",
        ["eval", "{finished}", "--output", "{folder}/none/eval.json"],
        "There is no folder {folder}/none to write eval.json to. Name another with --output.",
    ),
    BadDay(
        "an `output_dir` that is a file",
        ["check", TINY, f"output_dir={TINY}"],
        "cannot be written to: Not a directory",
    ),
    BadDay(
        "no space left on the disk while saving",
        [*SFT, "output_dir={folder}/disk"],
        "Error while training sft: There is no space left to write {folder}/disk/tiny/sft/checkpoint-2/optimizer.pt: "
        "0.00 of 0.11 MB are free, and at least 0.03 MB more are needed. Make space there. Finished stages and the "
        "last checkpoint stay. The same command with --resume goes on from the last checkpoint.",
        FINISHED,
        before=full,
        after=goes_on_after_room_is_made,
    ),
    BadDay(
        "a disk that others fill before the second checkpoint of a stage",
        WIDE,
        "There is no space left to write {folder}/disk/tiny/sft/checkpoint-4/model.safetensors: 0.10 of 20.48 MB are "
        "free, and at least 0.58 MB more are needed. Make space there.",
        "finished stages and the checkpoint before; --resume goes on from it",
        before=filled(110_000),
        after=goes_on_from_the_checkpoint_before,
    ),
    BadDay(
        "a disk with less room than the weights will take",
        SFT,
        "{folder}/tiny has too little room for the weights of a stage, 0.02 MB: 0.01 of 2.00 MB are free. Make space",
        FINISHED,
        before=nearly_full,
        after=never_trained,
    ),
    BadDay(
        "a disk quota that is used up",
        SFT,
        "There is no space left to write {folder}/tiny/sft/final.partial",
        FINISHED,
        before=quota,
    ),
]
