"""Reasoner: one question for every use, evidence by weight, nothing that knows the label, two answers per clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hero_lightning.errors import ConfigError
from hero_lightning.hub import Lora
from hero_lightning.models.hero.fusion import MeanFusion
from hero_lightning.models.llm.evidence_decoder import EvidenceDecoder
from hero_lightning.models.llm.head import LLMHead
from hero_lightning.models.llm.reasoner import Generation, GenerationLoss, Reasoner
from hero_lightning.models.llm.small_lm import SmallLM
from hero_lightning.models.outputs import Outputs
from hero_lightning.reasoning.answer_targets import AnswerWriter
from hero_lightning.reasoning.evidence import TemplateWriter
from hero_lightning.reasoning.prompts import Prompt, PromptBuilder
from hero_lightning.training import checkpoint
from hero_lightning.types import Batch, Label, Sample, Turn
from tests.models.made import DIMS, features, hero

CLASSES = ("calm", "glad", "upset", "afraid")
WIDTH = 32
TINY = SmallLM(vocab=400, width=32, layers=2, heads=2, positions=700)
MEASURES = {"audio": {"pitch_hz": 180.0, "energy_db": -20.0}, "au": {"AU04": 2.5}, "motion": {"movement": 3.0}}
SECRETS = ("zqlabel", "zqdescription", "zqtruth")


def sample(i: int, split: str = "train", told: bool = True, **other: Any) -> Sample:
    words = {"caption": f"A person {SECRETS[1]}.", "audio": f"loud {SECRETS[1]}", "rationale": f"so {SECRETS[1]}."}
    return Sample(
        id=f"{split}{i}", split=split, text=f"we said it {i} times", speaker="Ann", turns=(Turn("Bob", "was it so?"),),
        labels={"emotion": CLASSES[i % 4], "secret": SECRETS[0]}, descriptions=words if told else {},
        truth={"informative": [SECRETS[2]], "conflict": SECRETS[2]}, **other,
    )  # fmt: skip


def clips(told: bool = True, n: int = 8) -> list[tuple[Sample, dict[str, dict[str, float]]]]:
    return [(sample(i, told=told), {**MEASURES, "audio": {"pitch_hz": 150.0 + 10 * i}}) for i in range(n)]


def reasoner(folder: Path | None, told: bool = True, lora: Lora | None = None, **settings: Any) -> Reasoner:
    """A prepared one in eval mode; same weights for the same settings. Settings: part__key, or the reasoner's own."""
    own: dict[str, dict[str, Any]] = {"evidence": {}, "prompt": {"style": "compact"}, "answer": {}, "loss": {}, "": {}}
    own["generation"] = {"max_tokens": 60}
    for key, value in settings.items():
        part, _, name = key.rpartition("__")
        own[part][name] = value
    made = Reasoner(
        LLMHead(WIDTH, small=TINY, dtype="float32", lora=lora), "emotion", CLASSES, TemplateWriter(**own["evidence"]),
        PromptBuilder(**own["prompt"]), AnswerWriter(**own["answer"]), loss=GenerationLoss(**own["loss"]),
        generation=Generation(**own["generation"]), **own[""],
    )  # fmt: skip
    if folder is not None:
        torch.manual_seed(0)
        made.prepare(clips(told), folder / "lm")
    return made.eval()


def seen(rows: int = 4, absent: tuple[tuple[str, int], ...] = (), **settings: Any) -> tuple[Outputs, Batch]:
    """Outputs of a small model and the batch they belong to; `absent` names (modality, row) without data."""
    present = {s: [(s, b) not in absent for b in range(rows)] for s in DIMS}
    outputs = hero(**settings)(features(present))
    batch = Batch(
        index=torch.arange(rows), group=torch.arange(rows), order=torch.zeros(rows, dtype=torch.long), modalities={},
        labels={"emotion": Label(torch.arange(rows) % 4, torch.ones(rows, dtype=torch.bool))},
        samples=[sample(b) for b in range(rows)], measures=[MEASURES] * rows,
    )  # fmt: skip
    return outputs, batch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Reasoner:
    return reasoner(tmp_path_factory.mktemp("lm"))


class Asked:
    """Collects the prompts that reach the language model, and their embeddings, by use."""

    def __init__(self, made: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[list[Prompt]] = []
        self.rows: list[list[torch.Tensor]] = []
        inner = made.llm._splice

        def splice(prompts: list[Prompt], tails: Any, *rest: Any, **options: Any) -> Any:
            rows = inner(prompts, tails, *rest, **options)
            self.prompts.append(list(prompts))
            self.rows.append([r.embeds[: r.segments["answer"][0]].detach() for r in rows])
            return rows

        monkeypatch.setattr(made.llm, "_splice", splice)


def test_every_use_asks_the_same_question(made: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, batch = seen()
    asked = Asked(made, monkeypatch)
    made.loss(outputs, batch)
    scores = made.score(outputs, batch)
    made.answer(outputs, batch, made.llm.probabilities(scores))
    (trained, scored, generated), n = asked.prompts, len(batch)
    assert [p.mode for p in trained] == ["cot"] * n + ["label"] * n
    assert (trained[:n], trained[n:]) == (generated, scored)
    for one, other in ((asked.rows[0][:n], asked.rows[2]), (asked.rows[0][n:], asked.rows[1])):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


def test_nothing_that_knows_the_label_reaches_a_prompt(made: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, batch = seen()
    bare = [replace(s, labels={}, descriptions={}, truth={}) for s in batch.samples]
    asked = Asked(made, monkeypatch)
    for rows in (batch.samples, bare):
        told = replace(batch, samples=rows)
        if rows is batch.samples:  # without a label there is nothing to train on
            made.loss(outputs, told)
        scores = made.score(outputs, told)
        made.answer(outputs, told, scores.softmax(-1))
        readings = made.read(outputs, told)
        made.llm.extract([r.context for r in readings], [made._ask(r, "cot")[0] for r in readings])
    trained, score, generate, extract, *without = asked.prompts
    assert without == [score, generate, extract]
    assert trained == [*generate, *score]
    for prompt in (*score, *generate, *extract):
        assert not any(secret in prompt.text() + str(prompt.messages()) for secret in SECRETS)
        assert "we said it" in prompt.text()


def test_tasks_are_the_dataset_own_words_and_the_label(made: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[str]] = []
    inner = made.llm.row_losses

    def kept(context: Any, prompts: Any, answers: Any, clips: Any) -> Any:
        assert list(clips) == [0, 1, 3, 0, 1, 3]
        written.append([x.text for x in answers])
        return inner(context, prompts, answers, clips)

    monkeypatch.setattr(made.llm, "row_losses", kept)
    outputs, batch = seen()
    batch.labels["emotion"].mask[2] = False
    made.loss(outputs, batch)
    (reasoned, label) = written[0][:3], written[0][3:]
    assert label == [f'{{"final_emotion": "{CLASSES[b]}"}}' for b in (0, 1, 3)]
    assert len(reasoned) == 3
    assert all(SECRETS[1] in text and CLASSES[b] in text for text, b in zip(reasoned, (0, 1, 3), strict=True))


def test_no_label_at_all_is_a_zero_that_reaches_every_parameter(tmp_path: Path) -> None:
    made = reasoner(tmp_path)
    outputs, batch = seen()
    batch.labels["emotion"].mask[:] = False
    loss = made.loss(outputs, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)


def test_the_loss_reaches_the_experts_and_the_label_weight_counts(made: Reasoner) -> None:
    outputs, batch = seen()
    outputs.context.retain_grad()
    both = made.loss(outputs, batch)
    both.backward()
    assert outputs.context.grad is not None
    assert (outputs.context.grad.abs().sum(dim=(1, 2)) > 0).all()
    terms = {}
    for weight in (0.0, 3.0):
        made.label_weight = weight
        terms[weight] = made.loss(outputs, batch).item()
    made.label_weight = 1.0
    assert terms[3.0] - terms[0.0] == pytest.approx(3 * (both.item() - terms[0.0]), rel=1e-4)


def test_scores_and_answers_do_not_depend_on_the_batch(made: Reasoner) -> None:
    outputs, batch = seen(absent=(("audio", 1), ("text", 2)))
    scores = made.score(outputs, batch)
    answers = made.answer(outputs, batch)
    assert [a["id"] for a in answers] == batch.ids
    (alone,) = made.answer(outputs, batch, rows=[2])
    assert alone == answers[2]
    whole = features({s: [(s, b) not in (("audio", 1), ("text", 2)) for b in range(4)] for s in DIMS})
    for b in range(4):
        one = slice(b, b + 1)
        part = hero()({s: replace(f, x=f.x[one], mask=f.mask[one], time=f.time[one]) for s, f in whole.items()})
        single = replace(batch, index=batch.index[one], samples=[batch.samples[b]], measures=[MEASURES])
        torch.testing.assert_close(made.score(part, single), scores[one], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("importance", ["kbank_sum", "kbank_density", "gate"])
def test_evidence_is_weighed_as_the_config_says(tmp_path: Path, importance: str) -> None:
    made = reasoner(None, importance=importance, evidence__conflict_first=False)
    outputs, batch = seen(absent=(("motion", 1),))
    table = {"kbank_sum": outputs.importance, "kbank_density": outputs.density, "gate": outputs.gate}[importance]
    names = outputs.experts if importance == "gate" else [s[0] for s in outputs.segments]
    for b, reading in enumerate(made.read(outputs, batch)):
        expected = dict(zip(names, table[b].tolist(), strict=True))
        expected["synergy"] = outputs.gate[b, outputs.experts.index("synergy")].item()
        found = [e for e in reading.evidence if e.source == "observed"]
        assert {e.modality for e in found} == set(outputs.experts) - ({"motion", "synergy"} if b == 1 else set())
        assert [e.weight for e in found] == sorted((expected[e.modality] for e in found), reverse=True)
        assert all(e.weight == pytest.approx(expected[e.modality]) for e in found)
    assert "PE-01: brow lowerer active 2.5" in [e.line() for e in made.read(outputs, batch)[0].evidence]


def test_a_fusion_without_attention_weighs_by_its_gate() -> None:
    outputs, batch = seen(absent=(("audio", 0),), fusion=MeanFusion)
    assert outputs.importance is None
    reading = reasoner(None).read(outputs, batch)[0]
    there = outputs.gate[0, outputs.experts.index("frame")].item()
    assert next(e.weight for e in reading.evidence if e.modality == "frame") == pytest.approx(there)
    # an even gate gives the imputed expert its confidence, so its slot is context as well
    assert len(reading.context) == int(outputs.context_mask[0].sum())


def test_words_of_a_withheld_text_modality_stay_out_of_the_prompt(made: Reasoner) -> None:
    outputs, batch = seen(absent=(("text", 1),))
    shown = [made._ask(r, "cot")[0].text() for r in made.read(outputs, batch)]
    assert "we said it 0 times" in shown[0]
    assert "we said it" not in shown[1]
    assert "was it so" not in shown[1]
    assert "words not available" in shown[1]


def test_a_long_clip_is_shortened_and_its_target_names_what_was_shown(tmp_path: Path) -> None:
    made = reasoner(tmp_path, told=False, prompt__max_tokens=150, prompt__context_turns=2)
    outputs, batch = seen(1)
    batch.samples[0] = replace(batch.samples[0], text="and then they said it again " * 60, descriptions={})
    prompt, kept = made._ask(made.read(outputs, batch)[0], "cot")
    assert made.llm.count_tokens(prompt.text()) <= 150
    assert len(kept) < len(made.read(outputs, batch)[0].evidence)
    assert prompt.text().rstrip().endswith("Answer:")
    assert torch.isfinite(made.loss(outputs, batch))


def test_prompt_soft_tokens_and_answer_share_the_models_places(tmp_path: Path) -> None:
    made = reasoner(tmp_path, prompt__max_tokens=100_000, generation__max_tokens=300)
    outputs, batch = seen(1)
    batch.samples[0] = replace(batch.samples[0], text="and then they said it again " * 200)
    (row,) = made.llm.embed([made._ask(made.read(outputs, batch)[0], "cot")[0]], outputs.context)
    assert 350 < len(row.embeds) <= TINY.positions - 300
    assert made.answer(outputs, batch)[0]["id"] == "train0"


def test_an_answer_says_all_a_report_needs(made: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    from hero_lightning.reporting.explanation import render

    outputs, batch = seen(2, absent=(("audio", 0),))
    good = (
        '{"emotion_caption": "c", "evidence_summary": ["x"], "rationale": "The face (FE-01).", "final_emotion": "Glad"}'
    )
    monkeypatch.setattr(made.llm, "generate", lambda *_: [good, "no idea"])
    probability = torch.tensor([[0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1]])
    first, second = made.answer(outputs, batch, probability)
    assert (first["label"], first["confidence"], first["generated"], first["status"]) == ("upset", 0.6, "glad", "ok")
    assert (second["label"], second["generated"], second["status"]) == ("calm", None, "failed")
    assert first["answer"]["rationale"] == "The face (FE-01)."
    assert sum(first["gate"].values()) == pytest.approx(1, abs=1e-3)
    assert [e["modality"] for e in first["evidence"] if e["source"] == "absent"] == ["audio"]
    assert "The written answer names glad, the scores name upset." in render(first)


def test_a_written_label_is_read_by_the_words_of_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, batch = seen(1)
    for synonyms, label in ((None, None), ({"terror": "afraid"}, "afraid")):
        made = reasoner(tmp_path, generation__synonyms=synonyms)
        monkeypatch.setattr(made.llm, "generate", lambda *_: ['{"rationale": "so", "final_emotion": "Terror!"}'])
        assert made.answer(outputs, batch)[0]["generated"] == label


def test_inferred_evidence_is_marked(tmp_path: Path) -> None:
    made = reasoner(None, evidence__absent="infer", evidence__min_confidence=0.0)
    outputs, batch = seen(2, absent=(("audio", 0),))
    item = next(e for e in made.read(outputs, batch)[0].evidence if e.modality == "audio")
    assert (item.id, item.source) == ("IAE-01", "inferred")
    assert item.confidence == pytest.approx(float(outputs.confidence[0, outputs.experts.index("audio")]))


def test_a_trained_decoder_speaks_for_the_modalities_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reasoner(None, evidence__absent="infer", evidence__min_confidence=0.0)
    made.decoder = EvidenceDecoder(WIDTH, hidden=32, num_heads=2, vocab=320, layers=1)
    made.prepare(clips(), tmp_path / "lm")
    assert made.decoder.modalities == ("audio",)
    monkeypatch.setattr(made.decoder, "write", lambda _, rows: [{"audio": "a <|bos|> hum"} for _ in rows])
    outputs, batch = seen(2, absent=(("audio", 0),))
    inferred, observed = ({e.modality: e for e in r.evidence} for r in made.read(outputs, batch))
    assert (inferred["audio"].text, inferred["audio"].source) == ("a (|bos|) hum", "inferred")
    assert (observed["audio"].text, observed["audio"].source) == ("a (|bos|) hum", "observed")
    assert "movement" in observed["motion"].text


@pytest.mark.parametrize(
    ("told", "tasks", "mode", "keys"),
    [
        (True, "reasoning", "cot", 4),
        (False, "reasoning", "cot", 3),  # no caption to learn, so none is asked for
        (True, "label", "cot", 4),
        (False, "label", "label", 1),
    ],
)
def test_what_is_asked_for_follows_the_dataset(tmp_path: Path, told: bool, tasks: str, mode: str, keys: int) -> None:
    made = reasoner(tmp_path, told=told, answer__targets=tasks)
    outputs, batch = seen(1)
    assert made.mode == mode
    prompt, _ = made._ask(made.read(outputs, batch)[0], made.mode)
    assert len(prompt.keys) == keys
    again = reasoner(None, answer__targets=tasks)
    again.restore(made.state(), tmp_path / "lm")
    assert again._ask(again.read(outputs, batch)[0], again.mode)[0] == prompt
    assert again.state() == made.state()


def test_what_is_usual_comes_from_the_train_split(made: Reasoner) -> None:
    outputs, batch = seen(1)
    mean, _ = made.evidence.statistics.dataset["audio"]["pitch_hz"]
    assert mean == pytest.approx(185.0)
    high = replace(batch, measures=[{"audio": {"pitch_hz": 400.0}}])
    assert "pitch very high (400 Hz" in made._ask(made.read(outputs, high)[0], "cot")[0].text()


def test_checkpoint_keeps_what_learns_once_and_the_temperature(tmp_path: Path) -> None:
    frozen = reasoner(tmp_path, lora=Lora(r=2))
    names = set(checkpoint.trainable_state(frozen, frozen.state_dict()))
    assert "llm.temperature" in names
    assert all("lora" in n or "projector" in n for n in names - {"llm.temperature"})
    whole = reasoner(tmp_path)
    names = set(checkpoint.trainable_state(whole, whole.state_dict()))
    assert "llm.lm.model.embed_tokens.weight" in names
    assert "llm.lm.lm_head.weight" not in names  # tied: the same matrix


def test_lora_trains_in_train_mode(tmp_path: Path) -> None:
    """Models come from their files in eval mode, where LoRA has no dropout and checkpointing does nothing."""
    assert reasoner(None).train().llm.lm is None
    made = Reasoner(
        LLMHead(WIDTH, small=TINY, lora=Lora(r=2)),
        "emotion",
        CLASSES,
        TemplateWriter(),
        PromptBuilder(),
        AnswerWriter(),
    )
    made.prepare(clips(), tmp_path / "lm")
    assert all(m.training for m in made.modules())


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"importance": "loudness"}, "reasoner.importance"),
        ({"loss__weight": -1.0}, "reasoner.loss.weight"),
        ({"loss__context_dropout": 1.0}, "reasoner.loss.context_dropout"),
        ({"generation__explain": -1}, "reasoner.generation.explain"),
        ({"generation__max_tokens": 0}, "reasoner.generation.max_tokens"),
        ({"prompt__mode": "label"}, "reasoner.answer.mode"),
        ({"generation__synonyms": {"joyous": "gladness"}}, "reasoner.generation.synonyms.joyous"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        reasoner(None, **settings)
