"""ResultsWriter and the run folder: what a run leaves behind, from a real Trainer on a toy model."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.metrics.table import ExplanationTable, PredictionTable
from hero_lightning.models.outputs import Fused, Outputs
from hero_lightning.reporting import run_folder, tables
from hero_lightning.reporting.callback import ResultsWriter
from hero_lightning.tasks import ClassTask, ScoreTask
from hero_lightning.types import Batch, Sample

CLASSES = ["happy", "sad"]
EXPERTS = ("audio", "text", "synergy")


def samples(split: str, n: int) -> list[Sample]:
    """n samples in dialogues of three; every fourth has no valence."""
    return [
        Sample(
            id=f"{split}_{i}",
            split=split,
            dialogue=f"{split}_d{i // 3}",
            labels={"emotion": CLASSES[i % 2], "valence": None if i % 4 == 3 else float(i % 2)},
            truth={"informative": ["text"] if i % 2 else ["audio"]},
        )
        for i in range(n)
    ]


TASKS = {
    name: task.fit([s.labels[name] for s in samples("train", 9)])
    for name, task in {"emotion": ClassTask("emotion", CLASSES), "valence": ScoreTask("valence", 0, 1)}.items()
}


def loader(rows: list[Sample], size: int = 4) -> DataLoader[Batch]:
    """Batches in order; the last one repeats its last sample, as the evaluation sampler pads."""
    batches: Any = []
    for start in range(0, len(rows), size):
        index = list(range(start, min(start + size, len(rows))))
        index += index[-1:] * (size - len(index))
        part = [rows[i] for i in index]
        ids = [s.id for s in part]
        labels = {n: t.collate([s.labels[n] for s in part], ids) for n, t in TASKS.items()}
        batches.append(
            Batch(torch.tensor(index), torch.tensor(index), torch.zeros(size), {}, labels, part, [{}] * size)
        )
    return DataLoader(batches, batch_size=None)


class Toy(pl.LightningModule):
    """Follows the seam of ResultsWriter; right in every epoch but the last, where it says the opposite."""

    def __init__(self, last: int = 2) -> None:
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.zeros(())), last
        self.tasks, self.seed, self.baselines = TASKS, 7, {"probe audio": torch.tensor([[0.9, 0.1]]).repeat(10, 1)}
        self.predictions = nn.ModuleDict({n: PredictionTable() for n in TASKS})
        self.explanations = ExplanationTable()
        self.linear, self.answers = PredictionTable(), {}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch

    def outputs(self, batch: Batch) -> Outputs:
        right = 2.0 * batch.labels["emotion"].value - 1  # [B] -1 or 1
        if self.trainer.training and self.current_epoch == self.last:
            right = -right
        n, present = len(batch), torch.tensor([True, True, False]).expand(len(batch), 3)
        logits = {"emotion": torch.stack([-right, right], dim=1) + self.weight, "valence": 0.5 * right[:, None]}
        gate = torch.stack([(1 - right) / 2, (1 + right) / 2, torch.zeros(n)], dim=1)
        empty = torch.zeros(n, 1, 1)
        return Outputs(
            logits=logits,
            experts=EXPERTS,
            summaries=empty,
            present=present,
            fused=Fused(empty, empty[:, 0], gate),
            imputed=~present,
            sync_logit=torch.zeros(n),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.tasks["emotion"].loss(self.outputs(batch).logits["emotion"], batch.labels["emotion"])
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        outputs = self.outputs(batch)
        for name, task in self.tasks.items():
            self.predictions[name].update(batch.index, task.predict(outputs.logits[name]), batch.labels[name])
        self.explanations.update(batch.index, outputs)

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        for table in (*self.predictions.values(), self.explanations):
            table.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        for name, task in self.tasks.items():
            found = self.predictions[name].compute()
            metrics = task.metrics(found.prediction, found.label)
            self.log_dict({f"val/{name}/{k}": v for k, v in metrics.items()})
            if name == "emotion":
                self.log("val/score", metrics.get(task.primary, math.nan))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, record: ResultsWriter, **given: Any) -> pl.Trainer:
    given = {"max_epochs": 3, "logger": pl.loggers.CSVLogger(folder, name=None, version=""), **given}
    return pl.Trainer(
        accelerator="cpu",
        callbacks=[record],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **given,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fitted and tested toy."""
    folder = tmp_path_factory.mktemp("run")
    index = {"dataset": "toy", "counts": {"test": 10}, "split_origin": {"val": "cut"}, "notes": ["none"], "ids": {}}
    (folder / "index.json").write_text(json.dumps(index))
    record, module = ResultsWriter(resamples=100, by_dialogue=True), Toy()
    fit = trainer(folder, record)
    fit.fit(module, loader(samples("train", 8)), loader(samples("val", 7)))
    fit.test(module, loader(samples("test", 10)), verbose=False)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_hold_every_sample_once(run: Path) -> None:
    rows = table(run)
    assert [r["id"] for r in rows] == [f"val_{i}" for i in range(7)] + [f"test_{i}" for i in range(10)]
    last = rows[-1]
    assert last == {
        "id": "test_9", "split": "test", "emotion_truth": "sad", "emotion_prediction": "sad",
        "emotion_p_happy": last["emotion_p_happy"], "emotion_p_sad": last["emotion_p_sad"],
        "emotion_confidence": last["emotion_p_sad"], "valence_truth": "1.0", "valence_prediction": "0.75",
        "gate_audio": "0.0", "gate_text": "1.0", "gate_synergy": "0.0", "sync": "",
        "present": "audio|text", "imputed": "synergy",
    }  # fmt: skip
    assert float(last["emotion_p_happy"]) + float(last["emotion_p_sad"]) == pytest.approx(1)
    assert rows[-3]["valence_truth"] == ""  # test_7 has no valence


def test_the_best_validation_epoch_is_the_one_recorded(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["splits"]["val"]["emotion"]["metrics"]["accuracy"]["value"] == 1
    assert all(r["emotion_truth"] == r["emotion_prediction"] for r in table(run) if r["split"] == "val")


def test_metrics_carry_intervals_baselines_and_provenance(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    emotion = metrics["splits"]["test"]["emotion"]
    assert (emotion["n"], emotion["labelled"]) == (10, 10)
    assert emotion["metrics"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0, "chance": 0.5, "majority": 0.5}
    assert emotion["confusion"] == [[5, 0], [0, 5]]
    assert emotion["per_class"]["sad"]["support"] == 5
    probe = emotion["baselines"]["probe audio"]["accuracy"]
    assert (probe["value"], probe["difference"]) == (0.5, 0.5)
    assert probe["p"] < 0.05
    valence = metrics["splits"]["test"]["valence"]
    assert valence["labelled"] == 8
    assert valence["metrics"]["pearson"]["majority"] is None  # a constant has no correlation; JSON knows no NaN
    assert metrics["splits"]["val"]["emotion"]["baselines"] == {}
    assert metrics["seed"] == 7
    assert metrics["split_origin"] == {"val": "cut"}
    assert "dialogues" in metrics["intervals"]
    assert metrics["versions"]["torch"] == torch.__version__
    assert metrics["hardware"]["cpus"] >= 1
    assert {"commit", "command", "trainable", "dataset", "notes"} <= set(metrics)


def test_pictures_are_drawn(run: Path) -> None:
    names = {p.name for p in run.glob("*.png")}
    for split in ("val", "test"):
        assert {f"confusion_{split}_emotion.png", f"gates_{split}.png", f"gates_by_channel_{split}.png"} <= names
    assert "curves.png" in names


def test_the_closing_table_says_it_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1429, "majority": None}
    other = {"accuracy": {"value": 0.3, "difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.01}}
    report = {"labelled": 12, "metrics": {"accuracy": figure}, "baselines": {"probe text": other}}
    tables.show_results("demo", {"test": {"emotion": report}})
    text = capsys.readouterr().out
    for part in ("demo, test (12)", "0.4000 .. 0.6000", "0.1429", "probe text", "+0.2000", "0.1000 .. 0.3000", "0.010"):
        assert part in text


def test_validate_alone_is_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, ResultsWriter(100), logger=False).validate(Toy(), loader(samples("val", 3)), verbose=False)
    assert [r["id"] for r in table(tmp_path)] == ["val_0", "val_1", "val_2"]
    assert capsys.readouterr().out.count("val (3)") == 1


def test_a_resumed_run_keeps_the_better_earlier_epoch(tmp_path: Path) -> None:
    record = ResultsWriter(100)
    record.load_state_dict({"best_score": 2.0})
    fit = trainer(tmp_path, record, max_epochs=1, logger=False)
    fit.fit(Toy(), loader(samples("train", 4)), loader(samples("val", 4)))
    assert not (tmp_path / "predictions.csv").exists()
    assert record.state_dict() == {"best_score": 2.0}


def test_a_split_without_labels_has_predictions_but_no_metrics(tmp_path: Path) -> None:
    rows = samples("test", 3)
    for s in rows:
        s.labels = {"emotion": None, "valence": None}
    module = Toy()
    trainer(tmp_path, ResultsWriter(100), logger=False).test(module, loader(rows), verbose=False)
    report = json.loads((tmp_path / "metrics.json").read_text())["splits"]["test"]["emotion"]
    assert (report["labelled"], report["metrics"]) == (0, {})
    assert table(tmp_path)[0]["emotion_truth"] == ""


def test_two_splits_in_one_pass_are_refused(tmp_path: Path) -> None:
    both = [loader(samples("test1", 3)), loader(samples("test2", 3))]
    with pytest.raises(DataError, match="share a row number") as error:
        trainer(tmp_path, ResultsWriter(100), logger=False).test(Toy(), both, verbose=False)
    assert "test1_0" in str(error.value)
    assert "Trainer.test once per split" in str(error.value)


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.record\.resamples is out of range"):
        ResultsWriter(resamples=10)


def test_note_test_counts_the_uses_of_the_test_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run_folder.note_test(tmp_path) == 1
    with caplog.at_level("WARNING"):
        assert run_folder.note_test(tmp_path) == 2
    assert "scored 2 times" in caplog.text
    assert len((tmp_path / "test_uses.txt").read_text().splitlines()) == 2


def test_show_plan_names_splits_modalities_and_notes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    row = SimpleNamespace(
        modality="audio", split="train", mode="realtime", count=8, reason="extract modalities=[audio]"
    )
    index = SimpleNamespace(
        dataset="toy", samples={"train": [1] * 8}, split_origin={"train": "given"}, table=[row], notes=["mind the gap"]
    )
    tables.show_index(index)
    text = capsys.readouterr().out
    assert all(
        part in text for part in ("dataset toy", "train", "given", "audio", "realtime", "mind the gap", "=[audio]")
    )


def test_plain_json_has_no_nan(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "m.json", {"a": math.nan, "b": [math.inf, 1.5], 3: (2,)})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": None, "b": [None, 1.5], "3": [2]}


def test_tables_fit_80_columns_and_cut_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    figure = {"value": 0.12345, "low": -0.5, "high": 0.6, "chance": 0.1429, "majority": 0.25}
    other = {"weighted_precision": {"value": 0.3, "difference": -0.2, "low": -0.3, "high": -0.1, "p": 0.01}}
    report = {"labelled": 12, "metrics": {"weighted_precision": figure}, "baselines": {"probe of motion": other}}
    tables.show_results("cmu_mosei, seed 0", {"test": {"sentiment_score": report, "emotions": report}})
    rows = [
        SimpleNamespace(modality="motion", split=s, mode=m, count=n, reason=r)
        for s in ("train", "val", "test2")
        for m, n, r in (("preextracted", 16326, "store, consecutive"), ("absent", 12, "no video file was found " * 3))
    ]
    samples = {s: [1] * 16338 for s in ("train", "val", "test2")}
    tables.show_index(
        SimpleNamespace(dataset="cmu_mosei", samples=samples, split_origin={"train": "given"}, table=rows, notes=[])
    )
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for number in ("0.1235", "-0.5000 .. 0.6000", "-0.2000", "-0.3000 .. -0.1000", "16326/16338"):
        assert number in text
    assert text.count("video") >= 3  # words wrap
