"""What a fusion model returns.

Data flow: Features by modality -> model.hero.Hero -> Outputs -> auxiliary_losses, Task losses, callbacks.

Shapes: B rows, E experts (modalities in canonical order, then synergy), U modalities with a token bank segment, d model width,
K token bank tokens, O context tokens, Q query tokens, T time steps, C outputs of a Task.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class Outputs:
    """Predictions and everything that explains them (`spec/hero.md` 3.3).

    Attributes:
        logits: Task name -> [B, C].
        unimodal_logits: Task name -> [B, E, C], what each expert alone would predict (auxiliary_loss `unimodal`).
        experts: names of the E experts, the order of every [B, E] tensor below.
        summaries: [B, E, d] expert summaries, imputed slots filled.
        present: [B, E] True where the expert saw real data; imputed slots stay False.
        imputed: [B, E] True where a summary was inferred from the others.
        confidence: [B, E] confidence of an imputed summary in (0, 1); 1 where present, 0 where there is neither.
        gate: [B, E] gate weights alpha: sum 1, 0 on what is neither present nor imputed; all 0 where nothing is.
        attention: [B, K] token bank attention, mean over the context queries; sums to 1.
        segments: (modality, start, end) of every token bank segment.
        importance: [B, U] attention summed per segment, in the order of `segments`.
        density: [B, U] importance over the segment's share of the row's valid token bank tokens (1 = its fair share).
        context: [B, O, d] context tokens before any projection to an LLM.
        context_mask: [B, O] True = real; None = all are.
        global_query: [B, d] what the integration layer asks the token bank.
        sync_logit: [B] audio-visual match, or None without a synergy expert. Meaningful where `present[synergy]`.
        tokens: expert -> [B, Q, d] query tokens, before any imputation.
        sequences: modality -> projected sequence [B, T, d] and mask [B, T]; what synergy reads.
        times: modality -> [B, T] seconds of the sequence's steps, where known.
        time_attention: modality -> [B, T], only if asked for: how much each time step weighed; sums to 1 where present.
    """

    logits: dict[str, Tensor]
    experts: tuple[str, ...]
    summaries: Tensor
    present: Tensor
    context: Tensor
    context_mask: Tensor | None = None
    global_query: Tensor | None = None
    gate: Tensor | None = None
    imputed: Tensor | None = None
    confidence: Tensor | None = None
    attention: Tensor | None = None
    segments: tuple[tuple[str, int, int], ...] = ()
    importance: Tensor | None = None
    density: Tensor | None = None
    unimodal_logits: dict[str, Tensor] = field(default_factory=dict)
    sync_logit: Tensor | None = None
    tokens: dict[str, Tensor] = field(default_factory=dict)
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    times: dict[str, Tensor] = field(default_factory=dict)
    time_attention: dict[str, Tensor] = field(default_factory=dict)
