"""Sweeps: folders of their own, names by what varies, failures listed with their commands, nothing done twice."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from hero_lightning.config import sweep
from hero_lightning.config.cli import CONF
from tests.helpers import run
from tests.test_report import write_run


def config(*overrides: str, swept: tuple[str, ...] = (), command: str = "train") -> Any:
    """A config of a sweep as Hydra's callbacks get it."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose(command, list(overrides), return_hydra_config=True)
    cfg.hydra.overrides.task.extend(swept)
    return cfg


@pytest.fixture(autouse=True)
def _no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setattr(sweep.Folders, "sweep", None)


def start(cfg: Any) -> Path:
    """The folder that a sweep gets."""
    sweep.Folders().on_multirun_start(cfg)
    return Path(cfg.hydra.sweep.dir)


def test_processes_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    gate = threading.Barrier(8)

    def one(_: int) -> Path:
        gate.wait()
        return sweep.claim(tmp_path / "runs" / "now")

    with ThreadPoolExecutor(8) as pool:
        found = sorted(pool.map(one, range(8)))
    assert len(set(found)) == 8
    assert {p.name for p in found} == {"now", *(f"now-{n}" for n in range(2, 9))}


def test_single_runs_of_one_second_get_two_folders_and_a_named_folder_is_kept(tmp_path: Path) -> None:
    folders = set()
    for _ in range(2):
        cfg = config(f"paths.runs={tmp_path}")
        OmegaConf.update(cfg, "hydra.run.dir", f"{tmp_path}/a/${{now:%Y}}")
        sweep.Folders().on_run_start(cfg)
        folders.add(cfg.hydra.run.dir)
    year = f"{tmp_path}/a/{datetime.now():%Y}"
    assert folders == {year, f"{year}-2"}
    cfg = config(f"hydra.run.dir={year}")
    sweep.Folders().on_run_start(cfg)
    assert cfg.hydra.run.dir == year


def test_a_finished_run_is_not_overwritten_and_a_file_is_no_folder(tmp_path: Path, capsys: Any) -> None:
    sweep.record(tmp_path, status="done", score=0.5, seconds=1.0)
    sweep.Folders().on_run_start(config(f"hydra.run.dir={tmp_path}", f"resume={tmp_path}"))
    with pytest.raises(SystemExit, match="2"):
        sweep.Folders().on_run_start(config(f"hydra.run.dir={tmp_path}"))
    assert "The folder holds a finished run." in capsys.readouterr().err
    (tmp_path / "file").touch()
    for called in (sweep.Folders().on_run_start, start):
        with pytest.raises(SystemExit, match="2"):
            called(config(f"paths.runs={tmp_path}/file"))
        assert "NotADirectoryError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["seed=1", "fusion@model.fusion=concat"], "model.fusion=concat,seed=1"),
        (["mode@modality.text=realtime", "dataset=demo"], "mode@modality.text=realtime"),
        (["modalities=[text,audio]"], "modalities=[text,audio]"),
        (["+x.y=1e-3", "~probes"], "x.y=0.001,probes=null"),
        (["optimizer.lr=0.00012345678"], "optimizer.lr=0.00012345678"),
        (["dataset=demo"], "job"),
    ],
)
def test_a_job_is_named_by_what_varies(overrides: list[str], name: str) -> None:
    assert sorted(sweep.job_name(overrides, ["dataset"]).split(",")) == sorted(name.split(","))


def test_odd_and_long_names_are_safe_and_differ() -> None:
    texts = [
        "init_from='a/b'",
        "init_from='a_b'",
        "init_from='a b'",
        "init_from=../x",
        *(f"x={'y' * 300}{i}" for i in "ab"),
    ]
    names = [sweep.job_name([text]) for text in texts]
    assert len(set(names)) == len(names)
    for name in names:
        assert "/" not in name
        assert " " not in name
        assert len(name) <= 120


def test_the_sweep_lies_below_the_name_of_what_runs(tmp_path: Path) -> None:
    paths = f"paths.runs={tmp_path}"
    assert start(config(paths, "ablation=fusion")).parent == tmp_path / "ablation-fusion"
    assert start(config(paths, "baseline=linear", swept=("seed=0,1",))).parent == tmp_path / "demo-linear"
    assert start(config(paths, swept=("baseline=linear,late",))).parent == tmp_path / "demo-baseline"
    assert start(config(paths, "name=mine", swept=("seed=0,1",))).parent == tmp_path / "mine"
    cfg = config(paths, "ablation=fusion", swept=("seed=0,1",))
    start(cfg)
    excluded = cfg.hydra.overrides.hydra[-1]
    assert excluded == "hydra.job.config.override_dirname.exclude_keys=['ablation','paths.runs']"


def test_a_second_sweep_gets_another_folder_and_skip_done_the_first(tmp_path: Path) -> None:
    same = {"swept": ("seed=0,1",)}
    first = start(config(f"paths.runs={tmp_path}", **same))
    second = start(config(f"paths.runs={tmp_path}", "optimizer.lr=0.1", **same))
    assert first != second
    assert start(config(f"paths.runs={tmp_path}", "skip_done=true", "launcher=joblib", **same)) == first
    assert start(config(f"paths.runs={tmp_path}", "skip_done=true", "optimizer.lr=0.2", **same)) not in (first, second)


def test_a_folder_that_holds_a_sweep_is_not_used_for_another(tmp_path: Path, capsys: Any) -> None:
    place = f"hydra.sweep.dir={tmp_path}/s"
    start(config(place, swept=("seed=0,1",)))
    for more, message in (((), "holds a sweep"), (("skip_done=true", "optimizer.lr=0.1"), "another sweep")):
        with pytest.raises(SystemExit, match="2"):
            start(config(place, *more, swept=("seed=0,1",)))
        assert message in capsys.readouterr().err
    assert start(config(place, "skip_done=true", swept=("seed=0,1",))) == tmp_path / "s"


def test_a_launcher_that_cannot_work_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    for launcher, message in (("gpus", "launcher=gpus finds no GPU."), ("slurm", "there is no sbatch on this machine")):
        with pytest.raises(SystemExit, match="2"):
            start(config(f"launcher={launcher}", f"paths.runs={tmp_path}"))
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_as_many_jobs_as_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,4")
    cfg = config("launcher=gpus", f"paths.runs={tmp_path}")
    with caplog.at_level("INFO"):
        start(cfg)
    assert cfg.hydra.launcher.n_jobs == 3
    assert "leasing 3 GPUs, one for each job: 1, 3, 4" in caplog.text


@pytest.mark.parametrize(
    ("code", "tail", "error"),
    [
        (2, "log\n\nError: Wrong.\n  expected: a\n", "Wrong.\n  expected: a"),
        (1, "Traceback\nValueError: x\n\nSet the environment variable HYDRA_FULL_ERROR=1 ...\n", "ValueError: x"),
        (-9, "Epoch 3\n", "killed by SIGKILL"),
        (3, "", "exit code 3"),
    ],
)
def test_the_error_is_what_the_process_said_last(code: int, tail: str, error: str) -> None:
    assert sweep._error(code, tail) == error


def test_the_output_of_a_process_is_kept(tmp_path: Path, capsys: Any) -> None:
    code = "import sys; print('out'); sys.stderr.write('err\\n'); sys.exit(5)"
    with (tmp_path / "lock").open("w") as lock:
        ended = sweep._run([sys.executable, "-c", code], str(tmp_path), tmp_path / "console.log", True, lock.fileno())
        assert sorted((tmp_path / "console.log").read_text().split()) == ["err", "out"]
        assert ended[0] == 5
        assert sorted(capsys.readouterr().out.split()) == ["err", "out"]
        sweep._run([sys.executable, "-c", code], str(tmp_path), tmp_path / "console.log", False, lock.fileno())
    assert capsys.readouterr().out == ""


def test_failed_jobs_are_listed_and_done_ones_skipped(tmp_path: Path) -> None:
    """`report` is the command with the shortest jobs; one of its two runs is missing first."""
    write_run(tmp_path / "a", 0, 0.8, {})
    command = ["hero_lightning.report", "-m", "run=a,b", "resamples=100", "+skip_done=false", "paths.runs=runs"]
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 1
    (folder,) = (tmp_path / "runs" / "report").iterdir()
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"run=a", "run=b"}
    assert "1 of 2 jobs done" in first.stdout
    assert "There is no such folder of runs." in (folder / "run=b" / "console.log").read_text()
    (again,) = [line.partition("again: ")[2] for line in first.stdout.splitlines() if "again: " in line]
    write_run(tmp_path / "b", 0, 0.8, {})
    assert run(*shlex.split(again)[2:], cwd=tmp_path).returncode == 0  # as printed
    before = (folder / "run=a" / "console.log").read_text()
    second = run(*command[:-2], "+skip_done=true", command[-1], cwd=tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "run=a: done before" in second.stdout
    assert "run=b: done before" in second.stdout
    assert "2 of 2 jobs done" in second.stdout
    assert (folder / "run=a" / "console.log").read_text() == before
    assert len(list((tmp_path / "runs" / "report").glob("*/sweep.json"))) == 1


OPTIONS = (
    "trainer=cpu", "dataset.num_workers=1", "trainer.enable_progress_bar=false", "dataset.limit=24", "size=tiny",
    "probes=false", "callbacks.stop=null", "baseline=linear", "dataset.clips=60", "callbacks.record.resamples=100",
)  # fmt: skip


@pytest.mark.slow
def test_a_sweep_that_is_killed_continues(tmp_path: Path) -> None:
    """Two at a time with loader workers; one job fails, the sweep is killed in the middle of another one."""
    options = ["optimizer.lr=0.001,-1", "seed=0,1", "trainer.max_epochs=60", "launcher=joblib"]
    command = [sys.executable, "-m", "hero_lightning.train", "-m", *OPTIONS, *options]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)
    begun = lambda: list(tmp_path.glob("runs/demo-linear/*/*lr=0.001*/checkpoints/last.ckpt"))  # noqa: E731
    while not begun():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "runs" / "demo-linear").iterdir()
    again = run("hero_lightning.train", "-m", *OPTIONS, *options, "skip_done=true", cwd=tmp_path)
    assert again.returncode == 1
    assert "continuing" in again.stdout
    assert list((tmp_path / "runs" / "demo-linear").iterdir()) == [folder]
    ends = {p.name: sweep.recorded(p) for p in folder.glob("optimizer*")}
    assert {k: v["status"] for k, v in ends.items()} == {
        "optimizer.lr=0.001,seed=0": "done", "optimizer.lr=0.001,seed=1": "done",
        "optimizer.lr=-1,seed=0": "failed", "optimizer.lr=-1,seed=1": "failed",
    }  # fmt: skip
    assert "optimizer.lr is out of range" in ends["optimizer.lr=-1,seed=0"]["error"]
    assert "2 of 4 jobs done" in again.stdout
    table = json.loads((folder / "report" / "table.json").read_text())
    assert [row["fits"] for row in table["rows"]] == [2]


@pytest.mark.slow
def test_sigterm_ends_the_job_and_the_sweep(tmp_path: Path) -> None:
    options = ["seed=0,1", "trainer.max_epochs=1000"]
    command = [sys.executable, "-m", "hero_lightning.train", "-m", *OPTIONS, *options]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("runs/demo-linear/*/seed=0/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "0 of 1 jobs done" in text
    assert "skip_done=true" in text
    assert "seed=1: starting" not in text
