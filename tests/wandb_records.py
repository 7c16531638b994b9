"""Reads the .wandb file of an offline run: records in the log format of LevelDB, each a protobuf message."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last part


def records(path: Path) -> Iterator[Any]:
    """The messages of a file, in order; the file itself starts with 7 bytes of its own."""
    content, place, parts = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while place + HEADER.size <= len(content):
        if BLOCK - place % BLOCK < HEADER.size:  # what is left of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        parts += content[place : place + length]
        place += length
        if kind in (1, 4):
            message = wandb_internal_pb2.Record()
            message.ParseFromString(parts)
            parts = b""
            yield message


def offline_run(folder: Path) -> dict[str, Any]:
    """What the one offline run below a folder sent.

    Returns:
        run (name, group, job_type, tags, exit code), config, summary, history (names), artifacts (type -> file names).
    """
    (path,) = folder.rglob("*.wandb")
    out: dict[str, Any] = {"config": {}, "summary": {}, "history": set(), "artifacts": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            out["run"] = {
                "project": run.project,
                "name": run.display_name,
                "group": run.run_group,
                "job_type": run.job_type,
                "tags": list(run.tags),
            }
        updates = {
            "run": lambda r: r.run.config.update,
            "config": lambda r: r.config.update,
            "summary": lambda r: r.summary.update,
            "history": lambda r: r.history.item,
        }
        for item in updates[kind](record) if kind in updates else ():
            place = [item.key] if item.key else list(item.nested_key)
            if kind == "history":
                out["history"].add("/".join(place))
                continue
            node = out["config" if kind in ("run", "config") else "summary"]
            for key in place[:-1]:
                node = node.setdefault(key, {})
            node[place[-1]] = json.loads(item.value_json)
        if kind == "artifact":
            out["artifacts"][record.artifact.type] = sorted(c.path for c in record.artifact.manifest.contents)
        if kind == "exit":
            out["exit"] = record.exit.exit_code
    return out
