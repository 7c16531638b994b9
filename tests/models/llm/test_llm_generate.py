"""Generation: left padding, greedy, no advice printed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from hero_lightning.models.llm.head import LLMHead
from tests.models.llm.llm_helpers import TINY, contexts, prompt, texts, trained


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # few steps: it writes something, and not yet by heart
    llm, soft, prompts = trained(tmp_path_factory.mktemp("lm"), steps=40)
    return llm.eval(), soft, prompts


def greedy(llm: LLMHead, context: torch.Tensor, one: Any, steps: int) -> str:
    """The definition: the likeliest token of a full forward without cache, again and again."""
    (row,) = llm.embed([one], [context])
    embeds, out = row.embeds[None], []
    with torch.no_grad():
        for _ in range(steps):
            token = llm.lm(inputs_embeds=embeds).logits[0, -1].argmax()
            if int(token) == llm.tokenizer.eos_token_id:
                break
            out.append(int(token))
            embeds = torch.cat([embeds, llm.lm.get_input_embeddings()(token)[None, None]], dim=1)
    return llm.tokenizer.decode(out, skip_special_tokens=True)


def test_batch_single_and_definition_agree(learnt: Any) -> None:
    llm, soft, prompts = learnt
    more = [*soft, *contexts(2, 9, 1)]
    asked = [
        *prompts,
        prompt("One more.", "And another, longer than all that came before it."),
        prompt("Oh."),
        prompt("No!"),
    ]
    together = llm.generate(more, asked, max_new_tokens=16)
    assert len(set(together)) > 1
    assert together == [llm.generate([c], [p], max_new_tokens=16)[0] for c, p in zip(more, asked, strict=True)]
    assert together == [greedy(llm, c, p, 16) for c, p in zip(more, asked, strict=True)]


def test_nothing_is_said_about_lengths_or_flags(learnt: Any, caplog: pytest.LogCaptureFixture, recwarn: Any) -> None:
    llm, soft, prompts = learnt
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.INFO, logger="transformers"):
        llm.generate(soft, prompts, max_new_tokens=4)
    logging.getLogger("transformers").propagate = False
    assert [r.message for r in caplog.records] == []
    assert [str(w.message) for w in recwarn] == []


def test_a_chat_models_own_sampling_is_not_used(tmp_path: Any) -> None:
    from transformers import GenerationConfig

    folder = TINY.build(texts(), tmp_path / "chat")
    GenerationConfig(
        do_sample=True, temperature=5.0, top_p=0.9, repetition_penalty=3.0, eos_token_id=[2, 7], max_length=20
    ).save_pretrained(folder)
    llm = LLMHead(24, name=str(folder), dtype="float32")
    llm.load()
    llm.eval()
    assert llm.lm.generation_config.eos_token_id == [2, 7]  # every end its authors named, and the tokenizer's
    one, soft = [prompt("a", "b", "c")], contexts(3)
    assert len({llm.generate(soft, one, max_new_tokens=25)[0] for _ in range(3)}) == 1
    assert llm.generate(soft, one, max_new_tokens=8) == [greedy(llm, soft[0], one[0], 8)]


def test_train_mode_and_checkpointing_do_not_reach_generation(tmp_path: Any) -> None:
    llm, soft, prompts = trained(tmp_path, steps=20)
    llm.eval()
    before = llm.generate(soft, prompts, max_new_tokens=6)
    llm.lm.activation_checkpointing_enable({"use_reentrant": False})
    llm.train()
    assert llm.generate(soft, prompts, max_new_tokens=6) == before
    assert llm.training
