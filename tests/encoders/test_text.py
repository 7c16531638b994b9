from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.utils import logging

from hero_lightning.encoders.text import TextEncoder
from hero_lightning.errors import ConfigError
from hero_lightning.features.device import ModalityEncoder
from hero_lightning.features.extraction import fill
from hero_lightning.features.modality import Modality
from hero_lightning.features.read import read_clip
from hero_lightning.hub import Lora, fingerprint
from hero_lightning.media.types import Utterance
from hero_lightning.types import Sample, Turn
from tests.helpers import make_modality

logging.disable_progress_bar()


def t(text: str) -> list[str]:
    """Tokens set apart by blanks."""
    return text.split()


VOCABULARY = t("[PAD] [UNK] [CLS] [SEP] [MASK] : ? ! i you am see so happy sad hello there ann bob what now go")
CONTEXT = (Turn("Bob", "hello there you"), Turn(None, "what now ?"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random BERT of two layers and width 16, saved as from_pretrained reads it."""
    path = tmp_path_factory.mktemp("models") / "tiny-bert"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=160,
    )
    BertModel(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizer(vocab=str(path / "vocab.txt")).save_pretrained(path)
    return path


def loaded(folder: Path, **options) -> TextEncoder:
    encoder = TextEncoder(str(folder), **options)
    encoder.load()
    return encoder.train(encoder.trainable)


def words_of(encoder: TextEncoder, material: Utterance) -> list[list[str]]:
    """Tokens of every segment."""
    out = encoder.preprocess(material)
    tokens = encoder.tokenizer.convert_ids_to_tokens(out["ids"].tolist())
    count = int(out["segment"].max()) + 1
    return [[t for t, s in zip(tokens, out["segment"].tolist(), strict=True) if s == k] for k in range(count)]


def test_tokens_are_one_sequence_with_names_in_context(folder):
    encoder = TextEncoder(str(folder))
    (alone,) = words_of(encoder, Utterance("I am happy", "Ann"))
    assert alone == t("[CLS] i am happy [SEP]")
    (all_,) = words_of(encoder, Utterance("I am happy", "Ann", CONTEXT))
    assert all_ == t("[CLS] bob : hello there you [SEP] what now ? [SEP] ann : i am happy [SEP]")


def test_the_oldest_context_goes_first_and_the_utterance_last(folder):
    short = partial(TextEncoder, str(folder))
    (tokens,) = words_of(short(max_length=12), Utterance("I am happy", "Ann", CONTEXT))
    assert tokens == t("[CLS] [SEP] what now ? [SEP] ann : i am happy [SEP]")
    (tokens,) = words_of(short(max_length=7), Utterance("I am happy", "Ann", CONTEXT))
    assert tokens == t("[CLS] ann : i am happy [SEP]")
    (tokens,) = words_of(short(max_length=4), Utterance("I am happy"))
    assert tokens == t("[CLS] i am [SEP]")
    turns = words_of(short(max_length=5, pooling="turns"), Utterance("I am so happy", None, CONTEXT))
    assert turns == [
        t("[CLS] bob : hello [SEP]"),
        t("[CLS] what now ? [SEP]"),
        t("[CLS] i am so [SEP]"),
    ]


def test_features_are_the_networks_own(folder):
    encoder = loaded(folder)
    network = BertModel.from_pretrained(folder)
    ids = torch.tensor([[2, *(VOCABULARY.index(w) for w in ["i", "am", "happy"]), 3]])
    want = network.eval()(ids).last_hidden_state
    out = encoder.encode(encoder.collate([encoder.preprocess(Utterance("I am happy"))]))
    assert out.x.shape == (1, 5, encoder.dim)
    torch.testing.assert_close(out.x, want, atol=1e-6, rtol=1e-5)
    assert not out.x.requires_grad
    both = loaded(folder, layers=(-1, -2))
    states = network(ids, output_hidden_states=True).hidden_states
    out = both.encode(both.collate([both.preprocess(Utterance("I am happy"))]))
    torch.testing.assert_close(out.x, (states[-1] + states[-2]) / 2, atol=1e-6, rtol=1e-5)


def test_turns_are_means_in_time_order_then_the_utterance(folder):
    encoder = loaded(folder, pooling="turns")

    def tokens(text):
        return encoder.encode(encoder.collate([encoder.preprocess(Utterance(text))])).x[0, 1:]

    out = encoder.encode(encoder.collate([encoder.preprocess(Utterance("I am happy", None, CONTEXT))]))
    assert out.x.shape == (1, 3 + 5, 16)
    lines = ("Bob: hello there you", "what now ?", "I am happy")
    means = torch.stack([tokens(line).mean(dim=0) for line in lines])
    torch.testing.assert_close(out.x[0, :3], means, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.x[0, 3:], tokens("I am happy"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["tokens", "turns"])
def test_alone_equals_in_batch(folder, pooling):
    encoder = loaded(folder, pooling=pooling)
    rows = [
        encoder.preprocess(w)
        for w in (Utterance("hello"), Utterance("so sad now", "Ann", CONTEXT), Utterance("you see"))
    ]
    together = encoder.encode(encoder.collate(rows))
    for b, row in enumerate(rows):
        alone = encoder.encode(encoder.collate([row])).x[0]
        assert together.mask[b].sum() == len(alone)
        torch.testing.assert_close(together.x[b, : len(alone)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("trainable", "learning"), [("frozen", "none"), ("lora", "lora"), ("full", "all")])
def test_what_learns(folder, trainable, learning):
    encoder = loaded(folder, trainable=trainable)
    names = [n for n, p in encoder.named_parameters() if p.requires_grad]
    assert encoder.trainable is (trainable != "frozen")
    assert encoder.training is encoder.trainable
    if learning == "none":
        assert names == []
        return
    assert all("lora_" in n for n in names) is (learning == "lora")
    encoder.encode(encoder.collate([encoder.preprocess(Utterance("hello"))])).x.sum().backward()
    got = {n for n, p in encoder.named_parameters() if p.grad is not None}
    assert {n for n in names if "pooler" not in n} == got
    with pytest.raises(ConfigError, match=r"mode@modality\.text=realtime"):
        Modality("text", "auto", partial(TextEncoder, str(folder), trainable=trainable))


def test_a_learning_network_in_a_batch_without_words(folder):
    modality = Modality("text", "realtime", partial(TextEncoder, str(folder), trainable="lora"))
    module = ModalityEncoder(modality).train()
    module(modality.collate([None])).x.sum().backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_realtime_equals_stored(folder, tmp_path):
    samples = [Sample(f"s{k}", "train", text="so happy " * (k + 1), turns=CONTEXT[:k], speaker="Ann") for k in range(3)]
    encoder = partial(TextEncoder, str(folder), pooling="turns")
    auto = make_modality("text", "auto", encoder, context_turns=2, max_len=9)
    live = make_modality("text", "realtime", encoder, context_turns=2, max_len=9)
    auto.bind(tmp_path, "demo")
    assert fill({"text": auto}, samples, workers=1).written == {"text": 3}
    out = []
    for modality in (auto, live):
        rows = [read_clip({"text": modality}, {"text": modality.availability(s)}, s)["text"] for s in samples]
        out.append(ModalityEncoder(modality)(modality.collate(rows)))
    assert torch.equal(out[0].mask, out[1].mask)
    torch.testing.assert_close(out[0].x, out[1].x, atol=1e-5, rtol=1e-5)


def test_identity_knows_the_model_and_the_options(folder, tmp_path):
    base = TextEncoder(str(folder)).identity()
    assert base["name"] == "tiny-bert"
    assert base["revision"] == fingerprint(folder)
    assert TextEncoder(f"{folder}/").identity() == base
    assert TextEncoder(str(folder), pooling="turns").identity() != base
    other = tmp_path / "tiny-bert"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert TextEncoder(str(other)).identity() == base
    weights = load_file(other / "model.safetensors")
    save_file({k: v + 0.01 for k, v in weights.items()}, other / "model.safetensors", metadata={"format": "pt"})
    assert TextEncoder(str(other)).identity() != base


def test_it_travels_to_a_worker_with_its_tokenizer(folder):
    encoder = TextEncoder(str(folder))
    before = encoder.preprocess(Utterance("hello there"))
    after = pickle.loads(pickle.dumps(encoder)).preprocess(Utterance("hello there"))
    assert torch.equal(before["ids"], after["ids"])


def test_missing_tensors_are_an_error_but_not_the_poolers(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded(tmp_path)
    fewer = {k: v for k, v in weights.items() if "layer.1.attention.self.query" not in k}
    save_file(fewer, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"2 missing: encoder\.layer\.1\.attention\.self\.query"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "tokens, turns"),
        ({"max_length": 2}, "max_length is out of range"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        TextEncoder("bert-base-uncased", **options)


def test_wrong_options_for_this_network(folder):
    with pytest.raises(ConfigError, match="<= 160"):
        _ = TextEncoder(str(folder), max_length=161).dim
    with pytest.raises(ConfigError, match=r"no layer named q_proj[\s\S]*key, query, value"):
        loaded(folder, trainable="lora", lora=Lora(targets=("q_proj",)))


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder")
def test_real_minilm_finds_meaning():
    encoder = loaded(Path(os.environ["HERO_REAL"]) / "models" / "all-MiniLM-L6-v2", pooling="turns")
    assert encoder.dim == 384
    lines = ("I am so glad to see you", "What a joy to meet you", "The engine needs oil")
    out = encoder.encode(encoder.collate([encoder.preprocess(Utterance(line)) for line in lines]))
    near, far = (torch.cosine_similarity(out.x[0, 0], out.x[k, 0], dim=0) for k in (1, 2))
    assert near > 0.5
    assert far < 0.2
