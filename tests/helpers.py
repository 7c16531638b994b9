"""Small datasets that tests make on the spot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hero_lightning.features import Modality, ModalityOptions

WIDTHS = {"clip": 12, "video_mae": 10, "hubert": 14, "bert": 16, "au": 35}


def feature_dataset(
    root: Path, clips: int = 48, seed: int = 0, classes: tuple[str, ...] = ("neutral", "happy", "sad")
) -> Path:
    """The feature-only layout: every clip's class stands in one random modality; splits 2 : 1 : 1."""
    rng = np.random.default_rng(seed)
    (root / "features").mkdir(parents=True)
    meaning = {key: rng.normal(size=(len(classes), width)) for key, width in WIDTHS.items()}
    records = []
    for i in range(clips):
        label, carrier = i % len(classes), rng.choice(list(WIDTHS))
        row: dict[str, object] = {"transcript": f"word{label} and more"}
        for key, width in WIDTHS.items():
            x = rng.normal(size=(int(rng.integers(2, 7)), width))
            row[key] = (x + (meaning[key][label] if key == carrier else 0)).astype("float32")
        if i % 6 == 5:
            del row["au"]
        np.save(root / "features" / f"c{i:03d}.npy", row, allow_pickle=True)
        split = ("train", "train", "val", "test")[(i // len(classes)) % 4]
        records.append({"video_id": f"c{i:03d}", "emotion": classes[label], "split": split})
    (root / "labels.json").write_text(json.dumps(records))
    return root


def make_modality(name: str, mode: str = "auto", encoder: Any = None, **options: Any) -> Modality:
    """A Modality from flat options, as in a config."""
    own = {f.name: options.pop(f.name) for f in fields(ModalityOptions) if f.name in options}
    return Modality(name, mode, encoder, options=ModalityOptions(**own), **options)


def in_process(command: str, folder: Path, *overrides: str) -> Any:
    """The config of a command as its task gets it; the run folder is `folder`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from hero_lightning.config.cli import CONF

    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose(command, [*overrides, f"hydra.runtime.output_dir={folder}"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def train_in_process(folder: Path, *overrides: str) -> None:
    """`python -m hero_lightning.train` without a new process; the run folder is `folder`."""
    from hero_lightning.train import train

    quiet = ["trainer=cpu", "trainer.enable_progress_bar=false", "dataset.num_workers=0"]
    train(in_process("train", folder, *quiet, *overrides))


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A command as a user types it, from any folder."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip
