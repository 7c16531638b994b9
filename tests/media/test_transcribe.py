from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers as tr

from hero_lightning.errors import ConfigError
from hero_lightning.media import transcribe as module
from hero_lightning.media.transcribe import Transcriber, cut, transcribed
from hero_lightning.media.types import Waveform
from hero_lightning.types import Media, Sample
from tests.media_helpers import write_clip

END, MARKS = "<|endoftext|>", (
    "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random Whisper with windows of 2 s and 26 words of one sign, saved as published ones are."""
    tr.utils.logging.disable_progress_bar()
    tr.utils.logging.set_verbosity_error()
    path = tmp_path_factory.mktemp("models") / "tiny-whisper"
    tokenizer = tr.WhisperTokenizer(vocab={w: i for i, w in enumerate([*map(chr, range(65, 91)), END])}, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": list(MARKS)})
    tokenizer.save_pretrained(path)
    ids = {m: tokenizer.convert_tokens_to_ids(m) for m in (END, *MARKS)}
    config = tr.WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=16, max_source_positions=100,
        max_target_positions=32, pad_token_id=ids[END], bos_token_id=ids[END], eos_token_id=ids[END],
        decoder_start_token_id=ids[MARKS[0]],
    )  # fmt: skip
    torch.manual_seed(0)
    model = tr.WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    settings = {
        "lang_to_id": {m: ids[m] for m in MARKS[1:3]}, "task_to_id": {m[2:-2]: ids[m] for m in MARKS[3:5]},
        "is_multilingual": True, "no_timestamps_token_id": ids[MARKS[-1]], "max_length": 12,
        "begin_suppress_tokens": [ids[END]], "suppress_tokens": [ids[m] for m in MARKS], "_from_model_config": False,
    }  # fmt: skip
    for key, value in settings.items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(path)
    mel = {"feature_size": 16, "sampling_rate": 16000, "chunk_length": 2}
    (path / "preprocessor_config.json").write_text(json.dumps(mel))
    return path


def noise(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(round(16_000 * seconds), generator=torch.Generator().manual_seed(1))


def test_cuts_lie_in_the_pauses():
    x = noise(7.0)
    x[27_000:28_000] = 0
    windows = cut(x, 32_000)
    assert torch.equal(torch.cat(windows), x)
    assert all(len(w) <= 32_000 for w in windows)
    assert 27_000 < len(windows[0]) < 28_000
    assert len(cut(x[:32_000], 32_000)) == 1


def test_window_by_window(folder, monkeypatch):
    asr = Transcriber(str(folder), silence=1.0)
    x = noise(5.0)
    whole = asr(Waveform(x))
    parts = [asr(Waveform(w)) for w in cut(x, 32_000)]
    assert all(parts)
    assert whole == " ".join(parts)
    monkeypatch.setattr(module, "GROUP", 2)
    assert asr(Waveform(x)) == whole
    assert "<|" not in whole
    network = asr.parts[0]
    mel = asr.parts[1](cut(x, 32_000)[0].numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
    ids = network.generate(mel, task="transcribe")
    assert asr.parts[2].batch_decode(ids, skip_special_tokens=True)[0].split() == parts[0].split()


def test_no_words_where_nobody_speaks(folder):
    assert Transcriber(str(folder), silence=1.0)(Waveform(torch.zeros(32_000))) == ""
    assert Transcriber(str(folder), silence=1e-9)(Waveform(noise(1.0))) == ""


def test_language(folder):
    found = Transcriber(str(folder), language="Chinese", silence=1.0)(Waveform(noise(1.0)))
    assert found == Transcriber(str(folder), language="zh", silence=1.0)(Waveform(noise(1.0)))
    with pytest.raises(ConfigError, match=r"null, or one of en, zh[\s\S]*klingon[\s\S]*asr\.language"):
        Transcriber(str(folder), language="klingon")(Waveform(noise(1.0)))


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no clip")
    clips = {name: Media(write_clip(tmp_path / f"{name}.mp4", 1.0, audio=name != "mute")) for name in ("loud", "mute")}
    clips["dia/1"] = Media(clips["loud"].path, span=(0.2, 0.9))
    clips["broken"] = Media(broken)
    return [Sample("said", "train", video=clips["loud"], text="as given"), Sample("none", "train")] + [
        Sample(name, "train", video=media) for name, media in clips.items()
    ]


def test_transcripts_are_kept_as_text(folder, samples, tmp_path, caplog, monkeypatch):
    asr = Transcriber(str(folder), silence=1.0)
    with caplog.at_level(logging.WARNING):
        out = {s.id: s.text for s in transcribed(samples, asr, tmp_path / "f", "demo")}
    assert out["said"] == "as given"
    assert out["none"] is out["mute"] is out["broken"] is None
    assert out["loud"]
    assert "broken: no transcript" in caplog.text
    files = sorted((tmp_path / "f" / "demo" / "transcript" / asr.slug).rglob("*.*"))
    assert [f.name.rsplit("-", 1)[0] for f in files] == ["1", "loud", "mute"]
    assert [f.suffix for f in files] == [".txt"] * 3
    files[1].write_text("corrected by hand", encoding="utf-8")
    monkeypatch.setattr(Transcriber, "__call__", lambda *_: pytest.fail("read, not heard again"))
    again = {s.id: s.text for s in transcribed(samples, Transcriber(str(folder), silence=1.0), tmp_path / "f", "demo")}
    assert again == out | {"loud": "corrected by hand"}
    monkeypatch.setattr(Transcriber, "__call__", lambda *_: "anew")
    other = transcribed(samples, Transcriber(str(folder), language="zh"), tmp_path / "f", "demo")
    assert {s.id: s.text for s in other}["loud"] == "anew"


@pytest.mark.parametrize(
    ("options", "message"), [({"dtype": "int8"}, "float32"), ({"silence": 0}, "asr.silence is out of range")]
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        Transcriber("openai/whisper-base", **options)


def test_a_missing_model_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"no-such/model[\s\S]*asr\.name=FOLDER"):
        Transcriber("no-such/model")(Waveform(noise(1.0)))
