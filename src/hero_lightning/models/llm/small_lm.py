"""A causal language model without download, small enough to be trained on the demo dataset on a CPU.

Data flow: prompt and answer strings of the train split -> byte-level BPE tokenizer + random Llama-type model ->
a folder that `from_pretrained` reads.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero_lightning.errors import ConfigError, DataError, in_range
from hero_lightning.reasoning.prompts import CONTEXT

_SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
_ROLES = ("system", "user", "assistant")
# One token per role keeps a prompt short; BOS is part of the template, as in Llama-3's.
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class SmallLM:
    """Sizes of the small language model.

    Args:
        vocab: largest number of entries of the tokenizer, 256 bytes and special tokens included.
        width: hidden size; the feed-forward part is three times as wide.
        layers: decoder layers.
        heads: attention heads.
        positions: longest sequence, prompt and answer together.
        seed: of the weights; the tokenizer depends on the texts alone.
    """

    vocab: int = 3000
    width: int = 256
    layers: int = 4
    heads: int = 4
    positions: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("llm.small.vocab", self.vocab, "[300, inf)")  # 256 bytes, 7 special tokens, and some merges
        if min(self.width, self.layers, self.heads) < 1 or self.width % (2 * self.heads):
            raise ConfigError(
                "The small LM's width must divide into heads of even size.",
                expected="width a multiple of 2 * heads, layers >= 1",
                got=f"width {self.width}, heads {self.heads}, layers {self.layers}",
                where="llm.small",
            )

    def build(self, texts: Iterable[str], folder: Path) -> Path:
        """Trains the tokenizer, initialises the weights and writes both.

        An existing folder is left unchanged: token ids must not change between a run and its resume.

        Args:
            texts: prompts and answers of the train split only, so that the vocabulary holds no word of other splits.
            folder: of the model; written under another name and renamed, so that it is never incomplete.

        Returns:
            `folder`.

        Raises:
            DataError: no text.
        """
        if (folder / "config.json").is_file():
            return folder
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=self._tokenizer(texts),
            extra_special_tokens=[CONTEXT, *(f"<|{role}|>" for role in _ROLES)],
            clean_up_tokenization_spaces=False,
            **_SPECIAL,
        )
        tokenizer.chat_template = _TEMPLATE
        # Type llama, because AutoTokenizer reads a folder of type qwen2 as a Qwen2Tokenizer, which splits differently.
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=3 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.positions,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            lm = LlamaForCausalLM(config)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            tokenizer.save_pretrained(part)
            lm.save_pretrained(part)
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return folder

    def _tokenizer(self, texts: Iterable[str]) -> Any:
        seen = [text.replace(CONTEXT, "") for text in texts]
        if not any(seen):
            raise DataError(
                "There is no text to train the small LM's tokenizer on.",
                expected="prompts and answers of the train split",
                got=f"{len(seen)} empty texts" if seen else "no texts",
                where="llm.small",
                hint="check that the dataset has samples in its train split",
            )
        return learn_bpe(seen, self.vocab, [*_SPECIAL.values(), CONTEXT, *(f"<|{role}|>" for role in _ROLES)])


def learn_bpe(texts: Iterable[str], vocab: int, special: Sequence[str]) -> Any:
    """A byte-level BPE `tokenizers.Tokenizer` of at most `vocab` entries; special tokens have the first ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Every byte is a token, so there is no unknown token.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
