"""model=hero_cot from training to prediction on a handful of clips: what is kept, reported, rebuilt and resumed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hero_lightning.errors import ConfigError
from hero_lightning.training import checkpoint
from tests.helpers import feature_dataset, in_process, train_in_process

QUIET = ["trainer=cpu", "trainer.enable_progress_bar=false"]
COT = ["model=hero_cot", "llm=tiny", "size=tiny", "probes=false", "dataset.batch_size=8", "callbacks.stop=null"]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / name)["state_dict"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run on drawn clips, and where its dataset lies."""
    root = tmp_path_factory.mktemp("demo")
    places = [f"paths.data={root}/data", f"paths.features={root}/features"]
    options = [
        "dataset.clips=36",
        "evidence_decoder=transformer",
        "trainer.max_epochs=2",
        "reasoner.generation.explain_val=2",
        "logger=csv",
        "trainer.log_every_n_steps=1",
    ]
    train_in_process(root / "run", *places, *COT, *options)
    return root / "run", places


def test_a_run_reports_scores_answers_and_the_linear_head(demo: tuple[Path, list[str]]) -> None:
    run, _ = demo
    metrics = json.loads((run / "metrics.json").read_text())["splits"]
    answers = lines(run)
    for split, count in (("val", 2), ("test", metrics["test"]["emotion"]["n"])):
        own = [a for a in answers if a["split"] == split]
        report = metrics[split]["emotion_written"]
        assert len(own) == report["n"] == sum(report["status"].values()) == count
        assert {"weighted_f1", "parse_rate", "agreement"} <= set(report["metrics"])
        right = sum(a["generated"] == a["truth"] for a in own) / count
        assert report["metrics"]["accuracy"]["value"] == pytest.approx(right)
        parsed = sum(a["status"] in ("ok", "repaired") for a in own) / count
        assert report["metrics"]["parse_rate"]["value"] == pytest.approx(parsed)
        assert "linear head" in metrics[split]["emotion"]["baselines"]
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert {"train/generation", "train/evidence", "val/emotion_linear/weighted_f1"} <= set(header.split(","))
    passes = [r for r in csv.DictReader((run / "metrics.csv").open()) if r["val/score"]]
    for row in passes:  # selected by what it scores, as far as it writes the same
        figure, share = float(row["val/emotion/weighted_f1"]), float(row["val/emotion_written/agreement"])
        assert float(row["val/score"]) == pytest.approx(figure * share, abs=1e-6)
    shares = [float(r["val/emotion_written/agreement"]) for r in passes]
    told = metrics["val"]["emotion_written"]["metrics"]["agreement"]["value"]
    assert any(told == pytest.approx(share) for share in shares)
    facts = checkpoint.load(run / "checkpoints" / "best.ckpt")[checkpoint.FACTS]["reasoner"]
    assert "pitch_hz" in facts["statistics"]["dataset"]["audio"]
    assert set(facts["decoder"]["modalities"]) >= {"audio", "face"}
    assert weights(run)["reasoner.llm.temperature"] != 1


def test_evaluate_rebuilds_it_and_withholds_modalities_from_the_prompt(
    demo: tuple[Path, list[str]], tmp_path: Path
) -> None:
    from hero_lightning.evaluate import evaluate

    run, places = demo
    trained = {a["id"]: a for a in lines(run) if a["split"] == "test"}
    evaluate(in_process("evaluate", tmp_path / "same", *QUIET, f"run={run}", *places))
    assert {a["id"]: a for a in lines(tmp_path / "same")} == trained
    evaluate(in_process("evaluate", tmp_path / "mute", *QUIET, f"run={run}", "drop=[text]", *places))
    for answer in lines(tmp_path / "mute"):
        (item,) = [e for e in answer["evidence"] if e["modality"] == "text"]
        assert item["source"] == "absent"


def test_predict_prints_json_and_writes_a_report(
    demo: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hero_lightning.predict import main

    run, places = demo
    one = next(a for a in lines(run) if a["split"] == "test")
    command = [*QUIET, f"run={run}", f"id={one['id']}", f"out={tmp_path}/out", f"hydra.run.dir={tmp_path}", *places]
    argv, sys.argv = sys.argv, ["predict", *command]
    try:
        main()
    finally:
        sys.argv = argv
    found = json.loads(capsys.readouterr().out)
    assert list(found["predictions"])[:2] == ["emotion", "emotion_linear"]
    assert found["predictions"]["emotion"]["label"] == one["label"]
    assert found["reasoning"]["text"] == one["text"]
    report = (tmp_path / "out" / "report.txt").read_text()
    assert f"Emotion: {one['label']}" in report
    assert "Evidence, as given to the language model:" in report
    assert (tmp_path / "out" / "time_attention.png").is_file()


def test_experts_of_a_linear_run_start_a_reasoning_one_that_resumes_bit_for_bit(tmp_path: Path) -> None:
    dataset = ["dataset=folder", f"dataset.root={feature_dataset(tmp_path / 'dataset', clips=24)}", "test=false"]
    train_in_process(tmp_path / "hero", *dataset, "size=tiny", "probes=false", "trainer.max_epochs=1")
    before = weights(tmp_path / "hero")
    start = f"init_from={tmp_path / 'hero'}"
    train_in_process(tmp_path / "lm", *dataset, *COT, start, "trainer.max_epochs=1", "stage.train=[reasoner]")
    after = weights(tmp_path / "lm")
    assert all(name.startswith("reasoner.") for name in after)
    train_in_process(tmp_path / "whole", *dataset, *COT, start, "trainer.max_epochs=2", "optimizer.warmup=0",
                     "callbacks.last.filename='{epoch}'", "+callbacks.last.save_top_k=-1",
                     "+callbacks.last.save_last=true")  # fmt: skip
    whole = weights(tmp_path / "whole")
    assert any(not torch.equal(before[name], whole[name]) for name in before)
    half = tmp_path / "whole" / "checkpoints" / "epoch=0.ckpt"
    train_in_process(
        tmp_path / "again", *dataset, *COT, f"resume='{half}'", "trainer.max_epochs=2", "optimizer.warmup=0"
    )
    again = weights(tmp_path / "again")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    tokenizers = [(tmp_path / n / "lm" / "tokenizer.json").read_text() for n in ("whole", "again")]
    assert tokenizers[0] == tokenizers[1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=hero_cot", "llm=none"], "llm=none"),
        (["model=hero", "llm=tiny"], "does not read it"),
        (["model=hero_cot", "llm=tiny", "~dataset.tasks.emotion", "+dataset.tasks.valence._target_="
          "hero_lightning.tasks.ScoreTask", "+dataset.tasks.valence.low=-1", "+dataset.tasks.valence.high=1"],
         "a class task first"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(overrides: list[str], words: str, tmp_path: Path) -> None:
    from hero_lightning.config import build

    cfg = in_process("train", tmp_path, *QUIET, *overrides)
    main = build.dataset(cfg).tasks
    with pytest.raises(ConfigError, match=words):
        build.reasoner(cfg, next(iter(main.values())), model=None)


def test_a_stored_language_model_is_checked_as_the_rest(demo: tuple[Path, list[str]], tmp_path: Path) -> None:
    from hero_lightning.config import build
    from hero_lightning.errors import CheckpointError

    run, _ = demo
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    facts = state[checkpoint.FACTS]
    for node in ("hero_lightning.models.llm.small_lm.SmallLM", "hero_lightning.reasoning.evidence.TemplateWriter"):
        state[checkpoint.FACTS] = {**facts, "config": facts["config"].replace(node, "os.system")}
        assert state[checkpoint.FACTS] != facts
        torch.save(state, tmp_path / "bad.ckpt")
        with pytest.raises(CheckpointError, match=r"os\.system"):
            build.restore(str(tmp_path / "bad.ckpt"), {})


@pytest.mark.slow
def test_two_processes_answer_every_clip_once(tmp_path: Path) -> None:
    root = feature_dataset(tmp_path / "dataset", clips=30)
    options = [f"dataset.root={root}", "dataset=folder", "dataset.num_workers=0", "trainer.max_epochs=1"]
    options += ["dataset.batch_size=4", "trainer=ddp", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path / 'two'}"]
    done = subprocess.run(
        [sys.executable, "-m", "hero_lightning.train", *COT, *options],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [a for a in lines(tmp_path / "two") if a["split"] == "test"]
    splits = json.loads((tmp_path / "two" / "splits.json").read_text())
    assert sorted(a["id"] for a in answers) == sorted(splits["test"])
