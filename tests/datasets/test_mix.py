"""Several datasets in one run: keys, widths, ratios, order over workers and ranks, stores shared with single runs."""

from __future__ import annotations

from collections import Counter

import pytest

from hero_lightning.datasets.mix import MixDataModule
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import Task
from tests.datasets.small_datasets import dataset, folder, talk, words, write_folder
from tests.datasets.test_meld import write_csv
from tests.helpers import train_in_process


def parts(tmp_path, mode="auto"):
    """A large and a small dataset of words, with ids in common."""
    given = {
        "large": [*talk(30), *talk(4, "val", "v"), *talk(5, "test", "t")],
        "small": [*talk(10), *talk(3, "val", "v")],
    }
    made = {name: dataset(rows, tmp_path, modalities={"text": words(mode)}) for name, rows in given.items()}
    for name, datamodule in made.items():
        datamodule.name = name
    return made


def mix(tmp_path, datasets=None, **options):
    options = {"modalities": {"text": words()}, "tasks": {}, "batch_size": 4, "bucket": False} | options
    return MixDataModule(
        datasets=datasets or parts(tmp_path), root=tmp_path, features_root=tmp_path / "stores", **options
    )


def test_ids_tasks_and_splits(tmp_path):
    datamodule = mix(tmp_path)
    index = datamodule.index
    assert {k: len(v) for k, v in index.samples.items()} == {"train": 40, "val": 7, "test": 5}
    assert set(index.classes) == {"large/emotion", "small/emotion"} == set(datamodule.tasks)
    ids = [s.id for s in index.samples["train"]]
    assert len(set(ids)) == 40
    assert {i.partition("/")[0] for i in ids} == {"large", "small"}
    assert index.split_origin["val"] == "large: given by the dataset; small: given by the dataset"
    batch = next(iter(datamodule.loader("val")))
    assert batch.labels["large/emotion"].mask.tolist() == [True] * 4
    assert not batch.labels["small/emotion"].mask.any()


def test_stores_are_those_of_single_runs(tmp_path):
    datasets = parts(tmp_path)
    datasets["large"].prepare_data()
    datamodule = mix(tmp_path, datasets)
    assert Counter(r["text"].mode for r in datamodule.index.availability.values()) == {
        "preextracted": 39,
        "realtime": 13,
    }
    datamodule.prepare_data()
    assert Counter(r["text"].mode for r in datamodule.index.availability.values()) == {"preextracted": 52}
    for s in datamodule.index.samples["train"]:
        name, _, id = s.id.partition("/")
        alone = next(a for a in datasets[name].index.samples["train"] if a.id == id)
        assert datamodule.modalities["text"].stored(s).x.equal(datasets[name].modalities["text"].stored(alone).x)
    assert set(datamodule.modalities["text"].identity()["parts"]) == {"large", "small"}


def drawn(datamodule, epoch):
    loader = datamodule.loader("train", shuffle=True)
    loader.batch_sampler.set_epoch(epoch)
    return [batch.ids for batch in loader]


def test_ratios(tmp_path):
    datamodule = mix(tmp_path, ratios={"large": 1, "small": 3})
    seen = Counter()
    for epoch in range(3):
        ids = [i for batch in drawn(datamodule, epoch) for i in batch]
        assert Counter(i.partition("/")[0] for i in ids) == {"large": 10, "small": 30}
        seen.update(ids)
    assert {i: n for i, n in seen.items() if i.startswith("large")} == {f"large/s{k}": 1 for k in range(30)}
    assert all(n == 9 for i, n in seen.items() if i.startswith("small"))
    assert sorted(i for b in drawn(mix(tmp_path), 0) for i in b) == sorted(
        s.id for s in datamodule.index.samples["train"]
    )


def test_order_does_not_depend_on_workers(tmp_path):
    ratios = {"large": 1, "small": 1}
    datamodule, again = mix(tmp_path, ratios=ratios), mix(tmp_path, ratios=ratios, num_workers=2)
    assert drawn(datamodule, 1) == drawn(again, 1)
    again.teardown()


def test_widths_must_agree(tmp_path):
    frame = folder(write_folder(tmp_path / "in"))
    audio = folder(write_folder(tmp_path / "wide")).modalities["audio"]
    wide = folder(tmp_path / "wide", modalities={"frame": Modality("frame", "preextracted", source=audio.source)})
    with pytest.raises(DataError, match=r"frame in different widths[\s\S]*6 in b[\s\S]*datasets\.b"):
        mix(tmp_path, {"a": frame, "b": wide}).build_index()


def test_a_modality_that_one_dataset_lacks_is_absent_there(tmp_path):
    datamodule = mix(tmp_path, {"talk": parts(tmp_path)["small"], "own": folder(write_folder(tmp_path / "in"))})
    found = datamodule.index.availability
    assert set(datamodule.dims) == {"text", "frame", "audio"}
    assert found["talk/s0"]["frame"].mode == "absent"
    assert found["own/c0"]["text"].mode == "absent"
    batch = next(iter(datamodule.loader("train")))
    assert set(batch.modalities) == set(datamodule.dims)


def test_tasks_of_a_checkpoint_come_back(tmp_path):
    first = mix(tmp_path)
    first.build_index()
    states = {name: t.state() for name, t in first.tasks.items()}
    fitted = {name: Task.from_state(s) for name, s in states.items()}
    later = mix(tmp_path)
    later.use_tasks(fitted)
    for again in (mix(tmp_path, tasks=fitted), later):
        again.build_index()
        assert {n: t.state() for n, t in again.tasks.items()} == states
        assert again.datasets["large"].tasks["emotion"].name == "emotion"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": {"large": 1}}, "ratios is wrong"),
        ({"ratios": {"large": 1, "small": 0}}, "ratios is wrong"),
        ({"balance": "large/emotion"}, "balance is a setting of each part"),
        ({"label_map": {"a": "b"}}, "label_map is a setting of each part"),
    ],
)
def test_refusals(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        mix(tmp_path, **options)


def test_one_dataset_is_no_mix(tmp_path):
    with pytest.raises(ConfigError, match="needs datasets"):
        mix(tmp_path, {"large": parts(tmp_path)["large"]})


def test_a_mix_trains(tmp_path):
    write_csv(tmp_path / "meld", "train", {d: range(3) for d in range(20)})
    write_csv(tmp_path / "meld", "dev", {d: range(3) for d in range(4)})
    write_csv(tmp_path / "meld", "test", {d: range(3) for d in range(4)})
    rows = [f"s{k},{'ab'[k % 2]},{k % 2} words,P{k % 8}" for k in range(24)]
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "labels.csv").write_text("id,label,text,speaker\n" + "\n".join(rows) + "\n")
    own = [
        "dataset=mix", "~dataset.datasets.iemocap", "+dataset@dataset.datasets.table=table", f"paths.data={tmp_path}",
        "dataset.ratios={meld: 1, table: 2}", "encoder@modality.text.encoder=words", "modalities=[text]", "size=tiny",
        f"paths.features={tmp_path}/f", "trainer.max_epochs=1", "probes=false",
    ]  # fmt: skip
    train_in_process(tmp_path / "run", *own)
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert "meld/emotion" in (tmp_path / "run" / "metrics.json").read_text()
