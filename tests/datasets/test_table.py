"""A dataset from one csv: columns found and named, spans, several labels in a cell, features, npz; mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from hero_lightning.datasets.table import TableDataModule
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.foreign.tables import CsvTable, NpyFolder
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import ClassTask, MultilabelTask, ScoreTask
from hero_lightning.types import Media
from tests.datasets.small_datasets import words
from tests.helpers import train_in_process
from tests.media_helpers import write_clip


def table(root, **options):
    tasks = {"emotion": ClassTask("emotion"), "valence": ScoreTask("valence", -5, 5)}
    return TableDataModule(
        root=root, features_root=root / "stores", **({"modalities": {"text": words()}, "tasks": tasks} | options)
    )


def write(root, *lines):
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def test_all_columns(tmp_path):
    write(
        tmp_path,
        "ID;Path;Label;Partition;Text;Speaker;Dialogue;Turn;Start;End;AU;audio;valence;more",
        "a;clips/a.mp4;sad;dev;hi, you;P1;d1;3;1.5;00:00:02,250;au/a.csv;;-1.5;x",
        "b;clips/b.wav;happy;;;;;;;;;;;",
    )
    a, b = table(tmp_path).samples()
    assert (a.id, a.split, a.text, a.speaker, a.dialogue, a.turn) == ("a", "val", "hi, you", "P1", "d1", 3)
    assert a.video == Media(tmp_path / "clips/a.mp4", (1.5, 2.25))
    assert a.files == {"au": tmp_path / "au/a.csv"}
    assert a.labels == {"emotion": "sad", "valence": -1.5}
    assert (b.split, b.video, b.audio) == ("train", None, Media(tmp_path / "clips/b.wav"))
    assert (b.text, b.speaker, b.turn, b.labels) == (None, None, None, {"emotion": "happy"})


def test_columns_by_name_and_clips_by_pattern(tmp_path):
    write(tmp_path, "name,label,Answer,Subtitle", "a.1,0,sad,hi")
    datamodule = table(tmp_path, columns={"emotion": "Answer", "text": "Subtitle"}, clips="video/{id}.avi")
    (s,) = datamodule.samples()
    assert (s.labels, s.text, s.video) == ({"emotion": "sad"}, "hi", Media(tmp_path / "video/a.1.avi"))


def test_several_labels_in_a_cell(tmp_path):
    write(tmp_path, "id,emotions,text", "a,sad | tired,hi", "b,,hi")
    datamodule = table(tmp_path, tasks={"emotions": MultilabelTask("emotions", ["sad", "tired"])})
    assert [s.labels for s in datamodule.samples()] == [{"emotions": ["sad", "tired"]}, {}]


def test_features_in_the_table_and_beside_it(tmp_path):
    rows = [f"c{k},{'ab'[k % 2]},{k}.5,{k + 1}" for k in range(12)]
    write(tmp_path, "id,label,f1,f2", *rows)
    (tmp_path / "hubert-UTT").mkdir()
    for k in range(12):
        np.save(tmp_path / "hubert-UTT" / f"c{k}.npy", np.full(3, k + 1.0, "float32"))
    modalities = {
        "au": Modality("au", "preextracted", source=CsvTable(tmp_path / "labels.csv", ["f*"], ids="id")),
        "audio": Modality("audio", "preextracted", source=NpyFolder(tmp_path / "hubert", "utterance")),
    }
    datamodule = table(tmp_path, modalities=modalities)
    assert datamodule.dims == {"au": 2, "audio": 3}
    batch = next(iter(datamodule.loader("train")))
    row = batch.ids.index("c1")
    assert batch.modalities["au"].stored.x[row].tolist() == [[1.5, 2.0]]


def test_npz_of_mertools(tmp_path):
    train = {f"sample_{k}": {"emo": "ab"[k % 2], "val": -10 if k else 2.0} for k in range(6)}
    np.savez(tmp_path / "label-6way.npz", train_dataset=train, test1_dataset={"t": {"emo": "a", "val": 1}})
    (tmp_path / "transcription_merge.csv").write_text("name,chinese,english\nsample_0,x,hello\n")
    rows = table(tmp_path, file="label-6way.npz", clips="video/{id}.mp4").samples()
    assert [s.split for s in rows].count("test1") == 1
    assert (rows[0].labels, rows[0].text) == ({"emotion": "a", "valence": 2.0}, "hello")
    assert rows[1].labels == {"emotion": "b"}
    assert rows[1].video == Media(tmp_path / "video/sample_1.mp4")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label,text", "sad,hi"], r"lacks a column[\s\S]*id"),
        (["id,label", "a,sad", "a,sad"], "'a' occurs twice"),
        (["id,label", ",sad"], "is not a clip"),
        (["id,path,start,end", "a,a.mp4,2,1"], "is not a clip"),
        (["id,path,start,end", "a,a.mp4,2,"], "is not a clip"),
        (["id,path,start,end", "a,a.mp4,soon,3"], r"time cannot be read[\s\S]*line 2"),
        (["id,label", "a"], "another number of cells"),
    ],
)
def test_mistakes(tmp_path, lines, message):
    write(tmp_path, *lines)
    with pytest.raises(DataError, match=message):
        table(tmp_path).samples()


def test_what_is_asked_for_but_not_there(tmp_path):
    with pytest.raises(DataError, match="table is missing"):
        table(tmp_path).samples()
    write(tmp_path, "id,label", "a,sad")
    with pytest.raises(DataError, match=r"lacks a column[\s\S]*Answer"):
        table(tmp_path, columns={"emotion": "Answer"}).samples()
    with pytest.raises(ConfigError, match="clips has no"):
        table(tmp_path, clips="video.mp4")
    write(tmp_path, "id,label,text,valence", *(f"{k},{'ab'[k % 2]},hi,high" for k in range(9)))
    with pytest.raises(DataError, match=r"no number for task valence"):
        table(tmp_path).build_index()


def test_a_table_trains_by_yaml_alone(tmp_path):
    clip = write_clip(tmp_path / "c.mp4", seconds=1.0)
    rows = [f"c{k},{clip.name},{'ab'[k % 2]},{k % 2} word,P{k % 6}" for k in range(24)]
    write(tmp_path, "id,path,label,text,speaker", *rows)
    own = [
        "dataset=table",
        f"dataset.root={tmp_path}",
        f"paths.features={tmp_path}/f",
        "size=tiny",
        "modalities=[text]",
    ]
    train_in_process(tmp_path / "run", *own, "trainer.max_epochs=1", "probes=false", "callbacks.record=null")
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
