"""webdataset shards with random access: an index of member offsets, so that every option of a loader works.

Data flow: *.tar --headers--> index.json (key -> shard, member -> offset and size) -> Samples whose features and media
are read at their offset inside the tar. Remote shards are downloaded once.

    root/ <split>-000000.tar ...   <key>.json (record)  <key>.npy (features)  <key>.mp4 | .wav (media)  <key>.au.csv ...
          classes.json (optional)  index.json, files/ (written here)
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.clips import SOUND, VIDEO
from hero_lightning.datasets.export import contents, write_classes
from hero_lightning.datasets.folder import LABELS, FolderDataModule, read_record
from hero_lightning.errors import DataError, cause
from hero_lightning.features.files import atomic, write_atomic
from hero_lightning.features.foreign.hero_npy import HERO_KEYS, encode_npydict
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import NamedSource
from hero_lightning.features.manifest import mismatch
from hero_lightning.types import Media, Sample, file_name

log = logging.getLogger(__name__)

CLIPS = 1000
"""Clips per shard."""


def key_of(id: str) -> str:
    """A sample's key inside a tar; dots and slashes are escaped, because webdataset splits names there."""
    return quote(id, safe=" $[]()+,=@").replace(".", "%2E")


def write_shards(datamodule: EmotionDataModule, out: Path) -> Counter[str]:
    """Writes a prepared dataset as shards per split into a new or empty folder; equal input gives equal bytes.

    Media files of a single clip are included; of a file that several clips share, the record keeps the path. Returns
    the number of clips by modality.
    """
    written: Counter[str] = Counter(dict.fromkeys(datamodule.modalities, 0))
    counts: Counter[str] = Counter()
    shards: dict[str, tarfile.TarFile] = {}
    with ExitStack() as files:
        for s, record, content in contents(datamodule, out):
            number, within = divmod(counts[s.split], CLIPS)
            if within == 0:
                path = out / f"{file_name(s.split)}-{number:06d}.tar"
                shards[s.split] = files.enter_context(tarfile.open(path, "w"))
            counts[s.split] += 1
            members: dict[str, bytes | Path] = {".json": json.dumps(record, ensure_ascii=False).encode()}
            if content:
                members[".npy"] = encode_npydict(content)
            members |= {m.path.suffix: m.path for m in (s.video, s.audio) if m and m.span is None and m.path.is_file()}
            members |= {f".{k}{p.suffix}": p for k, p in s.files.items() if k != "features" and p.is_file()}
            for suffix, member in members.items():
                data = member if isinstance(member, bytes) else member.read_bytes()
                info = tarfile.TarInfo(key_of(s.id) + suffix)
                info.size = len(data)
                shards[s.split].addfile(info, io.BytesIO(data))
            written.update(name for name in datamodule.modalities if HERO_KEYS.get(name, name) in content)
    write_classes(datamodule, out)
    return written


INDEX = {
    "shards": {str: [int]},
    "samples": {str: {"shard": str, "record": dict, "members": {str: [int]}}},
}
"""Shape of index.json."""


@lru_cache(maxsize=4)
def read_index(root: Path) -> dict[str, Any]:
    """key -> {"shard": file, "record": ..., "members": {suffix: [offset, size]}}; rebuilt when a shard has changed.

    Raises:
        DataError: no shard, or one that cannot be read.
    """
    shards = sorted(root.glob("*.tar"))
    if not shards:
        hint = "dataset.root=DIR, or dataset.urls=[URL]"
        raise DataError("There is no shard.", expected="*.tar", where=root, hint=hint)
    now = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in shards}
    path = root / "index.json"
    if (known := _stored_index(path)) and known["shards"] == now:
        return known["samples"]
    samples: dict[str, Any] = {}
    for shard in shards:
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    key, _, suffix = Path(member.name).name.partition(".")
                    entry = samples.setdefault(key, {"shard": shard.name, "record": {}, "members": {}})
                    if entry["shard"] != shard.name or suffix in entry["members"]:
                        raise DataError("A clip occurs twice.", got=member.name, where=shard)
                    entry["members"][suffix] = [member.offset_data, member.size]
                    if suffix == "json" and (file := tar.extractfile(member)) is not None:
                        entry["record"] = json.load(file)
                        if not isinstance(entry["record"], dict):
                            raise DataError("A record is no object.", got=entry["record"], where=f"{shard}, {key}")
        except (tarfile.TarError, EOFError, ValueError, RecursionError, OSError) as error:
            got, hint = cause(error), "download or write it again"
            raise DataError("A shard cannot be read.", got=got, where=shard, hint=hint) from error
    write_atomic(path, json.dumps({"shards": now, "samples": samples}, ensure_ascii=False).encode())
    return samples


def _stored_index(path: Path) -> dict[str, Any]:
    """Content of index.json; {} if there is none or it is damaged, so that it is made again from the shards."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if mismatch(known, INDEX):
        return {}
    entries = known["samples"].values()
    fits = all(e["shard"] in known["shards"] and all(len(m) == 2 for m in e["members"].values()) for e in entries)
    return known if fits else {}


@dataclass(kw_only=True, eq=False, repr=False)
class ShardsDataModule(FolderDataModule):
    """A dataset in webdataset shards.

    Attributes:
        urls: remote shards (anything webdataset opens: http, `pipe:...`, with {000000..000009}), downloaded into `root`
            before the first use. They are not streamed: sampling order, balance, bucket, pairs and resume inside an
            epoch need random access.
    """

    urls: Sequence[str] = ()

    name = "shards"

    def samples(self) -> list[Sample]:
        """One sample per key that has a record."""
        root = Path(self.root)
        for url in self.urls:
            fetch(url, root)
        keys = {*LABELS, *(t.name for t in self.tasks.values())}
        return [self._sample(root, key, entry, keys) for key, entry in read_index(root).items()]

    def _sample(self, root: Path, key: str, entry: dict[str, Any], keys: set[str]) -> Sample:
        shard = root / entry["shard"]
        record = {"video_id": unquote(key), **entry["record"]}
        s = read_record(record, f"{shard}, {key}", keys, ("video_id",), root)
        for suffix, (offset, size) in entry["members"].items():
            kind, _, ending = f".{suffix}".rpartition(".")
            if kind in ("", ".video") and f".{ending}" in VIDEO:
                s.video = replace(s.video or Media(shard), path=shard, part=(offset, size))
            elif kind in ("", ".audio") and f".{ending}" in SOUND:
                s.audio = replace(s.audio or Media(shard), path=shard, part=(offset, size))
            elif kind:  # a small file, read by its path
                s.files[kind[1:]] = path = root / "files" / f"{file_name(key)}.{file_name(suffix)}"
                if not path.is_file():
                    path.parent.mkdir(exist_ok=True)
                    with shard.open("rb") as file:
                        file.seek(offset)
                        path.write_bytes(file.read(size))
        return s


def fetch(url: str, root: Path) -> None:
    """Downloads the shards that `url` names into `root`, unless they exist."""
    from braceexpand import braceexpand
    from webdataset.gopen import gopen

    root.mkdir(parents=True, exist_ok=True)
    for one in braceexpand(url):
        path = root / one.split("?")[0].rstrip("/ |").rpartition("/")[2]
        if not path.is_file():
            log.info("downloading %s", one)
            with gopen(one) as source, atomic(path) as file:
                shutil.copyfileobj(source, file)


class ShardFeatures(NamedSource):
    """One key of the feature dicts inside shards. A FeatureSource.

    Args:
        root: folder of the shards.
        key, patch_reduce: see ArraySource; an entry of the dict (clip, video_mae, hubert, bert, au).
    """

    def __init__(self, root: Path | str, key: str, patch_reduce: str = "cls") -> None:
        super().__init__(root, key, patch_reduce=patch_reduce)

    def path(self, sample: Sample) -> Path:
        """The shard with the sample's features."""
        entry = read_index(self.at).get(key_of(sample.id), {})
        return self.at / entry["shard"] if "npy" in entry.get("members", ()) else self.at / "none"

    def content(self, sample: Sample) -> dict[str, Any]:
        """The sample's features by key."""
        path = self.path(sample)
        return _loaded(path, read_index(self.at)[key_of(sample.id)]["members"]["npy"][0]) if path.is_file() else {}

    def value(self, sample: Sample) -> Any:
        """The sample's features under `key`."""
        return self.content(sample).get(self.key)


@lru_cache(maxsize=16)
def _loaded(shard: Path, offset: int) -> dict[str, Any]:
    """Cached, so that all modalities of a clip come from one read."""
    return load_features(shard, offset)
