"""Contextual word vectors from a pretrained transformer: BERT, RoBERTa, MiniLM and their kin.

Data flow: Words -> token ids of one or more segments (worker) -> transformer -> Features.

Shapes: B clips, N token ids of a clip (all segments), S segments of a batch, L longest segment, T steps, D = `dim`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from hero_lightning.data.types import Features, pad
from hero_lightning.encoders.base import Encoder, Material
from hero_lightning.errors import ConfigError
from hero_lightning.media.types import Words

WHERE = "modalities.text.encoder"
GROUP = 32
"""Texts that a frozen network reads together."""
CHOICES = {
    "trainable": ("frozen", "lora", "full"),
    "pooling": ("tokens", "turns"),
    "dtype": ("float32", "bfloat16", "float16"),
}


class TextEncoder(Encoder):
    """A pretrained text transformer of the Hugging Face hub or of a local folder.

    Args:
        name: hub id, or folder with config, weights and tokenizer.
        trainable: frozen, lora (adapters learn) or full.
        pooling: `tokens`: the vectors of all tokens of [previous turns ... current utterance] read as one sequence;
            `turns`: one mean vector per previous turn and one of the current utterance, in time order, then the token
            vectors of the current utterance, each turn read by itself.
        max_length: tokens of a sequence. The oldest context goes first; the current utterance is cut last.
        layers: hidden layers that are averaged, -1 = last.
        dtype: of the weights; features are float32.
        revision: commit, branch or tag on the hub.
        lora_rank, lora_alpha, lora_dropout, lora_targets: of the adapters.
    """

    takes: ClassVar[Material] = "text"

    def __init__(
        self,
        name: str,
        trainable: str = "frozen",
        pooling: str = "tokens",
        max_length: int = 128,
        layers: Sequence[int] = (-1,),
        dtype: str = "float32",
        revision: str | None = None,
        lora_rank: int = 8,
        lora_alpha: int = 16,
        lora_dropout: float = 0.05,
        lora_targets: Sequence[str] = ("query", "value"),
    ) -> None:
        super().__init__()
        for key, value in {"trainable": trainable, "pooling": pooling, "dtype": dtype}.items():
            if value not in CHOICES[key]:
                choices = ", ".join(CHOICES[key])
                raise ConfigError(f"Unknown value of {key}.", expected=choices, got=value, where=f"{WHERE}.{key}")
        for key, number, floor in (
            ("max_length", max_length, 3),
            ("layers", len(layers), 1),
            ("lora_rank", lora_rank, 1),
        ):
            if number < floor:
                expected = f"at least {floor}"
                raise ConfigError(f"{key} is too small.", expected=expected, got=number, where=f"{WHERE}.{key}")
        self.name, self.revision, self.pooling, self.max_length = name, revision, pooling, max_length
        self.adapt, self.trainable = trainable, trainable != "frozen"
        self.layers, self.dtype = tuple(layers), dtype
        self.lora = {"r": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        self.lora_targets = list(lora_targets)
        self.options.update(pooling=pooling, max_length=max_length, layers=list(layers), dtype=dtype)
        self.network: Any = None
        self._tokenizer: Any = None
        self._config: Any = None

    @property
    def config(self) -> Any:
        """The transformer's configuration; read when first asked for."""
        if self._config is None:
            from transformers import AutoConfig

            self._config = self._from(AutoConfig)
            limit = getattr(self._config, "max_position_embeddings", None)
            if limit and self.max_length > limit:
                where = f"{WHERE}.max_length"
                raise ConfigError("max_length is too large.", expected=f"<= {limit}", got=self.max_length, where=where)
        return self._config

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Width D of the hidden layers."""
        return self.config.hidden_size

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; read when first asked for, in whichever process that is."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = self._from(AutoTokenizer)
        return self._tokenizer

    def _from(self, kind: Any, **options: Any) -> Any:
        """kind.from_pretrained, with an error that says what to do."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            return kind.from_pretrained(self.name, revision=self.revision, **options)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The text encoder {self.name} cannot be loaded.",
                expected="a model of the Hugging Face hub, or a folder with config.json, weights and tokenizer",
                got=str(error).strip().splitlines()[0],
                where=f"{WHERE}.name",
                mend="download it or give a folder: modalities.text.encoder.name=FOLDER; "
                "or without weights: encoder@modalities.text.encoder=words",
            ) from error

    def identity(self) -> dict[str, Any]:
        """See Encoder. A folder is known by its last name and the content of config and weights."""
        folder = Path(self.name)
        own = {"name": self.name, "revision": self.revision or getattr(self.config, "_commit_hash", None)}
        if folder.is_dir():
            own = {"name": folder.resolve().name, "revision": fingerprint(folder)}
        return {**super().identity(), **own}

    def load(self) -> None:
        """Reads the weights, and adds the adapters where wanted. ConfigError if a tensor of the network is missing."""
        from transformers import AutoModel

        network, report = self._from(AutoModel, dtype=getattr(torch, self.dtype), output_loading_info=True)
        lacking = sorted(k for k in report["missing_keys"] if "pooler" not in k)
        if lacking:
            raise ConfigError(
                f"The weights of {self.name} do not fit its network.",
                expected=f"all tensors of {type(network).__name__}",
                got=f"{len(lacking)} missing: {', '.join(lacking[:3])}",
                where=f"{WHERE}.name",
                mend="another model, or the transformers version it was saved with",
            )
        network.requires_grad_(self.adapt == "full")
        if getattr(network, "pooler", None) is not None:
            network.pooler.requires_grad_(False)  # nothing reads it, so it would never get a gradient
        self.network = self._adapted(network) if self.adapt == "lora" else network

    def _adapted(self, network: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        try:
            return get_peft_model(network, LoraConfig(target_modules=self.lora_targets, **self.lora))  # type: ignore[arg-type]
        except ValueError as error:
            raise ConfigError(
                "The adapters find no place in this network.",
                expected="names of linear layers",
                got=self.lora_targets,
                where=f"{WHERE}.lora_targets",
            ) from error

    def preprocess(self, material: Words) -> dict[str, Tensor]:
        """Words -> ids [N], segment [N] (number of the segment each id belongs to)."""
        before = [f"{t.speaker}: {t.text}" if t.speaker else t.text for t in material.turns]
        named = material.speaker and material.turns
        now = self._ids(f"{material.speaker}: {material.text}" if named else material.text)
        room = self.max_length - 2  # without the marks of begin and end
        if self.pooling == "turns":
            segments = [self._marked(ids[:room]) for ids in (*map(self._ids, before), now)]
        else:
            mark = self._mark("sep", "eos")
            context = [i for line in before for i in (*self._ids(line), *mark)]
            room -= len(now)
            segments = [self._marked(((context[-room:] if room > 0 else []) + now)[: self.max_length - 2])]
        ids = torch.tensor([i for segment in segments for i in segment])
        number = torch.arange(len(segments)).repeat_interleave(torch.tensor([len(s) for s in segments]))
        return {"ids": ids, "segment": number}

    def _ids(self, text: str) -> list[int]:
        # Longer texts than the network takes are cut by us, so the tokenizer's own warning would mislead.
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _mark(self, *kinds: str) -> list[int]:
        """The first of these special tokens that the tokenizer knows."""
        found = [getattr(self.tokenizer, f"{kind}_token_id") for kind in kinds]
        return [i for i in found if i is not None][:1]

    def _marked(self, ids: list[int]) -> list[int]:
        return [*self._mark("cls", "bos"), *ids, *self._mark("sep", "eos")]

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """ids, segment [B, N] -> Features [B, T, D]."""
        ids: list[Tensor] = []
        counts: list[int] = []
        for row, number, mask in zip(inputs["ids"], inputs["segment"], inputs["ids_mask"], strict=True):
            lengths = torch.unique_consecutive(number[mask], return_counts=True)[1].tolist()
            ids += row[mask].split(lengths)
            counts.append(len(lengths))
        vectors = self._vectors(ids)
        rows = []
        for first, count in zip(torch.tensor([0, *counts]).cumsum(0).tolist(), counts, strict=False):
            own = vectors[first : first + count]
            means = [v.mean(dim=0, keepdim=True) for v in own] if self.pooling == "turns" else []
            rows.append(torch.cat([*means, own[-1]]))  # [T, D]
        x, real = pad(rows)
        return Features(x, real.to(x.device))

    def _vectors(self, segments: list[Tensor]) -> list[Tensor]:
        """Token ids of S segments -> their vectors [L, D] each.

        Clips of one dialogue share turns, so each text is read once; while nothing learns, texts of like length are
        read together, which saves most of the padding.
        """
        texts = {tuple(ids.tolist()): ids for ids in segments}
        keys = sorted(texts, key=len)
        size = len(keys) if self.trainable else GROUP
        found: dict[tuple[int, ...], Tensor] = {}
        for start in range(0, len(keys), size):
            group = keys[start : start + size]
            ids, mask = pad([texts[key] for key in group])  # [S, L]
            mask = mask.to(ids.device)
            hidden = self._hidden(ids, mask).float()  # [S, L, D]
            found.update((key, h[m]) for key, h, m in zip(group, hidden, mask, strict=True))
        return [found[tuple(ids.tolist())] for ids in segments]

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.layers == (-1,):
            return self.network(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        states = self.network(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        return torch.stack([states[k] for k in self.layers]).mean(dim=0)


def fingerprint(folder: Path) -> str:
    """8 hex digits of a model folder: its config, and size and middle 64 KiB of every weight file.

    The middle is enough to tell two trainings apart, and costs nothing for a file of gigabytes.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=4)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(size // 2)
            digest.update(f"{path.name} {size}".encode() + file.read(65536))
    return digest.hexdigest()
