"""Bootstrap: coverage of the intervals, groups, seeds, paired differences, speed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from hero_lightning.metrics.bootstrap import intervals, paired_bootstrap
from hero_lightning.tasks import ClassTask, ScoreTask


def mean(sums: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"mean": sums[..., 1] / sums[..., 0]}


def rows(values: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.ones(len(values)), torch.tensor(values)], dim=1)


def test_95_percent_intervals_cover_the_true_mean_in_95_percent_of_draws() -> None:
    rng, hits = np.random.default_rng(0), 0
    for k in range(300):
        low, high = intervals(rows(rng.normal(2, 1, 60)), mean, resamples=300, seed=k)["mean"]
        hits += low <= 2 <= high
    assert 0.90 <= hits / 300 <= 0.985


def test_equals_a_plain_loop_over_resamples() -> None:
    task = ClassTask("y", list("abc"))
    g = torch.Generator().manual_seed(0)
    p, y = torch.rand(80, 3, generator=g).softmax(-1), torch.randint(0, 3, (80,), generator=g)
    statistics = task.statistics(p, y)
    drawn = np.random.default_rng(5).integers(0, 80, (200, 80))
    loop = [float(task.metrics_of(statistics[i].sum(dim=0))["weighted_f1"]) for i in drawn]
    found = intervals(statistics, task.metrics_of, resamples=200, seed=5)["weighted_f1"]
    assert found == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])))


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows(np.random.default_rng(0).normal(size=50))
    first = intervals(table, mean, seed=3)
    assert intervals(table, mean, seed=3) == first
    assert intervals(table, mean, seed=4) != first
    monkeypatch.setattr("hero_lightning.metrics.bootstrap.MAX_DRAWS", 500)
    assert intervals(table, mean, seed=3)["mean"] == pytest.approx(first["mean"])


def test_drawing_whole_dialogues_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 10)  # ten equal turns per dialogue: 20 independent values, not 200
    single = intervals(rows(values), mean)["mean"]
    grouped = intervals(rows(values), mean, groups=[f"dia{i // 10}" for i in range(200)])["mean"]
    assert (grouped[1] - grouped[0]) > 2.5 * (single[1] - single[0])


def test_paired_differences_detect_a_small_gain_that_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(size=100)
    a = b + 0.1 + 0.02 * rng.normal(size=100)
    low_a, high_b = intervals(rows(a), mean)["mean"][0], intervals(rows(b), mean)["mean"][1]
    assert low_a < high_b
    gain = paired_bootstrap(rows(a), rows(b), mean)["mean"]
    assert gain.difference == pytest.approx(0.1, abs=0.01)
    assert gain.low > 0
    assert gain.p < 0.01
    same = paired_bootstrap(rows(b), rows(b), mean)["mean"]
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_undefined_resamples_are_left_out() -> None:
    task = ScoreTask("v", 0, 1)
    label = task.collate([0.2, 0.8], ["a", "b"])
    found = intervals(task.statistics(torch.tensor([[0.1], [0.9]]), label.value), task.metrics_of)
    assert found["pearson"] == pytest.approx((1, 1))  # half of the resamples repeat one row: no correlation


def test_meld_sized_intervals_take_less_than_two_seconds() -> None:
    task = ClassTask("y", list("abcdefg"))
    p, y = torch.rand(2610, 7).softmax(-1), torch.randint(0, 7, (2610,))
    start = time.perf_counter()
    intervals(task.statistics(p, y), task.metrics_of, resamples=1000)
    assert time.perf_counter() - start < 2  # measured 0.14 s on one core
