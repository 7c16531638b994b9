"""The whole way on raw clips: realtime, extracted before, and hybrid train alike; what is missing is said."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from hero_lightning.config import build
from hero_lightning.config.cli import CONF
from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.errors import ConfigError, DataError, FeatureError
from hero_lightning.extract import extract
from hero_lightning.features import ModalityEncoder
from hero_lightning.features.foreign.safe_pickle import load_features
from tests.helpers import in_process, train_in_process

QUIET = ("trainer=cpu", "dataset.clips=24", "dataset.num_workers=0")


def extract_in_process(folder: Path, *overrides: str, clips: Sequence[str] = QUIET[1:2]) -> None:
    """`python -m hero_lightning.extract` without a new process; its run folder is `folder`."""
    extract(in_process("extract", folder, QUIET[0], QUIET[2], *clips, *overrides))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo dataset of 24 clips, all features extracted as float32."""
    root = tmp_path_factory.mktemp("modes")
    extract_in_process(root / "extract", *paths(root), "dtype=float32", "part_size=7")
    return root


def paths(root: Path) -> list[str]:
    return [f"paths.data={root}/data", f"paths.features={root}/features"]


def trained(root: Path, name: str, *overrides: str) -> dict[str, list[float]]:
    """Every logged figure of one epoch in this mode: the losses of all steps, validation, test."""
    train_in_process(
        root / name, *paths(root), "size=tiny", "trainer.max_epochs=1", "dataset.batch_size=4",
        "trainer.log_every_n_steps=1", "probes=false", "dataset.bucket=false", *overrides,
    )  # fmt: skip
    table = rows(next((root / name).rglob("metrics.csv")))
    return {key: [float(r[key]) for r in table if r[key]] for key in table[0]}


def alike(live: dict[str, list[float]], stored: dict[str, list[float]]) -> None:
    """The same metrics to 1e-5, but for time and memory."""
    assert len(live["train/loss"]) >= 3
    assert {"val/emotion/weighted_f1", "test/emotion/weighted_f1"} <= live.keys() == stored.keys()
    for key in (k for k in live if not k.startswith("resources/")):
        assert stored[key] == pytest.approx(live[key], abs=1e-5, rel=1e-5), key


def test_realtime_and_extracted_features_train_alike(root: Path) -> None:
    alike(*(trained(root, mode, QUIET[1], f"modes={mode}") for mode in ("realtime", "preextracted")))
    assert {r["mode"] for r in rows(root / "realtime" / "availability.csv")} <= {"realtime", "absent"}
    assert {r["mode"] for r in rows(root / "preextracted" / "availability.csv")} <= {"preextracted", "absent"}


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_real_sound_trains_alike_realtime_and_extracted(tmp_path: Path) -> None:
    clips = tmp_path / "data" / "ravdess"
    clips.mkdir(parents=True)
    chosen = r"03-01-0[1-8]-01-01-01-(0[1-6]|1[0-2])\.flac"
    for file in (Path(os.environ["HERO_REAL"]) / "data" / "ravdess" / "flac16k").iterdir():
        if re.fullmatch(chosen, file.name):
            (clips / file.name).symlink_to(file.resolve())
    dataset = ("dataset=ravdess", "modalities=[audio]")
    extract_in_process(tmp_path / "extract", *paths(tmp_path), *dataset, "dtype=float32", clips=())
    alike(*(trained(tmp_path, mode, *dataset, f"modes={mode}") for mode in ("realtime", "preextracted")))


def plan_of(root: Path, *overrides: str) -> EmotionDataModule:
    """The dataset of a train command, not indexed yet."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        given = [*QUIET, *paths(root), "modalities=[frame,audio]", *overrides]
        cfg = compose("train", given, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return build.dataset(cfg)


def test_a_feature_set_that_is_missing_prints_the_command_that_makes_it(root: Path) -> None:
    with pytest.raises(FeatureError, match="No features of this identity") as info:
        plan_of(
            root, "modes=hybrid", "mode@modality.audio=realtime", "encoder@modality.frame.encoder=frame_difference"
        ).build_index()
    command = (
        f"python -m hero_lightning.extract dataset.clips=24 dataset.num_workers=0 paths.data={root}/data "
        f"paths.features={root}/features modes=hybrid mode@modality.audio=realtime "
        "encoder@modality.frame.encoder=frame_difference modalities=[frame]"
    )
    assert command in info.value.details["hint"]
    assert "FrameHog" in info.value.details["got"]


def test_hybrid_reads_what_is_stored_and_falls_back_where_asked(root: Path) -> None:
    ids = sorted(p.stem for p in (root / "data/demo").glob("*/clips/train_*.mp4"))[::2]
    (root / "ids.txt").write_text("\n".join(ids) + "\n")
    extract_in_process(root / "some", *paths(root), "modes=hybrid", "modalities=[frame]", f"ids={root}/ids.txt")
    table = [r for r in rows(root / "some" / "availability.csv") if r["mode"] == "preextracted"]
    assert sum(int(r["count"]) for r in table) == len(ids)
    assert {r["reason"] for r in table} <= {"store, peak", "store, no_au", "store, no_peak", "store, clamped"}
    bare = [
        c for c in plan_of(root, "modes=hybrid").build_index().table if c.modality == "frame" and c.split == "train"
    ]
    assert {c.mode for c in bare} == {"preextracted", "absent"}
    assert next(c.reason for c in bare if c.mode == "absent").startswith(
        "not extracted: python -m hero_lightning.extract"
    )
    dataset = plan_of(root, "modes=hybrid", "modality.frame.fallback=true", "dataset.batch_size=8")
    table = [c for c in dataset.build_index().table if c.split == "train"]
    count = Counter()
    for c in table:
        count[c.modality, c.mode] += c.count
    assert count["frame", "preextracted"] == len(ids)
    assert count["frame", "realtime"] > 0
    assert set(s for s, m in count if m == "preextracted") == {"frame"}
    assert all(c.reason.endswith(", not extracted") for c in table if (c.modality, c.mode) == ("frame", "realtime"))
    batch = next(iter(dataset.loader("train")))
    assert len(batch.modalities["frame"].stored_rows) + len(batch.modalities["frame"].input_rows) == len(batch)
    encoded = ModalityEncoder(dataset.modalities["frame"])(batch.modalities["frame"])
    assert encoded.present.all()


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["modes=realtime", "encoder@modality.frame.encoder=none"], ConfigError, "frame.encoder=NAME"),
        (["layout=parquet"], ConfigError, "store, npydict, affectgpt"),
        (["layout=npydict"], ConfigError, "out=DIR"),
        (["layout=npydict", "out=x", "part=1/2"], ConfigError, "then once without part="),
        (["part=3/2"], ConfigError, "1/4 to 4/4"),
        (["part=1/2", "force=true"], ConfigError, "force or retry in one process"),
        (["ids=[nobody]"], DataError, "does not have"),
        (["ids=nowhere.txt"], DataError, "one id per line"),
        (["video=nowhere.mp4", "out=x"], DataError, "a folder of clips or of one clip's pictures, or a pattern"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(root: Path, overrides: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        extract_in_process(root / "wrong", *paths(root), *overrides)


def test_own_clips_become_an_npy_dict(root: Path) -> None:
    mine = root / "mine"
    mine.mkdir()
    for k, clip in enumerate(sorted((root / "data/demo").glob("*/clips/test_*.mp4"))[:2]):
        shutil.copy(clip, mine / f"m{k}.mp4")
    (mine / "m0.txt").write_text("well well\n")
    (mine / "m1.mp4").write_bytes((mine / "m1.mp4").read_bytes()[:2000])
    extract_in_process(root / "run", f"video={mine}", f"out={root}/npy", "layout=npydict", "modalities=[audio,text]")
    assert sorted(p.name for p in (root / "npy").iterdir()) == ["m0.npy", "manifest.json"]
    content = load_features(root / "npy" / "m0.npy")
    assert content.keys() == {"hubert", "hubert_time", "hubert_measures", "bert", "transcript"}
    assert content["transcript"] == "well well"
    ledger = {(r["id"], r["modality"]): r["stage"] for r in rows(root / "run" / "failures.csv")}
    assert ledger == {("m1", "audio"): "decode", ("m1", "text"): "absent"}
