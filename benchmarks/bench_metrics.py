"""Open-vocabulary metrics: arrays over clips, wheels, levels and rules, against the definition word by word.

    python -m benchmarks.bench_metrics [--quick] [--wheels DIR]

Data flow: random label sets (20 000 clips, 1-8 words each) -> metrics by both; they must agree to 1e-12. Baseline: the
definition with a Python set per clip, wheel, level and rule, and a dict from words to clusters.
Also timed: 1000 bootstrap resamples of all metrics, and extraction from as many descriptions by the lexicon.
Without --wheels (a folder of the official tables) the small tables of the tests are used.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import measure, ratio, write
from tests.metrics.wheel_tables import write_wheels

from hero_lightning.metrics import openvocab
from hero_lightning.metrics.bootstrap import intervals
from hero_lightning.metrics.extraction import Lexicon
from hero_lightning.metrics.wheels import Wheels

CLIPS = 20_000
SEED = 0
UNKNOWN = {word: ("own", word) for word in ("neutral", "not in the tables")}
"""Words in no table."""
FILL = ("the", "speaker", "then", "turns", "while", "a", "low", "voice", "can", "be", "heard", "behind", "it")


def naive(predicted: Sequence[Sequence[str]], reference: Sequence[Sequence[str]], wheels: Wheels) -> dict[str, float]:
    """The metrics, word by word."""
    out: dict[str, list[float]] = {}
    lemma = [("own", n) for n in wheels.lemma.tolist()]
    for rule, suffix in enumerate(openvocab.SUFFIXES):
        for wheel in range(len(wheels.sectors)):
            for level in (0, 1):
                table = wheels.clusters[rule, wheel, level].tolist()
                clusters: dict[str, object] = {w: c for w, c in zip(wheels.forms, table, strict=True) if c >= 0}
                if rule:
                    clusters = {**dict(zip(wheels.forms, lemma, strict=True)), **UNKNOWN, **clusters}
                precision, recall = [], []
                for words, truth in zip(predicted, reference, strict=True):
                    p, y = ({clusters[w] for w in labels if w in clusters} for labels in (words, truth))
                    if y:
                        precision.append(len(p & y) / len(p) if p else 0.0)
                        recall.append(len(p & y) / len(y))
                a, b = np.mean(precision), np.mean(recall)
                f = 2 * a * b / (a + b) if a + b else 0.0
                if level == 0:
                    for name, value in (("f_s", f), ("precision", a), ("recall", b)):
                        out.setdefault(f"{name}{suffix}", []).append(float(value))
                else:
                    out.setdefault(f"f_s_level2{suffix}", []).append(float(f))
    return {k: float(np.mean(v)) for k, v in out.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one round, result not written")
    parser.add_argument("--wheels", type=Path, help="folder of the official tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        wheels = Wheels(args.wheels or write_wheels(Path(folder)))
    rng = np.random.default_rng(SEED)
    words = [*wheels.forms, *UNKNOWN]
    predicted, reference = (
        [[words[i] for i in rng.integers(0, len(words), n)] for n in rng.integers(1, 9, CLIPS)] for _ in range(2)
    )

    def ours() -> dict[str, float]:
        sums = openvocab.statistics(predicted, reference, wheels).sum(dim=0)
        return {k: float(v) for k, v in openvocab.metrics(sums).items()}

    found, expected = ours(), naive(predicted, reference, wheels)
    worst = max(abs(found[k] - v) for k, v in expected.items())
    if worst > 1e-12:
        raise SystemExit(f"the metrics differ from the definition by {worst:.1e}")
    print(f"{len(expected)} metrics of {CLIPS} clips equal the definition (largest difference {worst:.1e})")
    rows = openvocab.statistics(predicted, reference, wheels)
    texts = [" ".join(word for pair in zip(FILL, [*s, *FILL], strict=False) for word in pair) for s in predicted]
    lexicon = Lexicon(wheels)
    cases = {
        "arrays": ours,
        "word by word": lambda: naive(predicted, reference, wheels),
        "1000 resamples": lambda: intervals(rows, openvocab.metrics, resamples=1000),
        "lexicon": lambda: [lexicon.find(text) for text in texts],
    }
    timings = measure(cases, rounds=1 if args.quick else 7, warmup=0 if args.quick else 1, seconds=120)
    faster = ratio(timings, "arrays", "word by word")
    for name in cases:
        print(f"{name:>15}: {timings[name].median():6.2f} s")
    print(f"{faster:.1f} times faster than word by word")
    if not args.quick:
        result: dict[str, object] = {name: {"s": t.median(), "cpu_s": t.median("cpu")} for name, t in timings.items()}
        result |= {"ratio": faster, "difference": worst, "rounds": len(timings["arrays"].wall)}
        result |= {"clips": CLIPS, "forms": len(wheels.forms), "wheels": len(wheels.sectors)}
        print(write("metrics", result))


if __name__ == "__main__":
    main()
