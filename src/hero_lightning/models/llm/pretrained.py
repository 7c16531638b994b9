"""Reads a causal language model of transformers and makes it cheap to train: LoRA, checkpointing, 4-bit weights.

Data flow: hub id or folder -> weights and tokenizer, every weight accounted for -> LoRA layers in place.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hero_lightning.errors import ConfigError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
QUANTIZATIONS = ("none", "nf4", "int8")


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank updates of some linear layers; all other weights of the language model stay as they are.

    Args:
        r: rank.
        alpha: scale; updates are multiplied by alpha / r.
        dropout: on the input of the update.
        targets: names of the layers, or "all-linear".
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] | str = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "A LoRA setting is out of range.",
                expected="r >= 1, alpha > 0, 0 <= dropout < 1",
                got=f"r {self.r}, alpha {self.alpha}, dropout {self.dropout}",
                where="llm.lora",
            )

    def apply(self, lm: Any) -> None:
        """Puts the updates into `lm`, in place; they start at zero, in float32, and alone require gradients.

        Raises:
            ConfigError: if no layer has such a name.
        """
        from peft import LoraConfig

        lm.requires_grad_(False)
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        settings: Any = {
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
        }  # alpha is typed int, and may be a float
        try:
            lm.add_adapter(LoraConfig(r=self.r, target_modules=targets, **settings))
        except ValueError as error:
            linear = {n.rsplit(".", 1)[-1] for n, m in lm.named_modules() if isinstance(m, torch.nn.Linear)}
            raise ConfigError(
                "LoRA finds none of its layers in the language model.",
                expected=", ".join(sorted(linear)) + ", or all-linear",
                got=targets,
                where="llm.lora.targets",
            ) from error
        for parameter in lm.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # AdamWWithCosine steps are lost in bf16


def read(name: str, *, dtype: torch.dtype, quantization: str = "none", revision: str | None = None) -> tuple[Any, Any]:
    """Reads weights and tokenizer.

    Args:
        name: hub id or local folder. Code from there is never run.
        dtype: of the weights, whatever the files hold.
        quantization: none, nf4 (QLoRA: 4 bit, double quantization, `dtype` for computing) or int8.
        revision: branch, tag or commit on the hub.

    Returns:
        A `...ForCausalLM` and its tokenizer.

    Raises:
        ConfigError: not found, unreadable, or weights missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, **_quantized(quantization, dtype), **options
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        local = os.sep in name and not Path(name).exists() and name.count("/") != 1
        raise ConfigError(
            "The language model cannot be read.",
            expected="a hub id that can be downloaded or is in the cache, or a folder of save_pretrained",
            got="no such folder" if local else (str(error).strip().splitlines() or [type(error).__name__])[0],
            where=f"llm.name={name}",
            hint="llm.name=/path/to/model, or download it first where there is a network: hf download <id>",
        ) from error
    lm, info = loaded
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise ConfigError(
            f"{len(wrong)} weights of the language model are not in its files and would be random.",
            expected="every weight",
            got=f"without {wrong[:3]}",
            where=f"llm.name={name}",
            hint="choose a checkpoint of a causal language model (…ForCausalLM)",
        )
    return lm, tokenizer


def _quantized(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    if quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise ConfigError(
            "Quantised weights need a CUDA device and bitsandbytes.",
            expected="both",
            got="no CUDA device" if not torch.cuda.is_available() else "bitsandbytes is not installed",
            where=f"llm.quantization={quantization}",
            hint="pip install 'hero-lightning[quant]' on a CUDA machine, or llm.quantization=none",
        )
    from transformers import BitsAndBytesConfig

    four = quantization == "nf4"
    settings = BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    # Quantised while loading, on the device of this process: the weights cannot be cast later.
    return {"quantization_config": settings, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}
