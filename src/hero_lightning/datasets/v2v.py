"""V2V (Mazeika et al. 2022): which of two videos, or of up to four, is the more pleasant to watch.

Data flow: {train,test,listwise}_labels.json -> comparisons (least preferred first) -> one Sample per video, labelled
with its places in them -> items: the videos of a comparison together.

    root/ train_labels.json test_labels.json listwise_labels.json   {"comparisons": [[worse, better], ...]}
          videos/00000.mp4 ...   (a subset of VCE's, by the same ids)
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.readers import label_file, read_json
from hero_lightning.datasets.vce import FIRST_TEST
from hero_lightning.errors import DataError
from hero_lightning.types import Media, Sample

log = logging.getLogger(__name__)

PARTS = {"train": "train_labels.json", "test": "test_labels.json", "test_listwise": "listwise_labels.json"}
LONGEST = 4
"""Videos of the longest list."""


@dataclass(kw_only=True, eq=False, repr=False)
class V2vDataModule(EmotionDataModule):
    """V2V from its official files; the lists are the split `test_listwise`.

    The label `preference` of a video is its places: [comparison, place, videos in it], place 0 the least preferred.
    Comparisons that share videos form a cluster; it is the sample's `dialogue`, so that neither splits nor bootstrap
    resamples divide it. Validation is split from train in whole clusters.

    Attributes:
        videos: folder of the clips, e.g. VCE's; None = root/videos.
    """

    videos: Path | str | None = None
    missing: str = "error"

    name = "v2v"
    group: ClassVar[str] = "cluster"
    official_counts: ClassVar[Mapping[str, int]] = {"train": 16_125, "test": 6_223, "test_listwise": 4_322}
    official_comparisons: ClassVar[Mapping[str, int]] = {"train": 11_038, "test": 3_189, "test_listwise": 1_758}

    def samples(self) -> list[Sample]:
        """One sample per video, in the order of the comparisons."""
        label_file(self.root, tuple(PARTS.values()), self.name)
        root = Path(self.root)
        found = {split: root / name for split, name in PARTS.items() if (root / name).is_file()}
        folder = Path(self.videos) if self.videos else root / "videos"
        samples: list[Sample] = []
        total = 0
        for split, path in found.items():
            comparisons = read_comparisons(path)
            self._compare_count(f"v2v {split} has", len(comparisons), "comparisons", self.official_comparisons[split])
            places: dict[str, list[list[int]]] = defaultdict(list)
            for number, members in enumerate(comparisons, start=total):
                for place, video in enumerate(members):
                    places[video].append([number, place, len(members)])
            total += len(comparisons)
            cluster = clusters(comparisons)
            samples += [
                Sample(
                    id=video,
                    split=split,
                    video=Media(folder / f"{video}.mp4"),
                    dialogue=f"videos around {cluster[video]}",
                    labels={"preference": entries},
                )
                for video, entries in places.items()
            ]
            if split != "train" and (known := sum(int(v) < FIRST_TEST for v in places)):
                overlap = f"{known} of {len(places)} v2v {split} videos are in VCE's train file"
                self._note(f"{overlap}: a model fine-tuned on VCE has seen them")
        return samples

    def items(self, split: str) -> list[tuple[int, ...]]:
        """Rows of the videos of each comparison, least preferred first.

        Outside train a video is only in its first item: its utility is computed once and looked up by the metrics for
        every comparison. A train comparison that lacks a video is left out.
        """
        members: dict[int, dict[int, int]] = defaultdict(dict)
        sizes: dict[int, int] = {}
        for row, sample in enumerate(self.index.samples[split]):
            for number, place, size in sample.labels["preference"]:
                members[number][place], sizes[number] = row, size
        ordered = [tuple(row for _, row in sorted(members[n].items())) for n in sorted(members)]
        if split == "train":
            whole = [item for item, n in zip(ordered, sorted(members), strict=True) if len(item) == sizes[n]]
            if lost := len(ordered) - len(whole):
                log.warning("%d train comparisons lack a video and are left out", lost)
            return whole
        served: set[int] = set()
        items = []
        for item in ordered:
            items.append(tuple(row for row in item if row not in served))
            served |= set(item)
        return [item for item in items if item]


def read_comparisons(path: Path) -> list[list[str]]:
    """Comparisons of a label file: two to four different five-digit ids each, least preferred first."""
    content = read_json(path)
    comparisons = content.get("comparisons") if isinstance(content, dict) else None
    if not isinstance(comparisons, list) or not comparisons:
        raise DataError("A V2V label file has another form.", expected='{"comparisons": [[id, id], ...]}', where=path)
    for k, members in enumerate(comparisons):
        names = members if isinstance(members, list) else []
        fits = 2 <= len(names) <= LONGEST and all(isinstance(m, str) and len(m) == 5 and m.isdecimal() for m in names)
        if not fits or len(set(names)) < len(names):
            expected, where = f"2 to {LONGEST} different ids of five digits", f"{path}, comparison {k}"
            raise DataError("A V2V comparison has another form.", expected=expected, got=members, where=where)
    return comparisons


def clusters(comparisons: Iterable[Iterable[str]]) -> dict[str, str]:
    """Video -> the smallest id of all videos connected to it by comparisons, directly or not."""
    parent: dict[str, str] = {}

    def top(video: str) -> str:
        while parent.setdefault(video, video) != video:
            parent[video] = video = parent[parent[video]]
        return video

    for members in comparisons:
        tops = sorted({top(video) for video in members})
        parent |= dict.fromkeys(tops, tops[0])
    return {video: top(video) for video in parent}
