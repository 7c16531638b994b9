"""OpenFace tables, au_info, and the peaks found in a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hero_lightning.errors import MediaError
from hero_lightning.media.action_units import (
    AU_COLUMNS,
    INTENSITIES,
    PRESENCES,
    au_info_file,
    read_au_info,
    read_au_table,
)
from hero_lightning.media.peaks import find_peaks
from hero_lightning.types import Sample
from tests.media_helpers import write_au_csv


def test_columns_are_openfaces() -> None:
    assert (len(INTENSITIES), len(PRESENCES)) == (17, 18)
    assert "AU28_c" in PRESENCES
    assert "AU28_r" not in INTENSITIES


def test_a_table_is_read_by_its_names(tmp_path: Path) -> None:
    smile = np.linspace(0, 3, 12)
    table = read_au_table(write_au_csv(tmp_path / "a.csv", 12, 10.0, {"AU12_r": smile, "AU12_c": smile > 1}))
    assert table.names == AU_COLUMNS
    assert table.x.shape == (12, 35)
    assert table.x.dtype == torch.float32
    np.testing.assert_allclose(table.x[:, AU_COLUMNS.index("AU12_r")], smile, atol=1e-5)
    np.testing.assert_allclose(table.time, np.arange(12) / 10, atol=1e-6)


def test_lost_faces_are_left_out(tmp_path: Path) -> None:
    table = read_au_table(write_au_csv(tmp_path / "a.csv", 6, 10.0, lost=(0, 3)))
    np.testing.assert_allclose(table.time, [0.1, 0.2, 0.4, 0.5], atol=1e-6)
    path = write_au_csv(tmp_path / "nan.csv", 3)
    path.write_text(path.read_text().replace("0.1,", "nan,"))
    assert len(read_au_table(path).x) == 2


def test_full_openface_files_carry_more_columns(tmp_path: Path) -> None:
    path = write_au_csv(tmp_path / "a.csv", 3, values={"AU01_r": np.array([1.0, 2.0, 3.0])})
    lines = [line.split(",") for line in path.read_text().splitlines()]
    wide = [[*line[:5], f" gaze_{k}" if k == 0 else " 7.5", *reversed(line[5:])] for k, line in enumerate(lines)]
    path.write_text("\n".join(",".join(line) for line in wide))
    assert read_au_table(path).x[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_what_it_says_of_broken_tables(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be read"):
        read_au_table(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(MediaError, match="lacks columns"):
        read_au_table(tmp_path / "empty.csv")
    (tmp_path / "other.csv").write_text("timestamp,AU01_r\n0,1\n")
    with pytest.raises(MediaError, match="AU02_r"):
        read_au_table(tmp_path / "other.csv")
    with pytest.raises(MediaError, match="no tracked face"):
        read_au_table(write_au_csv(tmp_path / "lost.csv", 2, lost=(0, 1)))
    path = write_au_csv(tmp_path / "words.csv", 2)
    path.write_text(path.read_text().replace("0.98", "0.98").replace("0.1,", "soon,"))
    with pytest.raises(MediaError, match="cannot be parsed"):
        read_au_table(path)


def write_pyfeat(path: Path, rows: list[dict[str, object]]) -> Path:
    """A py-feat table: probabilities of 20 units, pictures counted, a face rectangle, empty cells without a face."""
    units = [1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43]
    names = ["FaceRectX", "FaceScore", *(f"AU{n:02d}" for n in units), "anger", "input", "frame", "approx_time"]
    blank = {"FaceRectX": 10, "FaceScore": 0.99, "input": '"a, b.mp4"', "approx_time": "00:00"}
    lines = [",".join(names)]
    for row in rows:
        seen = {n: 0.1 for n in names if n.startswith("AU")} | blank | row
        lines.append(",".join(str(seen.get(n, "")) for n in names))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_pyfeat_table_becomes_openfaces_columns(tmp_path: Path) -> None:
    lost = {f"AU{n:02d}": "" for n in range(1, 46)} | {"FaceScore": "", "frame": 1}
    rows = [
        {"frame": 0, "AU12": 0.8, "AU43": 0.6, "AU28": 0.7},
        lost,
        {"frame": 2, "FaceScore": 0.7, "AU12": 0.9},  # a second, less sure face
        {"frame": 2, "FaceScore": 0.95, "AU12": 0.2},
    ]
    path = write_pyfeat(tmp_path / "p.csv", rows)
    table = read_au_table(path, lambda: 20.0)
    assert table.names == AU_COLUMNS
    np.testing.assert_allclose(table.time, [0.0, 0.1], atol=1e-6)
    column = dict(zip(AU_COLUMNS, table.x.T.tolist(), strict=True))
    assert column["AU12_r"] == pytest.approx([4.0, 1.0])
    assert (column["AU12_c"], column["AU45_c"], column["AU28_c"]) == ([1, 0], [1, 0], [1, 0])
    assert column["AU45_r"] == pytest.approx([3.0, 0.5])  # eyes closed stands for the blink
    for fps in (None, lambda: 0.0):
        with pytest.raises(MediaError, match="counts pictures"):
            read_au_table(path, fps)


def test_of_several_faces_the_surest(tmp_path: Path) -> None:
    path = write_au_csv(tmp_path / "a.csv", 4, 10.0, {"AU12_r": np.array([1.0, 2.0, 3.0, 4.0])})
    lines = path.read_text().splitlines()
    cells = lines[1].split(", ")  # a second face in the first picture
    cells[3] = "0.99"
    cells[5 + AU_COLUMNS.index("AU12_r")] = "2.5"
    path.write_text("\n".join([*lines, ", ".join(cells)]) + "\n")
    table = read_au_table(path)
    assert table.x[:, AU_COLUMNS.index("AU12_r")].tolist() == [2.5, 2.0, 3.0, 4.0]
    assert (table.time.diff() > 0).all()


def test_confidence_decides_where_success_is_not_written(tmp_path: Path) -> None:
    path = write_au_csv(tmp_path / "a.csv", 3, lost=(1,))
    cells = [line.split(", ") for line in path.read_text().splitlines()]
    path.write_text("\n".join(", ".join(c[:4] + c[5:]) for c in cells))
    np.testing.assert_allclose(read_au_table(path).time, [0.0, 0.2], atol=1e-6)


FACTORY = {
    "per_frame_au_descriptions": [
        {"frame": 9, "timestamp": 0.8, "active_aus": {"AU12_r": 2.5, "AU28_c": 1.0}, "is_peak_frame": True},
        {"frame": 3, "timestamp": 0.2, "active_aus": {"AU04_r": 1.5}, "is_peak_frame": False},
    ]
}
PUBLIC = {
    "source_path": "c.mp4",
    "chronological_emotion_peaks": ["..."],
    "overall_peak_frame_info": {"frame_number": 31, "timestamp": 1.2, "top_aus_intensities": {"AU12_r": 2.0}},
}


def test_only_the_peaks_of_an_analysis_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    said = {"summary": 'an "au_info": {} in words', "au_info": {"peak_frames": [{"peak_index": 3}]}, **FACTORY}
    path.write_text(json.dumps(said))
    assert read_au_info(path) == {"peak_frames": [{"peak_index": 3}]}
    path.write_text(json.dumps({"au_info": {"total_frames": 9}, **FACTORY}))
    assert read_au_info(path) == {"total_frames": 9, "peak_frames": [{"peak_index": 8, "time": 0.8, "intensity": 3.5}]}
    path.write_text('{"au_info": {"peak_frames": [{"peak_')
    with pytest.raises(MediaError, match="cannot be read"):
        read_au_info(path)


def test_both_flavours_of_mer_factory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(FACTORY))
    table = read_au_table(path)
    np.testing.assert_allclose(table.time, [0.2, 0.8], atol=1e-6)
    found = {n: v for n, v in zip(AU_COLUMNS, table.x[1].tolist(), strict=True) if v}
    assert found == {"AU12_r": 2.5, "AU12_c": 1.0, "AU28_c": 1.0}
    assert read_au_info(path)["peak_frames"] == [{"peak_index": 8, "time": 0.8, "intensity": 3.5}]
    path.write_text(json.dumps(PUBLIC))
    assert read_au_table(path).time.tolist() == pytest.approx([1.2])
    assert read_au_info(path)["peak_frames"] == [{"peak_index": 30, "time": 1.2, "intensity": 2.0}]
    path.write_text(json.dumps({"source_path": "c.mp4", "overall_peak_au_description": "words alone"}))
    assert read_au_info(path)["peak_frames"] == []
    with pytest.raises(MediaError, match="no tracked face"):
        read_au_table(path)
    path.write_text(json.dumps({"per_frame_au_descriptions": [{"active_aus": {}}]}))
    with pytest.raises(MediaError, match="cannot be parsed"):
        read_au_table(path)


@pytest.mark.parametrize("peaks", ["three", [3], [{}], [{"peak_index": -1}], [{"peak_index": 1.5}]])
def test_a_peak_must_be_a_picture(tmp_path: Path, peaks: object) -> None:
    (tmp_path / "i.json").write_text(json.dumps({"au_info": {"peak_frames": peaks}}))
    with pytest.raises(MediaError, match="another form"):
        read_au_info(tmp_path / "i.json")


def test_where_peaks_are_looked_for(tmp_path: Path) -> None:
    own = Sample("a/b", "train", files={"au_info": tmp_path / "own.json"})
    assert au_info_file(own, tmp_path) == tmp_path / "own.json"
    assert au_info_file(Sample("a/b", "train"), tmp_path) == tmp_path / "a" / "b.json"
    assert au_info_file(Sample("a", "train"), None) is None


def test_au_info_alone_or_inside_an_analysis(tmp_path: Path) -> None:
    path, info = tmp_path / "i.json", {"total_frames": 9, "peak_frames": [{"peak_index": 4}]}
    for written in (info, {"au_info": info, "summary_description": "..."}):
        path.write_text(json.dumps(written))
        assert read_au_info(path) == info
    for broken in ("{", "[1, 2]", '{"au_info": 3}'):
        path.write_text(broken)
        with pytest.raises(MediaError, match="au_info"):
            read_au_info(path)


def test_peaks_are_where_the_face_is_strongest(tmp_path: Path) -> None:
    time = np.arange(60) / 20
    smile = 3 * np.exp(-(((time - 0.6) / 0.2) ** 2)) + 4 * np.exp(-(((time - 2.0) / 0.2) ** 2))
    blink = 5.0 * (np.abs(time - 1.2) < 0.1)
    table = read_au_table(write_au_csv(tmp_path / "a.csv", 60, 20.0, {"AU12_r": smile, "AU45_r": blink}))
    info = find_peaks(table, 20.0)
    assert info["total_frames"] == 60
    assert [p["peak_index"] for p in info["peak_frames"]][:2] == [40, 12]
    around = {"peak_index": 40, "frames_before_peak": 40, "frames_after_peak": 19, "time": 2.0}
    assert info["peak_frames"][0] == {**around, "intensity": pytest.approx(4.0, abs=1e-3)}
    assert not any(abs(p["peak_index"] - 24) < 3 for p in info["peak_frames"])  # a blink is no expression
    assert [p["peak_index"] for p in info["peak_frames"]] == [40, 12]  # the slopes beside a peak are none
    calm = read_au_table(write_au_csv(tmp_path / "calm.csv", 60, 20.0))
    assert find_peaks(calm, 20.0, 80) == {"total_frames": 80, "fps": 20.0, "peak_frames": []}


def test_the_cause_of_a_foreign_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("needs version 9")

    (tmp_path / "latin.csv").write_bytes(b"timestamp,\xe9\n")
    with pytest.raises(MediaError, match=r"cannot be read[\s\S]*UnicodeDecodeError: 'utf-8' codec"):
        read_au_table(tmp_path / "latin.csv")
    path = write_au_csv(tmp_path / "a.csv", 3)
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(np, "loadtxt", fails)
    monkeypatch.setattr(json, "loads", fails)
    with pytest.raises(MediaError, match=r"cannot be parsed[\s\S]*ValueError: needs version 9"):
        read_au_table(path)
    with pytest.raises(MediaError, match=r"cannot be read[\s\S]*ValueError: needs version 9"):
        read_au_info(tmp_path / "a.json")
