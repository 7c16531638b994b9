"""Official trees of IEMOCAP, CMU-MOSEI, CMU-MOSI, CH-SIMS and RAVDESS in small, with their traps."""

from __future__ import annotations

import csv
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from tests.datasets.datasets import words

MMSA_COLUMNS = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode")


def options(root: Path, *tasks, **more):
    """Constructor arguments of a data module that reads words."""
    given = {"modalities": {"text": words()}, "tasks": {t.name: t for t in tasks}, "batch_size": 4}
    return {"root": root, "features_root": root / "stores", **given, **more}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def write_normal(path: Path, words_of: Mapping[str, str] | None = None, **datasets: Mapping[str, Mapping]) -> Path:
    """MERTools' label file: 0-d object arrays of dicts, and the transcripts beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{f"{split}_dataset": np.array(dict(table), dtype=object) for split, table in datasets.items()})
    if words_of:
        rows = [(name, f"说 {said}", said) for name, said in words_of.items()]
        write_table(path.with_name("transcription-engchi-polish.csv"), ("name", "chinese", "english"), rows)
    return path


# ---- IEMOCAP

CYCLE = ("neu", "ang", "xxx", "exc", "hap", "sad", "fru", "neu", "sur")
"""Codes of a dialogue's utterances in order."""


def iemocap_dialogue(dialog: Path, name: str, codes: Sequence[str] = CYCLE) -> list[str]:
    """One dialogue: speakers F and M in turn, two seconds each; its utterance ids."""
    labels, said, ids = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], [], []
    for k, code in enumerate(codes):
        ids.append(f"{name}_{'FM'[k % 2]}{k // 2:03d}")
        labels += [
            f"[{2 * k:.4f} - {2 * k + 1.5:.4f}]\t{ids[-1]}\t{code}\t[{1 + k % 5}.5000, 3.0000, 2.2500]",
            "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  3;\t()\n",
        ]
        said.append(f"{ids[-1]} [{2 * k:03d}.0000-{2 * k + 1:03d}.5000]: Words’ of {code} {k}")
    labels[2:] = [*labels[-2:], *labels[2:-2]]  # the files are not in order of time
    write(dialog / "EmoEvaluation" / f"{name}.txt", "\n".join(labels))
    said.insert(1, f"{name}_FXX0 [002.0000-002.1000]: not labelled")
    write(dialog / "transcriptions" / f"{name}.txt", "\n".join(said))
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


class _File(dict):
    """h5py.File in small: groups are dicts, the file is their pickle."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path, self.mode = Path(path), mode
        try:
            super().__init__(pickle.loads(self.path.read_bytes()) if mode == "r" else {})
        except pickle.UnpicklingError as error:
            raise OSError(str(error)) from error

    def create_dataset(self, name: str, data: np.ndarray) -> None:
        *groups, last = name.split("/")
        node: dict = self
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = data

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        if self.mode == "w":
            self.path.write_bytes(pickle.dumps(dict(self)))


def stand_in_h5py(monkeypatch) -> None:
    """Puts a small h5py in the place of one that is not installed."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        module = ModuleType("h5py")
        module.File = _File
        monkeypatch.setitem(sys.modules, "h5py", module)


def write_csd(path: Path, name: str, tracks: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """A computational sequence: video -> intervals [N, 2], features [N, D]; with h5py or what stands in for it."""
    import h5py

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
