"""LLMHead: splicing, embeddings, loss, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.hub import Lora
from hero_lightning.models.llm import splice
from hero_lightning.models.llm.head import IGNORED, LLMHead
from hero_lightning.reasoning.prompts import CONTEXT
from tests.models.llm.llm_helpers import D, answer, contexts, head, prompt, word_model, word_tokenizer

PROMPTS = [prompt("I am so glad."), prompt("Leave me alone!", "Now and for ever.")]
ANSWERS = [answer("happy"), answer("angry")]
CANDIDATES = [answer(label).text for label in ("happy", "happy-sad", "sad")]
WORDS = "Name the emotion. She says: one two Answer: system user happy"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLMHead:
    return head(tmp_path_factory.mktemp("lm"))


class Seen:
    """Keeps what the language model's body is given."""

    def __init__(self, llm: LLMHead) -> None:
        self.calls: list[dict[str, Any]] = []
        self.hook = llm.lm.base_model.register_forward_pre_hook(
            lambda _, args, kwargs: self.calls.append(kwargs), with_kwargs=True
        )


def test_train_score_generate_and_extract_read_the_same_embeddings(llm: LLMHead) -> None:
    soft = contexts(3, 5)
    rows = llm.embed(PROMPTS, soft)
    seen = Seen(llm)
    llm.loss(soft, PROMPTS, ANSWERS)
    llm.score(soft, PROMPTS, CANDIDATES)
    llm.generate(soft, PROMPTS, max_new_tokens=1)
    llm.extract(soft, PROMPTS)
    seen.hook.remove()
    assert len(seen.calls) == 4
    for use, call in enumerate(seen.calls):
        given = call["inputs_embeds"]
        for b, row in enumerate(rows):
            length = len(row.embeds)
            part = given[b, -length:] if use == 2 else given[b, :length]  # generation is padded on the left
            assert torch.equal(part, row.embeds), f"use {use}, row {b}"
    padding = seen.calls[2]["attention_mask"].bool().logical_not()
    assert padding[0].any()
    assert not padding[1].any()


def test_segments_name_the_parts_by_value(llm: LLMHead) -> None:
    soft = contexts(3, 5)
    assert llm.projector is not None
    for row, vectors, one, text in zip(llm.embed(PROMPTS, soft, ["a b", ""]), soft, PROMPTS, ("a b", ""), strict=True):
        spans = row.segments
        assert tuple(spans) == splice.PARTS
        assert [spans[k][0] for k in spans] == [0, *[spans[k][1] for k in spans][:-1]]
        assert spans["eos"][1] == len(row.embeds)

        def part(name: str, row: splice.Row = row) -> torch.Tensor:
            return row.embeds[slice(*row.segments[name])]

        table = llm.lm.get_input_embeddings()
        torch.testing.assert_close(part("context"), llm.projector(vectors))
        assert torch.equal(part("bos"), table(torch.tensor([llm.tokenizer.bos_token_id])))
        assert torch.equal(part("eos"), table(torch.tensor([llm.tokenizer.eos_token_id])))
        before, after = splice.render(llm.tokenizer, one).split(CONTEXT)
        ids = llm.tokenizer(before.removeprefix("<|bos|>"), add_special_tokens=False)["input_ids"]
        assert torch.equal(part("text"), table(torch.tensor(ids)))
        ids = llm.tokenizer(after, add_special_tokens=False)["input_ids"]
        assert torch.equal(part("tail"), table(torch.tensor(ids)))
        ids = llm.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert torch.equal(part("answer"), table(torch.tensor(ids, dtype=torch.long)))


def test_one_tensor_of_contexts_is_as_good_as_a_list(llm: LLMHead) -> None:
    soft = contexts(4, 4)
    for a, b in zip(llm.embed(PROMPTS, soft), llm.embed(PROMPTS, torch.stack(soft)), strict=True):
        assert torch.equal(a.embeds, b.embeds)


def test_without_context_the_gap_is_closed(llm: LLMHead) -> None:
    with_gap, without = llm.embed([prompt("Hi."), prompt("Hi.", context=False)])
    assert with_gap.segments["context"][0] == with_gap.segments["context"][1]
    assert len(with_gap.embeds) == len(without.embeds) + 1  # the line end that stood behind the placeholder


TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}Answer:"


@pytest.mark.parametrize(
    ("bos", "adds_bos", "template"),
    [
        (True, True, None),  # Llama 2: the tokenizer adds it
        (True, True, "{{ bos_token }}" + TEMPLATE),  # Llama 3: the template has it, and the tokenizer would add another
        (True, False, TEMPLATE),  # neither does
        (False, False, TEMPLATE),  # Qwen: there is none
    ],
)
def test_exactly_one_bos_and_a_placeholder_that_needs_no_embedding(
    bos: bool, adds_bos: bool, template: str | None
) -> None:
    tokenizer = word_tokenizer(WORDS, bos=bos, adds_bos=adds_bos, template=template)
    lm = word_model(len(tokenizer))
    llm = LLMHead(D, name="in memory", dtype="float32")
    llm.use(lm, tokenizer)
    (ids,) = splice.prompt_ids(tokenizer, [prompt("one two")])
    assert ids.count(1) == int(bos) if bos else ids[0] != 1
    assert tokenizer.pad_token == tokenizer.eos_token
    # as many rows as before, though the placeholder's id lies beyond them
    assert len(lm.get_input_embeddings().weight) == max(tokenizer.get_vocab().values())
    (row,) = llm.embed([prompt("one two")], contexts(3))
    assert len(row.embeds) == len(ids) + 2
    assert row.segments["bos"] == (0, int(bos))
    # sentencepiece's blank is not put behind the gap: the words after it are those of the text as a whole
    whole = tokenizer.convert_ids_to_tokens(ids)
    assert whole[whole.index(CONTEXT) + 1].lstrip("\u2581") in ("<unk>", "She")


def test_a_template_without_system_role_gets_the_role_from_the_user() -> None:
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    assert splice.render(word_tokenizer(WORDS, template=refuses), prompt("one")).startswith("user Name the emotion.")
    broken = word_tokenizer(WORDS, template="{{ raise_exception('needs version 9') }}")
    with pytest.raises(ConfigError, match="with and without a system role") as caught:
        splice.render(broken, prompt("one"))
    assert "needs version 9" in caught.value.details["got"]


@pytest.mark.parametrize(("words", "context", "got"), [("one", False, 0), (f"one {CONTEXT} two", True, 2)])
def test_a_prompt_without_its_one_placeholder_is_refused(llm: LLMHead, words: str, context: bool, got: int) -> None:
    with pytest.raises(DataError, match="exactly once") as caught:
        llm.embed([prompt(words, context=context)], contexts(3))
    assert caught.value.details["got"] == got
    assert "prompt 0" in str(caught.value.details["where"])


def test_a_row_longer_than_the_model_is_refused(llm: LLMHead) -> None:
    with pytest.raises(DataError, match="longer than") as caught:
        llm.embed([prompt("word " * 600)], contexts(3))
    assert caught.value.details["expected"] == "at most 512 tokens"


def test_only_answer_and_eos_count_whatever_the_prompt_says(llm: LLMHead) -> None:
    found = []
    for prompts in (PROMPTS, [prompt("Something else, and longer."), prompt("Short.")]):
        rows = llm.embed(prompts, contexts(3, 5), [a.text for a in ANSWERS])
        labels, weights = llm.labels(rows, ANSWERS)
        for row, label, weight in zip(rows, labels, weights, strict=True):
            start, end = row.segments["answer"]
            counted = (label != IGNORED).nonzero()[:, 0].tolist()
            assert counted == list(range(start, end + 1))
            assert label[end] == llm.tokenizer.eos_token_id
            assert weight[:start].sum() == 0
        found.append([label[label != IGNORED].tolist() for label in labels])
    assert found[0] == found[1]


def test_field_weights_lie_on_the_fields_tokens(llm: LLMHead) -> None:
    rows = llm.embed(PROMPTS[:1], contexts(3), [ANSWERS[0].text])
    labels, weights = llm.labels(rows, ANSWERS[:1])
    heavy = labels[0][weights[0] == 2.0]
    assert llm.tokenizer.decode(heavy).strip() == "happy"
    light = labels[0][(labels[0] != IGNORED) & (weights[0] == 1.0)]
    assert len(light) == int((labels[0] != IGNORED).sum()) - len(heavy)


def test_loss_is_the_weighted_mean_over_full_logits(llm: LLMHead) -> None:
    soft = contexts(3, 5)
    rows = llm.embed(PROMPTS, soft, [a.text for a in ANSWERS])
    labels, weights = llm.labels(rows, ANSWERS)
    total, weight = 0.0, 0.0
    for row, label, w in zip(rows, labels, weights, strict=True):
        length = len(row.embeds)
        logits = llm.lm(inputs_embeds=row.embeds[None]).logits[0, :-1]
        ce = F.cross_entropy(logits, label[1:length], reduction="none", ignore_index=IGNORED)
        total, weight = total + (ce * w[1:length]).sum(), weight + w[1:length].sum()
    torch.testing.assert_close(llm.loss(soft, PROMPTS, ANSWERS), total / weight)


def test_questions_about_one_clip_share_what_they_have_in_common(llm: LLMHead, monkeypatch: Any) -> None:
    prompts = [prompt("Hi.", "Why?"), prompt("Hello."), prompt("Hi.", "Who?"), prompt("Hi.", "Who?")]
    answers, soft = [*ANSWERS, ANSWERS[1], ANSWERS[0]], contexts(3, 5)
    soft = [soft[0], soft[1], soft[0], soft[0]]
    apart = llm.row_losses(soft, prompts, answers, range(4))
    read: list[tuple[int, int]] = []
    inner = llm._hidden
    monkeypatch.setattr(llm, "_hidden", lambda x, *rest: read.append(x.shape[:2]) or inner(x, *rest))
    together = llm.row_losses(soft, prompts, answers, [0, 1, 0, 0])
    for a, b in zip(apart, together, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    lengths = [len(r.ids) for r in llm.embed(prompts, soft, [a.text for a in answers])]
    assert read[0][0] == 2
    assert read[0][1] < lengths[0] + lengths[2] + lengths[3]


def test_logits_are_made_only_where_labels_are(llm: LLMHead) -> None:
    sizes: list[int] = []
    hook = llm.lm.get_output_embeddings().register_forward_hook(lambda m, i, out: sizes.append(out.shape[0]))
    llm.loss(contexts(3, 5), PROMPTS, ANSWERS)
    hook.remove()
    tokens = llm.tokenizer([a.text for a in ANSWERS], add_special_tokens=False)["input_ids"]
    assert sizes == [sum(len(t) + 1 for t in tokens)]


def test_no_rows_give_a_zero_that_reaches_every_parameter(llm: LLMHead) -> None:
    llm.zero_grad()
    loss = llm.loss([], [], [])
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None for p in llm.parameters() if p.requires_grad)
    llm.zero_grad()


def test_the_context_learns_through_a_frozen_model(tmp_path: Path) -> None:
    llm = head(tmp_path, frozen=True).train()
    assert not llm.lm.training
    soft = [c.requires_grad_() for c in contexts(3, 5)]
    llm.loss(soft, PROMPTS, ANSWERS).backward()
    assert all(c.grad is not None and c.grad.abs().sum() > 0 for c in soft)
    assert {n.split(".")[0] for n, p in llm.named_parameters() if p.requires_grad} == {"projector"}


def test_lora_alone_learns_and_checkpointing_changes_nothing(tmp_path: Path) -> None:
    lora = Lora(r=2, dropout=0.0, targets=("q_proj", "down_proj"))
    grads = []
    for checkpointing in (False, True):
        llm = head(tmp_path, lora=lora, gradient_checkpointing=checkpointing).train()
        learning = {n for n, p in llm.named_parameters() if p.requires_grad}
        assert learning == {n for n, _ in llm.named_parameters() if "lora_" in n or n.startswith("projector")}
        assert llm.lm.is_activation_checkpointing == checkpointing
        llm.loss(contexts(3, 5), PROMPTS, ANSWERS).backward()
        grads.append({n: p.grad for n, p in llm.named_parameters() if p.requires_grad})
        assert all(g is not None for g in grads[-1].values())
        assert not any(p.grad is not None for n, p in llm.named_parameters() if n not in learning)
    torch.testing.assert_close(grads[0], grads[1])


def test_soft_tokens_start_at_the_size_of_words(llm: LLMHead) -> None:
    assert llm.projector is not None
    words = llm.lm.get_input_embeddings().weight.std()
    assert 0.7 < llm.projector(torch.randn(200, D)).std() / words < 1.4


def test_extract_equals_the_models_own_last_layer_in_any_batch(llm: LLMHead) -> None:
    soft = contexts(3, 5)
    together = llm.extract(soft, PROMPTS)
    for k, (hidden, spans) in enumerate(together):
        ((alone, same),) = llm.extract(soft[k : k + 1], PROMPTS[k : k + 1])
        torch.testing.assert_close(hidden, alone, atol=1e-5, rtol=0)
        assert spans == same
        assert spans["answer"][0] == spans["answer"][1] == len(hidden) - 1
        row = llm.embed(PROMPTS[k : k + 1], soft[k : k + 1], [""])[0]
        own = llm.lm(inputs_embeds=row.embeds[None], output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(hidden, own, atol=1e-5, rtol=0)
