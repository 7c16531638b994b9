"""Generation that can only write JSON of a schema.

Data flow: schema -> regular expression -> automaton over the tokenizer's tokens -> per step, the tokens it allows.

Shapes: B rows, n tokens generated so far, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hero_lightning.errors import ConfigError


class JsonConstraint:
    """A logits processor that rules out every token after which the schema could not be met.

    Args:
        schema: JSON schema of the answer.
        tokenizer: of transformers, byte-level BPE or sentencepiece-like.

    Raises:
        ConfigError: if outlines-core is not installed.
    """

    def __init__(self, schema: Mapping[str, Any], tokenizer: Any) -> None:
        try:
            from outlines_core import Guide, Index, Vocabulary
            from outlines_core.json_schema import build_regex_from_schema
        except ImportError as error:
            raise ConfigError(
                "Constrained JSON needs outlines-core.",
                expected="the extra `json`",
                got="not installed",
                where="llm.constrain",
                hint="pip install 'hero-lightning[json]', or llm.constrain=false",
            ) from error
        end, special = tokenizer.eos_token_id, set(tokenizer.all_special_ids)
        table = _byte_alphabet() if "ByteLevel" in str(tokenizer.backend_tokenizer.decoder) else None
        vocabulary: dict[bytes, list[int]] = {}
        for token, index in tokenizer.get_vocab().items():
            if index not in special and (spelled := _bytes(token, table)):
                vocabulary.setdefault(spelled, []).append(index)
        automaton = Index(build_regex_from_schema(json.dumps(schema)), Vocabulary(end, vocabulary))
        self._new, self._end = lambda: Guide(automaton), end
        self._guides: list[Any] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Tokens so far [B, n] and logits [B, V] -> logits with -inf on what is not allowed."""
        if input_ids.shape[1] == 0:  # the prompt comes as embeddings: generation starts from nothing
            self._guides = [self._new() for _ in range(len(scores))]
        out = torch.full_like(scores, float("-inf"))
        for b, guide in enumerate(self._guides):
            if input_ids.shape[1] and not guide.is_finished():
                guide.advance(int(input_ids[b, -1]))
            allowed = [self._end] if guide.is_finished() else guide.get_tokens()
            out[b, allowed] = scores[b, allowed]
        return out


def _bytes(token: str, table: Mapping[str, int] | None) -> bytes:
    # What a token writes. Decoding it alone would lose leading blanks and broken-up characters.
    if table is not None:
        return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()
    if len(token) == 6 and token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()  # sentencepiece's blank


def _byte_alphabet() -> dict[str, int]:
    # GPT-2's spelling of bytes as printable characters: the others are moved behind code point 255
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + k): b for k, b in enumerate(moved)}
