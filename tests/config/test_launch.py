"""The share of a machine that a job takes: GPU leases exclude each other, threads leave cores to other processes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hero_lightning.config import launch
from hero_lightning.config.launch import (
    gpu_lease,
    gpus,
    limit_threads,
    thread_limits,
    usable_cores,
    wandb_closed,
)
from hero_lightning.errors import ConfigError


def test_two_jobs_get_two_gpus_and_give_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpus() == ["3", "5"]
    with gpu_lease(True, tmp_path) as first:
        assert (first, os.environ["CUDA_VISIBLE_DEVICES"]) == ("3", "3")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")  # another process sees both
        with gpu_lease(True, tmp_path) as second:
            assert second == "5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with gpu_lease(True, tmp_path) as again:
        assert again == "3"


def test_a_job_that_wants_a_gpu_is_refused_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with gpu_lease(False, tmp_path) as gpu:
        assert gpu is None
    with pytest.raises(ConfigError, match=r"finds no GPU(.|\n)*launcher=joblib"), gpu_lease(True, tmp_path):
        pass


def test_threads_are_half_of_the_free_cores_and_the_environment_wins(tmp_path: Path, monkeypatch) -> None:
    counts = [thread_limits(cores, workers)["OMP_NUM_THREADS"] for cores, workers in ((8, 0), (8, 3), (2, 2), (1, 0))]
    assert counts == ["4", "2", "1", "1"]
    cores = len(os.sched_getaffinity(0))
    quota = tmp_path / "cpu.max"
    for text, usable in (("max 100000", cores), ("150000 100000", 1), ("99900000 100000", cores)):
        quota.write_text(text)
        assert usable_cores(quota) == usable
    assert usable_cores(tmp_path / "absent") == cores
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "5"})
    limit_threads(OmegaConf.create({}))
    assert os.environ == {"OMP_NUM_THREADS": "5", "GOMP_SPINCOUNT": "1000"}
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "ACTIVE"})
    monkeypatch.setattr(launch, "usable_cores", lambda: 24)
    limit_threads(OmegaConf.create({"dataset": {"num_workers": 2}, "trainer": {"devices": 3}}))
    assert os.environ == {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize("fails", [False, True])
def test_the_wandb_run_of_a_job_ends_with_it(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(finish=lambda exit_code: codes.append(exit_code)))
    with suppress(ValueError), wandb_closed():
        if fails:
            raise ValueError
    assert codes == [int(fails)]
