"""Labels from text: lists, lexicon, negation, stop words, a local language model."""

from __future__ import annotations

from pathlib import Path

import pytest

from hero_lightning.errors import ConfigError
from hero_lightning.metrics.extraction import Lexicon, LocalLLM, parse_list
from hero_lightning.metrics.wheels import Wheels
from tests.metrics.wheel_tables import write_wheels


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return Wheels(write_wheels(tmp_path_factory.mktemp("wheels")))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[happy, surprised]", ["happy", "surprised"]),
        ("['angry', \"let down\"]", ["angry", "let down"]),
        ("The labels are: [ ].", []),
        ("happy", ["happy"]),
        ("angry, sad and worried", ["angry", "sad", "worried"]),
        ("The character's emotional state is angry, frustrated, and worried.", ["angry", "frustrated", "worried"]),
        ("Her state is a deep sadness", ["deep sadness"]),
        ("sad; sad", ["sad"]),
        ("She shouts because the door, which was open, is now shut by him.", None),
        ("He is not happy.", None),
        ("", None),
        ("A long description of a man who is walking through the rain and thinks of home.", None),
    ],
)
def test_parse_list(text: str, labels: list[str] | None) -> None:
    assert parse_list(text) == labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("She shouts, furious, and her loneliness shows through the calm words.", ["furious", "loneliness", "calm"]),
        ("The man on the left is not very happy about it, yet he seems excited.", ["excited"]),
        ("He isn't really angry at all. Sadness is what remains in his voice.", ["sadness"]),
        ("There is no sign here. Joy fills the room as they come in together.", ["joy"]),
        ("The emotional tone of the face gives no clear information; Worried eyes look away.", ["worried"]),
        ("Nothing of the kind can be seen in what happens in this short scene.", []),
        ("His mood stays neutral through all of what is being said to him here.", ["neutral"]),
    ],
)
def test_lexicon_words_without_negated_ones_and_stop_words(wheels: Wheels, text: str, labels: list[str]) -> None:
    assert Lexicon(wheels)([text]) == [labels]


def test_window_and_stop_words_are_options(wheels: Wheels) -> None:
    text = "He was never again seen to be happy after that long summer had gone."
    assert Lexicon(wheels, window=2)([text]) == [["happy"]]
    assert Lexicon(wheels, window=6)([text]) == [[]]
    assert Lexicon(wheels, stop=["happy"], window=0)([text]) == [[]]
    assert "emotional" in wheels.forms
    assert Lexicon(wheels, stop=[]).find("an emotional scene") == ["emotional"]
    with pytest.raises(ConfigError, match=r"extractor\.window is out of range"):
        Lexicon(wheels, window=-1)


def test_a_local_language_model(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.models.llm.llm_helpers import word_tokenizer

    tokenizer = word_tokenizer("happy sad She is glad He weeps")
    tokenizer.save_pretrained(tmp_path)
    size = {"n_positions": 256, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, **size)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    texts = ["She is glad.", "He weeps.", ""]
    found = LocalLLM(str(tmp_path), batch_size=2, max_new_tokens=3)(texts)
    assert found == LocalLLM(str(tmp_path), batch_size=3, max_new_tokens=3)(texts)  # greedy, padding is masked
    assert len(found) == 3
    assert all(isinstance(labels, list) for labels in found)
    with pytest.raises(ConfigError, match=r"does not exist[\s\S]*extractor\.name=FOLDER"):
        LocalLLM(str(tmp_path / "nothing"))(["a"])
