"""Small models and batches of features for the model's tests."""

from __future__ import annotations

from functools import partial

import torch

from hero_lightning.models.hero.fusion import EvidenceIntegration
from hero_lightning.models.hero.hero import Hero
from hero_lightning.types import Batch, Features, Label, Sample

DIMS = {"frame": 6, "motion": 5, "audio": 7, "au": 4, "text": 6}


def integration(**settings):
    return partial(EvidenceIntegration, **settings)


def hero(modalities=tuple(DIMS), seed=0, **settings):
    """A model of width 32 in eval mode whose biases are not zero, so that they cannot hide a leak."""
    torch.manual_seed(seed)
    sizes = {
        "width": 32,
        "queries": 3,
        "layers": 2,
        "num_heads": 4,
        "context_tokens": 5,
        "auxiliary_heads": ("sync", "unimodal"),
    }
    model = Hero({s: DIMS[s] for s in modalities}, {"emotion": 4, "valence": 1}, **(sizes | settings))
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
    """Labels and samples of a batch; its modalities are not looked at by auxiliary_losses."""
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


def everything(outputs):
    """Every tensor of the Outputs that does not grow with padding, by name."""
    names = ("summaries", "present", "imputed", "confidence", "gate", "importance", "density", "context")
    found = {n: getattr(outputs, n) for n in (*names, "global_query", "sync_logit")}
    found |= {f"logits {k}": v for k, v in outputs.logits.items()}
    found |= {f"unimodal {k}": v for k, v in outputs.unimodal_logits.items()}
    return {k: v for k, v in found.items() if v is not None}
