"""Backbones: one choice sets every encoder and the language model, single choices win, and a run on raw clips works."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests.config.test_config import composed
from tests.encoders.pretrained_made import save
from tests.helpers import train_in_process

TEXT = "She says that she is so happy, and then he shouts: no, I am not angry! emotion final label json answer"
PARTS = {"frame": "clip", "face": "dinov2", "motion": "videomae", "audio": "whisper"}


def names(*overrides: str) -> dict[str, str]:
    """Modality -> encoder class, or its model where it has one; and the language model."""
    cfg = composed(*overrides)
    encoders = {m: node.encoder for m, node in cfg.modality.items()}
    found = {m: e.get("name", e["_target_"].rsplit(".", 1)[-1]) for m, e in encoders.items()}
    return found | {"llm": (cfg.llm or {}).get("name", "none")}


SMALL = {
    "frame": "openai/clip-vit-base-patch16", "face": "facebook/dinov2-small", "motion": "MCG-NJU/videomae-base",
    "audio": "openai/whisper-tiny", "au": "AuValues", "text": "sentence-transformers/all-MiniLM-L6-v2",
    "llm": "Qwen/Qwen2.5-0.5B-Instruct",
}  # fmt: skip


@pytest.mark.parametrize("dataset", ["demo", "meld", "mer2023", "cmu_mosei"])
def test_a_backbone_wins_over_the_encoders_of_a_dataset(dataset):
    assert names("model=hero_cot", f"dataset={dataset}", "backbone=small") == SMALL


@pytest.mark.parametrize("first", [True, False])
def test_single_choices_win_in_any_order(first):
    own = ["encoder@modality.text.encoder=words", "llm=qwen2_5_3b", "modality.audio.encoder.name=FOLDER"]
    given = [*own, "backbone=large"] if first else ["backbone=large", *own]
    found = names("model=hero_cot", *given)
    assert found == {
        "frame": "openai/clip-vit-large-patch14", "face": "facebook/dinov2-large", "motion": "MCG-NJU/videomae-large",
        "audio": "FOLDER", "au": "AuValues", "text": "HashedWords", "llm": "Qwen/Qwen2.5-3B-Instruct",
    }  # fmt: skip


def test_handcrafted_downloads_nothing():
    found = names("model=hero_cot", "dataset=meld", "backbone=handcrafted")
    assert not any("/" in name for name in found.values())


def small_backbone(root: Path) -> dict[str, str]:
    """Tiny models with random weights, saved as published ones are: option -> folder."""
    import transformers as tr
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folders = {f"modality.{m}.encoder.name": save(root, family) for m, family in PARTS.items()}
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    tokenizer = tr.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    folders["modality.text.encoder.name"] = root / "bert"
    tr.BertModel(tr.BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    spoken = tr.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    config = tr.Qwen2Config(
        vocab_size=len(spoken) + 8, num_key_value_heads=1, max_position_embeddings=2048, eos_token_id=0, **shape
    )
    tr.Qwen2ForCausalLM(config).save_pretrained(root / "qwen")
    spoken.save_pretrained(root / "qwen")
    return {k: str(v) for k, v in folders.items()} | {"llm.name": str(root / "qwen")}


def run_small(tmp_path: Path, folders: dict[str, str]) -> dict:
    """Trains `backbone=small` on raw clips of the demo dataset; metrics.json of the run."""
    paths = [
        f"paths.data={tmp_path}/data",
        f"paths.features={tmp_path}/features",
        "dataset.clips=24",
        "dataset.limit=4",
    ]
    quick = [
        "size=tiny",
        "trainer.max_epochs=1",
        "probes=false",
        "reasoner.generation.max_tokens=4",
        "llm.dtype=float32",
    ]
    chosen = [f"{key}={name}" for key, name in folders.items()]
    run = tmp_path / "run"
    train_in_process(run, "model=hero_cot", "backbone=small", "dataset.batch_size=4", *paths, *quick, *chosen)
    return json.loads((run / "metrics.json").read_text())


def test_small_on_raw_clips_with_tiny_models(tmp_path):
    found = run_small(tmp_path, small_backbone(tmp_path / "models"))
    assert found["splits"]["test"]


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_small_on_raw_clips_with_real_text_and_speech_models(tmp_path):
    folders, real = small_backbone(tmp_path / "models"), Path(os.environ["HERO_REAL"]) / "models"
    folders["modality.text.encoder.name"] = str(real / "all-MiniLM-L6-v2")
    folders["modality.audio.encoder.name"] = str(real / "whisper-tiny.en")
    assert run_small(tmp_path, folders)["splits"]["test"]
