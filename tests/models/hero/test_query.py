"""Summaries before fusion: the gate (sums, masks, fallbacks, temperature, top-k, confidence) and imputation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.models.hero.evidence import Evidence
from hero_lightning.models.hero.imputation import EvidenceImputation
from hero_lightning.models.hero.query import AdaptiveQuery
from tests.models.made import SHAPE

EXPERTS = ("frame", "audio", "text", "synergy")
STRATEGIES = ("dynamic", "audio", "concat")


def evidence(confidence):
    confidence = torch.tensor(confidence, dtype=torch.float)
    g = torch.Generator().manual_seed(0)
    summaries = torch.randn(*confidence.shape, 32, generator=g) * (confidence > 0)[..., None]
    return Evidence(EXPERTS, summaries, confidence == 1, confidence, {}, {})


def query(strategy="dynamic", **settings):
    torch.manual_seed(1)
    return AdaptiveQuery(SHAPE, EXPERTS, strategy, **settings).eval()


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(rows=st.lists(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_gate_sums_to_one_over_what_is_available(strategy, rows):
    seen = evidence(rows)
    g, gate = query(strategy)(seen)
    assert g.isfinite().all()
    assert gate[~seen.available].eq(0).all()
    torch.testing.assert_close(gate.sum(1), seen.available.any(1).float())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_empty_rows_ask_the_null_query(strategy):
    model = query(strategy)
    seen = evidence([[0.0] * 4, [1.0] * 4])
    g, gate = model(seen)
    assert g[0].equal(model.null)
    assert gate[0].eq(0).all()
    g.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p is not model.null)
    assert model.null.grad.eq(1).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_confidence_raises_the_gate(strategy):
    model, gates = query(strategy), []
    for confidence in (0.05, 0.3, 0.6, 0.95):
        seen = evidence([[1.0, 1.0, confidence, 1.0]])
        gates.append(model(seen)[1][0, 2].item())
    assert gates == sorted(gates)
    assert gates[0] < gates[-1]


def test_audio_falls_back_to_the_mean_where_it_is_missing():
    model = query("audio")
    seen = evidence([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    g, gate = model(seen)
    assert g.isfinite().all()
    assert gate[0, 1] == 0
    mean = seen.summaries[:1, [0, 2]].mean(1)
    want, _ = model.refine(mean[:, None], seen.summaries[:1], seen.available[:1])
    torch.testing.assert_close(g[:1], want[:, 0])
    own, _ = model.refine(seen.summaries[1:, 1:2], seen.summaries[1:], seen.available[1:])
    torch.testing.assert_close(g[1:], own[:, 0])


def test_temperature_sharpens_and_is_clamped_when_learnt():
    seen = evidence([[1.0, 1.0, 1.0, 0.0]])
    entropy = []
    for temperature in (0.1, 1.0, 10.0):
        gate = query(temperature=temperature)(seen)[1]
        entropy.append(-torch.xlogy(gate, gate).sum().item())
    assert entropy == sorted(entropy)
    learnt = query(temperature=0.1, learnable_temperature=True)
    torch.testing.assert_close(learnt(seen)[1], query(temperature=0.1)(seen)[1])
    gate = learnt(seen)[1]
    gate[0, 0].backward()
    assert learnt.log_temperature.grad.abs() > 0
    with torch.no_grad():
        learnt.log_temperature.fill_(-50)
        torch.testing.assert_close(learnt(seen)[1], query(temperature=0.05)(seen)[1])


def test_top_k():
    seen = evidence([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    every, some = query()(seen)[1], query(top_k=2)(seen)[1]
    assert (some > 0).sum(1).tolist() == [2, 1]
    torch.testing.assert_close(some.sum(1), torch.ones(2))
    assert every[0].topk(2).indices.equal(some[0].topk(2).indices)
    assert query(top_k=9)(seen)[1].equal(every)


def test_concat_keeps_the_slots():
    model = query("concat")
    one = evidence([[1.0, 0.0, 0.0, 0.0]])
    moved = evidence([[0.0, 1.0, 0.0, 0.0]])
    moved.summaries[0, 1] = one.summaries[0, 0]
    assert not torch.allclose(model(one)[0], model(moved)[0], atol=1e-3)
    assert model(evidence([[1.0, 1.0, 0.0, 0.0]]))[1].tolist() == [[0.5, 0.5, 0, 0]]


def imputation():
    torch.manual_seed(0)
    return EvidenceImputation(SHAPE, experts="abcd").eval()


def test_imputation_is_per_sample():
    model, summaries = imputation(), torch.randn(3, 4, 32)
    present = torch.tensor([[True, True, False, True], [True, False, False, False], [False] * 4])
    kept = summaries.clone()
    inferred, confidence = model(summaries, present)
    assert summaries.equal(kept)
    assert inferred.shape == (3, 4, 32)
    assert ((confidence > 0) & (confidence < 1)).all()
    assert inferred.isfinite().all()
    for b in range(3):
        alone, sure = model(summaries[b : b + 1], present[b : b + 1])
        torch.testing.assert_close(alone[0], inferred[b], atol=1e-5, rtol=0)
        torch.testing.assert_close(sure[0], confidence[b], atol=1e-6, rtol=0)


def test_only_present_experts_are_read():
    model, summaries = imputation(), torch.randn(2, 4, 32)
    present = torch.tensor([[True, True, False, True], [False, False, True, False]])
    inferred, _ = model(summaries, present)
    other = torch.where(present[..., None], summaries, torch.randn(2, 4, 32))
    torch.testing.assert_close(model(other, present)[0][present], inferred[present], atol=1e-5, rtol=0)
    torch.testing.assert_close(model(other, present)[0][~present], inferred[~present], atol=1e-5, rtol=0)
    changed = torch.where(present[..., None], torch.randn(2, 4, 32), summaries)
    assert not torch.allclose(model(changed, present)[0][0, 2], inferred[0, 2], atol=1e-3)


def test_imputed_slots_differ():
    inferred, _ = imputation()(torch.randn(1, 4, 32), torch.tensor([[True, False, False, False]]))
    assert not torch.allclose(inferred[0, 1], inferred[0, 2], atol=1e-4)
