"""A corpus of your own from one table and one YAML: no Python.

Data flow: csv (or MERTools' label npz) -> rows -> Samples, whose media lie where the table or a pattern says.

    root/ labels.csv (id, path, label, split, text, speaker, dialogue, turn, start, end, ...)   clips, features, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hero_lightning.data.clips import SOUND
from hero_lightning.data.datamodule import CorpusDataModule
from hero_lightning.data.rows import read_normal_form
from hero_lightning.data.splits import SPLIT_NAMES, check_unique
from hero_lightning.data.types import Media, Sample
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.streams.tables import read_csv

NAMES = {
    "id": ("id", "name", "video_id", "clip"),
    "path": ("path", "video", "file", "video_path"),
    "audio": ("audio", "audio_path", "wav"),
    "split": ("split", "partition", "mode"),
    "text": ("text", "transcript", "utterance", "sentence", "english"),
    "speaker": ("speaker", "actor", "participant"),
    "dialogue": ("dialogue", "dialogue_id"),
    "turn": ("turn", "utterance_id"),
    "start": ("start", "start_time"),
    "end": ("end", "end_time"),
    "emotion": ("emotion", "label", "discrete", "emo"),
    "valence": ("valence", "val"),
}
"""What a column may be called without being named in `columns`; capitals do not matter."""
FILES = ("features", "au", "au_info")


@dataclass(kw_only=True, eq=False, repr=False)
class TableDataModule(CorpusDataModule):
    """A corpus in one table, called as its folder. Labels are the columns that carry a Target's name.

    A relative path starts at the table's folder. Several labels of a clip (multilabel, open) stand in one cell, with |
    between them. An empty cell says that there is nothing.

    Attributes:
        file: the table, below root: comma, semicolon or tab separated with a header, or `label-6way.npz`.
        columns: our name -> the table's, for columns called otherwise, e.g. {text: Subtitle, emotion: Answer}.
        clips: where media lie if no column says so, below root, e.g. "video/{id}.mp4".
    """

    file: str = "labels.csv"
    columns: Mapping[str, str] | None = None
    clips: str | None = None

    name = "table"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = Path(self.root).resolve().name  # two tables must not share stores
        if self.clips is not None and "{id}" not in self.clips:
            expected = 'a pattern with {id}, e.g. "video/{id}.mp4"'
            raise ConfigError("clips names no clip.", expected=expected, got=self.clips, where="dataset.clips")

    def samples(self) -> list[Sample]:
        """One sample per row."""
        path = Path(self.root) / self.file
        if not path.is_file():
            mend = "dataset.root=FOLDER dataset.file=NAME"
            raise DataError("The table is missing.", expected="a csv with a header", where=path, mend=mend)
        rows = list(self._npz(path) if path.suffix == ".npz" else self._csv(path))
        check_unique((s.id, place) for place, s in rows)
        return [s for _, s in rows]

    def _npz(self, path: Path) -> Iterator[tuple[str, Sample]]:
        for row in read_normal_form(path):
            labels = {"emotion": row.emo, "valence": row.val}
            cells = {"id": row.name, "split": row.split, "text": row.words.get("english", "")}
            s = self._sample(cells, f"{path}, {row.name}")
            s.labels = {k: v for k, v in labels.items() if v is not None}
            yield str(path), s

    def _csv(self, path: Path) -> Iterator[tuple[str, Sample]]:
        named: dict[str, str] | None = None
        for line, row in read_csv(path, ()):
            named = self._named(list(row), path) if named is None else named
            cells = {ours: row[theirs].strip() for ours, theirs in named.items()}
            yield f"{path}, line {line}", self._sample(cells, f"{path}, line {line}")

    def _named(self, header: list[str], path: Path) -> dict[str, str]:
        """Our name -> the table's column."""
        given = dict(self.columns or {})
        plain = {c.strip().lower(): c for c in reversed(header)}
        wanted = {n: (n,) for n in (*FILES, *(t.name for t in self.targets.values()))} | NAMES
        named = {ours: plain[n] for ours, names in wanted.items() for n in reversed(names) if n.lower() in plain}
        if missing := [c for c in given.values() if c not in header] or ([] if "id" in named | given else ["id"]):
            expected, mend = ", ".join(missing), "dataset.columns={id: NAME_OF_THE_COLUMN}"
            raise DataError(
                "The table lacks a column.", expected=expected, got=", ".join(header), where=path, mend=mend
            )
        return named | given

    def _sample(self, cells: Mapping[str, str], place: str) -> Sample:
        def path(name: str) -> Path | None:
            return Path(self.root) / cells[name] if cells.get(name) else None

        media = path("path")
        if media is None and self.clips is not None:
            media = Path(self.root) / self.clips.format(id=cells["id"])
        times = [_seconds(cells[k], place) if cells.get(k) else None for k in ("start", "end")]
        span = None if times[0] is None or times[1] is None else (times[0], times[1])
        if not cells["id"] or (span is not None and span[0] >= span[1]) or times.count(None) == 1:
            got = f"id {cells['id']!r}, start and end {times}"
            raise DataError("A row makes no clip.", expected="an id; start before end", got=got, where=place)
        split, sound = cells.get("split", "").lower() or "train", path("audio")
        if media is not None and media.suffix.lower() in SOUND:
            media, sound = None, sound or media
        labels = {t.name: (t.kind, cells[t.name]) for t in self.targets.values() if cells.get(t.name)}
        return Sample(
            id=cells["id"],
            split=SPLIT_NAMES.get(split, split),
            video=Media(media, span) if media else None,
            audio=Media(sound, span) if sound else None,
            files={k: file for k in FILES if (file := path(k)) is not None},
            text=cells.get("text") or None,
            speaker=cells.get("speaker") or None,
            dialogue=cells.get("dialogue") or None,
            turn=int(cells["turn"]) if cells.get("turn", "").isdecimal() else None,
            labels={name: _label(kind, cell) for name, (kind, cell) in labels.items()},
        )


def _label(kind: str, cell: str) -> str | float | list[str]:
    """A cell as its Target takes it; one that is no number stays as it is, for the Target's own message."""
    if kind in ("multilabel", "open"):
        return [v.strip() for v in cell.split("|")]
    try:
        return float(cell) if kind == "score" else cell
    except ValueError:
        return cell


def _seconds(cell: str, place: str) -> float:
    """12.5, 0:12.5 or 00:00:12,500 as seconds."""
    try:
        parts = [float(p) for p in cell.replace(",", ".").split(":")]
    except ValueError as error:
        raise DataError("A time cannot be read.", expected="12.5 or 00:00:12,500", got=cell, where=place) from error
    return sum(p * 60**k for k, p in enumerate(reversed(parts)))
