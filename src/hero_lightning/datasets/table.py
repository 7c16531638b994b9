"""A dataset from one table and one YAML, without Python.

Data flow: csv (or MERTools' label npz) -> rows -> Samples with media files from a column or a pattern.

    root/ labels.csv (id, path, label, split, text, speaker, dialogue, turn, start, end, ...)   clips, features, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.data.splits import check_unique
from hero_lightning.datasets.clips import SOUND
from hero_lightning.datasets.folder import read_record
from hero_lightning.datasets.readers import read_normal_form
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Sample

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
"""Column names that are recognised without `columns`; case is ignored."""
FILES = ("features", "au", "au_info")


@dataclass(kw_only=True, eq=False, repr=False)
class TableDataModule(EmotionDataModule):
    """A dataset in one table, named after its folder. Labels are the columns with a Task's name.

    Relative paths start at the table's folder. Several labels of a clip (multilabel, open) are separated by | in one
    cell. An empty cell means no value.

    Attributes:
        file: the table, below root: comma, semicolon or tab separated with a header, or `label-6way.npz`.
        columns: our name -> the table's, for columns with other names, e.g. {text: Subtitle, emotion: Answer}.
        clips: pattern of media files below root, without such a column, e.g. "video/{id}.mp4".
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
            raise ConfigError("clips has no {id}.", expected=expected, got=self.clips, where="dataset.clips")

    def samples(self) -> list[Sample]:
        """One sample per row."""
        path = Path(self.root) / self.file
        if not path.is_file():
            hint = "dataset.root=FOLDER dataset.file=NAME"
            raise DataError("The table is missing.", expected="a csv with a header", where=path, hint=hint)
        rows = list(self._npz(path) if path.suffix == ".npz" else self._csv(path))
        check_unique((s.id, place) for place, s in rows)
        return [s for _, s in rows]

    def _npz(self, path: Path) -> Iterator[tuple[str, Sample]]:
        for row in read_normal_form(path):
            cells = {"id": row.name, "split": row.split, "text": row.texts.get("english", "")}
            s = self._sample(cells, f"{path}, {row.name}")
            s.labels = {"emotion": row.emo, **({} if row.val is None else {"valence": row.val})}
            yield str(path), s

    def _csv(self, path: Path) -> Iterator[tuple[str, Sample]]:
        named: dict[str, str] | None = None
        for place, row in read_csv(path):
            named = self._named(list(row), path) if named is None else named
            yield place, self._sample({ours: row[theirs].strip() for ours, theirs in named.items()}, place)

    def _named(self, header: list[str], path: Path) -> dict[str, str]:
        """Our name -> the table's column."""
        given = dict(self.columns or {})
        plain = {c.strip().lower(): c for c in reversed(header)}
        wanted = {n: (n,) for n in (*FILES, *(t.name for t in self.tasks.values()))} | NAMES
        named = {ours: plain[n] for ours, names in wanted.items() for n in reversed(names) if n.lower() in plain}
        if missing := [c for c in given.values() if c not in header] or ([] if "id" in named | given else ["id"]):
            expected, hint = ", ".join(missing), "dataset.columns={id: NAME_OF_THE_COLUMN}"
            got = ", ".join(header)
            raise DataError("The table lacks a column.", expected=expected, got=got, where=path, hint=hint)
        return named | given

    def _sample(self, cells: Mapping[str, str], place: str) -> Sample:
        cells = {k: v for k, v in cells.items() if v}
        picture, sound = cells.get("path"), cells.get("audio")
        if picture is None and self.clips is not None and "id" in cells:
            picture = self.clips.format(id=cells["id"])
        if picture is not None and Path(picture).suffix.lower() in SOUND:
            picture, sound = None, sound or picture
        times = [_seconds(cells[k], place) for k in ("start", "end") if k in cells]
        if "id" not in cells or len(times) == 1 or (times and times[0] >= times[1]):
            got = f"id {cells.get('id')!r}, start and end {times}"
            raise DataError("A row is not a clip.", expected="an id; start before end", got=got, where=place)
        span = {"span": times} if times else {}
        record = {
            **{"video_id": cells["id"], "dialogue_id": cells.get("dialogue"), "utterance_id": cells.get("turn")},
            **{"video": picture and {"path": picture, **span}, "audio": sound and {"path": sound, **span}},
            **{k: cells.get(k) for k in ("split", "text", "speaker")},
            "files": {k: cells[k] for k in FILES if k in cells},
            "labels": {t.name: _label(t.kind, cells[t.name]) for t in self.tasks.values() if t.name in cells},
        }
        return read_record(record, place, root=Path(self.root))


def _label(kind: str, cell: str) -> str | float | list[str]:
    """The label in a cell; a score that is not a number is passed on, for the Task's own message."""
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
