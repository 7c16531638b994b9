"""Predictions from raw clips and folders of a run that trained on stored features."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.media import transcribe
from hero_lightning.predict import predict
from tests.helpers import feature_dataset, in_process, train_in_process

BASE = ["size=tiny", "trainer.max_epochs=1", "dataset.batch_size=8", "test=false", "probes=false", "logger=none"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the demo dataset (mode auto), and a folder of two clips, one of them with words, and a broken one."""
    root = tmp_path_factory.mktemp("predict")
    where = [
        f"paths.data={root}/data",
        f"paths.features={root}/features",
        "dataset.clips=24",
        "modalities=[frame,audio,text]",
    ]
    train_in_process(root / "run", *where, *BASE)
    (root / "mine").mkdir()
    for k, clip in enumerate(sorted((root / "data/demo").glob("*/clips/train_*.mp4"))[:2]):
        shutil.copy(clip, root / "mine" / f"m{k}.mp4")
    (root / "mine" / "m0.txt").write_text("oh no\n")
    (root / "mine" / "m2.mp4").write_bytes(b"junk" * 100)
    return root


def found(root: Path, *overrides: str, many: bool = False) -> Iterator[dict]:
    given = [f"run={root / 'run'}", f"paths.data={root}/data", f"paths.features={root}/features", "trainer=cpu"]
    return predict(in_process("predict", root / "predicted", *given, *overrides), many)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_folder_is_predicted_like_its_clips(root: Path, batch_size: int, caplog: pytest.LogCaptureFixture) -> None:
    by_id = {r["id"]: r for r in found(root, f"video={root}/mine", f"batch_size={batch_size}", many=True)}
    assert by_id.keys() == {"m0", "m1", "m2"}
    assert "nothing can be read" in by_id["m2"]["error"]
    assert by_id["m0"]["modalities"] == {"frame": "realtime, uniform", "audio": "realtime", "text": "realtime"}
    assert by_id["m1"]["modalities"]["text"] == "absent, no text"
    assert "no text modality for 2 clips" in caplog.text
    (alone,) = found(root, f"video={root}/mine/m1.mp4")
    for name, p in alone["predictions"]["emotion"]["all"].items():
        assert by_id["m1"]["predictions"]["emotion"]["all"][name] == pytest.approx(p, abs=2e-4)
    for modality, attention in alone["time_attention"].items():
        assert by_id["m1"]["time_attention"][modality]["seconds"] == attention["seconds"]


def test_words_come_from_asr(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe.Transcriber, "__call__", lambda self, sound: f"{len(sound.x)} samples heard")
    (one,) = found(root, f"video={root}/mine/m1.mp4", "asr=whisper")
    assert one["modalities"]["text"] == "realtime"
    assert list((root / "features" / "predict" / "transcript").rglob("m1-*.txt"))


def test_a_clip_called_like_one_of_the_dataset_is_not_taken_for_it(root: Path) -> None:
    first, second = sorted((root / "data/demo").glob("*/clips/train_*.mp4"))[:2]
    shutil.copy(second, root / first.name)
    (mine,) = found(root, f"video={root}/{first.name}")
    (twin,) = found(root, f"video={root}/mine/m1.mp4")
    assert mine["predictions"] == twin["predictions"]


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["video=mine", "text=hello"], ConfigError, "one clip"),
        (["video=mine/m2.mp4"], DataError, "Nothing of this clip can be read"),
        (["video=nowhere"], DataError, "There is no such file"),
        ([], ConfigError, "Name one thing"),
    ],
)
def test_what_is_wrong_is_said(root: Path, monkeypatch: pytest.MonkeyPatch, overrides, error, said) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(error, match=said):
        list(found(root, *overrides))


def test_a_run_on_stored_features_alone_says_so(tmp_path: Path, root: Path) -> None:
    dataset = feature_dataset(tmp_path / "dataset", clips=24)
    train_in_process(tmp_path / "run", "dataset=folder", f"dataset.root={dataset}", *BASE)
    (one,) = found(tmp_path, f"video={root}/mine/m0.mp4", f"trust=[{dataset}]", many=True)
    assert "names no encoder" in one["error"]
