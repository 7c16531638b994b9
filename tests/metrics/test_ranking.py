"""V2V: pairs and lists in the right order, by the numbers of spec/vce_v2v.md 3 and 11."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from hero_lightning.metrics import ranking
from hero_lightning.tasks.pair import PairTask


def measured(*lists: tuple[float, ...]) -> dict[str, float]:
    """Metrics of lists of utilities, each from least to most preferred, every video in one list."""
    values = [v for members in lists for v in members]
    places = [[ranking.pack(k, i, len(m))] for k, m in enumerate(lists) for i in range(len(m))]
    rows = ranking.statistics(torch.tensor(values, dtype=torch.float64).unsqueeze(-1), torch.tensor(places))
    return {k: float(v) for k, v in ranking.metrics(rows.sum(dim=0), 1).items()}


def test_v2v_t6_pair_loss_and_ties() -> None:
    task = PairTask("preference")
    label = task.collate([[(0, 0, 2)], [(0, 1, 2)]], ["worse", "better"])
    logits = torch.zeros(2, 1, requires_grad=True)
    loss = task.loss(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)
    assert logits.grad.flatten().tolist() == pytest.approx([0.5, -0.5])  # the better one is pushed up
    swapped = task.collate([[(0, 1, 2)], [(0, 0, 2)]], ["better", "worse"])
    assert task.metrics(torch.tensor([[0.0], [1.0]]), swapped)["pair_accuracy"] == 0
    assert measured((0.3, 0.3))["pair_accuracy"] == 0


def test_v2v_t7_lists() -> None:
    assert measured((0.1, 0.2, 0.3))["list_accuracy"] == 1
    tied = measured((0.1, 0.1, 0.3))
    assert (tied["list_accuracy"], tied["list_accuracy_compat"]) == (0, 1)
    constant = measured((0.5, 0.5), (0.5, 0.5, 0.5), (0.5,) * 4)
    assert (constant["list_accuracy"], constant["list_accuracy_compat"], constant["kendall"]) == (0, 1, 0)


def test_v2v_t8_every_pair_counts_whatever_the_batches() -> None:
    lists = [(float(k), float(k % 3)) for k in range(3189)]
    rows = ranking.statistics(
        torch.tensor([v for p in lists for v in p]).unsqueeze(-1),
        torch.tensor([[ranking.pack(k, i, 2)] for k in range(3189) for i in (0, 1)]),
    )
    assert rows[:, 0].sum() == rows[:, 1].sum() == 3189


def test_v2v_35_chance_is_one_in_n_factorial() -> None:
    for n, expected in ((2, 1 / 2), (3, 1 / 6), (4, 1 / 24)):
        found = ranking.chance(torch.tensor([[ranking.pack(0, i, n)] for i in range(n)]), 1)
        assert found["list_accuracy"] == pytest.approx(expected)
        assert found["pair_accuracy"] == 0.5


@given(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=4, unique=True), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_kendall_is_scipys(lists: list[list[float]]) -> None:
    expected = sum(kendalltau(m, range(len(m))).statistic for m in lists) / len(lists)
    assert measured(*map(tuple, lists))["kendall"] == pytest.approx(expected)


def test_a_video_without_a_number_makes_no_pair_right() -> None:
    found = measured((0.1, math.nan), (0.1, 0.2, math.nan))
    assert found["pair_accuracy"] == pytest.approx(1 / 4)
    assert found["list_accuracy"] == found["list_accuracy_compat"] == 0
