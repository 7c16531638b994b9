"""Evidence: the input of a fusion; and the token bank built from it.

Data flow: Observations -> Evidence (summaries, presence, confidence, tokens, sequences) -> TokenBank [B, K, d].

Shapes: B rows, E experts, Q query tokens, T steps, K bank tokens, d width. Masks are True = real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hero_lightning.models.layers import EPS
from hero_lightning.models.outputs import SYNERGY


@dataclass(slots=True)
class Evidence:
    """All experts' observations of a batch.

    Attributes:
        experts: names of the E experts, modalities in canonical order, then synergy.
        summaries: [B, E, d], imputed slots filled, others of absent experts zero.
        present: [B, E] True where the expert saw real data.
        confidence: [B, E]: 1 where present, in (0, 1) where imputed, 0 where there is neither.
        tokens: expert -> [B, Q, d] (synergy: one token).
        sequences: modality -> projected sequence [B, T, d] and mask [B, T].
    """

    experts: tuple[str, ...]
    summaries: Tensor
    present: Tensor
    confidence: Tensor
    tokens: dict[str, Tensor]
    sequences: dict[str, tuple[Tensor, Tensor]]

    @property
    def available(self) -> Tensor:
        """[B, E] True where there is a summary, seen or imputed."""
        return self.confidence > 0

    @property
    def imputed(self) -> Tensor:
        """[B, E] True where the summary was inferred."""
        return self.available & ~self.present

    @property
    def shares(self) -> Tensor:
        """[B, E] confidence scaled to sum 1: the gate weights of a fusion without a gate."""
        return self.confidence / self.confidence.sum(dim=1, keepdim=True).clamp(min=EPS)

    @property
    def bias(self) -> Tensor:
        """[B, E] log confidence, added to the attention and gate scores of an imputed expert."""
        return self.confidence.clamp(min=EPS).log()


@dataclass(slots=True)
class TokenBank:
    """Every token that a context query may attend to.

    Attributes:
        tokens: [B, K, d], zero where masked.
        mask: [B, K].
        bias: [B, K] log confidence of imputed tokens, else 0.
        segments: (expert, start, end) of the inserted tokens.
    """

    tokens: Tensor
    mask: Tensor
    bias: Tensor
    segments: tuple[tuple[str, int, int], ...]

    def per_segment(self, x: Tensor) -> Tensor:
        """Sums over every segment: [B, K] -> [B, U]."""
        return torch.stack([x[:, start:end].sum(dim=1) for _, start, end in self.segments], dim=1)


def build_bank(evidence: Evidence, source: Literal["qformer", "sequence"], include_synergy: bool) -> TokenBank:
    """Concatenates the experts' tokens in canonical order; an imputed expert has its summary as its only token.

    Args:
        evidence: of the batch.
        source: the query tokens of the modalities, or their full sequences.
        include_synergy: whether the synergy token is included.
    """
    tokens, masks, biases, segments, start = [], [], [], [], 0
    imputed, bias = evidence.imputed, evidence.bias
    for e, name in enumerate(evidence.experts):
        if name == SYNERGY and not include_synergy:
            continue
        x, mask = evidence.tokens[name], evidence.present[:, e, None]
        if source == "sequence" and name in evidence.sequences:
            x, mask = evidence.sequences[name]
        # [B, n]: the first place of the segment takes the imputed summary
        slot = imputed[:, e, None] & (torch.arange(x.shape[1], device=x.device) == 0)
        mask = mask.expand(-1, x.shape[1])
        x = torch.where(mask[..., None], x, 0.0)
        tokens.append(torch.where(slot[..., None], evidence.summaries[:, e, None].to(x.dtype), x))
        masks.append(mask | slot)
        biases.append(torch.where(slot, bias[:, e, None], 0.0))
        segments.append((name, start, start + x.shape[1]))
        start += x.shape[1]
    return TokenBank(torch.cat(tokens, dim=1), torch.cat(masks, dim=1), torch.cat(biases, dim=1), tuple(segments))
