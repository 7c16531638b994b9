"""Foreign layouts of stored features: HERO's npy dict and the folders of the AffectGPT family.

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
from hero_lightning.features.foreign.hero_npy import HERO_KEYS
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import NpyFolder
from hero_lightning.features.manifest import parsed, put, told
from hero_lightning.features.modality import PICTURES, Modality
from hero_lightning.types import Sample

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
"""What the AffectGPT family calls an encoder, by the last part of its hub id."""


def folder_name(modality: Modality) -> str:
    """The family's folder of a modality's features, e.g. frame_CLIP_VIT_LARGE_emotion_peak_8frms.

    Its readers look for `8clips` and `8frms` behind audio and au whatever the arrays hold.
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
    """<root>/<dataset> as the family spells it (mer2023, cmumosei, iemocap); not appended where root ends so."""
    name = dataset.lower().replace("_", "")
    name = "iemocap" if name == "iemocapfour" else name
    return Path(root) if Path(root).name == name else Path(root) / name


class AffectGptFolder(NpyFolder):
    """Features that the AffectGPT family extracted: <root>/<dataset>/<folder>/<id>.npy. A FeatureSource.

    Args:
        root: the family's `preextracted_root`, with or without the dataset' own folder.
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
    """Writes stored features in a foreign layout; what is there already and the same is left alone.

    Args:
        modalities: bound, with filled stores.
        samples: clips; what one lacks is left out of its files.
        out: the root.
        layout: npydict (one dict per clip, keys of HERO, with the transcript) or affectgpt (one array per clip).
        dataset: name of the folder of layout affectgpt.
        force: where `out` holds features made with other settings, throw those away.

    Returns:
        Files written.

    Raises:
        FeatureError: `out` holds features made with other settings, or the disk is full.
    """
    samples, root, written = list(samples), Path(out), 0
    one = layout == "npydict"
    places = {n: root if one else dataset_folder(root, dataset) / folder_name(s) for n, s in modalities.items()}
    keys = {n: HERO_KEYS.get(n, n) if one else "" for n in modalities}
    for name, modality in modalities.items():
        _claim(places[name], keys[name], modality.identity(), force)
    for folder in dict.fromkeys(places.values()):
        for sample in samples:
            new: dict[str, Any] = {"transcript": sample.text} if one and sample.text else {}
            for name, modality in modalities.items():
                source = next((f for f in (modality.source, modality.store) if f is not None and f.has(sample)), None)
                if places[name] != folder or source is None:
                    continue
                row, key = source.read(sample), keys[name]
                new[key] = row.x.numpy()
                if one:  # as `convert` writes them
                    new |= {f"{key}_time": row.time.numpy()} if row.time is not None else {}
                    new |= {f"{key}_measures": row.measures} if row.measures else {}
            path = folder / f"{sample.id}.npy"
            old = _content(path, one)
            if new.keys() - {"transcript"} and any(not np.array_equal(old.get(k, ()), new[k]) for k in new):
                _write(path, old | new, one)
                written += 1
    return written


def _claim(folder: Path, key: str, identity: Mapping[str, Any], force: bool) -> None:
    """Enters in <folder>/manifest.json what made `key`; another maker's arrays are refused, or thrown away."""
    path, wanted = folder / "manifest.json", json.loads(json.dumps(identity))
    folder.mkdir(parents=True, exist_ok=True)
    known = parsed(path) if path.is_file() else {}
    first = next(folder.glob("*.npy"), None)
    stranger = {"made by": "somebody else"} if first and key in _content(first, bool(key)) else None
    if (stored := known.get(key, stranger)) not in (None, wanted):
        if not force:
            raise FeatureError(
                "The folder holds features made with other settings.",
                expected=told(wanted, stored, 0),
                got=told(wanted, stored, 1),
                where=folder,
                hint="another out=DIR, or force=true: it throws the old ones away",
            )
        for file in folder.glob("*.npy"):
            gone = {key, f"{key}_time", f"{key}_measures"}
            left = {k: v for k, v in _content(file, bool(key)).items() if k not in gone}
            if left.keys() - {"transcript"}:
                _write(file, left, bool(key))
            else:
                file.unlink()
    if stored != wanted:
        put(path, json.dumps({**known, key: wanted}, indent=1, ensure_ascii=False).encode())


def _content(path: Path, one: bool) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return load_features(path) if one else {"": np.load(path, allow_pickle=False)}


def _write(path: Path, content: Mapping[str, Any], one: bool) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array(dict(content), dtype=object) if one else content[""], allow_pickle=one)
    put(path, buffer.getvalue())
