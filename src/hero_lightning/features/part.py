"""One part of a Store: a safetensors file of many clips, read by position and compared with checksums.

Data flow: rows -> encode -> bytes of the file; file -> Part -> read(id) -> StoredFeatures.

The file is not memory-mapped: a file that is truncated while it is mapped ends the process with SIGBUS. Every clip has
a CRC-32 over dtype, shapes, measures and numbers, compared when a process reads the clip for the first time (about 1 s
per GB).

Shapes: T steps, D feature width.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hero_lightning.features.manifest import mismatch
from hero_lightning.types import StoredFeatures

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CODES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
TENSOR = {"dtype": str, "shape": [int], "data_offsets": [int]}
RECORD = {"ids": [str], "measures": {str: {str: (int, float)}}}


def encode(rows: Mapping[str, StoredFeatures], dtype: str, record: Mapping[str, Any]) -> bytes:
    """Content of a part file; its record is extended by the checksums.

    Args:
        rows: id -> features.
        dtype: of the stored numbers, a key of DTYPES.
        record: `ids` of all its clips, `measures` by id, and what the Store wants to know of them.
    """
    from safetensors.torch import save

    tensors = {f"x/{id}": row.x.to(DTYPES[dtype]).contiguous() for id, row in rows.items()}
    tensors |= {f"time/{id}": row.time.float().contiguous() for id, row in rows.items() if row.time is not None}
    sums = [_checksum(tensors, id, record["measures"].get(id, {})) if id in rows else 0 for id in record["ids"]]
    return save(
        tensors, {"record": json.dumps({**record, "crc": sums})}
    )  # a single key: safetensors does not keep their order


def _checksum(tensors: Mapping[str, Tensor], id: str, measures: Mapping[str, float]) -> int:
    crc = zlib.crc32(json.dumps(measures, sort_keys=True).encode())
    for name in (f"x/{id}", f"time/{id}"):
        if (x := tensors.get(name)) is not None:
            crc = zlib.crc32(f"{name} {x.dtype} {list(x.shape)}".encode(), crc)
            crc = zlib.crc32(x.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


class Part:
    """An open part file.

    Args:
        path: the file.

    Attributes:
        record: what `encode` was given.

    Raises:
        OSError: it cannot be opened.
        ValueError: its header is damaged, or it is truncated.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._bytes(0, 8), "little")
        self._start = 8 + length
        try:
            header = json.loads(self._bytes(8, length))
            self.record: dict[str, Any] = json.loads(header.pop("__metadata__")["record"])
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("its header holds no record") from error
        if wrong := mismatch(header, {str: TENSOR}) or mismatch(self.record, RECORD):
            raise ValueError(f"its header is damaged: {wrong}")
        self._tensors, self._checked = header, set[str]()

    def _bytes(self, start: int, size: int) -> bytes:
        if not 0 <= start <= start + size <= self.size:
            raise ValueError(f"it ends at byte {self.size}, not {start + size}")
        return self._filled(start, torch.empty(size, dtype=torch.uint8)).numpy().tobytes()

    def _filled(self, start: int, data: Tensor) -> Tensor:
        if (found := os.preadv(self._file.fileno(), [data.numpy().data], start)) != len(data):
            raise ValueError(f"it was truncated to {start + found} bytes while it was read")
        return data

    def _tensor(self, name: str) -> Tensor:
        entry = self._tensors[name]
        dtype, shape, offsets = CODES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if dtype is None or len(offsets) != 2 or min(*shape, *offsets, 0) < 0:
            raise ValueError(f"its header is damaged: {entry}")
        size = offsets[1] - offsets[0]
        if size <= 0 or size != math.prod(shape) * dtype.itemsize or self._start + offsets[1] > self.size:
            raise ValueError(f"its header is damaged: {entry}")
        return self._filled(self._start + offsets[0], torch.empty(size, dtype=torch.uint8)).view(dtype).reshape(shape)

    def read(self, id: str, steps: int, crc: int | None) -> StoredFeatures:
        """One clip's features as float32.

        Args:
            id: of the clip.
            steps: T that it must have.
            crc: its checksum; None = written without.

        Raises:
            OSError, ValueError: the file is damaged.
        """
        measures = self.record["measures"].get(id, {})
        tensors = {name: self._tensor(name) for name in (f"x/{id}", f"time/{id}") if name in self._tensors}
        x, time = tensors.get(f"x/{id}"), tensors.get(f"time/{id}")
        if x is None or x.ndim != 2 or len(x) != steps or (time is not None and time.shape != (steps,)):
            raise ValueError(f"its header is damaged: {id} is not [{steps}, D] there")
        if crc is not None and id not in self._checked:
            if _checksum(tensors, id, measures) != crc:
                raise ValueError(f"the numbers of {id} differ from their checksum")
            self._checked.add(id)
        return StoredFeatures(x.float(), time, dict(measures))
