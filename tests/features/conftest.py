"""A dataset of six small clips and its modalities, shared by the tests of this room."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hero_lightning.encoders.handcrafted import AuValues, FrameDifference, FrameHog, HashedWords, LogMelProsody
from hero_lightning.features.modality import Modality
from hero_lightning.media.frame_samplers import Fps, Uniform
from hero_lightning.types import Media, Sample, Turn
from tests.helpers import make_modality
from tests.media_helpers import tone, write_au_csv, write_clip

ALL = ("frame", "face", "motion", "audio", "au", "text")


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> list[Sample]:
    """c0..c5 of different length; c1 without face box, c2 without sound, c3 without words, c4 without AU table."""
    root = tmp_path_factory.mktemp("clips")
    out = []
    for k in range(6):
        seconds = 0.8 + 0.3 * k
        sound = tone(seconds, hertz=120 + 40 * k)
        video = write_clip(root / f"c{k}.mp4", seconds, audio=k != 2, sound=sound)
        values = {"AU12_r": np.full(20, k / 2), "AU12_c": np.ones(20)}
        out.append(
            Sample(
                id=f"c{k}",
                split="train",
                video=Media(video),
                files={} if k == 4 else {"au": write_au_csv(root / f"c{k}.csv", 10 + 2 * k, values=values)},
                boxes={} if k == 1 else {"face": (0.25, 0.25, 0.75, 1.0)},
                text=None if k == 3 else "so happy to see you " * (k + 1),
                speaker="Ann",
                turns=(Turn("Bob", "hello there"), Turn(None, "well?"))[: k % 3],
            )
        )
    return out


def make(name: str, mode: str = "auto", **options) -> Modality:
    """A modality with its weight-free encoder."""
    encoder, sampler = {
        "frame": (partial(FrameHog, size=32, cells=4), Uniform(4)),
        "face": (partial(FrameHog, size=32, cells=4), Uniform(3)),
        "motion": (FrameDifference, Fps(5)),
        "audio": (LogMelProsody, None),
        "au": (AuValues, None),
        "text": (HashedWords, None),
    }[name]
    if name == "text":
        options.setdefault("context_turns", 2)
    return make_modality(name, mode, **({"encoder": encoder, "sampler": sampler} | options))


@pytest.fixture
def modalities(tmp_path: Path) -> dict[str, Modality]:
    """All six in mode auto, bound below a fresh features root."""
    out = {name: make(name) for name in ALL}
    for modality in out.values():
        modality.bind(tmp_path / "features", "demo")
    return out


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
