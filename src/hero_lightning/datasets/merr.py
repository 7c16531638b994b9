"""MERR (Emotion-LLaMA, Cheng et al. 2024): coarse and fine descriptions of clips from MER2023's pool.

Data flow: MERR_<grain>_grained.json + transcripts -> Samples with label, peak frame and descriptions.

    root/ MERR_fine_grained.json MERR_coarse_grained.json   {name: {pseu_emotion, peak_index, ...}}
          transcription_en_all.csv (name, sentence)         video/<name>.mp4
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.mer import clip_maker, read_transcripts
from hero_lightning.datasets.readers import TRANSCRIPTS, label_file, read_json
from hero_lightning.errors import DataError
from hero_lightning.types import Sample

EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise", "fear", "contempt", "doubt")
"""In the order of the official numbers 0..8."""
DESCRIPTIONS = {
    "caption": ("caption",),
    "rationale": ("smp_reason_caption", "reason_caption"),
    "au": ("visual_prior_list",),
    "audio": ("audio_prior_list",),
}
"""Our name -> MERR's keys; the first one with text counts."""


@dataclass(kw_only=True, eq=False, repr=False)
class MerrDataModule(EmotionDataModule):
    """MERR: one pool, from which validation and test are split by a seed.

    Attributes:
        grain: fine (4 487 clips with reasons) or coarse (28 618 with templated captions).
    """

    grain: str = "fine"
    test_fraction: float = 0.1

    name = "merr"
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {"emotion": EMOTIONS}
    counts: ClassVar[Mapping[str, int]] = {"fine": 4487, "coarse": 28618}
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"grain": ("fine", "coarse")}

    def official(self) -> Mapping[str, int]:
        """The count of the chosen grain."""
        return {"train": self.counts[self.grain]}

    def samples(self) -> list[Sample]:
        """One sample per clip of the description file; all keys but the label are optional."""
        root, path = Path(self.root), label_file(self.root, (f"MERR_{self.grain}_grained.json",), self.name)
        records = read_json(path, "{name: {...}}", dict, dict)
        columns = ("sentence", "sentence_en", "english")
        texts = read_transcripts(root, ("transcription_en_all.csv", *TRANSCRIPTS), columns)
        make = clip_maker(root, ("video", "videos", "test3"), texts)
        return [_sample(make, name, record, f"{path}, {name}") for name, record in records.items()]


def _sample(make: Callable[..., Sample], name: str, record: Mapping[str, Any], place: str) -> Sample:
    label, peak = str(record.get("pseu_emotion", "")).strip().lower(), record.get("peak_index")
    if not label:
        got, hint = ", ".join(record) or "an empty object", "add the key, or remove the record"
        raise DataError("A MERR record lacks 'pseu_emotion'.", expected="a label", got=got, where=place, hint=hint)
    described = {
        ours: next((text for key in keys if (text := _text(record.get(key)))), "")
        for ours, keys in DESCRIPTIONS.items()
    }
    clip = make(name, "train", {"emotion": label}, described, _text(record.get("text")))
    if peak not in (None, ""):
        try:
            clip.truth["peak_index"] = int(peak)  # a number, or a number as text
        except (TypeError, ValueError):
            where = f"{place}, key peak_index"
            raise DataError("A peak frame is not a number.", expected="an integer", got=peak, where=where) from None
    return clip


def _text(value: Any) -> str:
    """A text, or a list of phrases, as one text."""
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value or "").strip()
