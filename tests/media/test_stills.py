"""Pictures that are no video: order, times, what is read, and what it says of other arrays."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from hero_lightning.errors import MediaError
from hero_lightning.media import stills
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.types import ClipInfo
from hero_lightning.types import Media
from tests.media_helpers import numbered_picture, picture_number


def read(media: Media, times, size=None):
    with ClipReader(media) as clip:
        return clip.read({"frame": times}, size=size)[0]["frame"]


def numbers(frames) -> list[int]:
    return [picture_number(p) for p in frames.pixels.numpy()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 0..11 as frame0.bmp ... frame11.bmp, and files that are none."""
    out = tmp_path / "frames"
    out.mkdir()
    for k in range(12):
        image = av.VideoFrame.from_ndarray(numbered_picture(k), format="rgb24")
        with av.open(str(out / f"frame{k}.bmp"), "w", format="image2") as task:
            modality = task.add_stream("bmp", rate=1)
            modality.width, modality.height, modality.pix_fmt = 96, 64, "bgr24"
            task.mux(modality.encode(image))
    (out / "._frame3.bmp").write_bytes(b"macOS")
    (out / "notes.txt").write_text("none")
    return out


@pytest.fixture
def array(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.stack([numbered_picture(k) for k in range(30)]))
    return tmp_path / "a.npy"


def test_a_folder_is_read_in_natural_order(folder: Path) -> None:
    media = Media(folder, rate=10.0)
    assert ClipReader(media).info == ClipInfo(1.2, 10.0, 12, True, False)
    frames = read(media, [0.0, 0.2, 1.0, 1.1, 5.0])
    assert numbers(frames) == [0, 2, 10, 11, 11]
    np.testing.assert_allclose(frames.time, [0.0, 0.2, 1.0, 1.1, 1.1], atol=1e-6)
    assert ClipReader(Media(folder)).info.fps == 25.0


def test_an_array_is_mapped_and_cut_and_scaled(array: Path) -> None:
    assert numbers(read(Media(array), [0.0, 0.41, 1.16])) == [0, 10, 29]
    assert numbers(read(Media(array, span=(0.4, 0.8)), [0.0, 0.2, 9.0])) == [10, 15, 19]
    assert ClipReader(Media(array, span=(0.4, 0.8))).info.num_frames == 10
    cut = read(Media(array, crop=(0, 0, 0.5, 1)), [0.2], size=32).pixels
    assert cut.shape == (1, 43, 32, 3)


def test_only_wanted_pictures_are_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "big.npy", np.zeros((400, 112, 112, 3), np.uint8))
    seen = []
    real = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: seen.append((a[2], k["offset"])) or real(*a, **k))
    assert read(Media(tmp_path / "big.npy"), [0.0, 3.0]).pixels.shape == (2, 112, 112, 3)
    size = 112 * 112 * 3
    assert seen == [(size, 128), (size, 128 + 75 * size)]


def test_an_array_truncated_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((40, 32, 32, 3), np.uint8))
    clip = ClipReader(Media(tmp_path / "a.npy"))
    assert clip.info.num_frames == 40
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(MediaError, match="truncated"):
        clip.read({"frame": [1.0]})


def test_blue_first_is_turned_round(tmp_path: Path) -> None:
    np.save(tmp_path / "bgr.npy", np.broadcast_to(np.array([200, 100, 0], np.uint8), (2, 16, 16, 3)))
    assert read(Media(tmp_path / "bgr.npy", bgr=True), [0.0]).pixels[0, 0, 0].tolist() == [0, 100, 200]
    assert read(Media(tmp_path / "bgr.npy"), [0.0]).pixels[0, 0, 0].tolist() == [200, 100, 0]


def test_a_file_without_pictures_has_none(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0,)))
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none.npy", tmp_path / "empty"):
        assert not ClipReader(Media(path)).info.has_video
        with pytest.raises(MediaError, match="no picture"):
            read(Media(path), [0.0])


def test_what_it_says_of_others(tmp_path: Path, folder: Path) -> None:
    np.save(tmp_path / "floats.npy", np.zeros((2, 8, 8, 3)))
    np.save(tmp_path / "whole.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "junk.npy").write_bytes(b"no array")
    whole = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[: len(whole) // 2])
    for name, said in (
        ("floats", "holds no pictures"), ("objects", "holds no pictures"), ("junk", "cannot be read"),
        ("cut", "truncated"),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=said):
            ClipReader(Media(tmp_path / f"{name}.npy")).info.fps  # noqa: B018
    with pytest.raises(MediaError, match="no sound"):
        ClipReader(Media(folder)).read({}, sound=True)
    (folder / "frame1.bmp").write_bytes(b"BM")
    with pytest.raises(MediaError, match=r"cannot be read[\s\S]*frame1.bmp"):
        read(Media(folder, rate=10.0), [0.1])
    av.VideoFrame.from_ndarray(numbered_picture(1, 48, 32), format="rgb24").save(str(folder / "frame1.png"))
    (folder / "frame1.bmp").unlink()
    with pytest.raises(MediaError, match="differ in size"):
        read(Media(folder, rate=10.0), [0.0, 0.1])


def test_the_cause_of_a_foreign_error_is_shown(folder: Path, array: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    error: Exception = av.error.InvalidDataError(1, "needs version 9")
    monkeypatch.setattr(av, "open", fails)
    with pytest.raises(MediaError, match=r"frame0\.bmp: InvalidDataError[\s\S]*needs version 9"):
        read(Media(folder), [0.0])
    with pytest.raises(MediaError, match=r"cannot be opened[\s\S]*needs version 9"):
        read(Media(folder / "frame1.bmp"), [0.0])
    error = ValueError("needs version 9")
    monkeypatch.setattr(stills, "read_header", fails)
    with pytest.raises(MediaError, match="ValueError: needs version 9"):
        read(Media(array), [0.0])
