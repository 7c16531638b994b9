"""IEMOCAP (USC SAIL): acted and improvised dialogues of ten actors in five sessions, one utterance per Sample.

Data flow: EmoEvaluation/*.txt (label, span) + transcriptions/*.txt (text) -> Samples with span, half picture, turns.

    root/ or root/IEMOCAP_full_release/   Session{1..5}/dialog/{EmoEvaluation,transcriptions}/Ses01F_impro01.txt
        Session1/dialog/avi/DivX/Ses01F_impro01.avi   Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
    or MERTools' form   label_4way.npz | label_6way.npz (whole_dataset)  transcription-engchi-polish.csv  subvideo-tgt/

Ses01F_impro01_M003: session 1; F wears the motion-capture markers (left half of the picture); M speaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.readers import clean, first_existing, label_file, normal_samples
from hero_lightning.errors import DataError
from hero_lightning.types import Box, Media, Sample, link_dialogues

CODES = {
    **{"hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated"},
    **{"sur": "surprised", "fea": "fearful", "dis": "disgusted", "oth": "other", "xxx": ""},
}
"""Codes of EmoEvaluation; xxx = the raters did not agree."""
ORDERS = {
    "4way": ("happy", "sad", "neutral", "angry"),
    "6way": ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
}
"""Class orders, also of MERTools' class numbers. In 4way, excited counts as happy."""
SESSIONS_4WAY = (1085, 1023, 1151, 1031, 1241)
"""Labelled utterances by session, 5531 in all."""
SUMMARY = re.compile(r"\[([\d.]+) - ([\d.]+)\]\s+(Ses\S+)\s+(\w+)\s+\[([\d.]+), ([\d.]+), ([\d.]+)\]")
SPOKEN = re.compile(r"(Ses\S+_[FM]\d+) \[[\d.]+-[\d.]+\]:?\s*(.*)")
LEFT: Box = (0.0, 0.0, 0.5, 1.0)
RIGHT: Box = (0.5, 0.0, 1.0, 1.0)
EXTRA = "erc6_extra_happy.txt"
"""Optional: ids of the 53 xxx utterances that the pickles of dialogue papers (since DialogueRNN) label happy."""


@dataclass(kw_only=True, eq=False, repr=False)
class IemocapDataModule(EmotionDataModule):
    """IEMOCAP with one session as test; fold 5 is also the split of the dialogue papers (ERC).

    Validation is a seeded share of the other sessions' dialogues: it shares speakers with train, test does not.

    Attributes:
        protocol: 4way (excited counts as happy) or 6way.
        fold: the test session; 1 to 5 in turn is leave-one-session-out.
        keep_unlabelled: whether utterances outside the classes (xxx, rare ones) stay, without emotion, for their
            valence, activation and dominance; else they are only context of other utterances.
    """

    protocol: str = "6way"
    fold: int = 5
    keep_unlabelled: bool = False

    name = "iemocap"
    choices: ClassVar[Mapping[str, Sequence[Any]]] = {"protocol": tuple(ORDERS), "fold": range(1, 6)}
    _extra = frozenset[str]()
    _complete = False

    def class_order(self, task: str) -> Sequence[str]:
        """Classes of the protocol."""
        return ORDERS[self.protocol] if task == "emotion" else ()

    def official(self) -> Mapping[str, int]:
        """Counts of the protocol as published: 4way for every session, 6way for session 5."""
        if self.keep_unlabelled or (self.protocol == "6way" and self.fold != 5):
            return {}
        if self.protocol == "6way":
            return {"train": 5810, "test": 1623} if self._complete else {"train": 5758, "test": 1622}
        test = SESSIONS_4WAY[self.fold - 1]
        return {"train": sum(SESSIONS_4WAY) - test, "test": test}

    def samples(self) -> list[Sample]:
        """Utterances of all sessions found, each with the turns before it."""
        home = first_existing(self.root, ("IEMOCAP_full_release", "")) or Path(self.root)
        sessions = [s for k in range(1, 6) if (s := home / f"Session{k}" / "dialog" / "EmoEvaluation").is_dir()]
        if sessions:
            extra = Path(self.root) / EXTRA
            self._extra = frozenset(extra.read_text(encoding="utf-8").split() if extra.is_file() else ())
            self._complete = bool(self._extra)
            if self.protocol == "6way" and not self._complete:
                self._note(
                    f"without {EXTRA}: 7380 of the 7433 utterances of dialogue papers, 1622 of 1623 in session 5"
                )
            found = [s for folder in sessions for s in self._session(folder.parent)]
        else:
            names = ("Session1/dialog/EmoEvaluation", f"label_{self.protocol}.npz")
            found = list(self._normal(label_file(self.root, names, self.name)))
        if not any(s.split == "test" for s in found):
            expected, got = f"Session{self.fold}, the test session", sorted({s.id[:5] for s in found})
            raise DataError("No test session.", expected=expected, got=got, where=home, hint="dataset.fold=NUMBER")
        return [s for s in link_dialogues(found) if self.keep_unlabelled or "emotion" in s.labels]

    def _session(self, dialog: Path) -> Iterator[Sample]:
        """Utterances of one session, every dialogue in chronological order."""
        wavs = dialog.parent / "sentences" / "wav"
        videos = first_existing(dialog, ("avi/DivX", "avi"))
        for path in sorted((dialog / "EmoEvaluation").glob("Ses*.txt")):
            texts = _transcript(dialog / "transcriptions" / path.name)
            rows = sorted(_summaries(path), key=lambda row: (row[0], row[2]))
            for turn, (start, end, name, code, *scores) in enumerate(rows):
                half = LEFT if name[5] == name[-4] else RIGHT  # the speaker wears the markers
                yield Sample(
                    id=name,
                    split=self._split(name),
                    video=Media(videos / f"{path.stem}.avi", (start, end), half) if videos else None,
                    audio=Media(wavs / path.stem / f"{name}.wav") if wavs.is_dir() else None,
                    text=texts.get(name),
                    speaker=name[:5] + name[-4],
                    dialogue=path.stem,
                    turn=turn,
                    labels=self._labels("hap" if name in self._extra else code, scores),
                )

    def _split(self, name: str) -> str:
        return "test" if int(name[4]) == self.fold else "train"

    def _labels(self, code: str, scores: Sequence[float]) -> dict[str, Any]:
        """The raters' mean scores, and the emotion if it is a class of the protocol."""
        emotion = "happy" if (code, self.protocol) == ("exc", "4way") else CODES[code]
        labels: dict[str, Any] = dict(zip(("valence", "activation", "dominance"), scores, strict=True))
        return labels | ({"emotion": emotion} if emotion in ORDERS[self.protocol] else {})

    def _normal(self, path: Path) -> Iterator[Sample]:
        """MERTools' form: labelled utterances and cut clips without times; turns are in the order of the file."""
        self._complete = True  # its labels include the 53
        for s in normal_samples(path, ORDERS[self.protocol]):
            yield replace(s, split=self._split(s.id), speaker=s.id[:5] + s.id[-4], dialogue=s.id[:-5])


def _summaries(path: Path) -> Iterator[tuple[float, float, str, str, float, float, float]]:
    """Start, end (s), id, code, valence, activation, dominance of every summary line."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.startswith("["):  # single raters, header
            continue
        found = SUMMARY.match(line)
        if found is None or found[4] not in CODES:
            problem, where = "An EmoEvaluation line has another form.", f"{path}, line {number}"
            expected, hint = f"[start - end] id code [v, a, d], code of {', '.join(CODES)}", "download the file again"
            raise DataError(problem, expected=expected, got=line, where=where, hint=hint)
        start, end, name, code, *scores = found.groups()
        valence, activation, dominance = map(float, scores)
        yield float(start), float(end), name, code, valence, activation, dominance


def _transcript(path: Path) -> dict[str, str]:
    """Utterance id -> text; ids without a number (FXX0) are not labelled and are skipped."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {m[1]: clean(m[2]) for line in lines if (m := SPOKEN.match(line)) and m[2]}
