"""Open-vocabulary metrics of MER-UniBench: F_s, hit rate and sentiment, by the official and by a corrected rule.

Data flow: predicted and reference label sets + Wheels --statistics--> [N, 2 + 12 W] --sum--> metrics.

Shapes: N clips, W wheels; `...` in the shape of sums are optional axes (resamples).

Definitions (OV-MER and AffectGPT, Lian et al. 2025; github.com/zeroQiaoba/MERTools). For every rule, wheel and level, Y
and P are the clusters of the reference and of the predicted labels. Clips with empty Y are skipped. Precision is
|Y & P| / |P| (0 if P is empty), recall |Y & P| / |Y|; P_w and R_w are their means over clips, and
F_w = 2 P_w R_w / (P_w + R_w), 0 if both are 0.
  f_s, precision, recall  means of F_w, P_w, R_w over the wheels at level 1; f_s_level2: at level 2
  hit_rate                mean of R_w at level 1, for references of one label
  *_corrected             the same by the corrected rule of `wheels`: words keep their own sector and no label is
                          dropped, so every clip counts (also neutral ones) and superfluous labels lower precision
  labels                  mean number of distinct predicted labels; the official metrics favour long answers
Sentiment, without references of 0: waf and accuracy are weighted F1 and accuracy of positive against not positive (a
neutral answer counts as negative); in waf_corrected and accuracy_corrected a neutral answer is always wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.metrics import classification
from hero_lightning.metrics.wheels import Wheels, clean

CONSTANTS: Mapping[str, Sequence[Sequence[str]]] = {
    "open": (("angry", "sad", "worried", "happy"), ("angry", "sad", "worried")),
    "hit": (("happy", "angry", "sad", "worried", "surprise", "disgust"), ("happy", "angry", "sad")),
}
"""Constant answers, as baselines; their scores under the official metrics are in docs/metrics.md."""
SUFFIXES = ("", "_corrected")
STRIDE = 1 << 32
"""Clip and word are packed as clip * STRIDE + word; greater than any word number."""


def statistics(predicted: Sequence[Collection[str]], reference: Sequence[Collection[str]], wheels: Wheels) -> Tensor:
    """Additive statistics of N predicted label sets (empty = no answer) and N reference label sets.

    Returns:
        [N, 2 + 12 W] float64: 1, number of predicted labels; per rule, wheel and level: counted, precision, recall.
    """
    numbers = dict(wheels.forms)  # words in no table are numbered from V on
    p, y = (_LabelSets(sets, wheels, numbers) for sets in (predicted, reference))
    common, at_p, at_y = np.intersect1d(p.groups, y.groups, assume_unique=True, return_indices=True)
    both = np.bitwise_count(p.clusters & y.clusters).astype(float)  # [2, W, 2, N]
    both[1] += _per_clip(common, p.own[..., at_p] & y.own[..., at_y], len(predicted))
    p_size, y_size = p.sizes(), y.sizes()
    counted = (y_size > 0).astype(float)
    columns = np.stack([counted, counted * both / np.maximum(p_size, 1), both / np.maximum(y_size, 1)], axis=-2)
    rows = columns.reshape(-1, len(predicted)).T  # [N, 2 * W * 2 * 3]
    return torch.from_numpy(np.column_stack([np.ones(len(predicted)), p.words, rows]))


class _LabelSets:
    """N label sets as bit sets of clusters, and as (clip, lemma) groups for words that are clusters of their own.

    Attributes:
        words: [N] number of distinct labels.
        clusters: [2, W, 2, N] bit set of clusters, by rule, wheel, level.
        groups: [G] clip * STRIDE + lemma, ascending.
        own: [W, 2, G] whether that lemma is a cluster of its own under the corrected rule.
    """

    def __init__(self, sets: Sequence[Collection[str]], wheels: Wheels, numbers: dict[str, int]) -> None:
        known, number_of = wheels.clusters.shape[-1], {"": -1}
        for label in {label for labels in sets for label in labels}:
            number_of[label] = numbers.setdefault(plain, len(numbers)) if (plain := clean(label)) else -1
        lengths = np.fromiter(map(len, sets), dtype=np.int64, count=len(sets))
        word = np.fromiter((number_of[label] for labels in sets for label in labels), np.int64, lengths.sum())
        pairs = np.unique((np.repeat(np.arange(len(sets)), lengths) * STRIDE + word)[word >= 0])  # [P]
        clip, word = pairs // STRIDE, pairs % STRIDE
        self.words = np.bincount(clip, minlength=len(sets)).astype(float)
        lemma = np.concatenate([wheels.lemma, np.arange(known, max(known, len(numbers)))])
        keys = clip * STRIDE + lemma[word]
        order = keys.argsort(kind="stable")
        self.groups, starts = np.unique(keys[order], return_index=True)
        self.clusters = np.zeros((*wheels.clusters.shape[:3], len(sets)), dtype=np.int64)
        self.own = np.zeros((*wheels.clusters.shape[1:3], len(starts)), dtype=bool)
        if len(pairs):
            bits = np.where(wheels.clusters < 0, 0, np.left_shift(1, wheels.clusters.clip(0)))
            bits = np.concatenate([bits, np.zeros_like(bits[..., :1])], axis=-1)[..., word.clip(max=known)]
            clips, first = np.unique(clip, return_index=True)
            self.clusters[..., clips] = np.bitwise_or.reduceat(bits, first, axis=-1)  # of [2, W, 2, P]
            self.own = np.logical_or.reduceat(bits[1][..., order] == 0, starts, axis=-1)

    def sizes(self) -> NDArray[np.float64]:
        """Number of clusters of every clip [2, W, 2, N]."""
        out = np.bitwise_count(self.clusters).astype(float)
        out[1] += _per_clip(self.groups, self.own, out.shape[-1])
        return out


def _per_clip(groups: NDArray[np.int64], flags: NDArray[np.bool_], clips: int) -> NDArray[np.float64]:
    """Number of flags [W, 2, G] set in every clip [W, 2, N]."""
    clip, rows = groups // STRIDE, flags.reshape(math.prod(flags.shape[:-1]), len(groups))
    counts = [np.bincount(clip[row], minlength=clips) for row in rows]
    return np.stack(counts).astype(float).reshape(*flags.shape[:-1], clips)


def metrics(sums: Tensor, task: str = "open") -> dict[str, Tensor]:
    """Summed statistics [..., 2 + 12 W] -> metric name -> [...]; `task` is open or hit."""
    table = sums[..., 2:].unflatten(-1, (2, -1, 2, 3))  # [..., rule, W, level, 3]
    precision, recall = (table[..., 1:] / table[..., :1]).unbind(dim=-1)
    f = classification.ratio(2 * precision * recall, precision + recall)
    f = torch.where(table[..., 0] > 0, f, torch.nan)
    f, precision, recall = (x.mean(dim=-2) for x in (f, precision, recall))  # [..., rule, level]
    out: dict[str, Tensor] = {}
    for rule, suffix in enumerate(SUFFIXES):
        p, r, f1, f2 = precision[..., rule, 0], recall[..., rule, 0], f[..., rule, 0], f[..., rule, 1]
        if task == "open":
            out |= {f"f_s{suffix}": f1, f"precision{suffix}": p, f"recall{suffix}": r, f"f_s_level2{suffix}": f2}
        else:
            out |= {f"hit_rate{suffix}": r, f"precision{suffix}": p, f"f{suffix}": f1}
    return {**out, "labels": sums[..., 1] / sums[..., 0]}


def counted(sums: Tensor) -> list[int]:
    """Summed statistics [2 + 12 W] -> clips counted by the official rule, per wheel at level 1."""
    return sums[2:].unflatten(-1, (2, -1, 2, 3))[0, :, 0, 0].long().tolist()


def sentiment_statistics(predicted: Sequence[int], reference: Sequence[float]) -> Tensor:
    """Predicted signs (-1, 0, 1; 2 = no answer, an error) and reference scores, none of them 0 -> [N, S] float64."""
    sign = torch.tensor(predicted, dtype=torch.long)
    positive = (torch.tensor(reference, dtype=torch.float64) > 0).long()
    official = F.one_hot((sign == 1).long(), 2).double() * (sign != 2).unsqueeze(-1)
    corrected = official * (sign != 0).unsqueeze(-1)
    return torch.cat([classification.statistics(votes, positive) for votes in (official, corrected)], dim=-1)


def sentiment_metrics(sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics [..., S] -> metric name -> [...]."""
    out: dict[str, Tensor] = {}
    for suffix, part in zip(SUFFIXES, sums.chunk(2, dim=-1), strict=True):
        values = classification.metrics(part, 2)
        out |= {f"waf{suffix}": values["weighted_f1"], f"accuracy{suffix}": values["accuracy"]}
    return out
