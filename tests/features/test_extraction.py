from __future__ import annotations

import errno
import os
import re
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from hero_lightning.errors import ConfigError, DataError, FeatureError
from hero_lightning.features import extraction, files, read
from hero_lightning.features.extraction import fill
from hero_lightning.features.foreign.hero_npy import NpyDict, write_npydict
from hero_lightning.features.modality import Modality
from hero_lightning.features.read import read_clip
from hero_lightning.features.source import Availability
from hero_lightning.media.frame_samplers import EmotionPeak, HeadTail, Uniform
from hero_lightning.types import Media, Sample
from tests.features.conftest import ALL, make, tree
from tests.tiny_encoders import TinyFrames, TinyText


def bound(root, **modalities) -> dict[str, Modality]:
    for modality in modalities.values():
        modality.bind(root, "demo")
    return modalities


def test_fill_all_modalities_opening_each_clip_once(modalities, samples, monkeypatch):
    passes = []
    real = read.ClipReader.read
    monkeypatch.setattr(
        read.ClipReader, "read", lambda self, *a, **o: passes.append(self.media.path.name) or real(self, *a, **o)
    )
    summary = fill(modalities, samples, batch_size=4, part_size=4)
    assert sorted(passes) == [f"c{k}.mp4" for k in range(6)]
    assert summary.written == {n: 6 if n in ("frame", "motion") else 5 for n in ALL}
    assert summary.absent == {n: 6 - w for n, w in summary.written.items()}
    assert "frame: 6 written, 0 kept, 0 absent, 0 failed" in str(summary)
    for name, modality in modalities.items():
        modes = [modality.availability(s).mode for s in samples]
        assert modes.count("preextracted") == summary.written[name]
        assert "realtime" not in modes
    again = fill(modalities, samples)
    assert len(passes) == 6
    assert again.kept == summary.written
    assert set(again.written.values()) == {0}


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_batch_size_change_nothing(tmp_path, samples, workers):
    one = bound(tmp_path / "one", frame=make("frame"), audio=make("audio"))
    two = bound(tmp_path / "two", frame=make("frame"), audio=make("audio"))
    fill(one, samples, batch_size=1, part_size=4)
    fill(two, list(reversed(samples)), batch_size=3, part_size=4, workers=workers)
    for name in one:
        for s in samples:
            if one[name].store.contains(s):
                torch.testing.assert_close(one[name].stored(s).x, two[name].stored(s).x, atol=1e-5, rtol=1e-5)
        assert one[name].store.manifest == two[name].store.manifest


def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path, samples, monkeypatch):
    whole = bound(tmp_path / "whole", frame=make("frame"), audio=make("audio"))
    killed = bound(tmp_path / "killed", frame=make("frame"), audio=make("audio"))
    fill(whole, samples, batch_size=2, part_size=2)
    real, calls = extraction.read_clip, []

    def dying(*args, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(extraction, "read_clip", dying)
    with pytest.raises(KeyboardInterrupt):
        fill(killed, samples, batch_size=2, part_size=2)
    monkeypatch.setattr(extraction, "read_clip", real)
    assert killed["frame"].store.contains(samples[3])
    assert not killed["frame"].store.contains(samples[4])
    fill(killed, samples, batch_size=2, part_size=2)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_bad_clip_is_entered_in_the_ledger_and_the_others_go_on(tmp_path, samples):
    cut = tmp_path / "cut.mp4"
    data = samples[5].video.path.read_bytes()
    cut.write_bytes(data[: len(data) // 3])
    table = tmp_path / "au.csv"
    table.write_text("frame, AU01_r\n1, 2\n")
    bad = Sample("bad", "train", video=Media(cut), files={"au": table}, text="still here")
    modalities = bound(tmp_path / "f", frame=make("frame"), audio=make("audio"), au=make("au"), text=make("text"))
    summary = fill(modalities, [*samples, bad], batch_size=8)
    assert {n: sorted(f) for n, f in summary.failed.items()} == {
        "frame": ["bad"],
        "audio": ["bad"],
        "au": ["bad"],
        "text": [],
    }
    assert "lacks columns" in summary.failed["au"]["bad"]
    assert str(cut) in summary.failed["frame"]["bad"]
    assert modalities["frame"].availability(bad).mode == "broken"
    assert modalities["text"].availability(bad).mode == "preextracted"
    assert summary.written["frame"] == 6
    table.write_bytes(samples[0].files["au"].read_bytes())
    assert fill({"au": modalities["au"]}, [bad]).written == {"au": 1}  # the file was mended
    assert modalities["au"].availability(bad).mode == "preextracted"
    assert fill({"frame": modalities["frame"]}, [bad]).failed == {"frame": {}}
    assert list(fill({"frame": modalities["frame"]}, [bad], retry=True).failed["frame"]) == ["bad"]


class Moody(TinyText):
    """Fails on long texts and makes NaN of short ones."""

    def forward(self, inputs):
        if inputs["x"].shape[1] > 20:
            raise RuntimeError("out of memory")
        features = super().forward(inputs)
        features.x[features.mask.sum(dim=1) < 8] = float("nan")
        return features


def test_what_the_encoder_cannot_do_is_entered_too(tmp_path, samples):
    modalities = bound(tmp_path, text=make("text", encoder=Moody, context_turns=0))
    summary = fill(modalities, samples, batch_size=8)
    assert summary.failed["text"] == {
        "c0": "NaN or Inf in the features",
        "c4": "out of memory",
        "c5": "out of memory",
    }
    assert summary.written["text"] == 2


class Lost(TinyText):
    """An encoder whose device is gone, or whose words cannot be read."""

    def forward(self, inputs):
        raise RuntimeError("device lost")


class Unset(TinyText):
    def preprocess(self, material):
        raise ConfigError("No tokenizer.")


@pytest.mark.parametrize(("encoder", "said"), [(Lost, "device lost"), (Unset, "No tokenizer")])
def test_a_fault_of_the_encoder_is_not_put_on_the_clips(tmp_path, samples, encoder, said):
    modalities = bound(tmp_path, text=make("text", encoder=encoder))
    with pytest.raises((RuntimeError, ConfigError), match=said):
        fill(modalities, samples, batch_size=8)
    assert not any(modalities["text"].store.fault(s) for s in samples)


def test_too_short_for_a_step_is_absent(tmp_path, samples):
    modalities = bound(tmp_path, motion=make("motion", sampler=Uniform(1)))
    assert fill(modalities, samples[:2]).absent == {"motion": 2}
    assert modalities["motion"].availability(samples[0]).reason == "too short for one step"


def test_what_the_own_source_has_is_not_computed(tmp_path, samples):
    write_npydict(tmp_path / "c0.npy", {"bert": torch.randn(4, 128).numpy()})
    modalities = bound(tmp_path / "f", text=make("text", source=NpyDict(tmp_path, "bert")))
    assert fill(modalities, samples).written == {"text": 4}
    assert not modalities["text"].store.contains(samples[0])


def test_bfloat16_store(tmp_path, samples):
    exact, small = bound(tmp_path / "a", frame=make("frame")), bound(tmp_path / "b", frame=make("frame"))
    fill(exact, samples)
    fill(small, samples, dtype="bfloat16")
    a, b = exact["frame"].stored(samples[0]).x, small["frame"].stored(samples[0]).x
    assert not torch.equal(a, b)
    torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    "modality",
    [
        make("text", mode="realtime", encoder=partial(TinyText, trainable=True)),
        make("frame", mode="realtime", encoder=TinyFrames, sampler=HeadTail(2)),
    ],
)
def test_what_must_not_be_stored_is_refused(tmp_path, samples, modality):
    with pytest.raises(ConfigError, match="cannot be stored"):
        fill(bound(tmp_path, **{modality.name: modality}), samples)


def test_float16_store_and_what_does_not_fit_into_it(tmp_path, samples):
    modalities = bound(tmp_path, frame=make("frame"))
    fill(modalities, samples, dtype="float16")
    fresh = bound(tmp_path / "exact", frame=make("frame"))
    fill(fresh, samples)
    a, b = modalities["frame"].stored(samples[0]).x, fresh["frame"].stored(samples[0]).x
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    large = bound(tmp_path, text=make("text", encoder=Large))
    with pytest.raises(FeatureError, match="too large for float16") as info:
        fill(large, samples, dtype="float16")
    assert "dtype=bfloat16" in info.value.details["hint"]
    assert not large["text"].store.contains(samples[0])
    assert fill(large, samples, dtype="bfloat16", force=True).written == {"text": 5}


class Large(TinyText):
    def forward(self, inputs):
        features = super().forward(inputs)
        features.x = features.x * 0 + 1e5
        return features


def test_unknown_dtype(tmp_path, samples):
    with pytest.raises(ConfigError, match="float32, bfloat16"):
        fill(bound(tmp_path, text=make("text")), samples, dtype="int8")


def test_encoder_with_weights_and_progress(tmp_path, samples, caplog):
    modalities = bound(tmp_path, frame=make("frame", encoder=partial(TinyFrames, dim=6)))
    with caplog.at_level("INFO"):
        fill(modalities, samples, progress=True)
    assert re.search(r"6 of 6 clips, [\d.]+ clips/s, 0 s left", caplog.text)
    live = make("frame", mode="realtime", encoder=partial(TinyFrames, dim=6))
    encoder = live.encoder_module()
    row = read_clip({"frame": live}, {"frame": live.availability(samples[0])}, samples[0])["frame"]
    torch.testing.assert_close(
        encoder.encode(encoder.collate([row.inputs])).x[0], modalities["frame"].stored(samples[0]).x
    )


def test_samples_without_the_material_cost_nothing(tmp_path, samples):
    mute = [replace(s, text=None) for s in samples]
    assert fill(bound(tmp_path, text=make("text")), mute).absent == {"text": 6}


def test_another_dataset_of_the_same_ids_is_not_mistaken_for_it(modalities, samples):
    fill(modalities, samples)
    swapped = [replace(s, id=f"c{5 - k}") for k, s in enumerate(samples)]
    assert all(modalities["frame"].availability(s).mode == "realtime" for s in swapped)
    summary = fill(modalities, swapped)
    assert summary.written == {n: 6 if n in ("frame", "motion") else 5 for n in ALL}
    for name, modality in modalities.items():
        for s in swapped:
            found = modality.availability(s)
            assert found.mode == ("preextracted" if modality.media_availability(s).mode == "realtime" else "absent"), (
                name
            )


def test_a_file_that_came_since_is_used(tmp_path, samples):
    modalities = bound(tmp_path, au=make("au"))
    fill(modalities, samples)
    assert modalities["au"].availability(samples[4]).mode == "absent"
    found = replace(samples[4], files=samples[0].files)
    assert modalities["au"].availability(found).mode == "realtime"
    assert fill(modalities, [found]).written == {"au": 1}
    assert modalities["au"].availability(found).mode == "preextracted"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_three_processes_write_what_one_writes(tmp_path, samples, order):
    whole = bound(tmp_path / "whole", frame=make("frame"), audio=make("audio"))
    fill(whole, samples, part_size=1)
    for k in order:
        modalities = bound(tmp_path / "shared", frame=make("frame"), audio=make("audio"))
        done = fill(modalities, samples, part_size=1, share=(k, 3))
        assert done.written["frame"] == 2
        assert fill(modalities, samples, part_size=1, share=(k, 3)).written["frame"] == 0
    assert tree(tmp_path / "shared") == tree(tmp_path / "whole")


def test_parts_of_processes_that_run_at_once_do_not_overlap(tmp_path, samples):
    stores = [bound(tmp_path, frame=make("frame"))["frame"].store for _ in range(2)]
    plans = [store.plan(samples, "float32", 1, share=(k, 2)) for k, store in enumerate(stores)]
    assert [list(p) for p in plans] == [[f"part-{n:05d}.safetensors" for n in range(k, 6, 2)] for k in range(2)]


@pytest.mark.parametrize("how", ["force", "retry"])
def test_a_share_cannot_force_or_retry(tmp_path, samples, how):
    with pytest.raises(ConfigError, match="in one process"):
        fill(bound(tmp_path, text=make("text")), samples, share=(0, 2), **{how: True})


def test_force_begins_anew(tmp_path, samples):
    modalities = bound(tmp_path, text=make("text"))
    fill(modalities, samples)
    before = tree(tmp_path)
    assert fill(modalities, samples[:2], force=True).written == {"text": 2}
    assert not modalities["text"].store.contains(samples[2])
    fill(modalities, samples, force=True)
    assert tree(tmp_path) == before


def test_a_full_disk_stops_clearly_and_loses_nothing(tmp_path, samples, monkeypatch):
    whole = bound(tmp_path / "whole", frame=make("frame"))
    full = bound(tmp_path / "full", frame=make("frame"))
    fill(whole, samples, batch_size=2, part_size=2)
    real, written = os.replace, []

    def replace(source, task):
        if task.name.startswith("part-"):
            written.append(task.name)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(source, task)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(DataError, match="No space left on device") as info:
        fill(full, samples, batch_size=2, part_size=2)
    assert "finished files are kept" in info.value.details["hint"]
    assert [full["frame"].store.contains(s) for s in samples] == [True, True, False, False, False, False]
    names = {p.name for p in full["frame"].store.folder.iterdir()}
    assert names == {"manifest.json", ".lock", "part-00000.safetensors"}
    fill(full, samples, batch_size=2, part_size=2)
    assert tree(tmp_path / "full") == tree(tmp_path / "whole")


class Deadly(TinyText):
    """Its worker process dies at one clip, as one does that runs out of memory."""

    def preprocess(self, material):
        if len(material.text) > 80 and os.environ.get("DEADLY"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().preprocess(material)


def test_a_worker_that_dies_stops_clearly_and_loses_nothing(tmp_path, samples, monkeypatch):
    whole = bound(tmp_path / "whole", text=make("text", encoder=Deadly))
    dead = bound(tmp_path / "dead", text=make("text", encoder=Deadly))
    fill(whole, samples, batch_size=1, part_size=1)
    monkeypatch.setenv("DEADLY", "1")
    with pytest.raises(DataError, match="A process that decodes clips died") as info:
        fill(dead, samples, batch_size=1, part_size=1, workers=1)
    assert "num_workers=0" in info.value.details["hint"]
    assert not any(dead["text"].store.fault(s) for s in samples if s.text)
    monkeypatch.delenv("DEADLY")
    fill(dead, samples, batch_size=1, part_size=1, workers=1)
    assert tree(tmp_path / "dead") == tree(tmp_path / "whole")


def test_what_a_killed_process_left_is_swept(tmp_path, samples):
    modalities = bound(tmp_path, text=make("text"))
    fill(modalities, samples[:2], part_size=2)
    folder = modalities["text"].store.folder
    for name in (".part-00001.safetensors.host.123", ".manifest.json.host.123"):
        (folder / name).write_bytes(b"half")
    fill(modalities, samples, part_size=2)
    assert not list(folder.glob(".*.123"))


def test_why_pictures_were_looked_at_is_stored(tmp_path, samples):
    modalities = bound(tmp_path, frame=make("frame", sampler=EmotionPeak(4)))
    assert modalities["frame"].availability(samples[0]).reason == "no_au"
    fill(modalities, samples)
    assert modalities["frame"].availability(samples[0]) == Availability("preextracted", "store, no_au")
