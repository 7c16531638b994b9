"""Every figure against scikit-learn, torchmetrics or a value worked out by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from hero_lightning.metrics import classification, distribution, multilabel, regression

CASES = st.tuples(st.integers(2, 8), st.integers(1, 60), st.integers(0, 10_000))


def draw(classes: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [n, classes] and truths [n]; small n leaves classes out of both."""
    g = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, classes, generator=g)).softmax(-1), torch.randint(0, classes, (n,), generator=g)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_class_figures_equal_scikit_learn(case: tuple[int, int, int]) -> None:
    p, y = draw(*case)
    found = classification.figures(classification.statistics(p, y).sum(dim=0), case[0])
    guess = p.argmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "weighted_f1": sk.f1_score(y, guess, average="weighted", zero_division=0),
            "macro_f1": sk.f1_score(y, guess, average="macro", zero_division=0),
            "accuracy": sk.accuracy_score(y, guess),
            "uar": sk.balanced_accuracy_score(y, guess),
            "ece": multiclass_calibration_error(p.double(), y, case[0], n_bins=15).item(),
        }
        table = sk.confusion_matrix(y, guess, labels=range(case[0]))
        precision, recall, f1, support = sk.precision_recall_fscore_support(
            y, guess, labels=range(case[0]), zero_division=0
        )
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, abs=1e-6)
    confusion = classification.confusion(p, y)
    assert (confusion.numpy() == table).all()
    rows = classification.per_class(confusion, [str(c) for c in range(case[0])])
    for c in range(case[0]):
        assert rows[str(c)] == pytest.approx(
            {"precision": precision[c], "recall": recall[c], "f1": f1[c], "support": support[c]}
        )


def test_chance_is_the_mean_of_many_uniform_guesses() -> None:
    y = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    g = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(200):
        guess = torch.nn.functional.one_hot(torch.randint(0, 3, (1000,), generator=g), 3).double()
        runs.append(classification.figures(classification.statistics(guess, y).sum(dim=0), 3))
    for name, value in classification.chance(torch.tensor([600, 300, 100])).items():
        assert value == pytest.approx(torch.stack([r[name] for r in runs]).mean().item(), abs=0.005)


@given(st.integers(2, 60), st.integers(0, 10_000), st.floats(0.1, 3))
@settings(max_examples=60, deadline=None)
def test_score_figures_equal_scikit_learn_and_lin(n: int, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.uniform(-3, 3, n) + 50
    p = y + noise * rng.normal(size=n) + 0.3
    found = regression.figures(regression.statistics(torch.tensor(p)[:, None], torch.tensor(y)).sum(dim=0), 1)
    ccc = 2 * np.cov(p, y, bias=True)[0, 1] / (p.var() + y.var() + (p.mean() - y.mean()) ** 2)
    expected = {
        "mae": sk.mean_absolute_error(y, p),
        "rmse": sk.root_mean_squared_error(y, p),
        "pearson": np.corrcoef(p, y)[0, 1],
        "ccc": ccc,
    }
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_constant_answer_has_no_correlation() -> None:
    y = torch.tensor([0.1, 0.7, 0.4])
    found = regression.figures(regression.statistics(torch.full((3, 1), 0.3), y).sum(dim=0), 1)
    assert math.isnan(found["pearson"])
    assert found["ccc"] == 0


@given(st.integers(1, 6), st.integers(2, 60), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_multilabel_figures_equal_scikit_learn(labels: int, n: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, labels, generator=g) < 0.4).float()
    p = torch.rand(n, labels, generator=g)
    guess = (p > 0.5).int()
    sums = multilabel.statistics(p, y).sum(dim=0)
    found = {k: float(v) for k, v in multilabel.figures(sums, labels).items()}
    both = [c for c in range(labels) if 0 < y[:, c].sum() < n]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weighted = [sk.f1_score(y[:, c], guess[:, c], average="weighted", zero_division=0) for c in range(labels)]
        micro = sk.f1_score(y.ravel(), guess.ravel(), zero_division=0)
        each = [sk.f1_score(y[:, c], guess[:, c], zero_division=0) for c in range(labels)]
        balanced = [sk.balanced_accuracy_score(y[:, c], guess[:, c]) for c in both]
    expected = {
        "macro_f1": np.mean(each),
        "micro_f1": micro,
        "weighted_f1": np.mean(weighted),
        "weighted_accuracy": np.mean(balanced) if both else math.nan,
    }
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    auc = np.mean([sk.roc_auc_score(y[:, c], p[:, c]) for c in both]) if both else math.nan
    assert multilabel.auc(p, y) == pytest.approx(auc, abs=1e-6, nan_ok=True)
    rows = multilabel.per_class(sums, [str(c) for c in range(labels)])
    assert [rows[str(c)]["f1"] for c in range(labels)] == pytest.approx(each)


def test_weighted_accuracy_is_the_formula_of_cmu_mosei() -> None:
    y, p = torch.tensor([[1.0], [1], [0], [0], [0], [0]]), torch.tensor([[0.9], [0.1], [0.1], [0.1], [0.1], [0.9]])
    tp, tn, positives, negatives = 1, 3, 2, 4
    expected = (tp * negatives / positives + tn) / (2 * negatives)
    found = multilabel.figures(multilabel.statistics(p, y).sum(dim=0), 1)
    assert float(found["weighted_accuracy"]) == pytest.approx(expected) == pytest.approx(0.625)
    coin = multilabel.chance(y)
    assert coin["weighted_accuracy"] == 0.5
    assert coin["macro_f1"] == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))


def test_distribution_figures_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.7, 0.1, 0.15, 0.05]])
    y = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    found = distribution.figures(distribution.statistics(p, y).sum(dim=0), 4)
    kl = (0.5 * math.log(0.5 / 0.25) + math.log(1 / 0.05)) / 2
    cosine = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(p.numpy(), y.numpy(), strict=True)]
    assert float(found["kl"]) == pytest.approx(kl, rel=1e-6)
    assert float(found["cosine"]) == pytest.approx(np.mean(cosine), rel=1e-6)
    assert float(found["top3"]) == 0.5  # the second truth is the weakest of four
