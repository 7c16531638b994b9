"""One GPU per job: leases exclude each other and are given back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hero_lightning.config.launch import gpu_lease, gpus


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


def test_without_gpus_or_wish_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for wanted in (True, False):
        with gpu_lease(wanted, tmp_path) as gpu:
            assert gpu is None
