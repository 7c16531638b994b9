"""`import hero_lightning as hero`: runs are trained, loaded, predict and embed; datasets; configs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hero_lightning as hero
from hero_lightning.errors import ConfigError, DataError
from tests.helpers import feature_dataset, in_process

QUICK = ["size=tiny", "trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "probes=false"]
QUICK += ["dataset.num_workers=0", "logger=none"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return feature_dataset(tmp_path_factory.mktemp("api") / "dataset", clips=24)


@pytest.fixture(scope="module")
def run(root: Path) -> hero.Run:
    return hero.train(["dataset=folder", f"dataset.root={root}", f"paths.runs={root.parent}/runs", *QUICK])


def arrays(root: Path, clip: str) -> dict[str, np.ndarray]:
    content = np.load(root / "features" / f"{clip}.npy", allow_pickle=True).item()
    keys = {"frame": "clip", "motion": "video_mae", "audio": "hubert", "au": "au", "text": "bert"}
    return {name: content[key] for name, key in keys.items() if key in content}


def test_the_import_is_cheap() -> None:
    code = "import sys, hero_lightning; sys.exit(bool({'torch', 'hydra', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "first", ["import hero_lightning.train", "hero.load", "from hero_lightning.train import train"]
)
def test_train_is_a_call_and_a_module(first: str) -> None:
    code = f"import hero_lightning as hero; {first}; assert callable(hero.train); assert callable(hero.train.train)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_returns_the_run_and_leaves_its_files(run: hero.Run, root: Path) -> None:
    assert run.folder.parent.parent == root.parent / "runs"
    assert {"config.yaml", "metrics.json", "predictions.csv"} <= {p.name for p in run.folder.iterdir()}
    assert run.classes == {"emotion": ("happy", "neutral", "sad")}
    assert run.modalities["audio"] == 14


def test_arrays_are_predicted_like_the_file_they_come_from(run: hero.Run, root: Path) -> None:
    (file,) = run.predictions(features=root / "features" / "c005.npy")
    (own,) = run.predictions(arrays(root, "c005"))
    assert own["predictions"] == file["predictions"]
    both = run.predict({c: arrays(root, c) for c in ("c005", "c006")})
    assert list(both["id"]) == ["c005", "c006"]
    assert both.loc[0, "emotion_p_happy"] == pytest.approx(file["predictions"]["emotion"]["all"]["happy"], abs=2e-4)
    assert both.loc[0, "present"] == "frame|motion|audio|text"
    assert both.loc[0, ["emotion_p_happy", "emotion_p_neutral", "emotion_p_sad"]].sum() == pytest.approx(1, abs=1e-3)


def test_predictions_are_those_of_the_test_pass(run: hero.Run, root: Path) -> None:
    table = pd.read_csv(run.folder / "predictions.csv")
    test = table[table["split"] == "test"].set_index("id")
    found = run.predict({c: arrays(root, c) for c in test.index}).set_index("id")
    assert list(found["emotion_prediction"]) == list(test["emotion_prediction"])
    np.testing.assert_allclose(found["emotion_p_sad"], test["emotion_p_sad"], atol=2e-4)


def test_embeddings_are_what_the_heads_read(run: hero.Run, root: Path) -> None:
    vectors = run.embed({c: arrays(root, c) for c in ("c005", "c006")})
    assert list(vectors.index) == ["c005", "c006"]
    head = run.module.model.heads["emotion"]
    logits = head(torch.from_numpy(vectors.to_numpy()))
    found = run.predict({c: arrays(root, c) for c in ("c005", "c006")})
    np.testing.assert_allclose(logits.softmax(-1)[:, 0].detach(), found["emotion_p_happy"], atol=2e-4)


def test_clips_of_a_table(run: hero.Run, tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a", "b"], "text": ["oh no", None]})
    found = run.predict(table)
    assert list(found["id"]) == ["a", "b"]
    assert found["error"].str.contains("names no encoder").all()
    with pytest.raises(DataError, match="Unknown column of a table of clips"):
        run.predict(pd.DataFrame({"path": ["a.mp4"]}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"audio": np.zeros((3, 14))}, "absent, no audio"),
        ({"audio": np.full((3, 14), np.nan)}, "broken, Feature audio holds NaN or Inf"),
        ({"audio": np.ones((3, 5))}, "broken, width 5, expected 14"),
    ],
)
def test_arrays_that_cannot_be_read(run: hero.Run, given: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(run.predictions(given))
    assert message.split(", ")[0] in run.predict(given).loc[0, "error"]


def test_other_names_are_refused(run: hero.Run) -> None:
    with pytest.raises(DataError, match=r"Unknown modality of the run(.|\n)*frame, motion, audio, au, text"):
        run.predict({"sound": np.ones((3, 14))})
    with pytest.raises(ConfigError, match="Name one thing"):
        run.predict()
    with pytest.raises(ConfigError, match="The run has no such option"):
        hero.load(run.folder, overrides=["optimizer.lr=1"], trust=None)


def test_a_data_module(root: Path) -> None:
    data = hero.datamodule("folder", root=root, modalities=["audio", "text"], batch_size=4, features=root / "store")
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert set(batch.modalities) == {"audio", "text"}
    assert len(batch) == 4
    assert batch.modalities["audio"].stored.x.shape[2] == 14
    with pytest.raises(ConfigError, match="Unknown option"):
        hero.datamodule("folder", root=root, batchsize=4)


def test_compose_works_from_any_folder(tmp_path: Path) -> None:
    code = "import hero_lightning as h, json; print(json.dumps(h.compose('train', ['baseline=mult', 'name=a b']).name))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == "a b"


def test_the_hydra_job_around_a_call_stays_as_it_was(tmp_path: Path) -> None:
    from hydra.core.hydra_config import HydraConfig

    in_process("predict", tmp_path / "here", "run=x")
    hero.compose("train")
    assert HydraConfig.get().runtime.output_dir == str(tmp_path / "here")
