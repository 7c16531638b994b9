"""Tables of predictions: each sample once, for any batches and ranks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.metrics.table import ExplanationTable, PredictionTable, first_of_each
from hero_lightning.models.outputs import Fused, Outputs
from hero_lightning.types import Label


def outputs(n: int, experts: tuple[str, ...] = ("text", "audio", "synergy")) -> Outputs:
    present = torch.ones(n, len(experts), dtype=torch.bool)
    present[0] = False
    return Outputs(
        logits={},
        experts=experts,
        summaries=torch.zeros(n, len(experts), 2),
        present=present,
        fused=Fused(
            context=torch.zeros(n, 1, 2),
            pooled=torch.zeros(n, 2),
            gate=torch.arange(n)[:, None].expand(-1, len(experts)) / 10,
            importance=torch.ones(n, 2) / 2,
            segments=(("text", 0, 4), ("audio", 4, 8)),
        ),
        imputed=~present,
        sync_logit=torch.zeros(n),
    )


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_sample_seen_twice_counts_once(batches: list[list[int]]) -> None:
    table = PredictionTable()
    for rows in batches:
        index = torch.tensor(rows)
        table.update(index, index[:, None].expand(-1, 3) * 1.0, Label(index * 2, index % 2 == 0))
    found = table.compute()
    seen = sorted({i for rows in batches for i in rows})
    assert found.index.tolist() == seen
    assert found.prediction[:, 0].tolist() == seen
    assert found.label.value.tolist() == [2 * i for i in seen]
    assert found.label.mask.tolist() == [i % 2 == 0 for i in seen]


@given(st.lists(st.integers(-3, 3), min_size=1))
@settings(max_examples=50, deadline=None)
def test_first_of_each(values: list[int]) -> None:
    index, where = first_of_each(torch.tensor(values))
    assert index.tolist() == sorted(set(values))
    assert where.tolist() == [values.index(v) for v in sorted(set(values))]


def test_a_split_with_one_sample_keeps_its_axis() -> None:
    table = PredictionTable()
    table.update(torch.tensor([4]), torch.tensor([[0.5]]), Label(torch.tensor([0.2]), torch.tensor([True])))
    found = table.compute()
    assert (found.index.shape, found.prediction.shape, found.label.value.shape) == ((1,), (1, 1), (1,))


def test_reset() -> None:
    table = PredictionTable()
    for value in (0.0, 1.0):
        table.reset()
        table.update(torch.tensor([0]), torch.tensor([[value]]), Label(torch.tensor([0]), torch.tensor([True])))
    assert table.compute().prediction.item() == 1


def test_columns_of_explanations() -> None:
    table = ExplanationTable()
    table.update(torch.tensor([1, 0]), outputs(2))
    found = table.compute()
    assert found.index.tolist() == [0, 1]
    names, gate = found.matrix("gate")
    assert names == ("text", "audio", "synergy")
    torch.testing.assert_close(gate[:, 0], torch.tensor([0.1, 0.0]))
    assert found.numbers["imputed_text"].tolist() == [0, 1]
    assert found.matrix("importance")[0] == ("text", "audio")
    assert found.numbers["sync"][0] == 0.5
    assert found.numbers["sync"][1].isnan()  # the synergy expert had no input
    assert found.matrix("nothing")[1].shape == (2, 0)


def test_a_model_without_gate_has_presence_only() -> None:
    bare = outputs(2, ("text",))
    bare = replace(bare, fused=Fused(bare.context, bare.context[:, 0]), imputed=None, sync_logit=None)
    table = ExplanationTable()
    table.update(torch.tensor([0, 1]), bare)
    assert list(table.compute().numbers) == ["present_text"]


def test_rows_of_two_ranks_are_joined_in_order() -> None:
    """With the gathering of torchmetrics replaced; the slow test below runs two processes."""
    ranks = [PredictionTable(), PredictionTable()]
    for table, index in zip(ranks, ([4, 0, 2], [1, 3, 4]), strict=True):
        rows = torch.tensor(index)
        table.update(rows, rows[:, None] * 1.0, Label(rows, rows > 1))
    names = ("index", "prediction", "value", "mask")
    states = {id(getattr(ranks[0], n)[0]): [getattr(t, n)[0] for t in ranks] for n in names}
    ranks[0].distributed_available_fn = lambda: True
    ranks[0].dist_sync_fn = lambda tensor, group=None: states[id(tensor)]
    found = ranks[0].compute()
    assert found.index.tolist() == found.label.value.tolist() == [0, 1, 2, 3, 4]
    assert found.label.mask.tolist() == [False, False, True, True, True]


def _rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    table, explained = PredictionTable(), ExplanationTable()
    for index in ([0, 2, 4], [4]) if rank == 0 else ([1, 3], [4, 4, 4]):  # ranks of unequal size, row 4 as padding
        rows = torch.tensor(index)
        table.update(rows, rows[:, None] * 1.0, Label(rows, rows > 1))
        explained.update(rows, outputs(len(rows)))
    found = table.compute()
    assert found.index.tolist() == found.label.value.tolist() == [0, 1, 2, 3, 4]
    assert found.label.mask.tolist() == [False, False, True, True, True]
    assert explained.compute().index.tolist() == [0, 1, 2, 3, 4]
    Path(folder, f"done{rank}").touch()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_rows_of_all_ranks_are_gathered(tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    assert (tmp_path / "done0").exists()
    assert (tmp_path / "done1").exists()
