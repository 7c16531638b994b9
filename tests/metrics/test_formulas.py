"""Every metric against scikit-learn, torchmetrics, or a value calculated by hand."""

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


def by_class(p: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    sums = classification.statistics(p, y).sum(dim=0)
    return {k: float(v) for k, v in classification.metrics(sums, p.shape[1]).items()}


def by_distribution(p: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    sums = distribution.statistics(p, y).sum(dim=0)
    return {k: float(v) for k, v in distribution.metrics(sums, p.shape[1]).items()}


def draw(classes: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [n, classes] and truths [n]; small n leaves classes out of both."""
    g = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, classes, generator=g)).softmax(-1), torch.randint(0, classes, (n,), generator=g)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_class_metrics_equal_scikit_learn(case: tuple[int, int, int]) -> None:
    p, y = draw(*case)
    guess = p.argmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "weighted_f1": sk.f1_score(y, guess, average="weighted", zero_division=0),
            "macro_f1": sk.f1_score(y, guess, average="macro", zero_division=0),
            "accuracy": sk.accuracy_score(y, guess),
            "uar": sk.balanced_accuracy_score(y, guess),
            "weighted_precision": sk.precision_score(y, guess, average="weighted", zero_division=0),
            "ece": multiclass_calibration_error(p.double(), y, case[0], n_bins=15).item(),
        }
        table = sk.confusion_matrix(y, guess, labels=range(case[0]))
        precision, recall, f1, support = sk.precision_recall_fscore_support(
            y, guess, labels=range(case[0]), zero_division=0
        )
    assert by_class(p, y) == pytest.approx(expected, abs=1e-6)
    assert (classification.confusion(p, y)[:, :-1].numpy() == table).all()
    rows = classification.per_class(classification.statistics(p, y).sum(dim=0), [str(c) for c in range(case[0])])
    for c in range(case[0]):
        assert rows[str(c)] == pytest.approx(
            {"precision": precision[c], "recall": recall[c], "f1": f1[c], "support": support[c]}
        )


def test_chance_is_the_mean_of_many_uniform_guesses() -> None:
    y = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    g = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(200):
        runs.append(by_class(torch.eye(3)[torch.randint(0, 3, (1000,), generator=g)], y))
    for name, value in classification.chance(y, 3).items():
        assert value == pytest.approx(np.mean([r[name] for r in runs]), abs=0.005)


@given(st.integers(2, 60), st.integers(0, 10_000), st.floats(0.1, 3))
@settings(max_examples=60, deadline=None)
def test_score_metrics_equal_scikit_learn_and_lin(n: int, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.uniform(-3, 3, n) + 50
    p = y + noise * rng.normal(size=n) + 0.3
    found = regression.metrics(regression.statistics(torch.tensor(p)[:, None], torch.tensor(y)).sum(dim=0), 1)
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
    found = regression.metrics(regression.statistics(torch.full((3, 1), 0.3), y).sum(dim=0), 1)
    assert math.isnan(found["pearson"])
    assert found["ccc"] == 0


@given(st.integers(1, 6), st.integers(2, 60), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_multilabel_metrics_equal_scikit_learn(labels: int, n: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, labels, generator=g) < 0.4).float()
    p = torch.rand(n, labels, generator=g)
    guess = (p > 0.5).int()
    sums = multilabel.statistics(p, y).sum(dim=0)
    found = {k: float(v) for k, v in multilabel.metrics(sums, labels).items()}
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
    found = multilabel.metrics(multilabel.statistics(p, y).sum(dim=0), 1)
    assert float(found["weighted_accuracy"]) == pytest.approx(expected) == pytest.approx(0.625)
    coin = multilabel.chance(y, 1)
    assert coin["weighted_accuracy"] == 0.5
    assert coin["macro_f1"] == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))


def test_distribution_metrics_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.7, 0.1, 0.15, 0.05]])
    y = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    found = by_distribution(p, y)
    kl = (0.5 * math.log(0.5 / 0.25) + math.log(1 / 0.05)) / 2
    cosine = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(p.numpy(), y.numpy(), strict=True)]
    assert found["kl"] == pytest.approx(kl, rel=1e-6)
    assert found["cosine"] == pytest.approx(np.mean(cosine), rel=1e-6)
    assert found["acc_true1_in_pred3"] == 0.5  # in the second row the true emotion is the weakest of four


def rows_of(table: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Confusion matrix (rows truth) -> one-hot predictions and truths."""
    counts = torch.tensor(table)
    truth, answer = counts.nonzero().repeat_interleave(counts[counts > 0], dim=0).unbind(1)
    return torch.nn.functional.one_hot(answer, len(table)).double(), truth


def test_confusion_matrix_of_emotion_llama_on_mer2023_semi() -> None:
    """Published by Emotion-LLaMA (Cheng et al. 2024) for MER2023-SEMI; its 0.9036 is the weighted F1."""
    p, y = rows_of([
        [179, 1, 2, 1, 0, 0], [2, 152, 7, 4, 3, 1], [10, 10, 134, 6, 2, 4],
        [2, 2, 1, 250, 0, 2], [1, 0, 3, 1, 6, 3], [4, 1, 3, 2, 1, 34],
    ])  # fmt: skip
    found = by_class(p, y)
    assert found["weighted_f1"] == pytest.approx(0.903577, abs=5e-7)
    assert found["accuracy"] == pytest.approx(0.905276, abs=5e-7)
    assert found["weighted_precision"] == pytest.approx(0.903625, abs=5e-7)
    assert found["macro_f1"] == pytest.approx(0.8134, abs=5e-5)
    assert found["uar"] == pytest.approx(0.8069, abs=5e-5)
    names = ["angry", "happy", "neutral", "sad", "surprise", "worried"]
    rows = classification.per_class(classification.statistics(p, y).sum(dim=0), names)
    assert [r["support"] for r in rows.values()] == [183, 169, 166, 257, 14, 45]
    expected = [0.9396, 0.9075, 0.8481, 0.9597, 0.4615, 0.7640]
    assert [r["f1"] for r in rows.values()] == pytest.approx(expected, abs=5e-5)


def test_a_missing_answer_is_an_error_of_no_class() -> None:
    y = torch.tensor([0, 0, 1, 1])
    p = torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 0]])
    found = by_class(p, y)
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx(2 / 3)  # precision 1, recall 1/2 in both; no third class
    assert found["weighted_precision"] == 1
    rows = classification.per_class(classification.statistics(p, y).sum(dim=0), ["a", "b"])
    assert rows["a"] == {"precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


def scores(p: list[float], y: list[float], metric_set: str) -> dict[str, float]:
    sums = regression.statistics(torch.tensor(p).unsqueeze(-1), torch.tensor(y), metric_set).sum(dim=0)
    return {k: float(v) for k, v in regression.metrics(sums, 1, metric_set).items()}


def test_mosi_metrics_by_hand() -> None:
    found = scores([-3.4, -0.2, 0.4, 0.5, 1.5, 2.6, -1.0], [-3.0, 0.0, -0.4, 1.0, 2.4, 3.0, 1.0], "mosi")
    assert list(found) == ["mae", "pearson", "acc7", "acc5", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0"]
    assert found["mae"] == pytest.approx((0.4 + 0.2 + 0.8 + 0.5 + 0.9 + 0.4 + 2) / 7)
    assert found["acc7"] == pytest.approx(5 / 7)  # 0.5 rounds to 0, 1.5 to 2 (halves to even); -0.4 and 0.4 both to 0
    assert found["acc5"] == pytest.approx(5 / 7)
    assert found["acc2_has0"] == pytest.approx(4 / 7)  # the neutral row counts as positive
    assert found["acc2_non0"] == pytest.approx(4 / 6)  # and is skipped here


@given(st.integers(4, 80), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_mosi_and_sims_metrics_equal_numpy_and_scikit_learn(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = (rng.integers(-15, 16, n) / 5).astype("float32")
    y[:2] = -1, 1
    p = (y + rng.normal(size=n)).astype("float32")
    found, kept = scores(p.tolist(), y.tolist(), "mosi"), y != 0
    expected = {
        "mae": np.abs(p - y).mean(), "pearson": np.corrcoef(p, y)[0, 1],
        "acc7": (np.round(np.clip(p, -3, 3)) == np.round(np.clip(y, -3, 3))).mean(),
        "acc5": (np.round(np.clip(p, -2, 2)) == np.round(np.clip(y, -2, 2))).mean(),
        "acc2_has0": ((y >= 0) == (p >= 0)).mean(), "acc2_non0": ((y > 0) == (p > 0))[kept].mean(),
        "f1_has0": sk.f1_score(y >= 0, p >= 0, average="weighted"),
        "f1_non0": sk.f1_score(y[kept] > 0, p[kept] > 0, average="weighted"),
    }  # fmt: skip
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-6)
    y, p = y / 3, p / 3
    p[:3] = np.float32(-0.7), np.float32(0.1), 0  # intervals are closed above
    found = scores(p.tolist(), y.tolist(), "sims")
    bins = {
        name: [np.digitize(np.clip(x, -1, 1), np.array(cuts, "float32"), right=True) for x in (y, p)]
        for name, cuts in regression.SIMS_CUTS.items()
    }
    expected = {name: (a == b).mean() for name, (a, b) in bins.items()}
    expected |= {"mae": np.abs(p - y).mean(), "pearson": np.corrcoef(p, y)[0, 1]}
    expected["f1"] = sk.f1_score(y > 0, p > 0, average="weighted")
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-6)


def test_metric_set_mer2023_adds_mse_and_ccc_puts_ccc_first() -> None:
    assert scores([1.0, 2.0], [1.0, 4.0], "mer2023")["mse"] == pytest.approx(2)
    assert next(iter(scores([1.0, 2.0], [1.0, 4.0], "ccc"))) == "ccc"


def test_majority_baseline_of_vce() -> None:
    """Predicting the three emotions that are strongest most often in train is right on 3911 of 11046 test clips."""
    test = {"boredom": 1509, "amusement": 1402, "adoration": 1000, "awe": 4000, "fear": 3135}
    truth = torch.cat([torch.eye(5)[i].expand(n, -1) for i, n in enumerate(test.values())])
    train = torch.eye(5)[torch.tensor([0] * 5 + [1] * 4 + [2] * 3 + [3] * 2 + [4])]
    _, first, _ = distribution.constants(train)
    found = by_distribution(first.expand(len(truth), -1), truth)
    assert found["acc_true1_in_pred3"] == pytest.approx(3911 / 11046) == pytest.approx(0.354065, abs=2e-6)
    assert found["top1"] == pytest.approx(1509 / 11046) == pytest.approx(0.136611, abs=1e-6)


def test_direction_of_top_3() -> None:
    truth, prediction = torch.tensor([[0.9, 0.5, 0.4, 0.1]]), torch.tensor([[0.1, 0.9, 0.5, 0.4]])
    found = by_distribution(prediction, truth)
    assert (found["acc_true1_in_pred3"], found["acc_pred1_in_true3"]) == (0, 1)


def test_of_equal_intensities_the_first_is_stronger() -> None:
    assert distribution.strongest(torch.tensor([[0.2, 0.7, 0.7, 0.2, 0.2]])).tolist() == [[1, 2, 0]]
