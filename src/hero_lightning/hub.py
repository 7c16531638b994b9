"""Pretrained models: the one place that loads networks and tokenizers of transformers, and adds LoRA to them.

Data flow: hub id or local folder -> Pretrained -> config | tokenizer | network whose every tensor came from its files
-> Lora.add -> the same network with low-rank updates.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from hero_lightning.errors import ConfigError, cause, in_range

log = logging.getLogger(__name__)

PARSING = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, RecursionError, pickle.UnpicklingError)
UNREADABLE = (OSError, EOFError, ImportError, *PARSING)
"""What transformers raises for models that are missing, damaged or malicious, beside SafetensorError."""

DTYPES = ("float32", "bfloat16", "float16")
ATTENTION = frozenset(
    ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "query", "key", "value", "qkv", "qkv_proj", "c_attn")
)
"""Names of attention layers in the architectures of transformers."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model of the Hugging Face hub or of a local folder. Code from the hub never runs.

    Args:
        name: hub id, or folder with config, weights, tokenizer and preprocessing files.
        where: config key that holds the name, for messages.
        revision: commit, branch or tag on the hub.
        instead: override that works without this model, for messages.
    """

    name: str
    where: str
    revision: str | None = None
    instead: str | None = None

    def load(self, read: Callable[..., Any], **options: Any) -> Any:
        """Calls a `from_pretrained` of transformers on this model, the only place that does. It never asks for leave.

        Raises:
            ConfigError: the model is not found, or transformers cannot read it; `got` is what transformers raised.
        """
        from huggingface_hub import is_offline_mode
        from safetensors import SafetensorError
        from transformers.utils import logging as verbosity

        local = Path(self.name).is_dir()
        if not local and (self.name.startswith((os.sep, ".", "~")) or self.name.count("/") > 1):
            raise ConfigError(
                f"The pretrained model {self.name} does not exist.",
                expected="a hub id, or a folder",
                got="no such folder",
                where=self.where,
                hint=self._hint(),
            )
        if not local and not is_offline_mode() and not _hub_answers():
            options["local_files_only"] = True  # each file would go through five retries
        level = verbosity.get_verbosity()
        verbosity.disable_progress_bar()
        verbosity.set_verbosity_error()  # the tensors that it reports are checked by `network`
        try:
            return read(self.name, revision=self.revision, trust_remote_code=False, **options)
        except (*UNREADABLE, SafetensorError) as error:
            raise ConfigError(
                f"The pretrained model {self.name} cannot be loaded.",
                expected="a hub id, or a folder with config, weights, tokenizer and preprocessing files",
                got=cause(error),
                where=self.where,
                hint=self._hint(download=isinstance(error, OSError) and not local),
            ) from error
        finally:
            verbosity.set_verbosity(level)

    def _hint(self, download: bool = False) -> str:
        ways = [f"{self.where}=FOLDER", *([f"without this model: {self.instead}"] if self.instead else [])]
        return "; or ".join([f"hf download {self.name}", *ways] if download else ways)

    def config(self) -> Any:
        """The configuration of the network."""
        from transformers import AutoConfig

        return self.load(AutoConfig.from_pretrained)

    def tokenizer(self, **options: Any) -> Any:
        """The tokenizer."""
        from transformers import AutoTokenizer

        return self.load(AutoTokenizer.from_pretrained, **options)

    def network(self, kind: str, dtype: str, spare: Sequence[str] = (), **options: Any) -> Any:
        """The network, in eval mode.

        Args:
            kind: class in transformers, `AutoModel` or `models.whisper.modeling_whisper.WhisperEncoder`.
            dtype: one of DTYPES, or `auto` = that of the files.
            spare: tensors with one of these parts in their names may be missing in the files.
            options: of `from_pretrained`.

        Raises:
            ConfigError: see `load`; or a tensor is missing, or a layer of the files has no place in the network.
        """
        import torch
        import transformers

        read = attrgetter(kind)(transformers).from_pretrained
        own = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype), "output_loading_info": True}
        network, report = self.load(read, **own, **options)
        self._check_tensors(network, report, spare)
        return network

    def _check_tensors(self, network: Any, report: Mapping[str, Any], spare: Sequence[str]) -> None:
        # transformers only logs missing tensors and fills them with random numbers
        from torch import nn

        stacks = [f"{n}." for n, module in network.named_modules() if isinstance(module, nn.ModuleList)]
        stacks += [f"{network.base_model_prefix}.{n}" for n in stacks]
        # Heads, decoders and other towers may be left out; layers of this network may not.
        faults = {
            "missing": [k for k in report["missing_keys"] if not any(part in k for part in spare)],
            "without a place": [k for k in report["unexpected_keys"] if k.startswith(tuple(stacks))],
        }
        if any(faults.values()):
            found = [f"{len(keys)} {kind}: {', '.join(sorted(keys)[:3])}" for kind, keys in faults.items() if keys]
            raise ConfigError(
                f"The weights of {self.name} do not fit its network.",
                expected=f"all tensors of {type(network).__name__}, which would be random otherwise",
                got="; ".join(found),
                where=self.where,
                hint="another model, or the transformers version it was saved with",
            )

    def origin(self) -> tuple[str, str | None]:
        """Name and version: last part and fingerprint of a folder, or hub id and revision."""
        folder = Path(self.name)
        return (folder.resolve().name, fingerprint(folder)) if folder.is_dir() else (self.name, self.revision)


@cache
def _hub_answers() -> bool:
    """Whether the hub can be reached: one request without retries, once per process."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # the HTTP library, and so its errors, differs between versions of huggingface_hub
        log.warning("%s cannot be reached (%s); only cached models are used", constants.ENDPOINT, cause(error))
        return False
    return True


def fingerprint(folder: Path) -> str:
    """8 hex digits of a model folder: its config, and size and middle 64 KiB of every weight file.

    The middle is enough to tell two trainings apart, and is quick for a file of gigabytes.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=4)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(size // 2)
            digest.update(f"{path.name} {size}".encode() + file.read(65536))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank updates of some linear layers (Hu et al. 2022); all other weights of the network stay as they are.

    Args:
        r: rank.
        alpha: scale; updates are multiplied by alpha / r.
        dropout: on the input of the update.
        targets: names of layers, or "all-linear".
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: Sequence[str] | str = ("q_proj", "v_proj", "query", "value", "qkv")

    def __post_init__(self) -> None:
        in_range("lora.r", self.r, "[1, inf)")
        in_range("lora.alpha", self.alpha, "(0, inf)")
        in_range("lora.dropout", self.dropout, "[0, 1)")

    def add(self, network: Any, where: str) -> None:
        """Freezes a network and adds the updates in place: zero at the start, float32, the only ones to learn.

        Args:
            network: of transformers.
            where: config key of this node, for messages.

        Raises:
            ConfigError: the network has no attention layer (or no layer at all) of those names, or peft cannot adapt
                it; `got` is what peft raised.
        """
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D

        network.requires_grad_(False)
        self._check_targets(network, where)
        settings: Any = {
            "target_modules": self.targets if isinstance(self.targets, str) else list(self.targets),
            "r": self.r, "lora_alpha": self.alpha, "lora_dropout": self.dropout,
            "fan_in_fan_out": any(isinstance(m, Conv1D) for m in network.modules()),  # GPT-2 stores [in, out]
        }  # fmt: skip
        try:
            inject_adapter_in_model(LoraConfig(**settings), network)
        except (ValueError, RuntimeError, ImportError) as error:
            problem = f"LoRA cannot be added to {type(network).__name__}."
            raise ConfigError(problem, got=cause(error), where=where) from error
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # the steps of AdamW are lost in bfloat16

    def _check_targets(self, network: Any, where: str) -> None:
        """Logs which names exist; peft itself is silent about those that do not, as long as one does."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        if isinstance(self.targets, str):
            return
        modules = dict(network.named_modules())
        found = {t: sum(f".{name}".endswith(f".{t}") for name in modules) for t in self.targets}
        absent = [t for t, count in found.items() if not count]
        linear = sorted({n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D)})
        kind, attention = type(network).__name__, [t for t in self.targets if t in ATTENTION]
        if len(absent) == len(found) or (attention and set(attention) <= set(absent)):
            raise ConfigError(
                f"{kind} has no layer named {' or '.join(attention or found)}.",
                expected=f"names of its linear layers: {', '.join(linear)}",
                got=list(self.targets),
                where=f"{where}.targets",
                hint=f"{where}.targets=all-linear, or a list of those names",
            )
        present = ", ".join(f"{t} ({count})" for t, count in found.items() if count)
        others = [name for name in linear if name not in found]
        missing = (
            f"; it has no {', '.join(absent)}, and its other linear layers are {', '.join(others)}" if absent else ""
        )
        log.info("LoRA adapts %s of %s%s", present, kind, missing)
