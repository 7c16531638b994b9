"""Pre-made features: every source finds, reads, refuses; real tables where HERO_REAL holds them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from hero_lightning.errors import ConfigError, DataError, FeatureError
from hero_lightning.features.foreign.tables import CsvTable, MmsaPickle, NpyFolder, NpzTable, read_csv
from hero_lightning.features.modality import Modality
from hero_lightning.types import Sample

rng = np.random.default_rng(0)


def clip(id="a"):
    return Sample(id, "train")


def array(*shape):
    return rng.normal(size=shape).astype("float32")


@pytest.fixture
def folders(tmp_path):
    for ending, shape in (("-UTT", (5,)), ("-FRA", (3, 5)), ("", (2, 4, 5))):
        (tmp_path / f"hubert{ending}").mkdir()
        np.save(tmp_path / f"hubert{ending}" / "a.npy", array(*shape))
    return tmp_path


@pytest.mark.parametrize(("level", "shape"), [("utterance", (1, 5)), ("frame", (3, 5)), (None, (2, 5))])
def test_folder(folders, level, shape):
    source = NpyFolder(folders / "hubert", level)
    source.probe([clip()])
    assert source.width() == 5
    assert source.status(clip()).mode == "preextracted"
    assert source.read(clip()).x.shape == shape
    assert source.length(clip()) == shape[0]
    assert source.status(clip("b")).reason == "no feature file"
    with pytest.raises(FeatureError, match="has no feature hubert"):
        source.read(clip("b"))


def test_folder_named_with_its_ending(folders):
    assert NpyFolder(folders / "hubert-UTT", "utterance").read(clip()).x.shape == (1, 5)


def test_folder_refuses(folders):
    with pytest.raises(ConfigError, match=r"Unknown source\.level"):
        NpyFolder(folders, "clip")  # type: ignore[arg-type]
    np.save(folders / "hubert-UTT" / "wide.npy", array(6))
    np.save(folders / "hubert-UTT" / "zero.npy", np.zeros(5, "float32"))
    np.save(folders / "hubert-UTT" / "nan.npy", np.full(5, np.nan, "float32"))
    np.save(folders / "hubert-UTT" / "object.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    (folders / "hubert-UTT" / "torn.npy").write_bytes(b"\x93NUMPY")
    source = NpyFolder(folders / "hubert", "utterance")
    source.probe([clip()])
    said = {"nan": "NaN or Inf", "object": "cannot be read", "torn": "cannot be read"}
    for id, words in {**said, "wide": "width 6, expected 5"}.items():
        found = source.status(clip(id))
        assert found.mode == "broken"
        assert words in found.reason
        assert str(folders) in found.reason
    assert source.status(clip("zero")).mode == "absent"


def npz(path, **changes):
    content = {"names": np.array(["a", "b"]), "au": array(2, 4), "mfcc": array(2, 3, 6)} | changes
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return path


def test_npz(tmp_path):
    path = npz(tmp_path / "t.npz", byname=np.array({"a": array(7)}, dtype=object))
    assert NpzTable(path, "au").read(clip("b")).x.shape == (1, 4)
    assert NpzTable(path, "mfcc").read(clip("b")).x.shape == (3, 6)
    assert NpzTable(path, "byname", ids=None).read(clip("a")).x.shape == (1, 7)
    assert NpzTable(path, "au").status(clip("c")).reason == "no au"
    assert NpzTable(tmp_path / "none.npz", "au").status(clip()).reason == "no feature file"
    assert NpzTable(path, "au", rename={"^03-": "", "x$": "a"}).read(clip("03-x")).x.shape == (1, 4)


@pytest.mark.parametrize(
    ("key", "ids", "changes", "said"),
    [
        ("video", "names", {}, "lacks a key"),
        ("au", "ids", {}, "lacks a key"),
        ("au", "names", {"names": np.array(["a"])}, "differ in number"),
        ("au", "names", {"names": np.array(["a", "a"])}, "'a' twice"),
        ("au", None, {}, "is not a dict"),
    ],
)
def test_npz_refuses(tmp_path, key, ids, changes, said):
    source = NpzTable(npz(tmp_path / "t.npz", **changes), key, ids)
    with pytest.raises(FeatureError, match=said):
        source.probe([clip()])


def test_rename_must_be_regular():
    with pytest.raises(ConfigError, match="rename"):
        NpzTable("t.npz", "au", rename={"(": ""})


def mmsa(path):
    """Two clips of length 2 and 4 in 5 padded steps; the second one's sound holds -inf."""
    audio = np.zeros((2, 5, 3), "float32")
    audio[0, :2], audio[1, :4] = 1, 2
    audio[1, 1, 0] = -np.inf
    bert = np.zeros((2, 3, 5), "float32")
    bert[0, 1, :2], bert[1, 1, :4] = 1, 1
    vision = np.zeros((2, 5, 3), "float32")
    vision[:, 1:3] = 1
    part = {"id": ["v_1$_$0", "v_1$_$12"], "audio": audio, "audio_lengths": [2, 4], "vision": vision}
    part |= {"text": np.ones((2, 5, 6), "float32"), "text_bert": bert, "regression_labels": np.ones(2)}
    path.write_bytes(pickle.dumps({"train": part, "valid": {**part, "id": ["w$_$0", "w$_$1"]}}))
    return path


def test_mmsa(tmp_path, caplog):
    path = mmsa(tmp_path / "u.pkl")
    assert MmsaPickle(path, "audio").read(clip("v_1_0")).x.shape == (2, 3)
    assert "NaN or Inf" in MmsaPickle(path, "audio").status(clip("v_1_12")).reason
    filled = MmsaPickle(path, "audio", fill=0.0)
    assert filled.read(clip("v_1_12")).x[:, 0].tolist() == [2, 0, 2, 2]
    assert "2 numbers of audio" in caplog.text
    assert MmsaPickle(path, "text").read(clip("w_1")).x.shape == (4, 6)
    assert MmsaPickle(path, "vision").read(clip("w_1")).x.shape == (2, 3)  # without lengths: zero rows are padding
    assert filled.identity() != MmsaPickle(path, "audio").identity()


def test_mmsa_runs_nothing(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(FeatureError, match=r"wants to run code.*[\s\S]*posix\.system"):
        MmsaPickle(tmp_path / "evil.pkl", "audio").probe([clip()])
    (tmp_path / "list.pkl").write_bytes(pickle.dumps({"train": [1]}))
    with pytest.raises(FeatureError, match="lacks a key"):
        MmsaPickle(tmp_path / "list.pkl", "audio").probe([clip()])


def test_csv(tmp_path):
    path = tmp_path / "au.csv"
    path.write_text("name;AU01_r;AU01_c;AU02_r\na;1.5;1;2\nb;;0;1\na;3;1;4\n", encoding="utf-8-sig")
    source = CsvTable(path, ["AU*_r"])
    assert source.read(clip()).x.tolist() == [[1.5, 2], [3, 4]]
    assert "NaN" in source.status(clip("b")).reason
    assert CsvTable(path, ["AU02_r", "AU01_r"]).read(clip()).x[0].tolist() == [2, 1.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,b\na,1\n", "lacks a column"),
        ("id,a\na,1\n", "lacks a column"),
        ("name,a\na,one\n", "line 2 is not a number"),
        ("name,a\na\n", "another number of cells"),
        ("", "table is empty"),
        ("name,a\n", "no rows"),
    ],
)
def test_csv_refuses(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        CsvTable(tmp_path / "t.csv", ["a"]).probe([clip()])


def test_csv_needs_columns_and_utf8(tmp_path):
    with pytest.raises(ConfigError, match="No column"):
        CsvTable("t.csv", [])
    (tmp_path / "t.csv").write_bytes(b"name,a\n\xff,1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_csv(tmp_path / "t.csv", []))


def test_a_modality_reads_a_table_after_its_travel_to_a_worker(tmp_path):
    modality = Modality("au", "preextracted", source=NpzTable(npz(tmp_path / "t.npz"), "au"))
    modality.probe([clip()])
    assert modality.dim == 4
    copy = pickle.loads(pickle.dumps(modality))
    assert copy.source._rows is None
    assert copy.stored(clip("b")).x.equal(modality.stored(clip("b")).x)


@pytest.mark.real
@pytest.mark.parametrize(
    ("place", "key", "id", "width", "rename"),
    [
        ("ravdess/au_mfcc.npz", "au", "03-01-01-01-01-01-01", 35, {"^03-": "01-"}),
        ("ravdess/au_mfcc.npz", "mfcc", "03-01-01-01-01-01-01", 259, {"^03-": "01-"}),
        ("mosi/features_bclstm.npz", "text", "03bSnISJMiM_1", 100, None),
        ("mosi/features_bclstm.npz", "audio", "03bSnISJMiM_1", 73, None),
        ("mosi/features_bclstm.npz", "video", "03bSnISJMiM_1", 100, None),
    ],
)
def test_real_tables(place, key, id, width, rename):
    path = Path(os.environ.get("HERO_REAL", "none")) / "data" / place
    if not path.is_file():
        pytest.skip("HERO_REAL is not set")
    source = NpzTable(path, key, rename=rename)
    source.probe([clip(id)])
    assert (source.width(), source.read(clip(id)).x.shape) == (width, (1, width))


def test_within_brings_every_group_to_mean_zero_and_spread_one(tmp_path):
    names = np.array(["a-01", "b-01", "a-02", "b-02", "c-02"])
    values = np.array([[1.0, 5.0], [3.0, 5.0], [10.0, 1.0], [20.0, 2.0], [30.0, 3.0]], dtype=np.float32)
    np.savez(tmp_path / "t.npz", names=names, x=values)
    source = NpzTable(tmp_path / "t.npz", "x", within="..$")
    found = np.stack([source.value(clip(n)) for n in names])
    assert found[0].tolist() == [-1.0, 0.0]  # a feature that stands still within a group becomes zero
    assert found[1].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(found[2:].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found[2:].std(axis=0), 1, atol=1e-6)
    assert source.identity()["within"] == "..$"
    assert "within" not in NpzTable(tmp_path / "t.npz", "x").identity()
    with pytest.raises(FeatureError, match=r"belongs to no group(.|\n)*got: +a-01"):
        NpzTable(tmp_path / "t.npz", "x", within="z").rows()
