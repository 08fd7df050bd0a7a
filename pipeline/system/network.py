"""Launches over several machines, and the network interface through which their processes talk."""

from __future__ import annotations

import os
import socket

import psutil


def is_one_machine() -> bool:
    """Whether all processes of this launch are on this machine, as far as its launcher says."""
    return os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE")


def choose_interface() -> None:
    """Tells gloo the network interface of a launch over several machines, unless GLOO_SOCKET_IFNAME names one.

    gloo, which joins processes on CPUs, takes the interface of the address that the machine's own name stands for. On
    many machines that is loopback: the other machines are then told to look for this one on themselves, and the launch
    hangs or ends. The interface that leads to the main machine is one that all machines share.
    """
    main = os.environ.get("MASTER_ADDR")
    if main is None or is_one_machine() or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    try:
        own = _address_towards(main)
    except OSError:  # there is no way to it, or no such name: joining says so
        return
    for interface, addresses in psutil.net_if_addrs().items():
        if own in [address.address for address in addresses]:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
            return


def _address_towards(host: str) -> str:
    """The address of this machine that it reaches a host from.

    Raises:
        OSError: There is no way to the host.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as opened:
        opened.connect(address)  # of a datagram socket: nothing is sent
        return str(opened.getsockname()[0])
