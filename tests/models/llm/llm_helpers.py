"""Tiny language models, tokenizers of several families and prompts for the tests of the LLM head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hero_lightning.models.llm.head import LLMHead
from hero_lightning.models.llm.small_lm import SmallLM
from hero_lightning.reasoning.answer_targets import TargetAnswer
from hero_lightning.reasoning.prompts import CONTEXT, Part, Prompt

LABELS = ("happy", "happy-sad", "angry", "sad", "surprised")
TINY = SmallLM(vocab=400, width=32, layers=2, heads=2, positions=512)
D = 24


def prompt(*words: str, context: bool = True) -> Prompt:
    middle = (Part("context", CONTEXT),) if context else ()
    return Prompt(
        "label",
        ("final_emotion",),
        (Part("role", "Name the emotion."), *middle, Part("transcript", "She says:", words)),
    )


def answer(label: str, weight: float = 2.0) -> TargetAnswer:
    head, tail = '{"final_emotion": "', '"}'
    cut = len(head) + len(label)
    spans = ((0, len(head), 1.0), (len(head), cut, weight), (cut, cut + len(tail), 1.0))
    return TargetAnswer(head + label + tail, spans, "label")


def texts() -> list[str]:
    said = ["I am so glad you came today.", "Leave me alone!", "What on earth was that?"]
    return [*(prompt(s).text() for s in said), *(answer(label).text for label in LABELS)] * 3


def head(folder: Path, **settings: Any) -> LLMHead:
    """A loaded head on the tiny model, in eval mode; same weights for the same settings."""
    torch.manual_seed(0)
    made = LLMHead(D, small=TINY, dtype="float32", **settings)
    made.load(texts(), folder / "tiny")
    return made.eval()


def contexts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, D, generator=generator) for n in lengths]


def word_tokenizer(words: str, *, bos: bool = True, template: str | None = None, adds_bos: bool = False) -> Any:
    """One word = one token, blanks as sentencepiece writes them (as Llama 2's tokenizer)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        w: i for i, w in enumerate(["<unk>", "<s>", "</s>", *(f"\u2581{w}" for w in dict.fromkeys(words.split()))])
    }
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", **({"bos_token": "<s>"} if bos else {})
    )
    tokenizer.chat_template = template
    return tokenizer


def word_model(vocab: int, width: int = 32, **settings: Any) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, pad_token_id=None, bos_token_id=1, eos_token_id=2,
        **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval()


def trained(folder: Path, steps: int = 100) -> tuple[LLMHead, list[torch.Tensor], list[Prompt]]:
    """A head that has learnt to tell two contexts apart: prompts alone do not say which answer is right."""
    made = head(folder)
    soft, prompts = contexts(4, 6), [prompt("Well."), prompt("Well.", "Said with many more words than the other.")]
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    for step in range(steps):
        first = step % 2  # either prompt with either context, so that only the context decides
        loss = made.loss(soft, [prompts[first], prompts[1 - first]], [answer("happy"), answer("angry")])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made, soft, prompts
