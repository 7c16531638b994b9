"""Text around soft tokens: rows of token ids with one gap, and the names of their parts.

Data flow: Prompt --chat template--> string --tokenizer--> ids with one placeholder --(llm.LLMHead)--> embeddings in
which the placeholder has become the context vectors.

Shapes: B rows, L positions of a row, d_llm width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hero_lightning.data.types import pad
from hero_lightning.errors import ConfigError
from hero_lightning.reasoning.prompts import CONTEXT

if TYPE_CHECKING:
    from hero_lightning.reasoning.prompts import Prompt

Span = tuple[int, int]
"""First position and the one after the last."""


@dataclass(slots=True)
class Row:
    """One sample as the language model reads it.

    Attributes:
        embeds: [L, d_llm].
        segments: part -> span, in this order and without gaps: bos, text, context, tail, answer, eos. Parts that a
            use does not have are empty (bos where the tokenizer has none, answer and eos before generation).
    """

    embeds: Tensor
    segments: dict[str, Span]


def prepare(tokenizer: Any, rows: int, where: str) -> int:
    """Gives a tokenizer what splicing needs: the placeholder as a token, and a pad token.

    The placeholder's id is never looked up in the embedding table (context vectors stand in its place), so the table
    keeps its size whether or not the tokenizer has a reserved token left.

    Args:
        tokenizer: of transformers; changed in place.
        rows: rows of the embedding table.
        where: config key, for messages.

    Returns:
        Id of the placeholder.

    Raises:
        ConfigError: slow tokenizer, no EOS, or more tokens than embeddings.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            "The language model's tokenizer has no character offsets.",
            expected="a fast tokenizer (tokenizer.json)",
            got=type(tokenizer).__name__,
            where=where,
            mend="choose a model whose folder holds tokenizer.json",
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "The tokenizer names no end-of-sequence token, so answers could not end.",
            expected="eos_token in tokenizer_config.json",
            got="none",
            where=where,
            mend="choose an instruct model, or set eos_token in the model's folder",
        )
    if CONTEXT not in tokenizer.get_vocab():
        if len(tokenizer) > rows:
            raise ConfigError(
                "Tokenizer and weights do not belong together.",
                expected=f"at most {rows} tokens, the rows of the embedding table",
                got=f"{len(tokenizer)} tokens",
                where=where,
                mend="take both from one model",
            )
        tokenizer.add_tokens([CONTEXT], special_tokens=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer.convert_tokens_to_ids(CONTEXT)


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The prompt as one string, ready for the answer: by the chat template where there is one, else plain."""
    if not tokenizer.chat_template:
        return prompt.text()
    from jinja2 import TemplateError

    # Answers come at once; Qwen3's template opens a thinking part unless told not to. Others ignore the flag.
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return tokenizer.apply_chat_template(prompt.messages(), **options)
    except TemplateError:  # Gemma's and Mistral's refuse a system role
        return tokenizer.apply_chat_template(prompt.messages(system=False), **options)


def prompt_ids(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of rendered prompts, placeholder included, with exactly one BOS where the tokenizer has one."""
    if not prompts:
        return []
    bos = tokenizer.bos_token_id
    coded = tokenizer([render(tokenizer, p) for p in prompts], add_special_tokens=False)["input_ids"]
    return [list(ids) if bos is None or ids[:1] == [bos] else [bos, *ids] for ids in coded]


def pad_left(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stacks B rows [L_b, d] with the padding in front: [B, L, d] and the mask [B, L] on the same device."""
    x, mask = pad([row.flip(0) for row in rows])
    return x.flip(1), mask.flip(1).to(x.device)
