"""HERO: observation experts, synergy, evidence integration and linear heads (docs/hero.md).

Data flow: Features by modality -> Expert each -> (+ Synergy) -> summaries, missing ones imputed -> Fusion -> context
-> one linear head per Task -> Outputs.

Shapes: B rows, E experts (modalities in canonical order, then synergy), T steps, Q queries, d width, C outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hero_lightning.errors import one_of
from hero_lightning.models.base import FusionModel, Shape
from hero_lightning.models.hero.evidence import Evidence
from hero_lightning.models.hero.experts import Expert, ExpertOptions, Observation
from hero_lightning.models.hero.fusion import EvidenceIntegration, Fusion
from hero_lightning.models.hero.imputation import EvidenceImputation
from hero_lightning.models.hero.synergy import Synergy
from hero_lightning.models.layers import EPS, initialise
from hero_lightning.models.outputs import SYNERGY, Fused, Outputs
from hero_lightning.types import MODALITIES, Features

log = logging.getLogger(__name__)


class Hero(FusionModel):
    """The fusion model with linear heads.

    A modality that is not in `dims` has no expert and no slot; one that a row lacks is absent in that row. Every
    expert runs at every step, so every parameter is in the graph of every batch.

    Args:
        dims, outputs, auxiliary_heads: see `FusionModel`.
        shape: widths and depths.
        options: how experts read their features.
        fusion: builds the fusion from the shape and the names of the experts.
        synergy: add the synergy expert, if both modalities of `pair` are there; without it there is no head `sync`.
        pair: the sound and the movement it compares.
        imputation: infer the summaries of missing experts.
    """

    offers = frozenset({"sync", "unimodal", "imputation"})
    groups: ClassVar[Mapping[str, type]] = {"shape": Shape, "options": ExpertOptions}

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: Mapping[str, int],
        auxiliary_heads: Collection[str] = (),
        *,
        shape: Shape,
        options: ExpertOptions,
        fusion: Callable[[Shape, tuple[str, ...]], Fusion] = EvidenceIntegration,
        synergy: bool = True,
        pair: tuple[str, str] = ("audio", "motion"),
        imputation: bool = True,
    ) -> None:
        super().__init__(dims, outputs, auxiliary_heads)
        for name in pair:
            one_of("model.pair", name, MODALITIES)
        self.width, self.pair = shape.width, (pair[0], pair[1])
        paired = synergy and all(s in dims for s in self.pair)
        if synergy and not paired:
            log.info(
                "No synergy expert: it compares %s and %s, the modalities are %s.", *self.pair, list(self.modalities)
            )
        self.names = (*self.modalities, SYNERGY) if paired else self.modalities
        self.experts = nn.ModuleDict({s: Expert(s, d, shape, options) for s, d in self.dims.items()})
        self.synergy = Synergy(shape) if paired else None
        self.moments = 0 if self.synergy is None else self.synergy.steps
        lacking = {head for head, there in (("sync", paired), ("imputation", imputation)) if not there}
        self.auxiliary_heads = frozenset(auxiliary_heads) - lacking
        sync = nn.Sequential(nn.Linear(self.width, self.width), nn.GELU(), nn.Linear(self.width, 1))
        self.sync = sync if "sync" in self.auxiliary_heads else None
        self.imputation = EvidenceImputation(shape, self.names) if imputation else None
        self.fusion = fusion(shape, self.names)
        self.heads = _heads(outputs, self.fusion.pooled)
        self.unimodal_heads = _heads(outputs, self.width) if "unimodal" in self.auxiliary_heads else None
        initialise(self, self.width)

    def forward(
        self, features: Mapping[str, Features], explain: bool = False, items: tuple[Tensor, Tensor] | None = None
    ) -> Outputs:
        observed = {s: self.experts[s](f, explain) for s, f in self.complete(features).items()}
        evidence = self._evidence(observed)
        fused: Fused = self.fusion(evidence)
        return Outputs(
            logits={t: head(fused.pooled) for t, head in self.heads.items()},
            unimodal_logits={t: head(evidence.summaries) for t, head in (self.unimodal_heads or {}).items()},
            experts=self.names,
            summaries=evidence.summaries,
            present=evidence.present,
            imputed=evidence.imputed,
            confidence=evidence.confidence,
            fused=fused,
            sync_logit=None if self.sync is None else self.sync(evidence.tokens[SYNERGY][:, 0]).squeeze(-1),
            tokens=evidence.tokens,
            sequences=evidence.sequences,
            times={s: o.time for s, o in observed.items() if o.time is not None},
            time_attention=_time_attention(observed, fused, self.fusion.source) if explain else {},
        )

    def match(self, outputs: Outputs, donors: Tensor, shift: Tensor) -> Tensor:
        if self.sync is None or self.synergy is None:
            return super().match(outputs, donors, shift)
        sound, movement = (outputs.sequences[s] for s in self.pair)
        clock = (outputs.times.get(self.pair[0]), outputs.times.get(self.pair[1]))
        return self.sync(self.synergy(sound, movement, clock, donors, shift)).squeeze(-1)

    def _evidence(self, observed: Mapping[str, Observation]) -> Evidence:
        """Adds the synergy expert and infers the summaries of missing ones."""
        tokens = {s: o.tokens for s, o in observed.items()}
        sequences = {s: (o.sequence, o.mask) for s, o in observed.items()}
        summary, there = [o.summary for o in observed.values()], [o.present for o in observed.values()]
        if self.synergy is not None:
            sound, movement = (observed[s] for s in self.pair)
            both = sound.present & movement.present
            token = self.synergy(*(sequences[s] for s in self.pair), (sound.time, movement.time))
            summary.append(torch.where(both[:, None], token, 0.0))
            there.append(both)
            tokens[SYNERGY] = summary[-1][:, None]
        summaries, present = torch.stack(summary, dim=1), torch.stack(there, dim=1)
        confidence = present.float()
        if self.imputation is not None:
            inferred, sure = self.imputation(summaries, present)
            fill = ~present & present.any(dim=1, keepdim=True)
            summaries = torch.where(fill[..., None], inferred.to(summaries.dtype), summaries)
            confidence = torch.where(fill, sure.clamp(min=EPS), confidence)
        return Evidence(self.names, summaries, present, confidence, tokens, sequences)


def _heads(outputs: Mapping[str, int], width: int) -> nn.ModuleDict:
    """One linear head per Task."""
    return nn.ModuleDict(
        {t: nn.Sequential(nn.LayerNorm(width, eps=EPS), nn.Linear(width, n)) for t, n in outputs.items()}
    )


def _time_attention(observed: Mapping[str, Observation], fused: Fused, source: str) -> dict[str, Tensor]:
    """Weight of every step: cross-attention [B, Q, T] of a modality, its queries weighted by bank attention [B, Q].

    Where the token bank holds the sequence itself, the bank attention is the result; without bank attention the
    queries count alike. Sums to 1 where the modality is present, 0 elsewhere.
    """
    out = {}
    places = {name: (start, end) for name, start, end in fused.segments}
    for name, o in observed.items():
        if o.attention is None:
            continue
        weight = o.attention.mean(dim=1)
        if fused.attention is not None and name in places:
            share = fused.attention[:, slice(*places[name])]
            weight = share if source == "sequence" else (share[:, None] @ o.attention.to(share.dtype)).squeeze(1)
        weight = torch.where(o.mask, weight.float(), 0.0)
        out[name] = weight / weight.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return out
