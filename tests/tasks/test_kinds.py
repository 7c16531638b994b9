"""Tasks: encoding, masks, losses, metrics, baselines, state."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.tasks import ClassTask, DistributionTask, MultilabelTask, OpenTask, PairTask, ScoreTask, Task
from hero_lightning.types import Label

CLASSES = ["angry", "happy", "sad"]


def build(kind: str) -> Task:
    return {
        "class": lambda: ClassTask("y", CLASSES),
        "multilabel": lambda: MultilabelTask("y", CLASSES),
        "score": lambda: ScoreTask("y", -3, 3),
        "distribution": lambda: DistributionTask("y", CLASSES),
    }[kind]()


VALUES = {
    "class": st.sampled_from(CLASSES),
    "multilabel": st.sets(st.sampled_from(CLASSES)),
    "score": st.floats(-3, 3),
    "distribution": st.dictionaries(st.sampled_from(CLASSES), st.floats(0.01, 5), min_size=1),
}
KINDS = sorted(VALUES)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_rows_without_a_label_are_ignored(kind: str, data: st.DataObject) -> None:
    task = build(kind)
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=8))
    label = task.collate(values, [f"s{i}" for i in range(len(values))])
    assert label.mask.tolist() == [v is not None for v in values]
    logits = torch.randn(len(values), task.outputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = task.loss(logits, label)
    loss.backward()
    assert (logits.grad[~label.mask] == 0).all()
    if not label.mask.any():
        assert loss.item() == 0
        assert task.metrics(task.predict(logits.detach()), label) == {}
        return
    kept = [v for v in values if v is not None]
    labelled = task.collate(kept, ["s"] * len(kept))
    torch.testing.assert_close(task.loss(logits[label.mask], labelled), loss)
    metrics = task.metrics(task.predict(logits.detach()), label)
    assert metrics == pytest.approx(task.metrics(task.predict(logits.detach()[label.mask]), labelled), nan_ok=True)
    assert next(iter(metrics)) == task.primary


@pytest.mark.parametrize("kind", KINDS)
def test_state_and_pickle_round_trip(kind: str) -> None:
    values = {
        "class": ["sad", "angry", "sad"],
        "multilabel": [["sad"], [], ["sad", "happy"]],
        "score": [-1, 2, 0.5],
        "distribution": [{"sad": 1}, {"happy": 1, "sad": 3}, [1, 1, 1]],
    }[kind]
    task = build(kind).fit(values)
    label = task.collate(values, ["a", "b", "c"])
    for copy in (Task.from_state(task.state()), pickle.loads(pickle.dumps(task))):
        assert copy.state() == task.state()
        assert copy.majority(label) == pytest.approx(task.majority(label), nan_ok=True)
    assert all(isinstance(v, str | float | int | list | None) for v in task.state()["settings"].values())


def test_class_loss_is_the_cross_entropy_of_the_labelled_rows() -> None:
    task = ClassTask("y", CLASSES, label_smoothing=0.1)
    logits = torch.randn(4, 3)
    label = task.collate(["sad", None, "angry", "happy"], list("abcd"))
    expected = F.cross_entropy(logits[[0, 2, 3]], torch.tensor([2, 0, 1]), label_smoothing=0.1)
    torch.testing.assert_close(task.loss(logits, label), expected)


def test_loss_is_computed_in_float32_under_bf16() -> None:
    task = ClassTask("y", CLASSES)
    assert task.loss(torch.zeros(1, 3, dtype=torch.bfloat16), task.collate(["sad"], ["a"])).dtype == torch.float32


def test_balanced_weights_average_to_one_over_train() -> None:
    train = ["angry"] * 6 + ["happy"] * 3
    task = ClassTask("y", CLASSES, class_weights="balanced").fit(train)
    label = task.collate(train, ["s"] * 9)
    even = torch.zeros(9, 3)  # every row costs log 3, so the mean loss is log 3 times the mean weight
    assert task.loss(even, label).item() == pytest.approx(math.log(3), rel=1e-6)
    rare = task.loss(even[:1], task.collate(["happy"], ["s"])).item() / math.log(3)
    assert rare == pytest.approx(9 / (2 * 3))
    unseen = task.loss(even[:1], task.collate(["sad"], ["s"])).item() / math.log(3)
    assert unseen == pytest.approx(1)


def test_classes_are_those_of_train_in_order() -> None:
    task = ClassTask("y").fit(["sad", None, "angry", "sad"])
    assert task.classes == ("angry", "sad")
    assert task.outputs == 2
    assert task.prior.tolist() == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("task", "value", "problem", "expected"),
    [
        (ClassTask("y", CLASSES), "bored", "Unknown label for task y", "['angry', 'happy', 'sad']"),
        (MultilabelTask("y", CLASSES), ["sad", "bored"], "Unknown label for task y", "['angry', 'happy', 'sad']"),
        (MultilabelTask("y", CLASSES), "sad", "Label of a wrong kind for task y", "a list or mapping"),
        (MultilabelTask("y", CLASSES), [0.1, 0.2], "Wrong number of intensities", "one for each of"),
        (MultilabelTask("y", CLASSES), {"sad": -1}, "Negative intensity", "numbers >= 0"),
        (ScoreTask("y", -3, 3), 3.5, "Score out of range", "-3.0 to 3.0"),
        (ScoreTask("y", -3, 3), "much", "Label that is no number", "a finite number"),
        (ScoreTask("y", -3, 3), math.nan, "Label that is no number", "a finite number"),
        (DistributionTask("y", CLASSES), {"sad": 0.0}, "Distribution without mass", "above 0"),
    ],
)
def test_invalid_labels_are_refused_with_a_hint(task: Task, value, problem: str, expected: str) -> None:
    with pytest.raises(DataError) as error:
        task.collate([value], ["dia3_utt2"])
    for part in (problem, expected, "dia3_utt2", "dataset.unknown_label=drop"):
        assert part in str(error.value)
    assert task.encode(value, "here", unknown="drop") is None
    assert task.collate([None], ["a"]).mask.tolist() == [False]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: ClassTask("y", ["one"]), "classes"),
        (lambda: ClassTask("y", ["one", "one"]), "classes"),
        (lambda: ClassTask("y", CLASSES, class_weights="sqrt"), "class_weights"),  # type: ignore[arg-type]
        (lambda: ClassTask("y", CLASSES, label_smoothing=1.0), "label_smoothing"),
        (lambda: ClassTask("y", CLASSES, weight=-1), "weight"),
        (lambda: MultilabelTask("y", []), "classes"),
        (lambda: DistributionTask("y", ["one"]), "classes"),
        (lambda: ScoreTask("y", 1, 1), "high"),
        (lambda: ScoreTask("y", 0, 1, loss="l3"), "loss"),  # type: ignore[arg-type]
        (lambda: ScoreTask("y", 0, 1, metrics="mosei"), "metrics"),
        (lambda: PairTask("y", max_comparisons=0), "max_comparisons"),
        (lambda: OpenTask("y", min_count=0), "min_count"),
        (lambda: OpenTask("y", max_classes=0), "max_classes"),
    ],
)
def test_invalid_options_name_their_key(make, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.tasks\.y\.{key}\b"):
        make()


def test_a_train_split_without_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"(?s)too few labels for task y.*dataset\.tasks\.y\.classes="):
        ClassTask("y").fit(["sad", "sad"])
    with pytest.raises(DataError, match="too few labels for task y"):
        ClassTask("y", CLASSES, class_weights="balanced").fit([])


def test_intensities_become_labels_and_shares() -> None:
    multi, shares = MultilabelTask("y", CLASSES), DistributionTask("y", CLASSES)
    assert multi.encode({"sad": 0.3, "happy": 0}, "a") == [0, 0, 1]
    assert multi.encode([0, 2, 0.5], "a") == [0, 1, 1]
    assert multi.encode([], "a") == [0, 0, 0]
    assert shares.encode({"sad": 3, "happy": 1}, "a") == [0, 0.25, 0.75]


@pytest.mark.parametrize(("loss", "expected"), [("mse", 0.25), ("mae", 0.5), ("huber", 0.125)])
def test_scores_are_scaled_and_clamped(loss, expected: float) -> None:
    task = ScoreTask("y", 0, 10, loss=loss)
    label = task.collate([10], ["a"])
    assert task.loss(torch.tensor([[0.5]]), label).item() == pytest.approx(
        expected
    )  # the label 10 is 1 on the scale of the logit
    assert task.predict(torch.tensor([[0.5], [4.0], [-4.0]])).squeeze(1).tolist() == [7.5, 10, 0]


def test_majority_and_chance() -> None:
    task = ClassTask("y", CLASSES).fit(["sad"] * 3 + ["happy"])
    label = task.collate(["sad", "sad", "happy", None], list("abcd"))
    majority, chance = task.majority(label), task.chance(label)
    assert majority["accuracy"] == pytest.approx(2 / 3)
    assert majority["uar"] == pytest.approx(1 / 2)
    assert chance["accuracy"] == chance["uar"] == pytest.approx(1 / 3)
    score = ScoreTask("v", 0, 10).fit([2, 4])
    assert score.majority(score.collate([1, 5], list("ab")))["mae"] == pytest.approx(2)
    assert ClassTask("y", CLASSES).majority(label) == {}


def test_columns() -> None:
    task = ClassTask("y", ["a", "b"])
    columns = task.columns(torch.tensor([[0.25, 0.75], [0.5, 0.5]]), task.collate(["a", None], ["1", "2"]))
    names = {"truth": ["a", None], "prediction": ["b", "a"]}
    assert columns == {**names, "p_a": [0.25, 0.5], "p_b": [0.75, 0.5], "confidence": [0.75, 0.5]}
    multi = MultilabelTask("y", ["a", "b"])
    found = multi.columns(torch.tensor([[0.9, 0.8]]), multi.collate([["b"]], ["1"]))
    assert (found["truth"], found["prediction"]) == (["b"], ["a|b"])
    label = Label(torch.tensor([0.25]), torch.tensor([True]))
    assert ScoreTask("y", 0, 1).columns(torch.tensor([[0.5]]), label) == {"truth": [0.25], "prediction": [0.5]}
