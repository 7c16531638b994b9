"""A .csd (HDF5) that reads other files of the machine is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hero_lightning.datasets.mosei import read_csd
from hero_lightning.errors import DataError

h5py = pytest.importorskip("h5py")


def external(video: Any, secret: Path) -> None:
    video.create_dataset("features", (7,), "uint8", external=[(str(secret), 0, 7)])


def virtual(video: Any, secret: Path) -> None:
    layout = h5py.VirtualLayout((7,), "uint8")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "x", (7,))
    video.create_virtual_dataset("features", layout)


def linked(video: Any, secret: Path) -> None:
    video["features"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "x")


def soft(video: Any, secret: Path) -> None:
    video.file["elsewhere"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "x")
    video["features"] = h5py.SoftLink("/elsewhere")
    del video.file["elsewhere"]


@pytest.mark.parametrize(
    ("attack", "got"),
    [(external, "external storage"), (virtual, "external storage"), (linked, "ExternalLink"), (soft, "SoftLink")],
)
def test_arrays_of_other_files(attack: Callable[[Any, Path], None], got: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"1234567")
    with h5py.File(secret.with_suffix(".h5"), "w") as file:
        file["x"] = np.arange(7, dtype="uint8")
    with h5py.File(tmp_path / "labels.csd", "w") as file:
        video = file.create_group("All Labels/data/v1")
        video["intervals"] = np.zeros((1, 2))
        attack(video, secret)
    with pytest.raises(
        DataError, match=f"refers to something outside itself(.|\n)*{got} at /All Labels/data/v1/features"
    ):
        read_csd(tmp_path / "labels.csd")


@pytest.mark.parametrize("place", ["All Labels", "All Labels/data", "All Labels/data/v1"])
def test_groups_of_other_files(place: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x/data/v1/intervals"], file["x/data/v1/features"] = np.zeros((1, 2)), np.zeros((1, 7))
    inner = "/".join(["x", "data", "v1"][: place.count("/") + 1])
    with h5py.File(tmp_path / "labels.csd", "w") as file:
        file[place] = h5py.ExternalLink(str(tmp_path / "other.h5"), inner)
    with pytest.raises(DataError, match=r"ExternalLink at /+" + place):
        read_csd(tmp_path / "labels.csd")


def test_a_missing_part_is_no_attack(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "labels.csd", "w") as file:
        file["All Labels/data/v1/intervals"] = np.zeros((1, 2))
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*KeyError: 'features'"):
        read_csd(tmp_path / "labels.csd")


def test_an_array_that_is_larger_than_its_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "labels.csd", "w") as file:
        video = file.create_group("All Labels/data/v1")
        video["intervals"] = np.zeros((1, 2))
        video.create_dataset("features", (10**9, 7), "float64", chunks=(1024, 7), fillvalue=1.0)
    with pytest.raises(
        DataError, match=r"much larger when it is decompressed(.|\n)*56000000016 bytes(.|\n)*limits.growth"
    ):
        read_csd(tmp_path / "labels.csd")


def test_groups_where_arrays_belong(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "labels.csd", "w") as file:
        file["All Labels/data/v1/intervals/x"] = file["All Labels/data/v1/features/x"] = np.zeros(1)
    with pytest.raises(DataError, match="cannot be read"):
        read_csd(tmp_path / "labels.csd")
