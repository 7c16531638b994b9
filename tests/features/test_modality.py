from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.encoders.handcrafted import FrameHog, HashedWords, LogMelProsody
from hero_lightning.encoders.tiny import TinyText
from hero_lightning.errors import ConfigError, FeatureError
from hero_lightning.features.extraction import fill
from hero_lightning.features.foreign.hero_npy import NpyDict
from hero_lightning.features.foreign.safe_pickle import write_npydict
from hero_lightning.features.modality import Stream
from hero_lightning.media.frame_samplers import HeadTail, Uniform
from hero_lightning.types import Media, Raw, Ready, Sample
from tests.features.conftest import make


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "smell", "mode": "auto"}, "Unknown stream"),
        ({"name": "text", "mode": "sometimes"}, "mode@modalities.text=auto"),
        ({"name": "text", "mode": "realtime"}, "encoder@modalities.text.encoder=NAME"),
        ({"name": "text", "mode": "preextracted"}, "needs an encoder"),
        ({"name": "text", "mode": "auto", "encoder": HashedWords, "max_len": 0}, "max_len is too small"),
        ({"name": "text", "mode": "auto", "encoder": HashedWords, "context_turns": -1}, "context_turns is too small"),
        ({"name": "frame", "mode": "auto", "encoder": FrameHog}, "sampler@modalities.frame.sampler=uniform"),
        ({"name": "frame", "mode": "auto", "encoder": LogMelProsody, "sampler": Uniform()}, "takes frames"),
        (
            {"name": "text", "mode": "auto", "encoder": partial(TinyText, trainable=True)},
            "mode@modalities.text=realtime",
        ),
        ({"name": "text", "mode": "preextracted", "encoder": partial(TinyText, trainable=True)}, "cannot be stored"),
        ({"name": "text", "mode": "auto", "encoder": HashedWords, "fallback": True}, "Only stored features have"),
        (
            {"name": "text", "mode": "preextracted", "source": NpyDict("x", "bert"), "fallback": True},
            "encoder@modalities.text.encoder=NAME",
        ),
        (
            {"name": "frame", "mode": "preextracted", "encoder": FrameHog, "sampler": HeadTail(4)},
            "mode@modalities.frame=realtime",
        ),
    ],
)
def test_wrong_settings_are_refused_with_the_remedy(options, said):
    with pytest.raises(ConfigError, match=said):
        Stream(**options)


def test_identity_changes_with_what_decides_the_features_and_with_nothing_else(tmp_path):
    base = make("frame")
    others = {
        "encoder": make("frame", encoder=partial(FrameHog, size=32, cells=8)),
        "sampler": make("frame", sampler=Uniform(5)),
        "size": make("frame", size=48),
    }
    same = make("frame", mode="realtime", max_len=3, cache=False)
    for stream in (base, same, *others.values()):
        stream.bind(tmp_path, "demo")
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


def test_resolve_media(samples, tmp_path):
    by_name = {name: make(name, mode="realtime") for name in ("frame", "face", "motion", "audio", "au", "text")}
    modes = {name: [s.resolve(x).mode for x in samples] for name, s in by_name.items()}
    live = ["realtime"] * 6
    assert modes["frame"] == modes["motion"] == live
    lacking = {"face": 1, "audio": 2, "text": 3, "au": 4}
    for name, k in lacking.items():
        assert modes[name] == [*live[:k], "absent", *live[k + 1 :]], name
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(b"not a film" * 100)
    for path, said in (("empty.mp4", "empty"), ("junk.mp4", "cannot be opened"), ("gone.mp4", "missing")):
        found = by_name["frame"].resolve(Sample("x", "train", video=Media(tmp_path / path)))
        assert found.mode == "broken"
        assert said in found.reason
    found = by_name["au"].resolve(Sample("x", "train", files={"au": tmp_path / "empty.mp4"}))
    assert found.mode == "broken"


def test_auto_reads_where_present_else_computes(samples, tmp_path):
    write_npydict(tmp_path / "c0.npy", {"bert": torch.randn(5, 128).numpy()})
    write_npydict(tmp_path / "c5.npy", {"bert": torch.full((5, 128), float("nan")).numpy()})
    stream = make("text", source=NpyDict(tmp_path, "bert"))
    stream.bind(tmp_path, "demo")
    stream.probe(samples)
    assert stream.dim == 128
    found = [stream.resolve(s) for s in samples]
    assert [f.mode for f in found] == ["preextracted", "realtime", "realtime", "absent", "realtime", "realtime"]
    assert "NaN" in found[5].reason
    only = make("text", mode="preextracted", encoder=None, source=NpyDict(tmp_path, "bert"))
    only.probe(samples)
    assert [only.resolve(s).mode for s in samples] == ["preextracted", *["absent"] * 4, "broken"]
    assert only.encoder_module() is None
    with pytest.raises(FeatureError, match="has no feature bert"):
        only.stored(samples[1])
    with pytest.raises(FeatureError, match="no stored features of stream text"):
        stream.stored(samples[1])


def test_fallback_computes_what_is_not_stored(samples, tmp_path):
    stream = make("text", mode="preextracted", fallback=True)
    stream.bind(tmp_path, "demo")
    assert [stream.resolve(s).mode for s in samples] == [*["realtime"] * 3, "absent", *["realtime"] * 2]
    assert stream.resolve(samples[0]).reason == "not extracted"
    fill({"text": stream}, samples[:1])
    assert stream.resolve(samples[0]).mode == "preextracted"
    assert stream.encoder_module() is not None
    strict = make("text", mode="preextracted")
    strict.remedy = "python -m hero_lightning.extract dataset=mine streams=[text]"
    strict.bind(tmp_path, "demo")
    found = strict.resolve(samples[1])
    assert found.mode == "absent"
    assert found.reason == f"not extracted: {strict.remedy}"
    assert strict.encoder_module() is None


def test_auto_refuses_another_width(samples, tmp_path):
    write_npydict(tmp_path / "c0.npy", {"bert": torch.randn(5, 96).numpy()})
    stream = make("text", source=NpyDict(tmp_path, "bert"))
    stream.probe(samples)
    with pytest.raises(FeatureError, match="differ in width"):
        _ = stream.dim


def test_width_without_any_feature(samples, tmp_path):
    stream = make("text", mode="preextracted", encoder=None, source=NpyDict(tmp_path, "bert"))
    stream.probe(samples)
    with pytest.raises(FeatureError, match="width of stream text is unknown"):
        _ = stream.dim


def test_preextracted_needs_the_store(samples, tmp_path):
    stream = make("text", mode="preextracted")
    with pytest.raises(FeatureError, match="bind"):
        stream.resolve(samples[0])
    stream.bind(tmp_path, "demo")
    with pytest.raises(FeatureError, match=r"hero_lightning\.extract"):
        stream.resolve(samples[0])


def test_rate_gives_a_clock(samples, tmp_path):
    write_npydict(tmp_path / "c0.npy", {"hubert": torch.randn(4, 8).numpy()})
    stream = make("audio", mode="preextracted", encoder=None, source=NpyDict(tmp_path, "hubert"), rate=50)
    assert torch.allclose(stream.stored(samples[0]).time, torch.tensor([0.01, 0.03, 0.05, 0.07]))


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
    stream = make("text", max_len=4)
    ready = Ready(torch.arange(6.0)[:, None].expand(6, 128))
    batch = stream.collate([None, ready, Raw({"x": torch.randn(3, 128)}), Ready(torch.ones(2, 128))])
    assert batch.size == 4
    assert batch.ready_rows.tolist() == [1, 3]
    assert batch.raw_rows.tolist() == [2]
    assert batch.ready.x[0, :, 0].tolist() == [2, 3, 4, 5]
    assert batch.ready.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.raw["x_mask"].tolist() == [[True] * 3]
    empty = stream.collate([None, None])
    assert (empty.size, empty.ready, empty.raw) == (2, None, None)


def test_length_is_cheap(samples):
    stream = make("text", context_turns=1, max_len=13)
    assert [stream.length(s) for s in samples] == [5, 12, 13, None, 13, 13]
    assert make("audio").length(samples[0]) is None


def test_a_stream_travels_to_a_worker(streams, samples):
    for stream in pickle.loads(pickle.dumps(streams)).values():
        assert stream.identity() == streams[stream.name].identity()
        assert stream.resolve(samples[0]).mode == "realtime"
