"""A real Slurm on this machine, for root: a controller, two nodes that are two daemons, and their authentication."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NODES = ("node1", "node2")  # names that resolve to no host, as Slurm allows
# Without control groups, which a container may lack. A job that is queued again may begin once its credential has
# expired: cred_expire seconds, 120 by default.
CONFIG = """\
ClusterName=neuralese
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
JobRequeue=1
PartitionName=all Nodes=ALL Default=YES State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1\n"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Runs Slurm during its block, with its files in an empty folder. Yields the environment for its commands.

    Raises:
        AssertionError: The nodes are not ready within a minute; with the end of the controller's log.
    """
    host, config = socket.gethostname().split(".")[0], folder / "slurm.conf"
    ports = _free_ports(1 + len(NODES))
    nodes = [NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, ports[1:], strict=True)]
    config.write_text(CONFIG.format(host=host, port=ports[0], folder=folder) + "".join(nodes))
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(config)}
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    try:
        for command in (
            ["munged", "--force", f"--socket={folder}/munge.socket", *munge],
            ["slurmctld", "-f", str(config)],
            *(["slurmd", "-N", name, "-f", str(config)] for name in NODES),
        ):
            subprocess.run(command, env=environment, check=True, timeout=60)
        wait_for(lambda: _idle_nodes(environment) == len(NODES), 60, folder / "slurmctld.log")
        yield environment
    finally:
        for name in (*NODES, "slurmctld", "munge"):
            _stop(folder / f"{name}.pid")


def wait_for(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    """Waits until something is so.

    Raises:
        AssertionError: It is not, after so many seconds; with the end of a log.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-4000:] if log.is_file() else f"no {log}"
        time.sleep(0.5)


def _idle_nodes(environment: dict[str, str]) -> int:
    told = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--states=idle"], env=environment, capture_output=True, text=True
    )
    return len(told.stdout.splitlines())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _stop(pid_file: Path) -> None:
    """Ends a daemon that has written its process id, and waits for its end."""
    if not pid_file.is_file():
        return
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
