"""Validation and test splits for datasets without them: a seeded part of train, without leaks.

Data flow: samples with the dataset's splits -> groups that must stay together -> samples with train, val, test and the
origin of each split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import replace

from hero_lightning.errors import DataError, one_of
from hero_lightning.types import Sample

SPLIT_NAMES = {"training": "train", "dev": "val", "valid": "val", "validation": "val", "testing": "test"}
"""Other names of our splits."""
UNITS: dict[str, Callable[[Sample], Hashable]] = {
    "dialogue": lambda s: s.dialogue,
    "speaker": lambda s: s.speaker,
    "video": lambda s: str(s.video.path) if s.video else None,
}
"""Units that two splits may share, and the function that names a sample's unit (None = unknown)."""


def check_unique(places: Iterable[tuple[str, str]]) -> None:
    """DataError with both places if an id occurs twice in (id, place)."""
    seen: dict[str, str] = {}
    for name, place in places:
        if name in seen:
            problem, where = f"The sample id {name!r} occurs twice.", f"{seen[name]} and {place}"
            raise DataError(problem, expected="unique ids", where=where, hint="remove or rename one of them")
        seen[name] = place


def check_leaks(samples: Iterable[Sample], by: Collection[str] = ("dialogue",), group: str = "dialogue") -> list[str]:
    """Looks for dialogues, speakers and videos in more than one split.

    Args:
        by: keys of UNITS that no two splits may share; the others are only counted.
        group: name of a dialogue in this dataset.

    Returns:
        One sentence per unit that the samples name.

    Raises:
        DataError: two splits share a unit of `by`.
    """
    samples, report = list(samples), []
    for unit, name_of in UNITS.items():
        places: dict[Hashable, dict[str, str]] = defaultdict(dict)  # unit -> split -> first sample
        for s in samples:
            places[name_of(s)].setdefault(s.split, s.id)
        places.pop(None, None)
        shared = {name: found for name, found in places.items() if len(found) > 1}
        word = group if unit == "dialogue" else unit
        pairs = Counter(" and ".join(sorted(found)) for found in shared.values())
        if shared and unit in by:
            name, found = min(shared.items(), key=lambda item: str(item[0]))
            problem = f"Splits leak: {len(shared)} of {len(places)} {word}s are in more than one."
            got = f"{name} in {', '.join(f'{split} ({i})' for split, i in found.items())}"
            hint = "correct the split lists, or remove them to split by a seed"
            raise DataError(problem, expected=f"every {word} in one split", got=got, hint=hint)
        if places:
            counts = ", ".join(f"{n} in {pair}" for pair, n in pairs.items()) or "none in two splits"
            report.append(f"{len(places)} {word}s: {counts}")
    return report


def make_splits(
    samples: list[Sample],
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    test_from: str | None = None,
    label: str | None = None,
) -> tuple[list[Sample], dict[str, str]]:
    """Completes the splits of a dataset that has a train split.

    Splits by whole dialogues if every train sample has one, else by speakers, else by videos if several samples share a
    file; otherwise by single samples, stratified by `label`.

    Args:
        fractions: val and test -> share of train to use where the split is missing; 0 = leave it missing.
        seed: decides which groups are taken; the order of samples does not.
        test_from: split that serves as test where the dataset has none.
        label: Task by whose classes single samples are stratified.

    Returns:
        The samples in their order, and split -> its origin.

    Raises:
        ConfigError: `test_from` is needed and not a split of the dataset.
    """
    found = Counter(s.split for s in samples)
    origin = dict.fromkeys(found, "given by the dataset")
    if test_from is not None and "test" not in found:
        one_of("dataset.test_from", test_from, [*sorted(found.keys() - {"train"}), None])
        samples = [replace(s, split="test") if s.split == test_from else s for s in samples]
        origin["test"] = f"the dataset's {test_from} split, because it has no test split"
        del origin[test_from]
    train = [s for s in samples if s.split == "train"]
    wanted = {name: share for name, share in fractions.items() if share > 0 and name not in origin}
    if not train or not wanted:
        return samples, origin
    unit, group_of = _unit(train, parts=len(wanted))
    moved: dict[str, str] = {}
    for name, share in wanted.items():
        rest = [s for s in train if s.id not in moved]
        goal = share * len(train)
        picked = _groups(rest, group_of, goal, seed) if group_of else _stratified(rest, label, goal, seed)
        moved |= dict.fromkeys(picked, name)
        if picked:
            origin[name] = f"{share:.4g} of train by {unit}, {len(picked)} of {len(train)}, seed {seed}"
    return [replace(s, split=moved[s.id]) if s.id in moved else s for s in samples], origin


def _unit(train: list[Sample], parts: int) -> tuple[str, Callable[[Sample], Hashable] | None]:
    """The unit that must stay together and the function that names a sample's group; None = single samples."""
    for unit, group_of in UNITS.items():
        groups = {group_of(s) for s in train}
        if None not in groups and parts < len(groups) < len(train):
            return f"whole {unit}s", group_of
    return "single samples", None


def _key(seed: int, name: object) -> bytes:
    """A sort key; sorting by it is a shuffle in which the place of one element does not depend on the others."""
    return hashlib.blake2b(f"{seed}/{name}".encode()).digest()


def _groups(samples: list[Sample], group_of: Callable[[Sample], Hashable], goal: float, seed: int) -> list[str]:
    """Ids of whole groups in seeded order, as near to `goal` samples as possible; at least one group."""
    members: dict[Hashable, list[str]] = defaultdict(list)
    for s in samples:
        members[group_of(s)].append(s.id)
    order = sorted(members, key=lambda g: _key(seed, g))
    picked: list[str] = []
    for group in order:
        if abs(len(picked) + len(members[group]) - goal) < abs(len(picked) - goal):
            picked += members[group]
    return picked or min((members[g] for g in order), key=len)


def _stratified(samples: list[Sample], label: str | None, goal: float, seed: int) -> list[str]:
    """Ids of about `goal` samples, stratified by class; at least one sample of each class stays in train."""
    strata: dict[str, list[str]] = defaultdict(list)
    for s in sorted(samples, key=lambda s: _key(seed, s.id)):
        strata[str(s.labels.get(label) if label else None)].append(s.id)
    # the k-th of n samples is ranked (k + 1/2) / n, which interleaves the classes in proportion
    ranked = [((k + 0.5) / len(ids), i) for ids in strata.values() for k, i in enumerate(ids[:-1])]
    return [i for _, i in sorted(ranked)[: max(1, round(goal))]]
