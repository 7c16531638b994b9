"""Emotion wheels: both file formats, both rules, and the official tables in HERO_REAL."""

from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hero_lightning.errors import DataError
from hero_lightning.metrics.wheels import MAX_SHEET_BYTES, Wheels, read_table
from tests.metrics.wheel_tables import MAPPING, WHEELS, write_wheels, write_xlsx


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return Wheels(write_wheels(tmp_path_factory.mktemp("wheels")))


def sector(wheels: Wheels, word: str, rule: int = 0) -> list[str]:
    """Inner sector of a word on every wheel, - for none."""
    v = wheels.forms.get(word)
    clusters = [-1] * len(wheels.sectors) if v is None else wheels.clusters[rule, :, 0, v].tolist()
    return [names[c] if c >= 0 else "-" for names, c in zip(wheels.sectors, clusters, strict=True)]


@pytest.mark.parametrize("word", MAPPING)
def test_class_names_on_the_five_wheels(wheels: Wheels, word: str) -> None:
    assert sector(wheels, word) == MAPPING[word].split()


def test_the_corrected_rule_keeps_a_word_in_its_own_sector(wheels: Wheels) -> None:
    assert sector(wheels, "joyful")[4] == "powerful"  # official: cheerful comes before joyful in the alphabet
    assert sector(wheels, "joyful", rule=1)[4] == "joyful"
    assert sector(wheels, "happily")[0] == sector(wheels, "happily", rule=1)[0] == "happy"  # its base is on wheel 1


def test_the_corrected_rule_keeps_every_word_of_a_wheel_in_its_sector(wheels: Wheels) -> None:
    for k, wheel in enumerate(WHEELS):
        for inner, parts in wheel.items():
            for word in (inner, *parts, *(leaf for leaves in parts.values() for leaf in leaves)):
                assert sector(wheels, word, rule=1)[k] == inner


def test_a_word_without_a_sector_is_dropped_or_its_own_cluster(wheels: Wheels) -> None:
    v = wheels.forms["relax"]
    assert (wheels.clusters[:, :, :, v] == -1).all()
    assert wheels.lemma[v] == wheels.lemma[wheels.forms["relaxed"]] == wheels.forms["relaxed"]


def test_level_2_of_a_sector_is_its_first_part(wheels: Wheels) -> None:
    happy, content = (wheels.clusters[0, 0, 1, wheels.forms[w]] for w in ("happy", "calm"))
    assert happy == content  # content comes before excited
    assert wheels.clusters[0, 0, 1, wheels.forms["excited"]] != happy


def test_polarity_votes(wheels: Wheels) -> None:
    assert wheels.polarity(["Happy", "joy"]) == 1
    assert wheels.polarity(["sad", "angry", "happy"]) == -1
    assert wheels.polarity([]) == wheels.polarity(["neutral"]) == wheels.polarity(["happy", "sad"]) == 0


def test_workbooks_and_csv_files_are_equivalent(wheels: Wheels, tmp_path: Path) -> None:
    books = Wheels(write_wheels(tmp_path, workbooks=True))
    assert books.forms == wheels.forms
    assert (books.clusters == wheels.clusters).all()


def test_a_missing_or_broken_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="emotion wheel table format is missing") as error:
        Wheels(tmp_path)
    assert "wheels=FOLDER" in str(error.value)
    folder = write_wheels(tmp_path / "a")
    (folder / "wheel1.csv").write_text("level1,level2,level3\n" + "".join(f"sad,part{k},leaf{k}\n" for k in range(70)))
    with pytest.raises(DataError, match="too many parts"):
        Wheels(folder)
    for path in folder.glob("wheel*"):
        path.unlink()
    with pytest.raises(DataError, match="wheel1 is missing"):
        Wheels(folder)
    broken = tmp_path / "broken.xlsx"
    broken.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"(?s)The table cannot be read.*BadZipFile: File is not a zip file"):
        read_table(broken)
    write_xlsx(broken, [["a"]])
    with zipfile.ZipFile(broken, "a", zipfile.ZIP_DEFLATED) as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("xl/worksheets/sheet1.xml", b"<a>" + b" " * MAX_SHEET_BYTES + b"</a>")
    with pytest.raises(DataError, match="workbook is too large"):
        read_table(broken)


@pytest.mark.parametrize(("suffix", "parser"), [("xlsx", ElementTree), ("csv", csv)])
def test_a_foreign_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, parser: object) -> None:
    def fail(*_: object) -> None:
        raise ValueError("needs version 9")

    path = tmp_path / f"wheel1.{suffix}"
    write_xlsx(path, [["a"]])
    monkeypatch.setattr(parser, "fromstring" if suffix == "xlsx" else "reader", fail)
    with pytest.raises(DataError, match=r"(?s)The table cannot be read.*ValueError: needs version 9"):
        read_table(path)


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_the_official_tables() -> None:
    wheels = Wheels(Path(os.environ["HERO_REAL"]) / "data" / "emotion_wheel")
    assert [len(s) for s in wheels.sectors] == [6, 7, 6, 6, 6]
    assert len(wheels.forms) == 7385
    covered = (wheels.clusters[0, :, 0] >= 0).sum(axis=1).tolist()
    assert covered == [4052, 4400, 3240, 4074, 3055]
    for word in set(MAPPING) - {"fear"}:  # these tables list `fear` as a form of fearless
        assert sector(wheels, word) == MAPPING[word].split(), word
    parts, words, misplaced = [], [], []  # misplaced: wheel words that the official rule puts into another sector
    for k in range(5):
        places = wheels._wheel(f"wheel{k + 1}")
        known = {w: p[0] for w, p in places.items() if w in wheels.forms}
        parts.append(len({p for _, p in places.values()}))
        words.append(len(places))
        misplaced.append(sum(sector(wheels, w)[k] != inner for w, inner in known.items()))
        assert all(sector(wheels, w, rule=1)[k] == inner for w, inner in known.items())
    assert (parts, words, misplaced) == ([36, 41, 36, 48, 36], [114, 126, 78, 102, 77], [12, 16, 6, 12, 6])
