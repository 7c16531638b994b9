"""One GPU per job of a local sweep: a lease held by a file lock for the lifetime of the job.

Data flow: job starts -> first GPU whose lock is free -> CUDA_VISIBLE_DEVICES -> lock released when the job ends.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def gpu_lease(wanted: bool, folder: Path | None = None) -> Iterator[str | None]:
    """Holds one GPU for the duration of the block, waiting until one is free.

    Args:
        wanted: False does nothing.
        folder: where the lock files lie; all jobs of a machine must share it.

    Yields:
        The index of the leased GPU, or None on a machine without one.
    """
    found = gpus() if wanted else []
    if not found:
        yield None
        return
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
