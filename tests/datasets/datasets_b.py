"""Official trees of MER, MERR, OV-MERD, VCE, V2V and mind wandering, made small, with their traps."""

from __future__ import annotations

import csv
import json
import random

import numpy as np

from hero_lightning.datasets.mer import Mer2023DataModule, Mer2024DataModule
from hero_lightning.datasets.merr import MerrDataModule
from hero_lightning.datasets.mind_wandering import MindWanderingDataModule
from hero_lightning.datasets.ovmerd import MerCaptionPlusDataModule, OvMerdPlusDataModule
from hero_lightning.datasets.v2v import V2vDataModule
from hero_lightning.datasets.vce import EMOTIONS as VCE_EMOTIONS
from hero_lightning.datasets.vce import VceDataModule
from hero_lightning.features.foreign.hero_npy import NpyDict
from hero_lightning.features.foreign.hero_npy import write_npydict
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import ClassTask, DistributionTask, OpenTask, PairTask, ScoreTask

SIX = ("neutral", "angry", "happy", "sad", "worried", "surprise")
WIDTH = 6


def table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def touch(folder, names, suffix=".mp4"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(b"clip")


def mer2023(root, n=12):
    """csv labels; train .avi, test2 .mp4; test3 without valence and with the pool in its folder."""
    parts = {"train": n, "test1": 4, "test2": 4}
    start = 1
    for part, count in parts.items():
        names = [f"sample_{k:08d}" for k in range(start, start + count)]
        start += count
        rows = [(name, SIX[k % 6], (-10 if k == 1 else f"{k % 5 - 2}.5")) for k, name in enumerate(names)]
        table(root / f"{part}-label.csv", "name,discrete,valence", rows)
        touch(root / part, names, ".mp4" if part == "test2" else ".avi")
    scored = [f"samplenew_{k:08d}" for k in range(4)]
    table(root / "test3-label.csv", "name,discrete", [(name, SIX[k]) for k, name in enumerate(scored)])
    touch(root / "test3", [*scored, "samplenew_00000098", "samplenew_00000099", "._samplenew_00000099"])
    said = [("sample_00000001", "你好", "Hello…"), ("sample_00000002", "走", ""), ("samplenew_00000099", "嗯", "Hm.")]
    table(root / "transcription-engchi-polish.csv", "name,chinese,english", said)
    table(root / "openface_face" / "sample_00000001" / "sample_00000001.csv", "frame", [(1,)])
    return root


def mer_normal(root, parts=(("train", 12), ("test1", 4))):
    """MERTools' label-6way.npz with clips in video/ and sound in audio/."""
    content, names = {}, []
    for part, count in parts:
        own = [f"{part}_{k:04d}" for k in range(count)]
        names += own
        rows = {name: {"emo": SIX[k % 6], "val": -10.0 if part == "test1" else k / 4} for k, name in enumerate(own)}
        content[f"{part}_dataset"] = np.array(rows, dtype=object)
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "label-6way.npz", **content)
    touch(root / "video", [*names, "pool_0001"])
    touch(root / "audio", names, ".wav")
    table(root / "transcription_merge.csv", "name,chinese,english", [(name, f"话{name}", "") for name in names])
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
    root.mkdir(parents=True, exist_ok=True)
    (root / "MERR_fine_grained.json").write_text(json.dumps(fine))
    (root / "MERR_coarse_grained.json").write_text(json.dumps(coarse))
    table(root / "transcription_en_all.csv", "name,sentence", [("clip_0001", "from the table")])
    touch(root / "video", fine)
    return root


def ovmerd(root, n=12):
    """Sets as Python writes them; one is empty, one clip has no words."""
    names = [f"ov_{k:04d}" for k in range(n)]
    sets = ["['Happy', 'excited']", '["sad", "hurt"]', "[angry, sad]", "happy，excited，rare"]
    rows = [(name, sets[k % 4]) for k, name in enumerate(names)]
    rows[2] = (names[2], "[]")
    table(root / "ovlabel.csv", "name,openset", rows)
    table(root / "subtitle_eng.csv", "name,sentence", [(name, f"said {name}") for name in names[1:]])
    touch(root / "video", names)
    return root


def mercaption(root, n=14):
    ovmerd(root, n)
    (root / "ovlabel.csv").rename(root / "track2_train_mercaptionplus.csv")
    reasons = [(f"ov_{k:04d}", f"because, {k}") for k in range(n)]
    table(root / "track3_train_mercaptionplus.csv", "name,reason", reasons)
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
    root.mkdir(parents=True, exist_ok=True)
    parts = {"train": [*range(8), *range(45_000, 45_004)], "test": range(50_000, 50_005)}
    for part, numbers in parts.items():
        records = {f"{k:05d}": vce_record(f"{k:05d}", VCE_EMOTIONS[k % 27]) for k in numbers}
        (root / f"{part}_labels.json").write_text(json.dumps(records))
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
    root.mkdir(parents=True, exist_ok=True)
    for part, comparisons in (V2V | parts).items():
        (root / f"{part}_labels.json").write_text(json.dumps({"comparisons": comparisons}))
        touch(root / "videos", {v for members in comparisons for v in members})
    return root


def mind_wandering(root, header="uuid,mw_label,test_fold_num,participant", people=9, clips=3):
    """`people` of `clips` clips each in three folds; every third clip is MW, every second name ends in .mp4."""
    rows = []
    for p in range(people):
        for c in range(clips):
            end = ".mp4" * (c % 2)
            rows.append((f"p{p}_c{c}{end}", ("NonMW", "NonMW", "MW")[c % 3], p % 3 + 1, f"P{p:02d}"))
    table(root / "labels.csv", header, [row[: len(header.split(","))] for row in rows])
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


def features(root):
    """A modality of stored features, written for every clip that is asked for."""
    return Modality("frame", "preextracted", source=NpyDict(root, "clip"))


def write_features(root, names, seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        clip = rng.normal(size=(3, WIDTH)).astype(np.float32)
        write_npydict(root / f"{name}.npy", {"clip": clip})


def bare(name, root, **options):
    """A dataset over whatever lies at root; nothing is written."""
    _, kind, tasks, own = DATASETS[name]
    modalities = {"frame": features(root / "features")}
    return kind(**{"root": root, "features_root": root / "stores", "modalities": modalities, "tasks": tasks(),
                   "batch_size": 4} | own | options)  # fmt: skip


def build(name, root, **options):
    """A dataset over a small official tree (written if absent), every clip with stored features."""
    if not root.exists():
        DATASETS[name][0](root)
    write_features(root / "features", [s.id for s in bare(name, root, **options).samples()])
    return bare(name, root, **options)
