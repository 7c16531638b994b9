"""Exports stored features as HERO's npy dicts or as folders of the AffectGPT family, and reads the latter.

Data flow: modalities whose stores are filled + samples -> export -> <out>/<id>.npy (dict), or
<out>/<dataset>/<folder>/<id>.npy (array) -> NpyDict, AffectGptFolder.

Shapes: T steps, D feature width; arrays are float32 [T, D].
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hero_lightning.errors import FeatureError
from hero_lightning.features.files import write_atomic
from hero_lightning.features.foreign.hero_npy import HERO_KEYS, write_npydict
from hero_lightning.features.foreign.safe_pickle import load_array, load_features
from hero_lightning.features.foreign.tables import NpyFolder
from hero_lightning.features.manifest import diff, read_manifest
from hero_lightning.features.modality import PICTURES, Modality
from hero_lightning.types import Sample, file_name

LAYOUTS = ("npydict", "affectgpt")
ENCODER_NAMES = {
    "clip-vit-large-patch14": "CLIP_VIT_LARGE",
    "clip-vit-base-patch32": "CLIP_VITB32",
    "eva_clip_g": "EVA_CLIP_G",
    "dinov2-large": "DINO2_LARGE",
    "siglip-so400m-patch14-384": "SigLIP_SO",
    "chinese-hubert-large": "HUBERT_LARGE",
    "chinese-wav2vec2-large": "WAV2VEC2_LARGE",
    "wavlm-large": "WAVLM_LARGE",
    "data2vec-audio-base-960h": "DATA2VEC_BASE",
}
"""Names of encoders in the AffectGPT family, by the last part of their hub ids."""


def folder_name(modality: Modality) -> str:
    """The family's folder name for a modality, e.g. frame_CLIP_VIT_LARGE_emotion_peak_8frms.

    Its readers expect `8clips` and `8frms` after audio and au, whatever the number of steps.
    """
    identity = modality.identity()
    encoder, sampler = identity["encoder"], identity["sampler"]
    known = str(encoder.get("name") or encoder["class"]).rstrip("/").rpartition("/")[2]
    name = f"{modality.name}_{ENCODER_NAMES.get(known.lower(), known)}"
    if modality.name not in PICTURES:
        return name + {"audio": "_8clips", "au": "_8frms"}.get(modality.name, "")
    rule = "" if (modality.name, sampler["sampler"]) == ("face", "uniform") else f"_{sampler['sampler']}"
    return f"{name}{rule}" + (f"_{sampler['count']}frms" if "count" in sampler else "")


def dataset_folder(root: Path | str, dataset: str) -> Path:
    """<root>/<dataset> in the family's spelling (mer2023, cmumosei, iemocap); `root` itself if it has that name."""
    name = dataset.lower().replace("_", "")
    name = "iemocap" if name == "iemocapfour" else name
    return Path(root) if Path(root).name == name else Path(root) / name


class AffectGptFolder(NpyFolder):
    """Features extracted by code of the AffectGPT family: <root>/<dataset>/<folder>/<id>.npy. A FeatureSource.

    Args:
        root: the family's `preextracted_root`, with or without the dataset's folder.
        dataset: its name, in our spelling or theirs.
        folder: e.g. frame_CLIP_VIT_LARGE_uniform_8frms.
        rename, patch_reduce: see NpyFolder.
    """

    def __init__(
        self,
        root: Path | str,
        dataset: str,
        folder: str,
        rename: Mapping[str, str] | None = None,
        patch_reduce: str = "cls",
    ) -> None:
        super().__init__(dataset_folder(root, dataset) / folder, None, rename, patch_reduce)


def export(
    modalities: Mapping[str, Modality],
    samples: Iterable[Sample],
    out: Path | str,
    layout: str,
    dataset: str,
    force: bool = False,
) -> int:
    """Writes stored features in a foreign layout; files that are up to date are not touched.

    Args:
        modalities: bound, with filled stores.
        samples: clips; modalities that a clip lacks are left out of its files.
        out: the root.
        layout: npydict (one dict per clip, keys of HERO, with the transcript) or affectgpt (one array per clip).
        dataset: name of the folder of layout affectgpt.
        force: delete features in `out` that were made with other settings.

    Returns:
        Number of files written.

    Raises:
        FeatureError: `out` holds features made with other settings.
        DataError: a file cannot be written.
    """
    samples, root, written = list(samples), Path(out), 0
    as_dict = layout == "npydict"
    folders = {n: root if as_dict else dataset_folder(root, dataset) / folder_name(m) for n, m in modalities.items()}
    keys = {n: HERO_KEYS.get(n, n) if as_dict else "" for n in modalities}
    for name, modality in modalities.items():
        _claim(folders[name], keys[name], modality.identity(), force)
    for folder in dict.fromkeys(folders.values()):
        for sample in samples:
            new: dict[str, Any] = {"transcript": sample.text} if as_dict and sample.text else {}
            for name, modality in modalities.items():
                source = next(
                    (f for f in (modality.source, modality.store) if f is not None and f.contains(sample)), None
                )
                if folders[name] != folder or source is None:
                    continue
                row, key = source.read(sample), keys[name]
                new[key] = row.x.numpy()
                if as_dict:  # as `convert` writes them
                    new |= {f"{key}_time": row.time.numpy()} if row.time is not None else {}
                    new |= {f"{key}_measures": row.measures} if row.measures else {}
            path = folder / f"{file_name(sample.id)}.npy"
            old = _content(path, as_dict)
            if new.keys() - {"transcript"} and any(not np.array_equal(old.get(k, ()), new[k]) for k in new):
                _write(path, old | new, as_dict)
                written += 1
    return written


def _claim(folder: Path, key: str, identity: Mapping[str, Any], force: bool) -> None:
    """Writes the identity of `key` to <folder>/manifest.json; features of another identity are refused, or deleted."""
    path, wanted, as_dict = folder / "manifest.json", json.loads(json.dumps(identity)), bool(key)
    known = read_manifest(path) if path.is_file() else {}
    first = next(folder.glob("*.npy"), None)
    unknown = {"identity": "unknown"} if first and key in _content(first, as_dict) else None
    if (stored := known.get(key, unknown)) not in (None, wanted):
        if not force:
            expected, got = diff(wanted, stored)
            problem, hint = "The folder holds features made with other settings.", "another out=DIR, or force=true"
            raise FeatureError(problem, expected=expected, got=got, where=folder, hint=hint)
        for file in folder.glob("*.npy"):
            removed = {key, f"{key}_time", f"{key}_measures"}
            kept = {k: v for k, v in _content(file, as_dict).items() if k not in removed}
            if kept.keys() - {"transcript"}:
                _write(file, kept, as_dict)
            else:
                file.unlink()
    if stored != wanted:
        write_atomic(path, json.dumps({**known, key: wanted}, indent=1, ensure_ascii=False).encode())


def _content(path: Path, as_dict: bool) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return load_features(path) if as_dict else {"": load_array(path)}


def _write(path: Path, content: Mapping[str, Any], as_dict: bool) -> None:
    if as_dict:
        write_npydict(path, content)
    else:
        buffer = io.BytesIO()
        np.save(buffer, content[""], allow_pickle=False)
        write_atomic(path, buffer.getvalue())
