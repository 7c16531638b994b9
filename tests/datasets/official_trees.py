"""Small official trees of every dataset, with the peculiarities of the real files."""

from __future__ import annotations

import csv
import json
import pickle
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from hero_lightning.datasets.mer import Mer2023DataModule, Mer2024DataModule
from hero_lightning.datasets.merr import MerrDataModule
from hero_lightning.datasets.mind_wandering import MindWanderingDataModule
from hero_lightning.datasets.ovmerd import MerCaptionPlusDataModule, OvMerdPlusDataModule
from hero_lightning.datasets.v2v import V2vDataModule
from hero_lightning.datasets.vce import EMOTIONS as VCE_EMOTIONS
from hero_lightning.datasets.vce import VceDataModule
from hero_lightning.features.foreign.hero_npy import NpyDict, write_npydict
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import ClassTask, DistributionTask, OpenTask, PairTask, ScoreTask
from tests.datasets.small_datasets import words

MMSA_COLUMNS = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode")


def datamodule_options(root: Path, *tasks, **more):
    """Constructor arguments of a data module that reads words."""
    given = {"modalities": {"text": words()}, "tasks": {t.name: t for t in tasks}, "batch_size": 4}
    return {"root": root, "features_root": root / "stores", **given, **more}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_table(path: Path, columns: Sequence[str] | str, rows: Iterable[Sequence[object]]) -> Path:
    """A csv file; `columns` is a sequence of names, or one text with commas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(",") if isinstance(columns, str) else columns, *rows])
    return path


def touch(folder: Path, names: Iterable[str], suffix: str = ".mp4") -> None:
    for name in names:
        write(folder / f"{name}{suffix}", "clip")


def write_normal(path: Path, words_of: Mapping[str, str] | None = None, **datasets: Mapping[str, Mapping]) -> Path:
    """MERTools' label file: 0-d object arrays of dicts, and the transcripts beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{f"{split}_dataset": np.array(dict(table), dtype=object) for split, table in datasets.items()})
    if words_of:
        rows = [(name, f"说 {texts}", texts) for name, texts in words_of.items()]
        write_table(path.with_name("transcription-engchi-polish.csv"), ("name", "chinese", "english"), rows)
    return path


# ---- IEMOCAP

CYCLE = ("neu", "ang", "xxx", "exc", "hap", "sad", "fru", "neu", "sur")
"""Codes of a dialogue's utterances in order."""


def iemocap_dialogue(dialog: Path, name: str, codes: Sequence[str] = CYCLE) -> list[str]:
    """One dialogue: speakers F and M in turn, two seconds each; its utterance ids."""
    labels, texts, ids = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], [], []
    for k, code in enumerate(codes):
        ids.append(f"{name}_{'FM'[k % 2]}{k // 2:03d}")
        labels += [
            f"[{2 * k:.4f} - {2 * k + 1.5:.4f}]\t{ids[-1]}\t{code}\t[{1 + k % 5}.5000, 3.0000, 2.2500]",
            "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  3;\t()\n",
        ]
        texts.append(f"{ids[-1]} [{2 * k:03d}.0000-{2 * k + 1:03d}.5000]: Words’ of {code} {k}")
    labels[2:] = [*labels[-2:], *labels[2:-2]]  # the files are not in order of time
    write(dialog / "EmoEvaluation" / f"{name}.txt", "\n".join(labels))
    texts.insert(1, f"{name}_FXX0 [002.0000-002.1000]: not labelled")
    write(dialog / "transcriptions" / f"{name}.txt", "\n".join(texts))
    return ids


def iemocap_tree(root: Path, sessions: Iterable[int] = range(1, 6), dialogues: int = 2) -> Path:
    """Sessions with dialogues of either wearer, and files that macOS leaves."""
    for s in sessions:
        dialog = root / "IEMOCAP_full_release" / f"Session{s}" / "dialog"
        for d in range(dialogues):
            iemocap_dialogue(
                dialog,
                f"Ses0{s}{'FM'[d % 2]}_{('impro01', 'script01_1')[d % 2]}{'abcdefgh'[d // 2 : d // 2 + (d > 1)]}",
            )
        write(dialog / "EmoEvaluation" / "._Ses01F_impro01.txt", "[\x00")
        write(dialog / "EmoEvaluation" / "Categorical" / "Ses01F_impro01_e2_cat.txt", ":Neutral; ()")
    return root


# ---- CMU-MOSEI, CMU-MOSI, CH-SIMS


def write_csd(path: Path, name: str, tracks: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """A computational sequence: video -> intervals [N, 2], features [N, D]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for video, (spans, values) in tracks.items():
            file.create_dataset(f"{name}/data/{video}/intervals", data=spans)
            file.create_dataset(f"{name}/data/{video}/features", data=values)
    return path


def write_folds(path: Path, train: Sequence[str], valid: Sequence[str], test: Sequence[str]) -> Path:
    lists = {"train": train, "valid": valid, "test": test}
    return write(path, "\n".join(f"standard_{k}_fold = {list(v)!r}" for k, v in lists.items()))


def mosei_transcripts(root: Path, videos: Sequence[str], clips: int = 4, shift: float = 0.0) -> None:
    """Clip k of a video speaks from 3 k to 3 k + 2 s; numbers start at 1, and one is missing, as in the release."""
    for video in videos:
        lines = [
            f"{video}___{k + 1 + (k > 1)}___{3 * k + shift}___{3 * k + 2 + shift}___said {k} in {video}"
            for k in range(clips)
        ]
        write(root / "Raw" / "Transcript" / "Segmented" / "Combined" / f"{video}.txt", "\n".join(lines) + "\n")


def mosei_labels(videos: Sequence[str], clips: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sentiment k - 1.5 (beyond -3..3 is not there), emotion k % 6 with intensity 2/3, in reversed order of time."""
    out = {}
    for v, video in enumerate(videos):
        order = range(clips)[::-1]
        values = np.zeros((clips, 7), dtype=np.float32)
        for n, k in enumerate(order):
            values[n, 0] = k - 1.5
            if (k + v) % 3:
                values[n, 1 + k % 6] = 2 / 3
        out[video] = np.array([[3.0 * k + 0.1, 3.0 * k + 2] for k in order], dtype=np.float32), values
    return out


def mmsa_rows(videos: Mapping[str, str], clips: int = 4, scale: float = 1.0) -> list[tuple]:
    """Rows of label.csv: video -> mode; scores -1, -0.4, 0, 0.6 times `scale` in turn."""
    scores = [-1.0, -0.4, 0.0, 0.6]
    return [
        (v, k + 1 + (k > 1), f"Said {k} IN {v}", scores[k % 4] * scale, 0.2, -0.2, "", "Neutral", mode)
        for v, mode in videos.items()
        for k in range(clips)
    ]


def write_mmsa_pickle(path: Path, rows: Sequence[tuple]) -> Path:
    content = {}
    for mode in ("train", "valid", "test"):
        own = [r for r in rows if r[-1] == mode]
        content[mode] = {
            "id": [f"{r[0]}$_${r[1]}" for r in own],
            "raw_text": np.array([r[2] for r in own]),
            "regression_labels": np.array([r[3] for r in own], dtype=np.float32),
            "audio": np.arange(len(own) * 12, dtype=np.float32).reshape(-1, 4, 3) + 1,
            "audio_lengths": [2 + n % 3 for n in range(len(own))],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path


SIX = ("neutral", "angry", "happy", "sad", "worried", "surprise")
WIDTH = 6


# ---- MER, MERR, OV-MERD, VCE, V2V, mind wandering


def mer2023(root, n=12):
    """csv labels; train .avi, test2 .mp4; test3 without valence and with the pool in its folder."""
    parts = {"train": n, "test1": 4, "test2": 4}
    start = 1
    for part, count in parts.items():
        names = [f"sample_{k:08d}" for k in range(start, start + count)]
        start += count
        rows = [(name, SIX[k % 6], (-10 if k == 1 else f"{k % 5 - 2}.5")) for k, name in enumerate(names)]
        write_table(root / f"{part}-label.csv", "name,discrete,valence", rows)
        touch(root / part, names, ".mp4" if part == "test2" else ".avi")
    scored = [f"samplenew_{k:08d}" for k in range(4)]
    write_table(root / "test3-label.csv", "name,discrete", [(name, SIX[k]) for k, name in enumerate(scored)])
    touch(root / "test3", [*scored, "samplenew_00000098", "samplenew_00000099", "._samplenew_00000099"])
    texts = [("sample_00000001", "你好", "Hello…"), ("sample_00000002", "走", ""), ("samplenew_00000099", "嗯", "Hm.")]
    write_table(root / "transcription-engchi-polish.csv", "name,chinese,english", texts)
    write_table(root / "openface_face" / "sample_00000001" / "sample_00000001.csv", "frame", [(1,)])
    return root


def mer_normal(root, parts=(("train", 12), ("test1", 4))):
    """MERTools' label-6way.npz with clips in video/ and sound in audio/."""
    tables = {
        part: {f"{part}_{k:04d}": {"emo": SIX[k % 6], "val": -10.0 if part == "test1" else k / 4} for k in range(count)}
        for part, count in parts
    }
    names = [name for rows in tables.values() for name in rows]
    write_normal(root / "label-6way.npz", **tables)
    touch(root / "video", [*names, "pool_0001"])
    touch(root / "audio", names, ".wav")
    write_table(root / "transcription_merge.csv", "name,chinese,english", [(name, f"话{name}", "") for name in names])
    return root


def merr(root, n=14):
    """Peaks as text, a phrase list that is a text, a missing text, an old name of the reason."""
    fine = {}
    for k in range(n):
        record = {"AU_list": ["AU05"], "visual_prior_list": ["wide eyes", "jaw drop"], "audio_prior_list": "raised",
                  "peak_index": str(k), "peak_AU_list": ["AU26"], "text": f"oh {k}",
                  "pseu_emotion": ("surprise", "doubt")[k % 2], "smp_reason_caption": f"reason {k}"}  # fmt: skip
        fine[f"clip_{k:04d}"] = record
    del fine["clip_0001"]["text"], fine["clip_0001"]["peak_index"], fine["clip_0001"]["visual_prior_list"]
    fine["clip_0002"]["reason_caption"] = fine["clip_0002"].pop("smp_reason_caption")
    coarse = {
        k: {key: v for key, v in r.items() if key not in ("text", "smp_reason_caption")} | {"caption": "templated"}
        for k, r in fine.items()
    }
    write(root / "MERR_fine_grained.json", json.dumps(fine))
    write(root / "MERR_coarse_grained.json", json.dumps(coarse))
    write_table(root / "transcription_en_all.csv", "name,sentence", [("clip_0001", "from the table")])
    touch(root / "video", fine)
    return root


def ovmerd(root, n=12):
    """Sets as Python writes them; one is empty, one clip has no words."""
    names = [f"ov_{k:04d}" for k in range(n)]
    sets = ["['Happy', 'excited']", '["sad", "hurt"]', "[angry, sad]", "happy，excited，rare"]
    rows = [(name, sets[k % 4]) for k, name in enumerate(names)]
    rows[2] = (names[2], "[]")
    write_table(root / "ovlabel.csv", "name,openset", rows)
    write_table(root / "subtitle_eng.csv", "name,sentence", [(name, f"said {name}") for name in names[1:]])
    touch(root / "video", names)
    return root


def mercaption(root, n=14):
    ovmerd(root, n)
    (root / "ovlabel.csv").rename(root / "track2_train_mercaptionplus.csv")
    reasons = [(f"ov_{k:04d}", f"because, {k}") for k in range(n)]
    write_table(root / "track3_train_mercaptionplus.csv", "name,reason", reasons)
    return root


def vce_record(name, strong="Admiration", seed=0):
    """Intensities under shuffled keys."""
    rng = random.Random(f"{seed}/{name}")
    values = {e: 0.9 if e == strong else rng.random() / 2 for e in VCE_EMOTIONS}
    keys = list(values)
    rng.shuffle(keys)
    top = sorted(values, key=values.get, reverse=True)[:3]
    return {"emotions": {k: values[k] for k in keys}, "file": f"videos/{name}.mp4", "topK": top}


def vce(root):
    for part, numbers in {"train": [*range(8), *range(45_000, 45_004)], "test": range(50_000, 50_005)}.items():
        records = {f"{k:05d}": vce_record(f"{k:05d}", VCE_EMOTIONS[k % 27]) for k in numbers}
        write(root / f"{part}_labels.json", json.dumps(records))
        touch(root / "videos", records)
    return root


V2V = {
    "train": [["00001", "00002"], ["00003", "00002"], ["00004", "00005"], ["00006", "00007"], ["00008", "00009"],
              ["00010", "00011"], ["00012", "00011"]],
    "test": [["00020", "50021"], ["50022", "50021"], ["50023", "50024"]],
    "listwise": [["00030", "50031", "50032"], ["50033", "50031", "50034", "50035"]],
}  # fmt: skip
"""Videos 2, 11, 50021 and 50031 are shared by comparisons of one part."""


def v2v(root, **parts):
    for part, comparisons in (V2V | parts).items():
        write(root / f"{part}_labels.json", json.dumps({"comparisons": comparisons}))
        touch(root / "videos", {v for members in comparisons for v in members})
    return root


def mind_wandering(root, header="uuid,mw_label,test_fold_num,participant", people=9, clips=3):
    """`people` of `clips` clips each in three folds; every third clip is MW, every second name ends in .mp4."""
    rows = []
    for p in range(people):
        for c in range(clips):
            end = ".mp4" * (c % 2)
            rows.append((f"p{p}_c{c}{end}", ("NonMW", "NonMW", "MW")[c % 3], p % 3 + 1, f"P{p:02d}"))
    write_table(root / "labels.csv", header, [row[: len(header.split(","))] for row in rows])
    touch(root / "videos", [str(row[0]).removesuffix(".mp4") for row in rows])
    return root


DATASETS = {
    "mer2023": (mer2023, Mer2023DataModule, lambda: {"emotion": ClassTask("emotion"),
                                                     "valence": ScoreTask("valence", -5, 5)}, {}),
    "mer2024": (mer_normal, Mer2024DataModule, lambda: {"emotion": ClassTask("emotion")}, {}),
    "merr": (merr, MerrDataModule, lambda: {"emotion": ClassTask("emotion")}, {}),
    "ovmerd_plus": (ovmerd, OvMerdPlusDataModule, lambda: {"openset": OpenTask("openset")},
                    {"part": "train", "test_fraction": 0.2}),
    "mercaption_plus": (mercaption, MerCaptionPlusDataModule, lambda: {"openset": OpenTask("openset")},
                        {"test_fraction": 0.2}),
    "vce": (vce, VceDataModule, lambda: {"emotions": DistributionTask("emotions", VCE_EMOTIONS)}, {}),
    "v2v": (v2v, V2vDataModule, lambda: {"preference": PairTask("preference")}, {"val_fraction": 0.25}),
    "mind_wandering": (mind_wandering, MindWanderingDataModule, lambda: {"state": ClassTask("state")}, {}),
}  # fmt: skip
"""Name -> what writes its tree, its class, its Tasks, options that this small a tree needs."""


def write_features(root, names, seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        write_npydict(root / f"{name}.npy", {"clip": rng.normal(size=(3, WIDTH)).astype(np.float32)})


def bare(name, root, **options):
    """A dataset over whatever lies at root; nothing is written."""
    _, kind, tasks, own = DATASETS[name]
    modalities = {"frame": Modality("frame", "preextracted", source=NpyDict(root / "features", "clip"))}
    return kind(**{**datamodule_options(root, modalities=modalities, tasks=tasks()), **own, **options})


def build(name, root, **options):
    """A dataset over a small official tree (written if absent), every clip with stored features."""
    if not root.exists():
        DATASETS[name][0](root)
    write_features(root / "features", [s.id for s in bare(name, root, **options).samples()])
    return bare(name, root, **options)
