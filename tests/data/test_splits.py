"""Splits a dataset lacks: whole dialogues, speakers or videos, else stratified; the same whatever the order."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.data.splits import check_leaks, check_unique, make_splits
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.types import Media, Sample

BOTH = {"test": 0.1, "val": 0.2}


def clips(n=100, **each):
    """n train samples; `each` maps a field to a function of the number."""
    return [
        Sample(
            id=f"s{k}",
            split="train",
            labels={"emotion": "ab"[k % 5 == 0 or (k == 3 and n == 4)]},
            **{f: of(k) for f, of in each.items()},
        )
        for k in range(n)
    ]


def parts(samples, of=lambda s: s.id):
    out = {}
    for s in samples:
        out.setdefault(s.split, set()).add(of(s))
    return out


@pytest.mark.parametrize(
    ("each", "group", "unit"),
    [
        ({"dialogue": lambda k: f"d{k // 4}", "speaker": lambda k: f"p{k % 3}"}, lambda s: s.dialogue, "dialogues"),
        ({"speaker": lambda k: f"p{k // 5}"}, lambda s: s.speaker, "speakers"),
        ({"video": lambda k: Media(Path(f"v{k // 10}.mp4"), (k % 10, k % 10 + 1))}, lambda s: s.video.path, "videos"),
    ],
)
def test_groups_stay_together(each, group, unit):
    samples, origin = make_splits(clips(**each), BOTH, seed=1)
    found = parts(samples, group)
    assert found.keys() == {"train", "val", "test"}
    assert not (found["train"] & found["val"] | found["train"] & found["test"] | found["val"] & found["test"])
    assert f"whole {unit}" in origin["val"]
    assert "seed 1" in origin["val"]
    counts = Counter(s.split for s in samples)
    assert 5 <= counts["test"] <= 15
    assert 15 <= counts["val"] <= 25


def test_single_samples_are_stratified():
    samples, origin = make_splits(clips(), BOTH, label="emotion")
    assert Counter((s.split, s.labels["emotion"]) for s in samples) == {
        ("train", "a"): 56, ("val", "a"): 16, ("test", "a"): 8, ("train", "b"): 14, ("val", "b"): 4, ("test", "b"): 2,
    }  # fmt: skip
    assert "single samples, 20 of 100" in origin["val"]
    rare = [*clips(4), Sample("only", "train", labels={"emotion": "c"})]
    for seed in range(8):
        out, _ = make_splits(rare, {"val": 0.9}, label="emotion", seed=seed)
        assert {s.labels["emotion"] for s in out if s.split == "train"} == {"a", "b", "c"}


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(10, 60),
    st.integers(1, 8),
    st.sampled_from(["dialogue", "speaker", None]),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter_and_nothing_is_lost(seed, n, size, field, rng: random.Random):
    samples = clips(n, **({field: lambda k: f"g{k // size}"} if field else {}))
    shuffled = rng.sample(samples, n)
    one, origin = make_splits(samples, BOTH, seed=seed, label="emotion")
    two, _ = make_splits(shuffled, BOTH, seed=seed, label="emotion")
    assert [s.id for s in two] == [s.id for s in shuffled]
    assert parts(one) == parts(two)
    assert set(origin) >= {"train", *parts(one)}
    assert parts(one)["train"]
    assert sum(map(len, parts(one).values())) == n


def test_seeds_choose_differently():
    assert len({frozenset(parts(make_splits(clips(), BOTH, seed=s)[0])["val"]) for s in range(5)}) == 5


def test_official_splits_stay():
    samples = [*clips(20), Sample("v", "val"), Sample("t", "test")]
    assert make_splits(samples, BOTH)[0] == samples
    no_train = [Sample("t", "test")]
    assert make_splits(no_train, BOTH) == (no_train, {"test": "given by the dataset"})


def test_another_part_serves_as_test():
    samples = [*clips(40), *(Sample(f"v{k}", "val") for k in range(5))]
    out, origin = make_splits(samples, {"test": 0.0, "val": 0.1}, test_from="val")
    found = parts(out)
    assert found["test"] == {f"v{k}" for k in range(5)}
    assert len(found["val"]) == 4
    assert found["val"] <= {s.id for s in samples if s.split == "train"}
    assert origin["test"] == "the dataset's val split, because it has no test split"
    with pytest.raises(ConfigError, match=r"Unknown dataset\.test_from"):
        make_splits(samples, BOTH, test_from="dev2")
    official = [*samples, Sample("t", "test")]
    assert make_splits(official, {"val": 0.1}, test_from="val")[0] == official


def test_too_few_groups_fall_through():
    _, origin = make_splits(clips(dialogue=lambda k: "all", speaker=lambda k: f"p{k % 10}"), {"val": 0.1})
    assert "whole speakers" in origin["val"]
    _, origin = make_splits(clips(speaker=lambda k: f"p{k % 2}"), BOTH)
    assert "single samples" in origin["val"]


def test_duplicate_ids_name_both_places():
    with pytest.raises(DataError, match="'a' occurs twice") as caught:
        check_unique([("a", "train.csv, line 2"), ("b", "train.csv, line 3"), ("a", "dev.csv, line 9")])
    assert caught.value.details["where"] == "train.csv, line 2 and dev.csv, line 9"


def test_shared_units_are_counted_and_those_named_are_refused():
    given = [
        Sample("a", "train", Media(Path("v1")), speaker="p", dialogue="d1"),
        Sample("b", "val", Media(Path("v1")), speaker="p", dialogue="d2"),
        Sample("c", "test", Media(Path("v2")), speaker="q", dialogue="d3"),
        Sample("d", "test", speaker="p"),
    ]
    sentences = check_leaks(given)
    assert sentences == ["3 dialogues: none in two splits", "2 speakers: 1 in test and train and val",
                         "2 videos: 1 in train and val"]  # fmt: skip
    assert check_leaks([Sample("a", "train"), Sample("b", "val")]) == []
    for unit, name in (("speaker", "p in train (a), val (b), test (d)"), ("video", "v1 in train (a), val (b)")):
        with pytest.raises(DataError, match=f"Splits leak: 1 of 2 {unit}s") as caught:
            check_leaks(given, by=(unit,))
        assert name in str(caught.value)
