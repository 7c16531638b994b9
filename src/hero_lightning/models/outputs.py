"""What a model returns.

Data flow: Features by modality -> FusionModel -> Outputs -> Task losses, auxiliary losses, reasoner, callbacks.

Shapes: B rows, E experts (modalities in canonical order, then synergy), U modalities with a token bank segment, d model
width, K token bank tokens, O context tokens, P pooled width, Q query tokens, T time steps, C outputs of a Task.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

SYNERGY = "synergy"
"""Name of the expert that is no modality; always the last."""


@dataclass(slots=True)
class Fused:
    """What a fusion returns.

    Attributes:
        context: [B, O, d] context tokens before any projection to a language model.
        pooled: [B, P], the input of the linear heads.
        gate: [B, E] gate weights alpha: sum 1, 0 on what is neither present nor imputed; all 0 where nothing is.
        context_mask: [B, O] True = real; None = all are.
        global_query: [B, d], the query of the integration layer to the token bank.
        attention: [B, K] token bank attention, mean over the context queries; sums to 1.
        segments: (modality, start, end) of every token bank segment.
        importance: [B, U] attention summed per segment, in the order of `segments`.
        density: [B, U] importance over the segment's share of the row's valid token bank tokens (1 = an even share).
    """

    context: Tensor
    pooled: Tensor
    gate: Tensor | None = None
    context_mask: Tensor | None = None
    global_query: Tensor | None = None
    attention: Tensor | None = None
    segments: tuple[tuple[str, int, int], ...] = ()
    importance: Tensor | None = None
    density: Tensor | None = None


@dataclass(slots=True)
class Outputs:
    """Predictions and everything that explains them; what a model does not have keeps its default.

    Attributes:
        logits: Task name -> [B, C].
        experts: names of the E experts, the order of every [B, E] tensor.
        summaries: [B, E, d] expert summaries, imputed slots filled.
        present: [B, E] True where the expert saw real data; imputed slots stay False.
        fused: context, gate and attention.
        imputed: [B, E] True where a summary was inferred from the others.
        confidence: [B, E] confidence of an imputed summary in (0, 1); 1 where present, 0 where there is neither.
        unimodal_logits: Task name -> [B, E, C], the prediction of each expert alone.
        sync_logit: [B] audio-visual match, or None without a synergy expert. Meaningful where `present[synergy]`.
        tokens: expert -> [B, Q, d] query tokens, before any imputation.
        sequences: modality -> projected sequence [B, T, d] and mask [B, T], the input of synergy.
        times: modality -> [B, T] seconds of the sequence's steps, where known.
        time_attention: modality -> [B, T], only on request: weight of each time step; sums to 1 where present.
        full: in training, for the losses that read it: the outputs of the same clips with no modality withheld, without
            gradients; None where nothing is withheld.
    """

    logits: dict[str, Tensor]
    experts: tuple[str, ...]
    summaries: Tensor
    present: Tensor
    fused: Fused
    imputed: Tensor | None = None
    confidence: Tensor | None = None
    unimodal_logits: dict[str, Tensor] = field(default_factory=dict)
    sync_logit: Tensor | None = None
    tokens: dict[str, Tensor] = field(default_factory=dict)
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    times: dict[str, Tensor] = field(default_factory=dict)
    time_attention: dict[str, Tensor] = field(default_factory=dict)
    full: Outputs | None = None

    @property
    def context(self) -> Tensor:
        return self.fused.context

    @property
    def context_mask(self) -> Tensor | None:
        return self.fused.context_mask

    @property
    def gate(self) -> Tensor | None:
        return self.fused.gate

    @property
    def segments(self) -> tuple[tuple[str, int, int], ...]:
        return self.fused.segments

    @property
    def importance(self) -> Tensor | None:
        return self.fused.importance

    @property
    def density(self) -> Tensor | None:
        return self.fused.density
