"""Reasoner: tells a language model what the experts saw, trains it to answer, and reads its answers.

Data flow: Outputs + Batch -> Reading per clip (view, evidence in words, context tokens) -> prompts -> LLMHead -> loss
on target answers | scores of the class list | written answers, parsed. All three ask through `_ask`.

Shapes: B rows, E experts, U token bank segments, O context tokens, d width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError
from hero_lightning.models.llm.evidence_decoder import EvidenceDecoder
from hero_lightning.models.llm.head import LLMHead
from hero_lightning.models.llm.splice import prompt_ids
from hero_lightning.models.outputs import Outputs
from hero_lightning.reasoning.answer_targets import AnswerWriter
from hero_lightning.reasoning.answers import parse
from hero_lightning.reasoning.evidence import (
    EXPERTS,
    SYNERGY,
    ClipView,
    EvidenceItem,
    MeasureStatistics,
    TemplateWriter,
    one_of,
)
from hero_lightning.reasoning.prompts import Mode, Prompt, PromptBuilder, fit
from hero_lightning.types import MODALITIES, Batch, Sample

SLACK = 8
"""Tokens by which a chat template may treat one prompt worse than the empty one it is measured on."""


class Reading(NamedTuple):
    """What the language model is told of one clip.

    Attributes:
        view: what may be known of it; without words where the model did not see them.
        evidence: in reading order.
        context: [O, d] real context tokens.
    """

    view: ClipView
    evidence: list[EvidenceItem]
    context: Tensor


class Reasoner(nn.Module):
    """The reasoning layer beside a fusion model. It is complete after `prepare` (a new run) or `restore`.

    Args:
        llm: the language model, not loaded yet.
        task: the class Task it answers for.
        classes: K names of it.
        evidence: writes what the experts saw.
        prompt: makes the questions.
        answer: writes the answers to learn.
        decoder: says in words what an expert saw, where a dataset describes its modalities; None = the rules of `evidence`.
        weight: of the loss term `generation`.
        label_weight: of the label answers in it, against 1 for the reasoned answers; each is a mean over its tokens.
        importance: what evidence is weighed by: kbank_sum (attention per modality), kbank_density (the same over its
            share of tokens) or gate. A fusion without attention has its gate only; synergy always has.
        explain: test clips whose reasoning is written, from the first; None = all.
        explain_val: the same in every validation pass.
        max_prompt: tokens of a prompt; longer ones lose old turns, weak evidence, then the transcript's middle.
        max_answer: tokens of an answer; longer ones are cut.
        context_dropout: share of training clips whose context tokens are withheld, so that the evidence is read: a
            small model otherwise learns the clips of its train split by their context.
        synonyms: other words -> class, where a written label is read; common word forms are known without.
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
        weight: float = 1.0,
        label_weight: float = 1.0,
        importance: Literal["kbank_sum", "kbank_density", "gate"] = "kbank_sum",
        explain: int | None = None,
        explain_val: int = 32,
        max_prompt: int = 1024,
        max_answer: int = 256,
        context_dropout: float = 0.0,
        synonyms: Mapping[str, str] | None = None,
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
        for key, value, least in (
            ("weight", weight, 0),
            ("label_weight", label_weight, 0),
            ("explain", explain or 0, 0),
            ("explain_val", explain_val, 0),
            ("max_prompt", max_prompt, 1),
            ("max_answer", max_answer, 1),
        ):
            if not value >= least:
                raise ConfigError(f"{key} is too small.", expected=f">= {least}", got=value, where=f"reasoner.{key}")
        if not 0 <= context_dropout < 1:
            where = "reasoner.context_dropout"
            raise ConfigError("context_dropout is no share.", expected="0 <= p < 1", got=context_dropout, where=where)
        for word, name in (synonyms or {}).items():
            one_of(f"reasoner.synonyms.{word}", name, classes)
        self.context_dropout, self.synonyms = context_dropout, synonyms
        self.llm, self.task, self.classes = llm, task, tuple(classes)
        self.evidence, self.prompt, self.answers, self.decoder = evidence, prompt, answer, decoder
        self.mode: Mode = prompt.mode
        self.weight, self.label_weight, self.importance = float(weight), float(label_weight), importance
        self.explain, self.explain_val = explain, explain_val
        self.max_prompt, self.max_answer, self.room = max_prompt, max_answer, 0

    # ---- made once

    def prepare(self, clips: Iterable[tuple[Sample, Mapping[str, Mapping[str, float]]]], folder: Path) -> None:
        """Learns from the train split what is usual and what can be asked for, and loads the language model.

        Args:
            clips: samples of the train split with their measures, and no others.
            folder: of a small language model, which is built from their prompts and answers unless it is there.
        """
        known = [(ClipView.of(s, m), s.labels.get(self.task), s.descriptions) for s, m in clips]
        self.evidence.statistics = MeasureStatistics.fit(view for view, _, _ in known)
        self.prompt.caption &= any("caption" in words for _, _, words in known)
        if not any(words for _, _, words in known):  # `tasks: label` asks such a dataset for labels alone
            self.mode = self.answers.mode_for(None)
        if self.decoder is not None:
            told = {s: [words[s] for _, _, words in known if words.get(s)] for s in MODALITIES}
            self.decoder.prepare(told)
        self.llm.load(self._texts(known), folder)
        self._measure()

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Takes up what a run's checkpoint says (`state`); weights that were trained are copied in afterwards."""
        self.evidence.statistics = MeasureStatistics.from_dict(state["statistics"])
        self.prompt.caption, self.mode = state["caption"], state["mode"]
        if self.decoder is not None:
            self.decoder.restore(state["decoder"])
        self.llm.load((), folder)
        self._measure()

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in builtins."""
        return {
            "statistics": self.evidence.statistics.to_dict(),
            "caption": self.prompt.caption,
            "mode": self.mode,
            "decoder": None if self.decoder is None else self.decoder.state(),
        }

    def _texts(self, known: Iterable[tuple[ClipView, Any, Mapping[str, str]]]) -> Iterable[str]:
        # No expert has seen anything yet: all count alike. Only the words matter here, not their order.
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
        """Room for the text of a prompt with its soft tokens: beside chat template and answer."""
        limit = getattr(self.llm.lm.config, "max_position_embeddings", None) or 1_000_000
        bare = self.prompt.build(ClipView(""), (), self.mode, self.classes)
        frame = len(prompt_ids(self.llm.tokenizer, [bare])[0]) - self.llm.count_tokens(bare.text())
        self.room = limit - self.max_answer - max(frame, 0) - SLACK

    # ---- reading

    def read(self, outputs: Outputs, batch: Batch, rows: Sequence[int] | None = None) -> list[Reading]:
        """What the language model is told of the rows (all by default): from what was seen, never from a label."""
        found, rows = [], list(range(len(batch)) if rows is None else rows)
        said = [{}] * len(rows) if self.decoder is None else self.decoder.write(outputs, rows)
        weights, flags = self._weights(outputs), outputs.present.tolist()
        sure = None if outputs.confidence is None else outputs.confidence.tolist()
        match = None if outputs.sync_logit is None else outputs.sync_logit.float().sigmoid().tolist()
        for b, words in zip(rows, said, strict=True):
            present = {e for e, here in zip(outputs.experts, flags[b], strict=True) if here}
            inferred = {} if sure is None else {e: c for e, c in zip(outputs.experts, sure[b], strict=True) if c < 1}
            view = ClipView.of(batch.samples[b], batch.measures[b])
            if "text" not in present:  # a modality that is withheld must not come in by the prompt
                view = replace(view, text=None, turns=())
            synergy = None if match is None else match[b]
            items = self.evidence.write(view, weights[b], present, inferred, synergy, words)
            real = slice(None) if outputs.context_mask is None else outputs.context_mask[b]
            found.append(Reading(view, items, outputs.context[b][real]))
        return found

    def _weights(self, outputs: Outputs) -> list[dict[str, float]]:
        """Expert -> weight of every row: attention per segment [B, U], or gate [B, E]."""
        gate = outputs.present.float() if outputs.gate is None else outputs.gate
        even = [dict(zip(outputs.experts, row, strict=True)) for row in gate.tolist()]
        table = {"kbank_sum": outputs.importance, "kbank_density": outputs.density, "gate": None}[self.importance]
        if table is None:
            return even
        names = [name for name, _, _ in outputs.segments]
        rows = [dict(zip(names, row, strict=True)) for row in table.tolist()]
        return [
            {**dict.fromkeys(own, 0.0), SYNERGY: own.get(SYNERGY, 0.0), **row}
            for row, own in zip(rows, even, strict=True)
        ]

    def _ask(self, reading: Reading, mode: Mode) -> tuple[Prompt, list[EvidenceItem]]:
        """The prompt about a clip, within its budget, and the evidence that stayed in it."""
        prompt = self.prompt.build(reading.view, reading.evidence, mode, self.classes)
        budget = min(self.max_prompt, self.room - len(reading.context))
        prompt, dropped = fit(prompt, self.llm.count_tokens, budget)
        return prompt, dropped.kept(reading.evidence)

    # ---- the three uses

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross entropy of two answers per labelled clip: with its reasons, and the label alone as it is scored."""
        label = batch.labels[self.task]
        rows = label.mask.nonzero().flatten().tolist()
        readings = dict(zip(rows, self.read(outputs, batch, rows), strict=True))
        if self.training and self.context_dropout:
            heard = torch.rand(len(rows)) >= self.context_dropout
            readings = {
                b: r if keep else r._replace(context=r.context[:0])
                for (b, r), keep in zip(readings.items(), heard.tolist(), strict=True)
            }
        reasoned = [b for b in rows if self.answers.mode_for(batch.samples[b].descriptions) != "label"]
        asked = [(self.mode, b) for b in reasoned] + [("label", b) for b in rows if self.label_weight]
        prompts, answers = [], []
        for mode, b in asked:
            prompt, kept = self._ask(readings[b], mode)
            prompts.append(prompt)
            gold = self.classes[int(label.value[b])]
            answers.append(self.answers.target(gold, kept, batch.samples[b].descriptions, prompt.keys))
        if not asked:
            return self.llm.loss([], [], [])
        total, size = self.llm.row_losses(
            [readings[b].context for _, b in asked], prompts, answers, [b for _, b in asked]
        )
        first = slice(0, len(reasoned)), slice(len(reasoned), None)
        means = [total[part].sum() / size[part].sum().clamp(min=1e-9) for part in first]
        return means[0] + self.label_weight * means[1]

    def score(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean log-probability of every class as the label answer, [B, K]; `llm.probabilities` makes it confidence."""
        readings = self.read(outputs, batch)
        prompts = [self._ask(r, "label")[0] for r in readings]
        candidates = [self.answers.scoring_answer(c) for c in self.classes]
        return self.llm.score([r.context for r in readings], prompts, candidates)

    def answer(
        self, outputs: Outputs, batch: Batch, probability: Tensor | None = None, rows: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Written answers in builtins, as `reasoning.report.render` reads them.

        Args:
            outputs: of the batch.
            batch: B rows.
            probability: [B, K] of the classes; None = scored here.
            rows: which are answered; None = all.

        Returns:
            Per row: id, label, confidence and scores (class -> probability) by scoring; text, status, generated (the
            label in it, None if it has none) and answer (its fields) by generation; evidence, inferred, gate.
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
