"""A process that is killed as it builds a C++ extension does not make later launches wait without end."""

import os
import subprocess
import sys

import psutil
import pytest
from torch.utils.file_baton import FileBaton

from neuralese.pipeline.system.builds import free_dead_builds

HOLD = (
    "import sys, time; from torch.utils.file_baton import FileBaton; "
    "FileBaton(sys.argv[1]).try_acquire(); print(flush=True); time.sleep(60)"
)
LONG_AGO = psutil.Process().create_time() - 3600.0  # before this process began, however long it has run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "fused_adam").mkdir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "0")
    return tmp_path / "fused_adam"


@pytest.fixture
def holder(folder):
    """Another process that holds the lock of torch, and has for an hour."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder / "lock"], stdout=subprocess.PIPE)
    process.stdout.readline()
    os.utime(folder / "lock", (LONG_AGO,) * 2)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_lock_of_a_killed_process_is_removed_and_named(folder, holder, caplog):
    holder.kill()
    holder.wait()
    assert not FileBaton(str(folder / "lock")).try_acquire()
    free_dead_builds()
    assert str(folder / "lock") in caplog.text
    assert FileBaton(str(folder / "lock")).try_acquire()


def test_the_lock_of_a_living_process_stays(folder, holder, caplog):
    free_dead_builds()
    assert (folder / "lock").is_file() and not caplog.text


def test_a_folder_behind_a_link_is_the_same(folder, holder, monkeypatch):
    (folder.parent / "link").symlink_to(folder.parent)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder.parent / "link"))
    free_dead_builds()
    assert (folder / "lock").is_file()


@pytest.mark.parametrize(("age", "stays"), [(600, True), (3600, False)])
def test_a_lock_may_belong_to_another_machine_of_the_launch(folder, monkeypatch, age, stays):
    """Until it is older than any build, by so many seconds before this process began."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    (folder / "lock").touch()
    os.utime(folder / "lock", (psutil.Process().create_time() - age,) * 2)
    free_dead_builds()
    assert (folder / "lock").is_file() == stays


def test_a_lock_that_is_newer_than_this_process_stays(folder):
    """Its holder may be of this launch, on another machine that shares the folder."""
    (folder / "lock").touch()
    free_dead_builds()
    assert (folder / "lock").is_file()


@pytest.mark.parametrize("rank", ["1", None])
def test_the_first_launched_process_of_a_machine_alone_removes(folder, monkeypatch, rank):
    (folder / "lock").touch()
    os.utime(folder / "lock", (LONG_AGO,) * 2)
    monkeypatch.delenv("LOCAL_RANK") if rank is None else monkeypatch.setenv("LOCAL_RANK", rank)
    free_dead_builds()
    assert (folder / "lock").is_file()


def test_the_folder_of_torch_is_found(folder, monkeypatch, tmp_path):
    """Without the variable it lies in the cache of the user, in a folder for each version of Python."""
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lock = tmp_path / "torch_extensions" / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (LONG_AGO,) * 2)
    free_dead_builds()
    assert not lock.exists()
