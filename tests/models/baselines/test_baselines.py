"""Baselines: the invariants of every model, gradients everywhere, and a toy task that each of them learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hero_lightning.config import build, instantiate
from hero_lightning.config.cli import CONF
from hero_lightning.errors import ConfigError
from hero_lightning.models.baselines import pooled
from hero_lightning.models.baselines.pooled import EarlyFusion, LateFusion, Majority
from hero_lightning.models.baselines.sequence import DialogueGRU, MulT, MultiTask
from hero_lightning.models.layers import Standardise
from hero_lightning.models.outputs import Fused
from hero_lightning.training.losses import SelfLabels
from hero_lightning.training.module import EmotionModule
from hero_lightning.types import Features, Label, Sample, dialogues
from tests.datasets.small_datasets import dataset
from tests.models.made import DIMS, MODALITIES, PRESENCE, batch, check_gradients, check_invariants, descend, features

OUTPUTS = {"emotion": 4, "valence": 1}
SMALL = {"width": 16, "dropout": 0.1}
KINDS = {
    "majority": (Majority, {}),
    "linear": (EarlyFusion, {"layers": 0}),
    "early": (EarlyFusion, SMALL),
    "late": (LateFusion, SMALL),
    "gated": (pooled.GatedFusion, SMALL),
    "attention": (pooled.UtteranceAttention, SMALL),
    "lmf": (pooled.LowRankFusion, SMALL),
    "self_mm": (MultiTask, SMALL | {"auxiliary_heads": ("unimodal",)}),
    "mult": (MulT, SMALL | {"layers": 1, "num_heads": 2}),
    "dialogue_gru": (DialogueGRU, SMALL),
}
every_kind = pytest.mark.parametrize("name", KINDS)
OPTIONS = sorted(p.stem for p in (Path(CONF).parent / "experiments" / "baseline").glob("*.yaml") if p.stem != "none")


def made(name, dims=DIMS):
    """In eval mode, after one training pass (so that features are standardised), every bias away from zero."""
    torch.manual_seed(0)
    kind, options = KINDS[name]
    model = kind(dict(dims), OUTPUTS, **options)
    with torch.no_grad():
        model(features({s: [True] * 3 for s in MODALITIES}, seed=7))
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


MODELS = {name: made(name) for name in KINDS}


@every_kind
@given(present=PRESENCE, pad=st.integers(1, 4))
@settings(max_examples=6, deadline=None)
def test_padding_other_rows_and_absent_content_change_nothing(name, present, pad):
    check_invariants(MODELS[name], present, pad)


@every_kind
@given(present=PRESENCE)
@settings(max_examples=4, deadline=None)
def test_every_parameter_is_in_the_graph_and_gradients_are_finite(name, present):
    model = MODELS[name].train()
    outputs = model(features(present, fill=torch.nan))
    loss = sum(v.square().sum() for v in outputs.logits.values())
    if "auxiliary_heads" in KINDS[name][1]:
        loss = loss + SelfLabels()(outputs, batch(3), model)
    check_gradients(model, loss)
    model.eval()
    if outputs.gate is not None:
        assert outputs.gate[~outputs.present].eq(0).all()


@every_kind
def test_it_learns_a_toy_task(name):
    """The class is the sign of one number of one modality, in each row another modality's; sound is often missing."""
    torch.manual_seed(0)
    kind, options = KINDS[name]
    model = kind({"audio": 4, "text": 3}, {"emotion": 2}, **options)
    y = torch.arange(64) % 2
    flags = torch.arange(64) % 3 > 0
    x = {s: torch.randn(64, 3, n) + 3.0 * (2 * y[:, None, None] - 1) for s, n in (("audio", 4), ("text", 3))}
    mask = {"audio": flags[:, None].expand(-1, 3), "text": torch.ones(64, 3, dtype=torch.bool)}
    given_features = {s: Features(x[s], mask[s]) for s in x}
    descend(model, lambda: F.cross_entropy(model(given_features).logits["emotion"], y), 40, lr=1e-2)
    right = (model.eval()(given_features).logits["emotion"].argmax(1) == y).float().mean()
    assert right == 0.5 if name == "majority" else right > 0.95


def test_majority_learns_the_class_shares():
    model = Majority({"text": 3}, {"emotion": 3})
    y = torch.tensor([0, 0, 0, 1])
    seen = {"text": Features(torch.randn(4, 2, 3), torch.ones(4, 2, dtype=torch.bool))}
    descend(model, lambda: F.cross_entropy(model(seen).logits["emotion"], y), 300, lr=0.1)
    shares = model(seen).logits["emotion"][0].softmax(0)
    torch.testing.assert_close(shares[:2], torch.tensor([0.75, 0.25]), atol=0.02, rtol=0)


def test_standardise_learns_exactly_the_mean_and_spread_of_real_steps():
    torch.manual_seed(0)
    norm, x = Standardise(3), torch.randn(6, 5, 3) * torch.tensor([1.0, 50.0, 0.01]) + 7
    mask = torch.rand(6, 5) > 0.3
    spoilt = torch.where(mask[..., None], x, torch.nan)
    norm(spoilt[:2], mask[:2])
    norm(spoilt[2:], mask[2:])
    real = x[mask]
    torch.testing.assert_close(norm.mean, real.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((norm.away / norm.count).sqrt(), real.std(0, unbiased=False), rtol=1e-3, atol=1e-6)
    kept = {k: v.clone() for k, v in norm.state_dict().items()}
    out = norm.eval()(spoilt * 100, mask)
    assert out.abs().max() <= 10
    assert out[~mask].eq(0).all()
    assert all(v.equal(kept[k]) for k, v in norm.state_dict().items())


def test_own_scores_follow_the_formula_of_self_mm():
    model = MultiTask({"text": 3}, {"valence": 1}, width=1, dropout=0.0, auxiliary_heads=("unimodal",)).eval()
    model.centres.copy_(torch.tensor([[[1.0], [-1.0]], [[2.0], [-2.0]]]))  # text, then all together
    model.known.fill_(True)
    outputs = model({"text": Features(torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool))})
    fused = Fused(context=torch.tensor([[[1.0]]]), pooled=torch.tensor([[1.0]]))
    outputs = replace(outputs, summaries=torch.tensor([[[0.5]]]), fused=fused)
    # text: D+ = 0.25, D- = 2.25, a_s = 8; together: D+ = 1, D- = 9, a_m = 8; equal, so the modality keeps the score
    same_score = model.own_scores(outputs, torch.tensor([2.0]), torch.tensor([True]))
    torch.testing.assert_close(same_score, torch.tensor([[2.0]]), atol=1e-3, rtol=0)
    outputs = replace(
        outputs, summaries=torch.tensor([[[0.0]]])
    )  # D+ = D- = 1: a_s = 0, y_s = (2 + 0 - 8) / 2 = -3, clamped to -2
    clamped = model.own_scores(outputs, torch.tensor([2.0]), torch.tensor([True]))
    torch.testing.assert_close(clamped, torch.tensor([[-2.0]]), atol=1e-3, rtol=0)
    fresh = MultiTask({"text": 3}, {"valence": 1}, width=1, auxiliary_heads=("unimodal",))
    unknown = fresh.own_scores(outputs, torch.tensor([2.0]), torch.tensor([True]))
    assert unknown.tolist() == [[2.0]]  # only one side was seen: no border to compare with
    assert fresh.known.tolist() == [True, False]


def test_self_labels_give_classes_plain_multi_task_losses():
    model = made("self_mm")
    outputs, data = model(features({s: [True, False] for s in MODALITIES})), batch(2)
    data.labels = {"emotion": Label(torch.tensor([1, 2]), torch.tensor([True, True]))}
    outputs = replace(outputs, unimodal_logits={"emotion": outputs.unimodal_logits["emotion"]})
    expected = F.cross_entropy(outputs.unimodal_logits["emotion"][0], torch.ones(len(MODALITIES), dtype=torch.long))
    torch.testing.assert_close(SelfLabels()(outputs, data, model), expected)  # the second row has no modality


def test_a_dialogue_is_read_in_order_and_apart_from_others():
    model = MODELS["dialogue_gru"]
    seen = features({s: [True] * 5 for s in MODALITIES})
    group, order = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 2])

    def logits(rows, group, order):
        part = {s: Features(f.x[rows], f.mask[rows]) for s, f in seen.items()}
        return model(part, items=(torch.tensor(group), torch.tensor(order))).logits["emotion"]

    together = model(seen, items=(group, order)).logits["emotion"]
    torch.testing.assert_close(together[:2], logits([0, 1], [0, 0], [0, 1]))
    torch.testing.assert_close(together[[3, 2, 4]], logits([3, 2, 4], [0, 0, 0], [1, 0, 2]))
    assert not torch.allclose(together[2:], logits([2, 3, 4], [0, 0, 0], [2, 1, 0]))
    alone = model(seen).logits["emotion"]
    torch.testing.assert_close(alone[:1], logits([0], [0], [0]))
    past = DialogueGRU(dict(DIMS), OUTPUTS, width=16, bidirectional=False).eval()
    first = past(seen, items=(group, order)).logits["emotion"]
    changed = {s: Features(torch.where(torch.arange(5)[:, None, None] == 4, 0.0, f.x), f.mask) for s, f in seen.items()}
    torch.testing.assert_close(first[:4], past(changed, items=(group, order)).logits["emotion"][:4])


def test_dialogues_are_items_in_order_of_turns():
    rows = [("a", 1), (None, None), ("b", 0), ("a", 0), ("b", None)]
    samples = [Sample(str(i), "train", dialogue=d, turn=t) for i, (d, t) in enumerate(rows)]
    assert dialogues(samples) == [(3, 0), (1,), (2, 4)]


def test_the_loader_serves_whole_dialogues_and_the_module_passes_them_on(tmp_path):
    samples = [
        Sample(
            f"{split}{i}", split, text="word " * (i + 1), dialogue=f"{split}{i % 3}", turn=9 - i, labels={"emotion": e}
        )
        for split in ("train", "val")
        for i, e in enumerate(("happy", "sad", "neutral") * 3)
    ]
    made_of = dataset(samples, tmp_path, unit="dialogue", batch_size=2)
    assert made_of.items("val") == [(6, 3, 0), (7, 4, 1), (8, 5, 2)]
    batches = list(made_of.loader("val"))
    assert [len(b) for b in batches] == [6, 3]
    assert batches[0].group.tolist() == [0, 0, 0, 1, 1, 1]
    assert batches[0].order.tolist() == [0, 1, 2, 0, 1, 2]
    module = SimpleNamespace(model=lambda features, explain, items: items, encode=lambda batch: {})
    assert EmotionModule.forward(module, batches[0]) == (batches[0].group, batches[0].order)
    with pytest.raises(ConfigError, match=r"clip, dialogue(.|\n)*dataset.unit"):
        dataset(samples, tmp_path, unit="scene")


def test_messages():
    with pytest.raises(ConfigError, match=r"(?s)lacks a head.*require unimodal.*sync.*loss@losses.sync=none$"):
        LateFusion(dict(DIMS), OUTPUTS, auxiliary_heads=("sync",))
    with pytest.raises(ConfigError, match="even multiple of num_heads"):
        MulT(dict(DIMS), OUTPUTS, width=15)
    with pytest.raises(ConfigError, match="two directions share the width"):
        DialogueGRU(dict(DIMS), OUTPUTS, width=15)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_builds(option):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=[f"baseline={option}", "name=x"])
    heads = {head for loss in build.auxiliary_losses(cfg).values() for head in loss.requires}
    node = {k: v for k, v in instantiate.plain(cfg.model).items() if v != {}}
    kind, options = KINDS[option]
    assert type(instantiate.make(node, "model", dims=DIMS, outputs=OUTPUTS, auxiliary_heads=heads)) is kind
    assert cfg.dataset.get("unit", "clip") == ("dialogue" if option == "dialogue_gru" else "clip")
    assert set(options) - {"auxiliary_heads"} <= {*node, "layers"}
