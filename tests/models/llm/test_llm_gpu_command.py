"""The benchmark of a CUDA machine runs as one command, here at a tiny shape, without the libraries it must not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FORBIDDEN = ("hydra", "omegaconf", "av", "webdataset", "wandb", "pytorch_lightning", "torchmetrics", "matplotlib")
SCRIPT = """
import sys
from pathlib import Path
for name in {forbidden!r}:
    sys.modules[name] = None  # importing it raises
sys.path[:0] = [{root!r}, {src!r}]
import benchmarks.common
benchmarks.common.RESULTS = Path({out!r})
from benchmarks import gpu
gpu.main(["--shape", "tiny", "--device", "cpu"])
"""


def test_the_command_of_the_gpu_machine_runs_at_a_tiny_shape(tmp_path: Path) -> None:
    script = SCRIPT.format(forbidden=FORBIDDEN, root=str(ROOT), src=str(ROOT / "src"), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert path.name == "gpu_cpu.json"
    assert found["hardware"]["processor"]
    assert found["batch_difference"] < 1e-4
    for phase in ("score batch 16", "answer batch 64", "train batch 8", "train batch 8, checkpointed"):
        assert found[phase]["samples_per_s"] > 0
        assert found[phase]["peak_gib"] > 0
