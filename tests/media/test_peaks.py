"""PeakFinder: which method a clip gets, where it finds the peak, what it says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.media.face import FaceCropper
from hero_lightning.media.peaks import PeakFinder
from hero_lightning.types import Media, Sample
from tests.media_helpers import write_au_csv, write_clip

FPS = 10


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s; a square moves around 1 s only, and the lower right quarter changes its look around 2 s."""
    rng = np.random.default_rng(0)
    pictures = []
    for k in range(30):
        picture = np.full((64, 96, 3), 90, np.uint8)
        x = 10 + 6 * min(max(k - 8, 0), 4)
        picture[4:20, x : x + 16] = 255
        picture[40:60, 60:90] = rng.integers(100, 140, (20, 30, 1)) if 18 <= k <= 22 else 120
        pictures.append(picture)
    return write_clip(tmp_path_factory.mktemp("peaks") / "c.mp4", pictures=pictures, audio=False, fps=FPS)


def best(found: dict) -> float:
    return found["au_info"]["peak_frames"][0]["time"]


def test_action_units_go_first(tmp_path: Path, video: Path) -> None:
    smile = 3 * np.exp(-(((np.arange(30) - 24) / 3) ** 2))
    table = write_au_csv(tmp_path / "c.csv", 30, FPS, {"AU12_r": smile})
    found = PeakFinder().find(Sample("c", "train", video=Media(video), files={"au": table}))
    assert found["method"] == "au"
    assert found["au_info"]["total_frames"] == 30
    assert found["au_info"]["peak_frames"][0]["peak_index"] == 24
    alone = PeakFinder().find(Sample("c", "train", files={"au": table}))
    assert alone["au_info"] == found["au_info"]  # the table's own clock gives the rate


def test_without_units_what_moves(video: Path) -> None:
    sample = Sample("c", "train", video=Media(video))
    found = PeakFinder().find(sample)
    assert found["method"] == "motion"
    assert 0.8 <= best(found) <= 1.2
    assert found["au_info"]["fps"] == FPS


def test_a_known_face_goes_before_movement(video: Path) -> None:
    sample = Sample("c", "train", video=Media(video), boxes={"face": (0.6, 0.6, 1.0, 1.0)})
    found = PeakFinder().find(sample)
    assert found["method"] == "face_change"
    assert 1.8 <= best(found) <= 2.2
    assert 0.8 <= best(PeakFinder(method="motion").find(sample)) <= 1.2


def test_where_no_face_is_found_it_says_so(video: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "black.npy", np.zeros((30, 8, 8, 3), np.uint8))
    sample = Sample("c", "train", video=Media(video), files={"face": tmp_path / "black.npy"})
    assert PeakFinder().find(sample)["method"] == "motion"
    with pytest.raises(MediaError, match="No picture shows a face"):
        PeakFinder(method="face_change").find(sample)


def test_a_still_clip_has_no_peak(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "still.mp4", pictures=[np.full((64, 96, 3), 90, np.uint8)] * 20, audio=False)
    assert PeakFinder().find(Sample("c", "train", video=Media(path)))["au_info"]["peak_frames"] == []


def test_what_decides_the_result(video: Path, tmp_path: Path) -> None:
    sample = Sample("c", "train", video=Media(video))
    own = PeakFinder().inputs(sample)
    assert own["method"] == "motion"
    assert own != PeakFinder(fps=5).inputs(sample)
    assert own != PeakFinder(faces=FaceCropper(rate=3.0)).inputs(sample)
    with pytest.raises(MediaError, match="no file to find peaks in"):
        PeakFinder().inputs(Sample("c", "train"))
    with pytest.raises(MediaError, match="method=au"):
        PeakFinder(method="au").inputs(sample)
    for build in (
        lambda: PeakFinder(method="smile"), lambda: PeakFinder(height=-1), lambda: PeakFinder(distance=-1),
        lambda: PeakFinder(fps=0),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"Unknown method|out of range"):
            build()
