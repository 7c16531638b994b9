"""Small emotion wheels on which class names map to the same sectors as on the official wheels of AffectGPT."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

# inner sector -> part -> leaf words; every class word maps as in the official wheels
WHEELS = (
    {"mad": {"angry": ["furious"]}, "disgusted": {"awful": ["disgust"]}, "sad": {"lonely": ["guilty"]},
     "happy": {"excited": ["joy"], "content": ["calm"]}, "surprised": {"amazed": ["astonished"]},
     "scared": {"anxious": ["worried"], "shy": ["fear"]}},
    {"fearful": {"anxious": ["worried"]}, "angry": {"mad": ["furious"]}, "disgusted": {"awful": ["disgust"]},
     "sad": {"lonely": ["guilty"]}, "surprised": {"amazed": ["astonished"]}, "happy": {"excited": ["joy"]},
     "bad": {"tired": ["bored"]}},
    {"mad": {"angry": ["furious"]}, "scared": {"anxious": ["worried"]}, "joyful": {"excited": ["amused"]},
     "powerful": {"proud": ["surprise"]}, "peaceful": {"content": ["calm"]}, "sad": {"lonely": ["guilty"]}},
    {"joy": {"excited": ["amused"]}, "genius": {"curious": ["interested"]}, "anger": {"mad": ["furious"]},
     "sad": {"lonely": ["guilty"]}, "fear": {"anxious": ["worried"], "amazed": ["surprise"]},
     "disgust": {"awful": ["loathing"]}},
    {"mad": {"angry": ["furious"]}, "scared": {"anxious": ["worried"]}, "sad": {"lonely": ["guilty"]},
     "peaceful": {"content": ["calm"]}, "powerful": {"proud": ["cheerful"]}, "joyful": {"excited": ["amused"]}},
)  # fmt: skip
SYNONYMS = {
    "angry": "mad, anger", "joy": "joyful, happy", "happy": "joyful, joy",
    "cheerful": "happy, joyful, joy", "joyful": "happy, joy",
    "sad": "sadness", "surprised": "surprise", "fear": "afraid", "fearful": "fear", "scared": "fear", "mad": "angry",
    "disgusted": "disgust", "anger": "angry, mad",
}  # fmt: skip
FORMS = {
    "happy": "happy, happiness, happily", "joy": "joy, joys", "joyful": "joyful", "sad": "sad, sadly, sadness",
    "sadness": "sadness", "angry": "angry, angrily, anger", "anger": "anger, angers",
    "worried": "worried, worry, worries",
    "surprise": "surprise, surprises", "surprised": "surprised", "fear": "fear, fears", "disgust": "disgust",
    "calm": "calm, calmly", "mad": "mad", "furious": "furious, fury", "lonely": "lonely, loneliness",
    "relaxed": "relaxed, relax", "excited": "excited, excitement", "happiness": "happiness",
    "emotion": "emotion, emotional",
    "amazed": "amazed", "proud": "proud", "interested": "interested, interest", "cheerful": "cheerful",
    "afraid": "afraid",
}  # fmt: skip
MAPPING = {
    "worried": "scared fearful scared fear scared", "happy": "happy happy joyful joy powerful",
    "joy": "happy happy joyful joy powerful", "angry": "mad angry mad anger mad", "anger": "mad angry mad anger mad",
    "surprise": "surprised surprised powerful fear -", "sad": "sad sad sad sad sad", "sadness": "sad sad sad sad sad",
    "disgust": "disgusted disgusted - disgust -", "fear": "scared fearful scared fear scared", "neutral": "- - - - -",
}  # fmt: skip
"""Inner sectors of class names on the five official wheels."""


def rows_of(wheel: dict[str, dict[str, list[str]]]) -> list[list[str]]:
    """level1, level2, level3; a cell that repeats the one above is empty."""
    rows = [["level1", "level2", "level3"]]
    for inner, parts in wheel.items():
        for k, (part, leaves) in enumerate(parts.items()):
            for n, leaf in enumerate(leaves):
                rows.append(["" if k or n else f" {inner.title()} ", "" if n else part.title(), leaf.title()])
    return rows


def write_wheels(folder: Path, workbooks: bool = False) -> Path:
    """Writes the tables as csv, or the wheels and synonyms as workbooks."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(SYNONYMS) // 2
    items = list(SYNONYMS.items())
    runs = [["word_run1", "synonym_run1", "word_run2", "synonym_run2"]]
    runs += [[*a, *b] for a, b in zip(items[:half], items[half : 2 * half], strict=True)] + [[*items[-1], "", ""]]
    words = sorted({w.lower() for wheel in WHEELS for row in rows_of(wheel)[1:] for w in map(str.strip, row) if w})
    runs += [["", "", word, ""] for word in words]
    tables = {"synonym": runs, **{f"wheel{k}": rows_of(wheel) for k, wheel in enumerate(WHEELS, start=1)}}
    forms = {**{w: w for w in words}, **FORMS}
    for name, rows in {"format": [["name", "format"], *map(list, forms.items())], **tables}.items():
        if workbooks and name != "format":
            write_xlsx(folder / f"{name}.xlsx", rows)
        else:
            with (folder / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows)
    return folder


def write_xlsx(path: Path, rows: list[list[str]]) -> None:
    """A workbook as Excel writes it: shared strings, cells that are empty left out; every fifth row inline."""
    strings = sorted({c for row in rows for c in row if c})
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    lines = []
    for r, row in enumerate(rows, start=1):
        cells = ""
        for c, text in enumerate(row):
            cell = f"{chr(65 + c)}{r}"
            if text and r % 5:
                cells += f'<c r="{cell}" t="s"><v>{strings.index(text)}</v></c>'
            elif text:
                cells += f'<c r="{cell}" t="inlineStr"><is><t>{escape(text)}</t></is></c>'
        lines.append(f'<row r="{r}">{cells}</row>')
    shared = "".join(f'<si><t xml:space="preserve">{escape(s)}</t></si>' for s in strings)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")
        sheet = f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        archive.writestr("xl/worksheets/sheet1.xml", sheet)
