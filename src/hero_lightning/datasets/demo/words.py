"""The words of the demo dataset: what is said, and what a careful observer would write about a clip.

Data flow: Clip -> utterance (text), describe (caption, one sentence per modality, rationale).

Descriptions are written from the truth. They are training targets and never reach a prompt.
"""

from __future__ import annotations

import numpy as np

from hero_lightning.datasets.demo.truth import CARRIERS, Clip

LEXICON = {
    "neutral": ("ordinary", "usual", "regular", "normal", "standard", "plain"),
    "happy": ("happy", "glad", "delighted", "thrilled", "wonderful", "cheerful"),
    "sad": ("sad", "unhappy", "miserable", "heartbroken", "lonely", "hopeless"),
    "angry": ("angry", "furious", "mad", "outraged", "annoyed", "unfair"),
    "surprise": ("surprised", "astonished", "amazed", "unexpected", "sudden", "unbelievable"),
    "fear": ("afraid", "scared", "terrified", "frightened", "dangerous", "worried"),
}
TOPICS = ("report", "meeting", "letter", "train", "house", "dinner", "phone call", "neighbour", "weather", "garden")
CARRIER_PHRASES = (
    "well this {topic} is {first} and {second}",
    "about the {topic} it is {first} you know really {second}",
    "I would say the {topic} was {first} and rather {second}",
    "they told me the {topic} would be {first} maybe {second}",
    "so when I saw the {topic} it was {first} just {second}",
    "you know that {topic} of yours is {first} and quite {second}",
)
SEEN = {
    "frame": {
        "neutral": "The room behind the speaker is plain.",
        "happy": "A bright yellow disc shines on the wall.",
        "sad": "Blue rain streaks fill a window on the wall.",
        "angry": "A red warning triangle hangs on the wall.",
        "surprise": "A green ring hangs on the wall.",
        "fear": "Dark purple bars stand on the wall.",
    },
    "face": {
        "neutral": "The face is at rest.",
        "happy": "The mouth corners are raised in a smile and the eyes narrow.",
        "sad": "The mouth corners droop and the inner brows rise.",
        "angry": "The brows are lowered and drawn together and the mouth is tight.",
        "surprise": "The brows are raised, the eyes wide and the mouth is open and round.",
        "fear": "The brows are raised and drawn together, the eyes wide and the mouth is stretched.",
    },
    "motion": {
        "neutral": "One hand marks the words with small strokes.",
        "happy": "Both hands swing outward.",
        "sad": "One hand sinks with every word.",
        "angry": "One hand strikes across the body.",
        "surprise": "Both hands fly up.",
        "fear": "Both hands draw in to the chest and tremble.",
    },
    "audio": {
        "neutral": "The voice is even and calm.",
        "happy": "The voice is raised, lively and a little louder.",
        "sad": "The voice is low, quiet and drawn out.",
        "angry": "The voice is loud and sharp.",
        "surprise": "The voice jumps high and rises on every syllable.",
        "fear": "The voice is high, breathy and trembles.",
    },
    "au": {
        "neutral": "No action unit is strong.",
        "happy": "Cheek raiser (AU6) and lip corner puller (AU12) are active.",
        "sad": "Inner brow raiser (AU1), brow lowerer (AU4) and lip corner depressor (AU15) are active.",
        "angry": "Brow lowerer (AU4), lid tightener (AU7) and lip tightener (AU23) are active.",
        "surprise": "Brow raisers (AU1, AU2), upper lid raiser (AU5) and jaw drop (AU26) are active.",
        "fear": "Brow raiser (AU1), brow lowerer (AU4), upper lid raiser (AU5) and lip stretcher (AU20) are active.",
    },
    "text": {
        "neutral": "The words are matter of fact.",
        "happy": "The words tell of joy.",
        "sad": "The words tell of grief.",
        "angry": "The words tell of anger.",
        "surprise": "The words tell of something unexpected.",
        "fear": "The words tell of danger.",
    },
}
UNREADABLE = {
    "frame": "The picture is too grainy to make out the room.",
    "face": "The picture is too grainy to make out the face.",
    "motion": "The picture is too grainy to follow the hands.",
    "audio": "Noise drowns the voice.",
    "au": "The action units are too unsteady to be trusted.",
}
NAMES = {"frame": "scene", "face": "face", "motion": "gesture", "audio": "voice", "au": "action units", "text": "words"}


def utterance(clip: Clip, seed: int) -> str:
    """What is said in a clip: a carrier phrase with two words of what the text shows."""
    rng = np.random.default_rng([seed, clip.number, 3])
    first, second = rng.choice(LEXICON[clip.shows["text"]], size=2, replace=False)
    phrase = CARRIER_PHRASES[rng.integers(len(CARRIER_PHRASES))]
    return phrase.format(topic=TOPICS[rng.integers(len(TOPICS))], first=first, second=second)


def describe(clip: Clip) -> dict[str, str]:
    """Caption, one sentence for every modality that is there, and the rationale that leads to the label."""
    out: dict[str, str] = {}
    modalities = [(modality, channel) for channel, carried in CARRIERS.items() for modality in carried]
    for modality, channel in modalities:
        if modality not in clip.missing:
            readable = clip.noise_of(modality) < 1
            out[modality] = SEEN[modality][clip.shows[channel]] if readable else UNREADABLE[modality]
    if clip.conflict:
        out["audio"] += " It does not fall on the movements of mouth and hands."
    telling = [s for s, c in modalities if c in clip.informative and s in out and clip.noise_of(s) < 1]
    out["caption"] = " ".join(out[s] for s in telling) or "Someone talks without any sign of emotion."
    reasons = []
    if telling:
        reasons.append(f"The {_listed(telling)} {'show' if _plural(telling) else 'shows'} {clip.emotion}.")
    else:
        reasons.append("Nothing that can be seen, heard or read shows an emotion.")
    calm = [s for s, c in modalities if s in out and s not in telling and clip.shows[c] == "neutral"]
    if telling and calm:
        reasons.append(f"The {_listed(calm)} {'add' if _plural(calm) else 'adds'} nothing.")
    if clip.conflict:
        reasons.append(
            f"The voice sounds {clip.shows['audio']} but belongs to another utterance, so it does not count."
        )
    out["rationale"] = " ".join([*reasons, f"So the emotion is {clip.emotion}."])
    return out


def _plural(modalities: list[str]) -> bool:
    return len(modalities) > 1 or NAMES[modalities[0]].endswith("s")


def _listed(modalities: list[str]) -> str:
    names = [NAMES[s] for s in modalities]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
