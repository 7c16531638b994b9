"""The small language model: byte fallback, determinism, the folder it lives in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.models.llm.small_lm import SmallLM
from hero_lightning.reasoning.prompts import CONTEXT
from tests.models.llm.llm_helpers import TINY, texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY.build(texts(), tmp_path_factory.mktemp("lm") / "small")


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_survives_the_tokenizer(folder: Path, text: str) -> None:
    tokenizer = _tokenizer(folder)
    for special in tokenizer.all_special_tokens:
        text = text.replace(special, "")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


_LOADED = {}


def _tokenizer(folder: Path):  # type: ignore[no-untyped-def]
    return _LOADED.setdefault(folder, AutoTokenizer.from_pretrained(folder))


def test_the_folder_is_read_as_any_other_model(folder: Path) -> None:
    tokenizer = _tokenizer(folder)
    lm, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert lm.config.vocab_size == len(tokenizer) <= TINY.vocab
    assert (lm.config.hidden_size, lm.config.num_hidden_layers) == (32, 2)
    assert (
        tokenizer.convert_tokens_to_ids([CONTEXT, "<|bos|>", "<|eos|>"])
        == tokenizer(f"{CONTEXT}<|bos|><|eos|>", add_special_tokens=False)["input_ids"]
    )
    said = tokenizer.apply_chat_template(
        [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert said == "<|bos|><|system|>a<|user|>b<|assistant|>"


def test_words_of_the_texts_become_tokens(folder: Path) -> None:
    assert "happy" in _tokenizer(folder).get_vocab()


def test_same_texts_and_seed_give_the_same_model(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(77)  # the caller's generator must not matter, nor be moved
    state = torch.get_rng_state()
    again = TINY.build(texts(), tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("tokenizer.json", "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    other = SmallLM(vocab=400, width=32, layers=2, heads=2, positions=512, seed=1).build(texts(), tmp_path / "other")
    assert (other / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (other / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


def test_a_model_that_is_there_is_kept(folder: Path) -> None:
    before = (folder / "tokenizer.json").read_bytes()
    assert TINY.build(["something else entirely"], folder) == folder
    assert (folder / "tokenizer.json").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["small"]  # nothing half-written is left behind
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("nothing", [[], [CONTEXT, ""]])
def test_no_text_is_an_error(tmp_path: Path, nothing: list[str]) -> None:
    with pytest.raises(DataError, match="no text to train"):
        TINY.build(nothing, tmp_path / "none")


@pytest.mark.parametrize(
    ("sizes", "where"),
    [({"vocab": 200}, "llm.small.vocab"), ({"width": 30, "heads": 4}, "llm.small"), ({"layers": 0}, "llm.small")],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SmallLM(**sizes)
    assert caught.value.details["where"] == where
