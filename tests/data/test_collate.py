"""Items to batches: order, labels, absent modalities, clips that fail while they are read."""

from __future__ import annotations

import pickle
import shutil
from functools import partial
from multiprocessing import active_children

import pytest
import pytorch_lightning as pl
import torch

from hero_lightning.data.collate import map_tensors
from hero_lightning.encoders.handcrafted import FrameHog, LogMelProsody
from hero_lightning.errors import DataError
from hero_lightning.features.modality import Modality
from hero_lightning.media.frame_samplers import Uniform
from hero_lightning.tasks import ScoreTask
from hero_lightning.types import Media, Sample
from tests.datasets.small_datasets import WIDTHS, dataset, folder, talk, three_splits, write_folder
from tests.media_helpers import write_clip


def test_batch_of_single_samples(tmp_path):
    datamodule = folder(write_folder(tmp_path))
    batch = next(iter(datamodule.loader("train")))
    samples = datamodule.index.samples["train"][:4]
    assert batch.samples == samples
    assert batch.index.tolist() == batch.group.tolist() == [0, 1, 2, 3]
    assert batch.order.tolist() == [0] * 4
    names = datamodule.index.classes["emotion"]
    assert [names[i] for i in batch.labels["emotion"].value] == [s.labels["emotion"] for s in samples]
    for modality, key in {"frame": "clip", "audio": "hubert"}.items():
        ready = batch.modalities[modality].stored
        assert ready.x.shape[::2] == (4, WIDTHS[key])
        assert ready.mask.sum(1).tolist() == [3 + int(s.id[1:]) % 4 for s in samples]


def test_items_of_several_samples(monkeypatch):
    datamodule = dataset(talk(6) + talk(3, "val", "v"))
    monkeypatch.setattr(type(datamodule), "items", lambda self, split: [(0, 1, 2), (4, 3)])
    (batch,) = datamodule.loader("train")
    assert batch.index.tolist() == [0, 1, 2, 4, 3]
    assert batch.group.tolist() == [0, 0, 0, 1, 1]
    assert batch.order.tolist() == [0, 1, 2, 0, 1]
    assert batch.ids == ["s0", "s1", "s2", "s4", "s3"]


def test_missing_labels_are_masked():
    given = three_splits()
    for k, s in enumerate(given):
        if k % 2:
            s.labels["score"] = 1.5
    tasks = dataset([]).tasks | {"score": ScoreTask("score", -3, 3)}
    batch = next(iter(dataset(given, tasks=tasks).loader("train")))
    assert batch.labels["score"].mask.tolist() == [False, True, False, True]
    assert batch.labels["score"].value[1] == 1.5


def test_tensors_move_and_the_rest_is_shared(tmp_path):
    datamodule = folder(write_folder(tmp_path))
    batch = next(iter(datamodule.loader("train")))
    twice = map_tensors(batch, lambda x: x.clone())
    assert twice.samples is batch.samples
    assert torch.equal(twice.modalities["audio"].stored.x, batch.modalities["audio"].stored.x)
    assert twice.modalities["audio"].stored.x is not batch.modalities["audio"].stored.x
    seen = []
    map_tensors(batch, lambda x: seen.append(x) or x)
    assert len(seen) == 3 + 2 * 3 + 2  # index, group, order; x, mask, rows per modality; value, mask of the label
    there = pl.LightningModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert there.samples is batch.samples
    assert there.modalities["frame"].stored.mask.is_meta
    assert there.labels["emotion"].value.is_meta
    raw = next(iter(dataset(three_splits()).loader("train")))
    assert raw.to(torch.device("meta")).modalities["text"].inputs["x"].is_meta


def media_dataset(tmp_path, **options):
    """Clips with picture and sound; s1 is damaged once the index is built."""
    given = three_splits()
    clip = write_clip(tmp_path / "clip.mp4", seconds=1.0)
    for s in given:
        s.video = Media(shutil.copy(clip, tmp_path / "s1.mp4") if s.id == "s1" else clip)
    modalities = {
        "frame": Modality("frame", "realtime", partial(FrameHog), sampler=Uniform(2)),
        "audio": Modality("audio", "realtime", partial(LogMelProsody)),
    }
    datamodule = dataset(given, tmp_path, modalities=modalities | dataset([]).modalities, **options)
    datamodule.build_index()
    (tmp_path / "s1.mp4").write_bytes(b"\0" * 5000)
    return datamodule


def test_a_clip_that_fails_to_decode_loses_only_its_media(tmp_path):
    datamodule = media_dataset(tmp_path)
    datamodule.index.write(tmp_path / "run")
    before = len(datamodule.index.ledger)
    batch = next(iter(datamodule.loader("train")))
    assert batch.modalities["frame"].input_rows.tolist() == [0, 2, 3]
    assert batch.modalities["audio"].input_rows.tolist() == [0, 2, 3]
    assert batch.modalities["text"].input_rows.tolist() == [0, 1, 2, 3]
    assert batch.ids[1] == "s1", "another sample in its place"
    failed = datamodule.index.ledger[before:]
    assert [(e.id, e.modality, e.kind) for e in failed] == [("s1", "frame", "failed"), ("s1", "audio", "failed")]
    assert "s1.mp4" in failed[0].reason
    assert (tmp_path / "run" / "ledger.csv").read_text().count("failed") == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_fails_to_decode_is_one_clear_error(tmp_path, workers):
    datamodule = media_dataset(tmp_path, num_workers=workers, missing="error")
    with pytest.raises(DataError, match="Modality frame of s1 cannot be read") as caught:
        list(datamodule.loader("train"))
    assert "Traceback" not in str(caught.value)
    assert "dataset.missing=mask" in str(caught.value)
    assert not active_children()


def test_worker_processes_end_with_the_loader(tmp_path):
    datamodule = folder(write_folder(tmp_path), num_workers=2)
    loader = datamodule.loader("train")
    first, *rest = [batch.ids for batch in loader]
    unfinished = iter(loader)
    assert next(unfinished).ids == first
    assert len(active_children()) == 2, "one pass after the other uses the same processes"
    datamodule.teardown()
    assert not active_children()
    assert [batch.ids for batch in loader] == [first, *rest]
    loader.close()
    assert not active_children()


def test_loader_parts_travel_to_workers(tmp_path):
    datamodule = folder(write_folder(tmp_path))
    loader = datamodule.loader("train")
    again = pickle.loads(pickle.dumps((loader.dataset, loader.collate)))
    item = again[0][(0, 1)]
    assert item.samples == [datamodule.index.samples["train"][1]]
    assert isinstance(item.samples[0], Sample)
    assert again[1]([item]).batch.ids == [item.samples[0].id]
