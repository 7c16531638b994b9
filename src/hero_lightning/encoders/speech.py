"""Features of speech from pretrained networks: HuBERT, WavLM, wav2vec 2.0, data2vec, and Whisper's encoder.

Data flow: Waveform -> normalised samples or log-mel windows (worker) -> network, long clips in pieces -> Features.

Shapes: B clips, N samples of a clip, W windows of a clip, M mel bands, P positions of a window, T steps, D = `dim`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hero_lightning.encoders.base import Material
from hero_lightning.encoders.pretrained import PretrainedEncoder
from hero_lightning.media.types import SAMPLE_RATE, Waveform
from hero_lightning.types import Features, pad

HOP = SAMPLE_RATE // 50
"""Samples per step of Whisper."""
PIECE, MARGIN = 1500, 50
"""Steps of 20 ms: longer clips are read in pieces of 30 s, with 1 s of context on both sides that is discarded."""


class SpeechEncoder(PretrainedEncoder):
    """A network that reads the waveform: HuBERT, WavLM, wav2vec 2.0 or data2vec; 50 steps per second. For audio.

    Every clip is normalised by itself if the checkpoint was trained so. Networks whose output changes with padding
    read one clip at a time: those with group norm (all base sizes but data2vec's), and data2vec, whose stacked
    positional convolutions mix padding into real steps. Options: see PretrainedEncoder.
    """

    takes: ClassVar[Material] = "audio"
    modality, instead, group = "audio", "logmel", 16
    spare = ("masked_spec_embed",)  # used in masked pretraining only
    reads: ClassVar[dict[str, str]] = {
        "hubert": "HubertModel",
        "wavlm": "WavLMModel",
        "wav2vec2": "Wav2Vec2Model",
        "data2vec-audio": "Data2VecAudioModel",
    }

    @property
    def alone(self) -> bool:  # type: ignore[override]
        """See PretrainedEncoder."""
        return getattr(self.config, "feat_extract_norm", None) == "group" or self.config.model_type == "data2vec-audio"

    def _part(self, whole: Any) -> Any:
        targets = self.lora.targets
        inert = isinstance(targets, str) or {"q_proj", "k_proj", "v_proj", "out_proj"} & set(targets)
        if whole.model_type == "wavlm" and self.adapt == "lora" and inert:
            # It passes the weights of these layers to F.multi_head_attention_forward.
            problem, expected = "WavLM's attention ignores LoRA.", "intermediate_dense, output_dense"
            raise self._wrong(problem, expected, targets, "lora.targets")
        # Training here has none of the randomness of pretraining: no masked spans, no dropped layers.
        whole.update({"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0})
        return whole

    @cached_property
    def normalise(self) -> bool:
        """Whether the checkpoint was trained on clips of mean 0 and variance 1."""
        rate = self.settings.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise self._wrong("The network was trained at another sampling rate.", SAMPLE_RATE, rate, "name")
        return self.settings.get("do_normalize", True)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Hop (320) and receptive field (400) of a step, in samples."""
        hop, field = 1, 1
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            field, hop = field + (kernel - 1) * hop, hop * stride
        return hop, field

    def preprocess(self, material: Waveform) -> dict[str, Tensor]:
        """Waveform -> x [N]."""
        x = material.x.float()
        return {"x": (x - x.mean()) / (x.var(correction=0) + 1e-7).sqrt() if self.normalise else x}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """x [B, N] -> Features [B, T, D]; a clip shorter than one step (25 ms) has none."""
        hop, field = self.grid
        pieces: list[Tensor] = []
        kept: list[tuple[int, int, int]] = []  # clip, first and last step of a piece that are kept
        for b, (row, mask) in enumerate(zip(inputs["x"], inputs["x_mask"], strict=True)):
            samples = row[mask]
            steps = max((len(samples) - field) // hop + 1, 0)
            count = math.ceil(steps / PIECE)
            for k in range(count):
                first, last = k * steps // count, (k + 1) * steps // count
                start, stop = max(first - MARGIN, 0), min(last + MARGIN, steps)
                # The last samples fill no step but count in the group norm.
                pieces.append(samples[start * hop : (stop - 1) * hop + field if stop < steps else None])
                kept.append((b, first - start, last - start))
        rows = [[inputs["x"].new_zeros(0, self.dim, dtype=torch.float32)] for _ in inputs["x"]]
        for (b, first, last), hidden in zip(kept, self._by_length(pieces, self._steps), strict=True):
            rows[b].append(hidden[first:last])
        x, real = pad([torch.cat(parts) for parts in rows])
        time = (torch.arange(x.shape[1], device=x.device) * hop + field / 2) / SAMPLE_RATE  # middles of the steps
        return Features(x, real.to(x.device), time.expand(len(x), -1))

    def _steps(self, x: Tensor, mask: Tensor) -> Tensor:
        """Samples of N pieces [N, L] and what of them is real -> steps [N, T, D]."""
        attention = None if self.alone else mask.long()
        return self._hidden(input_values=x.to(self.network.dtype), attention_mask=attention)


class WhisperEncoder(PretrainedEncoder):
    """The encoder of Whisper over windows of 30 s; steps beyond the end of a clip are cut, 50 per second. For audio.

    Options: see PretrainedEncoder.
    """

    takes: ClassVar[Material] = "audio"
    modality, instead, group = "audio", "logmel", 4
    reads: ClassVar[dict[str, str]] = {"whisper": "models.whisper.modeling_whisper.WhisperEncoder"}

    def _read(self, kind: str, **options: Any) -> Any:
        return super()._read(kind, key_mapping={r"^(model\.)?encoder\.": ""}, **options)

    @cached_property
    def extractor(self) -> Any:
        """Whisper's log-mel spectrogram, with the bands and window length of the checkpoint."""
        from transformers import WhisperFeatureExtractor

        return self.source.load(WhisperFeatureExtractor.from_pretrained)

    def preprocess(self, material: Waveform) -> dict[str, Tensor]:
        """Waveform -> x [W, M, 2 P], steps [W] without padding."""
        windows = material.x.float().split(self.extractor.n_samples)
        mel = self.extractor([w.numpy() for w in windows], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return {"x": mel["input_features"], "steps": torch.tensor([math.ceil(len(w) / HOP) for w in windows])}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """x [B, W, M, 2 P] -> Features [B, T, D]."""
        mask = inputs["x_mask"]
        windows = inputs["x"][mask].to(self.network.dtype)
        hidden = self._grouped(windows, lambda part: self._hidden(input_features=part))  # [N, P, D]
        parts = iter(h[:steps] for h, steps in zip(hidden, inputs["steps"][mask].tolist(), strict=True))
        x, real = pad([torch.cat([next(parts) for _ in range(count)]) for count in mask.sum(dim=1).tolist()])
        time = (torch.arange(x.shape[1], device=x.device) + 0.5) * HOP / SAMPLE_RATE  # middles of the steps
        return Features(x, real.to(x.device), time.expand(len(x), -1))
