"""What each of several processes holds of a step, by how they share it."""

from __future__ import annotations

from typing import Literal

from .ledger import Bytes
from .peak import Peak

Way = Literal["one process", "DDP", "ZeRO-2", "ZeRO-3"]
# DeepSpeed's defaults, in numbers of float32: gradients that are gathered before they are sent, and weights that are
# whole at a time (reduce_bucket_size, stage3_max_live_parameters).
BUCKET, LIVE = 4 * 5 * 10**8, 4 * 10**9


def ways(processes: int, quantized: bool) -> list[Way]:
    """How so many processes may share a step. A base in few bits takes no DeepSpeed."""
    if processes == 1:
        return ["one process"]
    return ["DDP"] if quantized else ["DDP", "ZeRO-2", "ZeRO-3"]


def held(peak: Peak, way: Way, processes: int) -> Bytes:
    """What a process holds when it holds most, in bytes.

    DDP keeps a second copy of the gradients, in the buckets that it sends. ZeRO-2 keeps a process's part of gradients,
    optimizer states and of a second copy of the weights, which the optimizer changes; ZeRO-3 of the weights, too, of
    which some are whole at a time, and all while rollouts are drawn, unless these gather them layer by layer.
    """
    if way in ("one process", "DDP"):
        copies = 0 if way == "one process" else peak.trained
        return {**peak.most, "reference": peak.reference, "gradients": peak.most.get("gradients", 0) + copies}
    part, states = peak.trained // processes, peak.optimizer // processes
    if way == "ZeRO-3":
        whole = peak.in_full if peak.draws and peak.draws_whole else min(peak.in_full, LIVE)
        always = _kinds(peak.in_full // processes + whole, peak.reference // processes, states)
        sent = 0 if peak.draws else min(BUCKET, peak.trained)  # a second bucket, in the order of the processes
        return {**peak.most_beside_gradients, **always, "gradients": BUCKET + part + sent}  # the first is never freed
    always = _kinds(peak.in_full, peak.reference, states + part)
    if peak.draws:
        return {**peak.most, **always}
    # Activations go as gradients come. Of those that are there at one of the two moments a process keeps its part.
    ends: list[Bytes] = []
    for end in (peak.most, peak.most_beside_gradients):
        there = part if peak.accumulates else end.get("gradients", 0) // processes
        ends.append({**end, **always, "gradients": BUCKET + there})
    return max(ends, key=lambda end: sum(end.values()))


def _kinds(weights: int, reference: int, optimizer: int) -> Bytes:
    return {"weights": weights, "reference": reference, "optimizer": optimizer}
