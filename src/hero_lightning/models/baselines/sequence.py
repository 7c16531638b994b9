"""Larger baselines: a head per modality (MultiTask), cross-modal attention (MulT), dialogue context (DialogueGRU).

Data flow: as in `pooled`; MulT keeps the steps [B, T, d], DialogueGRU arranges rows as dialogues [G, N, d].

Shapes: B rows, E modalities, T steps, d width, G items (dialogues) of the batch, N turns of the longest one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hero_lightning.errors import ConfigError
from hero_lightning.models.base import Shape
from hero_lightning.models.baselines.pooled import (
    Baseline,
    Items,
    Logits,
    Mixed,
    Named,
    Pooled,
    Steps,
    apart,
    own_heads,
)
from hero_lightning.models.layers import EPS, Block, Positions, masked_mean
from hero_lightning.models.outputs import Outputs


@dataclass(eq=False, repr=False)
class MultiTask(Pooled):
    """Self-MM's form (Yu et al. 2021): vectors side by side -> head, and a head per modality, which the loss
    `SelfLabels` trains.

    Attributes:
        momentum: weight of the old centres in their running means.
        centres: [E + 1, 2, d] running means of the modalities' vectors, then of the merged one, for scores above and
            below zero.
        known: [2] whether each side was seen.
    """

    momentum: float = 0.95
    centres: Tensor = field(init=False)
    known: Tensor = field(init=False)

    offers = frozenset({"unimodal"})

    def _build(self) -> None:
        super()._build()
        n, width = len(self.dims), self.width
        self.merge = nn.Sequential(nn.Linear(n * width, width), nn.ReLU(), self.drop)
        self.alone = own_heads(self.outputs if "unimodal" in self.auxiliary_heads else {}, self.modalities, width)
        self.register_buffer("centres", torch.zeros(n + 1, 2, width))
        self.register_buffer("known", torch.zeros(2, dtype=torch.bool))

    def named_axes(self) -> Named:
        own: Named = {"merge.0.weight": {1: self.modalities}, "centres": {0: (*self.modalities, "all")}}
        return super().named_axes() | own

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        return self.merge(x.flatten(1)), None

    def _predict(self, pooled: Tensor, summaries: Tensor, weights: Tensor | None) -> tuple[Logits, Logits]:
        logits, _ = super()._predict(pooled, summaries, weights)
        return logits, apart(self.alone, summaries)

    @torch.no_grad()
    def own_scores(self, outputs: Outputs, score: Tensor, labelled: Tensor) -> Tensor:
        """Labels [B, E] of each modality alone, from the position of its vector between the two centres.

        With D+ and D- the squared distances to the centres over sqrt(d), a = (D- - D+) / (D+ + eps), y the score:
        y_s = y a_s / (2 a_m) + (y + a_s - a_m) / 2 (Yu et al. 2021, eq. 12-16), clamped to the batch's range. Running
        centres replace the paper's epoch means and its momentum on labels; in training this batch moves them.
        """
        x = torch.cat([outputs.summaries, outputs.context[:, :1]], dim=1).float()  # [B, E + 1, d]
        there = torch.cat([outputs.present, outputs.present.any(dim=1, keepdim=True)], dim=1)
        if self.training:
            for side, rows in enumerate((score > 0, score < 0)):
                chosen = (rows & labelled)[:, None] & there  # [B, E + 1]
                if bool(chosen[:, -1].any()):
                    keep = self.momentum if bool(self.known[side]) else 0.0
                    mean = masked_mean(x.transpose(0, 1), chosen.T)
                    moved = keep * self.centres[:, side] + (1 - keep) * mean
                    self.centres[:, side] = torch.where(chosen.any(dim=0)[:, None], moved, self.centres[:, side])
                    self.known[side] = True
        y = score[:, None].float()
        if not bool(self.known.all()):
            return y.expand(-1, len(self.dims))
        away = (x[:, :, None] - self.centres).square().sum(dim=3) / self.width**0.5  # [B, E + 1, 2]
        a = (away[..., 1] - away[..., 0]) / (away[..., 0] + EPS)
        a, of_all = a[:, :-1], a[:, -1:]
        of_all = torch.where(of_all.abs() < EPS, EPS, of_all)
        bound = torch.where(labelled, score.float(), 0.0).abs().max()
        return (0.5 * y * a / of_all + 0.5 * (y + a - of_all)).clamp(-bound, bound)


@dataclass(eq=False, repr=False)
class MulT(Baseline):
    """Multimodal transformer (Tsai et al. 2019): every modality reads every other one, step by step.

    Attributes:
        width: d.
        layers: of each cross-modal transformer.
        num_heads: attention heads.
        dropout: of every block.
    """

    width: int = 128
    layers: int = 2
    num_heads: int = 4
    dropout: float = 0.1

    def _pooled(self) -> int:
        return len(self.dims) * self.width

    def _build(self) -> None:
        width, shape = self.width, Shape(width=self.width, num_heads=self.num_heads, dropout=self.dropout)
        self.project = nn.ModuleDict({s: nn.Linear(d, width) for s, d in self.dims.items()})
        self.missing = nn.Parameter(torch.randn(len(self.dims), width) * 0.02)
        self.positions, self.cross = Positions("sinusoidal", width), nn.ModuleDict()
        for a, b in permutations(self.modalities, 2):
            blocks = (Block(shape, ("cross",)) for _ in range(self.layers))
            self.cross[f"{a}_from_{b}"] = nn.ModuleList(blocks)
        wide = max(1, len(self.dims) - 1) * width
        self.merge = nn.ModuleDict({s: nn.Linear(wide, width) for s in self.modalities})
        self.within = nn.ModuleDict({s: Block(shape, ("self",)) for s in self.modalities})
        self.drop = nn.Dropout(self.dropout)

    def named_axes(self) -> Named:
        read = {s: [other for other in self.modalities if other != s] or [s] for s in self.modalities}
        named: Named = {f"merge.{s}.weight": {1: others} for s, others in read.items()}
        named |= {f"heads.{t}.weight": {1: self.modalities} for t in self.outputs}
        return named | {"missing": {0: self.modalities}}

    def _fuse(self, steps: Steps, present: Tensor, items: Items) -> tuple[Tensor, Tensor, None]:
        seen: Steps = {}
        for i, (s, (x, mask)) in enumerate(steps.items()):
            blank = ~present[:, i, None] & (torch.arange(x.shape[1], device=x.device) == 0)  # a token to attend to
            y = self.project[s](x)
            seen[s] = self.positions(torch.where(blank[..., None], self.missing[i].to(y.dtype), y)), mask | blank
        found = []
        for a, (x, mask) in seen.items():
            read = []
            for b in (s for s in seen if s != a):
                y, blocks = x, self.cross[f"{a}_from_{b}"]
                assert isinstance(blocks, nn.ModuleList)
                for block in blocks:
                    y, _ = block(y, *seen[b])
                read.append(y)
            y, _ = self.within[a](self.merge[a](torch.cat(read or [x], dim=-1)), None, mask)
            found.append(masked_mean(y, mask))
        summaries = torch.stack(found, dim=1)
        return self.drop(summaries.flatten(1)), summaries, None


@dataclass(eq=False, repr=False)
class DialogueGRU(Pooled):
    """bc-LSTM's form with GRUs (Poria et al. 2017): a recurrent net over the turns of a dialogue; d is even.

    Items must be dialogues (`dataset.unit=dialogue`); without items every row is a dialogue of one turn.

    Attributes:
        bidirectional: also read later turns, as most published systems do; false = only earlier ones.
        residual: heads read the turn's own vector and its context.
    """

    bidirectional: bool = True
    residual: bool = True

    def _pooled(self) -> int:
        return (1 + self.residual) * self.width

    def _build(self) -> None:
        super()._build()
        width, problem = self.width, "The two directions share the width."
        if width % 2:
            raise ConfigError(problem, expected="even", got=width, where="model.width")
        self.merge = nn.Sequential(nn.Linear(len(self.dims) * width, width), nn.ReLU(), self.drop)
        size = width // 2 if self.bidirectional else width
        self.gru = nn.GRU(width, size, batch_first=True, bidirectional=self.bidirectional)

    def named_axes(self) -> Named:
        return super().named_axes() | {"merge.0.weight": {1: self.modalities}}

    def _fuse(self, steps: Steps, present: Tensor, items: Items) -> tuple[Tensor, Tensor, None]:
        x = self._vectors(steps, present)
        turn = self.merge(x.flatten(1))  # [B, d]
        rows = torch.arange(len(x), device=x.device)
        group, order = (rows, torch.zeros_like(rows)) if items is None else items
        length = torch.bincount(group)
        dialogue = turn.new_zeros(len(length), int(length.max()), self.width)  # [G, N, d]
        dialogue = dialogue.index_put((group, order), turn)
        packed = pack_padded_sequence(dialogue, length.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        context = self.drop(states[group, order])
        return torch.cat([turn, context], dim=1) if self.residual else context, x, None
