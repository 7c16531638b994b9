"""Training step of HERO against the same architecture built from modules of transformers and torch.

    python -m benchmarks.bench_fusion_step [--quick] [--device cuda]

Data flow: random features (frame 257, motion 64, audio 375, au 64, text 40 steps; batch 8) -> forward, cross-entropy,
backward, fused AdamW. Before timing, the weights of a Blip2QFormerModel are copied into our Q-Former; the outputs must
agree. Baseline: five projections and Blip2QFormerModels, nn.MultiheadAttention synergy and integration,
nn.TransformerEncoder imputation, at the same sizes. One thread; the limit is a matrix product timed in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable

import torch
from benchmarks.common import measure, ratio, write
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hero_lightning.models.base import Shape
from hero_lightning.models.hero.experts import ExpertOptions
from hero_lightning.models.hero.hero import Hero
from hero_lightning.models.hero.qformer import QFormer
from hero_lightning.models.layers import EPS
from hero_lightning.types import Features

STEPS = {"frame": (257, 1024), "motion": (64, 768), "audio": (375, 1024), "au": (64, 35), "text": (40, 768)}
BATCH, CLASSES = 8, 6
SIZES = {"width": 768, "queries": 32, "layers": 2, "num_heads": 8, "context_tokens": 64}


def copy_blip2(theirs: nn.Module, ours: QFormer) -> None:
    """Copies a Blip2QFormerModel's weights into our Q-Former (whose last LayerNorm stays the identity)."""
    pairs = [(ours.enter, [theirs.layernorm])]
    for a, b in zip(ours.layers, theirs.encoder.layer, strict=True):
        for attention, norm, part in zip(a.attentions, a.norms, (b.attention, b.crossattention), strict=False):
            qkv = [part.attention.query, part.attention.key, part.attention.value]
            pairs += [(attention.memory, qkv)] if attention.query is None else []
            pairs += [(attention.query, qkv[:1]), (attention.memory, qkv[1:])] if attention.query is not None else []
            pairs += [(attention.out, [part.output.dense]), (norm, [part.output.LayerNorm])]
        pairs += [(a.feed_forward[0], [b.intermediate_query.dense]), (a.feed_forward[2], [b.output_query.dense])]
        pairs += [(a.norms[2], [b.output_query.LayerNorm])]
    with torch.no_grad():
        for module, sources in pairs:
            module.weight.copy_(torch.cat([s.weight for s in sources]))
            module.bias.copy_(torch.cat([s.bias for s in sources]))


def blip2(width: int, layers: int, num_heads: int) -> nn.Module:
    """A Blip2QFormerModel of our sizes."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    config = Blip2QFormerConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * width,
        encoder_hidden_size=width,
        cross_attention_frequency=1,
        layer_norm_eps=EPS,
    )
    return Blip2QFormerModel(config)


class Cross(nn.Module):
    """Post-norm nn.MultiheadAttention and feed-forward layer."""

    def __init__(self, width: int, heads: int, also_self: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.own = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True) if also_self else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, memory: Tensor, weights: bool = False) -> Tensor:
        """Queries over memory."""
        x = self.norms[0](x + self.drop(self.attention(x, memory, memory, need_weights=weights)[0]))
        if self.own is not None:
            x = self.norms[1](x + self.drop(self.own(x, x, x, need_weights=False)[0]))
        return self.norms[2](x + self.drop(self.feed_forward(x)))


class Baseline(nn.Module):
    """The same architecture from modules of transformers and torch."""

    def __init__(self, width: int, queries: int, layers: int, num_heads: int, context_tokens: int) -> None:
        super().__init__()
        experts = len(STEPS) + 1
        self.project = nn.ModuleDict()
        self.qformers = nn.ModuleDict({s: blip2(width, layers, num_heads) for s in STEPS})
        self.queries = nn.ParameterDict({s: nn.Parameter(torch.randn(1, queries, width) * 0.02) for s in STEPS})
        for s, (_, dim) in STEPS.items():
            deep = (nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))
            self.project[s] = nn.Sequential(*(deep if s == "au" else deep[:1]), nn.LayerNorm(width))
        self.sound = nn.ModuleList(Cross(width, num_heads) for _ in range(2))
        self.movement = nn.ModuleList(Cross(width, num_heads) for _ in range(2))
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())
        self.slots = nn.Parameter(torch.randn(1, experts, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, num_heads, 4 * width, 0.1, "gelu", batch_first=True)
        self.impute = nn.TransformerEncoder(layer, 2)
        self.infer = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width))
        self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))
        self.refine = Cross(width, num_heads)
        self.lead = nn.Linear(width, width)
        self.outputs = nn.Parameter(torch.randn(1, context_tokens, width) * 0.02)
        self.panorama = Cross(width, num_heads, also_self=True)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, features: dict[str, Features]) -> Tensor:
        """Class logits [B, C]."""
        projected = {s: self.project[s](f.x) for s, f in features.items()}
        tokens = {
            s: self.qformers[s](
                self.queries[s].expand(len(x), -1, -1),
                encoder_hidden_states=x,
                encoder_attention_mask=features[s].mask.long(),
            ).last_hidden_state
            for s, x in projected.items()
        }
        a, v = (
            F.interpolate(projected[s].transpose(1, 2), 32, mode="linear").transpose(1, 2) for s in ("audio", "motion")
        )
        for sound, movement in zip(self.sound, self.movement, strict=True):
            a, v = sound(a, v), movement(v, a)
        synergy = self.join(torch.cat([a, v], dim=-1)).mean(dim=1)
        summaries = torch.stack([t.mean(dim=1) for t in tokens.values()] + [synergy], dim=1)
        inferred = self.infer(self.impute(summaries + self.slots))
        summaries = summaries + 0.0 * inferred
        unimodal = (self.score(summaries).softmax(dim=1) * summaries).sum(dim=1)
        query = self.refine(unimodal[:, None], summaries)
        context = self.panorama(self.outputs + self.lead(query), torch.cat(list(tokens.values()), dim=1), weights=True)
        return self.head(torch.cat([context.mean(dim=1), query[:, 0]], dim=1))


def step(model: nn.Module, features: dict[str, Features], label: Tensor, dtype: torch.dtype) -> Callable[[], float]:
    """One training step of a model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    device = label.device.type

    def run() -> float:
        mixed = torch.autocast(device, dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with mixed:
            out = model(features)
            loss = F.cross_entropy((out if isinstance(out, Tensor) else out.logits["emotion"]).float(), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()  # also waits for a GPU

    return run


def equality(device: str) -> float:
    """Largest difference between a Blip2QFormerModel and our Q-Former with its weights, over masked inputs."""
    width, layers, heads = SIZES["width"], SIZES["layers"], SIZES["num_heads"]
    theirs = blip2(width, layers, heads).to(device).eval()
    ours = QFormer(Shape(**SIZES)).to(device).eval()
    copy_blip2(theirs, ours)
    worst = 0.0
    for steps, _ in STEPS.values():
        memory, mask = torch.randn(2, steps, width, device=device), torch.rand(2, steps, device=device) < 0.8
        with torch.no_grad():
            queries = ours.queries.expand(2, -1, -1)
            want = theirs(queries, encoder_hidden_states=memory, encoder_attention_mask=mask.long()).last_hidden_state
            worst = max(worst, (ours(memory, mask)[0] - F.layer_norm(want, (width,), eps=EPS)).abs().max().item())
    if worst > 1e-5:
        raise SystemExit(f"our Q-Former differs from Blip2QFormerModel by {worst:.1e}")
    return worst


def peak(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a large matrix product in this run."""
    a, b = torch.randn(1024, 768, device=device, dtype=dtype), torch.randn(768, 3072, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(12):
        begin = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024 * 768 * 3072 / best


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two rounds, result not written")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    difference = equality(args.device)
    print(f"Q-Former with the same weights: largest difference {difference:.1e}")
    features = {
        s: Features(torch.randn(BATCH, t, d), torch.ones(BATCH, t, dtype=torch.bool)) for s, (t, d) in STEPS.items()
    }
    features = {s: Features(f.x.to(args.device), f.mask.to(args.device)) for s, f in features.items()}
    label = torch.randint(0, CLASSES, (BATCH,), device=args.device)
    dims = {s: d for s, (_, d) in STEPS.items()}
    models = {
        "ours": Hero(dims, {"emotion": CLASSES}, shape=Shape(**SIZES), options=ExpertOptions()),
        "baseline": Baseline(**SIZES),
    }
    models = {name: m.to(args.device).train() for name, m in models.items()}
    millions = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in models.items()}
    result: dict[str, object] = {"parameters_million": millions, "qformer_difference": difference, "batch": BATCH}
    print("parameters:", ", ".join(f"{k} {v:.1f} M" for k, v in millions.items()))
    flops = {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter:
            out = model(features)
            (out if isinstance(out, Tensor) else out.logits["emotion"]).sum().backward()
        flops[name] = counter.get_total_flops()
        model.zero_grad()
    cases = {
        f"{name} {kind}": step(model, features, label, dtype)
        for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        for name, model in models.items()
    }
    timings = measure(cases, rounds=2 if args.quick else 7, seconds=240)
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        limit = peak(dtype, args.device)
        for name in models:
            case = timings[f"{name} {kind}"]
            seconds = case.median()
            share = flops[name] / seconds / limit
            rate = f"{seconds * 1e3:7.0f} ms, {BATCH / seconds:5.2f} rows/s, {share:.0%} of matmul"
            print(f"{name:>9} {kind}: {rate}")
            result[f"{name} {kind}"] = {"ms": seconds * 1e3, "cpu_ms": case.median("cpu") * 1e3, "peak": share}
        result[f"ratio {kind}"] = ratio(timings, f"ours {kind}", f"baseline {kind}")
        result[f"ratio {kind} cpu"] = ratio(timings, f"ours {kind}", f"baseline {kind}", "cpu")
    result["ratio bf16 to baseline fp32"] = ratio(timings, "ours bf16", "baseline fp32")
    result["gflop"] = {name: n / 1e9 for name, n in flops.items()}
    print("ratios:", {k: round(float(v), 2) for k, v in result.items() if k.startswith("ratio")})
    if not args.quick:
        print(write("fusion_step", {**result, "rounds": len(timings["ours fp32"].wall)}))


if __name__ == "__main__":
    main()
