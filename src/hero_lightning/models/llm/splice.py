"""Prompts around soft tokens: rows of token ids with one gap, and the positions of their parts.

Data flow: Prompt --chat template--> string --tokenizer--> ids with one placeholder --(LLMHead)--> embeddings with the
context vectors in place of the placeholder.

Shapes: B rows, L positions of a row, d_llm width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hero_lightning.errors import ConfigError, DataError, cause
from hero_lightning.reasoning.prompts import CONTEXT
from hero_lightning.types import pad

if TYPE_CHECKING:
    from hero_lightning.reasoning.prompts import Prompt

Span = tuple[int, int]
"""First position and the one after the last."""
PARTS = ("bos", "text", "context", "tail", "answer", "eos")
"""Parts of a row, in order and without gaps; bos, answer and eos may be empty."""


@dataclass(slots=True)
class Row:
    """One sample as the language model reads it.

    Attributes:
        embeds: [L, d_llm].
        segments: part -> span, of all PARTS.
        ids: L token ids; arbitrary at the positions of context vectors.
    """

    embeds: Tensor
    segments: dict[str, Span]
    ids: list[int]


@dataclass(slots=True)
class Layout:
    """Token ids of B rows, concatenated.

    Attributes:
        ids: sum of L; arbitrary at the positions of context vectors.
        places: positions of the context vectors, in order.
        segments: per row, see Row.
    """

    ids: list[int]
    places: list[int]
    segments: list[dict[str, Span]]


def prepare(tokenizer: Any, rows: int, where: str) -> None:
    """Adds to a tokenizer what splicing needs: the placeholder as a token, and a pad token.

    The placeholder's id is never looked up in the embedding table (context vectors replace it), so the table keeps its
    size whether or not the tokenizer has an unused reserved token.

    Args:
        tokenizer: of transformers; changed in place.
        rows: rows of the embedding table.
        where: config key, for messages.

    Raises:
        ConfigError: slow tokenizer, no EOS, or more tokens than embeddings.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            "The language model's tokenizer has no character offsets.",
            expected="a fast tokenizer (tokenizer.json)",
            got=type(tokenizer).__name__,
            where=where,
            hint="choose a model with a tokenizer.json",
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "The tokenizer has no end-of-sequence token, so answers could not end.",
            expected="eos_token in tokenizer_config.json",
            got="none",
            where=where,
            hint="choose an instruct model, or set eos_token in the model's folder",
        )
    if CONTEXT not in tokenizer.get_vocab():
        if len(tokenizer) > rows:
            raise ConfigError(
                "Tokenizer and weights do not belong together.",
                expected=f"at most {rows} tokens, the rows of the embedding table",
                got=f"{len(tokenizer)} tokens",
                where=where,
                hint="use the tokenizer of the model",
            )
        tokenizer.add_tokens([CONTEXT], special_tokens=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The prompt as one string, ready for the answer: by the chat template where there is one, else plain."""
    if not tokenizer.chat_template:
        return prompt.text()
    from jinja2 import TemplateError

    # Qwen3's template begins a thinking part without this flag; other templates ignore it.
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    messages = prompt.messages()
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except TemplateError as error:
        # Gemma's and Mistral's templates reject the system role: its content goes into the user's message.
        content = "\n".join(m["content"] for m in messages)
        try:
            return tokenizer.apply_chat_template([{"role": "user", "content": content}], **options)
        except TemplateError as second:
            problem = "The chat template of the language model rejects the prompt, with and without a system role."
            raise ConfigError(problem, got=f"{cause(error)}; {cause(second)}", where="llm.name") from second


def prompt_ids(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of rendered prompts, placeholder included, with exactly one BOS where the tokenizer has one."""
    if not prompts:
        return []
    bos = tokenizer.bos_token_id
    encoded = tokenizer([render(tokenizer, p) for p in prompts], add_special_tokens=False)["input_ids"]
    return [list(ids) if bos is None or ids[:1] == [bos] else [bos, *ids] for ids in encoded]


def lay_out(
    tokenizer: Any,
    prompts: Sequence[list[int]],
    tails: Sequence[list[int]],
    soft: Sequence[int],
    ends: bool = False,
    limit: int | None = None,
) -> Layout:
    """Replaces the placeholder of every row by a gap for its context vectors.

    Args:
        tokenizer: see `prepare`.
        prompts: B prompts' ids with the placeholder.
        tails: B lists of ids that follow the prompts.
        soft: B numbers of context vectors; 0 = no gap.
        ends: whether the last id of each tail is EOS.
        limit: longest sequence of the model; None = no limit.

    Raises:
        DataError: a prompt without exactly one placeholder, or a row that is too long.
    """
    placeholder = tokenizer.convert_tokens_to_ids(CONTEXT)
    out = Layout([], [], [])
    for b, (prompt, tail, count) in enumerate(zip(prompts, tails, soft, strict=True)):
        found = prompt.count(placeholder)
        if found > 1 or (count and not found):
            raise DataError(
                "A prompt must hold the context placeholder exactly once.",
                expected=1,
                got=found,
                where=f"prompt {b} of the batch: {tokenizer.decode(prompt)[:80]!r}",
                hint=f"remove {CONTEXT} from transcripts, and build prompts with hero_lightning.reasoning.prompts",
            )
        gap = prompt.index(placeholder) if found else len(prompt)
        ids = [*prompt[:gap], *[tokenizer.pad_token_id] * count, *prompt[gap + 1 :], *tail]
        if limit is not None and len(ids) > limit:
            raise DataError(
                "A prompt with its answer is longer than the language model can read.",
                expected=f"at most {limit} tokens",
                got=len(ids),
                where=f"prompt {b} of the batch: {tokenizer.decode(prompt)[:80]!r}",
                hint="lower reasoner.prompt.max_tokens, or the number of context tokens",
            )
        bos = int(prompt[:1] == [tokenizer.bos_token_id])
        cuts = (0, bos, gap, gap + count, len(ids) - len(tail), len(ids) - int(ends), len(ids))
        out.places += range(len(out.ids) + gap, len(out.ids) + gap + count)
        out.ids += ids
        out.segments.append(dict(zip(PARTS, pairwise(cuts), strict=True)))
    return out


def pad_right(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Embeddings [B, L, d_llm] padded on the right, and the mask [B, L]."""
    x, mask = pad([row.embeds for row in rows])
    return x, mask.to(x.device)


def pad_left(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Embeddings [B, L, d_llm] padded on the left, and the mask [B, L]."""
    x, mask = pad([row.embeds.flip(0) for row in rows])
    return x.flip(1), mask.flip(1).to(x.device)
