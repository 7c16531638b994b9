"""Transcripts by Whisper for clips that have none, kept as text files.

Data flow: Sample -> sound -> windows of 30 s, cut at quiet moments -> Whisper -> text file -> Sample with text.

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

import torch
from torch import Tensor

from hero_lightning.errors import ConfigError, MediaError, in_range, one_of
from hero_lightning.hub import DTYPES, Pretrained
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.types import SAMPLE_RATE, Waveform
from hero_lightning.types import Media, Sample, file_name

log = logging.getLogger(__name__)

GRAIN = SAMPLE_RATE // 50
"""Samples of a measurement of loudness: 20 ms."""
GROUP = 8
"""Windows per batch."""


class Transcriber:
    """Whisper, window by window, greedy. Windows without speech are skipped, since Whisper would invent words there.

    Args:
        name, revision: hub id and commit there, or folder with config, weights, tokenizer, preprocessor_config.json.
        language: spoken language, e.g. zh or chinese; None = detected in each window.
        silence: lowest probability of no speech of a skipped window (0.6 in Whisper's own rule).
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
        one_of("asr.dtype", dtype, DTYPES)
        in_range("asr.silence", silence, "(0, 1]")
        self.source = Pretrained(name, "asr.name", revision, "asr=none")
        self.language, self.silence, self.dtype, self.device = language, silence, dtype, device

    @property
    def slug(self) -> str:
        """Name of the folder of its transcripts: the model, and 8 hex digits of all that determines the text."""
        name, version = self.source.origin()
        identity = repr((name, version, self.language, self.silence, self.dtype)).encode()
        return f"{name.replace('/', '--')}-{hashlib.blake2b(identity, digest_size=4).hexdigest()}"

    @cached_property
    def parts(self) -> tuple[Any, Any, Any]:
        """Network, log-mel and tokenizer; read when first asked for. ConfigError if the model cannot be used."""
        from transformers import WhisperFeatureExtractor
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        # proj_out is tied to the embeddings.
        network = self.source.network("WhisperForConditionalGeneration", self.dtype, spare=("proj_out",))
        known = [k[2:-2] for k in getattr(network.generation_config, "lang_to_id", {})]
        if self.language and TO_LANGUAGE_CODE.get(self.language.lower(), self.language.lower()) not in known:
            expected = f"null, or one of {', '.join(known)}" if known else "null: this model knows English only"
            problem = "Whisper does not know this language."
            raise ConfigError(problem, expected=expected, got=self.language, where="asr.language")
        extractor = self.source.load(WhisperFeatureExtractor.from_pretrained)
        return network.to(self.device).eval(), extractor, self.source.tokenizer()

    @torch.inference_mode()
    def __call__(self, sound: Waveform) -> str:
        """The transcript; empty without speech."""
        _, extractor, tokenizer = self.parts
        windows = [w.numpy() for w in cut(sound.x, extractor.n_samples) if bool(w.any())]
        words: list[str] = []
        for start in range(0, len(windows), GROUP):
            group = windows[start : start + GROUP]
            mel = extractor(group, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]  # [W, M, 2 P]
            words += tokenizer.batch_decode(self._tokens(mel), skip_special_tokens=True)
        return " ".join(" ".join(words).split())

    def _tokens(self, mel: Tensor) -> list[list[int]]:
        """Log-mel [W, M, 2 P] -> token ids of the windows with speech."""
        from transformers.modeling_outputs import BaseModelOutput

        network = self.parts[0]
        settings = network.generation_config
        encoded = network.get_encoder()(mel.to(self.device, network.dtype)).last_hidden_state  # [W, P, D]
        start = torch.full((len(encoded), 1), settings.decoder_start_token_id, device=encoded.device)
        first = network(encoder_outputs=BaseModelOutput(encoded), decoder_input_ids=start).logits[:, -1]
        # The id of the no-speech token is one below that of the no-timestamps token.
        empty = first.float().softmax(dim=-1)[:, settings.no_timestamps_token_id - 1]
        encoded = encoded[empty < self.silence]
        language = {"language": self.language, "task": "transcribe"} if settings.is_multilingual else {}
        return network.generate(encoder_outputs=BaseModelOutput(encoded), **language).tolist() if len(encoded) else []


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
    """Adds transcripts to the samples without text; a file from an earlier call is read instead.

    Files: <features_root>/<dataset>/transcript/<asr.slug>/<id>-<8 hex digits of the media>.txt (see `file_name`), empty
    without speech. A clip whose sound cannot be read has no text, with a warning.
    """
    folder, out = Path(features_root) / file_name(dataset) / "transcript" / asr.slug, []
    for sample in samples:
        media, text = sample.audio or sample.video, sample.text
        if not (text or "").strip() and media is not None:
            try:
                file = zlib.crc32(repr((media.path.name, media.path.stat().st_size, media.span)).encode())
                text = _transcript(media, asr, folder / f"{file_name(f'{sample.id}-{file:08x}')}.txt") or None
            except (MediaError, OSError) as error:
                log.warning("%s: no transcript: %s", sample.id, error)
        out.append(replace(sample, text=text))
    return out


def _transcript(media: Media, asr: Transcriber, path: Path) -> str:
    if not path.is_file():
        with ClipReader(media) as clip:
            sound = clip.read({}, sound=True)[1] if clip.info.has_audio else None
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")  # renamed when complete, so that a killed run leaves no partial file
        part.write_text(asr(sound) if sound is not None else "", encoding="utf-8")
        part.replace(path)
    return path.read_text(encoding="utf-8")
