"""The larger baselines: a task per modality (MultiTask), steps of the other modalities (MulT), turns (DialogueGRU).

Data flow: as in `baselines`; MulT keeps the steps [B, T, d], DialogueGRU lines up rows as dialogues [G, N, d].

Shapes: B rows, E modalities, T steps, d width, G items (dialogues) of the batch, N turns of the longest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hero_lightning.errors import ConfigError
from hero_lightning.models.baselines.pooled import Baseline, Fused, Mixed, Pooled, Steps, apart, own_heads
from hero_lightning.models.layers import EPS, Block, Positions, masked_mean
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import Features


@dataclass(eq=False, repr=False)
class MultiTask(Pooled):
    """Self-MM's form (Yu et al. 2021): vectors side by side -> head, and a head per modality that the auxiliary_loss
    `self_labels` teaches beside it.

    Attributes:
        momentum: share of the old centres that a batch leaves.
        centres: [E + 1, 2, d] running means of the modalities' vectors, then the merged one, above and below score zero.
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
        self.alone = own_heads(self.outputs, n, width) if "unimodal" in self.auxiliary_heads else nn.ModuleDict()
        self.register_buffer("centres", torch.zeros(n + 1, 2, width))
        self.register_buffer("known", torch.zeros(2, dtype=torch.bool))

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        return self.merge(x.flatten(1)), None

    def forward(self, features: Mapping[str, Features], explain: bool = False) -> Outputs:
        """See Baseline."""
        out = super().forward(features, explain)
        out.unimodal_logits = apart(self.alone, out.summaries)
        return out

    @torch.no_grad()
    def own_scores(self, outputs: Outputs, score: Tensor, seen: Tensor) -> Tensor:
        """Scores each modality should have alone, by where its vector lies between the two centres.

        With D+ and D- the squared distances to the centres over sqrt(d), a = (D- - D+) / (D+ + eps), y the score:
        y_s = y a_s / (2 a_m) + (y + a_s - a_m) / 2 (Yu et al. 2021, eq. 12-16), held within the batch's range. Running
        centres take the place of the paper's epoch means and its momentum on labels.

        Args:
            outputs: of this batch; in training its vectors move the centres.
            score: [B]; zero is the border between the sides.
            seen: [B] rows with a score.

        Returns:
            [B, E].
        """
        x = torch.cat([outputs.summaries, outputs.context[:, :1]], dim=1).float()  # [B, E + 1, d]
        there = torch.cat([outputs.present, outputs.present.any(dim=1, keepdim=True)], dim=1)
        if self.training:
            for side, rows in enumerate((score > 0, score < 0)):
                chosen = (rows & seen)[:, None] & there  # [B, E + 1]
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
        bound = torch.where(seen, score.float(), 0.0).abs().max()
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
        width, heads, dropout = self.width, self.num_heads, self.dropout
        if width % heads or width % 2:
            expected = f"an even multiple of num_heads={heads}"
            raise ConfigError("No MulT can be built.", expected=expected, got=width, where="model.width")
        self.project = nn.ModuleDict({s: nn.Linear(d, width) for s, d in self.dims.items()})
        self.missing = nn.Parameter(torch.randn(len(self.dims), width) * 0.02)
        self.positions, self.cross = Positions("sinusoidal", width), nn.ModuleDict()
        for a, b in permutations(self.modalities, 2):
            blocks = (Block(width, heads, dropout, ("cross",)) for _ in range(self.layers))
            self.cross[f"{a}_from_{b}"] = nn.ModuleList(blocks)
        wide = max(1, len(self.dims) - 1) * width
        self.merge = nn.ModuleDict({s: nn.Linear(wide, width) for s in self.modalities})
        self.within = nn.ModuleDict({s: Block(width, heads, dropout, ("self",)) for s in self.modalities})
        self.drop = nn.Dropout(dropout)

    def _fuse(self, steps: Steps, present: Tensor) -> Fused:
        seen: Steps = {}
        for i, (s, (x, mask)) in enumerate(steps.items()):
            blank = ~present[:, i, None] & (torch.arange(x.shape[1], device=x.device) == 0)  # a token to look at
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
        bidirectional: later turns are read too, as most published systems do; false = only what was said before.
        residual: heads read the turn's own vector beside its context.
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
        self._places: tuple[Tensor, Tensor] | None = None

    def forward(
        self, features: Mapping[str, Features], explain: bool = False, items: tuple[Tensor, Tensor] | None = None
    ) -> Outputs:
        """See Baseline; items: [B] which dialogue of the batch a row belongs to, and [B] its turn in it."""
        self._places = items
        try:
            return super().forward(features, explain)
        finally:
            self._places = None

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        turn = self.merge(x.flatten(1))  # [B, d]
        rows = torch.arange(len(x), device=x.device)
        group, order = (rows, torch.zeros_like(rows)) if self._places is None else self._places
        length = torch.bincount(group)
        talk = turn.new_zeros(len(length), int(length.max()), self.width)  # [G, N, d]
        talk = talk.index_put((group, order), turn)
        packed = pack_padded_sequence(talk, length.cpu(), batch_first=True, enforce_sorted=False)
        heard, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        context = self.drop(heard[group, order])
        return torch.cat([turn, context], dim=1) if self.residual else context, None
