"""Does the gate follow the ground truth of the demo dataset?

    python -m hero_lightning.train -m seed=0,1,2 name=tunnel
    python benchmarks/wind_tunnel.py runs/tunnel/DATE/seed=* --truth data/demo/clips900-seed0-v2/truth.json

Reads predictions.csv of finished runs on the demo dataset and prints, as mean +- std over the runs: the gate weight of
the informative channel against the others, the gate weight of audio by noise level of the frames, and the AUC of the
synergy expert for clips whose audio belongs to another utterance.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

CHANNELS = {
    "frame": ("frame",), "expression": ("face", "au"), "motion": ("motion",), "audio": ("audio",), "text": ("text",),
    "synergy": ("synergy",),
}  # fmt: skip
Rows = list[dict[str, str]]


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties counted half."""
    order = np.unique(score, return_inverse=True)[1]
    counts = np.bincount(order)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[order]
    hits = positive.sum()
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * (~positive).sum()))


def gate(row: dict[str, str], channel: str) -> float:
    """Gate weight of a channel: the sum over its modalities."""
    return sum(float(row[f"gate_{modality}"]) for modality in CHANNELS[channel])


def by_channel(rows: Rows, truth: dict) -> dict[tuple[str, str], float]:
    """(informative channel, channel) -> mean gate weight, over clips with one informative channel."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        informative = truth[row["id"]]["informative"]
        if len(informative) == 1:
            for channel in CHANNELS:
                found[informative[0], channel].append(gate(row, channel))
    return {key: float(np.mean(values)) for key, values in found.items()}


def by_noise(rows: Rows, truth: dict) -> dict[float, float]:
    """Noise level of the frames -> mean gate weight of audio, over clips with audio."""
    found: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if "audio" in row["present"].split("|"):
            found[truth[row["id"]]["noise"]["frame"]].append(gate(row, "audio"))
    return {level: float(np.mean(values)) for level, values in sorted(found.items())}


def conflict_auc(rows: Rows, truth: dict) -> float:
    """AUC of 1 - sync over clips with audio and motion."""
    both = [r for r in rows if r["sync"] not in ("", "nan")]
    conflict = np.array([bool(truth[r["id"]]["conflict"]) for r in both])
    return auc(1 - np.array([float(r["sync"]) for r in both]), conflict)


def spread(values: list[float]) -> str:
    """mean +- std."""
    return f"{np.mean(values):.3f} +- {np.std(values):.3f}"


def main() -> None:
    """Prints the tables in markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    truth = json.loads(options.truth.read_text())
    tests = []
    for run in options.runs:
        with (run / "predictions.csv").open() as file:
            tests.append([row for row in csv.DictReader(file) if row["split"] == options.split])
    channels = [by_channel(rows, truth) for rows in tests]
    print(f"{options.split} clips {len(tests[0])}, runs {len(tests)}\n")
    print("| informative | " + " | ".join(CHANNELS) + " | ranked |\n|---|" + "---|" * (len(CHANNELS) + 1))
    for informative in [c for c in CHANNELS if c != "synergy"]:
        means = {c: [found[informative, c] for found in channels] for c in CHANNELS}
        rank = sorted(CHANNELS, key=lambda c: -np.mean(means[c])).index(informative) + 1
        print(f"| {informative} | " + " | ".join(spread(means[c]) for c in CHANNELS) + f" | {rank} |")
    noise = [by_noise(rows, truth) for rows in tests]
    print("\n| noise of the frames | gate weight of audio |\n|---|---|")
    for level in noise[0]:
        print(f"| {level:.2f} | {spread([found[level] for found in noise])} |")
    print(f"\nAUC of the synergy expert on conflict clips: {spread([conflict_auc(rows, truth) for rows in tests])}")


if __name__ == "__main__":
    main()
