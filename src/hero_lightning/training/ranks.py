"""Rows of all ranks, for losses that compare the clips of a batch with each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F


def ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(rows: Tensor) -> Tensor:
    """Rows [B, ...] of this rank -> those of all ranks in order of the rank, with gradients to each rank's own.

    Ranks with fewer rows are filled with zeros (False), so that a mask that is gathered alike tells them apart.
    """
    if ranks() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    most = torch.tensor(len(rows), device=rows.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    kind = rows.dtype
    filled = F.pad(
        rows.to(torch.uint8) if kind == torch.bool else rows, (0, 0) * (rows.dim() - 1) + (0, int(most) - len(rows))
    )
    return torch.cat(all_gather(filled.contiguous())).to(kind)
