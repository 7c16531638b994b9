"""The code of docs/extending.md is complete: written to files as it stands, its parts train together."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from hero_lightning.media.types import Waveform
from hero_lightning.tasks import ClassTask
from tests.helpers import feature_dataset, run

ROOT = Path(__file__).parents[1]
FILE = re.compile(r"^`(?P<name>src/hero_lightning/[\w/]+\.py)`:\n\n```python\n(?P<code>.*?)^```", re.M | re.S)


def test_the_code_of_the_guide_trains(tmp_path: Path) -> None:
    files = dict(FILE.findall((ROOT / "docs" / "extending.md").read_text()))
    assert sorted(Path(f).stem for f in files) == ["calls", "confidence_penalty", "mean_pool", "zero_crossings"]
    package = tmp_path / "guide"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, code in files.items():
        (package / Path(name).name).write_text(code)
    folder, path = tmp_path / "run", f"{tmp_path}:{ROOT / 'src'}"
    done = run(
        "hero_lightning.train", "model=none", "fusion@model.fusion=none", "loss@losses.sync=none",
        "loss@losses.unimodal=none", "+model._target_=guide.mean_pool.MeanPool", "+model.size=6",
        "+losses.penalty={_target_: guide.confidence_penalty.ConfidencePenalty, weight: 0.1}",
        "dataset=folder", f"dataset.root={feature_dataset(tmp_path / 'data')}", "dataset.num_workers=0", "trainer=cpu",
        "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "logger=csv", f"hydra.run.dir={folder}",
        cwd=ROOT, PYTHONPATH=path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train/penalty" in (folder / "metrics.csv").read_text().splitlines()[0]
    command = ["hero_lightning.evaluate", f"run={folder}", "trainer=cpu", f"hydra.run.dir={tmp_path / 'scored'}"]
    refused = run(*command, cwd=ROOT, PYTHONPATH=path)
    assert refused.returncode == 2
    assert "trust=[guide]" in refused.stderr
    done = run(*command, f"trust=[guide,{tmp_path / 'data'}]", cwd=ROOT, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "scored" / "metrics.json").is_file()


def test_the_dataset_and_the_encoder_of_the_guide(tmp_path: Path) -> None:
    files = {Path(name).stem: code for name, code in FILE.findall((ROOT / "docs" / "extending.md").read_text())}
    (tmp_path / "guide_calls.py").write_text(files["calls"])
    (tmp_path / "guide_crossings.py").write_text(files["zero_crossings"])
    sys.path.insert(0, str(tmp_path))
    try:
        from guide_calls import CallsDataModule
        from guide_crossings import ZeroCrossings
    finally:
        sys.path.remove(str(tmp_path))
    (tmp_path / "labels.csv").write_text("id,split,call,turn,speaker,text,emotion\na,train,c1,0,Ann,stop it,angry\n")
    tasks = {"emotion": ClassTask("emotion")}
    (sample,) = CallsDataModule(root=tmp_path, modalities={"text": None}, tasks=tasks, features_root=tmp_path).samples()
    assert (sample.labels, sample.dialogue) == ({"emotion": "angry"}, "c1")
    encoder = ZeroCrossings()
    features = encoder(encoder.collate([encoder.preprocess(Waveform(torch.randn(n))) for n in (16_000, 8_000)]))
    assert features.x.shape == (2, 10, 2)
    assert features.mask.sum(dim=1).tolist() == [10, 5]
