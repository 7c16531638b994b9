"""Shared by all benchmarks: interleaved timing, ratios, hardware information, one JSON file per result.

Data flow: cases by name -> rounds in alternating order -> medians and ratios -> benchmarks/results/<name>.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass
class Timing:
    """Seconds of one case per round: wall clock, and CPU time of the whole process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def median(self, clock: str = "wall") -> float:
        """Median seconds of `wall` or `cpu`."""
        return statistics.median(getattr(self, clock))


def measure(
    cases: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, seconds: float = 600.0
) -> dict[str, Timing]:
    """Runs every case once per round and reverses their order every round, so that other load affects all alike.

    Args:
        cases: functions to time; on a GPU they must synchronise.
        rounds: greatest number of rounds.
        warmup: untimed rounds before.
        seconds: no further round starts after this time.
    """
    timings = {name: Timing() for name in cases}
    begin = time.perf_counter()
    for turn in range(-warmup, rounds):
        if turn > 0 and time.perf_counter() - begin > seconds:
            break
        for name in list(cases)[:: -1 if turn % 2 else 1]:
            cpu, wall = time.process_time(), time.perf_counter()
            cases[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= 0:
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
    return timings


def ratio(timings: Mapping[str, Timing], ours: str, theirs: str, clock: str = "wall") -> float:
    """How many times faster `ours` is: median over rounds of theirs / ours."""
    pairs = zip(getattr(timings[theirs], clock), getattr(timings[ours], clock), strict=True)
    return statistics.median(b / a for b, a in pairs)


def hardware() -> dict[str, object]:
    """Machine and versions of a measurement."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
        ).stdout.strip(),
    }


def write(name: str, result: Mapping[str, object]) -> Path:
    """Saves a result together with the machine it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, "hardware": hardware(), **result}, indent=2) + "\n")
    return path
