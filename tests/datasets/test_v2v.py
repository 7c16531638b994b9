"""V2V: comparisons as items, clusters that no split cuts, groups end to end."""

from __future__ import annotations

import json

import pytest
import torch

from hero_lightning.datasets.v2v import clusters, read_comparisons
from hero_lightning.errors import DataError
from hero_lightning.media.frame_samplers import Consecutive, Uniform
from hero_lightning.media.types import ClipInfo
from hero_lightning.metrics.table import PredictionTable
from hero_lightning.types import Sample
from tests.datasets.official_trees import V2V, bare, build, v2v

# ---- reading and splitting


def test_parts_counts_and_comparisons(tmp_path):
    datamodule = build("v2v", tmp_path / "c")
    index = datamodule.index
    assert sum(len(index.samples[k]) for k in ("train", "val")) == 12
    assert {k: len(index.samples[k]) for k in ("test", "test_listwise")} == {"test": 5, "test_listwise": 6}
    assert datamodule.test_splits == ["test", "test_listwise"]
    assert "by whole clusters" in index.split_origin["val"]
    for note in (
        "v2v train has 7 comparisons; the official count is 11038",
        "v2v test_listwise has 2 comparisons; the official count is 1758",
        "v2v train has 12 samples; the official count is 16125",
    ):
        assert note in index.notes
    shared = next(s for s in index.samples["test"] if s.id == "50021")
    assert shared.labels["preference"] == [[7, 1, 2], [8, 1, 2]]
    assert shared.video.path == tmp_path / "c" / "videos" / "50021.mp4"
    assert bare("v2v", tmp_path / "c", videos=tmp_path).samples()[0].video.path.parent == tmp_path


def test_clusters():
    found = clusters([["a", "b"], ["d", "c"], ["c", "b"], ["x", "y"]])
    assert found == {"a": "a", "b": "a", "c": "a", "d": "a", "x": "x", "y": "x"}


def test_no_video_is_shared(tmp_path):
    for seed in range(6):
        datamodule = build("v2v", tmp_path / "c", split_seed=seed)
        ids = {k: {s.id for s in rows} for k, rows in datamodule.index.samples.items()}
        assert not ids["train"] & ids["val"]
        assert ids["val"]
        for members in V2V["train"]:
            assert len({k for k in ("train", "val") if set(members) & ids[k]}) == 1, "a comparison was cut"
    assert "1 of 5 v2v test videos are in VCE's train file" in " ".join(datamodule.index.notes)
    assert "1 of 6 v2v test_listwise videos are in VCE's train file" in " ".join(datamodule.index.notes)


def test_a_video_in_two_parts_is_refused(tmp_path):
    root = v2v(tmp_path / "c", test=[["00001", "50021"]])
    with pytest.raises(DataError, match="'00001' occurs twice") as caught:
        bare("v2v", root).build_index()
    assert "(train) and" in str(caught.value)
    assert "(test)" in str(caught.value)


@pytest.mark.parametrize(
    "members", [["00001"], ["00001", "00001"], ["1", "00002"], ["00001", 2], "00001", list("abcde")]
)
def test_bad_comparisons(tmp_path, members):
    path = tmp_path / "train_labels.json"
    path.write_text(json.dumps({"comparisons": [["00001", "00002"], members]}))
    with pytest.raises(DataError, match="comparison has another form") as caught:
        read_comparisons(path)
    assert "comparison 1" in str(caught.value)
    path.write_text("[]")
    with pytest.raises(DataError, match="label file has another form"):
        read_comparisons(path)


# ---- items and groups, end to end


def ids_of(datamodule, split):
    return [tuple(datamodule.index.samples[split][row].id for row in item) for item in datamodule.items(split)]


def test_items_are_comparisons(tmp_path):
    datamodule = build("v2v", tmp_path / "c")
    split_of = {s.id: k for k in ("train", "val") for s in datamodule.index.samples[k]}
    assert ids_of(datamodule, "train") == [tuple(c) for c in V2V["train"] if split_of[c[0]] == "train"]
    assert ids_of(datamodule, "test") == [("00020", "50021"), ("50022",), ("50023", "50024")], "each video is had once"
    assert ids_of(datamodule, "test_listwise") == [("00030", "50031", "50032"), ("50033", "50034", "50035")]


def test_batches_carry_group_and_order(tmp_path):
    datamodule = build("v2v", tmp_path / "c", batch_size=3)
    seen = []
    for batch in datamodule.loader("train", shuffle=True):
        assert batch.order.tolist() == [0, 1] * (len(batch) // 2)
        assert batch.group.tolist() == [k // 2 for k in range(len(batch))]
        seen += [tuple(batch.ids[k : k + 2]) for k in range(0, len(batch), 2)]
    assert sorted(seen) == sorted(ids_of(datamodule, "train"))
    (batch,) = datamodule.loader("test_listwise")
    assert batch.group.tolist() == [0, 0, 0, 1, 1, 1]


def score(datamodule, split, utility, batches=None):
    """Metrics of utilities {id: u} over a split, as the module collects them."""
    table, task = PredictionTable(), datamodule.tasks["preference"]
    for batch in batches or datamodule.loader(split):
        logits = torch.tensor([[utility[i]] for i in batch.ids])
        table.update(batch.index, task.predict(logits), batch.labels["preference"])
    found = table.compute()
    return task.metrics(found.prediction, found.label)


def test_every_comparison_is_scored(tmp_path):
    pairs = [[f"{2 * k:05d}", f"{2 * k + 1:05d}"] for k in range(50_000 // 2, 50_000 // 2 + 13)]
    datamodule = build("v2v", v2v(tmp_path / "c", test=pairs))
    task, (batch, *rest) = datamodule.tasks["preference"], list(datamodule.loader("test"))
    rows = [task.statistics(torch.zeros(len(b), 1), b.labels["preference"].value) for b in (batch, *rest)]
    assert sum(int(r[:, 0].sum()) for r in rows) == 13
    up = {s.id: float(s.id) for s in datamodule.index.samples["test"]}
    assert score(datamodule, "test", up)["pair_accuracy"] == 1.0


def test_metrics_look_comparisons_up(tmp_path):
    datamodule = build("v2v", tmp_path / "c")
    utility = {"00020": 0.0, "50021": 1.0, "50022": 2.0, "50023": 3.0, "50024": 3.0}
    assert score(datamodule, "test", utility)["pair_accuracy"] == pytest.approx(1 / 3), "one wrong, one tied"
    order = {"00030": 0.1, "50031": 0.2, "50032": 0.3, "50033": 0.1, "50034": 0.4, "50035": 0.3}
    found = score(datamodule, "test_listwise", order)
    assert found["list_accuracy"] == 0.5
    assert found["pair_accuracy"] == pytest.approx(8 / 9)


def test_a_comparison_without_its_video_is_wrong(tmp_path):
    root = tmp_path / "c"
    datamodule = build("v2v", root)
    (root / "features" / "50024.npy").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 clips lack a modality") as caught:
        datamodule.build_index()
    assert "50024 (test)" in str(caught.value)
    (root / "features" / "00004.npy").write_bytes(b"broken")
    datamodule = bare("v2v", root, missing="mask", val_fraction=0.1)
    assert ("50024", "dropped") in {(e.id, e.kind) for e in datamodule.index.ledger}
    utility = {"00020": 0.0, "50021": 1.0, "50022": 0.5, "50023": 0.0}
    assert score(datamodule, "test", utility)["pair_accuracy"] == pytest.approx(2 / 3)
    assert not any("00005" in item for item in ids_of(datamodule, "train")), (
        "a pair without its partner teaches nothing"
    )


def test_repeated_samples_count_once(tmp_path):
    datamodule = build("v2v", tmp_path / "c")
    utility = {s.id: float(k) for k, s in enumerate(datamodule.index.samples["test"])}
    batches = list(datamodule.loader("test"))
    again = [*batches, batches[0]]
    assert score(datamodule, "test", utility, again) == score(datamodule, "test", utility)


# ---- frame sampling as in the reference


def frames(sampler, count):
    info = ClipInfo(duration=count / 30, has_video=True, has_audio=False, fps=30.0, num_frames=count)
    return [round(t * 30) for t in sampler.plan(info, Sample("s", "test"), 0, 0).times]


@pytest.mark.parametrize(
    ("sampler", "count", "indices"),
    [
        (Uniform(16, ends=True), 360, [0, 24, 48, 72, 96, 120, 144, 168, 191, 215, 239, 263, 287, 311, 335, 359]),
        (Uniform(3, ends=True), 10, [0, 4, 9]),
        (Uniform(9, ends=True), 3, [0, 0, 0, 1, 1, 1, 2, 2, 2]),
        (Uniform(16, ends=True), 1, [0] * 16),
        (Uniform(1, ends=True), 10, [0]),
        (Consecutive(16, stride=4), 24, [0, 4, 8, 12, 16, 20] + [23] * 10),
        (Consecutive(16, stride=4), 1, [0] * 16),
    ],
)
def test_frame_indices(sampler, count, indices):
    assert frames(sampler, count) == indices
    assert sampler.identity() != Uniform(16).identity()
