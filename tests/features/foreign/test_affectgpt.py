from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

from hero_lightning.encoders.handcrafted import FrameHog
from hero_lightning.errors import FeatureError
from hero_lightning.features.extraction import fill
from hero_lightning.features.foreign.affectgpt import AffectGptFolder, dataset_folder, export, folder_name
from hero_lightning.features.foreign.hero_npy import NpyDict, write_npydict
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.media.frame_samplers import EmotionPeak, Uniform
from tests.features.conftest import make, tree


@pytest.fixture
def stored(tmp_path, samples):
    modalities = {name: make(name) for name in ("frame", "audio", "text")}
    for modality in modalities.values():
        modality.bind(tmp_path / "features", "demo")
    fill(modalities, samples)
    return modalities


def test_npy_dict_is_read_back(stored, samples, tmp_path):
    assert export(stored, samples, tmp_path / "npy", "npydict", "demo") == 6
    for name, key in {"frame": "clip", "audio": "hubert", "text": "bert"}.items():
        source = NpyDict(tmp_path / "npy", key)
        for s in samples:
            assert source.contains(s) == stored[name].store.contains(s)
            if source.contains(s):
                row, want = source.read(s), stored[name].store.read(s)
                assert torch.equal(row.x, want.x)
                assert (row.time is None) == (want.time is None)
                assert row.measures == want.measures
    assert load_features(tmp_path / "npy" / "c0.npy")["transcript"] == samples[0].text
    before = tree(tmp_path / "npy")
    assert export(stored, samples, tmp_path / "npy", "npydict", "demo") == 0
    assert tree(tmp_path / "npy") == before


def test_a_modality_is_added_to_the_dict(stored, samples, tmp_path):
    export({"text": stored["text"]}, samples, tmp_path / "npy", "npydict", "demo")
    export({"frame": stored["frame"]}, samples, tmp_path / "npy", "npydict", "demo")
    assert {"bert", "clip"} <= load_features(tmp_path / "npy" / "c0.npy").keys()
    assert json.loads((tmp_path / "npy" / "manifest.json").read_text()).keys() == {"bert", "clip"}


@pytest.mark.parametrize(("layout", "place"), [("npydict", ""), ("affectgpt", "mer2023/frame_FrameHog_uniform_4frms")])
def test_features_of_other_settings_are_refused_or_thrown_away(stored, samples, tmp_path, layout, place):
    out = tmp_path / "out"
    export({"text": stored["text"], "frame": stored["frame"]}, samples, out, layout, "mer2023")
    other = make("frame", encoder=partial(FrameHog, size=32, cells=2))
    other.bind(tmp_path / "features", "demo")
    fill({"frame": other}, samples[:2])
    with pytest.raises(FeatureError, match="cells=2") as info:
        export({"frame": other}, samples[:2], out, layout, "mer2023")
    assert "force=true" in info.value.details["hint"]
    export({"frame": other}, samples[:2], out, layout, "mer2023", force=True)
    source = NpyDict(out, "clip") if layout == "npydict" else AffectGptFolder(out, "mer2023", place.split("/")[1])
    assert [source.contains(s) for s in samples] == [True, True, False, False, False, False]
    assert source.read(samples[0]).x.shape[1] == other.dim
    if layout == "npydict":
        assert NpyDict(out, "bert").contains(samples[4])


def test_files_of_somebody_else_are_not_overwritten(stored, samples, tmp_path):
    write_npydict(tmp_path / "npy" / "c0.npy", {"bert": np.ones((2, 3), dtype="float32")})
    with pytest.raises(FeatureError, match="identity=unknown"):
        export({"text": stored["text"]}, samples, tmp_path / "npy", "npydict", "demo")
    export({"frame": stored["frame"]}, samples, tmp_path / "npy", "npydict", "demo")  # another key is not in the way
    assert load_features(tmp_path / "npy" / "c0.npy")["bert"].shape == (2, 3)


def test_folders_of_the_affectgpt_family(stored, samples, tmp_path):
    export(stored, samples, tmp_path, "affectgpt", "CMU_MOSEI")
    file = tmp_path / "cmumosei" / "frame_FrameHog_uniform_4frms" / "c0.npy"
    array = np.load(file)
    assert array.dtype == np.float32
    source = AffectGptFolder(tmp_path, "cmu_mosei", "frame_FrameHog_uniform_4frms")
    assert torch.equal(source.read(samples[0]).x, stored["frame"].store.read(samples[0]).x)
    assert (tmp_path / "cmumosei" / "audio_LogMelProsody_8clips").is_dir()


@pytest.mark.parametrize(
    ("root", "dataset", "path"),
    [
        ("pre", "mer2023", "pre/mer2023"),
        ("pre", "MER2023", "pre/mer2023"),
        ("pre", "IEMOCAPFour", "pre/iemocap"),
        ("pre/iemocap", "IEMOCAPFour", "pre/iemocap"),  # the folder is not appended twice
        ("pre/mer2023", "mer2023", "pre/mer2023"),
        ("pre", "cmu_mosi", "pre/cmumosi"),
        ("pre", "ovmerd_plus", "pre/ovmerdplus"),
    ],
)
def test_dataset_folder(root, dataset, path):
    assert dataset_folder(root, dataset).as_posix() == path


class Named(FrameHog):
    """A stand-in with a hub id."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.options["name"] = name


@pytest.mark.parametrize(
    ("modality", "name"),
    [
        (("frame", "openai/clip-vit-large-patch14", EmotionPeak(8)), "frame_CLIP_VIT_LARGE_emotion_peak_8frms"),
        (("frame", "/models/dinov2-large", Uniform(4)), "frame_DINO2_LARGE_uniform_4frms"),
        (("face", "openai/clip-vit-large-patch14", Uniform(8)), "face_CLIP_VIT_LARGE_8frms"),
        (("face", "me/other", EmotionPeak(8)), "face_other_emotion_peak_8frms"),
    ],
)
def test_folder_name(modality, name):
    kind, hub, sampler = modality
    assert folder_name(make(kind, encoder=partial(Named, hub), sampler=sampler)) == name


def test_folder_names_of_sound_and_action_units():
    assert folder_name(make("audio")) == "audio_LogMelProsody_8clips"
    assert folder_name(make("au")) == "au_AuValues_8frms"
