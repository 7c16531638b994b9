"""Errors at the edge of a command: a message, no traceback, exit code 2; HYDRA_FULL_ERROR shows all."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hero_lightning.config import build
from hero_lightning.config.instantiate import make
from hero_lightning.errors import ConfigError
from tests.helpers import feature_dataset, run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dataset=meld",), ("folder is missing", "expected", "train_sent_emo.csv", "hint", "paths.data")),
        (("mode@modality.audio=nothing",), ("Could not find 'mode/nothing'", "realtime")),
        (("optimizer.lrr=1",), ("Key 'lrr' is not in struct",)),
        (("optimizer.lr=-1", "dataset=folder", "dataset.root=ROOT"), ("out of range", "optimizer.lr", "-1")),
        (("trainer=gpu", "dataset=folder", "dataset.root=ROOT"), ("trainer cannot be set up", "hint", "trainer=cpu")),
    ],
    ids=["missing data", "unknown option", "unknown key", "wrong value", "no gpu"],
)
def test_message_instead_of_traceback(arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    root = feature_dataset(tmp_path / "dataset", clips=12)
    done = run("hero_lightning.train", *(a.replace("ROOT", str(root)) for a in arguments), cwd=tmp_path)
    assert done.returncode in (1, 2)
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_full_error_shows_the_traceback(tmp_path: Path) -> None:
    done = run("hero_lightning.train", "dataset=meld", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "folder is missing" in done.stderr


def refuses(default_root_dir: str, callbacks: list, logger: object, plugins: object) -> None:
    raise ValueError("needs version 9")


def test_the_cause_inside_a_library_is_shown(tmp_path: Path) -> None:
    here = f"{refuses.__module__}.refuses"
    with pytest.raises(ConfigError, match=r"trainer cannot be set up(.|\n)*ValueError: needs version 9"):
        build.trainer(OmegaConf.create({"trainer": {"_target_": here}}), tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be built(.|\n)*No module named 'nowhere'"):
        make({"_target_": "nowhere.Class"}, "model")


def test_a_disk_that_takes_no_more_gives_a_message(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: every write beyond it fails with an OSError."""
    feature_dataset(tmp_path / "folder")
    quick = ["trainer=cpu", "size=tiny", "trainer.max_epochs=1", "probes=false", "dataset.num_workers=0"]
    command = [
        sys.executable,
        "-m",
        "hero_lightning.train",
        "dataset=folder",
        f"dataset.root={tmp_path}/folder",
        *quick,
    ]
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 8; trap '' XFSZ; exec {shlex.join([*command, *quick])}"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
