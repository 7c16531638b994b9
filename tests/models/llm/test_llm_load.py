"""Reading a language model: what is refused, and what the message says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hero_lightning.errors import ConfigError
from hero_lightning.hub import Lora
from hero_lightning.models.llm import pretrained
from hero_lightning.models.llm.head import LLMHead
from tests.models.llm.llm_helpers import TINY, D, answer, contexts, head, prompt, texts, word_model, word_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TINY.build(texts(), tmp_path / "lm")


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "llm"),
        ({"name": "a", "small": TINY}, "llm"),
        ({"name": "a", "frozen": True, "lora": Lora()}, "llm.frozen"),
        ({"name": "a", "dtype": "int4"}, "llm.dtype"),
        ({"name": "a", "quantization": "awq", "lora": Lora()}, "llm.quantization"),
        ({"name": "a", "quantization": "nf4"}, "llm.quantization=nf4"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LLMHead(D, **settings)
    assert caught.value.details["where"] == where


def test_the_constructor_reads_nothing() -> None:
    llm = LLMHead(D, name="/no/such/folder")
    assert llm.lm is None
    assert list(llm.parameters()) == []


def test_the_small_model_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="needs a folder"):
        LLMHead(D, small=TINY).load(texts())


def test_a_missing_folder_and_a_folder_without_a_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/nowhere does not exist") as caught:
        LLMHead(D, name=str(tmp_path / "nowhere")).load()
    assert caught.value.details["got"] == "no such folder"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be loaded") as caught:
        LLMHead(D, name=str(tmp_path)).load()
    assert "download" not in caught.value.details["hint"]


def test_missing_weights_are_an_error_not_random_numbers(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="do not fit") as caught:
        LLMHead(D, name=str(folder)).load()
    assert lost in caught.value.details["got"]


def test_a_config_of_another_width_is_an_error(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    with pytest.raises(ConfigError):
        LLMHead(D, name=str(folder)).load()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_is_the_configs_not_the_files(folder: Path, dtype: str) -> None:
    llm = LLMHead(D, name=str(folder), dtype=dtype, lora=Lora(r=2))
    llm.load()
    assert llm.d_llm == 32
    assert llm.lm.get_input_embeddings().weight.dtype == getattr(torch, dtype)
    learning = [p for p in llm.parameters() if p.requires_grad]
    assert learning
    assert all(p.dtype == torch.float32 for p in learning)


def test_bf16_weights_with_lora_train_and_score(folder: Path) -> None:
    llm = LLMHead(D, name=str(folder), dtype="bfloat16", lora=Lora(r=2), gradient_checkpointing=True)
    llm.load()
    llm.train()
    loss = llm.loss(contexts(3), [prompt("Hi.")], [answer("sad")])
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in llm.parameters() if p.requires_grad)
    scores = llm.score(contexts(3), [prompt("Hi.")], [answer("sad").text, answer("happy").text])
    assert scores.isfinite().all()
    assert len(llm.generate(contexts(3), [prompt("Hi.")], max_new_tokens=3)) == 1


def test_all_linear_layers_can_be_meant(folder: Path) -> None:
    llm = LLMHead(D, name=str(folder), lora=Lora(r=2, targets="all-linear"))
    llm.load()
    assert any("up_proj.lora_A" in n for n, _ in llm.named_parameters())
    assert not any("lm_head.lora" in n for n, _ in llm.named_parameters())


def test_quantisation_without_its_machine_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="CUDA device and bitsandbytes") as caught:
        pretrained.read(str(folder), dtype="bfloat16", quantization="nf4")
    assert "hero-lightning[quant]" in caught.value.details["hint"]


def _without_eos(tokenizer: Any) -> None:
    tokenizer.eos_token = None


def _larger(tokenizer: Any) -> None:
    tokenizer.add_tokens([f"new{i}" for i in range(4)])


@pytest.mark.parametrize(("change", "says"), [(_without_eos, "end-of-sequence"), (_larger, "do not belong together")])
def test_a_tokenizer_that_does_not_fit_is_refused(change: Any, says: str) -> None:
    tokenizer = word_tokenizer("one two")
    lm = word_model(len(tokenizer))
    change(tokenizer)
    with pytest.raises(ConfigError, match=says):
        LLMHead(D, name="in memory").use(lm, tokenizer)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match="character offsets") as caught:
        LLMHead(D, name="in memory").use(word_model(8), Slow())
    assert caught.value.details["got"] == "Slow"


def test_count_tokens_counts_text_and_placeholder(tmp_path: Path) -> None:
    llm = head(tmp_path)
    assert llm.count_tokens("") == 0
    assert llm.count_tokens("<|context|>") == 1
