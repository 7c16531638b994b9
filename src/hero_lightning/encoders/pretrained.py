"""What all encoders with pretrained weights share: where they come from, what of them learns, which layers are read.

Data flow: hub id or folder -> config (width, index time) -> load (weights, checked) -> hidden states of chosen layers.

Shapes: N rows of a packed call (pictures, runs, windows, lines), L positions of a row, D = `dim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from hero_lightning.encoders.base import Encoder
from hero_lightning.encoders.image_transforms import Preparation
from hero_lightning.errors import ConfigError
from hero_lightning.hub import DTYPES, explained, fingerprint, matched

ATTENTION = ("q_proj", "v_proj", "query", "value", "qkv")
"""Names of the linear layers that adapters go to, in whichever architecture."""


class PretrainedEncoder(Encoder):
    """A network of the Hugging Face hub or of a local folder. Code from the hub never runs.

    Args:
        name: hub id, or folder with config, weights and preprocessing files.
        trainable: frozen, lora (adapters learn) or full.
        layers: hidden layers that are averaged, -1 = last.
        dtype: of the weights; features are float32.
        revision: commit, branch or tag on the hub.
        lora_rank, lora_alpha, lora_dropout, lora_targets: of the adapters.

    Attributes:
        modality, instead: whose config node messages name, and a weight-free option of that modality.
        reads: model_type -> class of transformers; empty = whatever AutoModel makes of it.
        group: rows N that a frozen network reads together, so that memory does not grow with the batch.
        spare: parts of the names of tensors that are never read; a checkpoint may lack them.
        size: picture side in pixels; None = the checkpoint's.
    """

    modality: ClassVar[str]
    instead: ClassVar[str]
    reads: ClassVar[dict[str, str]] = {}
    group: ClassVar[int] = 32
    spare: tuple[str, ...] = ("pooler",)
    size: int | None = None

    def __init__(
        self,
        name: str,
        trainable: str = "frozen",
        layers: Sequence[int] = (-1,),
        dtype: str = "float32",
        revision: str | None = None,
        lora_rank: int = 8,
        lora_alpha: int = 16,
        lora_dropout: float = 0.05,
        lora_targets: Sequence[str] = ATTENTION,
    ) -> None:
        super().__init__()
        self.where = f"modality.{self.modality}.encoder"
        self._one_of("trainable", trainable, "frozen", "lora", "full")
        self._one_of("dtype", dtype, *DTYPES)
        self._at_least(1, layers=len(layers), lora_rank=lora_rank)
        self.name, self.revision, self.dtype, self.layers = name, revision, dtype, tuple(layers)
        self.adapt, self.trainable = trainable, trainable != "frozen"
        self.lora = {"r": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        self.lora_targets = list(lora_targets)
        self.options.update(layers=list(layers), dtype=dtype)
        self.commit: str | None = None
        self.network: Any = None

    def _wrong(self, problem: str, expected: object, got: object, key: str) -> ConfigError:
        return ConfigError(problem, expected=expected, got=got, where=f"{self.where}.{key}")

    def _one_of(self, key: str, value: str, *choices: str) -> None:
        if value not in choices:
            raise self._wrong(f"Unknown value of {key}.", ", ".join(choices), value, key)

    def _at_least(self, floor: int, **values: int) -> None:
        for key, value in values.items():
            if value < floor:
                raise self._wrong(f"{key} is too small.", f"at least {floor}", value, key)

    def _from(self, load: Callable[..., Any], **options: Any) -> Any:
        """A from_pretrained of transformers, with an error that says what to do."""
        with explained(self.name, self.where, f"encoder@{self.where}={self.instead}"):
            return load(self.name, revision=self.revision, **options)

    @cached_property
    def config(self) -> Any:
        """The network's configuration; read when first asked for."""
        from transformers import AutoConfig

        whole = self._from(AutoConfig.from_pretrained, trust_remote_code=False)  # the default asks at the terminal
        own, self.commit = self._part(whole), getattr(whole, "_commit_hash", None)
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
        from transformers import AutoTokenizer

        return self._from(AutoTokenizer.from_pretrained, trust_remote_code=False)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How the checkpoint wants its input: the content of preprocessor_config.json."""
        from transformers.image_processing_base import ImageProcessingMixin

        return self._from(ImageProcessingMixin.get_image_processor_dict)[0]

    @cached_property
    def preparation(self) -> Preparation:
        """How the checkpoint wants its pictures."""
        return Preparation.read(self.settings, f"{self.where}.name", self.size)

    def identity(self) -> dict[str, Any]:
        """See Encoder. A folder is known by its last name and the content of config and weights."""
        folder, own = Path(self.name), super().identity()
        if folder.is_dir():
            return {**own, "name": folder.resolve().name, "revision": fingerprint(folder)}
        return {**own, "name": self.name, "revision": self.revision or (self.config and self.commit)}

    def load(self) -> None:
        """Reads the weights, and adds the adapters where wanted. ConfigError if a tensor of the network is missing."""
        network, report = self._read()
        matched(network, report, self.name, self.where, self.spare)
        for name, parameter in network.named_parameters():
            # What nothing reads would never get a gradient.
            parameter.requires_grad_(self.adapt == "full" and not any(part in name for part in self.spare))
        self.network = self._adapted(network) if self.adapt == "lora" else network

    def _read(self, kind: str | None = None, **options: Any) -> Any:
        """The network and its loading info. Always with a dtype: the default is the checkpoint's."""
        import transformers

        network = attrgetter(kind or self.reads.get(self.config.model_type, "AutoModel"))(transformers)
        own = {"config": self.config, "dtype": getattr(torch, self.dtype), "output_loading_info": True}
        return self._from(network.from_pretrained, **own, **options)

    def _adapted(self, network: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        try:
            return get_peft_model(network, LoraConfig(target_modules=self.lora_targets, **self.lora))  # type: ignore[arg-type]
        except ValueError as error:
            problem, expected = "The adapters find no place in this network.", "names of linear layers"
            raise self._wrong(problem, expected, self.lora_targets, "lora_targets") from error

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
