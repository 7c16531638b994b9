"""LLMHead: a causal language model that reads context tokens and evidence, explains, and names the label.

Data flow: context [O, d] --LayerNorm, Linear--> soft tokens --(in place of the prompt's one placeholder)--> embeddings
--language model--> loss on answers | scores of a label set | generated text | hidden states. All four uses make their
embeddings in `_splice`, from the same prompt ids.

Shapes: B rows, O context tokens, d model width, d_llm width of the language model, L positions, V vocabulary,
A positions with a label, K candidate answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hero_lightning.data.types import pad
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.model import causal_lm, scoring, splice
from hero_lightning.model.causal_lm import Lora
from hero_lightning.model.small_lm import SmallLM
from hero_lightning.model.splice import Row
from hero_lightning.reasoning.targets_text import token_weights

if TYPE_CHECKING:
    from hero_lightning.reasoning.prompts import Prompt
    from hero_lightning.reasoning.targets_text import TargetAnswer

Context = Tensor | Sequence[Tensor] | None
"""[B, O, d]; or B tensors [O_b, d]; or None: the prompts are read without soft tokens."""

IGNORED = -100
"""Label of positions that do not count."""


class LLMHead(nn.Module):
    """Any causal language model as a head. The constructor only checks values; `load` reads the model.

    Args:
        d: width of the context tokens.
        name: hub id or local folder of a causal language model.
        small: sizes of a small one, built from the train split's texts; instead of `name`.
        lora: low-rank updates; None = all weights of the language model train (unless `frozen`).
        frozen: no weight of the language model trains, only the projector.
        dtype: of the language model; auto = bfloat16 on CUDA unless all of it trains, else float32.
        quantization: none, nf4 (QLoRA) or int8; CUDA only.
        gradient_checkpointing: computes activations again in the backward pass instead of keeping them.
        revision: branch, tag or commit of `name` on the hub.
    """

    temperature: Tensor

    def __init__(
        self,
        d: int,
        name: str | None = None,
        small: SmallLM | None = None,
        lora: Lora | None = None,
        frozen: bool = False,
        dtype: str = "auto",
        quantization: str = "none",
        gradient_checkpointing: bool = False,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        _check(name, small, lora, frozen, dtype, quantization)
        self.d, self.name, self.small, self.lora, self.frozen = d, name, small, lora, frozen
        self.quantization, self.gradient_checkpointing, self.revision = quantization, gradient_checkpointing, revision
        trains_all = lora is None and not frozen
        if dtype == "auto":  # AdamW needs float32 weights; under bf16-mixed they are computed with in bf16 all the same
            dtype = "bfloat16" if torch.cuda.is_available() and not trains_all else "float32"
        self.dtype = causal_lm.DTYPES[dtype]
        self.d_llm = 0  # known after `load`
        self.lm: Any = None
        self.tokenizer: Any = None
        self.projector: nn.Module | None = None
        self.register_buffer("temperature", torch.ones(()))

    def load(self, texts: Iterable[str] = (), folder: Path | None = None) -> None:
        """Reads the language model; a small one is built first.

        Args:
            texts: prompts and answers of the train split; only a small model that is not built yet reads them.
            folder: where the small model is kept (in the run folder).

        Raises:
            ConfigError: if the model cannot be read.
        """
        name = self.name
        if self.small is not None:
            if folder is None:
                raise ConfigError("A small LM needs a folder to live in.", expected="a folder", got="none", where="llm.small")
            name = str(self.small.build(texts, folder))
        assert name is not None
        self.use(*causal_lm.read(name, dtype=self.dtype, quantization=self.quantization, revision=self.revision))

    def use(self, lm: Any, tokenizer: Any) -> None:
        """Takes a language model that is already in memory: prepares its tokenizer, adapters and projector."""
        from transformers import GenerationConfig

        table = lm.get_input_embeddings().weight  # [V, d_llm]
        self.placeholder = splice.prepare(tokenizer, len(table), where=f"llm.name={self.name}")
        self.tokenizer, self.lm, self.d_llm = tokenizer, lm, table.shape[1]
        ends = lm.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        # A model's own file asks for sampling and penalties made for chats; ours is greedy.
        lm.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
        )
        if self.frozen:
            lm.requires_grad_(False)
        if self.lora is not None:
            if self.quantization != "none":
                from peft import prepare_model_for_kbit_training

                lm = prepare_model_for_kbit_training(lm, use_gradient_checkpointing=False)
            self.lora.apply(lm)
        if self.gradient_checkpointing:
            lm.activation_checkpointing_enable({"use_reentrant": False})
        linear = nn.Linear(self.d, self.d_llm)
        # Soft tokens start at the size of word embeddings: LayerNorm's output has variance 1 in each of d places.
        nn.init.normal_(linear.weight, std=float(table.detach().float().std()) / self.d**0.5)
        nn.init.zeros_(linear.bias)
        self.projector = nn.Sequential(nn.LayerNorm(self.d), linear).to(table.device)

    def train(self, mode: bool = True) -> LLMHead:
        """A frozen language model stays in eval mode (with checkpointing it must not: that works in train mode only)."""
        super().train(mode)
        if self.frozen and self.lm is not None and not self.gradient_checkpointing:
            self.lm.eval()
        return self

    def count_tokens(self, text: str) -> int:
        """Tokens of a text; what `reasoning.prompts.fit` holds against its budget."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def embed(self, prompts: Sequence[Prompt], context: Context = None, answers: Sequence[str] | None = None) -> list[Row]:
        """What the language model reads, sample by sample.

        Args:
            prompts: B prompts.
            context: see `Context`.
            answers: B answers; each is followed by EOS. None = rows end where the answer begins.

        Raises:
            DataError: prompt without its one placeholder, or longer than the model can read.
        """
        ids = [] if answers is None else self._code(answers)["input_ids"]
        tails = [[]] * len(prompts) if answers is None else [[*i, self.tokenizer.eos_token_id] for i in ids]
        return self._splice(splice.prompt_ids(self.tokenizer, prompts), tails, context, ends=answers is not None)

    def loss(
        self,
        context: Context,
        prompts: Sequence[Prompt],
        answers: Sequence[TargetAnswer],
        sample_weight: Sequence[float] | None = None,
    ) -> Tensor:
        """Weighted cross entropy of the answers' tokens and their EOS: sum(w * ce) / sum(w).

        Args:
            context: see `Context`.
            prompts: B prompts.
            answers: B answers with weighted character spans.
            sample_weight: B factors (class weights, counterfactuals). They scale the sum but not what it is divided
                by: divided by themselves they would cancel in a batch of one class.

        Returns:
            Scalar.
        """
        rows = self.embed(prompts, context, [a.text for a in answers])
        x, real = _padded(rows)  # [B, L, d_llm], padding right
        labels, weights = self.labels(rows, answers)
        if sample_weight is not None:
            scale = torch.tensor(sample_weight, device=x.device)[:, None].expand_as(weights)[:, 1:]
        labels, weights = labels.to(x.device)[:, 1:], weights.to(x.device)[:, 1:]
        counted = labels != IGNORED
        logits = self._logits(self._hidden(x, real)[:, :-1][counted])  # [A, V]: a place predicts its successor
        entropy = F.cross_entropy(logits, labels[counted], reduction="none")
        weight = weights[counted]
        share = weight if sample_weight is None else weight * scale[counted]
        return (share * entropy).sum() / weight.sum()

    def labels(self, rows: Sequence[Row], answers: Sequence[TargetAnswer]) -> tuple[Tensor, Tensor]:
        """Labels [B, L] (IGNORED outside answer and EOS) and token weights [B, L] of rows with answers."""
        coded = self._code([a.text for a in answers])
        labels, weights = [], []
        for row, answer, ids, offsets in zip(rows, answers, coded["input_ids"], coded["offset_mapping"], strict=True):
            blank = row.segments["answer"][0]
            labels.append(torch.tensor([*[IGNORED] * blank, *ids, self.tokenizer.eos_token_id]))
            token_weight = [float(w) for w in token_weights(answer.spans, offsets)]
            weights.append(torch.tensor([*[0.0] * blank, *token_weight, 1.0]))
        return pad(labels, IGNORED)[0], pad(weights)[0]

    def score(
        self, context: Context, prompts: Sequence[Prompt], candidates: Sequence[str] | Sequence[Sequence[str]]
    ) -> Tensor:
        """Length-normalised log-probability of every candidate answer, all of them in one pass.

        A candidate is a whole answer with the label closed, `{"final_emotion": "happy"}`: without the closing quote
        "happy" would also collect the probability of "happy-sad". What all candidates share (the JSON key) is read
        but not scored; the score is the mean log p of the tokens after it.

        Args:
            context: see `Context`.
            prompts: B prompts.
            candidates: K answers; or K for each of the B rows (the label after a generated rationale).

        Returns:
            [B, K] float32; `probabilities` turns it into confidence.
        """
        own = not isinstance(candidates[0], str)
        lists: Any = candidates if own else [candidates]
        trees = [scoring.build_tree(self._code(c)["input_ids"]) for c in lists]
        trees = trees if own else trees * len(prompts)
        with self._inference():
            ids = splice.prompt_ids(self.tokenizer, prompts)
            rows = self._splice(ids, [t.ids for t in trees], context)
            x, _ = _padded(rows)  # [B, N, d_llm]
            branch = torch.full(x.shape[:2], scoring.PADDING)
            position = torch.zeros(x.shape[:2], dtype=torch.long)
            for b, (row, tree) in enumerate(zip(rows, trees, strict=True)):
                start, end = row.segments["answer"]
                branch[b, :end] = torch.tensor([0] * start + tree.branch)
                position[b, :end] = torch.tensor([*range(start), *(start + i for i in tree.depth)])
            branch, position = branch.to(x.device), position.to(x.device)
            masks = scoring.attention_masks(self.lm.config, scoring.tree_mask(branch), position, x.dtype)
            hidden = self._hidden(x, masks, position)
            starts = [row.segments["answer"][0] for row in rows]
            batch = [b for b, t in enumerate(trees) for _ in t.places]
            place = [starts[b] + i for b, t in enumerate(trees) for i in t.places]
            logits = self._logits(hidden[batch, place])  # [sum of places, V]
            sizes = [len(t.places) for t in trees]
            step = torch.tensor([sum(sizes[:b]) + s for b, t in enumerate(trees) for s in t.step], device=x.device)
            token = torch.tensor([i for t in trees for i in t.token], device=x.device)
            log_p = logits[step, token] - logits.logsumexp(dim=-1)[step]
            count = max(max(t.owner) for t in trees) + 1
            owner = torch.tensor([b * count + k for b, t in enumerate(trees) for k in t.owner], device=x.device)
            total = log_p.new_zeros(len(trees) * count).index_add_(0, owner, log_p)
            return (total / owner.bincount(minlength=len(total))).view(len(trees), count)  # [B, K]

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores [B, K] -> probabilities [B, K] at the calibrated temperature (1 until `calibrate`)."""
        return (scores / self.temperature).softmax(dim=-1)

    def calibrate(self, scores: Tensor, truth: Tensor) -> None:
        """Fits the temperature on scores [N, K] and class indices [N] of the validation split; kept in checkpoints."""
        self.temperature.fill_(scoring.fit_temperature(scores, truth))

    def generate(
        self,
        context: Context,
        prompts: Sequence[Prompt],
        max_new_tokens: int = 256,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Answers of B prompts, greedy, in one left-padded batch.

        Args:
            context: see `Context`.
            prompts: B prompts.
            max_new_tokens: an answer that is longer is cut.
            schema: JSON schema that answers must follow (extra `json`); None = free.
        """
        processors = []
        if schema is not None:
            from hero_lightning.model.constrained import JsonConstraint

            processors.append(JsonConstraint(schema, self.tokenizer))
        with self._inference():
            x, real = splice.pad_left([row.embeds for row in self.embed(prompts, context)])
            ids = self.lm.generate(
                inputs_embeds=x, attention_mask=real.long(), max_new_tokens=max_new_tokens, logits_processor=processors
            )
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def extract(
        self, context: Context, prompts: Sequence[Prompt], answers: Sequence[str] | None = None
    ) -> list[tuple[Tensor, dict[str, splice.Span]]]:
        """Last-layer hidden states [L, d_llm] of every row, with the spans of its segments; answers default to ''."""
        with self._inference():
            rows = self.embed(prompts, context, answers or [""] * len(prompts))
            hidden = self._hidden(*_padded(rows))
            return [(h[: len(row.embeds)], row.segments) for h, row in zip(hidden, rows, strict=True)]

    def _code(self, answers: Sequence[str]) -> Any:
        # coded apart from the prompt, so that train, score and generate agree on the first token of an answer
        return self.tokenizer(list(answers), add_special_tokens=False, return_offsets_mapping=True)

    def _splice(self, prompts: list[list[int]], tails: list[list[int]], context: Context, ends: bool = False) -> list[Row]:
        device = self.lm.get_input_embeddings().weight.device
        soft = self._soft(context, len(prompts))
        flat: list[int] = []
        places: list[int] = []
        spans: list[dict[str, splice.Span]] = []
        for b, (prompt, tail, vectors) in enumerate(zip(prompts, tails, soft, strict=True)):
            found = prompt.count(self.placeholder)
            if found > 1 or (len(vectors) and not found):
                raise DataError(
                    "A prompt must hold the context placeholder exactly once.",
                    expected=1,
                    got=found,
                    where=f"prompt {b} of the batch: {self.tokenizer.decode(prompt)[:80]!r}",
                    mend="build prompts with hero_lightning.reasoning, which escapes it in transcripts",
                )
            gap = prompt.index(self.placeholder) if found else len(prompt)
            ids = [*prompt[:gap], *[self.tokenizer.pad_token_id] * len(vectors), *prompt[gap + 1 :], *tail]
            limit = getattr(self.lm.config, "max_position_embeddings", None) or len(ids)
            if len(ids) > limit:
                raise DataError(
                    "A prompt with its answer is longer than the language model can read.",
                    expected=f"at most {limit} tokens",
                    got=len(ids),
                    where=f"prompt {b} of the batch",
                    mend="lower the prompt's token budget, or the context tokens",
                )
            places += range(len(flat) + gap, len(flat) + gap + len(vectors))
            flat += ids
            bos = int(prompt[:1] == [self.tokenizer.bos_token_id])
            cuts = [0, bos, gap, gap + len(vectors), len(ids) - len(tail), len(ids) - int(ends), len(ids)]
            names = ("bos", "text", "context", "tail", "answer", "eos")
            spans.append(dict(zip(names, zip(cuts, cuts[1:], strict=False), strict=True)))
        words = self.lm.get_input_embeddings()(torch.tensor(flat, dtype=torch.long, device=device))  # [sum L, d_llm]
        words = words.index_put((torch.tensor(places, dtype=torch.long, device=device),), torch.cat(soft).to(words.dtype))
        return [Row(e, s) for e, s in zip(words.split([s["eos"][1] for s in spans]), spans, strict=True)]

    def _soft(self, context: Context, rows: int) -> list[Tensor]:
        # context rows [O_b, d] -> soft tokens [O_b, d_llm], projected together
        assert self.projector is not None, "call load() first"
        table = self.lm.get_input_embeddings().weight
        if context is None:
            return [table.new_zeros(0, self.d_llm)] * rows
        vectors = self.projector(torch.cat(list(context)).to(table.device, torch.float32))
        return list(vectors.split([len(c) for c in context]))

    def _hidden(self, x: Tensor, mask: Any, position: Tensor | None = None) -> Tensor:
        # [B, L, d_llm] -> the same, without logits; a 2-D mask is for right padding
        return self.lm.base_model(inputs_embeds=x, attention_mask=mask, position_ids=position, use_cache=False).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        # [A, d_llm] -> [A, V] float32, with the rescaling some families do after the matrix
        config = self.lm.config
        logits = self.lm.get_output_embeddings()(hidden).float()
        logits = logits * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @contextmanager
    def _inference(self) -> Iterator[None]:
        # no dropout, no gradients, and a cache: generation in train mode has none under checkpointing
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)


def _padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    x, mask = pad([row.embeds for row in rows])
    return x, mask.to(x.device)


def _check(name: str | None, small: SmallLM | None, lora: Lora | None, frozen: bool, dtype: str, quantization: str) -> None:
    if (name is None) == (small is None):
        got = "neither" if name is None else "both"
        raise ConfigError("One language model is needed.", expected="llm.name or llm.small", got=got, where="llm")
    if frozen and lora is not None:
        raise ConfigError(
            "A frozen language model has no LoRA to train.",
            expected="llm.frozen=false, or llm.lora=null",
            got="both",
            where="llm.frozen",
        )
    for key, value, known in (
        ("dtype", dtype, ("auto", *causal_lm.DTYPES)),
        ("quantization", quantization, causal_lm.QUANTIZATIONS),
    ):
        if value not in known:
            raise ConfigError(f"Unknown {key} of the language model.", expected=", ".join(known), got=value, where=f"llm.{key}")
    if quantization != "none" and lora is None and not frozen:
        raise ConfigError(
            "Quantised weights cannot be trained themselves.",
            expected="llm.lora set, or llm.frozen=true",
            got="neither",
            where=f"llm.quantization={quantization}",
        )
