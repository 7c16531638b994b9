"""LLMHead: a causal language model that reads context tokens and evidence, and writes an explanation and a label.

Data flow: context [O, d] --LayerNorm, Linear--> soft tokens --(replace the placeholder in the prompt)--> embeddings
--language model--> loss on answers | scores of a label set | generated text | hidden states. All four uses build
their embeddings in `_splice`, from the same prompt ids.

Shapes: B rows, O context tokens, d model width, d_llm width of the language model, L positions, V vocabulary,
A positions with a label, K candidate answers, S tokens they are scored on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hero_lightning.errors import ConfigError, one_of
from hero_lightning.hub import DTYPES, Lora
from hero_lightning.models.llm import pretrained, scoring, splice
from hero_lightning.models.llm.small_lm import SmallLM
from hero_lightning.models.llm.splice import Row
from hero_lightning.reasoning.answer_targets import token_weights
from hero_lightning.types import pad

if TYPE_CHECKING:
    from hero_lightning.reasoning.answer_targets import TargetAnswer
    from hero_lightning.reasoning.prompts import Prompt

Context = Tensor | Sequence[Tensor] | None
"""[B, O, d]; or B tensors [O_b, d]; or None = prompts without soft tokens."""

IGNORED = -100
"""Label of positions without a loss."""


class LLMHead(nn.Module):
    """A causal language model as a head. The constructor only checks values; `load` reads the model.

    Args:
        d: width of the context tokens.
        name: hub id or local folder of a causal language model.
        small: sizes of a small one, built from the train split's texts; instead of `name`.
        lora: low-rank updates; None = all weights of the language model are trained (unless `frozen`).
        frozen: only the projector is trained.
        dtype: of the language model; auto = bfloat16 on CUDA unless all of it trains, else float32.
        quantization: none, nf4 (QLoRA) or int8; CUDA only.
        gradient_checkpointing: recomputes activations in the backward pass instead of keeping them.
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
        if dtype == "auto":  # AdamW needs float32 weights; precision bf16-mixed computes in bfloat16 all the same
            dtype = "bfloat16" if torch.cuda.is_available() and (lora is not None or frozen) else "float32"
        self.dtype = dtype
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
                raise ConfigError("The small LM needs a folder.", expected="a folder", got="none", where="llm.small")
            name = str(self.small.build(texts, folder))
        assert name is not None
        self.use(*pretrained.read(name, dtype=self.dtype, quantization=self.quantization, revision=self.revision))

    def use(self, lm: Any, tokenizer: Any) -> None:
        """Uses a language model that is already in memory: prepares its tokenizer, adapters and projector."""
        from transformers import GenerationConfig

        table = lm.get_input_embeddings().weight  # [V, d_llm]
        splice.prepare(tokenizer, len(table), where=f"llm.name={self.name}")
        self.tokenizer, self.lm, self.d_llm = tokenizer, lm, table.shape[1]
        ends = lm.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        # The settings in a model's files are for chats (sampling, penalties); answers are greedy.
        lm.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        if self.frozen:
            lm.requires_grad_(False)
        if self.lora is not None:
            if self.quantization != "none":
                from peft import prepare_model_for_kbit_training

                lm = prepare_model_for_kbit_training(lm, use_gradient_checkpointing=False)
            self.lora.add(lm, "llm.lora")
        if self.gradient_checkpointing:
            lm.activation_checkpointing_enable({"use_reentrant": False})
        linear = nn.Linear(self.d, self.d_llm)
        # Soft tokens start at the scale of word embeddings: LayerNorm's output has variance 1 in each of d dimensions.
        nn.init.normal_(linear.weight, std=float(table.detach().float().std()) / self.d**0.5)
        nn.init.zeros_(linear.bias)
        self.projector = nn.Sequential(nn.LayerNorm(self.d), linear).to(table.device)
        self.train(self.training)  # models are loaded in eval mode, which disables LoRA's dropout and checkpointing

    def train(self, mode: bool = True) -> LLMHead:
        """Sets the mode; a frozen language model stays in eval mode."""
        super().train(mode)
        # Checkpointing works in train mode only; current language models have no dropout of their own.
        if self.frozen and self.lm is not None and not self.gradient_checkpointing:
            self.lm.eval()
        return self

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text, as `reasoning.prompts.fit` compares it with its budget."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def embed(
        self, prompts: Sequence[Prompt], context: Context = None, answers: Sequence[str] | None = None
    ) -> list[Row]:
        """The inputs of the language model, per sample.

        Args:
            prompts: B prompts.
            context: see `Context`.
            answers: B answers; each is followed by EOS. None = rows end where the answer begins.

        Raises:
            DataError: a prompt without exactly one placeholder, or longer than the model can read.
        """
        if answers is None:
            return self._splice(prompts, [[]] * len(prompts), context)
        tails = [[*ids, self.tokenizer.eos_token_id] for ids in self._code(answers)["input_ids"]]
        return self._splice(prompts, tails, context, ends=True)

    def loss(self, context: Context, prompts: Sequence[Prompt], answers: Sequence[TargetAnswer]) -> Tensor:
        """Weighted cross entropy of the answers' tokens and their EOS: sum(w * ce) / sum(w).

        Args:
            context: see `Context`.
            prompts: B prompts.
            answers: B answers with weighted character spans.

        Returns:
            Scalar; without any row a zero that depends on every parameter, as DDP needs.
        """
        if not prompts:
            return sum((p.sum() * 0 for p in self.parameters() if p.requires_grad), torch.zeros(()))
        total, weight = self.row_losses(context, prompts, answers, range(len(prompts)))
        return total.sum() / weight.sum()

    def row_losses(
        self, context: Context, prompts: Sequence[Prompt], answers: Sequence[TargetAnswer], clips: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Sums of w * ce and of w, [B] each.

        Args:
            context: see `Context`.
            prompts: B prompts, at least one.
            answers: B answers.
            clips: the clip of each of the B rows. Two questions about a clip share most of their prompt; the shared
                part is read once, as in `score`.
        """
        rows = self.embed(prompts, context, [a.text for a in answers])
        labels, weights = self.labels(rows, answers)
        ids = [row.ids for row in rows]
        bundles = scoring.bundle(ids, [row.segments["answer"][0] for row in rows], clips)
        cuts = [b.cuts(ids) for b in bundles]
        x, real = pad([torch.cat([rows[k].embeds[c] for k, c in own]) for own in cuts])  # [P, N, d_llm], padding right
        label, weight, owner = (
            pad([torch.cat([table[k][c] for k, c in own]) for own in cuts], blank)[0].to(x.device)
            for table, blank in (
                (labels, IGNORED),
                (weights, 0),
                ([torch.full_like(v, k) for k, v in enumerate(labels)], 0),
            )
        )  # each [P, N]
        mask, position = real.to(x.device), None
        if len(bundles) < len(rows):
            branch, position = scoring.lay(bundles, ids, x.device)
            mask = scoring.attention_masks(self.lm.config, scoring.tree_mask(branch), position, x.dtype)
        counted = label[:, 1:] != IGNORED  # the tokens at a fork belong to prompts
        logits = self._logits(self._hidden(x, mask, position)[:, :-1][counted])  # [A, V] of the next token
        weight, owner = weight[:, 1:][counted], owner[:, 1:][counted]
        entropy = F.cross_entropy(logits, label[:, 1:][counted], reduction="none")
        blank = entropy.new_zeros(len(rows))
        return blank.index_add(0, owner, weight * entropy), blank.index_add(0, owner, weight)

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

        A candidate is a complete answer, `{"final_emotion": "happy"}`: without the closing quote "happy" would
        include the probability of "happy-sad". The prefix that all candidates share (the JSON key) is not scored; the
        score is the mean log p of the tokens after it.

        Args:
            context: see `Context`.
            prompts: B prompts.
            candidates: K answers; or K for each of the B rows (the label after a generated rationale).

        Returns:
            [B, K] float32; `probabilities` converts it to confidence.
        """
        lists: Any = [candidates] if isinstance(candidates[0], str) else candidates
        trees = [scoring.build_tree(self._code(own)["input_ids"]) for own in lists]
        trees *= len(prompts) // len(trees)  # one list serves all rows
        with self._inference():
            rows = self._splice(prompts, [t.ids for t in trees], context)
            x, _ = splice.pad_right(rows)  # [B, N, d_llm]
            branch, position = scoring.pack(trees, [row.segments["answer"][0] for row in rows], x.device)
            masks = scoring.attention_masks(self.lm.config, scoring.tree_mask(branch), position, x.dtype)
            row, place, owner = scoring.scored(branch)
            token = torch.tensor([i for t in trees for i, own in zip(t.ids, t.branch, strict=True) if own]).to(x.device)
            logits = self._logits(self._hidden(x, masks, position)[row, place])  # [S, V]
            return scoring.mean_log_p(logits, token, row, owner, len(trees))

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores [B, K] -> probabilities [B, K] at the calibrated temperature (1 until `calibrate`)."""
        return (scores / self.temperature).softmax(dim=-1)

    def calibrate(self, scores: Tensor, truth: Tensor) -> None:
        """Fits the temperature on scores [N, K] and class indices [N] of the validation split; kept in checkpoints."""
        self.temperature.fill_(scoring.fit_temperature(scores, truth))

    def generate(self, context: Context, prompts: Sequence[Prompt], max_new_tokens: int = 256) -> list[str]:
        """Answers of B prompts, greedy, in one left-padded batch.

        Args:
            context: see `Context`.
            prompts: B prompts.
            max_new_tokens: longer answers are cut.
        """
        with self._inference():
            x, real = splice.pad_left(self.embed(prompts, context))
            ids = self.lm.generate(inputs_embeds=x, attention_mask=real.long(), max_new_tokens=max_new_tokens)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def extract(
        self, context: Context, prompts: Sequence[Prompt], answers: Sequence[str] | None = None
    ) -> list[tuple[Tensor, dict[str, splice.Span]]]:
        """Last-layer hidden states [L, d_llm] of every row, with the spans of its segments; answers default to ''."""
        with self._inference():
            rows = self.embed(prompts, context, answers or [""] * len(prompts))
            hidden = self._hidden(*splice.pad_right(rows))
            return [(h[: len(row.embeds)], row.segments) for h, row in zip(hidden, rows, strict=True)]

    def _code(self, answers: Sequence[str]) -> Any:
        # Tokenized apart from the prompt, so that train, score and generate agree on the first token of an answer.
        return self.tokenizer(list(answers), add_special_tokens=False, return_offsets_mapping=True)

    def _splice(
        self, prompts: Sequence[Prompt], tails: Sequence[list[int]], context: Context, ends: bool = False
    ) -> list[Row]:
        soft, table = self._soft(context, len(prompts)), self.lm.get_input_embeddings()
        limit = getattr(self.lm.config, "max_position_embeddings", None)
        ids = splice.prompt_ids(self.tokenizer, prompts)
        laid = splice.lay_out(self.tokenizer, ids, tails, [len(v) for v in soft], ends, limit)
        flat, places = (torch.tensor(i, dtype=torch.long, device=table.weight.device) for i in (laid.ids, laid.places))
        words = table(flat)  # [sum L, d_llm]
        words = words.index_put((places,), torch.cat(soft).to(words.dtype))
        lengths = [s["eos"][1] for s in laid.segments]
        parts = zip(words.split(lengths), laid.segments, accumulate(lengths), strict=True)
        return [Row(e, s, laid.ids[end - len(e) : end]) for e, s, end in parts]

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
        body = self.lm.base_model
        return body(inputs_embeds=x, attention_mask=mask, position_ids=position, use_cache=False).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        # [A, d_llm] -> [A, V] float32, with the rescaling that some model families apply to logits
        config = self.lm.config
        logits = self.lm.get_output_embeddings()(hidden).float()
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scale
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @contextmanager
    def _inference(self) -> Iterator[None]:
        # Without dropout and gradients; in train mode with checkpointing, generation would have no cache.
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)


def _check(
    name: str | None, small: SmallLM | None, lora: Lora | None, frozen: bool, dtype: str, quantization: str
) -> None:
    one_of("llm.dtype", dtype, ("auto", *DTYPES))
    one_of("llm.quantization", quantization, pretrained.QUANTIZATIONS)
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
    if quantization != "none" and lora is None and not frozen:
        raise ConfigError(
            "Quantised weights cannot be trained themselves.",
            expected="llm.lora set, or llm.frozen=true",
            got="neither",
            where=f"llm.quantization={quantization}",
        )
