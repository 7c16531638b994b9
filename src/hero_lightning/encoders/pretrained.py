"""Base class of encoders with pretrained weights: loading, fine-tuning, choice of hidden layers.

Data flow: hub id or folder -> config (width, index time) -> load (weights, checked) -> hidden states of chosen layers.

Shapes: N rows of a packed call (pictures, runs, windows, lines), L positions of a row, D = `dim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hero_lightning.encoders.base import Encoder
from hero_lightning.encoders.image_transforms import Preparation
from hero_lightning.errors import ConfigError, one_of
from hero_lightning.hub import DTYPES, Lora, Pretrained
from hero_lightning.types import pad


class PretrainedEncoder(Encoder):
    """A network of the Hugging Face hub or of a local folder. Code from the hub never runs.

    Args:
        name: hub id, or folder with config, weights and preprocessing files.
        trainable: frozen, lora (adapters learn) or full.
        layers: hidden layers that are averaged, -1 = last.
        dtype: of the weights; features are float32.
        revision: commit, branch or tag on the hub.
        lora: the adapters of `trainable=lora`; None = those of `Lora()`.

    Attributes:
        modality, instead: for messages: the modality of the config node, and a weight-free encoder of that modality.
        reads: model_type -> class of transformers; empty = whatever AutoModel makes of it.
        group: rows N that a frozen network reads together, so that memory does not grow with the batch.
        alone: True if rows are read one by one, because the outputs of the network change with padding.
        spare: parts of the names of tensors that are never read; a checkpoint may lack them.
        size: picture side in pixels; None = the checkpoint's.
    """

    modality: ClassVar[str]
    instead: ClassVar[str]
    reads: ClassVar[dict[str, str]] = {}
    group: ClassVar[int] = 32
    alone: ClassVar[bool] = False
    spare: tuple[str, ...] = ("pooler",)
    size: int | None = None

    def __init__(
        self,
        name: str,
        trainable: str = "frozen",
        layers: Sequence[int] = (-1,),
        dtype: str = "float32",
        revision: str | None = None,
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        self.where = f"modality.{self.modality}.encoder"
        one_of(f"{self.where}.trainable", trainable, ("frozen", "lora", "full"))
        one_of(f"{self.where}.dtype", dtype, DTYPES)
        if not layers:
            raise self._wrong("No hidden layer is chosen.", "at least one", list(layers), "layers")
        self.source = Pretrained(name, f"{self.where}.name", revision, f"encoder@{self.where}={self.instead}")
        self.dtype, self.layers, self.lora = dtype, tuple(layers), lora or Lora()
        self.adapt, self.trainable = trainable, trainable != "frozen"
        self.options.update(layers=list(layers), dtype=dtype)
        self.network: Any = None

    def _wrong(self, problem: str, expected: object, got: object, key: str) -> ConfigError:
        return ConfigError(problem, expected=expected, got=got, where=f"{self.where}.{key}")

    @cached_property
    def _whole(self) -> Any:
        return self.source.config()

    @cached_property
    def config(self) -> Any:
        """The network's configuration; read when first asked for."""
        own = self._part(self._whole)
        if self.reads and own.model_type not in self.reads:
            problem, expected = f"{type(self).__name__} does not read this model.", ", ".join(self.reads)
            raise self._wrong(problem, expected, own.model_type, "name")
        depth = own.num_hidden_layers
        if any(not -depth - 1 <= k <= depth for k in self.layers):
            raise self._wrong("There is no such layer.", f"{-depth - 1} to {depth}", list(self.layers), "layers")
        return own

    def _part(self, whole: Any) -> Any:
        """The part of a model's configuration that this encoder uses."""
        return whole

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Width D of the features, from the configuration alone."""
        return self.config.hidden_size

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; read when first asked for, in whichever process that is."""
        return self.source.tokenizer()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How the checkpoint wants its input: the content of preprocessor_config.json."""
        from transformers.image_processing_base import ImageProcessingMixin

        return self.source.load(ImageProcessingMixin.get_image_processor_dict)[0]

    @cached_property
    def preparation(self) -> Preparation:
        """How the checkpoint wants its pictures."""
        return Preparation.read(self.settings, f"{self.where}.name", self.size)

    def identity(self) -> dict[str, Any]:
        """See Encoder. A folder is known by its last name and the content of config and weights."""
        name, version = self.source.origin()
        version = version or getattr(self._whole, "_commit_hash", None)
        return {**super().identity(), "name": name, "revision": version}

    def load(self) -> None:
        """Reads the weights, and adds the adapters where wanted. ConfigError if a tensor of the network is missing."""
        self.network = self._read(self.reads.get(self.config.model_type, "AutoModel"))
        if self.adapt == "lora":
            self.lora.add(self.network, f"{self.where}.lora")
        for name, parameter in self.network.named_parameters():
            # Layers that are not read would never get a gradient.
            unread = any(part in name for part in self.spare)
            parameter.requires_grad_(parameter.requires_grad and self.trainable and not unread)

    def _read(self, kind: str, **options: Any) -> Any:
        """The network, a class of transformers. Always with a dtype: the default is the checkpoint's."""
        return self.source.network(kind, self.dtype, self.spare, config=self.config, **options)

    def _hidden(self, **inputs: Any) -> Tensor:
        """The network's inputs of N rows -> mean of the chosen layers [N, L, D] float32."""
        if self.layers == (-1,):
            return self.network(**inputs).last_hidden_state.float()
        out = self.network(**inputs, output_hidden_states=True)
        # Large speech networks norm their last state; transformers 5 lists it as it was before.
        states = (*out.hidden_states[:-1], out.last_hidden_state)
        return torch.stack([states[k].float() for k in self.layers]).mean(dim=0)

    def _grouped(self, rows: Tensor, formula: Callable[[Tensor], Tensor]) -> Tensor:
        """Applies the network to N rows, a group at a time while nothing learns: [N, ...] -> [N, ...]."""
        return formula(rows) if self.trainable else torch.cat([formula(part) for part in rows.split(self.group)])

    def _by_length(self, rows: list[Tensor], read: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """Applies the network to rows of different length, padded to the longest row of their group.

        Args:
            rows: inputs [L, ...] of each row.
            read: padded inputs [N, L, ...] and mask [N, L] -> [N, T, D].

        Returns:
            [T, D] of each row, padding included. While nothing learns, rows of similar length share a group.
        """
        order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
        size = 1 if self.alone else len(rows) if self.trainable else self.group
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), max(size, 1)):
            chosen = order[start : start + size]
            x, mask = pad([rows[k] for k in chosen])
            found.update(zip(chosen, read(x, mask.to(x.device)), strict=True))
        return [found[k] for k in range(len(rows))]
