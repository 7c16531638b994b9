"""Malicious model folders: code beside the weights never runs, nobody is asked for leave, and the error is ours."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hero_lightning
from hero_lightning.errors import ConfigError
from hero_lightning.hub import Pretrained
from hero_lightning.models.llm import pretrained
from hero_lightning.models.llm.small_lm import SmallLM

CODE = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nclass Evil: pass\n"
AUTO = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoModel": "evil.Evil"}
SLOW, NONE = ["evil.Evil", "evil.Evil"], ["evil.Evil", None]


class Payload:
    """A pickle of it creates a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.ran}'",)


def edited(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def as_bin(folder: Path, write: Callable[[Any, Path], None], name: str = "pytorch_model.bin") -> None:
    (folder / "model.safetensors").unlink()
    write(Payload(folder / "ran"), folder / name)


def in_parts(folder: Path) -> None:
    as_bin(folder, torch.save, "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": {"x": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def plain_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "class of the model": (lambda f: edited(f, "config.json", auto_map=AUTO, model_type="evil"), "custom code"),
    "class of another repository": (
        lambda f: edited(f, "config.json", auto_map={"AutoConfig": "a/b--evil.Evil"}, model_type="evil"), "a/b"),
    "class of the tokenizer": (
        lambda f: edited(f, "tokenizer_config.json", auto_map={"AutoTokenizer": SLOW}, tokenizer_class="Evil"),
        "custom code"),
    "class of the tokenizer alone": (
        lambda f: edited(f, "tokenizer_config.json", auto_map={"AutoTokenizer": NONE}, tokenizer_class="Evil"),
        "custom code"),
    "weights": (lambda f: as_bin(f, torch.save), "posix.system"),
    "weights without zip": (lambda f: as_bin(f, plain_pickle), "UnpicklingError"),
    "weights in parts": (in_parts, "posix.system"),
    "kernel of the hub": (lambda f: edited(f, "config.json", attn_implementation="a/b"), "kernels"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = SmallLM(vocab=300, width=8, layers=1, heads=1, positions=32)
    folder = sizes.build(["a few words"], tmp_path_factory.mktemp("models") / "good")
    (folder / "evil.py").write_text(CODE)
    return folder


def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks at the terminal"))


@pytest.mark.parametrize("name", REFUSED)
def test_code_beside_the_weights(name: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unasked(monkeypatch)
    change, words = REFUSED[name]
    folder = Path(shutil.copytree(good, tmp_path / "model"))
    change(folder)
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        pretrained.read(str(folder), dtype="float32")
    assert words in caught.value.details["got"]
    assert "weights_only" not in str(caught.value)
    assert caught.value.details["where"] == "llm.name"
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("name", ["class", "generate"])
def test_code_that_a_known_architecture_does_not_need(
    name: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unasked(monkeypatch)
    folder = Path(shutil.copytree(good, tmp_path / "model"))
    if name == "class":
        edited(folder, "config.json", auto_map=AUTO)
    else:
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(CODE)
    network, _ = pretrained.read(str(folder), dtype="float32")
    assert type(network).__name__ == "LlamaForCausalLM"
    assert not list(tmp_path.rglob("ran"))


def test_every_loader_is_called_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    Pretrained("some/model", "llm.name").load(lambda name, **options: given.update(options))
    assert given["trust_remote_code"] is False
    called = {
        path.name
        for path in Path(hero_lightning.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    }
    assert not called
