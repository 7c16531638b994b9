"""Reads one clip for all its modalities in the loader's worker.

Data flow: Sample + Availability -> StoredFeatures from their source; one pass over the media file ->
Encoder.preprocess -> EncoderInput.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from hero_lightning.errors import MediaError
from hero_lightning.features.modality import PICTURES, Modality
from hero_lightning.features.source import Availability
from hero_lightning.media.action_units import read_au_table
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.signal import au_measures, audio_measures, motion_measures
from hero_lightning.media.types import Utterance
from hero_lightning.types import EncoderInput, Media, Row, Sample

MEASURED: dict[str, Callable[[Any], dict[str, float]]] = {
    "audio": audio_measures,
    "motion": motion_measures,
    "au": au_measures,
}
"""Modalities whose raw material is also measured, for evidence in text."""
NO_FACE = "no face in any sampled picture"
"""Reason of a face modality that turns out to be absent when the clip is decoded."""


def read_clip(
    modalities: Mapping[str, Modality],
    availability: Mapping[str, Availability],
    sample: Sample,
    epoch: int = 0,
    seed: int = 0,
) -> dict[str, Row]:
    """One clip's rows of all modalities; each media file is opened once.

    Args:
        modalities: by name.
        availability: by modality name, from Modality.availability.
        sample: the clip.
        epoch, seed: seeds of a random sampler.

    Returns:
        StoredFeatures, EncoderInput or None (absent, broken, no face in any picture) by modality name.

    Raises:
        MediaError, FeatureError: a file cannot be read although its header is valid.
    """
    rows: dict[str, Row] = dict.fromkeys(modalities)
    computed = {name: m for name, m in modalities.items() if availability[name].mode == "realtime"}
    for name, modality in modalities.items():
        if availability[name].mode == "preextracted":
            rows[name] = modality.stored(sample)
    for name, material in _materials(computed, sample, epoch, seed).items():
        encoder = computed[name].encoder
        assert encoder is not None
        if material is not None:
            measures = MEASURED[name](material) if name in MEASURED else {}
            rows[name] = EncoderInput(encoder.preprocess(material), measures)
    return rows


def _materials(modalities: Mapping[str, Modality], sample: Sample, epoch: int, seed: int) -> dict[str, Any]:
    """Raw material by modality: Frames, Waveform, ActionUnits, Utterance; None if no face is found."""
    out: dict[str, Any] = {}
    clips: dict[Media, ClipReader] = {}
    with ExitStack() as files:

        def clip(media: Media) -> ClipReader:
            if media not in clips:
                clips[media] = files.enter_context(ClipReader(media))
            return clips[media]

        if "text" in modalities:
            turns = modalities["text"].options.context_turns
            out["text"] = Utterance(sample.text or "", sample.speaker, sample.turns[-turns:] if turns else ())
        if "au" in modalities:
            out["au"] = read_au_table(sample.files["au"], lambda: clip(_media(sample.video, sample)).info.fps)
        wanted: dict[Media, dict[str, Sequence[float]]] = {}  # each file is read once for all its modalities
        for modality in (modalities[name] for name in PICTURES if name in modalities):
            assert modality.sampler is not None
            media = _media(modality.media(sample), sample)
            plan = modality.sampler.plan(clip(media).info, sample, epoch, seed)
            media = Media(plan.file) if plan.file is not None else media
            wanted.setdefault(media, {})[modality.name] = plan.times
        audio = _media(sample.audio or sample.video, sample) if "audio" in modalities else None
        if audio is not None:
            wanted.setdefault(audio, {})
        for media, times in wanted.items():
            frames, sound = clip(media).read(
                times, media == audio, {name: modalities[name].options.size for name in times}
            )
            out |= frames if sound is None else {**frames, "audio": sound}
    if "face" in out:
        out["face"] = modalities["face"].detector.crops(out["face"], sample)
    return out


def _media(media: Media | None, sample: Sample) -> Media:
    if media is None:
        raise MediaError("The clip has no media file.", expected="a video or audio file", got="none", where=sample.id)
    return media
