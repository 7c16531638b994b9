"""The token bank, panoramic attention and the fusions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hero_lightning.models.hero.evidence import Evidence, build_bank
from hero_lightning.models.hero.fusion import EvidenceIntegration, Fusion, MeanFusion
from tests.models.made import SHAPE

EXPERTS = ("frame", "audio", "synergy")


def evidence(confidence=((1.0, 1.0, 1.0), (1.0, 0.4, 0.0), (0.0, 0.0, 0.0))):
    confidence = torch.tensor(confidence)
    rows = len(confidence)
    g = torch.Generator().manual_seed(0)
    present = confidence == 1
    there = present[..., None]
    tokens = {s: torch.randn(rows, n, 32, generator=g) for s, n in (("frame", 4), ("audio", 4), ("synergy", 1))}
    tokens = {s: torch.where(there[:, e, None], t, 0.0) for e, (s, t) in enumerate(tokens.items())}
    sequences = {
        s: (torch.randn(rows, n, 32, generator=g), there[:, e].expand(-1, n) & (torch.arange(n) < n - 1))
        for e, (s, n) in enumerate((("frame", 3), ("audio", 7)))
    }
    summaries = torch.randn(rows, 3, 32, generator=g) * (confidence > 0)[..., None]
    return Evidence(EXPERTS, summaries, present, confidence, tokens, sequences)


@pytest.mark.parametrize(
    ("source", "include", "segments"),
    [
        ("qformer", False, (("frame", 0, 4), ("audio", 4, 8))),
        ("qformer", True, (("frame", 0, 4), ("audio", 4, 8), ("synergy", 8, 9))),
        ("sequence", False, (("frame", 0, 3), ("audio", 3, 10))),
        ("sequence", True, (("frame", 0, 3), ("audio", 3, 10), ("synergy", 10, 11))),
    ],
)
def test_bank_holds_what_its_segments_say(source, include, segments):
    seen = evidence()
    bank = build_bank(seen, source, include)
    assert bank.segments == segments
    assert bank.tokens.shape[1] == segments[-1][2] == bank.mask.shape[1] == bank.bias.shape[1]
    for name, start, end in segments:
        rows = seen.sequences[name] if source == "sequence" and name in seen.sequences else None
        tokens, mask = rows or (seen.tokens[name], torch.ones(3, end - start, dtype=torch.bool))
        assert bank.tokens[0, start:end].equal(torch.where(mask[0, :, None], tokens[0], 0.0))
        assert bank.mask[0, start:end].equal(mask[0])


@pytest.mark.parametrize("source", ["qformer", "sequence"])
def test_an_imputed_expert_shows_one_token(source):
    seen = evidence()
    bank = build_bank(seen, source, include_synergy=True)
    start, end = next((a, b) for s, a, b in bank.segments if s == "audio")
    assert bank.mask[1, start:end].tolist() == [True] + [False] * (end - start - 1)
    assert bank.tokens[1, start].equal(seen.summaries[1, 1])
    assert bank.tokens[1, start + 1 : end].eq(0).all()
    assert bank.bias[1, start].item() == pytest.approx(torch.tensor(0.4).log().item())
    assert bank.bias[0].eq(0).all()
    assert not bank.mask[1, -1]  # synergy is neither present nor imputed
    assert not bank.mask[2].any()


@pytest.mark.parametrize("source", ["qformer", "sequence"])
@pytest.mark.parametrize("training", [False, True])
def test_importance_and_density(source, training):
    torch.manual_seed(0)
    fusion = EvidenceIntegration(replace(SHAPE, dropout=0.5), EXPERTS, source, include_synergy=True).train(training)
    fused = fusion(evidence())
    assert [s for s, _, _ in fused.segments] == ["frame", "audio", "synergy"]
    torch.testing.assert_close(fused.attention.sum(1), torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(fused.importance.sum(1), torch.tensor([1.0, 1.0, 0.0]))
    assert fused.importance[1, 2] == 0
    valid = build_bank(evidence(), source, True).mask
    sizes = torch.stack([valid[:, a:b].sum(1) for _, a, b in fused.segments], 1)
    # the valid tokens' mean of density is 1 where anything is there: importance spread evenly gives 1 everywhere
    torch.testing.assert_close((fused.density * sizes).sum(1)[:2], valid.sum(1)[:2].float())
    assert fused.density[2].eq(0).all()


def test_confidence_raises_the_imputed_token_s_attention():
    torch.manual_seed(0)
    fusion, shares = EvidenceIntegration(SHAPE, EXPERTS).eval(), []
    seen = evidence()
    fusion.query = torch.nn.Identity()  # the query is led elsewhere; here only the bank's bias may differ
    for confidence in (0.05, 0.5, 0.95):
        seen.confidence[1, 1] = confidence
        _, attention = fusion.panorama(torch.ones(3, 32), fusion.bank(seen))
        shares.append(attention[1, 4].item())
    assert shares == sorted(shares)
    assert shares[0] < 0.2 * shares[-1]


def test_mean_weighs_by_confidence():
    seen = evidence()
    fused = MeanFusion(SHAPE, EXPERTS)(seen)
    want = (seen.summaries[1, 0] + 0.4 * seen.summaries[1, 1]) / 1.4
    torch.testing.assert_close(fused.pooled[1], want)


def test_a_fusion_defines_forward():
    with pytest.raises(TypeError, match="Fusion does not define forward"):
        Fusion(8)(evidence())
