"""Tiny networks of every family, built from a config with random weights and saved as from_pretrained reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tr

VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = VISION | {"vocab_size": 60, "max_position_embeddings": 40}
SEEN = VISION | {"image_size": 32, "patch_size": 16}
SPEECH = VISION | {
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 20,
    "num_feat_extract_layers": 7,
}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
DECODER |= {"decoder_intermediate_size": 16}
CLIP_MEAN = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
CROPPED = CLIP_MEAN | {
    "size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "resample": 3,
}  # fmt: skip
SQUARE = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
HEARD = {"sampling_rate": 16000, "feature_size": 1, "do_normalize": True, "padding_value": 0.0}
BLIP = {
    "vision_config": SEEN,
    "qformer_config": VISION | {"encoder_hidden_size": 16, "vocab_size": 50},
    "text_config": {
        "model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16,
        "vocab_size": 50, "word_embed_proj_dim": 16, "max_position_embeddings": 20,
    },
    "num_query_tokens": 4,
}  # fmt: skip
WHISPER = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 16,
    "max_source_positions": 100, "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3,
}  # fmt: skip
LISTENED = {
    "feature_size": 16,
    "sampling_rate": 16000,
    "chunk_length": 2,
    "feature_extractor_type": "WhisperFeatureExtractor",
}


def _clip() -> Any:
    config = tr.CLIPConfig(
        vision_config=SEEN | {"projection_dim": 12}, text_config=TEXT | {"projection_dim": 12}, projection_dim=12
    )
    return tr.CLIPModel(config)


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "clip": (_clip, CROPPED),
    "siglip": (lambda: tr.SiglipModel(tr.SiglipConfig(vision_config=SEEN, text_config=TEXT)), SQUARE),
    "dinov2": (
        lambda: tr.Dinov2Model(tr.Dinov2Config(**{k: v for k, v in SEEN.items() if k != "intermediate_size"})),
        CROPPED | {"size": {"shortest_edge": 36}},
    ),
    "vit": (lambda: tr.ViTForImageClassification(tr.ViTConfig(**SEEN)), SQUARE),
    "vit_mae": (lambda: tr.ViTMAEForPreTraining(tr.ViTMAEConfig(**SEEN, **DECODER)), SQUARE | {"size": 32}),
    "eva": (lambda: tr.Blip2ForImageTextRetrieval(tr.Blip2Config(**BLIP)), CLIP_MEAN | SQUARE | {"resample": 3}),
    "videomae": (lambda: tr.VideoMAEForPreTraining(tr.VideoMAEConfig(**SEEN, **DECODER)), CROPPED),
    "hubert_base": (lambda: tr.HubertForCTC(tr.HubertConfig(**SPEECH)), HEARD),
    "hubert_large": (lambda: tr.HubertModel(tr.HubertConfig(**SPEECH, **LAYER)), HEARD),
    "wavlm_large": (lambda: tr.WavLMModel(tr.WavLMConfig(**SPEECH, **LAYER)), HEARD),
    "wav2vec2_large": (lambda: tr.Wav2Vec2ForCTC(tr.Wav2Vec2Config(**SPEECH, **LAYER)), HEARD),
    "data2vec_base": (lambda: tr.Data2VecAudioForCTC(tr.Data2VecAudioConfig(**SPEECH)), HEARD),
    "whisper": (lambda: tr.WhisperForConditionalGeneration(tr.WhisperConfig(**WHISPER)), LISTENED),
}


def save(root: Path, family: str) -> Path:
    """Writes a tiny model of a family, as its published checkpoints are laid out."""
    folder = root / family
    torch.manual_seed(7)
    model, processor = MODELS[family][0](), MODELS[family][1]
    with torch.no_grad():
        for p in model.parameters():  # biases start at zero, where a lost one would not be noticed
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if family == "clip":
        tokenizer(folder)
    return folder


def tokenizer(folder: Path) -> None:
    """A CLIP tokenizer of a few letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:()"]
    ends = [f"{c}</w>" for c in letters if c.isalpha()]
    words = [*letters, *ends[: 58 - len(letters)], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {w: i for i, w in enumerate(words)}
    tr.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)


@cache
def quiet() -> None:
    """Silences the bars and the notes about weights that heads left behind."""
    tr.utils.logging.disable_progress_bar()
    tr.utils.logging.set_verbosity_error()
