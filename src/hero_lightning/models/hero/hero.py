"""HERO: observation experts, synergy, evidence integration and linear heads.

Data flow: Features by modality -> Expert each -> (+ Synergy) -> summaries, missing ones imputed -> Fusion -> context
-> one linear head per Task -> Outputs.

Shapes: B rows, E experts (modalities in canonical order, then synergy), T steps, Q queries, d width, C outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError
from hero_lightning.models.hero.evidence import SYNERGY, Evidence
from hero_lightning.models.hero.experts import Expert, Observation, absent, size_of
from hero_lightning.models.hero.fusion import EvidenceIntegration, Fused, Fusion
from hero_lightning.models.hero.imputation import EvidenceImputation
from hero_lightning.models.hero.synergy import Synergy
from hero_lightning.models.layers import EPS, initialise
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import MODALITIES, Features

log = logging.getLogger(__name__)

AUXILIARY_HEADS = ("sync", "unimodal")
"""Parts that only an auxiliary_loss reads; they are built where one does, so that no parameter lacks a gradient."""


class Hero(nn.Module):
    """The fusion model with linear heads.

    A modality that is not in `dims` has no expert and no slot; one that a row lacks is absent in that row. Every
    expert runs at every step, so every parameter is in the graph of every batch.

    Args:
        dims: modality -> feature width.
        outputs: Task name -> number of outputs C.
        width: d.
        queries: Q of each expert.
        layers: blocks of each Q-Former.
        num_heads: attention heads of every block.
        context_tokens: O, tokens of the context.
        dropout: of every block.
        position: none, sinusoidal or learned step positions for the Q-Formers.
        mlp: modalities projected by two layers instead of one.
        stat_pooling: let every expert add mean and spread over time to its tokens.
        fusion: makes the fusion from width, experts, num_heads, dropout and context_tokens.
        synergy: add the synergy expert (where both modalities of `pair` are there).
        pair: the sound and the movement it compares.
        imputation: infer the summaries of missing experts.
        standardise: bring every feature to mean 0 and spread 1 of the train split first (tables of mixed units).
        feature_dropout: share of the features withheld from a clip while training, at all its steps; few clips with
            wide features (a few thousand by a few hundred) want 0.3 to 0.7.
        auxiliary_heads: what the auxiliary_losses need, of `sync` and `unimodal`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: Mapping[str, int],
        width: int = 768,
        queries: int = 32,
        layers: int = 2,
        num_heads: int = 8,
        context_tokens: int = 64,
        dropout: float = 0.1,
        position: Literal["none", "sinusoidal", "learned"] = "sinusoidal",
        mlp: Collection[str] = ("au",),
        stat_pooling: bool = True,
        fusion: Callable[..., Fusion] = EvidenceIntegration,
        synergy: bool = True,
        pair: tuple[str, str] = ("audio", "motion"),
        imputation: bool = True,
        standardise: bool = False,
        feature_dropout: float = 0.0,
        auxiliary_heads: Collection[str] = (),
    ) -> None:
        super().__init__()
        _check(
            dims,
            outputs,
            width,
            queries,
            num_heads,
            context_tokens,
            (dropout, feature_dropout),
            mlp,
            pair,
            auxiliary_heads,
        )
        self.width = width
        self.pair = (pair[0], pair[1])
        self.dims = {s: dims[s] for s in MODALITIES if s in dims}
        self.modalities = tuple(self.dims)
        together = synergy and all(s in dims for s in self.pair)
        if synergy and not together:
            log.info(
                "No synergy expert: it compares %s and %s, the modalities are %s.", *self.pair, list(self.modalities)
            )
        self.names = (*self.modalities, SYNERGY) if together else self.modalities
        shape = (width, queries, layers, num_heads, dropout, position)
        self.experts = nn.ModuleDict(
            {
                s: Expert(s, d, *shape, s in mlp, stat_pooling, standardise, feature_dropout)
                for s, d in self.dims.items()
            }
        )
        self.synergy = Synergy(width, 2, num_heads, dropout) if together else None
        head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.sync = head if together and "sync" in auxiliary_heads else None
        self.imputation = EvidenceImputation(width, len(self.names), 2, num_heads, dropout) if imputation else None
        self.fusion = fusion(
            width=width, experts=self.names, num_heads=num_heads, dropout=dropout, context_tokens=context_tokens
        )
        self.heads = _heads(outputs, self.fusion.pooled)
        self.unimodal_heads = _heads(outputs, width) if "unimodal" in auxiliary_heads else None
        initialise(self, width)

    def forward(self, features: Mapping[str, Features], explain: bool = False) -> Outputs:
        """Features by modality -> predictions and what explains them.

        Args:
            features: modality -> Features; a missing modality is absent in every row, one the model has no expert for
                is not looked at.
            explain: also compute `Outputs.time_attention`.

        Raises:
            DataError: none of the model's modalities is given, so that not even the number of rows is known.
            FeatureError: a modality has another width than the model was built for.
        """
        seen = self._observe(features, explain)
        tokens = {s: o.tokens for s, o in seen.items()}
        summaries, present = [o.summary for o in seen.values()], [o.present for o in seen.values()]
        if self.synergy is not None:
            both = seen[self.pair[0]].present & seen[self.pair[1]].present
            token = self._compare(self.synergy, {s: (o.sequence, o.mask) for s, o in seen.items()}, _times(seen))
            summaries.append(torch.where(both[:, None], token, 0.0))
            present.append(both)
            tokens[SYNERGY] = summaries[-1][:, None]
        evidence = self._evidence(torch.stack(summaries, dim=1), torch.stack(present, dim=1), tokens, seen)
        fused: Fused = self.fusion(evidence)
        return Outputs(
            logits={t: head(fused.pooled) for t, head in self.heads.items()},
            unimodal_logits={t: head(evidence.summaries) for t, head in (self.unimodal_heads or {}).items()},
            experts=self.names,
            summaries=evidence.summaries,
            present=evidence.present,
            imputed=evidence.imputed,
            confidence=evidence.confidence,
            gate=fused.gate,
            attention=fused.attention,
            segments=fused.segments,
            importance=fused.importance,
            density=fused.density,
            context=fused.context,
            context_mask=fused.context_mask,
            global_query=fused.global_query,
            sync_logit=None if self.sync is None else self.sync(summaries[-1]).squeeze(-1),
            tokens=tokens,
            sequences=evidence.sequences,
            times=_times(seen),
            time_attention=_time_attention(seen, fused, self.fusion.source) if explain else {},
        )

    def match(self, outputs: Outputs, donors: Tensor, shift: Tensor) -> Tensor:
        """A second look of the synergy expert at mismatched pairs.

        Args:
            outputs: of this batch.
            donors: [B] whose sound is put under the row's movement.
            shift: [B] moments (of `self.synergy.steps`) by which that sound is rotated.

        Returns:
            Match logit [B].

        Raises:
            ConfigError: the model was built without the part `sync`.
        """
        if self.sync is None or self.synergy is None:
            raise ConfigError(
                "The model has no sync head.", expected="sync among its auxiliary_heads", where="model.auxiliary_heads"
            )
        return self.sync(self._compare(self.synergy, outputs.sequences, outputs.times, donors, shift)).squeeze(-1)

    def _observe(self, features: Mapping[str, Features], explain: bool) -> dict[str, Observation]:
        """Every expert's view; a modality that was not given is absent in all rows."""
        rows, device = size_of(features, self.modalities)
        return {
            s: expert(features[s] if s in features else absent(rows, self.dims[s], device), explain)
            for s, expert in self.experts.items()
        }

    def _compare(
        self,
        synergy: Synergy,
        sequences: Mapping[str, tuple[Tensor, Tensor]],
        times: Mapping[str, Tensor],
        donors: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """The synergy token [B, d] of sound and movement."""
        sound, movement = self.pair
        clock = (times.get(sound), times.get(movement))
        return synergy(sequences[sound], sequences[movement], clock, donors, shift)

    def _evidence(
        self, summaries: Tensor, present: Tensor, tokens: dict[str, Tensor], seen: Mapping[str, Observation]
    ) -> Evidence:
        """Fills the missing slots: summaries [B, E, d] and present [B, E] -> Evidence."""
        confidence = present.float()
        if self.imputation is not None:
            inferred, sure = self.imputation(summaries, present)
            fill = ~present & present.any(dim=1, keepdim=True)
            summaries = torch.where(fill[..., None], inferred.to(summaries.dtype), summaries)
            confidence = torch.where(fill, sure.clamp(min=EPS), confidence)
        sequences = {s: (o.sequence, o.mask) for s, o in seen.items()}
        return Evidence(self.names, summaries, present, confidence, tokens, sequences)


def _heads(outputs: Mapping[str, int], width: int) -> nn.ModuleDict:
    """One linear head per Task."""
    return nn.ModuleDict(
        {t: nn.Sequential(nn.LayerNorm(width, eps=EPS), nn.Linear(width, n)) for t, n in outputs.items()}
    )


def _times(seen: Mapping[str, Observation]) -> dict[str, Tensor]:
    """Seconds of the sequences that know them."""
    return {s: o.time for s, o in seen.items() if o.time is not None}


def _time_attention(seen: Mapping[str, Observation], fused: Fused, source: str) -> dict[str, Tensor]:
    """How much every step weighed: a modality's cross-attention [B, Q, T], its queries weighed by the token bank [B, Q].

    Where the token bank holds the sequence itself, its attention is the answer; without a token bank attention the queries
    count alike. Sums to 1 where the modality is present, 0 elsewhere.
    """
    out = {}
    places = {name: (start, end) for name, start, end in fused.segments}
    for name, o in seen.items():
        if o.attention is None:
            continue
        weighed = o.attention.mean(dim=1)
        if fused.attention is not None and name in places:
            share = fused.attention[:, slice(*places[name])]
            weighed = share if source == "sequence" else (share[:, None] @ o.attention.to(share.dtype)).squeeze(1)
        weighed = torch.where(o.mask, weighed.float(), 0.0)
        out[name] = weighed / weighed.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weighed.dtype).tiny)
    return out


def _check(
    dims: Mapping[str, int],
    outputs: Mapping[str, int],
    width: int,
    queries: int,
    num_heads: int,
    context_tokens: int,
    dropouts: tuple[float, float],
    mlp: Collection[str],
    pair: tuple[str, str],
    auxiliary_heads: Collection[str],
) -> None:
    """Refuses settings no model can be built from."""
    strange = [s for s in (*dims, *mlp, *pair) if s not in MODALITIES]
    rules = [
        (bool(dims) and not strange, "modality", f"some of {', '.join(MODALITIES)}", strange or "none"),
        (bool(outputs) and min(outputs.values(), default=0) > 0, "tasks", "a Task with outputs", dict(outputs)),
        (width % num_heads == 0 == width % 2, "model.width", f"an even multiple of num_heads={num_heads}", width),
        (queries > 0, "model.queries", ">= 1", queries),
        (context_tokens > 0, "model.context_tokens", ">= 1", context_tokens),
        (0 <= dropouts[0] < 1, "model.dropout", "0 <= p < 1", dropouts[0]),
        (0 <= dropouts[1] < 1, "model.feature_dropout", "0 <= p < 1", dropouts[1]),
        (
            set(auxiliary_heads) <= set(AUXILIARY_HEADS),
            "model.auxiliary_heads",
            f"some of {', '.join(AUXILIARY_HEADS)}",
            list(auxiliary_heads),
        ),
    ]
    for fits, where, expected, got in rules:
        if not fits:
            raise ConfigError("No model can be built from these settings.", expected=expected, got=got, where=where)
