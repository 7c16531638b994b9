"""MERR: a tolerant reader of the description files."""

from __future__ import annotations

import json

import pytest

from hero_lightning.errors import DataError
from hero_lightning.media.frame_samplers import EmotionPeak
from hero_lightning.media.types import ClipInfo
from tests.datasets.official_trees import bare, build, merr
from tests.datasets.small_datasets import sizes


def test_fine(tmp_path):
    datamodule = build("merr", tmp_path / "c")
    index = datamodule.index
    assert sizes(datamodule) == {"train": 12, "val": 1, "test": 1}
    assert index.classes["emotion"][6:] == ["fear", "contempt", "doubt"]
    assert "merr train has 14 samples; the official count is 4487" in index.notes
    clips = {s.id: s for s in datamodule.samples()}
    whole, poor, old = (clips[f"clip_{k:04d}"] for k in (0, 1, 2))
    assert (whole.text, whole.labels, whole.truth) == ("oh 0", {"emotion": "surprise"}, {"peak_index": 0})
    assert whole.descriptions == {"rationale": "reason 0", "au": "wide eyes; jaw drop", "audio": "raised"}
    assert (poor.text, poor.truth) == ("from the table", {})
    assert poor.descriptions == {"rationale": "reason 1", "audio": "raised"}
    assert old.descriptions["rationale"] == "reason 2"


def test_coarse(tmp_path):
    datamodule = build("merr", tmp_path / "c", grain="coarse")
    assert datamodule.samples()[0].descriptions["caption"] == "templated"
    assert "merr train has 14 samples; the official count is 28618" in datamodule.index.notes


def test_the_peak_frame_is_looked_at(tmp_path):
    clip = build("merr", tmp_path / "c").samples()[12]
    info = ClipInfo(duration=4.0, has_video=True, has_audio=False, fps=10.0, num_frames=40)
    plan = EmotionPeak(1, 0).plan(info, clip, 0, 0)
    assert [round(t * 10) for t in plan.times] == [12]
    assert plan.reason == "peak"


@pytest.mark.parametrize(
    ("change", "problem", "where"),
    [
        ({"pseu_emotion": None}, "lacks 'pseu_emotion'", "clip_0003"),
        ({"pseu_emotion": "rage"}, "Unknown label", "clip_0003"),
        ({"peak_index": "late"}, "peak frame is not a number", "clip_0003, key peak_index"),
    ],
)
def test_a_bad_record_is_named(tmp_path, change, problem, where):
    root = merr(tmp_path / "c")
    path = root / "MERR_fine_grained.json"
    records = json.loads(path.read_text())
    record = records["clip_0003"] | change
    records["clip_0003"] = {k: v for k, v in record.items() if v is not None}
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match=problem) as caught:
        bare("merr", root).build_index()
    assert where in str(caught.value)
