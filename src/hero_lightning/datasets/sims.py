"""CH-SIMS and CH-SIMS v2 (Yu et al. 2020, Liu et al. 2022): Chinese film and television clips, scores in [-1, 1].

Data flow: see datasets/mmsa.py. Texts are Chinese; text, sound and picture also have scores of their own.

    root/ label.csv | meta.csv   Raw/video_0001/0001.mp4
    v2:   meta(s).csv or ch-simsv2s/meta.csv, the unlabelled pool meta(u).csv or ch-simsv2u/meta.csv; Raw/ beside them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hero_lightning.datasets.mmsa import MmsaDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class SimsDataModule(MmsaDataModule):
    """CH-SIMS: 2281 clips of 60 films and series. The official split is by clip: splits share videos."""

    name = "sims"
    official_counts: ClassVar[Mapping[str, int]] = {"train": 1368, "val": 456, "test": 457}
    apart: ClassVar[tuple[str, ...]] = ()
    clip_digits: ClassVar[int] = 4
    language: ClassVar[str] = "chinese"


@dataclass(kw_only=True, eq=False, repr=False)
class SimsV2DataModule(SimsDataModule):
    """CH-SIMS v2: 4403 labelled clips and the unlabelled pool."""

    name = "simsv2"
    official_counts: ClassVar[Mapping[str, int]] = {"train": 2722, "val": 647, "test": 1034}
    tables: ClassVar[tuple[str, ...]] = ("meta(s).csv", "ch-simsv2s/meta.csv", *MmsaDataModule.tables)
    pools: ClassVar[tuple[str, ...]] = ("meta(u).csv", "ch-simsv2u/meta.csv")
    clips: ClassVar[tuple[str, ...]] = tuple(
        f"{part}Raw/{{video}}/{{clip}}.mp4" for part in ("", "ch-simsv2s/", "ch-simsv2u/")
    )
    clip_digits: ClassVar[int] = 0
