from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.encoders.handcrafted import FrameHog, HashedWords, LogMelProsody
from hero_lightning.errors import ConfigError, FeatureError
from hero_lightning.features.extraction import fill
from hero_lightning.features.foreign.hero_npy import NpyDict, write_npydict
from hero_lightning.media.frame_samplers import HeadTail, Uniform
from hero_lightning.types import EncoderInput, Media, Sample, StoredFeatures
from tests.features.conftest import make
from tests.helpers import make_modality
from tests.tiny_encoders import TinyText


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "smell", "mode": "auto"}, "Unknown modality"),
        ({"name": "text", "mode": "sometimes"}, "Unknown modality.text.mode"),
        ({"name": "text", "mode": "realtime"}, "encoder@modality.text.encoder=NAME"),
        ({"name": "text", "mode": "preextracted"}, "needs an encoder"),
        ({"name": "text", "mode": "auto", "encoder": HashedWords, "max_len": 0}, "max_len is out of range"),
        (
            {"name": "text", "mode": "auto", "encoder": HashedWords, "context_turns": -1},
            "context_turns is out of range",
        ),
        ({"name": "frame", "mode": "auto", "encoder": FrameHog}, "sampler@modality.frame.sampler=uniform"),
        ({"name": "frame", "mode": "auto", "encoder": LogMelProsody, "sampler": Uniform()}, "takes frames"),
        (
            {"name": "text", "mode": "auto", "encoder": partial(TinyText, trainable=True)},
            "mode@modality.text=realtime",
        ),
        ({"name": "text", "mode": "preextracted", "encoder": partial(TinyText, trainable=True)}, "cannot be stored"),
        ({"name": "text", "mode": "auto", "encoder": HashedWords, "fallback": True}, "Only stored features have"),
        (
            {"name": "text", "mode": "preextracted", "source": NpyDict("x", "bert"), "fallback": True},
            "encoder@modality.text.encoder=NAME",
        ),
        (
            {"name": "frame", "mode": "preextracted", "encoder": FrameHog, "sampler": HeadTail(4)},
            "mode@modality.frame=realtime",
        ),
    ],
)
def test_wrong_settings_are_refused_with_the_remedy(options, said):
    with pytest.raises(ConfigError, match=said):
        make_modality(**options)


def test_identity_changes_with_what_decides_the_features_and_with_nothing_else(tmp_path):
    base = make("frame")
    others = {
        "encoder": make("frame", encoder=partial(FrameHog, size=32, cells=8)),
        "sampler": make("frame", sampler=Uniform(5)),
        "size": make("frame", size=48),
    }
    same = make("frame", mode="realtime", max_len=3, cache=False)
    for modality in (base, same, *others.values()):
        modality.bind(tmp_path, "demo")
    assert same.identity() == base.identity()
    assert same.store.folder == base.store.folder
    for key, other in others.items():
        assert other.identity() != base.identity(), key
        assert other.store.folder != base.store.folder, key
    assert base.store.folder.parent == tmp_path / "demo" / "frame"
    assert base.store.folder.name.startswith("framehog-uniform-4-")


def test_storable_and_cacheable():
    assert make("frame").cacheable
    assert make("frame", mode="realtime").storable
    assert not make("frame", mode="realtime").cacheable
    assert not make("frame", cache=False).cacheable
    assert not make("frame", sampler=HeadTail(4)).storable
    assert not make("text", mode="realtime", encoder=partial(TinyText, trainable=True)).storable


def test_media_availability(samples, tmp_path):
    by_name = {name: make(name, mode="realtime") for name in ("frame", "face", "motion", "audio", "au", "text")}
    modes = {name: [s.availability(x).mode for x in samples] for name, s in by_name.items()}
    live = ["realtime"] * 6
    assert modes["frame"] == modes["motion"] == live
    lacking = {"face": 1, "audio": 2, "text": 3, "au": 4}
    for name, k in lacking.items():
        assert modes[name] == [*live[:k], "absent", *live[k + 1 :]], name
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(b"not a film" * 100)
    for path, said in (("empty.mp4", "empty"), ("junk.mp4", "cannot be opened"), ("gone.mp4", "missing")):
        found = by_name["frame"].availability(Sample("x", "train", video=Media(tmp_path / path)))
        assert found.mode == "broken"
        assert said in found.reason
    found = by_name["au"].availability(Sample("x", "train", files={"au": tmp_path / "empty.mp4"}))
    assert found.mode == "broken"


def test_auto_reads_where_present_else_computes(samples, tmp_path):
    write_npydict(tmp_path / "c0.npy", {"bert": torch.randn(5, 128).numpy()})
    write_npydict(tmp_path / "c5.npy", {"bert": torch.full((5, 128), float("nan")).numpy()})
    modality = make("text", source=NpyDict(tmp_path, "bert"))
    modality.bind(tmp_path, "demo")
    modality.probe(samples)
    assert modality.dim == 128
    found = [modality.availability(s) for s in samples]
    assert [f.mode for f in found] == ["preextracted", "realtime", "realtime", "absent", "realtime", "realtime"]
    assert "NaN" in found[5].reason
    only = make("text", mode="preextracted", encoder=None, source=NpyDict(tmp_path, "bert"))
    only.probe(samples)
    assert [only.availability(s).mode for s in samples] == ["preextracted", *["absent"] * 4, "broken"]
    assert only.encoder_module() is None
    with pytest.raises(FeatureError, match="has no feature bert"):
        only.stored(samples[1])
    with pytest.raises(FeatureError, match="no stored features of modality text"):
        modality.stored(samples[1])


def test_fallback_computes_what_is_not_stored(samples, tmp_path):
    modality = make("text", mode="preextracted", fallback=True)
    modality.bind(tmp_path, "demo")
    assert [modality.availability(s).mode for s in samples] == [*["realtime"] * 3, "absent", *["realtime"] * 2]
    assert modality.availability(samples[0]).reason == "not extracted"
    fill({"text": modality}, samples[:1])
    assert modality.availability(samples[0]).mode == "preextracted"
    assert modality.encoder_module() is not None
    strict = make("text", mode="preextracted")
    strict.remedy = "python -m hero_lightning.extract dataset=mine modalities=[text]"
    strict.bind(tmp_path, "demo")
    found = strict.availability(samples[1])
    assert found.mode == "absent"
    assert found.reason == f"not extracted: {strict.remedy}"
    assert strict.encoder_module() is None


def test_auto_refuses_another_width(samples, tmp_path):
    write_npydict(tmp_path / "c0.npy", {"bert": torch.randn(5, 96).numpy()})
    modality = make("text", source=NpyDict(tmp_path, "bert"))
    modality.probe(samples)
    with pytest.raises(FeatureError, match="differ in width"):
        _ = modality.dim


def test_width_without_any_feature(samples, tmp_path):
    modality = make("text", mode="preextracted", encoder=None, source=NpyDict(tmp_path, "bert"))
    modality.probe(samples)
    with pytest.raises(FeatureError, match="width of modality text is unknown"):
        _ = modality.dim


def test_preextracted_needs_the_store(samples, tmp_path):
    modality = make("text", mode="preextracted")
    with pytest.raises(FeatureError, match="bind"):
        modality.availability(samples[0])
    modality.bind(tmp_path, "demo")
    with pytest.raises(FeatureError, match=r"hero_lightning\.extract"):
        modality.availability(samples[0])


def test_rate_gives_a_clock(samples, tmp_path):
    write_npydict(tmp_path / "c0.npy", {"hubert": torch.randn(4, 8).numpy()})
    modality = make("audio", mode="preextracted", encoder=None, source=NpyDict(tmp_path, "hubert"), rate=50)
    assert torch.allclose(modality.stored(samples[0]).time, torch.tensor([0.01, 0.03, 0.05, 0.07]))


@given(length=st.integers(0, 300), limit=st.integers(1, 80))
def test_kept_spans_the_whole(length, limit):
    kept = make("audio", max_len=limit).kept(length)
    assert len(kept) == min(length, limit)
    assert (kept.diff() > 0).all()
    if length > limit > 1:
        assert kept[0] == 0
        assert kept[-1] == length - 1


def test_kept_of_text():
    assert make("text", max_len=3, context_turns=0).kept(5).tolist() == [0, 1, 2]
    assert make("text", max_len=3, context_turns=2).kept(5).tolist() == [2, 3, 4]


def test_collate_mixes_ready_raw_and_absent():
    modality = make("text", max_len=4)
    ready = StoredFeatures(torch.arange(6.0)[:, None].expand(6, 128))
    batch = modality.collate(
        [None, ready, EncoderInput({"x": torch.randn(3, 128)}), StoredFeatures(torch.ones(2, 128))]
    )
    assert batch.size == 4
    assert batch.stored_rows.tolist() == [1, 3]
    assert batch.input_rows.tolist() == [2]
    assert batch.stored.x[0, :, 0].tolist() == [2, 3, 4, 5]
    assert batch.stored.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.inputs["x_mask"].tolist() == [[True] * 3]
    empty = modality.collate([None, None])
    assert (empty.size, empty.stored, empty.inputs) == (2, None, None)


def test_length_is_cheap(samples):
    modality = make("text", context_turns=1, max_len=13)
    assert [modality.length(s) for s in samples] == [5, 12, 13, None, 13, 13]
    assert make("audio").length(samples[0]) is None


def test_a_modality_travels_to_a_worker(modalities, samples):
    for modality in pickle.loads(pickle.dumps(modalities)).values():
        assert modality.identity() == modalities[modality.name].identity()
        assert modality.availability(samples[0]).mode == "realtime"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e38])
def test_a_stored_feature_that_no_model_can_compute_with_is_refused(tmp_path, value):
    """float64 overflows to Inf in float32; 1e38 does so once it is squared."""
    write_npydict(tmp_path / "good.npy", {"bert": np.ones((3, 4), np.float32)})
    source = NpyDict(tmp_path, "bert")
    text = make_modality("text", "preextracted", source=source)
    good = Sample("good", "train")
    assert text.stored(good).x.shape == (3, 4)
    row = StoredFeatures(torch.ones(3, 4))
    row.x[1, 2] = value
    source.read = lambda _: row
    with pytest.raises(FeatureError, match=r"(?s)NaN, infinite or too large.*below 1e\+15.*good"):
        text.stored(good)


def test_a_number_beyond_float32_is_a_broken_feature(tmp_path):
    array = np.ones((3, 4))
    array[0, 0] = -1.79e308
    write_npydict(tmp_path / "clip.npy", {"bert": array})
    found = NpyDict(tmp_path, "bert").status(Sample("clip", "train"))
    assert found.mode == "broken"
    assert "too large" in found.reason
