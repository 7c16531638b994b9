"""A closed label set: one pass with a tree mask against generation and against one forward per label.

    python -m benchmarks.bench_llm_head [--quick] [--device cuda]

Data flow: random Qwen2 of 4 layers, width 512, vocabulary 32000; prompts of 300 positions, 9 labels -> the same label
named by every way of scoring, the same text by both ways of generating -> interleaved medians, ratios per sample. The
limit quoted is the forward of the prompt alone. One thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from benchmarks.common import measure, ratio, write
from benchmarks.gpu import LABELS, Shape, answer, clips, language_model
from torch import Tensor

from hero_lightning.model.llm import LLMHead
from hero_lightning.reasoning.prompts import Prompt

SHAPE = Shape(layers=4, hidden=512, intermediate=2048, heads=8, kv_heads=8, vocab=32_000, clips=16, new_tokens=64)
CANDIDATES = [answer(label).text for label in LABELS]
BATCH = 16


def naive(head: LLMHead, context: Tensor, prompts: list[Prompt]) -> Tensor:
    """One forward of prompt and answer per label, all of the model's logits: scores [B, K]."""
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


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one round, result not written")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, object] = {"labels": len(LABELS), "new_tokens": SHAPE.new_tokens}
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        head = LLMHead(768, name="random weights", frozen=True, dtype=str(dtype).split(".")[1])
        head.use(*language_model(SHAPE, args.device, dtype))
        head.eval()
        head.lm.generation_config.eos_token_id = None  # every answer is as long as the others
        prompts, context = clips(head, SHAPE, BATCH, args.device)
        difference = float(
            (head.score(context, prompts, CANDIDATES)[:4] - naive(head, context[:4], prompts[:4])).abs().max()
        )
        same = (
            head.score(context, prompts, CANDIDATES)[:4]
            .argmax(1)
            .equal(naive(head, context[:4], prompts[:4]).argmax(1))
        )
        if kind == "fp32" and (not same or difference > 1e-4):
            raise SystemExit(f"the tree differs from one label at a time by {difference:.1e}")
        if kind == "fp32":
            together = head.generate(context[:4], prompts[:4], max_new_tokens=16)
            alone = [head.generate(context[i : i + 1], prompts[i : i + 1], max_new_tokens=16)[0] for i in range(4)]
            if together != alone:
                raise SystemExit("batched generation differs from one at a time")
        print(f"{kind}: tree against one label at a time: largest difference {difference:.1e}, same labels: {same}")

        def case(run: Callable[[Tensor, list[Prompt]], object], count: int) -> Callable[[], object]:
            def timed(context: Tensor = context, prompts: list[Prompt] = prompts) -> None:
                run(context[:count], prompts[:count])
                if args.device == "cuda":
                    torch.cuda.synchronize()

            return timed

        def write_answers(context: Tensor, prompts: list[Prompt], head: LLMHead = head) -> object:
            return head.generate(context, prompts, max_new_tokens=SHAPE.new_tokens)

        def score(context: Tensor, prompts: list[Prompt], head: LLMHead = head) -> object:
            return head.score(context, prompts, CANDIDATES)

        def one_by_one(context: Tensor, prompts: list[Prompt], head: LLMHead = head) -> object:
            return naive(head, context, prompts)

        def prefill(context: Tensor, prompts: list[Prompt], head: LLMHead = head) -> object:
            return head.extract(context, prompts)

        sizes = {
            "generate, one": 1,
            "generate, 16": BATCH,
            "per label": 1,
            "tree, one": 1,
            "tree, 16": BATCH,
            "prefill, 16": BATCH,
        }
        runs = (write_answers, write_answers, one_by_one, score, score, prefill)
        cases = {name: case(run, count) for (name, count), run in zip(sizes.items(), runs, strict=True)}
        timings = measure(cases, rounds=1 if args.quick else 7, seconds=200)
        for name, count in sizes.items():
            rate = count / timings[name].median()
            faster = ratio(timings, name, "generate, one") * count
            print(f"  {name:>14}: {rate:6.2f} samples/s, {faster:5.2f} x generation one at a time")
            result[f"{name} {kind}"] = {"samples_per_s": rate, "ratio": faster}
        share = ratio(timings, "tree, 16", "prefill, 16")
        result |= {f"difference {kind}": difference, f"same labels {kind}": same, f"share of prefill {kind}": share}
        result[f"rounds {kind}"] = len(timings["tree, 16"].wall)
        print(f"  tree runs at {share:.0%} of the prefill limit")
    if not args.quick:
        print(write("llm_head", result))


if __name__ == "__main__":
    main()
