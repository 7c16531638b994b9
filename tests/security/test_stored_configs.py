"""Malicious stored configs: refused before a module is imported or an object is built, by every command.

A config reaches a user inside the checkpoint of a run that somebody else trained.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hero_lightning as hero
from hero_lightning.config import build, gate
from hero_lightning.errors import CheckpointError
from hero_lightning.evaluate import evaluate
from hero_lightning.predict import predict
from tests.helpers import in_process

HERO, SHARDS = "hero_lightning.models.hero.hero.Hero", "hero_lightning.datasets.shards"
GOOD: dict[str, Any] = {
    "seed": 0,
    "model": {
        "_target_": HERO,
        "width": 32,
        "fusion": {"_target_": "hero_lightning.models.hero.fusion.MeanFusion", "_partial_": True},
    },
    "modality": {
        "text": {
            "_target_": "hero_lightning.features.Modality",
            "encoder": {"_target_": "hero_lightning.encoders.text.TextEncoder", "name": "bert-base-uncased"},
            "source": {"_target_": "hero_lightning.features.NpyDict", "root": "data/features", "key": "bert"},
        }
    },
    "dataset": {
        "_target_": "hero_lightning.datasets.folder.FolderDataModule",
        "root": "data/folder",
        "tasks": {"emotion": {"_target_": "hero_lightning.tasks.ClassTask"}},
    },
    "losses": {"sync": {"_target_": "hero_lightning.training.losses.Sync", "weight": 0.1}},
    "optimizer": {"_target_": "hero_lightning.training.optimizers.AdamWWithCosine", "lr": 0.001},
    "callbacks": {"record": {"_target_": "hero_lightning.reporting.callback.ResultsWriter"}},
}
TOUCH = ["touch", "ran"]
FUNCTIONS = [
    {"_target_": "setuptools._distutils.spawn.spawn", "cmd": TOUCH},
    {"_target_": "os.system", "command": "touch ran"},
    {"_target_": "subprocess.Popen", "args": TOUCH},
    {"_target_": "builtins.eval", "source": "1"},
    {"_target_": "runpy.run_path", "path_name": "x.py"},
    {"_target_": "shutil.copyfile", "src": "a", "dst": "b"},
    {"_target_": "pathlib.Path.unlink", "self": "x"},
    {"_target_": "numpy.load", "file": "x.npy", "allow_pickle": True},
    {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
    {"_target_": "torch.hub.load", "repo_or_dir": "a/b", "model": "c"},
    {"_target_": "urllib.request.urlretrieve", "url": "http:x"},
    {"_target_": "hydra.utils.instantiate", "config": {}},
    {"_target_": "hydra._internal.utils._locate", "path": "os.system"},
    {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "x"},
    {"_target_": "transformers.AutoModel.from_pretrained"},
    {"_target_": "hero_lightning.errors.one_of"},
    {"_target_": "hero_lightning.features.files.write_atomic", "path": "x", "content": "y"},
    {"_target_": "hero_lightning.datasets.shards.fetch", "url": "x", "root": "y"},
    {"_target_": "hero_lightning.config.build.logging.FileHandler", "filename": "x", "mode": "w"},
    {"_target_": "hero_lightning.config.launch.subprocess.Popen", "args": TOUCH},
    {"_target_": "hero_lightning.training.losses.nn.Linear", "in_features": 1, "out_features": 1},
    {"_target_": "hero_lightning.training.losses.Tensor"},
    {"_target_": "hero_lightning.features.store.Store", "folder": "x"},
    {"_target_": HERO},
    {"_target_": "hero_lightning.training.losses.Nothing"},
    {"_target_": "hero_lightning.nowhere.Class"},
    {"_target_": "hero_lightning..losses.Sync"},
    {"_target_": "Sync"},
    {"_target_": ["hero_lightning.training.losses.Sync"]},
    {"_target_": None},
]
"""What must not be built at a place of an auxiliary loss, which takes classes of its kind only."""
PLACES = ["mixup", "modality_dropout", "stream_dropout", "callbacks.record", "optimizer", "model.fusion", "model.width",
          "dataset", "dataset.tasks.emotion", "dataset.tasks.emotion.x.y", "dataset.datasets.a.tasks.b",
          "dataset.datasets.a.modality.text.encoder", "modality.text", "modality.text.source.rename",
          "modality.text.encoder", "modality.text.detector", "llm", "llm.lora", "reasoner", "reasoner.prompt",
          "seed"]  # fmt: skip
ARGUMENTS = {
    "dataset._args_": [1],
    "dataset._partial_": True,
    "dataset._convert_": "none",
    "dataset._recursive_": False,
    "model.fusion._args_": [1],
    "modality.text.encoder.trust_remote_code": True,
    "seed": "${oc.env:HOME}",
    "dataset.tasks.emotion.classes": ["a", "${oc.decode:1}"],
    "dataset.note": "\\${oc.env:HOME}",
    "name": "${.seed}",
    "dataset.urls": ["pipe:touch ran"],
    "dataset.urls.0": "{p,x}ipe:touch ran",
    "dataset.datasets.a.urls": "train.tar",
    "dataset.root": "/etc",
    "dataset.feature_root": "~/.ssh",
    "dataset.ann_path": "data/../../x",
    "modality.text.source.root": "a\n/../../../x",
    "modality.text.encoder.name": "\\\\server\\share",
    "modality.face.detector.model": "C:\\Windows\\x.onnx",
    "modality.text.encoder.revision": "https://host/x",
    "llm.name": "file:///etc/passwd",
}


def changed(place: str, value: Any) -> str:
    """The good config with another value at a place."""
    config = copy.deepcopy(GOOD)
    node, (*path, last) = config, place.split(".")
    for key in path:
        child = node.get(key)
        node[key] = node = child if isinstance(child, dict) else {}
    node[last] = value
    return yaml.safe_dump(config)


def test_a_good_config_is_read_as_it_is() -> None:
    unread = {"trainer": {"_target_": "x.Y"}, "logger": {}, "paths": {"data": "/elsewhere"}}
    other = {"callbacks": {**GOOD["callbacks"], "stop": {"_target_": "pytorch_lightning.callbacks.EarlyStopping"}}}
    assert gate.read(yaml.safe_dump({**GOOD, **unread, **other}), "x.ckpt") == GOOD


@pytest.mark.parametrize("node", FUNCTIONS, ids=lambda node: str(node["_target_"]))
def test_only_classes_of_the_kind_of_a_place(node: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"never rebuilt from.*(.|\n)*got: +losses\.a"):
        gate.read(changed("losses.a", node), "x.ckpt")


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_checked(place: str) -> None:
    for node in FUNCTIONS[0], {"deep": [[{"er": FUNCTIONS[1]}]]}:
        with pytest.raises(CheckpointError, match=f"never rebuilt from(.|\n)*got: +{place}"):
            gate.read(changed(place, node), "x.ckpt")


@pytest.mark.parametrize("place", ARGUMENTS)
def test_arguments_of_admitted_classes(place: str) -> None:
    with pytest.raises(CheckpointError, match=f"A stored config names(.|\n)*got: +{place.rstrip('.0')}"):
        gate.read(changed(place, ARGUMENTS[place]), "x.ckpt")


@pytest.mark.parametrize(
    "text",
    [
        None,
        {"seed": 0},
        "[]",
        "seed: [",
        "callbacks: 3",
        "a: &a [1]\nb: *a",
        "a: &a {b: 1}\nc:\n  <<: *a",
        "a: !!python/object/apply:os.system ['touch ran']",
        "a: !!python/name:os.system ''",
        "[" * 600,
        "seed: 1\nseed: 2",
    ],
)
def test_texts_that_are_no_config(text: Any) -> None:
    with pytest.raises(CheckpointError, match="The stored config cannot be read"):
        gate.read(text, "x.ckpt")


def test_the_whole_tree_is_checked_before_a_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seen_by_gate.py").write_text("class Loss: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = changed("losses", {"a": {"_target_": "seen_by_gate.Loss"}, "b": {"_target_": "os.system"}})
    with pytest.raises(CheckpointError, match=r"os\.system"):
        gate.read(text, "x.ckpt", trust=["seen_by_gate"])
    assert "seen_by_gate" not in sys.modules


def test_files_below_the_paths_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    text = changed("dataset.root", f"{tmp_path}/meld")
    gate.read(text, "x.ckpt", [tmp_path])
    gate.read(text, "x.ckpt", trust=[str(tmp_path)])
    for other in (f"{tmp_path}/../x", f"{tmp_path}/link/etc", f"{tmp_path}x"):
        with pytest.raises(CheckpointError, match="not below this machine's paths"):
            gate.read(changed("dataset.root", other), "x.ckpt", [tmp_path])


def test_the_hint_names_every_file(tmp_path: Path) -> None:
    text = changed(
        "dataset", {**GOOD["dataset"], "root": "/a/b", "feature_root": "/a/b/c", "urls": ["https://h/x.tar"]}
    )
    with pytest.raises(CheckpointError, match=r"dataset.*and 2 more(.|\n)*trust=\[/a/b,https://h/x.tar\]"):
        gate.read(text, "x.ckpt")
    gate.read(text, "x.ckpt", trust=["/a/b", "https://h/x.tar"])
    gate.read(text, "x.ckpt", trust=["/a/b", "https://h"])
    for near in (["/a/b", "https://h/x"], ["/a", "http://h"]):
        with pytest.raises(CheckpointError, match="not below this machine's paths"):
            gate.read(text, "x.ckpt", trust=near)


def test_a_folder_that_the_user_replaces_may_lie_anywhere() -> None:
    key, text = "modality.text.encoder.name", changed("modality.text.encoder.name", "/elsewhere/roberta")
    with pytest.raises(CheckpointError, match="not below this machine's paths"):
        gate.read(text, "x.ckpt")
    assert gate.read(text, "x.ckpt", replaced=[key])["modality"]["text"]["encoder"]["name"] == ""


def test_a_class_of_the_user_needs_the_word_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import subprocess\nfrom hero_lightning.models.base import FusionModel\nclass Mine(FusionModel): pass\n"
    (tmp_path / "own_models.py").write_text(code + "def make(): pass\nclass Other: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = changed("model", {"_target_": "own_models.Mine"})
    with pytest.raises(CheckpointError, match=r"hint: .*trust=\[own_models\]"):
        gate.read(mine, "x.ckpt")
    gate.read(mine, "x.ckpt", trust=["own_models"])
    for name in ("make", "Other", "subprocess.Popen", "Nothing", "Mine.forward"):
        with pytest.raises(CheckpointError, match="never rebuilt from"):
            gate.read(changed("model", {"_target_": f"own_models.{name}"}), "x.ckpt", trust=["own_models"])
    for package in ("os", "own", "hero_lightning"):
        with pytest.raises(CheckpointError, match="never rebuilt from"):
            gate.read(changed("model", {"_target_": "own_models.Mine"}), "x.ckpt", trust=[package])
    with pytest.raises(CheckpointError, match="never rebuilt from"):
        gate.read(changed("model", FUNCTIONS[2]), "x.ckpt", trust=["subprocess"])


@pytest.mark.parametrize("place", ["mixup", "dataset.urls", "seed"])
def test_every_command_has_the_same_gate(place: str, tmp_path: Path) -> None:
    value = {"mixup": FUNCTIONS[0], **ARGUMENTS}[place]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    facts = {"config": changed(place, value), "dims": {}, "tasks": {}, "dataset": "x"}
    torch.save({"state_dict": {}, "hero_lightning": facts}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    run, out = tmp_path / "run", tmp_path / "out"
    for use in (
        lambda: build.restore(str(run), {}),
        lambda: hero.load(run),
        lambda: evaluate(in_process("evaluate", out, f"run={run}")),
        lambda: list(predict(in_process("predict", out, f"run={run}", "video=x.mp4"))),
    ):
        with pytest.raises(CheckpointError, match=f"A stored config names(.|\n)*got: +{place}"):
            use()
    assert not list(out.rglob("*.yaml"))
