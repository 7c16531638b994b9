"""Feature files made to run code, to crash the process, or to take its memory or time: errors that name the file."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from hero_lightning.errors import FeatureError
from hero_lightning.features.foreign.safe_pickle import load_array, load_features
from tests.features.foreign.test_hero_npy import floats

MEGABYTE = 2**20
RAW = b"I00\nS'AAAAAAAA'\ntb."
GLOBAL = b"cnumpy\ndtype\n"
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


def header(descr: str = "'|O'", shape: str = "()", size: int | None = None) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + (len(text) if size is None else size).to_bytes(2, "little") + text


def dtype(name: str, state: str) -> bytes:
    """Opcodes of a dtype with a state."""
    return GLOBAL + f"(S'{name}'\nI00\nI01\ntR".encode() + state.encode() + b"b"


OBJECT = dtype("O8", "(I3\nS'|'\nNNNI-1\nI-1\nI63\nt").decode()
SMUGGLED = f"(I3\nS'|'\nN(S'a'\nt(dS'a'\n({OBJECT}I0\ntsI8\nI1\nI{{}}\nt"
"""State of a void dtype with one object field, which numpy takes for numbers when the flags say so."""
PICKLES = {
    "void with an object field": RECONSTRUCT + b"(I1\n(I1\nt" + dtype("V8", SMUGGLED.format(0)) + RAW,
    "void with flags": RECONSTRUCT + b"(I1\n(I1\nt" + dtype("V8", SMUGGLED.format(63)) + b"I00\n(lNatb.",
    "number with an object field": RECONSTRUCT + b"(I1\n(I1\nt" + dtype("f8", SMUGGLED.format(0)) + RAW,
    "subarray of objects": RECONSTRUCT
    + b"(I1\n(I1\nt" + dtype("V8", f"(I3\nS'|'\n({OBJECT}(I1\nttNNI8\nI1\nI0\nt") + RAW,
    "scalar of objects": b"cnumpy._core.multiarray\nscalar\n(" + OBJECT.encode() + b"S'AAAAAAAA'\ntR.",
    "buffer of objects": b"cnumpy._core.numeric\n_frombuffer\n(S'AAAAAAAA'\n" + OBJECT.encode() + b"(I1\ntS'C'\ntR.",
    "object array of bytes": RECONSTRUCT + b"(I1\n(I1\nt" + OBJECT.encode() + RAW,
    "fewer objects than the shape": RECONSTRUCT + b"(I1\n(I9\nt" + OBJECT.encode() + b"I00\n(lNatb.",
    "too few bytes": RECONSTRUCT + b"(I1\n(I9\nt" + GLOBAL + b"(S'f8'\ntRI00\nS'AAAAAAAA'\ntb.",
    "negative shape": RECONSTRUCT + b"(I1\n(I-1\nt" + GLOBAL + b"(S'f8'\ntRI00\nS''\ntb.",
    "overflowing shape": RECONSTRUCT + b"(I1\n(L4294967296L\nL4294967296L\nt" + GLOBAL + b"(S'f8'\ntRI00\nS''\ntb.",
    "two contents": RECONSTRUCT + (b"(I1\n(I1\nt" + GLOBAL + b"(S'f8'\ntRI00\nS'AAAAAAAA'\ntb") * 2 + b".",
    "made with a shape": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L5000000000L\ntS'b'\ntR.",
    "string of 4 GB": b"cnumpy._core.multiarray\nscalar\n(" + GLOBAL + b"(S'U1000000000'\ntRS''\ntR.",
    "no characters": b"cnumpy._core.multiarray\nscalar\n(" + GLOBAL + b"(S'U1'\ntRS'\\xff\\xff\\xff\\x7f'\ntR.",
    "bytes of a length": b"cbuiltins\nbytes\n(L5000000000L\ntR.",
    "bytearray of a length": b"cbuiltins\nbytearray\n(L5000000000L\ntR.",
    "long bytes": pickle.PROTO + b"\4" + pickle.BINBYTES8 + (5 * 10**9).to_bytes(8, "little") + b".",
    "long bytearray": pickle.PROTO + b"\5" + pickle.BYTEARRAY8 + (5 * 10**9).to_bytes(8, "little") + b".",
    "long frame": pickle.PROTO + b"\4" + pickle.FRAME + (5 * 10**9).to_bytes(8, "little") + b".",
    "far place in the memo": b"N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.",
    "copies of a list": b"(l" + b"Na" * 1000 + b"p0\n0" + b"cbuiltins\nset\n(g0\ntR0" * 1000 + b"N.",
    "copies of bytes": b"S'" + b"A" * 9000 + b"'\np0\n0" + b"c_codecs\nencode\n(g0\nS'latin1'\ntRp1\n0" * 1000 + b"N.",
    "hash of nested tuples": b"(t" + b"2\x86" * 60 + b"p0\n0}g0\nNs.",
    "set of nested tuples": b"(t" + b"2\x86" * 60 + b"p0\n0cbuiltins\nset\n((lg0\natR.",
    "text of nested lists": b"]" + b"2\x86" * 60 + b"p0\n0cbuiltins\nstr\n(g0\ntR.",
    "an item of an array": RECONSTRUCT + b"I0\nI1\ns.",
    "state of a list": b"(lNb.",
    "an instance": b"(cbuiltins\nset\no.",
    "a class by name": b"(icollections\nOrderedDict\n.",
    "persistent id": b"Pname\n.",
    "extension": b"\x82\x01.",
    "outside buffer": b"\x97.",
    "other codec": b"c_codecs\nencode\n(S'a'\nS'zlib'\ntR.",
    "call of a string": b"S'a'\n(tR.",
}  # fmt: skip


@pytest.mark.parametrize("body", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("kind", ["npy", "pkl"])
def test_a_crafted_pickle_is_refused(tmp_path, kind, body):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(header() + body if kind == "npy" else body)
    tracemalloc.start()
    try:
        with pytest.raises(FeatureError, match=f"a.{kind}"):
            load_features(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()


ARRAYS = {
    "far more than the file": header("'<f4'", "(40000, 40000)"),
    "overflowing shape": header("'<f4'", "(4294967296, 4294967296)"),
    "negative shape": header("'<f4'", "(-1, 4)"),
    "fields": header("[('a', '|O')]", "(1,)") + bytes(8),
    "void": header("'|V8'", "(1,)") + bytes(8),
    "objects": header("'|O'", "(1,)") + bytes(8),
    "huge string": header("'<U999999999'", "(1,)"),
    "many dimensions": header("'<f4'", "(" + "1, " * 40 + ")") + bytes(4),
    "nested header": header("'<f4'", "(" * 3000),
    "code in the header": header("'<f4'", "(__import__('os').getpid(),)"),
    "long header": b"\x93NUMPY\2\0" + (2**32 - 1).to_bytes(4, "little"),
    "version 9": header("'<f4'").replace(b"\1\0", b"\x09\0", 1),
    "truncated": header("'<f4'", "(2, 3)") + bytes(23),
    "empty": b"",
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("load", [load_array, load_features])
def test_a_crafted_array_is_refused(tmp_path, load, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FeatureError, match=r"a\.npy"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


def test_an_archive_may_not_grow_beyond_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, clip=np.ones((5, 1_000_000), np.float32))
    with pytest.raises(FeatureError, match=r"limits\.growth=200"):
        load_features(path)
    monkeypatch.setenv("HERO_LIMIT_GROWTH", "2000")
    assert load_features(path)["clip"].shape == (5, 1_000_000)


def test_members_of_an_archive_are_checked_like_files(tmp_path):
    path = tmp_path / "a.npz"
    for content in (header("'<f4'", "(40000, 40000)"), header() + PICKLES["void with an object field"]):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("clip.npy", content)
        with pytest.raises(FeatureError, match=r"a\.npz"):
            load_features(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("clip.npy", header("'<f4'") + bytes(4))
    with pytest.raises(FeatureError, match="compression 14"):
        load_features(path)


@pytest.mark.parametrize("protocol", range(6))
def test_what_numpy_writes_is_read(tmp_path, protocol):
    """All simple dtypes, orders of bytes and memory, objects, and what old Python made."""
    names = ("?", "i1", ">i4", "u8", "f2", ">f4", "f8", "c8", "f16")
    arrays = {name: np.arange(24).reshape(2, 3, 4).astype(name) for name in names}
    arrays |= {"fortran": np.asfortranarray(floats(3, 4)), "view": floats(2, 3, 4).transpose(1, 0, 2)}
    arrays |= {"text": np.array(["a", "béé"]), "bytes": np.array([b"a", b"bcd"]), "empty": np.zeros((0, 4), np.float32)}
    arrays |= {"time": np.array(["2020-01-01"], "M8[D]"), "span": np.array([1, 2], "m8[25us]")}
    arrays |= {"objects": np.array(["a", None, 1.5, {"b": (1, 2)}], dtype=object)}
    scalars = {"n": np.float32(0.5), "day": np.datetime64("2020-01-01"), "word": np.str_("é"), "none": np.str_("")}
    plain = {"l": [1, (2, b"\xff"), {3.5, None}], "f": frozenset("ab"), "b": bytearray(b"ab"), "c": 2j, "big": 2**99}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(arrays | scalars | plain | {("a", 1): 2}, protocol=protocol))
    found = load_features(path)
    for name, want in arrays.items():
        np.testing.assert_array_equal(found[name], want)
        assert found[name].dtype == want.dtype.newbyteorder("=") or found[name].dtype == want.dtype
    assert {k: found[k] for k in scalars | plain} == scalars | plain
    assert found["('a', 1)"] == 2


def test_load_array_reads_what_numpy_saves(tmp_path):
    for value in (floats(3, 4), np.asfortranarray(floats(3, 4)), np.array("é"), np.float64(3), np.zeros((0, 3), ">f8")):
        np.save(tmp_path / "a.npy", value)
        found = load_array(tmp_path / "a.npy")
        np.testing.assert_array_equal(found, value)
        assert found.flags.writeable
        assert found.dtype == value.dtype
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, floats(2, 3), version=(3, 0))
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(load_array(tmp_path / "a.npy"), floats(2, 3))
