"""Adaptive global query: which expert to unimodal on, and what to ask the token bank.

Data flow: summaries [B, E, d] + confidence [B, E] -> gate weights alpha [B, E] -> unimodal -> global query [B, d].

Shapes: B rows, E experts, d width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError
from hero_lightning.models.hero.evidence import Evidence
from hero_lightning.models.layers import EPS, Block, masked_mean

Strategy = Literal["dynamic", "audio", "concat"]


class AdaptiveQuery(nn.Module):
    """Global query generator (`spec/hero.md` 3.1).

    `dynamic` unimodal_heads on a gated mean of the summaries, `audio` on the audio summary (on the mean of what is there
    where audio is missing), `concat` maps all slots at once and weighs them evenly. An imputed expert enters with
    log confidence added to its score. A row without any expert asks a learnt null query and has gate 0.

    Args:
        width: d.
        experts: names of the E experts.
        num_heads: attention heads.
        dropout: in the attention and feed-forward layers.
        strategy: dynamic, audio or concat.
        temperature: of the dynamic gate; below 1 sharpens it.
        learnable_temperature: learn it, starting there (kept within 0.05 ... 20).
        top_k: only the k best scores pass the dynamic gate; None = all.
    """

    def __init__(
        self,
        width: int,
        experts: tuple[str, ...],
        num_heads: int,
        dropout: float,
        strategy: Strategy = "dynamic",
        temperature: float = 1.0,
        learnable_temperature: bool = False,
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        rules = [
            (strategy in ("dynamic", "audio", "concat"), "strategy", "dynamic, audio or concat", strategy),
            (
                strategy != "audio" or "audio" in experts,
                "strategy",
                "dynamic or concat without an audio modality",
                strategy,
            ),
            (0.05 <= temperature <= 20, "temperature", "0.05 ... 20", temperature),
            (top_k is None or top_k > 0, "top_k", ">= 1 or null", top_k),
        ]
        for fits, key, expected, got in rules:
            if not fits:
                where = f"model.fusion.{key}"
                raise ConfigError("The gate cannot be built.", expected=expected, got=got, where=where)
        self.strategy = strategy
        self.top_k = top_k
        self.audio = experts.index("audio") if strategy == "audio" else 0
        self.null = nn.Parameter(torch.randn(width) * 0.02)
        if strategy == "concat":
            self.merge = nn.Sequential(
                nn.Linear(len(experts) * width, 2 * width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(2 * width, width),
                nn.LayerNorm(width, eps=EPS),
            )
            return
        self.refine = Block(width, num_heads, dropout, ("cross",))
        if strategy == "dynamic":
            # no bias at the end: a softmax does not see it
            self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1, bias=False))
            self.temperature = temperature
            start = torch.tensor(math.log(temperature))
            self.log_temperature = nn.Parameter(start) if learnable_temperature else None

    def forward(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Evidence -> global query [B, d] and gate weights [B, E]: sum 1, 0 on what is not available."""
        summaries, mask = evidence.summaries, evidence.available
        some = mask.any(dim=1, keepdim=True)
        if self.strategy == "concat":
            gate = evidence.confidence / evidence.confidence.sum(dim=1, keepdim=True).clamp(min=EPS)
            query = self.merge(summaries.flatten(1))
        elif self.strategy == "audio":
            there = mask[:, self.audio, None]
            unimodal = torch.where(there, summaries[:, self.audio], masked_mean(summaries, mask))
            query, gate = self._refine(unimodal, evidence, weights=True)
        else:
            gate = self._gate(evidence)
            unimodal = (gate[..., None] * summaries).sum(dim=1)
            query, _ = self._refine(unimodal, evidence, weights=False)
        return torch.where(some, query, self.null.to(query.dtype)), torch.where(mask, gate, 0.0)

    def _gate(self, evidence: Evidence) -> Tensor:
        """Softmax of the scores over the available experts, [B, E] in float32."""
        score = self.score(evidence.summaries).squeeze(-1).float() + evidence.bias
        tau = self.temperature if self.log_temperature is None else self.log_temperature.exp().clamp(0.05, 20)
        score = score / tau
        score = score.masked_fill(~evidence.available, torch.finfo(score.dtype).min)
        if self.top_k is not None and self.top_k < score.shape[1]:
            least = score.topk(self.top_k, dim=1).values[:, -1:]
            score = score.masked_fill(score < least, torch.finfo(score.dtype).min)
        return score.softmax(dim=1)

    def _refine(self, unimodal: Tensor, evidence: Evidence, weights: bool) -> tuple[Tensor, Tensor]:
        """The unimodal looks at all summaries: [B, d] -> [B, d] and the attention row [B, E] if asked for."""
        query, row = self.refine(
            unimodal[:, None].to(evidence.summaries.dtype),
            evidence.summaries,
            evidence.available,
            evidence.bias,
            weights,
        )
        return query[:, 0], unimodal if row is None else row[:, 0]
