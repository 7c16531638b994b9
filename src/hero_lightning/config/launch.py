"""The share of a machine that one job takes: its threads, and one GPU per job of a local sweep.

Data flow: usable cores / processes -> OMP_NUM_THREADS, before torch is imported; job starts -> first GPU whose lock is
free -> CUDA_VISIBLE_DEVICES -> lock released when the job ends.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from hero_lightning.errors import ConfigError


def gpus() -> list[str]:
    """Indices of the GPUs this process may use, without starting CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [g for g in visible.split(",") if g.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(len(listed.stdout.splitlines()))] if listed.returncode == 0 else []


def leasable() -> list[str]:
    """Indices of the GPUs that jobs can lease, at least one.

    Raises:
        ConfigError: this machine has no GPU.
    """
    found = gpus()
    if not found:
        expected, hint = "a GPU that nvidia-smi or CUDA_VISIBLE_DEVICES lists", "launcher=joblib"
        raise ConfigError("launcher=gpus finds no GPU.", expected=expected, got="none", where="launcher", hint=hint)
    return found


@contextmanager
def gpu_lease(wanted: bool, folder: Path | None = None) -> Iterator[str | None]:
    """Holds one GPU for the duration of the block, waiting until one is free.

    Args:
        wanted: False does nothing.
        folder: where the lock files lie; all jobs of a machine must share it.

    Yields:
        The index of the leased GPU, or None where none is wanted.

    Raises:
        ConfigError: this machine has no GPU.
    """
    if not wanted:
        yield None
        return
    found = leasable()
    folder = folder or Path(tempfile.gettempdir()) / f"hero_lightning_gpus_{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    while True:
        for gpu in found:
            lock = (folder / f"{gpu}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            try:
                yield gpu
            finally:
                lock.close()  # closing releases the lock, as does the death of the process
                os.environ.pop("CUDA_VISIBLE_DEVICES")
                if before is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = before
            return
        time.sleep(1.0)


@contextmanager
def wandb_closed() -> Iterator[None]:
    """Ends the W&B run of a job, as failed where the job fails: the next job of this process starts one of its own."""
    failed = True
    try:
        yield
        failed = False
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish(exit_code=int(failed))


def usable_cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores this process may use: its affinity mask, or fewer where a container's control group limits its time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = quota_file.read_text().partition(" ") if quota_file.is_file() else ("max", "", "")
    return min(cores, max(1, int(quota) // int(period))) if quota.isdecimal() else cores


def thread_limits(cores: int, workers: int = 0) -> dict[str, str]:
    """Environment of a process that computes while `workers` processes decode: half of the cores they leave.

    On two cores a second thread gained 14 to 24 % on an idle machine, and lost up to half of the rate on a busy one
    (benchmarks/bench_threads.py). A thread that waits for others sleeps after 1000 turns of its loop instead of
    libgomp's 300 000: on a busy machine the others are not running, and the loop occupies a core that they need.
    """
    return {"OMP_NUM_THREADS": str(max(1, (cores - workers) // 2)), "GOMP_SPINCOUNT": "1000"}


def limit_threads(cfg: Any) -> None:
    """Applies `thread_limits` before torch is imported; variables that the user has set keep their values.

    Args:
        cfg: where the command has them, dataset.num_workers or num_workers, and trainer.devices, which share the cores.

    Parallel jobs of a sweep come with OMP_NUM_THREADS = cores / jobs, which joblib sets. The number does not depend on
    the load of the machine: another number changes the order of sums, and so the weights from run to run.
    """
    workers = OmegaConf.select(cfg, "dataset.num_workers") or OmegaConf.select(cfg, "num_workers") or 0
    devices = OmegaConf.select(cfg, "trainer.devices")
    processes = devices if isinstance(devices, int) and devices > 1 else 1
    limits = thread_limits(usable_cores() // processes, workers)
    if "OMP_WAIT_POLICY" in os.environ:
        del limits["GOMP_SPINCOUNT"]
    for name, value in limits.items():
        os.environ.setdefault(name, value)
