"""Groups with their own rates, decay where it belongs, warm-up and cosine."""

from __future__ import annotations

import itertools

import pytest
from torch import nn

from hero_lightning.errors import ConfigError
from hero_lightning.training.optimizers import AdamWWithCosine


def test_groups_follow_the_longest_prefix_and_biases_do_not_decay() -> None:
    module = nn.ModuleDict({"encoders": nn.ModuleDict({"text": nn.Linear(2, 2)}), "model": nn.Linear(2, 2)})
    module["model"].bias.requires_grad_(False)
    made = AdamWWithCosine(lr=1.0, rates={"encoders": 0.1, "encoders.text": 0.01}, weight_decay=0.5)
    optimizer, _ = made.build(module.named_parameters(), steps=10)
    assert optimizer.defaults["fused"]
    assert not made.build(module.named_parameters(), steps=10, fused=False)[0].defaults["fused"]
    found = {(g["initial_lr"], g["weight_decay"]): len(g["params"]) for g in optimizer.param_groups}
    assert found == {(0.01, 0.5): 1, (0.01, 0.0): 1, (1.0, 0.5): 1}


def test_rate_rises_then_follows_the_cosine_to_the_floor() -> None:
    plan = AdamWWithCosine(warmup=0.1, final=0.05)
    factors = [plan.factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[55] == pytest.approx(0.525)
    assert factors[100] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("options", "where"),
    [({"lr": 0.0}, "optimizer.lr"), ({"rates": {"a": -1}}, "optimizer.rates.a"), ({"warmup": 2}, "optimizer.warmup")],
)
def test_values_are_checked(options: dict, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        AdamWWithCosine(**options)


def test_nothing_to_learn_is_an_error() -> None:
    layer = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(ConfigError, match="No parameter learns"):
        AdamWWithCosine().build(layer.named_parameters(), 1)
