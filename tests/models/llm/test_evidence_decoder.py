"""EvidenceDecoder: it learns to say what features hold, by task token, and says nothing of what was not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hero_lightning.errors import ConfigError
from hero_lightning.models.llm.evidence_decoder import END, PAD, EvidenceDecoder, _wrapped
from hero_lightning.models.llm.small_lm import learn_bpe
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import Batch
from tests.models.made import batch as made_batch
from tests.models.made import features, hero

WIDTH = 32
SAID = {
    "audio": ["the voice is low", "the voice is loud and fast", "the voice trembles", "the voice is even"],
    "motion": ["the hands rest", "the hands wave", "the head nods", "the head shakes"],
}


def seen(absent: tuple[str, ...] = ()) -> tuple[Outputs, Batch]:
    """Four clips, the first of which lacks the modalities of `absent`; each has a description per modality."""
    present = {s: [s not in absent, True, True, True] for s in ("motion", "audio", "text")}
    outputs = hero(modalities=tuple(present))(features(present))
    batch = made_batch(4)
    told = [{s: texts[b] for s, texts in SAID.items()} | {"caption": "a caption"} for b in range(4)]
    samples = [replace(s, descriptions=words) for s, words in zip(batch.samples, told, strict=True)]
    return outputs, replace(batch, samples=samples)


def decoder(**settings: Any) -> EvidenceDecoder:
    torch.manual_seed(0)
    made = EvidenceDecoder(WIDTH, **({"hidden": 32, "num_heads": 2, "vocab": 320, "layers": 1} | settings))
    made.prepare(SAID)
    return made


def learnt(made: EvidenceDecoder, outputs: Outputs, batch: Batch, steps: int = 150) -> EvidenceDecoder:
    outputs = replace(
        outputs, summaries=outputs.summaries.detach(), tokens={k: v.detach() for k, v in outputs.tokens.items()}
    )
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        made.loss(outputs, batch).backward()
        optimizer.step()
    return made


def test_it_says_what_each_expert_saw_and_says_it_again_after_a_restart() -> None:
    outputs, batch = seen()
    made = learnt(decoder(), outputs, batch)
    expected = [{s: texts[b] for s, texts in SAID.items()} for b in range(4)]
    assert made.training
    assert made.write(outputs, range(4)) == expected
    assert made.training
    assert made.write(outputs, [2]) == expected[2:3]  # alone as in the batch
    again = EvidenceDecoder(WIDTH, hidden=32, num_heads=2, vocab=320, layers=1)
    again.restore(made.state())
    again.load_state_dict(made.state_dict())
    assert again.write(outputs, range(4)) == expected


def test_a_pretrained_t5_is_read_from_its_folder(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    words = _wrapped(learn_bpe([t for texts in SAID.values() for t in texts], 300, [PAD, END]))
    config = T5Config(
        vocab_size=len(words), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    made = decoder(name=str(tmp_path))
    torch.testing.assert_close(
        made.t5.shared.weight, T5ForConditionalGeneration.from_pretrained(tmp_path).shared.weight
    )
    outputs, batch = seen()
    assert learnt(made, outputs, batch, 3).loss(outputs, batch).isfinite()
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(k for k in weights if "EncDecAttention.q" in k))
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="do not fit its network"):
        decoder(name=str(tmp_path))
    with pytest.raises(ConfigError, match="does not exist"):
        decoder(name=str(tmp_path / "nowhere"))


def test_what_was_not_seen_is_not_learnt_and_an_inference_is_written() -> None:
    outputs, batch = seen(absent=("audio",))
    made = decoder().eval()
    assert outputs.imputed is None or bool(outputs.imputed[0].any())
    other = replace(batch, samples=[replace(batch.samples[0], descriptions={"audio": "loud"}), *batch.samples[1:]])
    only_motion = replace(batch.samples[0], descriptions={"motion": SAID["motion"][0]})
    torch.testing.assert_close(
        made.loss(outputs, batch), made.loss(outputs, replace(batch, samples=[only_motion, *batch.samples[1:]]))
    )
    assert not torch.equal(made.loss(outputs, batch), made.loss(outputs, other))
    without = replace(outputs, imputed=None)
    assert "audio" in made.write(outputs, [0])[0]
    assert "audio" not in made.write(without, [0])[0]


def test_no_description_is_a_zero_that_reaches_every_parameter() -> None:
    outputs, batch = seen()
    made = decoder()
    loss = made.loss(outputs, replace(batch, samples=[replace(s, descriptions={}) for s in batch.samples]))
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None for p in made.parameters())


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"reasoner\.decoder\.layers is out of range"):
        EvidenceDecoder(WIDTH, layers=0)
    with pytest.raises(ConfigError, match="num_heads=3"):
        EvidenceDecoder(WIDTH, num_heads=3)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        EvidenceDecoder(WIDTH).prepare({"audio": []})
