"""launcher=slurm on a cluster of this machine alone: a sweep, an extraction in parts, a requeued job that resumes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hero_lightning.config import sweep
from tests.helpers import run

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).with_name("cluster.sh")
LAUNCHER = (
    "launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2",
)  # fmt: skip
TRAIN = (
    "trainer=cpu", "dataset.num_workers=0", "trainer.enable_progress_bar=false", "dataset.limit=24", "size=tiny",
    "probes=false", "callbacks.stop=null", "baseline=linear", "callbacks.record.resamples=100", "dataset.clips=60",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running cluster; its slurm.conf is in the environment."""
    missing = [p for p in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(p) is None]
    if not os.environ.get("CI"):  # there a missing package fails
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")
        if os.getuid() != 0:
            pytest.skip("slurmd needs root")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    del os.environ["SLURM_CONF"]
    subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory; data, features and runs lie in it."""
    return tmp_path_factory.mktemp("work")


def wait(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def queue() -> list[str]:
    command = ["squeue", "--noheader", "--array", "--format=%i %t"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_an_extraction_in_two_parts(cluster: Path, place: Path) -> None:
    options = ["modalities=[audio]", "dataset.clips=60", "part=1/2,2/2", "part_size=16"]
    done = run("hero_lightning.extract", "-m", *options, *LAUNCHER, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 jobs done" in done.stdout
    alone = run("hero_lightning.extract", *options[:2], "part_size=16", cwd=place)
    assert alone.returncode == 0
    assert "audio: 0 written" in alone.stdout


def test_a_sweep_and_its_report(cluster: Path, place: Path) -> None:
    options = ["optimizer.lr=0.001,-1", "trainer.max_epochs=1"]
    done = run("hero_lightning.train", "-m", *TRAIN, *options, *LAUNCHER, "name=two", cwd=place)
    assert done.returncode == 1
    assert "optimizer.lr=0.001: done, score" in done.stdout
    assert "1 of 2 jobs done" in done.stdout
    assert "optimizer.lr is out of range" in done.stdout
    (folder,) = (place / "runs" / "two").iterdir()
    assert [sweep.recorded(folder / f"optimizer.lr={lr}")["status"] for lr in ("0.001", "-1")] == ["done", "failed"]
    assert len(json.loads((folder / "report" / "table.json").read_text())["rows"]) == 1


def test_a_requeued_job_resumes_and_a_cancelled_one_is_listed(cluster: Path, place: Path) -> None:
    options = ["seed=0,1", "trainer.max_epochs=600", "name=requeued"]
    command = [sys.executable, "-m", "hero_lightning.train", "-m", *TRAIN, *options, *LAUNCHER]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True) as process:
        wait(lambda: len(queue()) == 2)
        first, second = sorted(line.split()[0] for line in queue())
        subprocess.run(["scancel", second], check=True)
        wait(lambda: list(place.glob("runs/requeued/*/seed=0/checkpoints/last.ckpt")))
        subprocess.run(["scontrol", "requeue", first], check=True)
        wait(lambda: any(line == f"{first} PD" for line in queue()))
        subprocess.run(["scontrol", "update", f"jobid={first}", "starttime=now"], check=True)
        text, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    (folder,) = (place / "runs" / "requeued").iterdir()
    assert sweep.recorded(folder / "seed=0")["status"] == "done"
    logs = [path.read_text() for path in folder.glob(".submitit/*/*.out")]
    assert any("seed=0: starting" in text for text in logs)
    assert any("seed=0: continuing" in text for text in logs)
    assert "seed=1: failed: ended by Slurm" in text
    assert "1 of 2 jobs done" in text
