"""The acceptance invariants of the fusion model: padding, batch, missing modalities, sums, names, gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hero_lightning.errors import ConfigError
from hero_lightning.models.hero.fusion import ConcatFusion, MeanFusion
from hero_lightning.types import Features
from tests.models import made
from tests.models.made import MODALITIES, PRESENCE, SIZES, features, hero

FUSIONS = {
    "dynamic": made.integration(strategy="dynamic"),
    "audio": made.integration(strategy="audio"),
    "concat slots": made.integration(strategy="concat"),
    "sequence bank": made.integration(source="sequence", include_synergy=True),
    "top-k": made.integration(top_k=2, learnable_temperature=True, temperature=0.5),
    "concat": ConcatFusion,
    "mean": MeanFusion,
}
POSITIONS = {"top-k": "learned", "mean": "none"}
MODELS = {name: hero(fusion=fusion, position=POSITIONS.get(name, "sinusoidal")) for name, fusion in FUSIONS.items()}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
@given(present=PRESENCE, pad=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_padding_other_rows_and_absent_content_change_nothing(name, present, pad):
    made.check_invariants(MODELS[name], present, pad)


@every_model
@given(present=PRESENCE, training=st.booleans())
@example(present=dict.fromkeys(MODALITIES, [False] * 3), training=True)
@settings(max_examples=8, deadline=None)
def test_sums_and_finite_gradients(name, present, training):
    model, given_features = MODELS[name].train(training), features(present, fill=torch.nan)
    kept = {s: (f.x.clone(), f.mask.clone(), f.time.clone()) for s, f in given_features.items()}
    outputs = model(given_features, explain=True)
    made.check_gradients(model, made.total_loss(model, outputs))
    model.eval()
    there = torch.tensor([present[s] for s in MODALITIES]).T
    assert outputs.experts == (*MODALITIES, "synergy")
    assert outputs.present[:, :-1].equal(there)
    assert outputs.present[:, -1].equal(there[:, 1] & there[:, 2])
    some = there.any(1)
    assert outputs.imputed.equal(~outputs.present & some[:, None])
    assert outputs.confidence[outputs.present].eq(1).all()
    assert outputs.confidence[~some].eq(0).all()
    assert outputs.gate[~(outputs.present | outputs.imputed)].eq(0).all()
    torch.testing.assert_close(outputs.gate.sum(1), some.float())
    for s in MODALITIES:
        assert outputs.tokens[s][~torch.tensor(present[s])].eq(0).all()
    assert outputs.context_mask is None or outputs.context_mask.shape == outputs.context.shape[:2]
    if outputs.fused.attention is not None:
        torch.testing.assert_close(outputs.fused.attention.sum(1), some.float())
        torch.testing.assert_close(outputs.importance.sum(1), some.float())
    for s, weights in outputs.time_attention.items():
        assert weights[~given_features[s].mask].eq(0).all()
        torch.testing.assert_close(weights.sum(1), torch.tensor(present[s]).float())
    assert all(v.isfinite().all() for v in made.everything(outputs).values())
    for s, (x, mask, time) in kept.items():
        f = given_features[s]
        assert torch.equal(f.x.nan_to_num(7), x.nan_to_num(7))
        assert torch.equal(f.mask, mask)
        assert torch.equal(f.time.nan_to_num(7), time.nan_to_num(7))


@every_model
def test_every_parameter_gets_a_gradient_that_is_not_zero(name):
    present = {s: [True, True, i % 2 == 0, False] for i, s in enumerate(MODALITIES)}
    model = MODELS[name].train()
    idle = made.check_gradients(model, made.total_loss(model, model(features(present))))
    model.eval()
    assert all(key.endswith(".missing") for key in idle)  # the missing token only keeps the graph whole


@pytest.mark.parametrize("gone", MODALITIES)
def test_a_removed_expert_only_removes_its_slot(gone):
    left = tuple(s for s in MODALITIES if s != gone)
    model = hero(left)
    outputs = model(features({s: [True, True] for s in MODALITIES}), explain=True)
    want = left if gone in ("motion", "audio") else (*left, "synergy")
    assert outputs.experts == want
    assert tuple(s for s, _, _ in outputs.segments) == left
    assert outputs.gate.shape == (2, len(want))
    assert tuple(outputs.time_attention) == left
    assert (outputs.sync_logit is None) == (gone in ("motion", "audio"))


def test_segments_carry_the_content_of_their_modality():
    """What is put into one modality moves the attention of its own segment: names and places agree."""
    model = hero(seed=3)
    present = {s: [True] for s in MODALITIES}
    plain, changed = features(present), features(present)
    changed["au"] = Features(changed["au"].x * 50, changed["au"].mask, changed["au"].time)
    with torch.no_grad():
        a, b = model(plain), model(changed)
    e = a.experts.index("au")
    assert not torch.allclose(a.summaries[0, e], b.summaries[0, e], atol=1e-3)
    others = [i for i in range(len(a.experts)) if i != e]
    assert torch.equal(a.summaries[0, others], b.summaries[0, others])
    assert a.segments == tuple((s, 3 * i, 3 * i + 3) for i, s in enumerate(MODALITIES))


def test_the_gate_of_an_imputed_expert_follows_its_confidence():
    model, given_features, gates = hero(), features({s: [s != "text"] for s in MODALITIES}), []
    text = (*MODALITIES, "synergy").index("text")
    for bias in (-4.0, 0.0, 4.0):
        torch.nn.init.constant_(model.imputation.sure[2].bias, bias)
        outputs = model(given_features)
        gates.append(outputs.gate[0, text].item())
        assert not outputs.present[0, text]
    assert gates[0] < gates[1] < gates[2]
    without = hero(imputation=False)(given_features)
    assert without.gate[0, text] == 0
    assert not without.imputed.any()


def test_synergy_may_be_left_out_or_compare_another_pair():
    everyone = features({s: [True] for s in MODALITIES})
    assert hero(synergy=False)(everyone).experts == MODALITIES
    other = hero(("frame", "text"), pair=["text", "frame"])
    assert other(everyone).sync_logit is not None


def test_heads_are_built_only_where_a_loss_reads_them():
    model = hero(auxiliary_heads=())
    outputs = model(features({s: [True, True] for s in MODALITIES}))
    assert outputs.sync_logit is None
    assert not outputs.unimodal_logits
    made.check_gradients(model, sum(v.sum() for v in outputs.logits.values()))
    with pytest.raises(ConfigError, match=r"(?s)no sync head.*model\.auxiliary_heads"):
        model.match(outputs, torch.tensor([1, 0]), torch.zeros(2, dtype=torch.long))


def test_time_attention_finds_the_step_that_differs():
    """After the queries learnt to find a mark, the marked step weighs most (no stat_pooling, which shows it too)."""
    torch.manual_seed(0)
    model, hits = made.built({"audio": 8}, {"emotion": 2}, **SIZES, dropout=0.0, stat_pooling=False), []

    def loss():
        at, label = torch.randint(0, 10, (32,)), torch.randint(0, 2, (32,))
        x = 0.3 * torch.randn(32, 10, 8)
        x[torch.arange(32), at, label] += 4
        outputs = model({"audio": Features(x, torch.ones(32, 10, dtype=torch.bool))}, explain=True)
        hits.append((outputs.time_attention["audio"].argmax(1) == at).float().mean())
        return torch.nn.functional.cross_entropy(outputs.logits["emotion"], label)

    made.descend(model, loss, 50)
    assert hits[-1] > 0.8


@pytest.mark.parametrize("name", ["dynamic", "concat", "mean"])
def test_bf16_autocast(name):
    model = MODELS[name].train()
    present = {s: [True, i % 2 == 0, False] for i, s in enumerate(MODALITIES)}
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(features(present))
        loss = made.total_loss(model, outputs)
    made.check_gradients(model, loss)
    model.eval()
    torch.testing.assert_close(outputs.gate.sum(1), torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 30}, r"(?s)num_heads=4.*30.*model\.width"),
        ({"num_heads": 0}, r"model\.num_heads"),
        ({"queries": 0}, r"model\.queries"),
        ({"context_tokens": 0}, r"model\.context_tokens"),
        ({"dropout": 1.0}, r"model\.dropout"),
        ({"feature_dropout": 1.0}, r"model\.feature_dropout"),
        ({"position": "rotary"}, r"(?s)Unknown model\.position.*learned.*rotary"),
        ({"mlp": ["aus"]}, r"(?s)Unknown model\.mlp.*frame.*aus"),
        ({"pair": ["audio", "video"]}, r"(?s)Unknown model\.pair.*frame.*video"),
        ({"auxiliary_heads": ["sink"]}, r"(?s)sync or unimodal.*sink.*losses"),
        (
            {"fusion": made.integration(source="tokens")},
            r"(?s)Unknown model\.fusion\.source.*qformer, sequence.*tokens",
        ),
        ({"fusion": made.integration(strategy="video")}, r"(?s)model\.fusion\.strategy.*dynamic, audio, concat.*video"),
        ({"fusion": made.integration(temperature=0.0)}, r"(?s)model\.fusion\.temperature.*\[0\.05, 20\]"),
        ({"fusion": made.integration(top_k=0)}, r"(?s)model\.fusion\.top_k.*\[1, inf\)"),
        (
            {"modalities": ("text",), "fusion": made.integration(strategy="audio")},
            r"(?s)without an audio.*fusion\.strategy",
        ),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ConfigError, match=message):
        hero(**settings)
