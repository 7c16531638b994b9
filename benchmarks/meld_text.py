"""MELD from text only: runs of HERO against logistic regression on the same samples.

    python benchmarks/meld_text.py RUN [RUN ...] --encoder FOLDER [--root MELD] [--layers -4 -3 -2 -1] [--write FOLDER]

Reads the split (splits.json) and the metrics (metrics.json) of finished runs on dataset=meld, fits logistic regression
on TF-IDF and on mean embeddings of a frozen encoder (--layers: hidden layers to average; penalty and class weights are
selected on the same validation dialogues), scores the same test rows, and prints a markdown table, runs of one name as
mean +- std. --write saves the test predictions of each regression, refitted on train + validation, as csv for
`compare protocol=meld external={TF-IDF: FILE}`, whose models are trained on both, too.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from hero_lightning.datasets.meld import MeldDataModule
from hero_lightning.encoders.text import TextEncoder
from hero_lightning.media.types import Utterance
from hero_lightning.tasks import ClassTask

SPLITS = ("train", "val", "test")


def sentence_vectors(encoder: TextEncoder, texts: list[str], batch: int = 64) -> np.ndarray:
    """Mean token vector of every text [N, D]."""
    out = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            rows = [encoder.preprocess(Utterance(t or ".")) for t in texts[start : start + batch]]
            out.append(encoder(encoder.collate(rows)).x[:, 0])  # pooling=turns: the first row is the mean
    return torch.cat(out).numpy()


def logistic(x: dict, y: dict) -> tuple[np.ndarray, str, LogisticRegression]:
    """Test predictions of the best setting on validation, the setting, and the model."""
    found = []
    for weights in (None, "balanced"):
        for c in (0.1, 0.3, 1.0, 3.0, 10.0):
            model = LogisticRegression(C=c, class_weight=weights, max_iter=400).fit(x["train"], y["train"])
            score = f1_score(y["val"], model.predict(x["val"]), average="weighted")
            found.append((score, f"C={c:g}, class weights {weights}", model))
    _, setting, model = max(found, key=lambda f: f[0])
    return model.predict(x["test"]), setting, model


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--layers", type=int, nargs="+", default=[-1])
    parser.add_argument("--write", type=Path, default=None)
    options = parser.parse_args()
    index = json.loads((options.runs[0] / "index.json").read_text())
    config = (options.runs[0] / "config.yaml").read_text()
    root = options.root or Path(next(line.split(":", 1)[1].strip() for line in config.splitlines() if "/meld" in line))
    tasks = {"emotion": ClassTask("emotion")}
    dataset = MeldDataModule(root=root, modalities={"text": None}, tasks=tasks, features_root=".")
    samples = {s.id: s for s in dataset.samples()}
    ids = json.loads((options.runs[0] / "splits.json").read_text())
    texts = {s: [samples[i].text or "" for i in ids[s]] for s in SPLITS}
    y = {s: [samples[i].labels["emotion"] for i in ids[s]] for s in SPLITS}

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b|[^\w\s]", sublinear_tf=True, min_df=2)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3)
    fitted = [v.fit(texts["train"]) for v in (words, characters)]
    tfidf = {s: hstack([v.transform(texts[s]) for v in fitted]).tocsr() for s in SPLITS}
    encoder = TextEncoder(options.encoder, pooling="turns", layers=options.layers)
    encoder.load()
    vectors = {s: sentence_vectors(encoder.eval(), texts[s]) for s in SPLITS}
    both = {s: hstack([tfidf[s], vectors[s]]).tocsr() for s in SPLITS}

    print(f"train {len(ids['train'])}, val {len(ids['val'])}, test {len(ids['test'])}: {index['split_origin']}\n")
    print("| system | weighted F1 | macro F1 | accuracy |\n|---|---|---|---|")
    for name, x in {"TF-IDF": tfidf, "frozen encoder": vectors, "both": both}.items():
        guess, setting, model = logistic(x, y)
        scores = [f1_score(y["test"], guess, average=a) for a in ("weighted", "macro")]
        scores.append(accuracy_score(y["test"], guess))
        if options.write:
            model.fit(vstack([csr_matrix(x["train"]), csr_matrix(x["val"])]), [*y["train"], *y["val"]])
            options.write.mkdir(parents=True, exist_ok=True)
            with (options.write / f"{name.replace(' ', '_')}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["id", "emotion_prediction"])
                table.writerows(zip(ids["test"], model.predict(x["test"]), strict=True))
        print(f"| logistic regression, {name} ({setting}) | " + " | ".join(f"{100 * s:.2f}" for s in scores) + " |")
    groups = defaultdict(list)
    for run in options.runs:
        metrics = json.loads((run / "metrics.json").read_text())
        assert json.loads((run / "splits.json").read_text()) == ids, f"{run} has another split"
        groups[run.parent.name].append(metrics["splits"]["test"]["emotion"]["metrics"])
    for name, runs in groups.items():
        cells = [[100 * f[k]["value"] for f in runs] for k in ("weighted_f1", "macro_f1", "accuracy")]
        means = " | ".join(f"{np.mean(c):.2f} +- {np.std(c):.2f}" for c in cells)
        print(f"| {name} ({len(runs)} seeds) | {means} |")


if __name__ == "__main__":
    main()
