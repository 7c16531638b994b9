"""OpenFace tables, au_info, and the peaks found in a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hero_lightning.errors import MediaError
from hero_lightning.media.openface import AU_COLUMNS, INTENSITIES, PRESENCES, find_peaks, read_au_info, read_au_table
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
    with pytest.raises(MediaError, match="broken"):
        read_au_table(path)


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
    assert info["peak_frames"][0] == {
        "peak_index": 40, "frames_before_peak": 40, "frames_after_peak": 19, "intensity": pytest.approx(4.0, abs=1e-3),
    }  # fmt: skip
    assert not any(abs(p["peak_index"] - 24) < 3 for p in info["peak_frames"])  # a blink is no expression
    calm = read_au_table(write_au_csv(tmp_path / "calm.csv", 60, 20.0))
    assert find_peaks(calm, 20.0, 80) == {"total_frames": 80, "fps": 20.0, "peak_frames": []}
