"""Losses over the clips of two processes equal those of one."""

from __future__ import annotations

import torch
from torch import distributed as dist
from torch import multiprocessing
from torch.nn import functional as F

from hero_lightning.training.contrastive import info_nce
from hero_lightning.training.ranks import gather, ranks

SIZES = (3, 2)


def sides() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(sum(SIZES), 4, generator=generator).requires_grad_() for _ in range(2))
    return a, b, torch.tensor([True, True, False, True, True]), torch.arange(sum(SIZES))


def loss_of(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of some rows, and its gradients for all of them."""
    a, b, there, keys = sides()
    own = [(F.normalize(x[rows], dim=-1), there[rows]) for x in (a, b)]
    loss, count = info_nce(own[0], own[1], keys[rows], 5.0)
    assert count == 4
    loss.backward()
    assert a.grad is not None
    assert b.grad is not None
    return loss.detach(), torch.cat([a.grad, b.grad])


def work(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(SIZES))
    rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    found = loss_of(rows)
    masks = gather(torch.ones(SIZES[rank], dtype=torch.bool))
    torch.save([*found, masks], f"{out}.{rank}")
    dist.barrier()  # a rank that leaves while the other still talks to it aborts that one
    dist.destroy_process_group()


def test_two_processes_give_loss_and_gradients_of_one(tmp_path):
    assert ranks() == 1
    expected = loss_of(slice(None))
    multiprocessing.spawn(work, (str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    parts = [torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in range(2)]
    # DDP averages gradients over ranks, and so must the loss
    for k in range(2):
        torch.testing.assert_close((parts[0][k] + parts[1][k]) / 2, expected[k])
    assert parts[0][2].tolist() == [True, True, True, True, True, False]
