"""Contrastive: two views of a clip agree more with each other than with the views of other clips (InfoNCE).

Data flow: Outputs (+ captions of the samples) -> a vector per view -> linear head of the view -> unit vectors ->
cross-entropy over the clips of the batch, in both directions, on all ranks.

Shapes: B rows of this rank, N rows of all ranks, d width of a view, c width of the shared space.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hero_lightning.encoders.base import Encoder
from hero_lightning.errors import ConfigError, in_range, one_of
from hero_lightning.media.types import Utterance
from hero_lightning.models.base import FusionModel
from hero_lightning.models.llm.reasoner import Reasoner
from hero_lightning.models.outputs import Outputs
from hero_lightning.training.losses import AuxiliaryLoss, zero
from hero_lightning.training.ranks import gather, ranks
from hero_lightning.types import MODALITIES, Batch

log = logging.getLogger(__name__)

VIEWS = (*MODALITIES, "context", "projected", "caption")
"""Summary of a modality; mean of the context tokens; the same after the projector of the language model; embedding of
the clip's description."""
FEW = 8
"""Clips of all ranks below which there are too few negatives to learn much from."""


class Contrastive(AuxiliaryLoss):
    """Symmetric InfoNCE between pairs of views (van den Oord et al. 2018; Radford et al. 2021), mean over the pairs.

    ITC pairs the summaries and the context with the text, SCCL the projected context with the caption (SECap, Xu et
    al. 2024), multi-pair contrast the modalities with each other. Each view has a head of its own, so that another
    loss on the same summary (`Stmil`) does not pull the same vector. Rows that lack a side of a pair take no part in
    it. Rows of one clip, and with `supervised` rows of one class, are positives of each other (Khosla et al. 2020).

    Args:
        weight: of the term.
        pairs: views joined by a hyphen, e.g. `audio-text`; those that the model does not have are left out.
        width: c.
        temperature: of the softmax; the initial one where it is learnt.
        learnable: learn the temperature, within 0.01 to 1.
        supervised: rows with the same label of the first class task are positives too.
        caption_encoder: encodes descriptions for the view `caption`; frozen.
    """

    def __init__(
        self,
        weight: float = 1.0,
        pairs: Sequence[str] = ("frame-text", "motion-text", "audio-text"),
        width: int = 256,
        temperature: float = 0.07,
        learnable: bool = False,
        supervised: bool = False,
        caption_encoder: Encoder | None = None,
    ) -> None:
        super().__init__(weight)
        in_range("losses.*.width", width, "[1, inf)")
        in_range("losses.*.temperature", temperature, "[0.01, 1]")
        self.pairs = [self._pair(pair) for pair in pairs]
        self.width, self.supervised = width, supervised
        scale = torch.tensor(float(temperature)).log()
        self.log_temperature = nn.Parameter(scale) if learnable else scale
        self._parts: tuple[Encoder | None, Reasoner | None] = (caption_encoder, None)  # not its submodules
        self._captions: dict[str, Tensor] = {}
        self._warned = False

    @staticmethod
    def _pair(text: str) -> tuple[str, str]:
        first, _, second = text.partition("-")
        for view in (first, second):
            one_of("losses.*.pairs", view, VIEWS)
        return first, second

    def build(self, model: FusionModel, reasoner: Reasoner | None) -> bool:
        widths = {**dict.fromkeys(model.modalities, model.width), "context": model.width}
        encoder = self._parts[0]
        if encoder is not None and any("caption" in pair for pair in self.pairs):
            widths["caption"] = encoder.dim
        if reasoner is not None:
            widths["projected"] = reasoner.llm.d_llm
        self._parts = (encoder, reasoner)
        kept = [pair for pair in self.pairs if all(view in widths for view in pair)]
        if len(kept) < len(self.pairs):
            log.info("contrastive loss: no %s", ", ".join("-".join(p) for p in self.pairs if p not in kept))
        self.pairs = kept
        views = dict.fromkeys(view for pair in kept for view in pair)
        self.heads = nn.ModuleDict({view: nn.Linear(widths[view], self.width) for view in views})
        return bool(kept)

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Mean over the pairs of the mean over the rows of all ranks that have both sides."""
        views = {name: self._view(name, outputs, batch) for name in self.heads}
        keys = self._keys(batch).to(outputs.context.device)
        with torch.autocast(outputs.context.device.type, enabled=False):
            unit = {n: (F.normalize(self.heads[n](x.float()), dim=-1), there) for n, (x, there) in views.items()}
            scale = (-self.log_temperature.clamp(-4.6052, 0)).exp()
            terms = [info_nce(unit[a], unit[b], keys, scale) for a, b in self.pairs]
        if not self._warned and (few := max(count for _, count in terms)) < FEW:
            self._warned = True
            log.warning(
                "contrastive loss: %d clips in a batch have both sides of a pair; %s. Raise dataset.batch_size.",
                few, "it has no negatives and stays 0" if few < 2 else "it learns from negatives, and these are few",
            )  # fmt: skip
        return torch.stack([term for term, _ in terms]).mean() + zero(outputs)

    def _keys(self, batch: Batch) -> Tensor:
        """[B] equal for rows that are positives of each other."""
        digests = (int.from_bytes(blake2b(i.encode(), digest_size=7).digest(), "big") for i in batch.ids)
        keys = torch.tensor([1_000_000 + d for d in digests])
        classes = [v for v in batch.labels.values() if v.value.dim() == 1 and not v.value.is_floating_point()]
        if not self.supervised or not classes:
            return keys
        return torch.where(classes[0].mask.cpu(), classes[0].value.cpu(), keys)

    def _view(self, name: str, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors [B, d] and [B] True where the row has the view."""
        if name in outputs.experts:
            e = outputs.experts.index(name)
            return outputs.summaries[:, e], outputs.present[:, e]
        if name == "caption":
            return self._caption(batch, outputs.context.device)
        tokens, mask = outputs.context, outputs.context_mask
        if name == "projected":
            reasoner = self._parts[1]
            assert reasoner is not None
            assert reasoner.llm.projector is not None
            tokens = reasoner.llm.projector(tokens.float())
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        mean = torch.where(mask[..., None], tokens, 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return mean, outputs.present.any(dim=1)

    @cached_property
    def _encoder(self) -> Encoder:
        encoder = self._parts[0]
        if encoder is None:
            expected, hint = "losses.NAME.caption_encoder", "encoder@losses.sccl.caption_encoder=words"
            raise ConfigError("Captions have no encoder.", expected=expected, got="none", where="losses", hint=hint)
        encoder.load()
        return encoder.requires_grad_(False).eval()

    @torch.no_grad()
    def _caption(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean vectors of the descriptions' words; each text is encoded once."""
        texts = [s.descriptions.get("caption", "") for s in batch.samples]
        encoder = self._encoder.to(device)
        if new := [text for text in dict.fromkeys(texts) if text and text not in self._captions]:
            rows = encoder.collate([encoder.preprocess(Utterance(text)) for text in new])
            found = encoder({k: v.to(device) for k, v in rows.items()})
            x = torch.where(found.mask[..., None], found.x, 0.0).sum(dim=1) / found.mask.sum(dim=1, keepdim=True)
            self._captions |= dict(zip(new, x.float(), strict=True))
        blank = torch.zeros(encoder.dim, device=device)
        there = torch.tensor([bool(text) for text in texts], device=device)
        return torch.stack([self._captions.get(text, blank) for text in texts]), there


def info_nce(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], keys: Tensor, scale: Tensor | float
) -> tuple[Tensor, int]:
    """Symmetric InfoNCE of the rows of all ranks that have both sides.

    l_ij = scale * first_i . second_j; the loss of a row is the mean over its positives of -log softmax_j(l_i), in
    both directions.

    Args:
        first, second: unit vectors [B, c] and [B] True where a row has this side.
        keys: [B] equal for positives.
        scale: 1 / temperature.

    Returns:
        Scalar whose mean over the ranks is the mean over all rows, and the number of rows.
    """
    there = first[1] & second[1]
    (a, b), (key, others) = (gather(side[0]) for side in (first, second)), (gather(keys), gather(there))
    total = int(others.sum())
    positive = (keys[:, None] == key[None]) & others

    def half(own: Tensor, all_rows: Tensor) -> Tensor:
        log_p = (scale * own @ all_rows.T).masked_fill(~others, -1e9).log_softmax(dim=1)
        each = -torch.where(positive, log_p, 0.0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
        return torch.where(there, each, 0.0).sum()

    return ranks() * (half(first[0], b) + half(second[0], a)) / (2 * max(total, 1)), total
