"""What every encoder with pretrained weights must do, family by family, on tiny networks saved and loaded back."""

from __future__ import annotations

import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hero_lightning.encoders.au_text import AuWords
from hero_lightning.encoders.image import ImageEncoder
from hero_lightning.encoders.speech import SpeechEncoder, WhisperEncoder
from hero_lightning.encoders.text import TextEncoder
from hero_lightning.encoders.video import VideoEncoder
from hero_lightning.errors import ConfigError
from hero_lightning.features.device import ModalityEncoder
from hero_lightning.features.extraction import fill
from hero_lightning.features.modality import Modality
from hero_lightning.features.read import read_clip
from hero_lightning.hub import Lora
from hero_lightning.media.action_units import AU_COLUMNS
from hero_lightning.media.frame_samplers import Consecutive, Uniform
from hero_lightning.media.types import ActionUnits, Frames, Waveform
from hero_lightning.types import Media, Sample
from tests.helpers import make_modality
from tests.media_helpers import tone, write_au_csv, write_clip

# option -> family, class, options, modality
OPTIONS = {
    "clip": ("clip", ImageEncoder, {}, "frame"),
    "clip_projected": ("clip", ImageEncoder, {"pooling": "projected"}, "face"),
    "clip_tokens": ("clip", ImageEncoder, {"pooling": "tokens"}, "frame"),
    "siglip": ("siglip", ImageEncoder, {}, "frame"),
    "siglip_mean": ("siglip", ImageEncoder, {"pooling": "mean"}, "frame"),
    "dinov2": ("dinov2", ImageEncoder, {"pooling": "mean"}, "frame"),
    "vit": ("vit", ImageEncoder, {}, "face"),
    "vit_mae": ("vit_mae", ImageEncoder, {}, "face"),
    "eva": ("eva", ImageEncoder, {"pooling": "tokens", "size": 64}, "frame"),
    "videomae": ("videomae", VideoEncoder, {}, "motion"),
    "hubert_base": ("hubert_base", SpeechEncoder, {"layers": (-2, -1)}, "audio"),
    "hubert_large": ("hubert_large", SpeechEncoder, {"layers": (-3, -2, -1)}, "audio"),
    "wavlm_large": ("wavlm_large", SpeechEncoder, {}, "audio"),
    "wav2vec2_large": ("wav2vec2_large", SpeechEncoder, {}, "audio"),
    "data2vec_base": ("data2vec_base", SpeechEncoder, {}, "audio"),
    "whisper": ("whisper", WhisperEncoder, {"layers": (-2, -1)}, "audio"),
    "clip_text": ("clip", AuWords, {}, "au"),
}
LEARNS = [option for option in OPTIONS if option != "clip_text"]


def made(folders, option: str, **more):
    family, kind, options, _ = OPTIONS[option]
    return kind(str(folders[family]), **options, **more)


def loaded(folders, option: str, **more):
    encoder = made(folders, option, **more)
    encoder.load()
    return encoder.train(encoder.trainable)


def materials(modality: str) -> list:
    """EncoderInput material of three clips of different length."""
    draw = torch.Generator().manual_seed(3)
    if modality == "audio":
        return [Waveform(0.1 * torch.randn(round(s * 16_000), generator=draw)) for s in (0.5, 2.6, 0.1)]
    if modality == "au":
        return [
            ActionUnits(3 * torch.rand(n, 35, generator=draw), torch.arange(n) / 10, AU_COLUMNS) for n in (3, 40, 1)
        ]
    counts = (16, 21, 5) if modality == "motion" else (3, 5, 1)
    return [
        Frames(torch.randint(0, 256, (n, 40, 60, 3), generator=draw, dtype=torch.uint8), torch.arange(n) / 25)
        for n in counts
    ]


@pytest.mark.parametrize("option", OPTIONS)
def test_alone_equals_in_batch(folders, option):
    encoder = loaded(folders, option)
    rows = [encoder.preprocess(m) for m in materials(OPTIONS[option][3])]
    together = encoder.encode(encoder.collate(rows))
    assert together.x.shape[2] == encoder.dim
    assert together.x.dtype == torch.float32
    assert not together.x.requires_grad
    for b, row in enumerate(rows):
        alone = encoder.encode(encoder.collate([row]))
        steps = int(together.mask[b].sum())
        assert steps == alone.mask.sum() == alone.x.shape[1]
        assert together.mask[b, :steps].all()
        torch.testing.assert_close(together.x[b, :steps], alone.x[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.time[b, :steps], alone.time[0])
        assert (alone.time[0].diff() >= 0).all()


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    root, out = tmp_path_factory.mktemp("clips"), []
    for k, seconds in enumerate((0.7, 2.5)):
        video = write_clip(root / f"c{k}.mp4", seconds, fps=20, sound=tone(seconds, hertz=150 + 90 * k))
        table = write_au_csv(root / f"c{k}.csv", 12 + 9 * k, values={"AU12_r": np.full(30, 1.0 + k)})
        boxes = {"face": (0.25, 0.25, 0.75, 1.0)}
        out.append(Sample(f"c{k}", "train", video=Media(video), files={"au": table}, boxes=boxes))
    return out


@pytest.mark.parametrize("option", OPTIONS)
def test_realtime_equals_stored(folders, samples, tmp_path, option):
    family, kind, options, name = OPTIONS[option]
    encoder = partial(kind, str(folders[family]), **options)
    sampler = {"frame": Uniform(4), "face": Uniform(3), "motion": Consecutive(16, clips=2)}.get(name)
    auto = make_modality(name, "auto", encoder, sampler=sampler, max_len=40)
    live = make_modality(name, "realtime", encoder, sampler=sampler, max_len=40)
    auto.bind(tmp_path, "demo")
    assert auto.dim == auto.encoder.dim  # from the config: nothing is loaded
    assert auto.encoder.network is None
    assert fill({name: auto}, samples, batch_size=2).written == {name: 2}
    out = []
    for modality in (auto, live):
        rows = [read_clip({name: modality}, {name: modality.availability(s)}, s)[name] for s in samples]
        out.append(ModalityEncoder(modality)(modality.collate(rows)))
    assert torch.equal(out[0].mask, out[1].mask)
    torch.testing.assert_close(out[0].x, out[1].x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[0].time, out[1].time)
    assert 0.3 < out[0].time[0].max() < 1.2
    assert 1.3 < out[0].time[1].max() < 2.6


@pytest.mark.parametrize("option", LEARNS)
@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_what_learns(folders, option, trainable):
    feed_forward = {"lora": Lora(targets=("intermediate_dense", "output_dense"))} if option == "wavlm_large" else {}
    encoder = loaded(folders, option, trainable=trainable, **feed_forward)
    learning = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert learning
    assert encoder.training
    assert all("lora_" in n for n in learning) is (trainable == "lora")
    rows = [encoder.preprocess(m) for m in materials(OPTIONS[option][3])[:2]]
    encoder.encode(encoder.collate(rows)).x.square().sum().backward()
    assert {n for n, p in encoder.named_parameters() if p.grad is not None} == learning  # DDP waits for each of them
    name, sampler = OPTIONS[option][3], Uniform(2)
    with pytest.raises(ConfigError, match=rf"mode@modality\.{name}=realtime"):
        Modality(name, "auto", partial(made, folders, option, trainable=trainable, **feed_forward), sampler=sampler)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / folder.name))


def own_tensor(option: str, name: str) -> bool:
    """Whether a tensor of the checkpoint belongs to the part that the encoder reads."""
    if option == "clip_text":
        return name.startswith("text_")
    if OPTIONS[option][0] in ("clip", "siglip", "eva"):
        unread = "post_layernorm" if option == "clip_tokens" else "head." if option == "siglip_mean" else "@"
        tower = name.startswith("vision_model") or (option == "clip_projected" and name.startswith("visual_"))
        return tower and unread not in name
    heads = ("decoder", "classifier", "lm_head", "encoder_to_decoder", "mask_token", "proj_out", "model.decoder")
    return not name.startswith(heads) and not any(h in name for h in ("mask_token", "masked_spec_embed"))


@pytest.mark.parametrize("option", OPTIONS)
def test_no_tensor_of_its_own_may_be_missing_and_no_other_is_asked_for(folders, tmp_path, option):
    family, kind, options, _ = OPTIONS[option]
    folder = copied(folders[family], tmp_path)
    weights = load_file(folder / "model.safetensors")
    own = sorted(k for k in weights if own_tensor(option, k))
    assert len(own) > 10
    save_file({k: weights[k] for k in own}, folder / "model.safetensors", {"format": "pt"})
    kind(str(folder), **options).load()
    for lost in (own[0], own[len(own) // 2], own[-1]):
        save_file({k: weights[k] for k in own if k != lost}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match=r"1 missing: \w+"):
            kind(str(folder), **options).load()
    save_file({f"teacher.{k}": weights[k] for k in own}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"\d\d missing: "):
        kind(str(folder), **options).load()


def test_videomae_biases_land_in_query_and_value(folders, tmp_path):
    folder = copied(folders["videomae"], tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "videomae.encoder.layer.1.attention.attention.q_bias"  # as published
    encoder = VideoEncoder(str(folder))
    encoder.load()
    assert torch.equal(encoder.network.encoder.layer[1].attention.attention.query.bias, weights[name])
    odd = {k.replace("q_bias", "bias_of_query"): v for k, v in weights.items()}
    save_file(odd, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"2 missing: encoder.*query\.bias.*; 2 without a place: .*bias_of_query"):
        VideoEncoder(str(folder)).load()


@pytest.mark.parametrize("family", ["vit", "videomae", "hubert_large", "clip"])
def test_more_layers_than_the_config_says(folders, tmp_path, family):
    folder = copied(folders[family], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config.get("vision_config", config)["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    _, kind, options, _ = OPTIONS[family]
    with pytest.raises(ConfigError, match=r"\d\d without a place: "):
        kind(str(folder), **(options | {"layers": (-1,)} if kind is SpeechEncoder else options)).load()


def test_another_shape_and_a_broken_file(folders, tmp_path):
    folder = copied(folders["vit"], tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({k: v[..., :8].contiguous() for k, v in weights.items()}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ImageEncoder(str(folder)).load()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ImageEncoder(str(folder)).load()


@pytest.mark.parametrize("kind", [ImageEncoder, VideoEncoder, SpeechEncoder, WhisperEncoder, AuWords, TextEncoder])
def test_a_missing_model_is_named_with_the_remedy(monkeypatch, kind):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as info:
        _ = kind("no-such-organisation/no-such-model").dim
    where = f"modality.{kind.modality}.encoder"
    for part in ("no-such-model", "hf download", f"{where}.name=FOLDER", f"encoder@{where}={kind.instead}", "got:"):
        assert part in str(info.value)


def test_no_preprocessing_file(folders, tmp_path):
    folder = copied(folders["clip"], tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ImageEncoder(str(folder)).preprocess(materials("frame")[0])


@pytest.mark.parametrize(
    ("option", "other", "more", "message"),
    [
        ("clip", "videomae", {}, "ImageEncoder does not read this model"),
        ("videomae", "clip", {}, "VideoEncoder does not read this model"),
        ("whisper", "hubert_base", {}, "WhisperEncoder does not read this model"),
        ("hubert_large", "hubert_large", {"layers": (-4,)}, "There is no such layer"),
        ("dinov2", "dinov2", {"pooling": "projected"}, "Only CLIP has a projection"),
        ("wavlm_large", "wavlm_large", {"trainable": "lora"}, "intermediate_dense, output_dense"),
        ("wavlm_large", "wavlm_large", {"trainable": "lora", "lora": Lora(targets="all-linear")}, "ignores LoRA"),
    ],
)
def test_what_does_not_fit_is_said_at_index_time(folders, option, other, more, message):
    _, kind, options, _ = OPTIONS[option]
    with pytest.raises(ConfigError, match=message):
        _ = kind(str(folders[other]), **(options | more)).dim


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ImageEncoder, {"pooling": "max"}, "cls, mean, projected, tokens"),
        (ImageEncoder, {"size": 0}, r"modality\.frame\.encoder\.size is out of range"),
        (ImageEncoder, {"trainable": "maybe"}, "frozen, lora, full"),
        (VideoEncoder, {"dtype": "int8"}, "float32, bfloat16, float16"),
        (SpeechEncoder, {"layers": ()}, "No hidden layer is chosen"),
        (AuWords, {"max_steps": 0}, "max_steps is out of range"),
    ],
)
def test_wrong_options(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind("anything", **options)


def test_adapters_without_a_place(folders):
    with pytest.raises(ConfigError, match=r"no layer named nothing[\s\S]*k_proj[\s\S]*modality\.frame\.encoder\.lora"):
        loaded(folders, "clip", trainable="lora", lora=Lora(targets=("nothing",)))


@pytest.mark.parametrize("option", ["clip", "videomae", "wavlm_large", "whisper", "clip_text"])
def test_half_precision_and_travel(folders, option):
    encoder = pickle.loads(pickle.dumps(made(folders, option, dtype="bfloat16")))
    encoder.load()
    assert encoder.network.dtype == torch.bfloat16
    rows = [encoder.preprocess(materials(OPTIONS[option][3])[0])]
    small = encoder.encode(encoder.collate(rows)).x
    whole = loaded(folders, option)
    assert small.dtype == torch.float32
    torch.testing.assert_close(small, whole.encode(whole.collate(rows)).x, atol=0.1, rtol=0.1)
    assert encoder.identity() != whole.identity()


def test_identity_knows_options_and_weights(folders, tmp_path):
    base = made(folders, "clip").identity()
    assert base["name"] == "clip"
    assert ImageEncoder(str(copied(folders["clip"], tmp_path))).identity() == base
    assert made(folders, "clip_tokens").identity() != base
    file = tmp_path / "clip" / "model.safetensors"
    save_file({k: v + 0.1 for k, v in load_file(file).items()}, file, {"format": "pt"})
    assert ImageEncoder(str(tmp_path / "clip")).identity() != base
