"""Transfer: rows go where their class or modality is, the rest starts fresh, and the table says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hero_lightning.config import build
from hero_lightning.errors import CheckpointError
from hero_lightning.training import checkpoint, transfer
from tests.datasets.official_trees import iemocap_tree, mer2023, write_table
from tests.datasets.test_meld import write_csv
from tests.datasets.test_mosei import sdk
from tests.helpers import feature_dataset, in_process, train_in_process

QUICK = ["size=tiny", "probes=false", "test=false", "trainer.max_epochs=1", "dataset.batch_size=8"]
FOUR = ("neutral", "happy", "sad", "angry")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return feature_dataset(tmp_path_factory.mktemp("dataset") / "folder", classes=FOUR)


def options(root: Path, classes: str, modalities: str = "text,audio", *more: str) -> list[str]:
    kept = classes.strip("[]").split(",")
    spare = [f"dataset.unknown_label={'error' if set(FOUR) <= set(kept) else 'drop'}"]
    chosen = [f"dataset.tasks.emotion.classes={classes}", f"modalities=[{modalities}]"]
    return ["dataset=folder", f"dataset.root={root}", *chosen, *spare, *QUICK, *more]


def fresh(folder: Path, *overrides: str):
    """The module of a new run."""
    cfg = in_process("train", folder, "trainer=cpu", "dataset.num_workers=0", *overrides)
    data = build.dataset(cfg)
    data.prepare_data()
    return build.module(cfg, data.modalities, data.tasks, data.dims, lambda _: None)


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("source")
    train_in_process(run, *options(root, "[neutral,happy,sad,angry]"))
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.find(run))["state_dict"]


def test_other_classes_in_another_order(root, source, tmp_path):
    module = fresh(tmp_path, *options(root, "[angry,fear,happy,neutral,surprise]"))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    parts = transfer.initialise(module, source)
    old = weights(source)
    for head in ("model.heads.emotion.1", "model.unimodal_heads.emotion.1"):
        for part in ("weight", "bias"):
            now, start, theirs = (t[f"{head}.{part}"] for t in (module.state_dict(), before, old))
            for row, known in {0: 3, 2: 1, 3: 0}.items():  # angry, happy, neutral
                assert torch.equal(now[row], theirs[known])
            for row in (1, 4):
                assert torch.equal(now[row], start[row])
    found = parts["model.heads.emotion"]
    assert [n for n in found.carried if "." not in n] == ["angry", "happy", "neutral"]
    assert list(found.fresh) == ["fear", "surprise"]
    assert list(found.left) == ["sad"]
    assert torch.equal(module.model.experts["audio"].missing, old["model.experts.audio.missing"])
    lines = transfer.table(parts).splitlines()
    head = "model.heads.emotion: carried over 0.weight, 0.bias, angry, happy, neutral"
    assert f"  {head}; fresh fear, surprise; left behind sad" in lines
    assert lines[0].startswith("  whole: ")
    assert "model.experts.audio" in lines[0]


@pytest.mark.parametrize("strategy", ["dynamic", "concat"])
def test_another_set_of_modalities(root, tmp_path, strategy):
    four, fusion = "[neutral,happy,sad,angry]", f"model.fusion.strategy={strategy}"
    train_in_process(tmp_path / "source", *options(root, four, "text,audio,au", fusion))
    module = fresh(tmp_path, *options(root, four, "frame,audio,text", fusion))
    start = {k: v.clone() for k, v in module.state_dict().items()}
    parts = transfer.initialise(module, tmp_path / "source")
    old, now = weights(tmp_path / "source"), module.state_dict()
    slots = "model.imputation.slots"  # theirs: audio, au, text; ours: frame, audio, text
    assert torch.equal(now[slots][:, 1], old[slots][:, 0])
    assert torch.equal(now[slots][:, 2], old[slots][:, 2])
    assert torch.equal(now[slots][:, 0], start[slots][:, 0])
    assert list(parts["model.imputation"].fresh) == ["frame"]
    assert list(parts["model.imputation"].left) == ["au"]
    assert parts["model.experts.frame"].fresh
    assert not parts["model.experts.frame"].carried
    assert parts["model.experts.au"].left
    if strategy == "concat":
        name, width = "model.fusion.gate.merge.0.weight", module.model.width
        name = next(k for k in now if k.endswith("merge.0.weight"))
        assert torch.equal(now[name][:, width : 2 * width], old[name][:, :width])
        assert torch.equal(now[name][:, :width], start[name][:, :width])


@pytest.mark.parametrize(
    "baseline", ["linear", "early", "attention", "gated", "lmf", "late", "mult", "self_mm", "dialogue_gru"]
)
def test_baselines_never_mix_modalities_up(root, tmp_path, baseline):
    """Two sets of the same size: what belongs to a modality follows it, what belongs to the set starts fresh."""
    own = [f"baseline={baseline}"]
    three = "[neutral,happy,sad,angry]"
    train_in_process(tmp_path / "source", *options(root, three, "text,audio", *own))
    same, other = (
        fresh(tmp_path, *options(root, three, "text,audio", *own)),
        fresh(tmp_path, *options(root, three, "au,audio", *own)),
    )
    parts = transfer.initialise(same, tmp_path / "source")
    assert not any(p.fresh or p.left for p in parts.values())
    old = weights(tmp_path / "source")
    assert all(torch.equal(v, old[k]) for k, v in same.state_dict().items())
    if baseline in ("linear", "early"):
        start = {k: v.clone() for k, v in other.state_dict().items()}
    parts = transfer.initialise(other, tmp_path / "source") if baseline != "linear" else {}
    now = other.state_dict()
    if "model.missing" in now:  # theirs: audio, text; ours: audio, au
        assert torch.equal(now["model.missing"][0], old["model.missing"][0])
        assert not torch.equal(now["model.missing"][1], old["model.missing"][1])
    if baseline == "early":
        assert torch.equal(now["model.hidden.1.weight"], start["model.hidden.1.weight"])
    assert bool(parts) or baseline == "linear"


def test_nothing_in_common_is_an_error(root, source, tmp_path):
    module = fresh(tmp_path, *options(root, "[a,b]", "au", "size=base", "dataset.unknown_label=drop"))
    with pytest.raises(CheckpointError, match="Nothing of the checkpoint fits"):
        transfer.initialise(module, source)


def test_a_checkpoint_without_names_is_an_error(root, source, tmp_path):
    state = torch.load(checkpoint.find(source), weights_only=True)
    del state[checkpoint.FACTS]["axes"]
    torch.save(state, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match="train that run again"):
        transfer.initialise(fresh(tmp_path, *options(root, "[neutral,happy,sad,angry]")), tmp_path / "old.ckpt")


WORDS = ["encoder@modality.text.encoder=words", "modalities=[text]", "dataset.unknown_label=drop"]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Dataset -> overrides that read its synthetic official tree."""
    data = tmp_path_factory.mktemp("data")
    mer2023(data / "mer2023", n=24)
    spoken = [(f"sample_{k:08d}", "你好", f"Hello {k}") for k in range(1, 33)] + [
        (f"samplenew_{k:08d}", "好", "Well") for k in range(4)
    ]
    write_table(data / "mer2023" / "transcription-engchi-polish.csv", "name,chinese,english", spoken)
    sdk(data / "cmu_mosei")
    iemocap_tree(data / "iemocap")
    write_csv(data / "meld", "train", {d: range(3) for d in range(12)})
    write_csv(data / "meld", "dev", {0: [0, 2, 5], 1: [0]})
    common = [f"paths.data={data}", f"paths.features={data}/features", *QUICK, *WORDS]
    mix = ["~dataset.datasets.meld", "~dataset.datasets.iemocap"]
    mix += ["+dataset@dataset.datasets.mer2023=mer2023", "+dataset@dataset.datasets.cmu_mosei=cmu_mosei"]
    return {n: [f"dataset={n}", *common] for n in ("mer2023", "cmu_mosei", "iemocap", "meld")} | {
        "mix": ["dataset=mix", *mix, *common]
    }


@pytest.fixture(scope="module")
def sources(trees, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {}
    for name in ("mer2023", "cmu_mosei", "mix"):
        out[name] = tmp_path_factory.mktemp(name)
        train_in_process(out[name], *trees[name])
    return out


@pytest.mark.parametrize("target", ["iemocap", "meld"])
@pytest.mark.parametrize("origin", ["mer2023", "cmu_mosei", "mix"])
def test_the_recommended_path(trees, sources, origin, target, tmp_path):
    module = fresh(tmp_path, *trees[target])
    parts = transfer.initialise(module, sources[origin])
    old, now = weights(sources[origin]), module.state_dict()
    assert torch.equal(now["model.experts.text.missing"], old["model.experts.text.missing"])
    task = {"mer2023": "emotion", "mix": "mer2023/emotion"}.get(origin)
    classes = list(module.tasks["emotion"].classes)
    six = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
    shared = [c for c in classes if c in six] if task else []
    assert [n for n in parts["model.heads.emotion"].carried if n in classes] == shared
    for name in shared:
        mine, theirs = (f"model.heads.{t}.1.weight" for t in ("emotion", task))
        assert torch.equal(now[mine][classes.index(name)], old[theirs][six.index(name)])
    train_in_process(tmp_path / "run", *trees[target], f"init_from={sources[origin]}")
    assert np.isfinite([float(v.float().sum()) for v in weights(tmp_path / "run").values()]).all()
