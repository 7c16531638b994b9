"""Utterance for clips that come without: Whisper listens to the sound, and what it hears is kept as text.

Data flow: Sample -> sound -> windows of 30 s, cut where it is quiet -> Whisper -> text file -> Sample with text.

Shapes: N samples of sound, W windows, M mel bands, P positions of a window, D width.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.hub import DTYPES, explained, fingerprint, matched
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.types import SAMPLE_RATE, Waveform
from hero_lightning.types import Media, Sample

log = logging.getLogger(__name__)

GRAIN = SAMPLE_RATE // 50
"""Samples over which loudness is measured where a cut is sought: 20 ms."""
GROUP = 8
"""Windows that are read together."""


class Transcriber:
    """Whisper, window by window, greedily. Windows without speech stay empty: there it would make words up.

    Args:
        name, revision: hub id and commit there, or folder with config, weights, tokenizer, preprocessor_config.json.
        language: what is spoken, e.g. zh or chinese; None = heard from each window.
        silence: probability of no speech from which on a window counts as empty (0.6 in Whisper's own rule).
        dtype, device: of the weights.
    """

    def __init__(
        self,
        name: str,
        language: str | None = None,
        silence: float = 0.6,
        dtype: str = "float32",
        revision: str | None = None,
        device: str = "cpu",
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError("Unknown dtype.", expected=", ".join(DTYPES), got=dtype, where="asr.dtype")
        if not 0 < silence <= 1:
            raise ConfigError("silence is a probability.", expected="0 to 1", got=silence, where="asr.silence")
        self.name, self.language, self.silence, self.dtype = name, language, silence, dtype
        self.revision, self.device = revision, device

    @property
    def slug(self) -> str:
        """Name of the folder of its transcripts: the model, and 8 hex digits of all that decides the text."""
        folder = Path(self.name)
        name, version = (folder.resolve().name, fingerprint(folder)) if folder.is_dir() else (self.name, self.revision)
        decides = repr((name, version, self.language, self.silence, self.dtype)).encode()
        return f"{name.replace('/', '--')}-{hashlib.blake2b(decides, digest_size=4).hexdigest()}"

    @cached_property
    def parts(self) -> tuple[Any, Any, Any]:
        """Network, log-mel and tokenizer; read when first asked for. ConfigError where the model cannot be used."""
        from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        kind: Any = WhisperForConditionalGeneration
        own: dict[str, Any] = {"revision": self.revision}
        with explained(self.name, "asr", "asr=none"):
            dtype = getattr(torch, self.dtype)
            network, report = kind.from_pretrained(self.name, dtype=dtype, output_loading_info=True, **own)
            extractor = WhisperFeatureExtractor.from_pretrained(self.name, **own)
            tokenizer = AutoTokenizer.from_pretrained(self.name, trust_remote_code=False, **own)
        matched(network, report, self.name, "asr", spare=("proj_out",))  # tied to the embeddings
        known = [k[2:-2] for k in getattr(network.generation_config, "lang_to_id", {})]
        if self.language and TO_LANGUAGE_CODE.get(self.language.lower(), self.language.lower()) not in known:
            expected = f"null, or one of {', '.join(known)}" if known else "null: this model knows English only"
            problem = "Whisper does not know this language."
            raise ConfigError(problem, expected=expected, got=self.language, where="asr.language")
        return network.to(self.device).eval(), extractor, tokenizer

    @torch.inference_mode()
    def __call__(self, sound: Waveform) -> str:
        """What is said, or nothing."""
        _, extractor, tokenizer = self.parts
        windows = [w.numpy() for w in cut(sound.x, extractor.n_samples) if bool(w.any())]
        words: list[str] = []
        for start in range(0, len(windows), GROUP):
            group = windows[start : start + GROUP]
            mel = extractor(group, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]  # [W, M, 2 P]
            words += tokenizer.batch_decode(self._tokens(mel), skip_special_tokens=True)
        return " ".join(" ".join(words).split())

    def _tokens(self, mel: Tensor) -> list[list[int]]:
        """Log-mel [W, M, 2 P] -> token ids of the windows in which somebody speaks."""
        from transformers.modeling_outputs import BaseModelOutput

        network = self.parts[0]
        settings = network.generation_config
        heard = network.get_encoder()(mel.to(self.device, network.dtype)).last_hidden_state  # [W, P, D]
        start = torch.full((len(heard), 1), settings.decoder_start_token_id, device=heard.device)
        first = network(encoder_outputs=BaseModelOutput(heard), decoder_input_ids=start).logits[:, -1]
        # The token of no speech stands before that of no timestamps.
        empty = first.float().softmax(dim=-1)[:, settings.no_timestamps_token_id - 1]
        heard = heard[empty < self.silence]
        language = {"language": self.language, "task": "transcribe"} if settings.is_multilingual else {}
        return network.generate(encoder_outputs=BaseModelOutput(heard), **language).tolist() if len(heard) else []


def cut(x: Tensor, longest: int) -> list[Tensor]:
    """Sound [N] -> windows of at most `longest` samples, cut at the quietest moment of each last sixth."""
    out = []
    while len(x) > longest:
        early = longest - longest // 6
        loudness = x[early:longest].unfold(0, GRAIN, GRAIN).square().mean(dim=1)
        place = early + int(loudness.argmin()) * GRAIN + GRAIN // 2
        out.append(x[:place])
        x = x[place:]
    return [*out, x]


def transcribed(samples: Sequence[Sample], asr: Transcriber, features_root: Path, dataset: str) -> list[Sample]:
    """Gives words to the samples that have none; what was heard before is read from its file.

    Files: <features_root>/<dataset>/transcript/<asr.slug>/<id>-<8 hex digits of the media>.txt, empty where nothing is
    said. A clip whose sound cannot be read keeps no text, and a warning names it.
    """
    folder, out = Path(features_root) / dataset / "transcript" / asr.slug, []
    for sample in samples:
        media, text = sample.audio or sample.video, sample.text
        if not (text or "").strip() and media is not None:
            try:
                file = zlib.crc32(repr((media.path.name, media.path.stat().st_size, media.span)).encode())
                text = _heard(media, asr, folder / f"{quote(sample.id, safe='')}-{file:08x}.txt") or None
            except (MediaError, OSError) as error:
                log.warning("%s: no transcript: %s", sample.id, error)
        out.append(replace(sample, text=text))
    return out


def _heard(media: Media, asr: Transcriber, path: Path) -> str:
    if not path.is_file():
        with ClipReader(media) as clip:
            sound = clip.read({}, sound=True)[1] if clip.info.has_audio else None
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")  # renamed when whole: a killed run leaves no half transcript
        part.write_text(asr(sound) if sound is not None else "", encoding="utf-8")
        part.replace(path)
    return path.read_text(encoding="utf-8")
