"""Small and read-only disks."""

import shutil
import subprocess

import pytest


def mount(folder, size, cleanup):
    """A disk of so many bytes in memory, such as 900k, where mounting is allowed; else the test is skipped."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("disks cannot be mounted here")
    cleanup.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
    return folder


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def read_only_run(finished, folder, cleanup):
    """A copy of a finished run on a read-only disk."""
    disk = mount(folder, "20m", cleanup)
    shutil.copytree(finished, disk / finished.name, symlinks=True, ignore=shutil.ignore_patterns("wandb"))
    remount(disk, "ro")
    return disk / finished.name
