"""The model protocol: a model of 30 lines trains from the command line; what does not fit is refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from hero_lightning.config.instantiate import arguments, make
from hero_lightning.errors import ConfigError, DataError, FeatureError
from hero_lightning.models.base import FusionModel
from hero_lightning.models.hero.hero import Hero
from hero_lightning.models.layers import masked_mean
from hero_lightning.models.outputs import Fused, Outputs
from hero_lightning.types import Features
from tests.helpers import feature_dataset, run

ROOT = Path(__file__).parents[2]


class MeanPool(FusionModel):
    """The smallest model: mean over time and modalities, then a linear head per Task."""

    def __init__(self, dims, outputs, auxiliary_heads=(), size=8):
        super().__init__(dims, outputs, auxiliary_heads)
        self.project = nn.ModuleDict({s: nn.Linear(d, size) for s, d in self.dims.items()})
        self.heads = nn.ModuleDict({t: nn.Linear(size, n) for t, n in self.outputs.items()})

    def forward(self, features, explain=False, items=None):
        seen = self.complete(features)
        summaries = torch.stack([self.project[s](masked_mean(f.x, f.mask)) for s, f in seen.items()], dim=1)
        present = torch.stack([f.present for f in seen.values()], dim=1)
        pooled = masked_mean(summaries, present)
        return Outputs(
            logits={t: head(pooled) for t, head in self.heads.items()},
            experts=self.modalities,
            summaries=summaries,
            present=present,
            fused=Fused(context=pooled[:, None], pooled=pooled),
        )


def test_a_custom_model_trains_from_the_command_line(tmp_path: Path) -> None:
    dataset, folder = feature_dataset(tmp_path / "data"), tmp_path / "run"
    done = run(
        "hero_lightning.train", "model=none", "fusion@model.fusion=none", "loss@losses.sync=none",
        "loss@losses.unimodal=none", "+model._target_=tests.models.test_base.MeanPool", "+model.size=6",
        "dataset=folder", f"dataset.root={dataset}", "dataset.num_workers=0", "trainer=cpu", "trainer.max_epochs=2",
        "mixup=clips", "logger=csv", f"hydra.run.dir={folder}", cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    splits = json.loads((folder / "metrics.json").read_text())["splits"]
    assert all(splits[s]["emotion"]["n"] == 12 for s in ("val", "test"))
    assert "accuracy" in splits["test"]["emotion"]["metrics"]
    with (folder / "predictions.csv").open() as file:
        assert Counter(row["split"] for row in csv.DictReader(file)) == {"val": 12, "test": 12}
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["model.project.audio.weight"].shape == (6, 14)


def test_options_of_a_group_are_given_flat() -> None:
    node = {"_target_": "hero_lightning.models.hero.hero.Hero", "width": 32, "num_heads": 4, "standardise": True}
    given = {"dims": {"audio": 3}, "outputs": {"emotion": 2}}
    model = make(node, "model", **given)
    assert model.width == 32
    assert model.experts["audio"].norm is not None
    assert {"dropout", "queries", "stat_pooling", "pair"} <= {p.name for p in arguments(Hero)}
    for change, words in (({"widht": 3}, r"(?s)Unknown option.*width.*model\.widht"), ({"width": 30}, r"model\.width")):
        with pytest.raises(ConfigError, match=words):
            make(node | change, "model", **given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": {"video": 3}}, r"(?s)Unknown modality.*frame.*video"),
        ({"dims": {}}, r"(?s)Unknown modality.*none"),
        ({"outputs": {}}, r"(?s)a Task with outputs.*dataset\.tasks"),
        ({"outputs": {"emotion": 0}}, r"(?s)a Task with outputs.*dataset\.tasks"),
        ({"auxiliary_heads": ["sync", "unimodal"]}, r"(?s)no head.*sync, unimodal.*losses\.sync=none loss@losses\.un"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ConfigError, match=message):
        MeanPool(**({"dims": {"audio": 3}, "outputs": {"emotion": 4}} | settings))


def test_what_the_base_class_does():
    bare = FusionModel({"audio": 3, "frame": 2}, {"emotion": 4})
    with pytest.raises(TypeError, match="does not define forward"):
        bare({})
    with pytest.raises(ConfigError, match="no sync head"):
        bare.match(None, None, None)
    assert bare.own_scores(None, None, None) is None
    empty = Features(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.bool), torch.zeros(2, 0))
    found = bare.complete({"audio": empty, "text": empty})
    assert {s: f.x.shape for s, f in found.items()} == {"frame": (2, 1, 2), "audio": (2, 1, 3)}
    assert not any(f.mask.any() for f in found.values())
    with pytest.raises(DataError, match=r"(?s)none of the model's modalities.*frame.*audio.*text"):
        bare.complete({"text": empty})
    with pytest.raises(FeatureError, match=r"(?s)modality frame.*width 2.*width 3.*modality\.frame"):
        bare.complete({"frame": empty})
