"""Linear probes: softmax regression on the pooled features of one modality, a baseline of every run.

Data flow: loader -> Features -> mean and standard deviation over time [N, 2D+1] -> softmax regression, penalty
chosen on validation -> probabilities of the test split.

Shapes: N samples, T steps, D width, P = 2D + 1 pooled numbers, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.types import Features

if TYPE_CHECKING:
    from hero_lightning.data.datamodule import EmotionDataModule
    from hero_lightning.training.module import EmotionModule

log = logging.getLogger(__name__)

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""L2 penalties tried on the validation split (per weight, on standardised inputs, mean loss)."""


def pooled(features: Features) -> Tensor:
    """Features [B, T, D] -> mean and standard deviation over the real steps, and 1 where there are any [B, 2D+1]."""
    x = torch.where(features.mask[..., None], features.x.float(), 0.0)
    n = features.mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
    mean = x.sum(dim=1) / n
    spread = torch.where(features.mask[..., None], x - mean[:, None], 0.0).square().sum(dim=1).div(n).sqrt()
    return torch.cat([mean, spread, features.present[:, None].float()], dim=1)


def softmax_regression(x: Tensor, y: Tensor, classes: int, penalty: float) -> Tensor:
    """Weights [P+1, C] (last row the bias) of L2-penalised softmax regression on x [N, P], y [N], by L-BFGS."""
    weight = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    one = F.pad(x, (0, 1), value=1.0)
    solver = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(one @ weight, y) + 0.5 * penalty * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach()


def probe(x: Mapping[str, Tensor], y: Mapping[str, Tensor], classes: int) -> tuple[Tensor, float]:
    """Fits on train, chooses the penalty by validation accuracy, predicts test.

    Args:
        x: split -> [N, P] for train, val and test.
        y: split -> [N] class index for train and val.
        classes: C.

    Returns:
        Test probabilities [N, C], and the chosen penalty.
    """
    mean, spread = x["train"].mean(dim=0), x["train"].std(dim=0).clamp(min=1e-6)
    z = {k: (v - mean) / spread for k, v in x.items()}
    fits = []
    for penalty in PENALTIES:
        weight = softmax_regression(z["train"], y["train"], classes, penalty)
        hit = (F.pad(z["val"], (0, 1), value=1.0) @ weight).argmax(dim=1) == y["val"]
        fits.append((hit.float().mean().item(), penalty, weight))
    _, penalty, weight = max(fits, key=lambda fit: fit[0])
    return (F.pad(z["test"], (0, 1), value=1.0) @ weight).softmax(dim=1), penalty


@torch.no_grad()
def modality_probes(module: EmotionModule, datamodule: EmotionDataModule) -> dict[str, Tensor]:
    """A probe per modality with stored or frozen features, on the first Task.

    Returns:
        `linear probe <modality>` -> test probabilities [N, C] in the order of the split; empty unless the first
        Task is a class Task and the dataset has train, val and test.
    """
    task = module.main
    frozen = [n for n, e in module.encoders.items() if not any(p.requires_grad for p in e.parameters())]
    splits = ("train", "val", "test")
    if task.kind != "class" or not frozen or not all(datamodule.index.samples.get(s) for s in splits):
        log.info("no linear probes: they need a class task, frozen modalities and train, val and test")
        return {}
    x: dict[str, dict[str, list[Tensor]]] = {n: {s: [] for s in splits} for n in frozen}
    y: dict[str, list[Tensor]] = {s: [] for s in splits}
    for split in splits:
        for batch in datamodule.loader(split):
            moved = datamodule.transfer_batch_to_device(batch, module.device, 0)
            label = batch.labels[task.name]
            keep = label.mask if split != "test" else torch.ones_like(label.mask)
            y[split].append(label.value[keep])
            for name in frozen:
                x[name][split].append(pooled(module.encoders[name](moved.modalities[name])).cpu()[keep])
    known = {s: torch.cat(v) for s, v in y.items()}
    found = {}
    for name in frozen:
        probability, penalty = probe({s: torch.cat(v) for s, v in x[name].items()}, known, task.outputs)
        log.info("linear probe on %s: penalty %g", name, penalty)
        found[f"linear probe {name}"] = probability
    return found
