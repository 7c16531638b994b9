"""The texts of the demo dataset: what is said, and what an observer would write about a clip.

Data flow: Clip -> utterance (text), describe (caption, one sentence per modality, rationale).

Descriptions are written from the truth. They are training targets and never reach a prompt.
"""

from __future__ import annotations

import numpy as np

from hero_lightning.datasets.demo.traits import TRAITS, WORDING
from hero_lightning.datasets.demo.truth import CARRIERS, Clip


def utterance(clip: Clip, seed: int) -> str:
    """What is said in a clip: a carrier phrase with two words of the emotion that the text shows."""
    rng = np.random.default_rng([seed, clip.number, 3])
    first, second = rng.choice(TRAITS[clip.shows["text"]].words, size=2, replace=False)
    phrase, topic = (WORDING[kind][rng.integers(len(WORDING[kind]))] for kind in ("phrases", "topics"))
    return phrase.format(topic=topic, first=first, second=second)


def describe(clip: Clip) -> dict[str, str]:
    """Caption, one sentence for every modality that is present, and the rationale that leads to the label."""
    out: dict[str, str] = {}
    channel_of = {modality: channel for channel, carried in CARRIERS.items() for modality in carried}
    for modality, channel in channel_of.items():
        if modality not in clip.missing:
            sentence = TRAITS[clip.shows[channel]].seen[modality]
            out[modality] = sentence if clip.noise_of(modality) < 1 else WORDING["unreadable"][modality]
    if clip.conflict:
        out["audio"] += " It does not fall on the movements of mouth and hands."
    seen = list(out)
    telling = [m for m in seen if channel_of[m] in clip.informative and clip.noise_of(m) < 1]
    calm = [m for m in seen if m not in telling and clip.shows[channel_of[m]] == "neutral"]
    out["caption"] = " ".join(out[m] for m in telling) or "Someone talks without any sign of emotion."
    reasons = ["Nothing that can be seen, heard or read shows an emotion."]
    if telling:
        reasons = [f"The {_listed(telling)} {'show' if _plural(telling) else 'shows'} {clip.emotion}."]
    if telling and calm:
        reasons.append(f"The {_listed(calm)} {'add' if _plural(calm) else 'adds'} nothing.")
    if clip.conflict:
        voice = clip.shows["audio"]
        reasons.append(f"The voice sounds {voice} but belongs to another utterance, so it does not count.")
    out["rationale"] = " ".join([*reasons, f"So the emotion is {clip.emotion}."])
    return out


def _plural(modalities: list[str]) -> bool:
    return len(modalities) > 1 or WORDING["names"][modalities[0]].endswith("s")


def _listed(modalities: list[str]) -> str:
    *names, last = (WORDING["names"][m] for m in modalities)
    return f"{', '.join(names)} and {last}" if names else last
