"""Synergy expert: whether sound and movement belong together, moment by moment.

Data flow: two projected sequences -> 32 moments each on one clock -> simultaneous cross-attention -> one token [B, d].

Shapes: B rows, T steps of a sequence, S moments, d width. Masks are True = real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hero_lightning.models.base import Shape
from hero_lightning.models.layers import EPS, Block, sinusoid


class Synergy(nn.Module):
    """Cross-modal transformer over two time-aligned modalities.

    Both directions of a layer share their weights and run as one batch; a learnt embedding distinguishes the two.

    Args:
        shape: width d, heads, dropout.
        layers: blocks of cross-attention and feed-forward.
        steps: moments S both modalities are resampled to.
    """

    def __init__(self, shape: Shape, layers: int = 2, steps: int = 32) -> None:
        super().__init__()
        self.steps, width = steps, shape.width
        self.side = nn.Parameter(torch.randn(2, 1, width) * 0.02)
        self.layers = nn.ModuleList(Block(shape, ("cross",)) for _ in range(layers))
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(
        self,
        first: tuple[Tensor, Tensor],
        second: tuple[Tensor, Tensor],
        times: tuple[Tensor | None, Tensor | None] = (None, None),
        donors: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Compares two modalities.

        Args:
            first: sequence [B, T, d] and mask [B, T], the sound.
            second: sequence [B, T', d] and mask [B, T'], the movement.
            times: seconds [B, T], [B, T'] of their steps; where both are known, moments are equal times.
            donors: [B] rows whose `first` replaces the row's own, stretched over the same moments (its length must
                not reveal a mismatch).
            shift: [B] moments by which `first` is rotated.

        Returns:
            Token [B, d]; meaningless where a modality is absent.
        """
        place_a, place_v = moments(first[1], second[1], times, self.steps)
        sound = first if donors is None else (first[0][donors], first[1][donors])
        a, v = resample(*sound, place_a), resample(*second, place_v)
        if shift is not None:
            order = (torch.arange(self.steps, device=a.device) + shift[:, None]) % self.steps
            a = a.gather(1, order[..., None].expand_as(a))
        clock = sinusoid(torch.arange(self.steps, device=a.device), a.shape[-1])
        # One batch for both directions: rows 0..B-1 are the sound, B..2B-1 the movement.
        x = torch.cat([a + (clock + self.side[0]).to(a.dtype), v + (clock + self.side[1]).to(v.dtype)])
        for layer in self.layers:
            x, _ = layer(x, x.roll(len(a), dims=0))
        joined = self.join(torch.cat(x.chunk(2), dim=-1))
        return self.norm(joined.mean(dim=1))


def moments(
    first: Tensor, second: Tensor, times: tuple[Tensor | None, Tensor | None], steps: int
) -> tuple[Tensor, Tensor]:
    """Places of common moments in two sequences.

    Moments are spread evenly from first to last valid step. Where the seconds of at least two steps of both modalities
    are known, they are spread over these instead (from the earliest step to the latest; outside its own range a
    modality keeps its first or last step).

    Args:
        first: mask [B, T].
        second: mask [B, T'].
        times: seconds [B, T] and [B, T'], or None.
        steps: moments S.

    Returns:
        Two [B, S]: places from 0 (first valid step) to 1 (last valid step).
    """
    even = torch.linspace(0, 1, steps, device=first.device).expand(len(first), -1)
    if times[0] is None or times[1] is None:
        return even, even
    known = torch.ones(len(first), dtype=torch.bool, device=first.device)
    clocks, low, high, places = [], [], [], []
    for mask, time in zip((first, second), (times[0], times[1]), strict=True):
        known = known & (time.isfinite() | ~mask).all(dim=1) & (mask.sum(dim=1) > 1)
        time = torch.where(mask & time.isfinite(), time.float(), torch.inf)
        clocks.append(time.sort(dim=1).values)
        low.append(time.amin(dim=1))
        high.append(torch.where(time.isinf(), -torch.inf, time).amax(dim=1))
    start, end = torch.minimum(*low), torch.maximum(*high)
    at = torch.where(known[:, None], start[:, None] + even * (end - start)[:, None], 0.0)
    for mask, clock in zip((first, second), clocks, strict=True):
        last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        right = torch.searchsorted(clock, at.contiguous(), right=True)
        right = torch.minimum(right.clamp(min=1), last).clamp(max=clock.shape[1] - 1)
        left = (right - 1).clamp(min=0)
        before, after = clock.gather(1, left), clock.gather(1, right)
        share = ((at - before) / (after - before).clamp(min=EPS)).clamp(0, 1)
        places.append(torch.where(known[:, None], (left + share) / last, even))
    return places[0], places[1]


def resample(x: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Linear interpolation over the valid steps of every row.

    Args:
        x: [B, T, d].
        mask: [B, T]; a row without any True reads its first step.
        places: [B, S] from 0 (first valid step) to 1 (last).

    Returns:
        [B, S, d].
    """
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)  # valid steps first, in their own order
    at = places * (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    low = at.floor()
    high = at.ceil()
    rows = torch.arange(len(x), device=x.device)[:, None]
    # [B, S, d] neighbours, mixed by how far the moment is from the lower one
    below, above = x[rows, order.gather(1, low.long())], x[rows, order.gather(1, high.long())]
    return torch.lerp(below, above, (at - low)[..., None].to(x.dtype))
