"""A sweep of 24 jobs on CPUs, two at a time, killed in the middle and continued, against single runs of equal threads.

    python -m benchmarks.bench_sweep [--epochs 20] [--singles 3]

Data flow: demo clips -> single runs -> `train -m launcher=joblib`, killed after a third of its jobs -> single runs ->
the same command with skip_done=true -> single runs -> jobs lost, runs reported, seconds per job against seconds per
single run.

A job's time is the wall clock of both parts of the sweep times the jobs at once, divided by the jobs: start, imports
and the work that the kill threw away count, the closing report does not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import write

JOBS, AT_ONCE = 24, 2
OPTIONS = (
    "trainer=cpu", "trainer.enable_progress_bar=false", "dataset.num_workers=0", "dataset.clips=200", "size=tiny",
    "callbacks.stop=null", "callbacks.record.resamples=100", "probes=false",
)  # fmt: skip
SWEPT = ("optimizer.lr=1e-3,2e-3,3e-3,4e-3", "seed=0,1,2,3,4,5")


def ended(root: Path) -> list[Path]:
    """Records of finished jobs below the sweep's folder."""
    return [p for p in root.glob("runs/sweep/*/*/.hydra/job.json") if json.loads(p.read_text())["status"] == "done"]


def single(root: Path, options: list[str], env: dict[str, str], number: int) -> float:
    """Seconds of one run from the command line."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "hero_lightning.train", *options, f"name=single{number}"]
    subprocess.run(command, cwd=root, env=env, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Runs both and writes benchmarks/results/sweep.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--singles", type=int, default=3, help="single runs before, between and after the sweep's parts"
    )
    given = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // AT_ONCE)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    options = [*OPTIONS, f"trainer.max_epochs={given.epochs}"]
    sweep = [sys.executable, "-m", "hero_lightning.train", "-m", *options, *SWEPT, "name=sweep"]
    sweep += ["launcher=joblib", f"hydra.launcher.n_jobs={AT_ONCE}"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        single(root, options, env, 0)  # draws the clips, stores the features
        singles = [single(root, options, env, 1 + i) for i in range(given.singles)]
        start = time.perf_counter()
        process = subprocess.Popen(sweep, cwd=root, env=env, start_new_session=True, stdout=subprocess.DEVNULL)
        while len(ended(root)) < JOBS // 3:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seconds = time.perf_counter() - start
        kept = len(ended(root))
        singles += [single(root, options, env, len(singles) + 1 + i) for i in range(given.singles)]
        print(f"killed after {kept} jobs, {seconds:.0f} s")
        start = time.perf_counter()
        process = subprocess.Popen([*sweep, "skip_done=true"], cwd=root, env=env, stdout=subprocess.DEVNULL)
        while len(ended(root)) < JOBS and process.poll() is None:
            time.sleep(0.2)
        seconds += time.perf_counter() - start
        code = process.wait()
        singles += [single(root, options, env, len(singles) + 1 + i) for i in range(given.singles)]
        (place,) = root.glob("runs/sweep/*")
        table = json.loads((place / "report" / "table.json").read_text())
        found = len(ended(root))
    job, alone = seconds * AT_ONCE / JOBS, statistics.median(singles)
    result = {
        "jobs": JOBS, "at_once": AT_ONCE, "threads": threads, "epochs": given.epochs, "exit_code": code,
        "done_before_kill": kept, "lost": JOBS - found, "reported_runs": sum(r["fits"] for r in table["rows"]),
        "seconds_per_job": job, "seconds_per_single_run": alone, "singles": singles, "job / single run": job / alone,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    write("sweep", result)


if __name__ == "__main__":
    main()
