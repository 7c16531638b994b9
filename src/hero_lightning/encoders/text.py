"""Contextual word vectors from a pretrained transformer: BERT, RoBERTa, MiniLM and similar.

Data flow: Utterance -> token ids of one or more segments (worker) -> transformer -> Features.

Shapes: B clips, N token ids of a clip (all segments), S segments of a batch, L longest segment, T steps, D = `dim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hero_lightning.encoders.base import Material
from hero_lightning.encoders.pretrained import PretrainedEncoder
from hero_lightning.errors import in_range, one_of
from hero_lightning.hub import Lora
from hero_lightning.media.types import Utterance
from hero_lightning.types import Features, pad


class TextEncoder(PretrainedEncoder):
    """A pretrained text transformer of the Hugging Face hub or of a local folder.

    Args:
        pooling: `tokens`: the vectors of all tokens of [previous turns ... current utterance] read as one sequence;
            `turns`: one mean vector per previous turn and one of the current utterance, in time order, then the token
            vectors of the current utterance, each turn encoded separately.
        max_length: tokens of a sequence. The oldest context is cut first, the current utterance last.
        name, trainable, layers, dtype, revision, lora: see PretrainedEncoder.
    """

    takes: ClassVar[Material] = "text"
    modality, instead = "text", "words"

    def __init__(
        self,
        name: str,
        trainable: str = "frozen",
        pooling: str = "tokens",
        max_length: int = 128,
        layers: Sequence[int] = (-1,),
        dtype: str = "float32",
        revision: str | None = None,
        lora: Lora | None = None,
    ) -> None:
        super().__init__(name, trainable, layers, dtype, revision, lora)
        one_of(f"{self.where}.pooling", pooling, ("tokens", "turns"))
        in_range(f"{self.where}.max_length", max_length, "[3, inf)")
        self.pooling, self.max_length = pooling, max_length
        self.options.update(pooling=pooling, max_length=max_length)

    def _part(self, whole: Any) -> Any:
        limit = getattr(whole, "max_position_embeddings", None)
        if limit and self.max_length > limit:
            raise self._wrong("max_length is too large.", f"<= {limit}", self.max_length, "max_length")
        return whole

    def preprocess(self, material: Utterance) -> dict[str, Tensor]:
        """Utterance -> ids [N], segment [N] (number of the segment each id belongs to)."""
        before = [f"{t.speaker}: {t.text}" if t.speaker else t.text for t in material.turns]
        named = material.speaker and material.turns
        now = self._ids(f"{material.speaker}: {material.text}" if named else material.text)
        room = self.max_length - 2  # without the tokens of begin and end
        if self.pooling == "turns":
            segments = [self._marked(ids[:room]) for ids in (*map(self._ids, before), now)]
        else:
            mark = self._mark("sep", "eos")
            context = [i for line in before for i in (*self._ids(line), *mark)]
            room -= len(now)
            segments = [self._marked(((context[-room:] if room > 0 else []) + now)[: self.max_length - 2])]
        ids = torch.tensor([i for segment in segments for i in segment])
        number = torch.arange(len(segments)).repeat_interleave(torch.tensor([len(s) for s in segments]))
        return {"ids": ids, "segment": number}

    def _ids(self, text: str) -> list[int]:
        # Long texts are cut here, so the tokenizer's warning does not apply.
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _mark(self, *kinds: str) -> list[int]:
        """The first of these special tokens that the tokenizer knows."""
        found = [getattr(self.tokenizer, f"{kind}_token_id") for kind in kinds]
        return [i for i in found if i is not None][:1]

    def _marked(self, ids: list[int]) -> list[int]:
        return [*self._mark("cls", "bos"), *ids, *self._mark("sep", "eos")]

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """ids, segment [B, N] -> Features [B, T, D]."""
        ids: list[Tensor] = []
        counts: list[int] = []
        for row, number, mask in zip(inputs["ids"], inputs["segment"], inputs["ids_mask"], strict=True):
            lengths = torch.unique_consecutive(number[mask], return_counts=True)[1].tolist()
            ids += row[mask].split(lengths)
            counts.append(len(lengths))
        vectors = self._vectors(ids)
        rows = []
        for first, count in zip(torch.tensor([0, *counts]).cumsum(0).tolist(), counts, strict=False):
            own = vectors[first : first + count]
            means = [v.mean(dim=0, keepdim=True) for v in own] if self.pooling == "turns" else []
            rows.append(torch.cat([*means, own[-1]]))  # [T, D]
        x, real = pad(rows)
        return Features(x, real.to(x.device))

    def _vectors(self, segments: list[Tensor]) -> list[Tensor]:
        """Token ids of S segments -> their vectors [L, D]. A turn that clips of one dialogue share is read once."""
        texts = {tuple(ids.tolist()): ids for ids in segments}
        hidden = self._by_length(list(texts.values()), lambda x, m: self._hidden(input_ids=x, attention_mask=m.long()))
        found = {key: h[: len(key)] for key, h in zip(texts, hidden, strict=True)}
        return [found[tuple(ids.tolist())] for ids in segments]
