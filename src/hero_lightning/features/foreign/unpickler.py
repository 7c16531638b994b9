"""A restricted unpickler: builds numpy arrays and builtins only, and calls nothing of the file's choice.

Data flow: pickle of a known size -> Unpickler -> dicts, lists, strings, numbers, arrays of simple dtypes.

numpy's own `dtype.__setstate__` and `_reconstruct` trust their input (a void dtype with a smuggled object field crashes
the process), so stand-ins check dtype, shape and size before an array is made. Memory grows with the file's size only:
whatever copies data draws on a budget made from that size. It is pure Python on purpose: pickle's C version allocates
memory for the largest index and length that a file names.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from hero_lightning.errors import FeatureError
from hero_lightning.media.npy import MAX_DIMS, simple_dtype, text_checked

OPCODES = (
    pickle.MARK + pickle.STOP + pickle.POP + pickle.POP_MARK + pickle.DUP + pickle.NONE + pickle.NEWTRUE
    + pickle.NEWFALSE + pickle.PROTO + pickle.FRAME
    + pickle.INT + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG + pickle.LONG1 + pickle.LONG4
    + pickle.FLOAT + pickle.BINFLOAT
    + pickle.STRING + pickle.BINSTRING + pickle.SHORT_BINSTRING + pickle.BINBYTES + pickle.SHORT_BINBYTES
    + pickle.BINBYTES8 + pickle.BYTEARRAY8 + pickle.UNICODE + pickle.BINUNICODE + pickle.SHORT_BINUNICODE
    + pickle.BINUNICODE8
    + pickle.EMPTY_LIST + pickle.LIST + pickle.APPEND + pickle.APPENDS + pickle.EMPTY_TUPLE + pickle.TUPLE
    + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3 + pickle.EMPTY_DICT + pickle.DICT + pickle.SETITEM
    + pickle.SETITEMS + pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET
    + pickle.GET + pickle.BINGET + pickle.LONG_BINGET + pickle.PUT + pickle.BINPUT + pickle.LONG_BINPUT
    + pickle.MEMOIZE + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.REDUCE + pickle.BUILD
)  # fmt: skip
"""No opcode that makes an instance of a class, asks for a persistent id, an extension or an outside buffer."""
KEYS = (str, bytes, int, float, complex, bool, type(None), np.generic)
UNITS = {"Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic"}


class _Dtype:
    """Stand-in for a numpy dtype: made by its name, then given its byte order."""

    def __init__(self, name: str) -> None:
        self.dtype = simple_dtype(name)

    def build(self, state: tuple[Any, ...]) -> None:
        """Takes the state of numpy's pickle: (version, byte order, subarray, names, fields, size, ..., unit)."""
        version, order, subarray, names, fields, size = state[:6]
        plain = subarray is None and names is None and fields is None and size in (-1, self.dtype.itemsize)
        if version not in (3, 4) or order not in ("<", ">", "=", "|") or not plain:
            raise pickle.UnpicklingError("a dtype that is not one of plain numbers, strings or objects")
        if self.dtype.kind in "mM" and len(state) > 8:
            unit, count = state[8][1][:2]
            unit = unit.decode() if isinstance(unit, bytes) else unit
            if unit not in UNITS or not isinstance(count, int):
                raise pickle.UnpicklingError("a unit of time that numpy does not know")
            self.dtype = self.dtype if unit == "generic" else np.dtype(f"{self.dtype.kind}8[{count}{unit}]")
        if order != "|":
            self.dtype = self.dtype.newbyteorder(order)


_PurePython: Any = pickle._Unpickler


class Unpickler(_PurePython):
    """Rebuilds numpy arrays and builtins; anything else is refused.

    Args:
        file: at the pickle.
        path: its name, for messages.
        size: bytes that may be read.

    Raises:
        FeatureError: the file names a callable that is not admitted.
        UnpicklingError, ValueError, LookupError, ...: it is damaged (see safe_pickle.DAMAGE).
    """

    def __init__(self, file: IO[bytes], path: Path, size: int) -> None:
        super().__init__(_Bounded(file, size), encoding="latin1")  # for arrays of Python 2
        self.path, self.size, self.budget = path, size, 4 * size
        self._empty: dict[int, np.ndarray] = {}  # arrays that wait for their content, by id

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for an admitted callable."""
        found = self._admitted().get((module, name))
        if found is None:
            raise FeatureError(
                "The file wants to run code; it was not loaded.",
                expected="numpy arrays and builtins",
                got=f"{module}.{name}",
                where=self.path,
                hint="write the features again with numpy.save({key: array}) from a source you trust",
            )
        return found

    def _admitted(self) -> dict[tuple[str, str], Any]:
        out: dict[tuple[str, str], Any] = {("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): self._dtype}
        for package in ("numpy.core", "numpy._core"):
            out[f"{package}.multiarray", "_reconstruct"] = self._reconstruct
            out[f"{package}.multiarray", "scalar"] = self._scalar
            out[f"{package}.numeric", "_frombuffer"] = self._frombuffer
        out["_codecs", "encode"] = self._encode
        for package in ("builtins", "__builtin__"):
            out |= {(package, "set"): self._set, (package, "frozenset"): self._frozenset}
            out |= {(package, "bytes"): self._bytes, (package, "bytearray"): self._bytearray}
            out[package, "complex"] = self._complex
        return out

    def _take(self, amount: int) -> None:
        """Draws on the budget, which a file that repeats one piece of data exhausts."""
        self.budget -= amount
        if self.budget < 0:
            raise pickle.UnpicklingError(f"the file of {self.size} bytes makes more data than it holds")

    def _hashed(self, keys: Iterable[Any]) -> Iterable[Any]:
        """Keys of a dict or set: scalars and tuples of them. The hash of deeper tuples can take forever."""
        for key in keys:
            flat = key if isinstance(key, tuple) else (key,)
            if not all(isinstance(k, KEYS) for k in flat):
                raise pickle.UnpicklingError(f"{type(key).__name__} as a key")
            self._take(len(flat) - 1)
        return keys

    # ---- stand-ins for the callables of numpy's and old pickles

    def _dtype(self, name: Any, *_: Any) -> _Dtype:
        return _Dtype(name.decode() if isinstance(name, bytes) else name)

    def _reconstruct(self, kind: Any, shape: Any, code: Any) -> np.ndarray:
        if kind != "ndarray" or shape != (0,):
            raise pickle.UnpicklingError("an array with another start than numpy's")
        array = np.ndarray((0,), np.int8)
        self._empty[id(array)] = array
        return array

    def _scalar(self, dtype: _Dtype, raw: Any) -> Any:
        return self._checked(dtype, (), raw.encode("latin1") if isinstance(raw, str) else raw)[()]

    def _frombuffer(self, raw: Any, dtype: _Dtype, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
        array = self._checked(dtype, shape, raw, order if order in ("C", "F") else "C")
        return array if order in ("C", "F") or axes is None else array.transpose(axes)

    def _checked(self, kind: _Dtype, shape: Any, raw: Any, order: Any = "C") -> np.ndarray:
        """View of bytes as an array; their number is that of shape and dtype."""
        dtype, count = kind.dtype, _count(shape)
        if not dtype.itemsize and count <= 1:
            return np.zeros(shape, dtype)  # numpy's view of an empty string
        fits = isinstance(raw, bytes | bytearray) and len(raw) == count * dtype.itemsize
        if dtype.hasobject or not dtype.itemsize or not fits:
            raise pickle.UnpicklingError(f"{type(raw).__name__} is not the content of {dtype} {shape}")
        return text_checked(np.frombuffer(raw, np.uint8).view(dtype)).reshape(shape, order=order)

    def _encode(self, text: str, codec: str = "latin1") -> bytes:
        if codec not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"codec {codec}")
        self._take(len(text))
        return text.encode("latin1")

    def _bytes(self) -> bytes:
        return b""

    def _bytearray(self, raw: Any = b"", codec: str = "latin1") -> bytearray:
        raw = self._encode(raw, codec) if isinstance(raw, str) else raw
        if not isinstance(raw, bytes):
            raise pickle.UnpicklingError("a bytearray of other things than bytes")
        self._take(len(raw))
        return bytearray(raw)

    def _set(self, items: Any = ()) -> set[Any]:
        if not isinstance(items, (list, tuple)):
            raise pickle.UnpicklingError("a set of other things than a list")
        self._take(len(items))
        return set(self._hashed(items))

    def _frozenset(self, items: Any = ()) -> frozenset[Any]:
        return frozenset(self._set(items))

    def _complex(self, real: float, imaginary: float) -> complex:
        return complex(real, imaginary)

    # ---- opcodes that trust their input in pickle

    def load_reduce(self) -> None:
        """Calls a stand-in."""
        args, function = self.stack.pop(), self.stack[-1]
        if not (callable(function) and isinstance(args, tuple)):
            raise pickle.UnpicklingError("a call of something that is not a function")
        self.stack[-1] = function(*args)

    def load_build(self) -> None:
        """Gives a dtype or an array its content."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            target.build(state)
        elif isinstance(target, np.ndarray) and id(target) in self._empty:
            del self._empty[id(target)]
            self._fill(target, *state)
        else:
            raise pickle.UnpicklingError(f"a state for {type(target).__name__}")

    def _fill(self, target: np.ndarray, version: Any, shape: Any, kind: _Dtype, fortran: Any, raw: Any) -> None:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if kind.dtype.hasobject:
            if not isinstance(raw, list) or len(raw) != _count(shape):
                raise pickle.UnpicklingError("objects that do not fill their array")
        else:
            self._checked(kind, shape, raw)
        self._take(len(raw))
        restore: Any = target.__setstate__  # numpy wants a bool here and declares its own
        restore((1, shape, kind.dtype, bool(fortran), raw))

    def load_bytearray8(self) -> None:
        """A bytearray no longer than the file."""
        raw = self.read(int.from_bytes(self.read(8), "little"))
        self.append(bytearray(raw))

    def load_append(self) -> None:
        """Appends to a list, and to nothing else that has such a method."""
        _into(self.stack[-2], list)
        super().load_append()

    def load_appends(self) -> None:
        """Like load_append."""
        _into(self.metastack[-1][-1], list)
        super().load_appends()

    def load_setitem(self) -> None:
        """Puts an item into a dict."""
        _into(self.stack[-3], dict)
        self._hashed(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Like load_setitem."""
        _into(self.metastack[-1][-1], dict)
        self._hashed(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """A dict of the items since the mark."""
        self._hashed(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        """Adds to a set."""
        _into(self.metastack[-1][-1], set)
        self._hashed(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        """A frozenset of the items since the mark."""
        self._hashed(self.stack)
        super().load_frozenset()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {k: _PurePython.dispatch[k] for k in OPCODES}
    dispatch |= {
        pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build, pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.APPEND[0]: load_append, pickle.APPENDS[0]: load_appends, pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict, pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }  # fmt: skip


def _into(target: Any, kind: type) -> None:
    if type(target) is not kind:
        raise pickle.UnpicklingError(f"items for {type(target).__name__}")


def _count(shape: Any) -> int:
    """Number of elements; UnpicklingError if it is not the shape of an array."""
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMS or any(type(n) is not int or n < 0 for n in shape):
        raise pickle.UnpicklingError("a shape that is not one of integers")
    count = 1
    for n in shape:
        count *= n
    return count


class _Bounded:
    """A file of which `size` more bytes may be read; never allocates more than that."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, size

    def read(self, size: int) -> bytes:
        return self._count(self.file.read(min(size, self.left)))

    def readline(self) -> bytes:
        return self._count(self.file.readline(self.left))

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        return data
