"""Which checkpoint a stage goes on from: the newest whole one, under the launch that it was made under."""

import json
import logging
from zipfile import ZipFile

import pytest
import torch
from checkpoint_files import cut, make_checkpoint

from neuralese.pipeline.system.integrity import fault_in
from neuralese.pipeline.train.resume import (
    CheckpointError,
    Launch,
    checkpoint_to_resume,
    fault_of_checkpoint,
    is_split_otherwise,
    last_whole_checkpoint,
)

HERE = Launch(1, "none", 0, 8, 1, "1 problem (ab)")


def launch(**changed):
    return Launch(**{**HERE.__dict__, **changed})


@pytest.mark.parametrize(
    "made", [{}, {"processes": 2}, {"backend": "DeepSpeed ZeRO-3", "processes": 2}, {"backend": "DeepSpeed ZeRO-0"}]
)
def test_whole_checkpoints_are_found_whole(tmp_path, made):
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2", **made)
    assert fault_of_checkpoint(checkpoint) is None
    assert checkpoint_to_resume(tmp_path, launch(**made)) == checkpoint


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model.safetensors", "SafetensorError"),
        ("optimizer.pt", "BadZipFile"),
        ("scheduler.pt", "BadZipFile"),
        ("rng_state.pth", "BadZipFile"),
        ("trainer_state.json", "JSONDecodeError"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_cut_file_is_found_and_the_checkpoint_before_is_taken(tmp_path, caplog, name, why, share):
    before = make_checkpoint(tmp_path / "checkpoint-9")
    newest = make_checkpoint(tmp_path / "checkpoint-10")
    cut(newest / name, share)
    assert name in fault_of_checkpoint(newest) and why in fault_of_checkpoint(newest)
    with caplog.at_level(logging.WARNING):
        assert last_whole_checkpoint(tmp_path) == before
    assert f"{newest} is not whole ({name}: {why}" in caplog.text and "goes on from checkpoint-9" in caplog.text
    assert not newest.exists()


def test_a_flipped_byte_of_an_optimizer_is_found(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2")
    file = checkpoint / "optimizer.pt"
    with ZipFile(file) as archive:
        part = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    content = bytearray(file.read_bytes())
    content[part.header_offset + 200] ^= 1
    file.write_bytes(content)
    assert fault_of_checkpoint(checkpoint) == f"optimizer.pt: the checksum of its part {part.filename} is wrong"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_missing_file_counts(tmp_path, name):
    """The Trainer would go on without it and not say so."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2")
    (checkpoint / name).unlink()
    assert fault_of_checkpoint(checkpoint) == f"{name} is missing"


def test_missing_weights_and_shards_count(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fault_of_checkpoint(checkpoint) == "model-2.safetensors is missing"
    (checkpoint / "model.safetensors.index.json").unlink()
    (checkpoint / "model.safetensors").unlink()
    assert fault_of_checkpoint(checkpoint) == "the weights are missing"
    sharded = make_checkpoint(tmp_path / "checkpoint-4", backend="DeepSpeed ZeRO-2", processes=2)
    (sharded / "global_step2" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    assert fault_of_checkpoint(sharded) == "of 2 parts of the optimizer's state 1 are there"
    (sharded / "latest").unlink()
    assert fault_of_checkpoint(sharded) == "the folder of DeepSpeed's files is missing"
    torn = make_checkpoint(tmp_path / "checkpoint-6", processes=2)
    (torn / "rng_state_1.pth").unlink()
    assert fault_of_checkpoint(torn) == "rng_state_1.pth is missing"


def test_folders_that_are_no_checkpoints_are_left_alone(tmp_path):
    (tmp_path / "checkpoint-mine").mkdir()
    assert last_whole_checkpoint(tmp_path) is None and last_whole_checkpoint(tmp_path / "none") is None
    assert (tmp_path / "checkpoint-mine").is_dir()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"processes": 2}, r"problems an optimizer step \(processes x .*\): 16 then, 8 now"),
        ({"backend": "DeepSpeed ZeRO-3", "processes": 1}, "backend: DeepSpeed ZeRO-3 then, none now"),
        ({"per_device_train_batch_size": 4}, "problems an optimizer step .*: 4 then, 8 now"),
        ({"gradient_accumulation_steps": 2}, "problems an optimizer step .*: 16 then, 8 now"),
        ({"gpus_per_process": 2, "per_device_train_batch_size": 4}, "gpus_per_process: 2 then, 0 now"),
        ({"training_data": "2 problems"}, "training_data: 2 problems then, 1 problem .ab. now"),
    ],
)
def test_another_launch_is_refused_by_the_key_that_differs(tmp_path, made, says):
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2", **made)
    with pytest.raises(CheckpointError, match=f"other conditions: {says}. Nothing was changed"):
        checkpoint_to_resume(tmp_path, HERE)
    assert checkpoint.is_dir()


@pytest.mark.parametrize(
    "made", [{"processes": 2, "per_device_train_batch_size": 4}, {"processes": 4, "per_device_train_batch_size": 2}]
)
def test_another_number_of_processes_with_the_same_batch_goes_on(tmp_path, made):
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2", **made)
    assert checkpoint_to_resume(tmp_path, HERE) == checkpoint


@pytest.mark.parametrize(
    ("backend", "expected"), [("DeepSpeed ZeRO-2", True), ("DeepSpeed ZeRO-0", False), ("none", False)]
)
def test_parts_of_deepspeed_are_split_over_their_processes(tmp_path, backend, expected):
    two = {"processes": 2, "per_device_train_batch_size": 4, "backend": backend}
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2", **two)
    assert is_split_otherwise(checkpoint, launch(backend=backend)) is expected
    assert not is_split_otherwise(checkpoint, launch(**two))


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_torn_merge_costs_the_merge_alone(tmp_path, is_named, share):
    """Of DeepSpeed's parts; it is made again. Unfinished is what `latest_universal` does not name."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2", backend="DeepSpeed ZeRO-2", processes=2)
    merged = checkpoint / "global_step2_universal"
    (merged / "zero" / "w").mkdir(parents=True)
    torch.save(torch.ones(100), merged / "zero" / "w" / "fp32.pt")
    if is_named:
        (checkpoint / "latest_universal").write_text(merged.name)
    cut(merged / "zero" / "w" / "fp32.pt", share)
    assert last_whole_checkpoint(tmp_path) == checkpoint
    is_whole = is_named and share == 1.0
    assert merged.exists() == is_whole and (checkpoint / "latest_universal").exists() == is_whole


def test_a_stage_without_checkpoints_is_bound_to_no_launch(tmp_path):
    assert checkpoint_to_resume(tmp_path, launch(processes=64)) is None


def test_a_checkpoint_of_an_earlier_version_is_refused_and_kept(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint-2")
    (checkpoint / "trainer_state.json").write_text('{"stateful_callbacks": {}}')
    with pytest.raises(CheckpointError, match="does not say under which launch it was made"):
        checkpoint_to_resume(tmp_path, HERE)
    assert checkpoint.is_dir()


def test_faults_are_found_in_folders_below(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "report.json").write_text("{")
    (tmp_path / "deep" / "notes.txt").write_bytes(b"\xff")  # of a kind that cannot be told
    assert fault_in(tmp_path).startswith("deep/report.json: JSONDecodeError")


def test_plain_pickles_as_deepspeed_may_write_them_count_as_whole(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert fault_in(tmp_path) is None
    (tmp_path / "empty.pt").touch()
    assert fault_in(tmp_path).startswith("empty.pt: BadZipFile")
