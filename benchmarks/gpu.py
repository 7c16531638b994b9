"""A 7B language model on one CUDA device: LoRA training step, scoring of a label set, generation.

    PYTHONPATH=src python -m benchmarks.gpu                  # on a CUDA machine
    PYTHONPATH=src python -m benchmarks.gpu --shape tiny     # the same code on a CPU, in seconds

Data flow: random weights of Qwen2.5-7B's shape, prompts of 300 tokens (64 of them context) -> LLMHead.loss and
backward in bf16 at batch 8 -> LLMHead.score and LLMHead.generate over 64 clips -> samples/s, peak memory,
benchmarks/results/gpu_<device>.json. Needs only torch, transformers, peft, safetensors and numpy.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import write
from torch import Tensor

from hero_lightning.hub import Lora
from hero_lightning.models.llm.head import LLMHead
from hero_lightning.models.llm.small_lm import SmallLM
from hero_lightning.models.llm.splice import prompt_ids
from hero_lightning.reasoning.answer_targets import TargetAnswer
from hero_lightning.reasoning.prompts import CONTEXT, Part, Prompt

LABELS = ("happy", "sad", "angry", "neutral", "worried", "surprise", "fear", "contempt", "doubt")
QUESTION = "Name the emotion. Evidence: the voice is loud, the brow is lowered, the hands move fast. She says: stop it!"
REASONS = (
    '{"rationale": "The voice is loud and the brow is lowered, and so the evidence points to one.", "final_emotion": "'
)
D = 768  # width of the context tokens (size=base)


@dataclass(frozen=True)
class Shape:
    """Sizes of a run."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    prompt: int = 300
    context: int = 64
    clips: int = 64
    new_tokens: int = 128
    rounds: int = 10


SHAPES = {
    "7b": Shape(28, 3584, 18944, 28, 4, 152_064),
    "tiny": Shape(2, 32, 64, 2, 1, 512, prompt=48, context=8, clips=8, new_tokens=8, rounds=2),
}


def language_model(shape: Shape, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model with random weights of that shape, and a small tokenizer whose ids lie inside its vocabulary."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        texts = [QUESTION, *(answer(label).text for label in LABELS)] * 2
        small = SmallLM(vocab=500, width=8, layers=1, heads=1).build(texts, Path(folder) / "lm")
        tokenizer = AutoTokenizer.from_pretrained(small)
    return lm, tokenizer


def answer(label: str, stem: str = '{"final_emotion": "') -> TargetAnswer:
    """A JSON answer; the label has twice the weight."""
    end = len(stem) + len(label)
    spans = ((0, len(stem), 1.0), (len(stem), end, 2.0), (end, end + 2, 1.0))
    return TargetAnswer(f'{stem}{label}"}}', spans, "label")


def clips(head: LLMHead, shape: Shape, count: int, device: str) -> tuple[list[Prompt], Tensor]:
    """Different prompts of about `shape.prompt` positions including context, and the context [count, O, D]."""
    words, prompts = QUESTION.split(), []
    for k in range(count):
        size = 0
        while True:
            text = " ".join(words[(k + i + k // len(words) * i) % len(words)] for i in range(size))
            parts = (Part("role", "You name emotions."), Part("context", CONTEXT), Part("transcript", f"{k} {text}"))
            prompt = Prompt("label", ("final_emotion",), parts)
            missing = shape.prompt - shape.context + 1 - len(prompt_ids(head.tokenizer, [prompt])[0])
            if missing <= 0:
                break
            size += max(1, missing // 3)  # a word has at most three tokens
        prompts.append(prompt)
    return prompts, torch.randn(count, shape.context, D, device=device)


def seconds(run: Callable[[], object], device: str, rounds: int, warmup: int = 1) -> float:
    """Median seconds of `run`, the device awaited."""
    taken = []
    for turn in range(-warmup, rounds):
        begin = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn >= 0:
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def phase(name: str, run: Callable[[], object], samples: int, device: str, rounds: int) -> dict[str, object]:
    """Times a phase and its peak memory; out of memory is a result, too."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        taken = seconds(run, device, rounds)
    except torch.OutOfMemoryError:
        print(f"{name:>28}: out of memory")
        return {"out_of_memory": True}
    # ru_maxrss is KiB on Linux, and of the whole process so far
    used = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    print(f"{name:>28}: {samples / taken:8.2f} samples/s, {1e3 * taken:9.1f} ms, peak {used / 2**30:6.2f} GiB")
    return {"samples_per_s": samples / taken, "ms": 1e3 * taken, "peak_gib": used / 2**30}


def train_step(head: LLMHead, prompts: list[Prompt], context: Tensor) -> Callable[[], object]:
    """One optimizer step on a cot-like answer."""
    learning = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    answers = [answer(LABELS[k % len(LABELS)], REASONS) for k in range(len(prompts))]

    def run() -> None:
        head.train()
        loss = head.loss(context, prompts, answers)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not bool(loss.isfinite()):
            raise SystemExit("the loss is not finite")

    return run


def main(argv: Sequence[str] | None = None) -> Path:
    """Measures, prints and writes; returns where."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    shape, device = SHAPES[args.shape], args.device
    if device == "cpu" and args.shape == "7b":
        raise SystemExit("the 7B shape needs a CUDA device; --shape tiny runs anywhere")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    lm, tokenizer = language_model(shape, device, dtype)
    head = LLMHead(D, name="random weights", lora=Lora(r=64, alpha=16, dropout=0.05), dtype=str(dtype).split(".")[1])
    head.use(lm, tokenizer)
    head.to(device)
    prompts, context = clips(head, shape, shape.clips, device)
    candidates = [answer(label).text for label in LABELS]
    length = len(head.embed(prompts[:1], context[:1])[0].embeds)
    parameters = sum(p.numel() for p in lm.parameters())
    print(f"{parameters / 1e9:.2f} B parameters, {dtype}, prompts of {length} positions, on {device}")

    def score(batch: int) -> Callable[[], Tensor]:
        cuts = range(0, len(prompts), batch)
        return lambda: torch.cat([head.score(context[i : i + batch], prompts[i : i + batch], candidates) for i in cuts])

    def write_answers(count: int) -> Callable[[], object]:
        return lambda: head.generate(context[:count], prompts[:count], max_new_tokens=shape.new_tokens)

    lm.generation_config.eos_token_id = None  # all answers have the same length
    head.eval()
    together, alone = (
        score(16)()[:4],
        torch.cat([head.score(context[i : i + 1], prompts[i : i + 1], candidates) for i in range(4)]),
    )
    step = train_step(head, prompts[:8], context[:8])
    result: dict[str, object] = {
        "shape": args.shape,
        "parameters": parameters,
        "trainable": sum(p.numel() for p in head.parameters() if p.requires_grad),
        "dtype": str(dtype),
        "prompt": length,
        "new_tokens": shape.new_tokens,
        "batch_difference": float((together - alone).abs().max()),
        "score batch 16": phase("score, batch 16", score(16), shape.clips, device, 3),
        "score batch 1": phase("score, one at a time", score(1), shape.clips, device, 1),
        "answer batch 64": phase(f"answer, batch {shape.clips}", write_answers(shape.clips), shape.clips, device, 1),
        "answer batch 1": phase("answer, one at a time", write_answers(1), 1, device, 2),
        "train batch 8": phase("LoRA step, batch 8", step, 8, device, shape.rounds),
    }
    lm.activation_checkpointing_enable({"use_reentrant": False})
    result["train batch 8, checkpointed"] = phase("LoRA step, checkpointed", step, 8, device, shape.rounds)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    path = write(f"gpu_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}", result)
    print(path)
    return path


if __name__ == "__main__":
    main()
