"""Small models, batches of features, and the invariants of every model."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import torch
from hypothesis import strategies as st

from hero_lightning.models.base import Shape
from hero_lightning.models.hero.fusion import EvidenceIntegration
from hero_lightning.models.hero.hero import Hero
from hero_lightning.training.losses import GateEntropy, Sync, UnimodalLoss
from hero_lightning.types import Batch, Features, Label, Sample

DIMS = {"frame": 6, "motion": 5, "audio": 7, "au": 4, "text": 6}


SHAPE = Shape(width=32, queries=3, layers=2, num_heads=4, context_tokens=6, dropout=0.0)
SIZES = {"width": 32, "queries": 2, "layers": 1, "num_heads": 2, "context_tokens": 2}
MODALITIES = tuple(DIMS)
PRESENCE = st.fixed_dictionaries(dict.fromkeys(MODALITIES, st.lists(st.booleans(), min_size=3, max_size=3)))
"""Modality -> whether each of three rows has it."""


def integration(**settings):
    return partial(EvidenceIntegration, **settings)


def built(dims, outputs, **settings):
    """A Hero from flat settings."""
    for name, kind in Hero.groups.items():
        settings[name] = kind(**{f.name: settings.pop(f.name) for f in fields(kind) if f.name in settings})
    return Hero(dims, outputs, **settings)


def hero(modalities=tuple(DIMS), seed=0, **settings):
    """A model of width 32 in eval mode whose biases are not zero, so that they cannot hide a leak."""
    torch.manual_seed(seed)
    sizes = {"width": 32, "queries": 3, "layers": 2, "num_heads": 4, "context_tokens": 5}
    settings = {**sizes, "auxiliary_heads": ("sync", "unimodal"), **settings}
    model = built({s: DIMS[s] for s in modalities}, {"emotion": 4, "valence": 1}, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def features(present, lengths=None, pad=0, fill=0.0, seed=0, seconds=True, scale=1.0):
    """Random features.

    present: modality -> B flags; lengths: modality -> B lengths (default 3, 4, 5, ...); pad: further masked steps;
    fill: the value of every masked step; seconds: whether steps know their time. Content depends on seed, modality
    and row alone.
    """
    out = {}
    for s, flags in present.items():
        sizes = lengths[s] if lengths else [3 + b % 4 for b in range(len(flags))]
        steps = max([n for n, here in zip(sizes, flags, strict=True) if here] or [1]) + pad
        x = torch.full((len(flags), steps, DIMS[s]), fill)
        mask = torch.zeros(len(flags), steps, dtype=torch.bool)
        time = torch.full((len(flags), steps), fill)
        for b, here in enumerate(flags):
            if here:
                g = torch.Generator().manual_seed(1000 * seed + 10 * b + list(DIMS).index(s))
                x[b, : sizes[b]] = scale * torch.randn(9, DIMS[s], generator=g)[: sizes[b]]
                mask[b, : sizes[b]] = True
                time[b, : sizes[b]] = torch.arange(sizes[b]) * 0.5
        out[s] = Features(x, mask, time if seconds else None)
    return out


def batch(rows, seed=0, conflict=(), ids=None, group=None, labelled=True):
    """Labels and samples of a batch; auxiliary losses do not read its modalities."""
    g = torch.Generator().manual_seed(seed)
    there = torch.full((rows,), labelled)
    return Batch(
        index=torch.arange(rows),
        group=torch.arange(rows) if group is None else torch.tensor(group),
        order=torch.zeros(rows, dtype=torch.long),
        modalities={},
        labels={
            "emotion": Label(torch.randint(0, 4, (rows,), generator=g), there),
            "valence": Label(torch.randn(rows, generator=g), there),
        },
        samples=[
            Sample(id=ids[i] if ids else str(i), split="train", truth={"conflict": i in conflict}) for i in range(rows)
        ],
        measures=[{} for _ in range(rows)],
    )


def total_loss(model, outputs):
    """All auxiliary losses of HERO and the squared logits."""
    data = batch(len(outputs.present))
    terms = [term(outputs, data, model) for term in (Sync(1.0), UnimodalLoss(1.0), GateEntropy(1.0, 1.0))]
    return sum([*terms, *(v.float().square().sum() for v in outputs.logits.values())])


def check_gradients(model, loss):
    """Every parameter is in the graph of a loss, with finite gradients; returns the names of those that are zero."""
    model.zero_grad()
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} got no gradient"
        assert parameter.grad.isfinite().all(), key
    return {key for key, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0}


def descend(model, loss, steps, lr=3e-3):
    """Trains a model; `loss` draws a batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def everything(outputs):
    """Every tensor of the Outputs that does not grow with padding, by name."""
    names = ("summaries", "present", "imputed", "confidence", "gate", "importance", "density", "context", "sync_logit")
    found = {n: getattr(outputs, n) for n in names} | {"global_query": outputs.fused.global_query}
    found |= {f"logits {k}": v for k, v in outputs.logits.items()}
    found |= {f"unimodal {k}": v for k, v in outputs.unimodal_logits.items()}
    return {k: v for k, v in found.items() if v is not None}


def same(a, b, rows=slice(None)):
    """Asserts that `b` equals some rows of `a`."""
    a, b = everything(a), everything(b)
    assert a.keys() == b.keys()
    for key in a:
        if key == "context" and a[key].shape[1:] != b[key].shape[1:]:
            continue  # the bank itself, as long as its padding
        torch.testing.assert_close(b[key], a[key][rows], atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@torch.no_grad()
def check_invariants(model, present, pad):
    """Neither padding, nor the other rows of a batch, nor the content of an absent modality changes an output."""
    given = features(present)
    together = model(given)
    assert all(v.isfinite().all() for v in everything(together).values())
    same(together, model(features(present, pad=pad, fill=torch.nan)))
    for b in range(3):
        rows = slice(b, b + 1)
        same(together, model({s: Features(f.x[rows], f.mask[rows], f.time[rows]) for s, f in given.items()}), rows)
    spoilt = {}
    for s, f in given.items():
        if f.mask.any() or s == "frame":  # a modality no row has need not be given at all
            noise = torch.where(f.mask.any(1)[:, None, None], f.x, torch.nan)
            spoilt[s] = Features(noise, f.mask, torch.where(f.mask, f.time, torch.inf))
    same(together, model(spoilt))
