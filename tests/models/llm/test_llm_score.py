"""Scoring a closed label set: the tree, its mask, equality with one label at a time, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hero_lightning.errors import ConfigError
from hero_lightning.models.llm import scoring, splice
from hero_lightning.models.llm.head import LLMHead
from hero_lightning.reasoning.answer_targets import TargetAnswer
from tests.models.llm.llm_helpers import LABELS, D, answer, contexts, head, prompt, trained, word_model, word_tokenizer

PROMPTS = [prompt("I am so glad."), prompt("Leave me alone!", "Now and for ever.")]
CANDIDATES = [answer(label).text for label in LABELS]
VOCABULARY = "Name the emotion. She says: one two joy sad very much Answer:"
SHORT, WORDS = [prompt("one"), prompt("two one two")], ["joy", "very sad", "very much joy"]
# no closing quote: one candidate begins with another, and shares all of its tokens
OPEN = ['{"final_emotion": "happy', '{"final_emotion": "happy-sad', '{"final_emotion": "happy-sad-angry']


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLMHead:
    return head(tmp_path_factory.mktemp("lm"))


def naive(llm: LLMHead, context: list[Tensor], prompts: list[Any], candidates: list[str]) -> Tensor:
    """One full forward of the model per prompt and candidate, all logits, on the same tokens."""
    ids = llm.tokenizer(candidates, add_special_tokens=False)["input_ids"]
    shared = 0
    while shared < min(map(len, ids)) - 1 and len({i[shared] for i in ids}) == 1:
        shared += 1
    scores = []
    for soft, one in zip(context, prompts, strict=True):
        for text, tokens in zip(candidates, ids, strict=True):
            (row,) = llm.embed([one], [soft], [text])
            start, end = row.segments["answer"]
            with torch.no_grad():
                log_p = llm.lm(inputs_embeds=row.embeds[None, :end]).logits[0].float().log_softmax(-1)
            scores.append(log_p[range(start + shared - 1, end - 1), tokens[shared:]].mean())
    return torch.stack(scores).view(len(prompts), len(candidates))


@pytest.mark.parametrize("candidates", [CANDIDATES, OPEN, CANDIDATES[:1]], ids=["closed", "prefixes", "one"])
def test_tree_equals_one_label_at_a_time(llm: LLMHead, candidates: list[str]) -> None:
    soft = contexts(3, 5)
    torch.testing.assert_close(
        llm.score(soft, PROMPTS, candidates), naive(llm, soft, PROMPTS, candidates), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "eager"},
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},  # in the second layer only
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0},
    ],
    ids=["eager", "window_in_one_layer", "window_in_all"],
)
def test_tree_equals_one_label_at_a_time_in_other_models(settings: dict[str, Any]) -> None:
    tokenizer = word_tokenizer(VOCABULARY)
    llm = LLMHead(D, name="in memory", dtype="float32")
    llm.use(word_model(len(tokenizer), **settings), tokenizer)
    llm.eval()
    expected = naive(llm, contexts(3, 8), SHORT, WORDS)
    torch.testing.assert_close(llm.score(contexts(3, 8), SHORT, WORDS), expected, atol=1e-5, rtol=0)


FAMILIES = {
    "qwen2": {}, "qwen3": {"head_dim": 16}, "llama": {}, "mistral": {"sliding_window": 6}, "phi3": {}, "gpt_neox": {},
    "gemma2": {"head_dim": 16, "sliding_window": 6, "final_logit_softcapping": 2.0, "attn_implementation": "eager"},
    "granite": {"logits_scaling": 4.0}, "cohere": {"logit_scale": 0.1}, "gpt2": {"n_positions": 256},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_many_families_are_scored_trained_and_read_alike(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = word_tokenizer(VOCABULARY)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes, **FAMILIES[family])
    llm = LLMHead(D, name="in memory", dtype="float32")
    llm.use(AutoModelForCausalLM.from_config(config), tokenizer)
    llm.eval()
    prompts, soft = SHORT, contexts(3, 8)
    expected = naive(llm, soft, prompts, WORDS)
    torch.testing.assert_close(llm.score(soft, prompts, WORDS), expected, atol=1e-5, rtol=0)
    (row,) = llm.embed(prompts[:1], soft[:1], ["joy"])
    logits = llm.lm(inputs_embeds=row.embeds[None]).logits[0]
    start, end = row.segments["answer"]
    gold = torch.tensor([tokenizer.convert_tokens_to_ids("\u2581joy"), tokenizer.eos_token_id])
    task = TargetAnswer("joy", ((0, 3, 1.0),), "label")
    expected = torch.nn.functional.cross_entropy(logits[start - 1 : end], gold)
    torch.testing.assert_close(llm.loss(soft[:1], prompts[:1], [task]), expected, atol=1e-5, rtol=0)
    apart, together = (llm.row_losses([soft[0]] * 2, prompts, [task, task], clips)[0] for clips in ([0, 1], [0, 0]))
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    alone = [llm.generate([c], [p], max_new_tokens=4)[0] for c, p in zip(soft, prompts, strict=True)]
    assert llm.generate(soft, prompts, max_new_tokens=4) == alone


def test_mixed_precision_reads_the_same_labels(llm: LLMHead) -> None:
    soft = contexts(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = llm.score(soft, PROMPTS, CANDIDATES)
        loss = llm.loss(soft, PROMPTS, [answer("sad"), answer("happy")])
    assert loss.dtype == mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, llm.score(soft, PROMPTS, CANDIDATES), atol=0.05, rtol=0)


def test_scores_do_not_depend_on_the_batch(llm: LLMHead) -> None:
    soft = contexts(3, 5)
    alone = torch.cat([llm.score([c], [p], CANDIDATES) for c, p in zip(soft, PROMPTS, strict=True)])
    torch.testing.assert_close(llm.score(soft, PROMPTS, CANDIDATES), alone, atol=1e-5, rtol=0)


def test_every_row_may_have_its_own_candidates(llm: LLMHead) -> None:
    """The label after a generated rationale, which is another one in every row."""
    soft = contexts(3, 5)
    reasons = ("She smiles.", "She shouts at him.")
    own = [[f'{{"rationale": "{why}", "final_emotion": "{label}"}}' for label in LABELS] for why in reasons]
    expected = torch.cat([naive(llm, soft[b : b + 1], PROMPTS[b : b + 1], own[b]) for b in range(2)])
    torch.testing.assert_close(llm.score(soft, PROMPTS, own), expected, atol=1e-5, rtol=0)


def test_known_distribution_gives_the_analytic_probability() -> None:
    """A bigram model: logits depend on the last token only, by a table we chose."""
    tokenizer = word_tokenizer("joy sad very")
    lm = word_model(len(tokenizer), width=16, tie_word_embeddings=False)
    words = len(tokenizer)
    table = torch.randn(words, words, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for layer in lm.model.layers:  # no layer adds anything: the last hidden state is the normalised embedding
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        lm.model.embed_tokens.weight.copy_(torch.eye(words, 16))
        lm.lm_head.weight.zero_()
        lm.lm_head.weight[:, :words] = table.T / 16**0.5  # RMS norm makes a unit vector of width 16 sqrt(16) long
    llm = LLMHead(D, name="in memory", dtype="float32")
    llm.use(lm, tokenizer)
    llm.eval()
    scores = llm.score(None, [prompt("x", context=False)], ["joy", "very sad"])
    log_p = table.log_softmax(-1)
    joy, very, sad, last = (
        tokenizer.convert_tokens_to_ids(w) for w in ("\u2581joy", "\u2581very", "\u2581sad", "<unk>")
    )
    expected = torch.stack([log_p[last, joy], (log_p[last, very] + log_p[very, sad]) / 2])
    torch.testing.assert_close(scores[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(llm.probabilities(scores)[0], expected.softmax(0), atol=1e-5, rtol=0)


def test_scoring_asks_for_logits_of_answer_tokens_only(llm: LLMHead) -> None:
    sizes: list[int] = []
    hook = llm.lm.get_output_embeddings().register_forward_hook(lambda m, i, out: sizes.append(out.shape[0]))
    llm.score(contexts(3, 5), PROMPTS, CANDIDATES)
    hook.remove()
    tree = scoring.build_tree(llm.tokenizer(CANDIDATES, add_special_tokens=False)["input_ids"])
    assert sizes == [2 * sum(b > 0 for b in tree.branch)]


def test_scoring_leaves_mode_and_gradients_alone(llm: LLMHead) -> None:
    llm.train()
    scores = llm.score(contexts(3, 5), PROMPTS, CANDIDATES)
    assert llm.training
    assert llm.lm.training
    assert not scores.requires_grad
    llm.eval()


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6))
@settings(deadline=None)
def test_every_candidate_is_a_path_of_its_tree(candidates: list[list[int]]) -> None:
    tree = scoring.build_tree(candidates)
    shared = [t for t, b in zip(tree.ids, tree.branch, strict=True) if b == 0]
    for k, candidate in enumerate(candidates):
        own = [(t, d) for t, b, d in zip(tree.ids, tree.branch, tree.depth, strict=True) if b == k + 1]
        assert own, "nothing of the candidate is scored"
        assert [*shared, *(t for t, _ in own)] == candidate
        assert [d for _, d in own] == list(range(len(shared), len(candidate)))
    branch, position = scoring.pack([tree, tree], [3, 5], torch.device("cpu"))
    seen = scoring.tree_mask(branch)[:, 0]
    for b, start in enumerate((3, 5)):
        for i, own_branch in enumerate(tree.branch):
            visible = seen[b, start + i].nonzero()[:, 0].tolist()
            # exactly the prompt, what is shared, and its own branch up to itself: one token per position
            assert position[b, visible].tolist() == list(range(start + tree.depth[i] + 1))
            assert all(branch[b, v] in (0, own_branch) for v in visible)
    row, place, owner = scoring.scored(branch)
    assert len(row) == 2 * sum(x > 0 for x in tree.branch)
    successor = position[row, place] + 1
    starts = torch.tensor([3, 5])
    depth = torch.tensor([d for d, x in zip(tree.depth, tree.branch, strict=True) if x > 0] * 2)
    assert torch.equal(successor, starts[row] + depth)
    assert all(branch[r, p] in (0, o + 1) for r, p, o in zip(row, place, owner, strict=True))


def test_a_model_without_attention_is_refused(llm: LLMHead) -> None:
    class Config:
        layer_types = ("linear_attention", "full_attention")
        _attn_implementation = "sdpa"

    with pytest.raises(ConfigError, match="in one pass") as caught:
        scoring.attention_masks(Config(), torch.ones(1, 1, 2, 2).bool(), torch.zeros(1, 2), torch.float32)
    assert caught.value.details["where"] == "llm.name"


@pytest.mark.parametrize("temperature", [0.2, 1.0, 4.0])
def test_the_temperature_of_the_data_is_found(llm: LLMHead, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40_000, 5, generator=generator) - 3
    truth = torch.multinomial((scores / temperature).softmax(1), 1, generator=generator)[:, 0]
    llm.calibrate(scores, truth)
    assert float(llm.temperature) == pytest.approx(temperature, rel=0.1)

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / t, truth))

    best = float(llm.temperature)
    assert loss(best) <= min(loss(best * 1.05), loss(best / 1.05))
    torch.testing.assert_close(llm.probabilities(scores), (scores / best).softmax(1))
    assert "temperature" in llm.state_dict()
    llm.temperature.fill_(1.0)


def test_the_temperature_stays_finite_where_all_is_right_or_wrong() -> None:
    scores = torch.eye(4)
    assert scoring.fit_temperature(scores, torch.arange(4)) == pytest.approx(0.05)
    assert scoring.fit_temperature(scores, (torch.arange(4) + 1) % 4) == pytest.approx(20)


def test_padding_on_either_side_masks_the_same_steps(llm: LLMHead) -> None:
    rows = llm.embed(PROMPTS, contexts(3, 5))
    (right, seen_right), (left, seen_left) = splice.pad_right(rows), splice.pad_left(rows)
    for b, row in enumerate(rows):
        assert torch.equal(right[b][seen_right[b]], row.embeds)
        assert torch.equal(left[b][seen_left[b]], row.embeds)
        assert seen_left[b, -1]


def test_what_the_context_says_decides(tmp_path: Path) -> None:
    llm, soft, prompts = trained(tmp_path)
    llm.eval()
    for order in (prompts, prompts[::-1]):
        assert llm.score(soft, order, CANDIDATES).argmax(1).tolist() == [LABELS.index("happy"), LABELS.index("angry")]
        assert llm.generate(soft, order, max_new_tokens=20) == [answer("happy").text, answer("angry").text]
