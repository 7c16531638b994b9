"""Metrics of answers in open vocabulary (MER-UniBench): F_s, hit rate and sentiment, official and corrected.

Data flow: said and true label sets + Wheels --statistics--> [N, S] --sum--> metrics.

Shapes: N clips, W wheels; leading axes `...` of sums are resamples or nothing.

Definitions (OV-MER and AffectGPT, Lian et al. 2025). Per rule, wheel and level, Y and P the clusters of the true and of
the said labels: a clip with empty Y is not counted; precision |Y & P| / |P| (0 if P is empty), recall |Y & P| / |Y|;
P_w, R_w their means over the counted clips, F_w = 2 P_w R_w / (P_w + R_w), 0 where both are 0.
  f_s, precision, recall   means of F_w, P_w, R_w over the wheels at level 1; f_s_level2 at level 2
  hit_rate                 with one true label R_w is the share of hits: its mean over the wheels at level 1
  *_corrected              the same by the corrected rule of `wheels`: no word leaves its own sector, no label is
                           dropped, neutral counts; so every clip is counted and every idle word costs precision
  labels                   mean number of different labels said: answering much is what the official metrics reward
Sentiment, true zeros left out: waf, accuracy = weighted F1 and accuracy of positive against not positive (a neutral
answer counts as negative); waf_corrected, accuracy_corrected: a neutral answer is wrong for either side.
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
"""Answers that never look at the clip; docs/metrics.md says what the official metrics give them."""
WORDS = 1 << 32
"""More than there are words."""


def statistics(said: Sequence[Collection[str]], true: Sequence[Collection[str]], wheels: Wheels) -> Tensor:
    """What every clip adds to the metrics.

    Args:
        said: N label sets of the answers; empty = no label.
        true: N label sets of the dataset.

    Returns:
        [N, 2 + 12 W] float64: 1, labels said; per rule, wheel and level: counted, precision, recall.
    """
    numbers = dict(wheels.forms)  # words in no table get numbers from V on
    p, y = (_Side(labels, wheels, numbers) for labels in (said, true))
    common, at_p, at_y = np.intersect1d(p.groups, y.groups, assume_unique=True, return_indices=True)
    both = np.bitwise_count(p.clusters & y.clusters).astype(float)  # [2, W, 2, N]
    both[1] += _per_clip(common, p.own[..., at_p] & y.own[..., at_y], len(said))
    y_size, p_size = y.size(), p.size()
    counted = (y_size > 0).astype(float)
    columns = np.stack([counted, counted * both / np.maximum(p_size, 1), both / np.maximum(y_size, 1)], axis=-2)
    rows = columns.reshape(-1, len(said)).T  # [N, 2 * W * 2 * 3]
    return torch.from_numpy(np.column_stack([np.ones(len(said)), p.words, rows]))


class _Side:
    """Label sets of one side, as bits of clusters and as (clip, lemma) groups of words without a sector.

    Attributes:
        words: [N] different labels.
        clusters: [2, W, 2, N] bit set of clusters, by rule, wheel, level.
        groups: [G] clip * WORDS + lemma, ascending.
        own: [W, 2, G] whether the corrected rule has that lemma as a cluster of its own.
    """

    def __init__(self, sets: Sequence[Collection[str]], wheels: Wheels, numbers: dict[str, int]) -> None:
        known, spelt = wheels.clusters.shape[-1], {"": -1}
        for label in {label for labels in sets for label in labels}:
            spelt[label] = numbers.setdefault(plain, len(numbers)) if (plain := clean(label)) else -1
        lengths = np.fromiter(map(len, sets), dtype=np.int64, count=len(sets))
        word = np.fromiter((spelt[label] for labels in sets for label in labels), np.int64, lengths.sum())
        pairs = np.unique((np.repeat(np.arange(len(sets)), lengths) * WORDS + word)[word >= 0])  # [P] clip and word
        clip, word = pairs // WORDS, pairs % WORDS
        self.words = np.bincount(clip, minlength=len(sets)).astype(float)
        lemma = np.concatenate([wheels.lemma, np.arange(known, max(known, len(numbers)))])
        keys = clip * WORDS + lemma[word]
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

    def size(self) -> NDArray[np.float64]:
        """Clusters of every clip [2, W, 2, N]."""
        out = np.bitwise_count(self.clusters).astype(float)
        out[1] += _per_clip(self.groups, self.own, out.shape[-1])
        return out


def _per_clip(groups: NDArray[np.int64], flags: NDArray[np.bool_], clips: int) -> NDArray[np.float64]:
    """How many flags [W, 2, G] are set in every clip [W, 2, N]."""
    clip, rows = groups // WORDS, flags.reshape(math.prod(flags.shape[:-1]), len(groups))
    counts = [np.bincount(clip[row], minlength=clips) for row in rows]
    return np.stack(counts).astype(float).reshape(*flags.shape[:-1], clips)


def metrics(sums: Tensor, task: str = "open") -> dict[str, Tensor]:
    """Summed statistics [..., 2 + 12 W] -> figure name -> [...]; task `open` or `hit`."""
    own = sums[..., 2:].unflatten(-1, (2, -1, 2, 3))  # [..., rule, W, level, 3]
    precision, recall = (own[..., 1:] / own[..., :1]).unbind(dim=-1)
    f = torch.where(precision + recall > 0, 2 * precision * recall / (precision + recall).clamp(min=1e-12), 0.0)
    f = torch.where(own[..., 0] > 0, f, torch.nan)
    f, precision, recall = (x.mean(dim=-2) for x in (f, precision, recall))  # [..., rule, level]
    out: dict[str, Tensor] = {}
    for rule, tail in ((0, ""), (1, "_corrected")):
        p, r, one, two = precision[..., rule, 0], recall[..., rule, 0], f[..., rule, 0], f[..., rule, 1]
        if task == "open":
            out |= {f"f_s{tail}": one, f"precision{tail}": p, f"recall{tail}": r, f"f_s_level2{tail}": two}
        else:
            out |= {f"hit_rate{tail}": r, f"precision{tail}": p, f"f{tail}": one}
    return {**out, "labels": sums[..., 1] / sums[..., 0]}


def counted(sums: Tensor) -> list[int]:
    """Summed statistics [2 + 12 W] -> clips that the official figure counts, per wheel at level 1."""
    return sums[2:].unflatten(-1, (2, -1, 2, 3))[0, :, 0, 0].long().tolist()


def sentiment_statistics(said: Sequence[int], true: Sequence[float]) -> Tensor:
    """Signs said (-1, 0, 1; 2 = no answer, wrong) and true scores, none of them 0 -> [N, S] float64."""
    sign = torch.tensor(said, dtype=torch.long)
    side = (torch.tensor(true, dtype=torch.float64) > 0).long()
    answered = (sign != 2).unsqueeze(-1)
    official = F.one_hot((sign == 1).long(), 2).double() * answered
    corrected = official * (sign != 0).unsqueeze(-1)
    return torch.cat([classification.statistics(x, side) for x in (official, corrected)], dim=-1)


def sentiment_metrics(sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics [..., S] -> figure name -> [...]."""
    out: dict[str, Tensor] = {}
    for tail, part in zip(("", "_corrected"), sums.chunk(2, dim=-1), strict=True):
        found = classification.metrics(part, 2)
        out |= {f"waf{tail}": found["weighted_f1"], f"accuracy{tail}": found["accuracy"]}
    return out
