"""Scoring a closed set of answers in one pass: a shared prefix, and the answers as branches of a tree.

Data flow: candidate answers (token ids) -> Tree -> branch numbers and positions of a batch -> attention mask under
which a branch sees the prompt, what all candidates share, and itself; log-probabilities -> scores [B, K].

Shapes: B rows, N packed positions, K candidates, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hero_lightning.errors import ConfigError

PADDING = -1
"""Branch number of positions behind the end of a row."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Candidates packed behind a prompt.

    Attributes:
        ids: tokens in packed order: what all candidates share, then the rest of each.
        branch: per token, 0 = shared, k + 1 = candidate k only.
        depth: per token, its place after the prompt (branches run in parallel, so depths repeat).
        places: packed places whose hidden states are read; -1 = the prompt's last token.
        step: per predicted token, which of `places` predicts it.
        token: per predicted token, its id.
        owner: per predicted token, its candidate.
    """

    ids: list[int]
    branch: list[int]
    depth: list[int]
    places: list[int]
    step: list[int]
    token: list[int]
    owner: list[int]


def build_tree(candidates: Sequence[Sequence[int]]) -> Tree:
    """Packs candidate answers.

    The prefix that all share is laid down once and not scored. At least one token of each candidate is left to score,
    also where one candidate begins with another.

    Args:
        candidates: K token sequences, none empty.
    """
    shared = 0
    shortest = min(len(c) for c in candidates)
    while shared < shortest - 1 and len({c[shared] for c in candidates}) == 1:
        shared += 1
    ids, branch, depth = list(candidates[0][:shared]), [0] * shared, list(range(shared))
    places, step, token, owner = [shared - 1], [], [], []
    for k, candidate in enumerate(candidates):
        for i, t in enumerate(candidate[shared:]):
            if i:
                places.append(len(ids) - 1)
            step.append(len(places) - 1 if i else 0)
            token.append(t)
            owner.append(k)
            ids.append(t)
            branch.append(k + 1)
            depth.append(shared + i)
    return Tree(ids, branch, depth, places, step, token, owner)


def tree_mask(branch: Tensor) -> Tensor:
    """Branch numbers [B, N] -> [B, 1, N, N], True where the query (row) may look at the key (column)."""
    query, key = branch[:, :, None], branch[:, None, :]
    seen = (key == 0) | (key == query)  # padding sees the prompt and itself, so that no row of the softmax is empty
    return (seen & torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril())[:, None]


def attention_masks(config: Any, seen: Tensor, position: Tensor, dtype: torch.dtype) -> Any:
    """The mask in the form a model of transformers takes it.

    Args:
        config: the model's; says which layers look back only so far, and how attention is computed.
        seen: [B, 1, N, N] of `tree_mask`.
        position: [B, N] place of each token in its own sequence.
        dtype: of the model, for the additive form.

    Returns:
        [B, 1, N, N], or one such tensor per kind of layer.

    Raises:
        ConfigError: if the model has layers without attention (state spaces, linear attention).
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"} or config._attn_implementation not in ("sdpa", "eager"):
        raise ConfigError(
            "This language model cannot score a label set in one pass.",
            expected="layers of full or sliding attention, computed by sdpa or eager",
            got=f"{sorted(kinds)}, {config._attn_implementation}",
            where="llm.name",
            mend="choose a Qwen2.5, Qwen3, Llama, Mistral or Gemma model",
        )

    def form(allowed: Tensor) -> Tensor:
        if config._attn_implementation == "sdpa":
            return allowed
        return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)

    window = getattr(config, "sliding_window", None)
    if window is None:
        return {kind: form(seen) for kind in kinds} if len(kinds) > 1 else form(seen)
    near = seen & (position[:, :, None] - position[:, None, :] < window)[:, None]
    if not kinds:
        return form(near)
    return {kind: form(near if kind == "sliding_attention" else seen) for kind in kinds}


def fit_temperature(scores: Tensor, truth: Tensor) -> float:
    """The temperature T at which softmax(scores / T) has the least negative log-likelihood.

    The loss is convex in b = 1 / T; its slope, E_p[score] - score of the truth, is brought to zero by bisection.

    Args:
        scores: [N, C] of a validation split.
        truth: [N] class indices.

    Returns:
        T in [0.001, 1000]: the ends are reached where every answer is right, or none better than chance.
    """
    scores = scores.double()
    scores = scores - scores.mean(dim=1, keepdim=True)
    gold = scores.gather(1, truth[:, None]).mean()
    low, high = -3.0, 3.0  # log10 b
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((scores * 10**middle).softmax(dim=1) * scores).sum(dim=1).mean()
        low, high = (middle, high) if expected < gold else (low, middle)
    return float(10 ** -((low + high) / 2))
