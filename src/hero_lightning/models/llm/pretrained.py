"""Loads a causal language model of transformers, quantised where asked for.

Data flow: hub id or folder -> weights, all of them from its files, and tokenizer.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch

from hero_lightning.errors import ConfigError
from hero_lightning.hub import Pretrained

QUANTIZATIONS = ("none", "nf4", "int8")


def read(name: str, *, dtype: str, quantization: str = "none", revision: str | None = None) -> tuple[Any, Any]:
    """Loads weights and tokenizer.

    Args:
        name: hub id or local folder. Code from there is never run.
        dtype: of the weights, whatever the files hold.
        quantization: none, nf4 (QLoRA: 4 bit, double quantization, `dtype` for computing) or int8.
        revision: branch, tag or commit on the hub.

    Returns:
        A `...ForCausalLM` and its tokenizer.

    Raises:
        ConfigError: not found, not readable, weights missing, or no device for the quantization.
    """
    source = Pretrained(name, "llm.name", revision, "llm=small")
    tokenizer = source.tokenizer()
    return source.network("AutoModelForCausalLM", dtype, **_quantized(quantization, dtype)), tokenizer


def _quantized(quantization: str, dtype: str) -> dict[str, Any]:
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
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    # Quantised while loading, on the device of this process: the weights cannot be cast later.
    return {"quantization_config": settings, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}
