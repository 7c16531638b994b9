"""SIGKILL at random moments: in the end the store is that of an undisturbed run, and no reader saw it half-written."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hero_lightning.config.cli import CONF
from hero_lightning.datasets.demo.datamodule import DemoDataModule
from hero_lightning.features.extraction import fill
from hero_lightning.features.manifest import read_manifest
from hero_lightning.tasks import ClassTask
from hero_lightning.types import Sample
from tests.features.conftest import make, tree

PART = 4


def modalities(root: Path):
    found = {name: make(name) for name in ("frame", "audio", "text")}
    for modality in found.values():
        modality.bind(root, "demo")
    return found


def demo(root: Path, clips: int) -> list[Sample]:
    found = modalities(root)
    task = {"emotion": ClassTask("emotion")}
    return DemoDataModule(root=root / "demo", modalities=found, tasks=task, features_root=root, clips=clips).samples()


def fresh_reader(root: Path, samples: list[Sample]) -> int:
    """Reads everything that a reader can see; what is half-written would not parse. Returns how many clips are seen."""
    seen = 0
    for path in root.rglob("*"):
        if path.name == "manifest.json":
            read_manifest(path)
        elif path.suffix == ".safetensors" and not path.name.startswith("."):
            with safe_open(path, framework="pt") as file:
                assert all(torch.isfinite(file.get_tensor(key)).all() for key in file.keys())  # noqa: SIM118
    for modality in modalities(root).values():
        for sample in samples:
            if modality.store.contains(sample):
                assert len(modality.store.read(sample).x) == modality.store.length(sample)
                seen += 1
    return seen


def kill_when(start: Callable[[], tuple[int, Callable[[], bool]]], ripe: Callable[[], bool]) -> bool:
    """Starts a run, kills it as soon as it is ripe (asked while it writes); whether it was still running."""
    pid, alive = start()
    while alive() and not ripe():
        time.sleep(0.02)
    running = alive()
    if running:
        os.kill(pid, signal.SIGKILL)
    while alive():
        time.sleep(0.01)
    return running


def kill_at(start: Callable[[], tuple[int, Callable[[], bool]]], delay: float, look: Callable[[], object]) -> bool:
    """Kills a run after `delay` seconds, reading until then and once more when it is dead."""
    end = time.monotonic() + delay
    running = kill_when(start, lambda: (look(), time.monotonic() > end)[1])
    look()
    return running


def without_locks(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(root).items() if not name.endswith(".lock")}


def test_three_kills(tmp_path: Path) -> None:
    samples = demo(tmp_path, 40)
    fill(modalities(tmp_path / "whole"), samples, part_size=PART, batch_size=2)
    fork = multiprocessing.get_context("fork")

    def run() -> None:
        fill(modalities(tmp_path / "killed"), samples, part_size=PART, batch_size=2)

    def start() -> tuple[int, Callable[[], bool]]:
        process = fork.Process(target=run)
        process.start()
        return process.pid, process.is_alive

    seen = [0]

    def look() -> int:
        seen.append(fresh_reader(tmp_path / "killed", samples))
        return seen[-1]

    for share in (0.1, 0.3, 0.6):  # by what is written, not by the clock: a busy machine changes nothing
        assert kill_when(start, lambda share=share: look() > share * 3 * len(samples)), "it ended before it was killed"
        look()
    assert seen == sorted(seen)  # nothing that was seen is lost
    run()
    assert without_locks(tmp_path / "killed") == without_locks(tmp_path / "whole")


@pytest.mark.slow
def test_twenty_kills_of_the_command(tmp_path: Path) -> None:
    samples = demo(tmp_path / "data", 200)
    given = [
        "trainer=cpu", "dataset.clips=200", "dataset.num_workers=1", "modalities=[frame,audio,text]", "batch_size=4",
        f"part_size={PART}", f"paths.data={tmp_path}/data", f"paths.runs={tmp_path}/runs",
    ]  # fmt: skip

    def start(features: str) -> tuple[int, Callable[[], bool]]:
        command = [sys.executable, "-m", "hero_lightning.extract", *given, f"paths.features={tmp_path}/{features}"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}, cwd=Path(CONF).parent,
        )  # fmt: skip
        return process.pid, lambda: process.poll() is None

    begun = time.monotonic()
    kill_at(lambda: start("whole"), 600, lambda: None)
    whole, draw = time.monotonic() - begun, random.Random(1)
    kills, look = 0, lambda: fresh_reader(tmp_path / "killed", samples)
    while kills < 20:
        if kill_at(lambda: start("killed"), draw.uniform(0.3, 1.0) * whole, look):
            kills += 1
        else:  # it came to its end: begin anew, so that every kill hits a run that has work to do
            assert without_locks(tmp_path / "killed") == without_locks(tmp_path / "whole")
            shutil.rmtree(tmp_path / "killed")
    assert not kill_at(lambda: start("killed"), 600, lambda: None)
    assert without_locks(tmp_path / "killed") == without_locks(tmp_path / "whole")
