"""Scoring a closed set of answers in one pass: a shared prefix, and the answers as branches of a tree.

Data flow: candidate answers (token ids) -> Tree -> branch numbers and positions of a batch -> attention mask in which
a branch attends to the prompt, the shared prefix and itself; log-probabilities -> scores [B, K].

Shapes: B rows, N packed positions, K candidates, S scored tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hero_lightning.errors import ConfigError
from hero_lightning.types import pad

PADDING = -1
"""Branch number of padding."""


class Tree(NamedTuple):
    """Candidates packed after a prompt: their shared prefix, then the rest of each.

    Attributes:
        ids: tokens.
        branch: per token, 0 = shared, k + 1 = candidate k only.
        depth: per token, its position after the prompt; branches are parallel, so depths repeat.
    """

    ids: list[int]
    branch: list[int]
    depth: list[int]


def build_tree(candidates: Sequence[Sequence[int]]) -> Tree:
    """Packs K candidates, none empty.

    The shared prefix stands in the tree once. At least one token of each candidate is left to score, even if one
    candidate is the beginning of another.
    """
    shared = 0
    while shared < min(len(c) for c in candidates) - 1 and len({c[shared] for c in candidates}) == 1:
        shared += 1
    ids, branch, depth = list(candidates[0][:shared]), [0] * shared, list(range(shared))
    for k, candidate in enumerate(candidates):
        ids += candidate[shared:]
        branch += [k + 1] * (len(candidate) - shared)
        depth += range(shared, len(candidate))
    return Tree(ids, branch, depth)


def pack(trees: Sequence[Tree], starts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Branch numbers [B, N] (PADDING after a row) and positions [B, N] of trees after prompts of `starts` tokens."""
    branch = [torch.tensor([0] * start + tree.branch) for start, tree in zip(starts, trees, strict=True)]
    position = [torch.tensor([*range(s), *(s + i for i in t.depth)]) for s, t in zip(starts, trees, strict=True)]
    return pad(branch, PADDING)[0].to(device), pad(position)[0].to(device)


class Bundle(NamedTuple):
    """Rows with a common prefix, concatenated.

    Attributes:
        rows: their numbers.
        fork: length of the prefix, which stands once, in the first row.
    """

    rows: list[int]
    fork: int

    def cuts(self, ids: Sequence[Sequence[int]]) -> list[tuple[int, slice]]:
        """Each row and the part of it that is kept."""
        return [(k, slice(self.fork if n else 0, len(ids[k]))) for n, k in enumerate(self.rows)]


def bundle(ids: Sequence[Sequence[int]], answers: Sequence[int], clips: Sequence[int]) -> list[Bundle]:
    """Groups the rows of each clip.

    Args:
        ids: tokens of B rows.
        answers: position where the answer of each row begins; the fork lies before it, so that every token of an
            answer is predicted by a token of its own row.
        clips: the clip of each row.
    """
    own: dict[int, list[int]] = {}
    for k, clip in enumerate(clips):
        own.setdefault(clip, []).append(k)
    found = []
    for rows in own.values():
        limit = min(answers[k] for k in rows) - 1 if len(rows) > 1 else 0
        same = (len({ids[k][n] for k in rows}) == 1 for n in range(limit))
        found.append(Bundle(rows, next((n for n, equal in enumerate(same) if not equal), limit)))
    return found


def lay(bundles: Sequence[Bundle], ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Branch numbers [P, N] (0 = shared, n + 1 = a bundle's n-th row, PADDING after it) and positions [P, N]."""
    branch, position = [], []
    for own in bundles:
        cuts = [cut for _, cut in own.cuts(ids)]
        numbers = [n + 1 for n, cut in enumerate(cuts) for _ in range(cut.start, cut.stop)]
        branch.append(torch.tensor([0] * own.fork + numbers[own.fork :]))
        position.append(torch.tensor([place for cut in cuts for place in range(cut.start, cut.stop)]))
    return pad(branch, PADDING)[0].to(device), pad(position)[0].to(device)


def scored(branch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of S scored tokens: the row, the position whose hidden state predicts the token, the candidate.

    The first token of a branch is predicted by the last shared token, the others by the token before them. In the
    order of the rows and their `Tree.ids`.
    """
    row, place = (branch > 0).nonzero(as_tuple=True)
    first = branch[row, place - 1] != branch[row, place]
    return row, torch.where(first, (branch == 0).sum(dim=1)[row], place) - 1, branch[row, place] - 1


def mean_log_p(logits: Tensor, token: Tensor, row: Tensor, owner: Tensor, rows: int) -> Tensor:
    """Logits [S, V] of scored tokens [S] -> mean log p per candidate [B, K]."""
    log_p = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(dim=-1)  # [S]
    count = int(owner.max()) + 1
    place = row * count + owner
    total = log_p.new_zeros(rows * count).index_add_(0, place, log_p)
    return (total / place.bincount(minlength=rows * count)).view(rows, count)


def tree_mask(branch: Tensor) -> Tensor:
    """Branch numbers [B, N] -> [B, 1, N, N], True where the query (row) attends to the key (column)."""
    query, key = branch[:, :, None], branch[:, None, :]
    seen = (key == 0) | (key == query)  # padding attends to the prompt and itself: no empty row of the softmax
    return (seen & torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril())[:, None]


def attention_masks(config: Any, seen: Tensor, position: Tensor, dtype: torch.dtype) -> Any:
    """The mask in the form that a model of transformers takes.

    Args:
        config: of the model, with its sliding windows and its implementation of attention.
        seen: [B, 1, N, N] of `tree_mask`.
        position: [B, N] position of each token in its own sequence.
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
            hint="choose a Qwen2.5, Qwen3, Llama, Mistral or Gemma model",
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

    The loss is convex in b = 1 / T; the zero of its slope, E_p[score] - score of the truth, is found by bisection.

    Args:
        scores: [B, K] of a validation split.
        truth: [B] class indices.

    Returns:
        T in [0.05, 20]; the ends are reached if all answers are right, or none is better than chance.
    """
    scores = scores.double()
    scores = scores - scores.mean(dim=1, keepdim=True)
    gold = scores.gather(1, truth[:, None]).mean()
    low, high = math.log(1 / 20), math.log(20)  # log b
    for _ in range(50):
        middle = (low + high) / 2
        expected = ((scores * math.exp(middle)).softmax(dim=1) * scores).sum(dim=1).mean()
        low, high = (middle, high) if expected < gold else (low, middle)
    return math.exp(-(low + high) / 2)
