from __future__ import annotations

import contextlib
import io
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hero_lightning.errors import ConfigError, FeatureError
from hero_lightning.features.foreign import hero_npy
from hero_lightning.features.foreign.hero_npy import NpyDict, write_npydict
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.types import Sample

S = Sample("a", "train")


def floats(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "rule", "want"),
    [
        ((1408,), "cls", (1, 1408)),
        ((7, 768), "cls", (7, 768)),
        ((1, 7, 512), "cls", (7, 512)),
        ((4, 257, 16), "cls", (4, 16)),
        ((4, 257, 16), "mean", (4, 16)),
        ((4, 9, 16), "flatten", (36, 16)),
        ((1, 1024), "mean", (1, 1024)),
        ((20, 35), "cls", (20, 35)),
    ],
)
def test_shapes(tmp_path, shape, rule, want):
    value = floats(*shape)
    write_npydict(tmp_path / "a.npy", {"clip": value})
    source = NpyDict(tmp_path, "clip", patch_reduce=rule)
    source.probe([S])
    row = source.read(S)
    assert tuple(row.x.shape) == want
    assert source.width() == want[1]
    assert source.length(S) == want[0]
    if value.ndim == 3 and value.shape[0] > 1:
        expected = {"cls": value[:, 0], "mean": value.mean(1), "flatten": value.reshape(-1, 16)}[rule]
        np.testing.assert_allclose(row.x.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_every_float_is_read_as_float32(tmp_path, dtype):
    value = floats(3, 4, dtype=dtype)
    write_npydict(tmp_path / "a.npy", {"clip": value})
    row = NpyDict(tmp_path, "clip").read(S)
    assert row.x.dtype == torch.float32
    np.testing.assert_allclose(row.x.numpy(), value.astype(np.float32))


@pytest.mark.parametrize("value", [None, np.zeros((0, 4), np.float32), [], np.zeros((1, 1, 1024), np.float32)])
def test_absent(tmp_path, value):
    write_npydict(tmp_path / "a.npy", {"clip": value, "bert": floats(2, 4)})
    source = NpyDict(tmp_path, "clip")
    assert source.status(S).mode == "absent"
    assert source.length(S) is None
    with pytest.raises(FeatureError, match="has no feature clip"):
        source.read(S)
    assert NpyDict(tmp_path, "hubert").status(S).mode == "absent"
    assert NpyDict(tmp_path, "clip").status(Sample("b", "train")).reason == "no feature file"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([[1.0, np.nan]], np.float32), "NaN or Inf"),
        (np.array([[1.0, np.inf]], np.float32), "NaN or Inf"),
        (np.ones((2, 4), np.int64), "int64"),
        ("a word", "str"),
        (np.ones((2, 2, 2, 2), np.float32), "rank"),
    ],
)
def test_broken(tmp_path, value, said):
    write_npydict(tmp_path / "a.npy", {"clip": value})
    source = NpyDict(tmp_path, "clip")
    found = source.status(S)
    assert found.mode == "broken"
    assert said in found.reason
    assert "a.npy" in found.reason
    with pytest.raises(FeatureError, match=said):
        source.read(S)


@given(cut=st.integers(0, 700), flips=st.lists(st.tuples(st.integers(0, 699), st.integers(0, 255)), max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_an_error_or_harmless(tmp_path, cut, flips):
    path = tmp_path / "a.npy"
    write_npydict(path, {"clip": floats(8, 16), "transcript": "hello"})
    data = bytearray(path.read_bytes())
    assert len(data) >= 700
    for place, value in flips:
        data[place] = value
    path.write_bytes(data[: len(data) - cut])
    with contextlib.suppress(FeatureError):
        assert isinstance(load_features(path), dict)


def test_truncated_file_is_broken(tmp_path):
    path = tmp_path / "a.npy"
    write_npydict(path, {"clip": floats(8, 16)})
    path.write_bytes(path.read_bytes()[:-40])
    assert NpyDict(tmp_path, "clip").status(S).mode == "broken"
    path.write_bytes(b"")
    assert NpyDict(tmp_path, "clip").status(S).mode == "broken"


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_foreign_callable_is_refused_by_name(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("EVIL", str(tmp_path / "made"))
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array({"clip": Evil()}, dtype=object), file, protocol=protocol)
    with pytest.raises(FeatureError, match=r"posix\.mkdir") as info:
        load_features(path)
    assert str(path) in str(info.value)
    found = NpyDict(tmp_path, "clip").status(S)
    assert found.mode == "broken"
    assert "mkdir" in found.reason
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "numpy.load", "numpy.core.multiarray.fromfile"])
def test_admitted_modules_do_not_admit_their_other_callables(tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(f"c{module}\n{attribute}\n(S'1'\ntR.".encode())
    with pytest.raises(FeatureError, match="wants to run code"):
        load_features(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol_and_both_homes_of_numpy(tmp_path, protocol):
    content = {"clip": floats(3, 4), "score": np.float32(0.5), "transcript": "hé", "n": 3, "raw": b"\x00\xff"}
    body = pickle.dumps(np.array(content, dtype=object), protocol=protocol)
    for data in (body, body.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")):
        if data is not body and protocol >= 4:
            continue  # names are length-prefixed there
        path = tmp_path / "a.npy"
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
            file.write(data)
        found = load_features(path)
        np.testing.assert_array_equal(found["clip"], content["clip"])
        assert {k: found[k] for k in ("score", "transcript", "n", "raw")} == {
            k: content[k] for k in ("score", "transcript", "n", "raw")
        }


def test_other_containers(tmp_path):
    value = floats(3, 4)
    np.savez(tmp_path / "a.npz", clip=value, transcript=np.array("hello"))
    save_file({"clip": value.astype(np.float16)}, tmp_path / "b.safetensors", metadata={"transcript": "hi"})
    np.savez(tmp_path / "c.npz", clip=np.array({"x": Evil}, dtype=object))
    source = NpyDict(tmp_path, "clip")
    np.testing.assert_array_equal(source.read(S).x, value)
    np.testing.assert_allclose(source.read(Sample("b", "train")).x, value, rtol=1e-3)
    assert [source.transcript(Sample(i, "train")) for i in "abcd"] == ["hello", "hi", None, None]
    assert "Evil" in source.status(Sample("c", "train")).reason
    (tmp_path / "e.safetensors").write_bytes(b"junk")
    assert source.status(Sample("e", "train")).mode == "broken"


def test_a_file_of_the_sample_goes_before_the_root(tmp_path):
    own = tmp_path / "elsewhere" / "x.npy"
    write_npydict(own, {"clip": floats(2, 3)})
    source = NpyDict(tmp_path / "nothing", "clip")
    assert source.contains(Sample("a", "train", files={"features": own}))


def test_a_plain_array_holds_no_dict(tmp_path):
    np.save(tmp_path / "a.npy", floats(3, 4))
    with pytest.raises(FeatureError, match="holds no dict"):
        load_features(tmp_path / "a.npy")


@pytest.mark.parametrize("width", [512, 768, 1024, 1408, 35])
def test_width_is_inferred_and_disagreement_named(tmp_path, width):
    for id in "abc":
        write_npydict(tmp_path / f"{id}.npy", {"clip": floats(2, width)})
    write_npydict(tmp_path / "d.npy", {"clip": floats(2, width + 1)})
    samples = [Sample(id, "train") for id in "zabc"]  # z has no file: the first readable ones count
    source = NpyDict(tmp_path, "clip")
    assert source.width() is None
    source.probe(samples)
    assert source.width() == width
    late = source.status(Sample("d", "train"))
    assert late.mode == "broken"
    with pytest.raises(FeatureError) as info:
        source.read(Sample("d", "train"))
    for part in ("d.npy", "clip", str(width), str(width + 1)):
        assert part in str(info.value)
    with pytest.raises(FeatureError, match="another width"):
        NpyDict(tmp_path, "clip").probe([*samples, Sample("d", "train")])
    few = NpyDict(tmp_path, "clip", probe_count=3)
    few.probe([*samples, Sample("d", "train")])
    assert few.width() == width


def test_one_load_serves_all_keys(tmp_path, monkeypatch):

    write_npydict(tmp_path / "a.npy", {"clip": floats(2, 3), "bert": floats(2, 4), "hubert": floats(2, 5)})
    loads = []
    real = hero_npy.load_features
    monkeypatch.setattr(hero_npy, "load_features", lambda path: loads.append(path) or real(path))
    sources = [NpyDict(tmp_path, key) for key in ("clip", "bert", "hubert")]
    assert all(s.contains(S) for s in sources)
    assert len(loads) == 1
    assert [s.read(S).x.shape[1] for s in sources] == [3, 4, 5]
    assert len(loads) == 2


def test_unknown_patch_rule(tmp_path):
    with pytest.raises(ConfigError, match="cls, mean, flatten"):
        NpyDict(tmp_path, "clip", patch_reduce="max")


def test_what_we_write_numpy_reads(tmp_path):
    write_npydict(tmp_path / "sub" / "a.npy", {"clip": floats(2, 3), "transcript": "x"})
    assert np.load(tmp_path / "sub" / "a.npy", allow_pickle=True).item()["transcript"] == "x"
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.npy"]
    assert io.BytesIO((tmp_path / "sub" / "a.npy").read_bytes()).read(6) == b"\x93NUMPY"
