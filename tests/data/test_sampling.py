"""Training and evaluation order: near-uniform classes, disjoint ranks, reproducible, resumable."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.data.sampling import EpochBatchSampler, EvalBatchSampler
from hero_lightning.errors import ConfigError

CASE = st.tuples(
    st.integers(8, 120),  # items
    st.integers(1, 7),  # batch size
    st.integers(1, 4),  # ranks
    st.integers(0, 5),  # seed
    st.integers(0, 9),  # epoch
    st.booleans(),  # bucket
    st.sampled_from([None, "even", "ratios"]),  # balance
)


def make(case, rank=0, world=None, batch=None):
    count, size, ranks, seed, _, bucket, balance = case
    rng = np.random.default_rng(count)
    return EpochBatchSampler(
        count,
        batch or size,
        seed=seed,
        classes=(np.arange(count) ** 2 % 3).tolist() if balance else None,
        ratios=[1.0, 2.5, 0.5] if balance == "ratios" else None,
        lengths=rng.integers(1, 50, count).tolist() if bucket else None,
        rank=rank,
        world=world or ranks,
    )


@settings(max_examples=80, deadline=None)
@given(CASE)
def test_ranks_share_the_batches_of_one_process(case):
    count, size, world, _, epoch, _, balance = case
    ranks = [make(case, rank).batches(epoch) for rank in range(world)]
    whole = make(case, 0, 1, size * world).batches(epoch)
    assert len({len(r) for r in ranks}) == 1
    assert all(len(make(case, rank)) == len(r) for rank, r in enumerate(ranks))
    for k, parts in enumerate(zip(*ranks, strict=True)):
        assert len({len(p) for p in parts}) == 1, "ranks differ in the size of a batch"
        union = Counter(i for part in parts for i in part)
        assert union == Counter(whole[k]) or (k == len(whole) - 1 and union <= Counter(whole[k]))
    drawn = Counter(i for r in ranks for batch in r for i in batch)
    offered = make(case).size
    assert offered - world < drawn.total() <= offered
    if not balance:
        assert max(drawn.values()) == 1
        assert Counter(i for b in whole for i in b) == Counter(range(count))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=80), st.integers(0, 3))
def test_balance_is_even_over_classes_and_over_members(classes, seed):
    sampler = EpochBatchSampler(len(classes), 4, seed=seed, classes=classes)
    seen: Counter[int] = Counter()
    for epoch in range(4):
        items = [i for batch in sampler.batches(epoch) for i in batch]
        per_class = Counter(classes[i] for i in items)
        assert set(per_class) == set(classes)
        assert len(set(per_class.values())) == 1
        seen.update(items)
        for c in per_class:  # members of a class take turns, also over epochs
            turns = [seen[i] for i in range(len(classes)) if classes[i] == c]
            assert max(turns) - min(turns) <= 1


def test_items_without_a_class_are_not_drawn():
    sampler = EpochBatchSampler(6, 2, classes=[0, -1, 1, 0, -1, 0])
    assert {i for batch in sampler.batches(0) for i in batch} <= {0, 2, 3, 5}


@settings(max_examples=30, deadline=None)
@given(CASE)
def test_order_is_a_function_of_seed_and_epoch(case):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    epoch = case[4]
    first = make(case)
    for other in (3, 0, epoch):  # what was drawn before does not matter
        batches = first.batches(other)
    assert batches == make(case).batches(epoch)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_epochs_and_seeds_differ():
    orders = {
        tuple(np.concatenate(EpochBatchSampler(50, 5, seed=s, lengths=[9] * 50).batches(e)))
        for s in range(3)
        for e in range(3)
    }
    assert len(orders) == 9


def test_bucketing_saves_padding_and_keeps_batches_varied():
    lengths = np.random.default_rng(0).integers(1, 200, 640)

    def padded(batches):
        return sum(len(b) * max(lengths[b]) for b in batches)

    plain, bucketed = EpochBatchSampler(640, 8), EpochBatchSampler(640, 8, lengths=lengths.tolist())
    assert padded(bucketed.batches(0)) < 0.7 * padded(plain.batches(0))
    batches = [{frozenset(b) for b in bucketed.batches(epoch)} for epoch in range(2)]
    assert len(batches[0] & batches[1]) < 5
    means = [np.mean(lengths[b]) for b in EpochBatchSampler(128, 8, lengths=lengths[:128].tolist()).batches(0)]
    assert sum(a < b for a, b in itertools.pairwise(means)) < 12, "batches come in order of length"


@settings(max_examples=30, deadline=None)
@given(CASE, st.integers(0, 10))
def test_resume_inside_an_epoch(case, done):
    epoch = case[4]
    whole = make(case)
    whole.set_epoch(epoch)
    batches = list(whole)
    done = min(done, len(batches))
    resumed = make(case)
    resumed.load_state_dict(whole.state_dict(done))
    resumed.set_epoch(epoch)  # Lightning does so before the first batch
    assert list(resumed) == batches[done:]
    assert list(resumed) == batches, "the start holds for one pass"
    resumed.load_state_dict(whole.state_dict(done))
    resumed.set_epoch(epoch + 1)
    assert len(list(resumed)) == len(batches), "another epoch starts at its beginning"


def test_draws_carry_the_epoch():
    sampler = EpochBatchSampler(6, 4)
    sampler.set_epoch(3)
    assert {epoch for batch in sampler for epoch, _ in batch} == {3}


def test_fewer_items_than_ranks():
    with pytest.raises(ConfigError, match="fewer training items than processes"):
        EpochBatchSampler(2, 1, world=3)
    with pytest.raises(ConfigError, match="fewer training items"):
        EpochBatchSampler(4, 1, classes=[-1] * 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_evaluation_is_in_order_and_complete(count, size, world):
    samplers = [EvalBatchSampler(count, size, rank=r, world=world) for r in range(world)]
    ranks = [list(s) for s in samplers]
    assert {len(r) for r in ranks} == {len(samplers[0])}
    together = [[i for part in parts for _, i in part] for parts in zip(*ranks, strict=True)]
    assert {i for batch in together for i in batch} == set(range(count))
    assert sum(map(len, together)) - count < world
    assert all(len({len(p) for p in parts}) == 1 for parts in zip(*ranks, strict=True))
    if world == 1:
        assert [i for batch in together for i in batch] == list(range(count))
