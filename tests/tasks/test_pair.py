"""PairTask, OpenTask and their metrics."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from hero_lightning.errors import DataError
from hero_lightning.metrics import labelsets, ranking
from hero_lightning.metrics.bootstrap import intervals
from hero_lightning.tasks import OpenTask, PairTask, Task
from hero_lightning.types import Label

PAIR = PairTask("preference", max_comparisons=3)


def labels(*places, task=PAIR):
    return task.collate(list(places), [f"v{k}" for k in range(len(places))])


def metrics(utility, *places):
    return PAIR.metrics(torch.tensor(utility).unsqueeze(-1), labels(*places))


def test_pair_loss():
    label = labels([(0, 0, 2)], [(0, 1, 2)])
    logits = torch.zeros(2, 1, requires_grad=True)
    loss = PAIR.loss(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)
    assert logits.grad.flatten().tolist() == [0.5, -0.5]
    one = PAIR.loss(torch.tensor([[0.2], [1.0]]), label)
    swapped = PAIR.loss(torch.tensor([[1.0], [0.2]]), label)
    assert one.item() == pytest.approx(math.log1p(math.exp(-0.8)))
    assert swapped.item() == pytest.approx(math.log1p(math.exp(0.8)))
    assert metrics([0.0, 0.0], [(0, 0, 2)], [(0, 1, 2)])["pair_accuracy"] == 0


def test_the_loss_compares_rows_of_an_item_only():
    logits = torch.tensor([[0.0], [1.0], [5.0], [3.0]])
    label = labels(*[[(k // 2, k % 2, 2)] for k in range(4)])
    group = torch.tensor([0, 0, 1, 1])
    expected = (F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(2.0))) / 2
    torch.testing.assert_close(PAIR.loss(logits, label, group), expected)
    torch.testing.assert_close(PAIR.loss(logits, label, torch.tensor([7, 7, 3, 3])), expected)


def test_all_pairs_of_a_list_count():
    u = [0.0, 1.0, 3.0]
    expected = sum(math.log1p(math.exp(a - b)) for i, a in enumerate(u) for b in u[i + 1 :]) / 3
    label = labels(*[[(0, k, 3)] for k in range(3)])
    assert PAIR.loss(torch.tensor(u).unsqueeze(-1), label).item() == pytest.approx(expected)
    assert PAIR.row_loss(torch.tensor(u).unsqueeze(-1), label.value)[0].item() == pytest.approx(expected)


def test_without_a_pair_loss_and_gradient_are_zero():
    logits = torch.ones(2, 1, requires_grad=True)
    for label, group in ((labels([(0, 0, 2)], None), None), (labels([(0, 0, 2)], [(0, 1, 2)]), torch.tensor([0, 1]))):
        logits.grad = None
        loss = PAIR.loss(logits, label, group)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("utility", "strict", "compat", "pairs", "kendall"),
    [
        ([0.1, 0.2, 0.3], 1, 1, 1, 1),
        ([0.1, 0.1, 0.3], 0, 1, 2 / 3, 2 / 3),
        ([0.5, 0.5, 0.5], 0, 1, 0, 0),
        ([0.3, 0.2, 0.1], 0, 0, 0, -1),
        ([0.2, 0.1, 0.3], 0, 0, 2 / 3, 1 / 3),
    ],
)
def test_lists(utility, strict, compat, pairs, kendall):
    found = metrics(utility, *[[(4, k, 3)] for k in range(3)])
    assert next(iter(found)) == PAIR.primary
    assert found["list_accuracy"] == strict
    assert found["list_accuracy_compat"] == compat
    assert found["pair_accuracy"] == pytest.approx(pairs)
    assert found["kendall"] == pytest.approx(kendall)


def test_a_video_in_several_comparisons_and_rows_in_any_order():
    places = {
        "a": [(0, 0, 2), (1, 1, 2)], "b": [(0, 1, 2)], "c": [(1, 0, 2), (2, 0, 3)], "d": [(2, 1, 3)], "e": [(2, 2, 3)],
    }  # fmt: skip
    utility = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 3.5}  # correct, wrong, 2 of 3 pairs correct
    for names in ("abcde", "edcba", "cebda"):
        found = metrics([utility[n] for n in names], *(places[n] for n in names))
        assert found["pair_accuracy"] == pytest.approx(3 / 5)
        assert found["list_accuracy"] == pytest.approx(1 / 3)


def test_metrics_equal_a_naive_count():
    draw = torch.Generator().manual_seed(0)
    lists = [torch.randperm(30, generator=draw)[: 2 + k % 3].tolist() for k in range(40)]
    u = torch.randint(0, 12, (30,), generator=draw).float()
    places = [[(n, m.index(v), len(m)) for n, m in enumerate(lists) if v in m] or None for v in range(30)]
    task = PairTask("p", max_comparisons=20)
    found = task.metrics(u.unsqueeze(-1), labels(*places, task=task))
    ordered = [[float(u[v]) for v in m] for m in lists]
    pairs = [(a, b) for m in ordered for i, a in enumerate(m) for b in m[i + 1 :]]
    assert found["pair_accuracy"] == pytest.approx(sum(a < b for a, b in pairs) / len(pairs))
    strict = [all(a < b for a, b in pairwise(m)) for m in ordered]
    compat = [all(a <= b for a, b in pairwise(m)) for m in ordered]
    assert found["list_accuracy"] == pytest.approx(sum(strict) / 40)
    assert found["list_accuracy_compat"] == pytest.approx(sum(compat) / 40)


def test_a_comparison_with_a_missing_video_is_an_error():
    found = metrics([1.0, 2.0], [(0, 0, 2)], [(1, 0, 3)])
    assert found["pair_accuracy"] == found["list_accuracy"] == found["list_accuracy_compat"] == 0
    found = metrics([1.0, 2.0], [(0, 0, 3)], [(0, 1, 3)])
    assert found["pair_accuracy"] == pytest.approx(1 / 3)
    assert found["list_accuracy_compat"] == 0


def test_chance_and_majority():
    label = labels(*[[(0, k, 3)] for k in range(3)], *[[(1, k, 4)] for k in range(4)], [(2, 0, 2)], [(2, 1, 2)])
    chance = PAIR.chance(label)
    assert chance["list_accuracy"] == pytest.approx((1 / 6 + 1 / 24 + 1 / 2) / 3)
    assert chance["pair_accuracy"] == 0.5
    constant = PairTask("p", max_comparisons=3).fit([]).majority(label)
    assert (constant["pair_accuracy"], constant["list_accuracy"], constant["list_accuracy_compat"]) == (0, 0, 1)
    assert PAIR.chance(labels(None)) == {}


def test_intervals_and_columns():
    label = labels(*[[(k // 2, k % 2, 2)] for k in range(40)])
    prediction = torch.arange(40.0).unsqueeze(-1)
    low, high = intervals(PAIR.statistics(prediction, label.value), PAIR.metrics_of, resamples=100)["pair_accuracy"]
    assert (low, high) == (1, 1)
    label = labels([(3, 0, 2), (12, 1, 4)], None)
    columns = PAIR.columns(torch.tensor([[0.5], [1.0]]), label)
    assert columns == {"truth": ["3:0/2|12:1/4", None], "prediction": [0.5, 1.0]}
    assert float(ranking.statistics(torch.zeros(2, 1), torch.full((2, 3), -1)).sum()) == 0


@pytest.mark.parametrize(
    "value", [3, "left", [(0, 0)], [(0, 2, 2)], [(-1, 0, 2)], [(0, 0, 1)], [(0, 0, 9)], [(0, 0, 2)] * 4]
)
def test_labels_that_are_no_places(value):
    with pytest.raises(DataError, match=r"no place in a comparison|too many comparisons") as caught:
        PAIR.encode(value, "v7")
    assert "v7" in str(caught.value)


def test_states():
    opened = OpenTask("openset", min_count=1).fit([["happy", "sad"], ["happy"]])
    for task in (PairTask("p", 0.5, 7).fit([]), opened):
        for copy in (Task.from_state(task.state()), pickle.loads(pickle.dumps(task))):
            assert copy.state() == task.state()


def test_the_vocabulary_is_taken_from_train():
    task = OpenTask("openset", min_count=2).fit([["Happy", "sad"], ["happy", "rare"], None, ["sad", "happy"]])
    assert task.classes == ("happy", "sad")
    assert task.prior.tolist() == pytest.approx([1, 2 / 3])
    assert task.encode_label(["HAPPY", "rare", "unheard"]) == [1, 0, 2]
    assert OpenTask("o", min_count=1, max_classes=1).fit([["b", "a"], ["b"]]).classes == ("b",)
    with pytest.raises(DataError, match=r"(?s)no vocabulary for task openset.*dataset\.tasks\.openset\.min_count=1"):
        OpenTask("openset", min_count=3).fit([["happy"]])
    for value in ("happy", [], 3):
        with pytest.raises(DataError, match="no set of words"):
            task.encode(value, "clip")


def test_open_metrics():
    task = OpenTask("openset", ["a", "b", "c"])
    label = task.collate([["a", "b"], ["c", "x"], None, ["b"]], list("1234"))
    prediction = torch.tensor([[0.9, 0.1, 0.6], [0.1, 0.1, 0.2], [0.9, 0.9, 0.9], [0.1, 0.9, 0.1]])
    found = task.metrics(prediction, label)
    precision, recall = (1 / 2 + 1 + 1) / 3, (1 / 2 + 1 / 2 + 1) / 3
    assert found["set_precision"] == pytest.approx(precision)
    assert found["set_recall"] == pytest.approx(recall), "a word outside the vocabulary costs recall"
    assert found["set_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert task.columns(prediction, label)["truth"] == ["a|b", "c|+1", None, "b"]
    assert task.columns(prediction, label)["prediction"] == ["a|c", "c", "a|b|c", "b"]
    nothing = labelsets.metrics(torch.tensor([2.0, 0.0, 0.0]), 3)
    assert float(nothing["set_f1"]) == 0


def test_open_loss():
    task = OpenTask("openset", ["a", "b"])
    label = task.collate([["a", "x"], None], ["1", "2"])
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = task.loss(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad.tolist() == [[-0.25, 0.25], [0, 0]]
    assert isinstance(label, Label)
