"""Extraction and training with torch's own number of threads, with ours (`config.launch.thread_limits`) and with one.

    python -m benchmarks.bench_threads [--clips 60] [--steps 60] [--rounds 3]

Data flow: drawn clips -> a fresh process per case and round (OMP_* must be set before torch is imported) -> features of
all clips, then training steps of `model=hero size=small` -> rates, ratios and a digest of features and weights, alone
and beside one busy process per core.

The order of the cases is reversed every round, so that a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import write

from hero_lightning.config import launch

OVERRIDES = ("callbacks=none", "logger=none", "trainer=cpu", "trainer.enable_progress_bar=false", "probes=false")
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")


def child(root: Path, clips: int, steps: int) -> dict[str, object]:
    """Clips and steps per second of this process, and digests of what came out."""
    import pytorch_lightning as pl
    import torch
    from hydra import compose, initialize_config_dir

    from hero_lightning.config import build
    from hero_lightning.config.cli import CONF

    paths = [f"paths.data={root}/data", f"paths.features={tempfile.mkdtemp(dir=root)}", f"dataset.clips={clips}"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", [*OVERRIDES, *paths, f"trainer.max_steps={steps}", "trainer.max_epochs=-1"])
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule = build.dataset(cfg)
    index = datamodule.index  # draws the clips where they are not there yet
    start = time.perf_counter()
    datamodule.prepare_data()
    extraction = sum(map(len, index.samples.values())) / (time.perf_counter() - start)
    batch = next(iter(datamodule.loader("train")))
    features = [f.stored.x for f in batch.modalities.values() if f.stored is not None]
    module = build.module(cfg, datamodule.modalities, datamodule.tasks, datamodule.dims, lambda reasoner: None)
    trainer = build.trainer(cfg, root)
    start = time.perf_counter()
    trainer.fit(module, train_dataloaders=datamodule.loader("train", shuffle=True))
    training = steps / (time.perf_counter() - start)

    def digest(tensors: list[torch.Tensor]) -> str:
        return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()[:12]

    weights = digest(list(module.model.parameters()))
    return {
        "clips/s": extraction, "steps/s": training, "threads": torch.get_num_threads(),
        "features": digest(features), "weights": weights,
    }  # fmt: skip


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """That many processes that compute without pause."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(limits: dict[str, str], root: Path, clips: int, steps: int) -> dict:
    """`child` in a process of its own under these environment variables."""
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES} | limits
    command = [sys.executable, "-m", "benchmarks.bench_threads", "--child", str(root)]
    command += ["--clips", str(clips), "--steps", str(steps)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs every case and writes benchmarks/results/threads.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", type=Path)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child, given.clips, given.steps)))
        return
    cores = launch.usable_cores()
    cases = {
        "torch": {},
        "ours": launch.thread_limits(cores),
        "one": {**launch.thread_limits(cores), "OMP_NUM_THREADS": "1"},
    }
    result: dict[str, object] = {"cores": cores, "clips": given.clips, "steps": given.steps, "limits": cases["ours"]}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run(cases["ours"], root, given.clips, 2)  # draws the clips
        for place, processes in (("alone", 0), ("busy", cores)):
            found: dict[str, list[dict]] = {name: [] for name in cases}
            with busy(processes):
                load = os.getloadavg()[0]
                for turn in range(given.rounds):
                    for name in list(cases)[:: -1 if turn % 2 else 1]:
                        found[name].append(run(cases[name], root, given.clips, given.steps))
            middle = {
                name: {k: statistics.median(r[k] for r in rows) for k in ("clips/s", "steps/s", "threads")}
                for name, rows in found.items()
            }
            digests = {name: sorted({f"{r['features']} {r['weights']}" for r in rows}) for name, rows in found.items()}
            ratios = {
                f"ours / {other}": {k: middle["ours"][k] / middle[other][k] for k in ("clips/s", "steps/s")}
                for other in ("torch", "one")
            }
            result[place] = {"load": round(load, 2), "median": middle, "ratio": ratios, "digests": digests}
            print(place, json.dumps(result[place], indent=1))
    write("threads", result)


if __name__ == "__main__":
    main()
