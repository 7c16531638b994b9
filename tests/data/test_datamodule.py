"""Index time and loaders: tasks, splits, modalities, the store, resume; every wrong setting is one clear error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.foreign.hero_npy import NpyDict
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import ClassTask, ScoreTask, Task
from hero_lightning.types import Sample
from tests.datasets.small_datasets import (
    EMOTIONS,
    by_id,
    dataset,
    folder,
    sizes,
    talk,
    three_splits,
    words,
    write_folder,
)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("batch_size", 0, "[1, inf)"),
        ("num_workers", -1, "[0, inf)"),
        ("seed", -1, "[0, inf)"),
        ("missing", "ignore", "error, skip, mask"),
        ("unknown_label", "keep", "error, drop"),
        ("val_fraction", 0.0, "(0, 1)"),
        ("test_fraction", 0.9, "[0, 0.9)"),
        ("limit", 0, "[1, inf)"),
        ("balance", "arousal", "None, emotion"),
        ("modalities", {}, "at least one"),
        ("tasks", {}, "at least one"),
    ],
)
def test_wrong_settings_name_their_key(key, value, expected):
    with pytest.raises(ConfigError) as caught:
        dataset([], **{key: value})
    assert caught.value.details["where"] == f"dataset.{key}"
    assert expected in str(caught.value)


def test_index_is_made_once():
    datamodule = dataset(three_splits())
    index = datamodule.build_index()
    datamodule.given = []
    datamodule.setup("fit")
    datamodule.prepare_data()
    assert datamodule.build_index() is index
    assert datamodule.dims == {"text": 8}
    assert index.classes == {"emotion": list(EMOTIONS)}
    assert sizes(datamodule) == {"train": 12, "val": 5, "test": 4}


def test_no_samples():
    with pytest.raises(DataError, match="has no samples"):
        dataset([]).build_index()


def test_duplicate_ids():
    with pytest.raises(DataError, match="'s3' occurs twice") as caught:
        dataset([*talk(5), *talk(4, "val", "v"), Sample("s3", "test", text="x")]).build_index()
    assert caught.value.details["where"] == "sample 4 (train) and sample 10 (test)"


def test_dialogues_are_linked():
    given = [replace(s, dialogue="d", turn=9 - k) for k, s in enumerate(talk(4))]
    datamodule = dataset([*given, *talk(3, "val", "v")])
    assert [t.text for t in datamodule.index.samples["train"][0].turns] == [s.text for s in reversed(given[1:])]


def test_missing_splits_are_made_and_named():
    datamodule = dataset(talk(60), val_fraction=0.2, test_fraction=0.1)
    assert sizes(datamodule) == {"train": 42, "val": 12, "test": 6}
    assert "0.2 of train by single samples" in datamodule.index.split_origin["val"]
    again = dataset(talk(60), val_fraction=0.2, test_fraction=0.1, seed=7)
    assert again.index.samples["val"] == datamodule.index.samples["val"], "the run's seed must not move a split"
    other = dataset(talk(60), val_fraction=0.2, test_fraction=0.1, split_seed=7)
    assert other.index.samples["val"] != datamodule.index.samples["val"]


def test_limit_and_use_splits():
    datamodule = dataset(three_splits(), limit=3)
    assert [len(v) for v in datamodule.index.samples.values()] == [3, 3, 3]
    assert [s.id for s in datamodule.index.samples["train"]] == ["s0", "s1", "s2"]
    datamodule = dataset(three_splits(), use_splits=["val"])
    assert list(datamodule.index.samples) == datamodule.test_splits == ["val"]
    assert datamodule.index.classes == {"emotion": list(EMOTIONS)}, "classes still come from train"
    assert [b.ids for b in datamodule.test_dataloader()] == [["v0", "v1", "v2", "v3"], ["v4"]]
    with pytest.raises(DataError, match=r"Unknown dataset\.use_splits") as caught:
        dataset(three_splits(), use_splits=["test3"]).build_index()
    assert caught.value.details["expected"] == "test, train, val"


def test_several_test_parts():
    datamodule = dataset([*three_splits(), *talk(3, "test2", "u"), *talk(2, "unlabelled", "w")])
    assert datamodule.test_splits == ["test", "test2"]
    served = [[b.ids for b in part] for part in datamodule.test_dataloader()]
    assert served == [[["t0", "t1", "t2", "t3"]], [["u0", "u1", "u2"]]]


# ---- tasks


def test_unknown_labels():
    given = three_splits()
    given[14].labels["emotion"] = "bored"
    with pytest.raises(DataError, match="Unknown label") as caught:
        dataset(given).build_index()
    assert "v2 (val)" in str(caught.value)
    assert "bored" in str(caught.value)
    datamodule = dataset(given, unknown_label="drop")
    (entry,) = datamodule.index.ledger
    assert (entry.id, entry.split, entry.modality, entry.kind) == ("v2", "val", "emotion", "unknown")
    assert "1 unknown labels were dropped" in datamodule.index.notes
    (batch, _) = datamodule.loader("val")
    assert batch.ids[2] == "v2"
    assert batch.labels["emotion"].mask.tolist() == [True, True, False, True]
    assert given[14].labels["emotion"] == "bored", "the dataset's own sample was changed"


def test_labels_of_another_dataset_are_mapped():
    run = Task.from_state(ClassTask("emotion").fit(["joy", "neutral", "fear"]).state())
    given = three_splits()
    datamodule = dataset(given, tasks={"emotion": run}, label_map={"happy": "joy"}, use_splits=["val"])
    assert datamodule.index.classes == {"emotion": ["fear", "joy", "neutral"]}
    (batch, _) = datamodule.test_dataloader()
    assert batch.labels["emotion"].mask.tolist() == [True, True, False, True]
    assert batch.labels["emotion"].value[:2].tolist() == [1, 2]
    assert datamodule.index.notes == ["1 unknown labels were dropped"]
    assert given[0].labels == {"emotion": "happy"}
    with pytest.raises(DataError, match="Unknown label"):
        dataset(three_splits(), tasks={"emotion": run}).build_index()


def test_official_class_order_unless_configured(monkeypatch):
    monkeypatch.setattr(
        "tests.datasets.small_datasets.ListDataset.class_orders", {"emotion": ("sad", "fear", "neutral", "happy")}
    )
    assert dataset(three_splits()).index.classes["emotion"] == ["sad", "fear", "neutral", "happy"]
    own = {"emotion": ClassTask("emotion", ["neutral", "happy", "sad"])}
    assert dataset(three_splits(), tasks=own).index.classes["emotion"] == ["neutral", "happy", "sad"]


def test_tasks_without_labels_are_left_out(caplog):
    both = dataset([]).tasks | {"score": ScoreTask("score", -3, 3)}
    datamodule = dataset(three_splits(), tasks=both)
    assert "task score is left out: no train sample has a label 'score'" in datamodule.index.notes
    assert list(datamodule.tasks) == ["emotion"]
    with pytest.raises(DataError, match="No task is left") as caught:
        dataset(three_splits(), tasks={"score": both["score"]}).build_index()
    assert "['emotion']" in str(caught.value)


def test_without_train_classes_must_be_known():
    with pytest.raises(DataError, match="classes of task emotion are unknown"):
        dataset(talk(4, "test")).build_index()
    known = {"emotion": ClassTask("emotion", EMOTIONS)}
    datamodule = dataset(talk(4, "test"), tasks=known)
    assert list(datamodule.index.samples) == ["test"]
    assert datamodule.val_dataloader() == []


def test_official_counts_are_compared(monkeypatch):
    monkeypatch.setattr("tests.datasets.small_datasets.ListDataset.official_counts", {"train": 12, "val": 6})
    assert dataset(three_splits()).index.notes == ["list val has 5 samples; the official count is 6"]


# ---- modalities


def test_a_modality_that_no_clip_has_is_left_out(caplog):
    absent = Modality("audio", "preextracted", source=NpyDict("nowhere", "hubert"))
    modalities = {"audio": absent, "text": words()}
    datamodule = dataset(three_splits(), modalities=modalities)
    assert datamodule.dims == {"text": 8}
    assert datamodule.index.notes == ["modality audio is left out: no clip has it (no feature file)"]
    assert caplog.text.count("modality audio is left out") == 1
    assert list(next(iter(datamodule.loader("train"))).modalities) == ["text"]
    assert not datamodule.index.ledger
    with pytest.raises(DataError, match="No modality is left"):
        dataset(three_splits(), modalities={"audio": absent}).build_index()
    with pytest.raises(DataError, match="21 clips lack a modality"):
        dataset(three_splits(), modalities=modalities, missing="error").build_index()


def test_policies_on_real_modalities(tmp_path):
    write_folder(tmp_path, 20)
    (tmp_path / "features" / "c4.npy").unlink()
    (tmp_path / "features" / "c5.npy").write_bytes((tmp_path / "features" / "c5.npy").read_bytes()[:90])
    masked = folder(tmp_path, modalities=folder(tmp_path).modalities | {"text": words()})
    assert sum(map(len, masked.index.samples.values())) == 20
    assert {(e.id, e.modality, e.kind) for e in masked.index.ledger} == {
        ("c4", "audio", "absent"), ("c4", "frame", "absent"), ("c5", "audio", "broken"), ("c5", "frame", "broken"),
    }  # fmt: skip
    skipped = folder(tmp_path, missing="skip")
    assert set(by_id(skipped)) == {f"c{k}" for k in range(20)} - {"c4", "c5"}
    assert "2 samples were left out, see ledger.csv" in skipped.index.notes
    ids = [i for split in skipped.index.samples for b in skipped.loader(split) for i in b.ids]
    assert len(ids) == len(set(ids)) == 18, "a clip was replaced by another"
    with pytest.raises(DataError, match="2 clips lack a modality"):
        folder(tmp_path, missing="error").build_index()


def test_a_split_that_loses_all_its_clips():
    given = [*talk(6), *(replace(s, text=None) for s in talk(2, "val", "v"))]
    with pytest.raises(DataError, match="No sample of split val is left") as caught:
        dataset(given).build_index()
    assert "no text" in str(caught.value)


def test_mode_auto_is_stored_before_training(tmp_path):
    given = three_splits()
    given[3].text = None
    live = next(iter(dataset(given, tmp_path).loader("train"))).modalities["text"]
    datamodule, late = (dataset(given, tmp_path, modalities={"text": words("auto")}) for _ in range(2))
    assert late.index.availability["s0"]["text"].mode == "realtime"
    datamodule.prepare_data()
    assert {r["text"].mode for r in datamodule.index.availability.values()} == {"preextracted"}
    late.setup()  # another process, which made its index before the store was filled
    assert {r["text"].mode for r in late.index.availability.values()} == {"preextracted"}
    stored = next(iter(late.loader("train"))).modalities["text"].stored
    encoder = words().encoder_module()
    assert torch.equal(stored.x, encoder(live.inputs).x)
    assert "s3" not in datamodule.index.availability
    kept = dataset(given, tmp_path, modalities={"text": words("auto", cache=False)})
    kept.prepare_data()
    assert kept.index.availability["s0"]["text"].mode == "preextracted", "a stored feature is read"


# ---- loaders


def test_balance_in_the_loader():
    given = [s for s in talk(30) if s.labels["emotion"] != "sad" or s.id in ("s2", "s5")]
    datamodule = dataset([*given, *talk(3, "val", "v")], balance="emotion", batch_size=3)
    ids = [s.labels["emotion"] for b in datamodule.loader("train", shuffle=True) for s in b.samples]
    assert [ids.count(e) for e in EMOTIONS] == [7, 7, 7]
    ids = [i for b in datamodule.loader("val") for i in b.ids]
    assert ids == ["v0", "v1", "v2"], "evaluation must not be balanced"


def test_bucketed_batches_hold_like_lengths():
    for bucket in (True, False):
        datamodule = dataset([*talk(60), *talk(3, "val", "v")], batch_size=6, bucket=bucket)
        spread = [len({len(s.text.split()) for s in b.samples}) for b in datamodule.loader("train", shuffle=True)]
        assert (sum(spread) / len(spread) < 2.5) == bucket


def test_a_loader_may_have_its_own_seed_and_batch_size():
    batches = [b.ids for b in dataset(three_splits(), seed=7, batch_size=3).loader("train", shuffle=True)]
    own = dataset(three_splits()).loader("train", shuffle=True, seed=7, batch_size=3)
    assert [b.ids for b in own] == batches != [b.ids for b in dataset(three_splits()).loader("train", shuffle=True)]


def test_fitted_tasks_replace_those_of_the_same_name():
    datamodule = dataset(three_splits())
    fitted = Task.from_state(ClassTask("emotion").fit(["happy", "neutral", "sad", "fear"]).state())
    datamodule.use_tasks({"emotion": fitted, "valence": ScoreTask("valence", -1, 1)})
    assert datamodule.index.classes == {"emotion": ["fear", *EMOTIONS]}
    assert datamodule.tasks["emotion"].prior[0] == 0.25


class Recorder(pl.LightningModule):
    """Trains one weight and keeps which samples it saw, in order."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, index, tuple(batch.ids)))
        return self.weight * batch.index.float().mean() + self.weight**2

    def validation_step(self, batch, index):
        assert batch.ids

    def predict_step(self, batch, index):
        return batch.ids

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KillAt(pl.Callback):
    """Saves and dies in the middle of an epoch."""

    def __init__(self, path, epoch, batch):
        self.path, self.place = path, (epoch, batch)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if (trainer.current_epoch, index) == self.place:
            trainer.save_checkpoint(self.path)
            raise KeyError("killed")


def trainer(callbacks=(), **options):
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        use_distributed_sampler=False, callbacks=list(callbacks), **options,
    )  # fmt: skip


def fit(datamodule, epochs=3, callbacks=(), resume=None):
    module = Recorder()
    try:
        trainer(callbacks, max_epochs=epochs).fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=False)
    except KeyError:
        assert callbacks
    return module.seen


def long(**options):
    return dataset([*talk(26), *talk(3, "val", "v")], seed=5, **options)


@pytest.fixture(scope="module")
def undisturbed():
    return fit(long())


def test_training_draws_every_sample_once_per_epoch(undisturbed):
    for epoch in range(3):
        ids = [i for e, _, batch in undisturbed if e == epoch for i in batch]
        assert sorted(ids) == sorted(s.id for s in talk(26))
    orders = {tuple(batch for e, _, batch in undisturbed if e == epoch) for epoch in range(3)}
    assert len(orders) == 3


def test_workers_do_not_change_the_order(undisturbed):
    assert fit(long(num_workers=2)) == undisturbed


@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 0), (1, 6)])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, undisturbed, epoch, batch):
    killed = fit(long(), callbacks=[KillAt(tmp_path / "last.ckpt", epoch, batch)])
    resumed = fit(long(), resume=tmp_path / "last.ckpt")
    assert killed + resumed == undisturbed


def test_a_finished_run_goes_on_with_the_next_epoch(tmp_path, undisturbed):
    save = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
    first = fit(long(), epochs=2, callbacks=[save])
    assert first + fit(long(), resume=tmp_path / "last.ckpt") == undisturbed


def test_the_loader_leaves_the_global_random_state_alone():
    datamodule = dataset(three_splits())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    list(datamodule.loader("train", shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_predict_serves_every_test_sample():
    found = trainer().predict(Recorder(), datamodule=dataset(three_splits()))
    assert found == [["t0", "t1", "t2", "t3"]]


def test_overfitting_keeps_its_batches():
    module = Recorder()
    trainer(max_epochs=2, overfit_batches=1).fit(module, datamodule=dataset(three_splits()))
    assert [ids for _, _, ids in module.seen] == [("s0", "s1", "s2", "s3")] * 2
