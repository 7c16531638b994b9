"""Reasoner: builds prompts from a fusion model's outputs, trains a language model to answer, and parses its answers.

Data flow: Outputs + Batch -> Reading per clip (view, evidence in words, context tokens) -> prompts -> LLMHead -> loss
on target answers | scores of the class list | generated answers, parsed. All three build their prompts in `_ask`.

Shapes: B rows, E experts, U token bank segments, O context tokens, d width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError, in_range, one_of
from hero_lightning.models.llm.evidence_decoder import EvidenceDecoder
from hero_lightning.models.llm.head import LLMHead
from hero_lightning.models.llm.splice import prompt_ids
from hero_lightning.models.outputs import Outputs
from hero_lightning.reasoning.answer_targets import AnswerWriter, TargetAnswer
from hero_lightning.reasoning.answers import parse
from hero_lightning.reasoning.evidence import (
    EXPERTS,
    SYNERGY,
    ClipView,
    EvidenceItem,
    MeasureStatistics,
    TemplateWriter,
)
from hero_lightning.reasoning.prompts import Mode, Prompt, PromptBuilder, fit
from hero_lightning.types import MODALITIES, Batch, Sample

SLACK = 8
"""Tokens by which the chat template may lengthen a prompt more than the empty prompt it is measured on."""


class Reading(NamedTuple):
    """The inputs of the language model for one clip.

    Attributes:
        view: the clip; without transcript if the text modality is absent.
        evidence: in reading order.
        context: [O, d] real context tokens.
    """

    view: ClipView
    evidence: list[EvidenceItem]
    context: Tensor


@dataclass(frozen=True, slots=True)
class GenerationLoss:
    """Weights of the training on answers.

    Args:
        weight: of the loss term `generation`.
        label_weight: of the label answers in it, relative to the reasoned ones; each is a mean over its tokens.
        context_dropout: share of training clips whose context tokens are withheld, so that the evidence is read; a
            small model otherwise memorises the clips of its train split by their context.
    """

    weight: float = 1.0
    label_weight: float = 1.0
    context_dropout: float = 0.0

    def __post_init__(self) -> None:
        in_range("reasoner.loss.weight", self.weight, "[0, inf)")
        in_range("reasoner.loss.label_weight", self.label_weight, "[0, inf)")
        in_range("reasoner.loss.context_dropout", self.context_dropout, "[0, 1)")


@dataclass(frozen=True, slots=True)
class Generation:
    """Generated answers: for which clips, how long, how their labels are read.

    Args:
        max_tokens: of an answer; longer ones are cut.
        explain: number of test clips whose reasoning is generated, from the first; None = all.
        explain_val: the same in every validation pass.
        synonyms: other words -> class, for generated labels; common word forms are known without.
    """

    max_tokens: int = 256
    explain: int | None = None
    explain_val: int = 32
    synonyms: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        in_range("reasoner.generation.max_tokens", self.max_tokens, "[1, inf)")
        in_range("reasoner.generation.explain", self.explain or 0, "[0, inf)")
        in_range("reasoner.generation.explain_val", self.explain_val, "[0, inf)")


class Reasoner(nn.Module):
    """The language model on top of a fusion model. `prepare` (a new run) or `restore` completes it.

    Args:
        llm: the language model, not loaded yet.
        task: name of the classification task whose label it names.
        classes: K names of its classes.
        evidence: writes the observations of the experts.
        prompt: builds the questions.
        answer: builds the answers to train on.
        decoder: trained sentences on the modalities, for a dataset that describes them; None = the rules of `evidence`.
        importance: weights of the evidence: kbank_sum (attention per modality), kbank_density (the same divided by its
            share of tokens) or gate. A fusion without attention, and synergy, have a gate only.
        loss: weights of the training.
        generation: settings of the generated answers.
    """

    def __init__(
        self,
        llm: LLMHead,
        task: str,
        classes: Sequence[str],
        evidence: TemplateWriter,
        prompt: PromptBuilder,
        answer: AnswerWriter,
        decoder: EvidenceDecoder | None = None,
        importance: Literal["kbank_sum", "kbank_density", "gate"] = "kbank_sum",
        loss: GenerationLoss | None = None,
        generation: Generation | None = None,
    ) -> None:
        super().__init__()
        one_of("reasoner.importance", importance, ("kbank_sum", "kbank_density", "gate"))
        if prompt.mode != answer.mode:
            raise ConfigError(
                "Questions and answers are of different modes.",
                expected=f"reasoner.answer.mode={prompt.mode}",
                got=answer.mode,
                where="reasoner.answer.mode",
            )
        loss, generation = loss or GenerationLoss(), generation or Generation()
        for word, name in (generation.synonyms or {}).items():
            one_of(f"reasoner.generation.synonyms.{word}", name, classes)
        self.llm, self.task, self.classes = llm, task, tuple(classes)
        self.evidence, self.prompt, self.answers, self.decoder = evidence, prompt, answer, decoder
        self.mode: Mode = prompt.mode
        self.weight, self.label_weight, self.context_dropout = loss.weight, loss.label_weight, loss.context_dropout
        self.explain, self.explain_val = generation.explain, generation.explain_val
        self.max_answer, self.synonyms = generation.max_tokens, generation.synonyms
        self.importance, self.room = importance, 0

    # ---- setup

    def prepare(self, clips: Iterable[tuple[Sample, Mapping[str, Mapping[str, float]]]], folder: Path) -> None:
        """Fits the statistics of the measures, decides which answers the dataset supports, loads the language model.

        Args:
            clips: samples of the train split only, with their measures.
            folder: of a small language model, which is built from their prompts and answers unless it exists.
        """
        known = [(ClipView.of(s, m), s.labels.get(self.task), s.descriptions) for s, m in clips]
        self._adapt(
            MeasureStatistics.fit(view for view, _, _ in known),
            self.prompt.caption and any("caption" in words for _, _, words in known),
            # With `reasoner.answer.targets=label`, a dataset without descriptions is asked for labels alone.
            self.mode if any(words for _, _, words in known) else self.answers.mode_for(None),
        )
        if self.decoder is not None:
            self.decoder.prepare({s: [words[s] for _, _, words in known if words.get(s)] for s in MODALITIES})
        self.llm.load(self._texts(known), folder)
        self._measure()

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Restores `state` from a checkpoint; the caller loads the trained weights afterwards."""
        self._adapt(MeasureStatistics(**state["statistics"]), state["caption"], state["mode"])
        if self.decoder is not None:
            self.decoder.restore(state["decoder"])
        self.llm.load((), folder)
        self._measure()

    def state(self) -> dict[str, Any]:
        """The first argument of `restore`, as builtins."""
        return {
            "statistics": asdict(self.evidence.statistics),
            "caption": self.prompt.caption,
            "mode": self.mode,
            "decoder": None if self.decoder is None else self.decoder.state(),
        }

    def _adapt(self, statistics: MeasureStatistics, caption: bool, mode: Mode) -> None:
        self.evidence = replace(self.evidence, statistics=statistics)
        self.prompt, self.mode = replace(self.prompt, caption=caption), mode

    def _texts(self, known: Iterable[tuple[ClipView, Any, Mapping[str, str]]]) -> Iterable[str]:
        # For the vocabulary: the weights of the experts, and so the order of the evidence, are arbitrary.
        for view, label, words in known:
            present = {*view.measures, *(("text",) if view.text else ()), "frame", "face", SYNERGY}
            items = self.evidence.write(view, dict.fromkeys(EXPERTS, 0.14), present, {}, 0.75)
            modes: tuple[Mode, ...] = ("label",) if label is None else (self.mode, "label")
            for mode in dict.fromkeys(modes):
                prompt = self.prompt.build(view, items, mode, self.classes)
                yield prompt.text()
                if label is not None:
                    yield self.answers.target(str(label), items, words, prompt.keys).text

    def _measure(self) -> None:
        """Sets the tokens left for prompt and soft tokens, after chat template and answer."""
        limit = getattr(self.llm.lm.config, "max_position_embeddings", None) or 1_000_000
        bare = self.prompt.build(ClipView(""), (), self.mode, self.classes)
        frame = len(prompt_ids(self.llm.tokenizer, [bare])[0]) - self.llm.count_tokens(bare.text())
        self.room = limit - self.max_answer - max(frame, 0) - SLACK

    # ---- inputs

    def read(self, outputs: Outputs, batch: Batch, rows: Sequence[int] | None = None) -> list[Reading]:
        """The inputs of the language model for the rows (None = all); never from a label."""
        found, rows = [], list(range(len(batch)) if rows is None else rows)
        sentences = [{}] * len(rows) if self.decoder is None else self.decoder.write(outputs, rows)
        weights, flags = self._weights(outputs), outputs.present.tolist()
        sure = None if outputs.confidence is None else outputs.confidence.tolist()
        match = None if outputs.sync_logit is None else outputs.sync_logit.float().sigmoid().tolist()
        for b, words in zip(rows, sentences, strict=True):
            present = {e for e, here in zip(outputs.experts, flags[b], strict=True) if here}
            inferred = {} if sure is None else {e: c for e, c in zip(outputs.experts, sure[b], strict=True) if c < 1}
            view = ClipView.of(batch.samples[b], batch.measures[b])
            if "text" not in present:  # the prompt must not reveal a withheld modality
                view = replace(view, text=None, turns=())
            synergy = None if match is None else match[b]
            items = self.evidence.write(view, weights[b], present, inferred, synergy, words)
            real = slice(None) if outputs.context_mask is None else outputs.context_mask[b]
            found.append(Reading(view, items, outputs.context[b][real]))
        return found

    def _weights(self, outputs: Outputs) -> list[dict[str, float]]:
        """Expert -> weight of every row: attention per segment [B, U], or gate [B, E]."""
        gate = outputs.present.float() if outputs.gate is None else outputs.gate
        gates = [dict(zip(outputs.experts, row, strict=True)) for row in gate.tolist()]
        table = {"kbank_sum": outputs.importance, "kbank_density": outputs.density, "gate": None}[self.importance]
        if table is None:
            return gates
        names = [name for name, _, _ in outputs.segments]
        rows = [dict(zip(names, row, strict=True)) for row in table.tolist()]
        return [
            {**dict.fromkeys(own, 0.0), SYNERGY: own.get(SYNERGY, 0.0), **row}
            for row, own in zip(rows, gates, strict=True)
        ]

    def _ask(self, reading: Reading, mode: Mode) -> tuple[Prompt, list[EvidenceItem]]:
        """The prompt of a clip, shortened to its budget, and the evidence that is left in it."""
        prompt = self.prompt.build(reading.view, reading.evidence, mode, self.classes)
        budget = min(self.prompt.max_tokens, self.room - len(reading.context))
        prompt, dropped = fit(prompt, self.llm.count_tokens, budget)
        return prompt, dropped.kept(reading.evidence)

    # ---- training, scoring, generation

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross entropy of two answers per labelled clip: the reasoned one, and the label alone as it is scored."""
        label = batch.labels[self.task]
        rows = label.mask.nonzero().flatten().tolist()
        readings = dict(zip(rows, self.read(outputs, batch, rows), strict=True))
        if self.training and self.context_dropout:
            kept_context = torch.rand(len(rows)) >= self.context_dropout
            readings = {
                b: r if keep else r._replace(context=r.context[:0])
                for (b, r), keep in zip(readings.items(), kept_context.tolist(), strict=True)
            }
        reasoned = [b for b in rows if self.answers.mode_for(batch.samples[b].descriptions) != "label"]
        asked = [(self.mode, b) for b in reasoned] + [("label", b) for b in rows if self.label_weight]
        prompts, answers = [], []
        for mode, b in asked:
            prompt, kept = self._ask(readings[b], mode)
            prompts.append(prompt)
            truth = self.classes[int(label.value[b])]
            answers.append(self.answers.target(truth, kept, batch.samples[b].descriptions, prompt.keys))
        if not asked:
            return self.llm.loss([], [], [])
        clips = [b for _, b in asked]
        total, size = self.llm.row_losses([readings[b].context for b in clips], prompts, answers, clips)
        parts = slice(0, len(reasoned)), slice(len(reasoned), None)
        means = [total[part].sum() / size[part].sum().clamp(min=1e-9) for part in parts]
        return means[0] + self.label_weight * means[1]

    def score(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean log-probability of every class as the label answer, [B, K]; see `llm.probabilities`."""
        readings = self.read(outputs, batch)
        prompts = [self._ask(r, "label")[0] for r in readings]
        candidates = [self.answers.scoring_answer(c) for c in self.classes]
        return self.llm.score([r.context for r in readings], prompts, candidates)

    def label_scores(self, outputs: Outputs, batch: Batch, rows: Sequence[int]) -> Tensor:
        """Log-probability of every class as the label answer of R rows, [R, K], with gradients; slower than `score`."""
        texts = [self.answers.scoring_answer(c) for c in self.classes]
        answers = [TargetAnswer(text, ((0, len(text), 1.0),), "label") for text in texts]
        readings = self.read(outputs, batch, rows)
        asked = [(k, r, self._ask(r, "label")[0]) for k, r in enumerate(readings) for _ in answers]
        clips, contexts, prompts = [k for k, _, _ in asked], [r.context for _, r, _ in asked], [p for _, _, p in asked]
        total, _ = self.llm.row_losses(contexts, prompts, answers * len(readings), clips)
        return -total.reshape(len(readings), len(answers))

    def answer(
        self, outputs: Outputs, batch: Batch, probability: Tensor | None = None, rows: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Generated answers as builtins, the input of `reporting.explanation.render`.

        Args:
            outputs: of the batch.
            batch: B rows.
            probability: [B, K] of the classes; None = computed by `score`.
            rows: rows to answer; None = all.

        Returns:
            Per row: id; from scoring: label, confidence, scores (class -> probability); from generation: text, status,
            generated (its label, or None), answer (its fields); evidence, inferred, gate.
        """
        rows = list(range(len(batch)) if rows is None else rows)
        if not rows:
            return []
        if probability is None:
            probability = self.llm.probabilities(self.score(outputs, batch))
        readings = self.read(outputs, batch, rows)
        prompts = [self._ask(r, self.mode)[0] for r in readings]
        texts = self.llm.generate([r.context for r in readings], prompts, self.max_answer)
        return [
            self._record(b, batch.samples[b].id, outputs, r, p, t, probability[b].tolist())
            for b, r, p, t in zip(rows, readings, prompts, texts, strict=True)
        ]

    def _record(
        self, b: int, id: str, outputs: Outputs, reading: Reading, prompt: Prompt, text: str, probability: list[float]
    ) -> dict[str, Any]:
        parsed = parse(text, self.classes, self.synonyms, prompt.keys[-1])
        scores = {c: round(p, 4) for c, p in zip(self.classes, probability, strict=True)}
        label = max(scores, key=lambda c: scores[c])
        gate = {} if outputs.gate is None else dict(zip(outputs.experts, outputs.gate[b].tolist(), strict=True))
        return {
            "id": id, "label": label, "confidence": scores[label], "scores": scores,
            "text": text, "status": parsed.status, "generated": parsed.label, "answer": parsed.fields,
            "evidence": [asdict(e) for e in reading.evidence],
            "inferred": {e.modality: round(e.confidence, 4) for e in reading.evidence if e.source == "inferred"},
            "gate": {e: round(g, 4) for e, g in gate.items()},
        }  # fmt: skip
