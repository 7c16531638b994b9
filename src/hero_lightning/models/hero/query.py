"""Adaptive global query: weighs the experts and forms the query to the token bank.

Data flow: summaries [B, E, d] + confidence [B, E] -> gate weights alpha [B, E] -> gated mean -> global query [B, d].

Shapes: B rows, E experts, d width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError, in_range, one_of
from hero_lightning.models.base import Shape
from hero_lightning.models.hero.evidence import Evidence
from hero_lightning.models.layers import EPS, Block, masked_mean

Strategy = Literal["dynamic", "audio", "concat"]


class AdaptiveQuery(nn.Module):
    """Global query generator.

    `dynamic` starts from a gated mean of the summaries, `audio` from the audio summary (from the mean of the others
    where audio is missing), `concat` maps all slots at once and weighs them by confidence. An imputed expert enters
    with log confidence added to its score. A row without any expert gets a learnt null query and gate 0.

    Args:
        shape: width d, heads, dropout in the attention and feed-forward layers.
        experts: names of the E experts.
        strategy: dynamic, audio or concat.
        temperature: of the dynamic gate; below 1 sharpens it.
        learnable_temperature: learn it, starting there (kept within 0.05 ... 20).
        top_k: only the k best scores pass the dynamic gate; None = all.
    """

    def __init__(
        self,
        shape: Shape,
        experts: tuple[str, ...],
        strategy: Strategy = "dynamic",
        temperature: float = 1.0,
        learnable_temperature: bool = False,
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        one_of("model.fusion.strategy", strategy, ("dynamic", "audio", "concat"))
        in_range("model.fusion.temperature", temperature, "[0.05, 20]")
        in_range("model.fusion.top_k", 1 if top_k is None else top_k, "[1, inf)")
        if strategy == "audio" and "audio" not in experts:
            expected = "dynamic or concat without an audio modality"
            raise ConfigError(
                "The gate cannot be built.", expected=expected, got=strategy, where="model.fusion.strategy"
            )
        self.strategy, self.top_k, self.experts, width = strategy, top_k, experts, shape.width
        self.audio = experts.index("audio") if strategy == "audio" else 0
        self.null = nn.Parameter(torch.randn(width) * 0.02)
        if strategy == "concat":
            self.merge = nn.Sequential(
                nn.Linear(len(experts) * width, 2 * width),
                nn.GELU(),
                nn.Dropout(shape.dropout),
                nn.Linear(2 * width, width),
                nn.LayerNorm(width, eps=EPS),
            )
            return
        self.refine = Block(shape, ("cross",))
        if strategy == "dynamic":
            # no bias at the end: a softmax does not see it
            self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1, bias=False))
            self.temperature = temperature
            start = torch.tensor(math.log(temperature))
            self.log_temperature = nn.Parameter(start) if learnable_temperature else None

    def named_axes(self) -> Mapping[str, Mapping[int, Sequence[str]]]:
        """See `FusionModel.named_axes`."""
        return {"merge.0.weight": {1: self.experts}} if self.strategy == "concat" else {}

    def forward(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Evidence -> global query [B, d] and gate weights [B, E]: sum 1, 0 on what is not available."""
        summaries, mask = evidence.summaries, evidence.available
        some = mask.any(dim=1, keepdim=True)
        if self.strategy == "concat":
            query, gate = self.merge(summaries.flatten(1)), evidence.shares
        elif self.strategy == "audio":
            audio = torch.where(mask[:, self.audio, None], summaries[:, self.audio], masked_mean(summaries, mask))
            query, attention = self._refine(audio, evidence, weights=True)
            assert attention is not None
            gate = attention[:, 0]
        else:
            gate = self._gate(evidence)
            query, _ = self._refine((gate[..., None] * summaries).sum(dim=1), evidence, weights=False)
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

    def _refine(self, start: Tensor, evidence: Evidence, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Attends from [B, d] to all summaries -> [B, d] and, on request, the attention [B, 1, E]."""
        start = start[:, None].to(evidence.summaries.dtype)
        query, attention = self.refine(start, evidence.summaries, evidence.available, evidence.bias, weights)
        return query[:, 0], attention
