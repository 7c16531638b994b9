"""`python -m hero_lightning.check`: what is there and how to get the rest, per modality and split."""

from __future__ import annotations

import csv

import numpy as np

from hero_lightning.check import availability
from tests.datasets.small_datasets import write_folder
from tests.helpers import in_process
from tests.media_helpers import write_clip


def shown(tmp_path, *overrides):
    return availability(in_process("check", tmp_path / "run", *overrides, f"paths.features={tmp_path}/f"))


def table(tmp_path, *rows):
    (tmp_path / "labels.csv").write_text("id,path,label,text\n" + "\n".join(rows) + "\n")
    return ["dataset=table", f"dataset.root={tmp_path}"]


def test_media(tmp_path):
    write_clip(tmp_path / "a.mp4", seconds=0.5)
    (tmp_path / "b.mp4").touch()
    own = table(tmp_path, "a,a.mp4,x,hi", "b,b.mp4,y,hi", "c,c.mp4,x,", "d,,y,hi")
    lines = shown(tmp_path, *own, "dataset.missing=error", "modalities=[frame,text]")
    assert any(line.startswith("frame: 1 clips can be decoded") and "modalities=[frame]" in line for line in lines)
    assert any("frame: 1 clips are broken (file is empty" in line for line in lines)
    assert any("frame: 1 clips are missing (no video)" in line and "docs/data/" in line for line in lines)
    assert any("text: 1 clips are missing (no text)" in line for line in lines)
    rows = list(csv.DictReader((tmp_path / "run" / "availability.csv").open()))
    assert sum(int(r["count"]) for r in rows if r["modality"] == "frame") == 4
    assert (tmp_path / "run" / "ledger.csv").is_file()


def test_an_empty_store_is_no_error(tmp_path):
    own = table(tmp_path, *(f"s{k},,{'xy'[k % 2]},hi" for k in range(8)))
    lines = shown(tmp_path, *own, "mode@modality.text=preextracted", "modalities=[text]")
    assert len(lines) == 1
    assert "text: 8 clips can be decoded" in lines[0]
    assert "hero_lightning.extract" in lines[0]


def test_features(tmp_path, caplog):
    caplog.set_level("INFO")
    own = ["dataset=folder", f"dataset.root={write_folder(tmp_path / 'in', 12)}", "modalities=[frame,audio]"]
    assert shown(tmp_path, *own) == []
    assert "nothing is missing" in caplog.text
    np.save(tmp_path / "in" / "features" / "c1.npy", np.zeros(3))
    assert all("broken" in line for line in shown(tmp_path, *own))
