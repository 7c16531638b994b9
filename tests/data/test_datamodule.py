"""Index time and loaders: targets, splits, streams, the store, resume; every wrong setting is one clear error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.foreign.hero_npy import NpyDict
from hero_lightning.features.modality import Stream
from hero_lightning.tasks import ClassTarget, ScoreTarget, Target
from hero_lightning.types import Sample
from tests.datasets.corpora import EMOTIONS, corpus, folder, talk, three_splits, words, write_folder


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("batch_size", 0, "at least 1"),
        ("num_workers", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("coverage", "ignore", "error, skip, mask"),
        ("unknown_label", "keep", "error, drop"),
        ("val_fraction", 0.0, "a share above 0"),
        ("test_fraction", 0.9, "below 1 - val_fraction"),
        ("limit", 0, "at least 1, or null"),
        ("balance", "arousal", "one of ['emotion'], or null"),
        ("streams", {}, "at least one stream"),
        ("targets", {}, "at least one target"),
    ],
)
def test_wrong_settings_name_their_key(key, value, expected):
    with pytest.raises(ConfigError) as caught:
        corpus([], **{key: value})
    assert caught.value.details["where"] == f"dataset.{key}"
    assert expected in str(caught.value)


def test_index_is_made_once():
    data = corpus(three_splits())
    plan = data.index()
    data.given = []
    data.setup("fit")
    data.prepare_data()
    assert data.index() is plan
    assert data.dims == {"text": 8}
    assert plan.classes == {"emotion": list(EMOTIONS)}
    assert {k: len(v) for k, v in plan.samples.items()} == {"train": 12, "val": 5, "test": 4}


def test_no_samples():
    with pytest.raises(DataError, match="holds no sample"):
        corpus([]).index()


def test_duplicate_ids():
    with pytest.raises(DataError, match="'s3' occurs twice") as caught:
        corpus([*talk(5), *talk(4, "val", "v"), Sample("s3", "test", text="x")]).index()
    assert caught.value.details["where"] == "sample 4 (train) and sample 10 (test)"


def test_dialogues_are_linked():
    given = [replace(s, dialogue="d", turn=9 - k) for k, s in enumerate(talk(4))]
    data = corpus([*given, *talk(3, "val", "v")])
    assert [t.text for t in data.plan.samples["train"][0].turns] == [s.text for s in reversed(given[1:])]


def test_missing_splits_are_made_and_named():
    data = corpus(talk(60), val_fraction=0.2, test_fraction=0.1)
    assert {k: len(v) for k, v in data.plan.samples.items()} == {"train": 42, "val": 12, "test": 6}
    assert "0.2 of train by single samples" in data.plan.split_origin["val"]
    again = corpus(talk(60), val_fraction=0.2, test_fraction=0.1, seed=7)
    assert again.plan.samples["val"] == data.plan.samples["val"], "the run's seed must not move a split"
    other = corpus(talk(60), val_fraction=0.2, test_fraction=0.1, split_seed=7)
    assert other.plan.samples["val"] != data.plan.samples["val"]


def test_limit_and_use_splits():
    data = corpus(three_splits(), limit=3)
    assert [len(v) for v in data.plan.samples.values()] == [3, 3, 3]
    assert [s.id for s in data.plan.samples["train"]] == ["s0", "s1", "s2"]
    data = corpus(three_splits(), use_splits=["val"])
    assert list(data.plan.samples) == data.test_splits == ["val"]
    assert data.plan.classes == {"emotion": list(EMOTIONS)}, "classes still come from train"
    assert [b.ids for b in data.test_dataloader()] == [["v0", "v1", "v2", "v3"], ["v4"]]
    with pytest.raises(DataError, match="no split 'test3'") as caught:
        corpus(three_splits(), use_splits=["test3"]).index()
    assert caught.value.details["expected"] == "test, train, val"


def test_several_test_parts():
    data = corpus([*three_splits(), *talk(3, "test2", "u"), *talk(2, "unlabelled", "w")])
    assert data.test_splits == ["test", "test2"]
    assert [[b.ids for b in part] for part in data.test_dataloader()] == [
        [["t0", "t1", "t2", "t3"]],
        [["u0", "u1", "u2"]],
    ]


# ---- targets


def test_unknown_labels():
    given = three_splits()
    given[14].labels["emotion"] = "bored"
    with pytest.raises(DataError, match="Unknown label") as caught:
        corpus(given).index()
    assert "v2 (val)" in str(caught.value)
    assert "bored" in str(caught.value)
    data = corpus(given, unknown_label="drop")
    (entry,) = data.plan.ledger
    assert (entry.id, entry.split, entry.stream, entry.kind) == ("v2", "val", "emotion", "unknown")
    assert "1 unknown labels were dropped" in data.plan.notes
    (batch, _) = data.loader("val")
    assert batch.ids[2] == "v2"
    assert batch.labels["emotion"].mask.tolist() == [True, True, False, True]
    assert given[14].labels["emotion"] == "bored", "the corpus' own sample was changed"


def test_labels_of_another_corpus_are_mapped():
    run = Target.from_state(ClassTarget("emotion").fit(["joy", "neutral", "fear"]).state())
    given = three_splits()
    data = corpus(given, targets={"emotion": run}, label_map={"happy": "joy"}, use_splits=["val"])
    assert data.plan.classes == {"emotion": ["fear", "joy", "neutral"]}
    (batch, _) = data.test_dataloader()
    assert batch.labels["emotion"].mask.tolist() == [True, True, False, True]
    assert batch.labels["emotion"].value[:2].tolist() == [1, 2]
    assert data.plan.notes == ["1 unknown labels were dropped"]
    assert given[0].labels == {"emotion": "happy"}
    with pytest.raises(DataError, match="Unknown label"):
        corpus(three_splits(), targets={"emotion": run}).index()


def test_official_class_order_unless_configured(monkeypatch):
    monkeypatch.setattr(
        "tests.datasets.corpora.ListCorpus.class_orders", {"emotion": ("sad", "fear", "neutral", "happy")}
    )
    assert corpus(three_splits()).plan.classes["emotion"] == ["sad", "fear", "neutral", "happy"]
    own = {"emotion": ClassTarget("emotion", ["neutral", "happy", "sad"])}
    assert corpus(three_splits(), targets=own).plan.classes["emotion"] == ["neutral", "happy", "sad"]


def test_targets_without_labels_are_left_out(caplog):
    both = corpus([]).targets | {"score": ScoreTarget("score", -3, 3)}
    data = corpus(three_splits(), targets=both)
    assert "target score is left out: no train sample has a label 'score'" in data.plan.notes
    assert list(data.targets) == ["emotion"]
    with pytest.raises(DataError, match="No target is left") as caught:
        corpus(three_splits(), targets={"score": both["score"]}).index()
    assert "['emotion']" in str(caught.value)


def test_a_fitted_target_keeps_its_classes():
    fitted = Target.from_state(ClassTarget("emotion").fit(["happy", "neutral", "sad", "fear"]).state())
    data = corpus(three_splits(), targets={"emotion": fitted})
    assert data.plan.classes["emotion"] == ["fear", *EMOTIONS]
    assert data.targets["emotion"].prior[0] == 0.25


def test_without_train_classes_must_be_known():
    with pytest.raises(DataError, match="classes of target emotion are unknown"):
        corpus(talk(4, "test")).index()
    known = {"emotion": ClassTarget("emotion", EMOTIONS)}
    data = corpus(talk(4, "test"), targets=known)
    assert list(data.plan.samples) == ["test"]
    assert data.val_dataloader() == []


def test_official_counts_are_compared(monkeypatch):
    monkeypatch.setattr("tests.datasets.corpora.ListCorpus.official_counts", {"train": 12, "val": 6, "test9": 1})
    assert corpus(three_splits()).plan.notes == ["list val has 5 samples; the official count is 6"]


# ---- streams


def test_a_stream_that_no_clip_has_is_left_out(caplog):
    absent = Stream("audio", "preextracted", source=NpyDict("nowhere", "hubert"))
    streams = {"audio": absent, "text": words()}
    data = corpus(three_splits(), streams=streams)
    assert data.dims == {"text": 8}
    assert data.plan.notes == ["stream audio is left out: no clip has it (no feature file)"]
    assert caplog.text.count("stream audio is left out") == 1
    assert list(next(iter(data.loader("train"))).streams) == ["text"]
    assert not data.plan.ledger
    with pytest.raises(DataError, match="No stream is left"):
        corpus(three_splits(), streams={"audio": absent}).index()
    with pytest.raises(DataError, match="21 clips lack a stream"):
        corpus(three_splits(), streams=streams, coverage="error").index()


def test_policies_on_real_streams(tmp_path):
    write_folder(tmp_path, 20)
    (tmp_path / "features" / "c4.npy").unlink()
    (tmp_path / "features" / "c5.npy").write_bytes((tmp_path / "features" / "c5.npy").read_bytes()[:90])
    masked = folder(tmp_path, streams=folder(tmp_path).streams | {"text": words()})
    assert sum(map(len, masked.plan.samples.values())) == 20
    assert {(e.id, e.stream, e.kind) for e in masked.plan.ledger} == {
        ("c4", "audio", "absent"), ("c4", "frame", "absent"), ("c5", "audio", "broken"), ("c5", "frame", "broken"),
    }  # fmt: skip
    skipped = folder(tmp_path, coverage="skip")
    assert {s.id for rows in skipped.plan.samples.values() for s in rows} == {f"c{k}" for k in range(20)} - {"c4", "c5"}
    assert "2 samples were left out, see ledger.csv" in skipped.plan.notes
    ids = [i for split in skipped.plan.samples for b in skipped.loader(split) for i in b.ids]
    assert len(ids) == len(set(ids)) == 18, "a clip was replaced by another"
    with pytest.raises(DataError, match="2 clips lack a stream"):
        folder(tmp_path, coverage="error").index()


def test_a_split_that_loses_all_its_clips():
    given = [*talk(6), *(replace(s, text=None) for s in talk(2, "val", "v"))]
    with pytest.raises(DataError, match="No sample of split val is left") as caught:
        corpus(given).index()
    assert "no text" in str(caught.value)


def test_mode_auto_is_stored_before_training(tmp_path):
    given = three_splits()
    given[3].text = None
    live = next(iter(corpus(given, tmp_path).loader("train"))).streams["text"]
    data, late = (corpus(given, tmp_path, streams={"text": words("auto")}) for _ in range(2))
    assert late.plan.resolutions["s0"]["text"].mode == "realtime"
    data.prepare_data()
    assert {r["text"].mode for r in data.plan.resolutions.values()} == {"preextracted"}
    late.setup()  # another process, which made its plan before the store was filled
    assert {r["text"].mode for r in late.plan.resolutions.values()} == {"preextracted"}
    stored = next(iter(late.loader("train"))).streams["text"].ready
    encoder = words().encoder_module()
    assert torch.equal(stored.x, encoder(live.raw).x)
    assert "s3" not in data.plan.resolutions
    kept = corpus(given, tmp_path, streams={"text": words("auto", cache=False)})
    kept.prepare_data()
    assert kept.plan.resolutions["s0"]["text"].mode == "preextracted", "a stored feature is read"


# ---- loaders


def test_balance_in_the_loader():
    given = [s for s in talk(30) if s.labels["emotion"] != "sad" or s.id in ("s2", "s5")]
    data = corpus([*given, *talk(3, "val", "v")], balance="emotion", batch_size=3)
    ids = [s.labels["emotion"] for b in data.loader("train", shuffle=True) for s in b.samples]
    assert [ids.count(e) for e in EMOTIONS] == [7, 7, 7]
    ids = [i for b in data.loader("val") for i in b.ids]
    assert ids == ["v0", "v1", "v2"], "evaluation must not be balanced"


def test_bucketed_batches_hold_like_lengths():
    data = corpus([*talk(60), *talk(3, "val", "v")], batch_size=6)
    spread = [len({len(s.text.split()) for s in b.samples}) for b in data.loader("train", shuffle=True)]
    assert sum(spread) / len(spread) < 2.5
    data.bucket = False
    spread = [len({len(s.text.split()) for s in b.samples}) for b in data.loader("train", shuffle=True)]
    assert sum(spread) / len(spread) > 2.5


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


def fit(data, epochs=3, callbacks=(), resume=None):
    module = Recorder()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
    except KeyError:
        assert callbacks
    return module.seen


@pytest.fixture(scope="module")
def undisturbed():
    return fit(corpus([*talk(26), *talk(3, "val", "v")], seed=5))


def test_training_draws_every_sample_once_per_epoch(undisturbed):
    for epoch in range(3):
        ids = [i for e, _, batch in undisturbed if e == epoch for i in batch]
        assert sorted(ids) == sorted(s.id for s in talk(26))
    orders = {tuple(batch for e, _, batch in undisturbed if e == epoch) for epoch in range(3)}
    assert len(orders) == 3


def test_workers_do_not_change_the_order(undisturbed):
    assert fit(corpus([*talk(26), *talk(3, "val", "v")], seed=5, num_workers=2)) == undisturbed


@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 0), (1, 6)])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, undisturbed, epoch, batch):
    make = lambda: corpus([*talk(26), *talk(3, "val", "v")], seed=5)  # noqa: E731
    killed = fit(make(), callbacks=[KillAt(tmp_path / "last.ckpt", epoch, batch)])
    resumed = fit(make(), resume=tmp_path / "last.ckpt")
    assert killed + resumed == undisturbed


def test_a_finished_run_goes_on_with_the_next_epoch(tmp_path, undisturbed):
    make = lambda: corpus([*talk(26), *talk(3, "val", "v")], seed=5)  # noqa: E731
    save = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
    first = fit(make(), epochs=2, callbacks=[save])
    assert first + fit(make(), resume=tmp_path / "last.ckpt") == undisturbed


def test_the_loader_leaves_the_global_random_state_alone():
    data = corpus(three_splits())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    list(data.loader("train", shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_predict_serves_every_test_sample(tmp_path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False)
    found = trainer.predict(Recorder(), datamodule=corpus(three_splits()))
    assert found == [["t0", "t1", "t2", "t3"]]


def test_overfitting_keeps_its_batches():
    data, module = corpus(three_splits()), Recorder()
    pl.Trainer(
        max_epochs=2, overfit_batches=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    ).fit(module, datamodule=data)  # fmt: skip
    assert [ids for _, _, ids in module.seen] == [("s0", "s1", "s2", "s3")] * 2
