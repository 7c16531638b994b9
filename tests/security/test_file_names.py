"""Ids that would write or read outside a folder, or share a file: one function makes every file name."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hero_lightning.datasets.demo.datamodule import DemoDataModule
from hero_lightning.datasets.export import check_folder, write_folder
from hero_lightning.datasets.folder import FolderDataModule
from hero_lightning.datasets.shards import ShardsDataModule, write_shards
from hero_lightning.encoders.handcrafted import HashedWords
from hero_lightning.features import Modality, NpyDict
from hero_lightning.features.extraction import fill
from hero_lightning.features.foreign.affectgpt import AffectGptFolder, export, folder_name
from hero_lightning.features.foreign.tables import NpyFolder
from hero_lightning.media.action_units import au_info_file
from hero_lightning.tasks import ClassTask
from hero_lightning.types import Sample, file_name
from tests.helpers import make_modality

BAD = ["../../../x", "..", ".", "a/../../x", "/x", "//x", "", "/", "a/", "nul\0x", "y" * 300, "ä" * 120, "CON", "con.a",
       "LPT1", "aux/x", "dots...", "blank ", "a./b", "..\\x", "C:\\x", "C:x", "a%2Fb", "%", "%%", "a\nb", ".hidden",
       "a*b?", "x.npy/y", "\ud800", "z/" * 200, "~", "-r"]  # fmt: skip
GOOD = ["dia0_utt0", "Ses01F_impro01_F000", "--eQ6qVU", "03-01-01", "video/clip.v1", "meld/dia1_utt2", "Ärger", "a (1)"]
PIECES = ["a", "A.", ".", "..", "/", "%", "%2E", " ", "CON", "\\", "\0"]


def inside(folder: Path) -> list[str]:
    """Names of the feature files below a folder, after checking that its parents have nothing else."""
    top = folder.parents[3]
    everywhere = {p for p in top.rglob("*.npy")}
    assert everywhere == set(folder.rglob("*.npy"))
    return sorted(p.relative_to(folder).as_posix() for p in everywhere)


@pytest.mark.parametrize("id", BAD)
def test_a_name_is_taken_by_every_file_system(id: str) -> None:
    parts = f"{file_name(id)}.npy".split("/")
    for part in parts:
        assert 0 < len(part.encode()) <= 160
        assert not part.startswith(".")
        assert not part.endswith((".", " "))
        assert part.split(".")[0].rstrip().upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT1")
        assert not set(part) & set('\0\n<>:"|?*\\')
    assert not any(part.endswith((".npy", ".npz", ".json")) for part in parts[:-1])


@pytest.mark.parametrize("id", GOOD)
def test_a_plain_id_is_its_own_name(id: str) -> None:
    assert file_name(id) == id


def test_different_ids_have_different_names() -> None:
    ids = {"".join(p) for n in range(5) for p in itertools.product(PIECES, repeat=n)} | {*BAD, *GOOD}
    ids |= {"y" * n for n in range(140, 320)} | {file_name(id) for id in BAD}
    assert len({file_name(id) for id in ids}) == len(ids) > 10_000


@pytest.mark.parametrize("layout", ["npydict", "affectgpt"])
def test_extract_stays_inside_and_reads_back(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / "1" / "2" / "3" / "out"
    ids = [id for id in BAD if id != "\ud800"] + [str(tmp_path / "absolute")]  # safetensors keeps UTF-8 ids only
    samples = [Sample(id=id, split="train", text=f"word{n}") for n, id in enumerate(ids)]
    modality = make_modality("text", "auto", HashedWords)
    modality.bind(tmp_path / "store", "../d")
    fill({"text": modality}, samples, batch_size=8, device="cpu", workers=0, progress=False)
    assert export({"text": modality}, samples, folder, layout, "mer2023") == len(samples)
    assert len(inside(folder)) == len(samples)
    assert not list(tmp_path.glob("d/*"))
    own = (
        AffectGptFolder(folder, "mer2023", folder_name(modality)) if layout == "affectgpt" else NpyDict(folder, "bert")
    )
    for s in samples:
        assert np.array_equal(own.read(s).x, modality.stored(s).x), s.id
        assert own.path(s).resolve().is_relative_to(folder)


def test_sources_and_peaks_read_inside_their_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3), dtype=np.float32))
    folder = tmp_path / "1" / "2" / "3"
    for id in (*BAD, str(tmp_path / "x")):
        s = Sample(id=id, split="train")
        for source in (NpyDict(folder, "clip"), NpyFolder(folder), NpyFolder(folder, rename={"$": "/../../../../x"})):
            assert source.path(s).resolve().is_relative_to(folder)
            assert not source.contains(s)
        assert (au_info_file(s, folder) or tmp_path).resolve().is_relative_to(folder)


def text() -> dict[str, Modality]:
    return {"text": make_modality("text", "auto", HashedWords)}


def test_conversion_stays_inside_and_reads_back(tmp_path: Path) -> None:
    emotions = {"emotion": ClassTask("emotion")}
    data = DemoDataModule(root=tmp_path / "demo", modalities=text(), tasks=emotions, features_root=tmp_path, clips=24)
    ids = [id for id in BAD if id not in ("\ud800", "")]
    samples = [replace(s, id=id, turns=(), dialogue=None) for s, id in zip(data.samples() * 2, ids, strict=False)]
    data.samples = lambda: samples  # type: ignore[method-assign]
    out = tmp_path / "1" / "2" / "3" / "out"
    write_folder(data, out, features=False)
    write_shards(data, out / "shards")
    for kind, root in ((FolderDataModule, out), (ShardsDataModule, out / "shards")):
        again = kind(root=root, modalities=text(), tasks={"emotion": ClassTask("emotion")}, features_root=tmp_path)
        assert sorted(s.id for s in again.samples()) == sorted(ids)
    assert {fault.id for fault in check_folder(out)} >= set(ids)  # no feature files
    assert {p.name for p in (tmp_path / "1").rglob("*")} >= {"labels.json", "index.json"}
    assert {p.name for p in tmp_path.iterdir()} == {"demo", "1"}
