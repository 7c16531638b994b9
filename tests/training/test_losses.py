"""Auxiliary losses: the pairs of sync, the effect of the unimodal loss on the gate, the lower bound of entropy."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hero_lightning.errors import ConfigError
from hero_lightning.models.outputs import Fused, Outputs
from hero_lightning.training.losses import AuxiliaryLoss, GateEntropy, Sync, UnimodalLoss, partners
from hero_lightning.types import Batch, Features, Label
from tests.models.made import MODALITIES, SIZES, batch, built, descend, features, hero


@given(rows=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_partners_are_other_clips_of_other_items(rows):
    ids, group, sounding = (list(column) for column in zip(*rows, strict=True))
    donors, found = partners(ids, torch.tensor(group), torch.tensor(sounding))
    for i in range(len(rows)):
        fits = [j for j in range(len(rows)) if ids[i] != ids[j] and group[i] != group[j] and sounding[j]]
        assert bool(found[i]) == bool(fits)
        assert donors[i] == (min(fits, key=lambda j: (j - i) % len(rows)) if fits else i)


class Recorder:
    """Stands for the model and records the pairs."""

    def __init__(self, model):
        self.pair, self.moments, self.model = model.pair, model.moments, model

    def match(self, outputs, donors, shift):
        self.donors, self.shift = donors, shift
        return self.model.match(outputs, donors, shift)


def sync(present, term=None, **labels):
    model = hero()
    outputs = model(features(present, lengths={s: [6] * len(present["audio"]) for s in MODALITIES}))
    outputs.sync_logit = torch.zeros(len(present["audio"]), requires_grad=True)
    recorder = Recorder(model)
    loss = (term or Sync(1.0))(outputs, batch(len(present["audio"]), **labels), recorder)
    (slope,) = torch.autograd.grad(loss, outputs.sync_logit, retain_graph=True)
    return loss, recorder, slope


def test_sync_is_balanced_and_never_pairs_a_clip_with_itself():
    present = {s: [True, True, s != "audio", True, s != "motion"] for s in MODALITIES}
    loss, seen, slope = sync(present, ids=["a", "a", "b", "c", "d"], group=[0, 1, 2, 3, 4])
    assert seen.shift.eq(0).all()
    # row 0 passes over row 1 (same clip) and row 2 (no sound)
    assert seen.donors[[0, 1, 3]].tolist() == [3, 3, 4]
    # a match pulls its logit up by sigmoid(0) over the number of pairs: three matches, three mismatches
    assert slope.tolist() == pytest.approx([-0.5 / 6, -0.5 / 6, 0, -0.5 / 6, 0])
    assert loss.item() > 0


def test_conflict_clips_are_no_match():
    _, _, slope = sync({s: [True] * 3 for s in MODALITIES}, conflict=(1,))
    assert slope[0] < slope[1] == 0


@pytest.mark.parametrize("rows", [1, 6])
def test_one_clip_or_all_on_request_are_rotated_against_themselves(rows):
    torch.manual_seed(0)
    _, seen, slope = sync({s: [True] * rows for s in MODALITIES}, Sync(1.0, shifted=float(rows > 1)))
    assert seen.donors.tolist() == list(range(rows))
    assert ((seen.shift > seen.moments / 4) & (seen.shift < 3 * seen.moments / 4)).all()
    torch.testing.assert_close(slope, torch.full((rows,), -0.25 / rows))


@pytest.mark.parametrize("case", ["no sound", "too short", "conflict", "views of one clip", "no synergy"])
def test_without_pairs_the_loss_is_a_connected_zero(case):
    rows = 2 if case == "views of one clip" else 1
    model = hero(("frame", "text") if case == "no synergy" else MODALITIES)
    present = {s: [case != "no sound" or s != "audio"] * rows for s in MODALITIES}
    length = 6 if case in ("no sound", "conflict") else 3
    outputs = model(features(present, lengths={s: [length] * rows for s in MODALITIES}))
    data = batch(rows, conflict=range(rows) if case == "conflict" else (), ids=["a"] * rows)
    loss = Sync(1.0)(outputs, data, model)
    assert loss.item() == 0
    loss.backward()
    assert case == "no synergy" or model.sync[0].weight.grad.eq(0).all()


def test_sync_learns_who_belongs_together():
    """Sound and movement share a hidden course; the head must tell own pairs from swapped ones on new clips."""
    torch.manual_seed(0)
    options = {"auxiliary_heads": ("sync",), "imputation": False, "dropout": 0.0}
    model = built({"motion": 4, "audio": 6}, {"emotion": 2}, **SIZES, **options)
    to_sound, to_movement = torch.randn(3, 6), torch.randn(3, 4)

    def clips(rows):
        course = torch.randn(rows, 1, 3).expand(-1, 8, -1) + 0.3 * torch.randn(rows, 8, 3)
        mask = torch.ones(rows, 8, dtype=torch.bool)
        return {"audio": Features(course @ to_sound, mask), "motion": Features(course @ to_movement, mask)}

    descend(model, lambda: Sync(1.0)(model(clips(16)), batch(16), model), 100)
    with torch.no_grad():
        outputs = model(clips(64))
        swapped = model.match(outputs, torch.arange(64).roll(1), torch.zeros(64, dtype=torch.long))
    assert (outputs.sync_logit[:, None] > swapped[None]).float().mean() > 0.8  # AUC of own pairs over swapped ones


def unimodal_case(gate, logits, label, present=None, labelled=True):
    """Outputs of one clip with these gate weights [E], logits [E, C] and label, and its batch."""
    gate, logits = torch.tensor([gate]).requires_grad_(), torch.tensor([logits]).requires_grad_()
    experts = ("frame", "audio", "synergy")[: gate.shape[1]]
    here = torch.ones_like(gate, dtype=torch.bool) if present is None else torch.tensor([present])
    fused = Fused(torch.zeros(1, 1, 2), torch.zeros(1, 2), gate)
    outputs = Outputs({}, experts, torch.zeros(*gate.shape, 2), here, fused, unimodal_logits={"emotion": logits})
    return outputs, replace(batch(1), labels={"emotion": Label(torch.tensor([label]), torch.tensor([labelled]))})


def test_unimodal_loss_is_the_likelihood_of_the_mixture():
    outputs, data = unimodal_case([0.3, 0.3, 0.4], [[2.0, 0.0], [0.0, 0.0], [9.0, -9.0]], 0)
    own = outputs.unimodal_logits["emotion"].detach()[0, :2].softmax(-1)[:, 0]
    loss = UnimodalLoss(1.0, alone=0.0)(outputs, data, None)
    # synergy does not take part: its gate weight costs likelihood
    assert loss.item() == pytest.approx(-math.log(0.3 * own[0] + 0.3 * own[1]))
    with_own = UnimodalLoss(1.0, alone=0.5)(outputs, data, None)
    assert with_own.item() == pytest.approx(loss.item() - 0.25 * own.log().sum().item())
    slope = torch.autograd.grad(loss, outputs.gate)[0][0]
    assert slope[0] < slope[1] < slope[2] == 0  # the expert with the cue gains most, synergy nothing


@pytest.mark.parametrize(("logits", "label"), [([[1.0], [-1.0]], 1.0), ([[3.0, -3.0], [0.0, 0.0]], [1.0, 0.0])])
def test_unimodal_loss_on_scores_and_sets_prefers_the_better_expert(logits, label):
    outputs, data = unimodal_case([0.5, 0.5], logits, label)
    UnimodalLoss(1.0)(outputs, data, None).backward()
    assert outputs.gate.grad[0, 0] < outputs.gate.grad[0, 1] < 0


def test_unimodal_loss_is_a_connected_zero_without_labels_or_modalities():
    for labelled, present in ((False, [True, True]), (True, [False, False])):
        outputs, data = unimodal_case([0.5, 0.5], [[2.0, 0.0], [0.0, 1.0]], 0, present, labelled)
        loss = UnimodalLoss(1.0)(outputs, data, None)
        assert loss.item() == 0
        loss.backward()
        assert outputs.gate.grad.eq(0).all()
        assert outputs.unimodal_logits["emotion"].grad.eq(0).all()
    bare = hero(auxiliary_heads=())
    outputs = bare(features({s: [True] for s in MODALITIES}))
    assert UnimodalLoss(1.0)(outputs, batch(1), bare).item() == 0


def test_entropy_floor():
    def floor(gate, present, ratio=0.5):
        outputs, data = unimodal_case(gate, [[0.0]] * len(gate), 0.0, present)
        loss = GateEntropy(1.0, ratio)(outputs, data, None)
        loss.backward()
        assert outputs.gate.grad.isfinite().all()
        return loss.item()

    assert floor([1.0, 0.0, 0.0], [True] * 3) == pytest.approx(0.5)
    assert floor([1.0, 0.0, 0.0], [True, False, False]) == 0
    assert floor([0.0, 0.0, 0.0], [False] * 3) == 0
    assert floor([0.5, 0.5, 0.0], [True, True, False], ratio=1.0) == pytest.approx(0, abs=1e-6)
    short = floor([0.9, 0.1, 0.0], [True, True, False], ratio=1.0)
    assert short == pytest.approx(1 + (0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2))


def test_weight_zero_skips_the_computation():
    class Loud(AuxiliaryLoss):
        def loss(self, outputs, batch, model):
            raise AssertionError

    model = hero(auxiliary_heads=())
    outputs = model(features({s: [True] for s in MODALITIES}))
    assert Loud(0.0)(outputs, batch(1), model).item() == 0
    assert Sync(0.0)(outputs, batch(1), model).item() == 0
    with pytest.raises(TypeError, match="does not define loss"):
        AuxiliaryLoss(1.0)(outputs, batch(1), model)


@pytest.mark.parametrize(
    "make",
    [lambda: Sync(-1.0), lambda: Sync(shifted=2.0), lambda: UnimodalLoss(alone=-1.0), lambda: GateEntropy(ratio=1.5)],
)
def test_refuses(make):
    with pytest.raises(ConfigError, match=r"(?s)out of range.*where:\s+losses\."):
        make()


def test_the_gate_learns_to_follow_the_informative_modality():
    """One of three modalities of noise carries the class of each clip; on new clips the gate must put it first."""
    torch.manual_seed(0)
    modalities, rows, classes = ("frame", "audio", "text"), 32, 4
    options = {"auxiliary_heads": ("unimodal",), "imputation": False}
    model = built(dict.fromkeys(modalities, 16), {"emotion": classes}, **SIZES, **options)
    cue = torch.randn(3, classes, 16)

    def clips(rows):
        label, where = torch.randint(0, classes, (rows,)), torch.randint(0, 3, (rows,))
        x = torch.randn(3, rows, 5, 16)
        for s in range(3):
            x[s] += torch.where((where == s)[:, None], cue[s, label], 0.0)[:, None]
        mask = torch.ones(rows, 5, dtype=torch.bool)
        return {name: Features(x[s], mask) for s, name in enumerate(modalities)}, label, where

    def loss():
        given_features, label, _ = clips(rows)
        outputs = model(given_features)
        data = Batch(label, label, label, {}, {"emotion": Label(label, torch.ones(rows, dtype=torch.bool))}, [], [])
        return F.cross_entropy(outputs.logits["emotion"], label) + 0.5 * UnimodalLoss(0.5)(outputs, data, model)

    descend(model, loss, 120)
    with torch.no_grad():
        given_features, label, where = clips(300)
        outputs = model.eval()(given_features)
    assert (outputs.gate.argmax(1) == where).float().mean() > 0.8
    assert (outputs.logits["emotion"].argmax(1) == label).float().mean() > 0.8
