"""Reads an offline W&B run: LevelDB log framing (32 KiB blocks, 7-byte record headers) around protobuf records."""

import json
import struct
import time

from wandb.proto import wandb_internal_pb2 as pb

BLOCK, HEADER = 32768, 7


def records(data):
    offset, parts = HEADER, b""  # the file begins with a header of its own
    while offset + HEADER <= len(data):
        left = BLOCK - offset % BLOCK
        if left < HEADER:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + HEADER])
        chunk = data[offset + HEADER : offset + HEADER + length]
        if len(chunk) < length:  # still being written
            return
        offset += HEADER + length
        parts = parts + chunk if kind in (3, 4) else chunk  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(parts)
            yield record


def whole(path, seconds=120):
    """The records of a finished run; the process that writes them may be behind."""
    deadline = time.monotonic() + seconds
    while True:
        found = [(record.WhichOneof("record_type"), record) for record in records(path.read_bytes())]
        if any(kind == "exit" for kind, _ in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def read_run(path):
    """What identifies a run, its tags, config, logged rows, alerts and summaries of metrics, of an offline run file."""
    run, rows, config, alerts, summaries = None, [], {}, [], {}
    for kind, record in whole(path):
        if kind == "run":
            run = record.run
            config = {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "history":
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
        elif kind == "alert":
            alerts.append((record.alert.title, record.alert.text))
        elif kind == "metric":
            shown = record.metric.summary
            summaries[record.metric.name] = {name for name in ("max", "min", "last") if getattr(shown, name)}
    found = {"name": run.display_name, "tags": list(run.tags), "alerts": alerts, "summaries": summaries}
    names = {"project": run.project, "entity": run.entity, "group": run.run_group}
    return {**names, "job_type": run.job_type, "id": run.run_id, "config": config, "rows": rows, **found}


def artifacts(path):
    """Name, type, metadata and files of the artifacts that an offline run would send."""
    found = {}
    for artifact in [record.artifact for kind, record in whole(path) if kind == "artifact"]:
        if artifact.name:
            files = {entry.path for entry in artifact.manifest.contents}
            found[artifact.name] = (artifact.type, json.loads(artifact.metadata or "{}"), files)
    return found
