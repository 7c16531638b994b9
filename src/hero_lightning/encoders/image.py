"""Vectors of single pictures from a pretrained vision transformer: CLIP, SigLIP, DINOv2, ViT and ViT-MAE, EVA-CLIP.

Data flow: Frames -> resized uint8 pictures (worker) -> vision transformer, all pictures of a batch packed -> Features.

Shapes: B clips, T pictures of a clip, N pictures of a batch, K vectors per picture, h w picture size, D = `dim`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from hero_lightning.encoders.base import Material
from hero_lightning.encoders.pretrained import PretrainedEncoder
from hero_lightning.errors import in_range, one_of
from hero_lightning.hub import Lora
from hero_lightning.media.types import Frames
from hero_lightning.types import Features, pad

SUMMARY = {"clip_vision_model": "post_layernorm", "siglip_vision_model": "head."}
"""Architectures with a summary vector of their own, and the layer that computes it."""


class ImageEncoder(PretrainedEncoder):
    """A vision transformer that reads one picture at a time. For frame and face.

    EVA-CLIP ViT-g is the vision tower of BLIP-2 (ln_vision included), the one that MiniGPT-4, Emotion-LLaMA and
    AffectGPT's EVA_CLIP_G use; of a BLIP-2 checkpoint only this tower is loaded.

    Args:
        pooling: `cls`: the network's summary of a picture (class token after the last norm; SigLIP: its attention
            head); `mean` over all tokens, class token included (AffectGPT's DINOv2, SigLIP and EVA); `projected`: into
            the space that CLIP shares with texts (AffectGPT's CLIP); `tokens`: all of them, class token first, one
            step each (HERO's CLIP tokens, Emotion-LLaMA's EVA).
        size: picture side in pixels; None = the checkpoint's. Position embeddings are interpolated.
        name, trainable, dtype, revision, lora: see PretrainedEncoder.
    """

    takes: ClassVar[Material] = "frames"
    modality, instead, group = "frame", "hog", 64
    reads: ClassVar[dict[str, str]] = {
        "clip_vision_model": "CLIPVisionModel",
        "siglip_vision_model": "SiglipVisionModel",
        "dinov2": "Dinov2Model",
        "dinov2_with_registers": "Dinov2WithRegistersModel",
        "vit": "ViTModel",
        "blip_2_vision_model": "Blip2VisionModel",
    }

    def __init__(
        self,
        name: str,
        pooling: str = "cls",
        size: int | None = None,
        trainable: str = "frozen",
        dtype: str = "float32",
        revision: str | None = None,
        lora: Lora | None = None,
    ) -> None:
        super().__init__(name, trainable, (-1,), dtype, revision, lora)
        one_of(f"{self.where}.pooling", pooling, ("cls", "mean", "projected", "tokens"))
        in_range(f"{self.where}.size", 1 if size is None else size, "[1, inf)")
        self.pooling, self.size = pooling, size
        self.options.update(pooling=pooling, size=size)

    def _part(self, whole: Any) -> Any:
        own = getattr(whole, "vision_config", whole)
        if own.model_type == "vit_mae":  # its encoder is a ViT; its own class masks three of four patches
            from transformers import ViTConfig

            own = ViTConfig(**{k: v for k, v in own.to_dict().items() if k != "model_type"})
        if self.pooling == "projected" and own.model_type != "clip_vision_model":
            raise self._wrong("Only CLIP has a projection of pictures.", "cls, mean or tokens", self.pooling, "pooling")
        unread = () if self.pooling in ("cls", "projected") else (SUMMARY.get(own.model_type, "pooler"),)
        self.spare = ("mask_token", *unread)
        return own

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Width D of the features."""
        return self.config.projection_dim if self.pooling == "projected" else self.config.hidden_size

    def _read(self, kind: str, **options: Any) -> Any:
        if kind == "ViTModel":
            options["add_pooling_layer"] = False
        if kind == "Blip2VisionModel":
            options["key_mapping"] = {r"^vision_model\.": ""}
        return super()._read("CLIPVisionModelWithProjection" if self.pooling == "projected" else kind, **options)

    def preprocess(self, material: Frames) -> dict[str, Tensor]:
        """Frames -> x [T, 3, h, w] uint8, time [T]."""
        return {"x": self.preparation.prepared(material.pixels), "time": material.time.float()}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """x [B, T, 3, h, w] -> Features [B, T * K, D]."""
        mask = inputs["x_mask"]
        values = self._grouped(inputs["x"][mask], self._vectors)  # [N, K, D]
        x, real = pad([v.flatten(0, 1) for v in values.split(mask.sum(dim=1).tolist())])
        return Features(x, real.to(x.device), inputs["time"].repeat_interleave(values.shape[1], dim=1))

    def _vectors(self, pictures: Tensor) -> Tensor:
        """[N, 3, h, w] uint8 -> [N, K, D]."""
        kind = self.config.model_type
        larger = {"interpolate_pos_encoding": True} if self.size and not kind.startswith("dinov2") else {}
        out = self.network(pixel_values=self.preparation.normalised(pictures, self.network.dtype), **larger)
        if self.pooling == "projected":
            return out.image_embeds[:, None].float()
        tokens = out.last_hidden_state.float()
        if self.pooling == "cls":
            return (out.pooler_output.float() if kind in SUMMARY else tokens[:, 0])[:, None]
        return tokens.mean(dim=1, keepdim=True) if self.pooling == "mean" else tokens
