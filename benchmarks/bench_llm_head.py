"""Scoring a label set: one pass with a tree mask against generation and against one forward pass per label.

    python -m benchmarks.bench_llm_head [--quick] [--device cuda]

Data flow: random Qwen2 of 4 layers, width 512, vocabulary 32000; prompts of 300 positions, 9 labels -> all methods of
scoring must predict the same label, both batch sizes the same text -> interleaved medians, ratios per sample. The limit
is the forward pass of the prompt. One thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from benchmarks.common import measure, ratio, write
from benchmarks.gpu import LABELS, Shape, answer, clips, language_model
from torch import Tensor

from hero_lightning.models.llm.head import LLMHead
from hero_lightning.reasoning.prompts import Prompt

SHAPE = Shape(layers=4, hidden=512, intermediate=2048, heads=8, kv_heads=8, vocab=32_000, clips=16, new_tokens=64)
CANDIDATES = [answer(label).text for label in LABELS]


def naive(head: LLMHead, context: Tensor, prompts: list[Prompt]) -> Tensor:
    """One forward pass of prompt and answer per label, with logits of all positions: scores [B, K]."""
    ids = head.tokenizer(CANDIDATES, add_special_tokens=False)["input_ids"]
    shared = next(i for i in range(len(ids[0])) if len({tokens[i] for tokens in ids}) > 1)
    scores = []
    with torch.no_grad():
        for soft, prompt in zip(context, prompts, strict=True):
            for text, tokens in zip(CANDIDATES, ids, strict=True):
                (row,) = head.embed([prompt], [soft], [text])
                start, end = row.segments["answer"]
                logits = head.lm(inputs_embeds=row.embeds[None, :end], use_cache=False).logits[0]
                places = torch.arange(start + shared, end) - 1
                scores.append(logits[places].float().log_softmax(-1)[range(len(places)), tokens[shared:]].mean())
    return torch.stack(scores).view(len(prompts), len(ids))


def check(head: LLMHead, context: Tensor, prompts: list[Prompt], exact: bool) -> dict[str, object]:
    """Largest score difference between the tree and one label at a time, and whether the predicted labels agree.

    Raises:
        SystemExit: in float32, if scores or generated texts differ.
    """
    context, prompts = context[:4], prompts[:4]
    ours, theirs = head.score(context, prompts, CANDIDATES), naive(head, context, prompts)
    found = {"difference": float((ours - theirs).abs().max()), "same labels": ours.argmax(1).equal(theirs.argmax(1))}
    if exact:
        together = head.generate(context, prompts, max_new_tokens=16)
        alone = [head.generate(context[i : i + 1], prompts[i : i + 1], max_new_tokens=16)[0] for i in range(4)]
        if found["difference"] > 1e-4 or not found["same labels"] or together != alone:
            raise SystemExit(f"not the same answers: {found}, texts equal: {together == alone}")
    return found


def cases(head: LLMHead, context: Tensor, prompts: list[Prompt]) -> dict[str, Callable[[], object]]:
    """Cases to time; the number in the name is the clips per call."""

    def generate(count: int) -> list[str]:
        return head.generate(context[:count], prompts[:count], max_new_tokens=SHAPE.new_tokens)

    def tree(count: int) -> list[float]:
        return head.score(context[:count], prompts[:count], CANDIDATES).tolist()  # to the host, which waits for a GPU

    return {
        "generate, 1": lambda: generate(1),
        "generate, 16": lambda: generate(16),
        "per label, 1": lambda: naive(head, context[:1], prompts[:1]).tolist(),
        "tree, 1": lambda: tree(1),
        "tree, 16": lambda: tree(16),
        "prefill, 16": lambda: head.extract(context, prompts)[0][0].sum().item(),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one round, result not written")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, object] = {"labels": len(LABELS), "prompt": SHAPE.prompt, "new_tokens": SHAPE.new_tokens}
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        head = LLMHead(768, name="random weights", frozen=True, dtype=str(dtype).split(".")[1])
        head.use(*language_model(SHAPE, args.device, dtype))
        head.eval()
        head.lm.generation_config.eos_token_id = None  # all answers have the same length
        prompts, context = clips(head, SHAPE, 16, args.device)
        found = check(head, context, prompts, exact=kind == "fp32")
        print(f"{kind}: tree against one label at a time: {found}")
        timings = measure(cases(head, context, prompts), rounds=1 if args.quick else 5, seconds=150)
        for name, timing in timings.items():
            count = int(name.split(", ")[1])
            faster = ratio(timings, name, "generate, 1") * count
            print(f"  {name:>12}: {count / timing.median():6.2f} clips/s, {faster:5.2f} x generation one at a time")
            result[f"{name} {kind}"] = {"clips_per_s": count / timing.median(), "ratio": faster}
        share = ratio(timings, "tree, 16", "prefill, 16")
        print(f"  the tree of 16 runs at {share:.0%} of the prefill limit")
        result[kind] = {**found, "share of prefill": share, "rounds": len(timings["tree, 16"].wall)}
    if not args.quick:
        print(write("llm_head", result))


if __name__ == "__main__":
    main()
