"""ResourceMonitor: throughput by hand, learning rates by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hero_lightning.reporting.monitor import ResourceMonitor


def test_values_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    groups = [{"initial_lr": 1e-3, "lr": 5e-4}, {"initial_lr": 2e-5, "lr": 1e-5}, {"initial_lr": 1e-3, "lr": 5e-4}]
    sent: list[dict[str, float]] = []
    module: Any = SimpleNamespace(
        optimizer=SimpleNamespace(lr=1e-3, rates={"encoders": 2e-5}),
        device=torch.device("cpu"),
        log_dict=lambda values, batch_size: sent.append(values),
    )
    trainer: Any = SimpleNamespace(
        global_step=0, log_every_n_steps=2, world_size=2, optimizers=[SimpleNamespace(param_groups=groups)]
    )
    monitor, batch = ResourceMonitor(), [0] * 8
    monitor.on_train_epoch_start(trainer, module)
    for step in range(1, 5):
        trainer.global_step = step
        monitor.on_train_batch_end(trainer, module, None, batch, step)  # type: ignore[arg-type]
    assert [v["resources/samples_per_second"] for v in sent] == [2 * 16 / 2, 2 * 16 / 1]  # two devices, two batches
    assert {k: v for k, v in sent[0].items() if k.startswith("lr/")} == {"lr/default": 5e-4, "lr/encoders": 1e-5}
    assert 0.05 < sent[0]["resources/memory_gib"] < 100
