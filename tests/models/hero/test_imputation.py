"""Imputation is per sample, reads present experts only, and changes nothing in place."""

from __future__ import annotations

import torch

from hero_lightning.models.base import Shape
from hero_lightning.models.hero.imputation import EvidenceImputation


def imputation():
    torch.manual_seed(0)
    return EvidenceImputation(Shape(width=32, num_heads=4, dropout=0.0), experts=4).eval()


def test_per_sample():
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


def test_slots_are_told_apart():
    inferred, _ = imputation()(torch.randn(1, 4, 32), torch.tensor([[True, False, False, False]]))
    assert not torch.allclose(inferred[0, 1], inferred[0, 2], atol=1e-4)
