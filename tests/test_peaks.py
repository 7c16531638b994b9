"""The peaks command: it writes the files that emotion_peak reads, resumes, and lists failures in ledger.csv."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from hero_lightning import peaks
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.frame_samplers import EmotionPeak
from hero_lightning.media.peaks import PeakFinder
from hero_lightning.peaks import write_peaks
from hero_lightning.types import Media, Sample
from tests.media_helpers import write_au_csv, write_clip


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    video = write_clip(tmp_path / "c.mp4", 2.0, 10, audio=False)
    table = write_au_csv(tmp_path / "c.csv", 20, 10.0, {"AU12_r": [0.0] * 12 + [3.0] + [0.0] * 7})
    own = tmp_path / "own.json"
    own.write_text("{}")
    (tmp_path / "broken.mp4").write_bytes(b"none")
    return [
        Sample("a/1", "train", video=Media(video), files={"au": table}),
        Sample("b", "train", video=Media(video)),
        Sample("own", "train", video=Media(video), files={"au": table, "au_info": own}),
        Sample("broken", "train", video=Media(tmp_path / "broken.mp4")),
        Sample("bare", "train"),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_it_writes_what_the_sampler_reads(samples: list[Sample], tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "found"
    counts, failures = write_peaks(PeakFinder(), samples, folder, workers)
    assert counts == {"au": 1, "motion": 1, "own": 1, "failed": 2}
    assert [(id, stage) for id, stage, _ in failures] == [("broken", "peaks"), ("bare", "peaks")]
    assert "cannot be opened" in failures[0][2]
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.json")) == ["a/1.json", "b.json"]
    sampler = EmotionPeak(peaks_folder=folder)
    with ClipReader(samples[0].video) as clip:
        plan = sampler.plan(clip.info, samples[0], 0, 0)
    assert (plan.reason, plan.notes) == ("peak", {"peak": 12.0})
    assert json.loads((folder / "b.json").read_text())["method"] == "motion"


def test_it_goes_on_where_it_stopped(samples: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "found"
    write_peaks(PeakFinder(), samples[:2], folder)
    before = (folder / "b.json").stat().st_mtime_ns
    (folder / "a" / "1.json").write_text("{")  # killed while writing elsewhere
    assert write_peaks(PeakFinder(), samples[:2], folder)[0] == {"au": 1, "kept": 1}
    assert (folder / "b.json").stat().st_mtime_ns == before
    assert write_peaks(PeakFinder(height=1.0), samples[:2], folder)[0] == {"au": 1, "kept": 1}  # height is not b's
    assert write_peaks(PeakFinder(height=1.0), samples[:2], folder, force=True)[0] == {"au": 1, "motion": 1}


def test_a_failure_of_a_library_is_listed_with_its_cause(samples, tmp_path, monkeypatch) -> None:
    def fails(self, sample):
        raise ValueError("needs version 9")

    monkeypatch.setattr(PeakFinder, "find", fails)
    assert write_peaks(PeakFinder(), samples[:1], tmp_path)[1] == [("a/1", "peaks", "ValueError: needs version 9")]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data, features = tmp_path / "data", tmp_path / "features"
    data.mkdir()
    records = [{"video_id": f"c{k}", "emotion": ["happy", "sad"][k % 2], "text": "well"} for k in range(3)]
    (data / "labels.json").write_text(json.dumps(records))
    given = [
        "peaks", "dataset=folder", f"dataset.root={data}", f"paths.features={features}", "modalities=[text]",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", given)
    peaks.main()
    with (tmp_path / "run" / "ledger.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "stage", "error"]
    assert [row[:2] for row in rows[1:]] == [[f"c{k}", "peaks"] for k in range(3)]  # features alone show no face
    assert "3 failed" in capsys.readouterr().out
    assert (features / "folder" / "au_info").is_dir()
