"""FaceCropper: known boxes first, the layouts of crops, what a detector keeps, and that no face is no picture."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.face import (
    HAAR_WARNING,
    Detector,
    FaceCropper,
    Haar,
    TableFaces,
    YuNet,
    cropped,
    face_file,
    tracked,
)
from hero_lightning.media.frame_samplers import Uniform
from hero_lightning.media.types import Frames
from hero_lightning.types import Media, Sample
from tests.helpers import make_modality
from tests.media_helpers import write_au_csv, write_clip
from tests.tiny_encoders import TinyFrames


class Bright(Detector):
    """Takes every white square for a face."""

    def find(self, picture: np.ndarray) -> np.ndarray:
        boxes = []
        for x in range(0, picture.shape[1] - 9, 10):
            column = np.flatnonzero(picture[:, x : x + 10].min(axis=(1, 2)) > 200)
            if len(column):
                boxes.append([x, column[0], x + 10, column[-1] + 1])
        return np.array(boxes, dtype=float).reshape(-1, 4)


def pictures(*faces: list[tuple[int, int, int]], height: int = 60, width: int = 100) -> Frames:
    """One picture per list of faces (x, y, height of a white box 10 wide)."""
    out = np.full((len(faces), height, width, 3), 60, np.uint8)
    for k, found in enumerate(faces):
        for x, y, h in found:
            out[k, y : y + h, x : x + 10] = 255
    return Frames(torch.from_numpy(out), torch.arange(len(faces)) / 10)


CLIP = Sample("c", "train", video=Media(Path("c.mp4")))


def test_a_face_is_cut_out_of_the_picture() -> None:
    pixels = torch.arange(4 * 8).view(1, 4, 8, 1).expand(1, 4, 8, 3).byte()
    frames = Frames(pixels, torch.zeros(1))
    assert cropped(frames, (0.25, 0.5, 0.75, 1.0)).pixels[0, :, :, 0].tolist() == [[18, 19, 20, 21], [26, 27, 28, 29]]
    assert cropped(frames, (0.99, 0.99, 0.99, 0.99)).pixels.shape == (1, 1, 1, 3)
    assert cropped(frames, (-0.5, -0.5, 1.5, 1.5)).pixels.shape == (1, 4, 8, 3)


def test_what_is_looked_at(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "c.mp4", 1.0, 10, audio=False)
    crops = tmp_path / "c.npy"
    np.save(crops, np.zeros((3, 8, 8, 3), np.uint8))
    bare = Sample("c", "train", video=Media(video))
    boxed = Sample("c", "train", video=Media(video), boxes={"face": (0, 0, 1, 1)}, files={"face": crops})
    given = Sample("c", "train", video=Media(video), files={"face": crops})
    assert FaceCropper().media(bare) is None
    assert Bright().media(bare) == Media(video)
    assert FaceCropper().media(boxed) == Bright().media(boxed) == Media(video)  # a known box goes before all else
    assert FaceCropper().media(given) == Bright().media(given) == Media(crops, rate=10.0, bgr=True)
    assert FaceCropper(rate=5.0, color_order="bgr_compat").media(given) == Media(crops, rate=5.0)
    assert FaceCropper().media(Sample("c", "train", files={"face": crops})).rate is None  # no video: 25
    assert FaceCropper().media(Sample("c", "train", files={"face": video})) == Media(video)


def test_crops_come_red_first_and_without_black_ones(tmp_path: Path) -> None:
    array = np.zeros((4, 8, 8, 3), np.uint8)
    array[1:3] = (250, 100, 10)  # blue, green, red, as OpenCV writes
    np.save(tmp_path / "c.npy", array)
    sample = Sample("c", "train", files={"face": tmp_path / "c.npy"})
    for order, first in (("rgb", [10, 100, 250]), ("bgr_compat", [250, 100, 10])):
        faces = FaceCropper(color_order=order)
        frames = ClipReader(faces.media(sample)).read({"face": [k / 25 for k in range(4)]})[0]["face"]
        found = faces.crops(frames, sample)
        assert found.pixels[:, 0, 0].tolist() == [first] * 2
        np.testing.assert_allclose(found.time, [0.04, 0.08], atol=1e-6)
    black = Frames(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2))
    assert FaceCropper().crops(black, sample) is None


def test_the_layouts_of_openface(tmp_path: Path) -> None:
    for path in ("a/a.npy", "b.npy", "c/f1.bmp", "d_aligned/frame_det_00_000001.bmp", "e/notes.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    found = [face_file(tmp_path, name) for name in "abcdef"]
    assert found[:4] == [tmp_path / p for p in ("a/a.npy", "b.npy", "c", "d_aligned")]
    assert found[4:] == [None, None]


LANDMARKS = [f" {axis}_{k}" for axis in "xy" for k in range(68)]


def test_boxes_of_an_openface_table(tmp_path: Path) -> None:
    rows = [["frame", " face_id", " timestamp", " confidence", " success", *LANDMARKS]]
    for k, (x, success) in enumerate([(10, 1), (20, 1), (0, 0), (60, 1)]):
        points = [x + 10 * (n % 2) for n in range(68)] + [20 + 10 * (n % 3 == 0) for n in range(68)]
        rows.append([k + 1, 0, k / 10, 0.9, success, *points])
    path = tmp_path / "c.csv"
    path.write_text("\n".join(", ".join(map(str, row)) for row in rows))
    sample = Sample("c", "train", video=CLIP.video, files={"au": path})
    frames = pictures([(10, 20, 10)], [(20, 20, 10)], [(40, 20, 10)], [(60, 20, 10)])
    faces = TableFaces(side=16, margin=0.0)
    assert faces.media(sample) == CLIP.video
    assert faces.media(CLIP) is None
    found = faces.crops(frames, sample)
    np.testing.assert_allclose(found.time, [0.0, 0.1, 0.3], atol=1e-6)  # the face was lost at 0.2
    assert (found.pixels == 255).all()
    path.write_text("\n".join(", ".join(map(str, row)) for row in [rows[0], rows[3]]))
    assert faces.crops(frames, sample) is None  # never seen: no face, not an error
    with pytest.raises(MediaError, match=r"x_0 \.\. x_67"):
        faces.crops(frames, replace(sample, files={"au": write_au_csv(tmp_path / "bare.csv", 3)}))


def test_boxes_of_a_pyfeat_table(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "c.mp4", 1.0, 10, audio=False)
    path = tmp_path / "c.csv"
    lines = ["frame,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore", "0,10,20,10,10,0.9", "0,70,0,5,5,0.6"]
    path.write_text("\n".join([*lines, "1,,,,,", "2,30,20,10,10,0.8"]))
    sample = Sample("c", "train", video=Media(video), files={"au": path})
    frames = pictures([(10, 20, 10)], [(30, 20, 10)], [(30, 20, 10)])
    found = TableFaces(side=16, margin=0.0).crops(replace(frames, time=torch.tensor([0.0, 0.11, 0.25])), sample)
    assert (found.pixels == 255).all()
    np.testing.assert_allclose(found.time, [0.0, 0.11, 0.25])  # a row every 0.2 s counts for 0.1 s around it
    off = TableFaces(side=16, margin=0.0).crops(replace(frames, time=torch.tensor([0.5, 0.7, 0.9])), sample)
    assert off is None


def test_boxes_in_pixels_need_whole_pictures() -> None:
    with pytest.raises(ConfigError, match="pixels of the video") as caught:
        make_modality("face", "realtime", TinyFrames, sampler=Uniform(4), size=64, detector=TableFaces())
    assert "modality.face.size=null" in str(caught.value)


def test_pictures_without_a_face_are_left_out() -> None:
    frames = pictures([(10, 20, 10)], [], [(30, 20, 10), (70, 10, 20)])
    faces = Bright(side=16, margin=0.0).crops(frames, CLIP)
    assert faces.pixels.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(faces.time, [0.0, 0.2], atol=1e-6)
    assert (faces.pixels[0] == 255).all()
    assert faces.pixels[1].float().mean() < 200  # the larger one, 10 x 20, in a square of 20
    assert Bright().crops(pictures([], []), CLIP) is None


def test_the_square_stays_inside_the_picture() -> None:
    for face in ((0, 0, 10), (90, 50, 10), (40, 0, 60)):
        faces = Bright(side=32, margin=1.0).crops(pictures([face]), CLIP)
        assert faces.pixels.shape == (1, 32, 32, 3)
        assert faces.pixels.min() >= 59  # nothing was added around it


def test_a_small_search_finds_the_same_place() -> None:
    frames = pictures([(200, 100, 100)], height=400, width=1000)
    frames.pixels[:, 100:200, 200:300] = 255
    faces = Bright(side=16, margin=0.0, longest=100).crops(frames, CLIP)
    assert (faces.pixels == 255).all()


def test_tracking_stays_with_the_face_that_is_largest_over_the_clip() -> None:
    box = [np.array([10, 10, 40, 40.0]), np.array([60, 10, 80, 30.0]), np.array([20, 15, 50, 45.0])]
    large = np.array([200, 0, 240, 40.0])  # passes by once
    found = [np.stack([box[0], box[1]]), np.stack([large, box[1]]), np.stack([box[1], box[2]])]
    kept = tracked(found)
    assert kept[1] is None
    assert np.array_equal(kept[0], box[0])
    assert np.array_equal(kept[2], box[2])
    assert tracked([np.zeros((0, 4))]) == [None]
    chosen = Bright(pick="tracked").boxes(pictures([(10, 10, 20), (60, 10, 30)], [(10, 12, 20)]), CLIP)
    assert [b[0] for b in chosen] == [10, 10]


def test_identity_names_what_decides_the_crops() -> None:
    assert FaceCropper().identity() == {}
    assert FaceCropper(color_order="bgr_compat").identity() == {"color_order": "bgr_compat"}
    one, two = (YuNet(model="/here/yunet.onnx", pick=p).identity() for p in ("largest", "tracked"))
    assert one != two
    assert one["detector"] == "YuNet"
    assert one["model"] == "yunet.onnx"


def test_wrong_settings() -> None:
    for build in (
        lambda: FaceCropper(color_order="bgr"), lambda: FaceCropper(rate=0), lambda: YuNet(pick="first"),
        lambda: YuNet(margin=-1), lambda: YuNet(side=0), lambda: YuNet(confidence=2), lambda: YuNet(longest=3),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"modality\.face\.detector\."):
            build()


def test_yunet_asks_for_its_model_file(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    for model in (None, str(tmp_path / "gone.onnx")):
        with pytest.raises(ConfigError, match=r"no model file[\s\S]*detector\.model=FILE"):
            YuNet(model=model).check()
    (tmp_path / "junk.onnx").write_bytes(b"none")
    with pytest.raises(ConfigError, match="cannot load the model"):
        YuNet(model=str(tmp_path / "junk.onnx")).find(np.zeros((64, 64, 3), np.uint8))


def test_haar_says_how_much_it_misses(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("cv2")
    with caplog.at_level(logging.WARNING):
        detector = Haar(side=32)
    assert caplog.messages == [HAAR_WARNING]
    assert "12-74 %" in HAAR_WARNING
    assert "94-100 %" in HAAR_WARNING
    detector.check()
    assert detector.crops(pictures([], []), CLIP) is None
    assert pickle.loads(pickle.dumps(detector)).crops(pictures([], []), CLIP) is None  # built anew in a worker
    assert len(caplog.messages) == 1


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_the_real_model(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    model = next((Path(os.environ["HERO_REAL"]) / "models" / "yunet").glob("*.onnx"))
    detector = YuNet(model=str(model), side=64)
    detector.check()
    assert detector.find(np.full((120, 160, 3), 90, np.uint8)).shape == (0, 4)
    assert detector.crops(pictures([], []), CLIP) is None
    again = pickle.loads(pickle.dumps(detector))
    face = drawn_face()
    found = again.find(face)
    assert len(found) == 1
    x0, y0, x1, y1 = found[0]
    assert 90 < (x0 + x1) / 2 < 230
    assert 70 < (y0 + y1) / 2 < 190


def drawn_face() -> np.ndarray:
    """[256, 320, 3] a shaded face, drawn: skin, hair, eyes with whites, nose shadow, mouth."""
    import cv2

    picture = np.full((256, 320, 3), (150, 170, 190), np.uint8)
    skin, dark = (224, 180, 150), (70, 45, 35)
    cv2.ellipse(picture, (160, 115), (62, 82), 0, 0, 360, dark, -1)
    cv2.ellipse(picture, (160, 130), (52, 70), 0, 0, 360, skin, -1)
    for x in (139, 181):
        cv2.ellipse(picture, (x, 118), (12, 6), 0, 0, 360, (250, 250, 250), -1)
        cv2.circle(picture, (x, 118), 5, (40, 30, 25), -1)
        cv2.ellipse(picture, (x, 103), (15, 4), 0, 180, 360, dark, 3)
    cv2.line(picture, (160, 122), (155, 146), (190, 140, 115), 2)
    cv2.ellipse(picture, (160, 148), (9, 4), 0, 0, 180, (170, 115, 95), 2)
    cv2.ellipse(picture, (160, 168), (20, 7), 0, 0, 360, (185, 80, 85), -1)
    return cv2.GaussianBlur(picture, (5, 5), 0)


def test_the_cause_of_a_foreign_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")

    def fails(*_: object) -> None:
        raise cv2.error("needs version 9")

    (tmp_path / "m.onnx").write_bytes(b"x")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", fails)
    with pytest.raises(ConfigError, match=r"cannot load the model[\s\S]*error: needs version 9"):
        YuNet(model=str(tmp_path / "m.onnx")).find(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"cannot be imported[\s\S]*ModuleNotFoundError"):
        YuNet(model=str(tmp_path / "m.onnx")).check()
