"""Linear probes: pooling ignores padding, the regression equals scikit-learn's, absent modalities do not crash it."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from hero_lightning.evaluation.probes import pooled, probe, softmax_regression
from hero_lightning.types import Features


def test_pooling_sees_only_real_steps() -> None:
    x = torch.tensor([[[1.0], [3.0], [torch.nan]], [[torch.nan]] * 3])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pooled(Features(x, mask)).tolist() == [[2.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


def test_softmax_regression_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 5)), rng.integers(3, size=120)
    x[:, 0] += y
    weight = softmax_regression(torch.tensor(x, dtype=torch.float32), torch.tensor(y), 3, 0.1).numpy()
    theirs = LogisticRegression(C=1 / (0.1 * 120), tol=1e-8, max_iter=1000).fit(x, y)  # their loss is a sum
    ours = x @ weight[:-1] + weight[-1]
    np.testing.assert_allclose(ours - ours.mean(axis=1, keepdims=True), theirs.decision_function(x), atol=2e-3)


def test_probe_beats_chance_where_there_is_a_cue() -> None:
    generator = torch.Generator().manual_seed(0)
    y = {s: torch.randint(3, (60,), generator=generator) for s in ("train", "val", "test")}
    x = {s: torch.randn(60, 4, generator=generator) + 3 * torch.nn.functional.one_hot(v, 4) for s, v in y.items()}
    probability, penalty = probe(x, y, 3)
    assert (probability.argmax(dim=1) == y["test"]).float().mean() > 0.8
    assert penalty > 0
