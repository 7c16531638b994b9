"""EvidenceDecoder: a small encoder-decoder, shared by all experts, that describes the input of an expert in a sentence.

Data flow: an expert's tokens and summary + the task token of its modality -> T5 -> a sentence. It is trained on the
descriptions of a dataset and reads features only, so its sentences may stand in a prompt (docs/hero.md).

Shapes: B rows, E experts, Q query tokens, d model width, h width of the T5, P (row, modality) pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError, in_range
from hero_lightning.hub import Pretrained
from hero_lightning.models.llm.small_lm import learn_bpe
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import Batch

PAD, END = "<pad>", "</s>"


class EvidenceDecoder(nn.Module):
    """Writes evidence from features. `prepare` (a new run) or `restore` builds the network.

    Args:
        width: d of the experts.
        name: hub id or folder of a T5; None = a small one with the sizes below, trained from scratch.
        layers: of encoder and decoder.
        num_heads: attention heads.
        hidden: h.
        vocab: largest number of entries of the tokenizer, which is trained on the train split's descriptions.
        max_len: most tokens of a sentence.
        weight: of the loss term `evidence`.
    """

    def __init__(
        self,
        width: int,
        name: str | None = None,
        layers: int = 2,
        num_heads: int = 4,
        hidden: int = 128,
        vocab: int = 1000,
        max_len: int = 32,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range("reasoner.decoder.layers", layers, "[1, inf)")
        in_range("reasoner.decoder.vocab", vocab, "[300, inf)")
        in_range("reasoner.decoder.max_len", max_len, "[2, inf)")
        if hidden % num_heads:
            raise ConfigError(
                "The evidence decoder's width must divide into heads.",
                expected=f"a multiple of num_heads={num_heads}",
                got=hidden,
                where="reasoner.decoder.hidden",
            )
        self.width, self.name, self.vocab, self.max_len, self.weight = width, name, vocab, max_len, float(weight)
        self.sizes: dict[str, Any] = {"d_model": hidden, "d_kv": hidden // num_heads, "num_heads": num_heads}
        self.sizes |= {"d_ff": 4 * hidden, "num_layers": layers, "num_decoder_layers": layers}
        self.modalities: tuple[str, ...] = ()
        self.t5: Any = None
        self.tokenizer: Any = None

    def prepare(self, descriptions: Mapping[str, Sequence[str]]) -> None:
        """Trains the tokenizer and builds the network.

        Args:
            descriptions: modality -> its descriptions in the train split only.

        Raises:
            ConfigError: no modality is described.
        """
        self.modalities = tuple(s for s, texts in descriptions.items() if texts)
        if not self.modalities:
            raise ConfigError(
                "An evidence decoder has nothing to learn from.",
                expected="descriptions per modality in the train split",
                got="none",
                where="reasoner.decoder",
                hint="evidence_decoder=none (evidence is then written by rules from measures)",
            )
        if self.name is None:
            texts = (text for texts in descriptions.values() for text in texts)
            self._build(_wrapped(learn_bpe(texts, self.vocab, [PAD, END])))
        else:
            self._read(self.name)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Builds the network from `state`; the caller loads the trained weights afterwards."""
        from tokenizers import Tokenizer

        self.modalities = tuple(state["modalities"])
        if self.name is None:
            self._build(_wrapped(Tokenizer.from_str(state["tokenizer"])))
        else:
            self._read(self.name)

    def state(self) -> dict[str, Any]:
        """The arguments of `restore`, as builtins."""
        words = self.tokenizer.backend_tokenizer.to_str() if self.name is None else None
        return {"modalities": list(self.modalities), "tokenizer": words}

    def _build(self, tokenizer: Any) -> None:
        from transformers import T5Config, T5ForConditionalGeneration

        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        ids: dict[str, Any] = {"pad_token_id": pad, "eos_token_id": end, "decoder_start_token_id": pad}
        config = T5Config(vocab_size=len(tokenizer), **self.sizes, **ids)
        self._take(T5ForConditionalGeneration(config), tokenizer)

    def _read(self, name: str) -> None:
        source = Pretrained(name, "reasoner.decoder.name", instead="evidence_decoder=transformer")
        self._take(source.network("T5ForConditionalGeneration", "float32"), source.tokenizer())

    def _take(self, t5: Any, tokenizer: Any) -> None:
        self.t5, self.tokenizer = t5, tokenizer
        hidden = t5.config.d_model
        self.task = nn.Embedding(len(self.modalities), hidden)
        self.project = nn.Linear(self.width, hidden)
        # T5 does not scale its inputs: its embeddings are initialised with standard deviation 1.
        nn.init.normal_(self.task.weight)

    def named_axes(self) -> Mapping[str, Mapping[int, Sequence[str]]]:
        """See `FusionModel.named_axes`: the vocabulary is that of the dataset."""
        if self.t5 is None:
            return {}
        rows = {n: len(p) for n, p in self.t5.named_parameters(prefix="t5", remove_duplicate=False)}
        words = [f"t5.{n}.weight" for n in ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")]
        tokens = {n: self.tokenizer.convert_ids_to_tokens(range(rows[n])) for n in words if n in rows}
        return {"task.weight": {0: self.modalities}, **{n: {0: own} for n, own in tokens.items()}}

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross entropy of the tokens of every description whose modality is present; scalar.

        Zero, with gradients for every parameter, if the batch has none.
        """
        described = {
            (b, modality): sample.descriptions[modality]
            for b, sample in enumerate(batch.samples)
            for modality, e in self._experts(outputs).items()
            if sample.descriptions.get(modality) and bool(outputs.present[b, e])
        }
        pairs, texts = list(described), list(described.values())
        if not pairs:
            return 0.0 * sum((p.sum() for p in self.parameters()), start=outputs.summaries.sum() * 0.0)
        target = self.tokenizer(
            [t + (END if self.name is None else "") for t in texts],
            padding=True, truncation=True, max_length=self.max_len, return_tensors="pt",
        )  # fmt: skip
        labels = target.input_ids.masked_fill(target.attention_mask == 0, -100).to(self.project.weight.device)
        memory, mask = self._memory(outputs, pairs)
        loss: Tensor = self.t5(inputs_embeds=memory, attention_mask=mask, labels=labels).loss
        return loss

    @torch.no_grad()
    def write(self, outputs: Outputs, rows: Iterable[int]) -> list[dict[str, str]]:
        """Modality -> sentence of every row, for present and imputed modalities; greedy."""
        rows, known = list(rows), outputs.present if outputs.imputed is None else outputs.present | outputs.imputed
        pairs = [(b, s) for b in rows for s, e in self._experts(outputs).items() if bool(known[b, e])]
        found: dict[int, dict[str, str]] = {b: {} for b in rows}
        if pairs:
            training = self.training
            self.eval()  # without dropout
            memory, mask = self._memory(outputs, pairs)
            ids = self.t5.generate(
                inputs_embeds=memory, attention_mask=mask, max_new_tokens=self.max_len, do_sample=False, num_beams=1
            )
            self.train(training)
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for (b, modality), text in zip(pairs, texts, strict=True):
                found[b][modality] = text.strip()
        return [found[b] for b in rows]

    def _experts(self, outputs: Outputs) -> dict[str, int]:
        """Described modalities that the model has -> index of their expert."""
        return {s: outputs.experts.index(s) for s in self.modalities if s in outputs.experts}

    def _memory(self, outputs: Outputs, pairs: Sequence[tuple[int, str]]) -> tuple[Tensor, Tensor]:
        """Task token, summary and tokens of every pair [P, 2 + Q, h], and their mask [P, 2 + Q].

        An imputed modality has a summary only.
        """
        rows, experts = [], self._experts(outputs)
        for b, modality in pairs:
            e = experts[modality]
            parts = [outputs.summaries[b, e][None]]
            if bool(outputs.present[b, e]):
                parts.append(outputs.tokens[modality][b])
            task = self.task.weight[self.modalities.index(modality)][None]
            rows.append(torch.cat([task, self.project(torch.cat(parts).to(self.project.weight.dtype))]))
        memory = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        length = torch.tensor([len(r) for r in rows], device=memory.device)
        return memory, (torch.arange(memory.shape[1], device=memory.device)[None] < length[:, None]).long()


def _wrapped(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
