"""V2V: accuracy of pairs and lists."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from hero_lightning.metrics import ranking


def metrics(*lists: tuple[float, ...]) -> dict[str, float]:
    """Metrics of utilities in lists from least to most preferred; every video is in one list."""
    values = [v for members in lists for v in members]
    places = [[ranking.pack(k, i, len(m))] for k, m in enumerate(lists) for i in range(len(m))]
    rows = ranking.statistics(torch.tensor(values, dtype=torch.float64).unsqueeze(-1), torch.tensor(places))
    return {k: float(v) for k, v in ranking.metrics(rows.sum(dim=0), 1).items()}


def test_every_pair_counts_once() -> None:
    lists = [(float(k), float(k % 3)) for k in range(3189)]
    rows = ranking.statistics(
        torch.tensor([v for p in lists for v in p]).unsqueeze(-1),
        torch.tensor([[ranking.pack(k, i, 2)] for k in range(3189) for i in (0, 1)]),
    )
    assert rows[:, 0].sum() == rows[:, 1].sum() == 3189


@given(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=4, unique=True), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_kendall_equals_scipy(lists: list[list[float]]) -> None:
    expected = sum(kendalltau(m, range(len(m))).statistic for m in lists) / len(lists)
    assert metrics(*map(tuple, lists))["kendall"] == pytest.approx(expected)


def test_a_pair_with_a_nan_utility_is_an_error() -> None:
    found = metrics((0.1, math.nan), (0.1, 0.2, math.nan))
    assert found["pair_accuracy"] == pytest.approx(1 / 4)
    assert found["list_accuracy"] == found["list_accuracy_compat"] == 0
