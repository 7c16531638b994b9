from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers as tr
from safetensors.torch import load_file, save_file

from hero_lightning.encoders import speech
from hero_lightning.encoders.speech import SpeechEncoder, WhisperEncoder
from hero_lightning.errors import ConfigError
from hero_lightning.media.types import Waveform

PLAIN = ("hubert_base", "hubert_large", "wavlm_large", "wav2vec2_large", "data2vec_base")


def sound(seconds: float, seed: int = 0) -> Waveform:
    return Waveform(0.1 * torch.randn(round(16_000 * seconds), generator=torch.Generator().manual_seed(seed)) + 0.05)


def loaded(folder, kind=SpeechEncoder, **options):
    encoder = kind(str(folder), **options)
    encoder.load()
    return encoder.eval()


def encoded(encoder, *sounds):
    return encoder.encode(encoder.collate([encoder.preprocess(s) for s in sounds]))


@torch.no_grad()
@pytest.mark.parametrize("family", PLAIN)
def test_the_networks_own_numbers(folders, family):
    wave = sound(0.73)
    extractor = tr.Wav2Vec2FeatureExtractor.from_pretrained(folders[family])
    values = extractor(wave.x.numpy(), sampling_rate=16_000, return_tensors="pt")["input_values"]
    network = tr.AutoModel.from_pretrained(folders[family], dtype=torch.float32).eval()
    out = encoded(loaded(folders[family]), wave)
    torch.testing.assert_close(out.x, network(values).last_hidden_state, atol=1e-5, rtol=1e-4)
    assert out.x.shape[1] == 36
    assert torch.allclose(out.time[0, :2], torch.tensor([0.0125, 0.0325]))  # 25 ms every 20 ms
    states = network(values, output_hidden_states=True).hidden_states
    mean = encoded(loaded(folders[family], layers=(-3, -2)), wave)
    torch.testing.assert_close(mean.x, (states[-3] + states[-2]) / 2, atol=1e-5, rtol=1e-4)
    twice = encoded(loaded(folders[family], layers=(-1, -1)), wave)
    torch.testing.assert_close(twice.x, out.x, atol=1e-5, rtol=1e-4)  # the last layer is the last state, normed


@torch.no_grad()
@pytest.mark.parametrize("family", PLAIN)
def test_which_networks_must_be_alone(folders, family, monkeypatch):
    encoder = loaded(folders[family])
    assert encoder.alone is (family in ("hubert_base", "data2vec_base"))
    monkeypatch.setattr(SpeechEncoder, "alone", False)
    short = sound(0.4)
    single, padded = encoded(encoder, short).x[0], encoded(encoder, short, sound(2.0, seed=1)).x[0]
    apart = (single - padded[: len(single)]).abs().max()
    monkeypatch.undo()
    assert (apart > 1e-3) is encoder.alone or bool(apart > 1e-3) is encoder.alone


@torch.no_grad()
def test_long_clips_in_pieces(folders, monkeypatch):
    encoder = loaded(folders["hubert_large"], layers=(-1, -2))
    assert encoder.grid == (320, 400)
    wave = sound(4.0)
    whole = encoded(encoder, wave, sound(0.3))
    monkeypatch.setattr(speech, "PIECE", 60)
    monkeypatch.setattr(speech, "MARGIN", 199)
    same = encoded(encoder, wave, sound(0.3))  # with all of the clip as context nothing changes
    torch.testing.assert_close(same.x, whole.x, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(speech, "MARGIN", 20)
    near = encoded(encoder, wave, sound(0.3))
    assert torch.equal(near.mask, whole.mask)
    assert not torch.equal(near.x, whole.x)
    torch.testing.assert_close(encoded(encoder, wave).x[0], near.x[0], atol=1e-5, rtol=1e-5)


def test_shorter_than_a_step_is_absent(folders):
    for family in ("hubert_base", "hubert_large"):
        out = encoded(loaded(folders[family]), sound(0.02), sound(0.5))
        assert out.present.tolist() == [False, True]
        assert not encoded(loaded(folders[family]), sound(0.02)).present.any()


def test_a_clips_loudness_is_its_own(folders):
    encoder = SpeechEncoder(str(folders["hubert_large"]))
    quiet = encoder.preprocess(Waveform(sound(1.0).x * 0.1))["x"]
    assert quiet.mean().abs() < 1e-4
    torch.testing.assert_close(quiet.var(correction=0), torch.tensor(1.0), atol=0.02, rtol=0)


def test_the_checkpoint_decides_what_it_hears(folders, tmp_path):
    folder = shutil.copytree(folders["hubert_large"], tmp_path / "m")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    wave = sound(0.5)
    assert torch.equal(SpeechEncoder(str(folder)).preprocess(wave)["x"], wave.x)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"sampling_rate": 8000}))
    with pytest.raises(ConfigError, match="another sampling rate"):
        SpeechEncoder(str(folder)).preprocess(wave)


@torch.no_grad()
def test_whisper_keeps_the_clips_own_steps(folders):
    encoder = loaded(folders["whisper"], WhisperEncoder, layers=(-1, -2))
    waves = [sound(0.7), sound(2.3, seed=1)]
    out = encoded(encoder, *waves)
    assert out.mask.sum(dim=1).tolist() == [35, 115]
    network = tr.WhisperModel.from_pretrained(folders["whisper"], dtype=torch.float32).eval().encoder
    extractor = tr.WhisperFeatureExtractor.from_pretrained(folders["whisper"])
    mel = extractor(
        [waves[1].x[:32_000].numpy(), waves[1].x[32_000:].numpy()], sampling_rate=16_000, return_tensors="pt"
    )
    states = network(mel["input_features"], output_hidden_states=True).hidden_states
    want = (states[-1] + states[-2]) / 2  # [2 windows, 100, 16]
    torch.testing.assert_close(out.x[1], torch.cat([want[0], want[1, :15]]), atol=1e-5, rtol=1e-5)
    assert torch.allclose(out.time[1, [0, -1]], torch.tensor([0.01, 2.29]))


@torch.no_grad()
def test_weight_norm_as_published(folders, tmp_path):
    folder = shutil.copytree(folders["hubert_large"], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    old = {}
    for key, value in weights.items():
        for new, published in names.items():
            key = key.replace(new, published)
        old[key] = value
    assert old.keys() != weights.keys()
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    wave = sound(0.5)
    torch.testing.assert_close(encoded(loaded(folder), wave).x, encoded(loaded(folders["hubert_large"]), wave).x)
