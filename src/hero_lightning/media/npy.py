"""Reads .npy arrays of plain numbers and strings; sizes are checked against the file before memory is taken.

Data flow: file -> read_header -> (dtype, order, shape) -> read_data -> array.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096
"""Bytes; numpy writes 118 for an array of numbers."""
HEADER = re.compile(
    r"\{\s*'descr':\s*'([^'\\]+)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\dL, ]*)\),?\s*\}\s*"
)
DTYPE = re.compile(r"[<>=|]?(?:[?]|b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SU]\d{1,7}|[Mm]8(?:\[\d*\w{1,2}\])?|O8?)")
MAX_DIMS = 32


class Header(NamedTuple):
    """What the data of a .npy are; `dtype` may be object, whose data is a pickle."""

    dtype: np.dtype
    fortran: bool
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data (of numbers and strings)."""
        return math.prod(self.shape) * self.dtype.itemsize


def simple_dtype(name: str) -> np.dtype:
    """A dtype of numbers, strings, times or objects by its name. ValueError for any other: fields, void, subarrays."""
    if not DTYPE.fullmatch(name):
        raise ValueError(f"dtype {name[:40]!r} is not one of numbers, strings or objects")
    return np.dtype(name)


def read_header(file: IO[bytes]) -> Header:
    """The header at the file's position, up to its data. ValueError if it is damaged or has another kind of dtype."""
    magic = file.read(8)
    if magic[:6] != MAGIC or magic[6:7] not in (b"\1", b"\2", b"\3"):
        raise ValueError("not a .npy file of version 1, 2 or 3")
    size = int.from_bytes(file.read(2 if magic[6] == 1 else 4), "little")
    text = file.read(size).decode("latin1") if size <= MAX_HEADER else ""
    if not (found := HEADER.fullmatch(text)):
        raise ValueError(f"header of {size} bytes is not that of a plain array: {text[:60]!r}")
    shape = tuple(int(n.rstrip("L")) for n in found[3].replace(" ", "").split(",") if n)
    if len(shape) > MAX_DIMS:
        raise ValueError(f"{len(shape)} dimensions")
    return Header(simple_dtype(found[1]), found[2] == "True", shape)


def read_data(file: IO[bytes], header: Header, left: int) -> np.ndarray:
    """The data after a header. ValueError if fewer than its bytes are left.

    Args:
        file: at the data.
        header: of numbers or strings.
        left: bytes from there to the end of the file.
    """
    if header.dtype.hasobject:
        raise ValueError("objects where numbers belong")
    if header.nbytes > left:
        raise ValueError(f"{left} bytes of data, the header promises {header.nbytes}")
    raw = np.empty(header.nbytes, np.uint8)
    if file.readinto(raw) != len(raw):  # type: ignore[attr-defined]
        raise ValueError("the data end before their length")
    return text_checked(raw.view(header.dtype)).reshape(header.shape, order="F" if header.fortran else "C")


def text_checked(x: np.ndarray) -> np.ndarray:
    """The array itself. ValueError if it holds numbers that are no Unicode characters."""
    if x.dtype.kind == "U" and x.size:
        codes = np.ascontiguousarray(x.reshape(-1)).view(np.dtype(np.uint32).newbyteorder(x.dtype.byteorder))
        if ((codes > 0x10FFFF) | (codes >> 11 == 0x1B)).any():  # 0x1B: surrogates
            raise ValueError("a string holds numbers that are no characters")
    return x


def load_array(path: Path) -> np.ndarray:
    """Array of a .npy file of numbers or strings.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or holds objects.
    """
    with path.open("rb") as file:
        header = read_header(file)
        return read_data(file, header, path.stat().st_size - file.tell())
