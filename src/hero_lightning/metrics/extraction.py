"""Labels out of free text: an answer's own list where it has one, else a lexicon, or a local language model.

Data flow: text -> list in it | words of the lexicon that are neither stopped nor negated | LLM's list -> labels.

An extractor is anything that takes N texts and gives N label lists. The lexicon needs no download and is the same on
every machine. On 9960 descriptions of ten models, lexicon, negation and stop list correlate at 0.92 with the labels
that a language model of 7 billion parameters extracted (F_s; mean difference 2.5 points).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from hero_lightning.errors import ConfigError
from hero_lightning.hub import Pretrained
from hero_lightning.metrics.wheels import Wheels

STOP = frozenset((
    *("emotional", "emotions", "emotion", "facial", "face", "content", "information", "seen", "see", "person"),
    *("personal", "determine", "observations", "related", "expert", "might", "including", "important", "clear"),
    *("clearly", "strong", "support", "supports", "supporting", "thought", "thoughts", "certain", "discern"),
    *("confidently", "casual", "living", "distance", "going", "associated", "intense", "unclear", "lack"),
    *("analyze", "analyzing", "available", "question", "open", "alone", "slight", "significant", "closed"),
    *("lost", "use", "comfortable", "negative", "positive"),
))  # fmt: skip
"""Forms of the wheels that descriptions use without naming a feeling."""
NEGATIONS = frozenset(("no", "not", "never", "without", "neither", "nor", "none",
    "hardly", "barely", "cannot", "lacks", "lacking", "absence"))  # fmt: skip
TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[.;:!?]")
LONGEST = 3
"""Words of a label."""


class Extractor(Protocol):
    """N texts -> N label lists."""

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """Labels in order of their first mention; an empty list where none was found."""


def listed(text: str) -> list[str] | None:
    """The labels of an answer that is a list: `[a, b]`, `a, b`, or `... state is a, b and c.`; None if it is none."""
    brackets = re.findall(r"\[([^\[\]]*)\]", text)
    line = text.strip()
    tail = re.search(r"\b(?:is|are|includes?|feels?|:)\s*:?\s*([^.:]*)\.?\s*$", line)
    body = brackets[-1] if brackets else tail[1] if tail and "\n" not in line else line
    body = re.sub(r",?\s+(?:and|or)\s+", ",", body)
    parts = [re.sub(r"^(?:an?|the)\s+", "", p.strip(" \t\n\"'`.*“”‘’").lower()) for p in re.split(r"[,;、，|]", body)]
    parts = [p for p in parts if p]
    if not parts:
        return [] if brackets else None
    names = all(len(p.split()) <= LONGEST and re.fullmatch(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*", p) for p in parts)
    short = len(parts) > 1 or len(line.split()) <= LONGEST or bool(brackets) or bool(tail)
    negated = any(set(p.split()) & NEGATIONS for p in parts)
    return list(dict.fromkeys(parts)) if names and short and not negated else None


class Lexicon:
    """Looks words up in the forms of the wheel tables.

    Args:
        stop: forms that count for nothing; None = `STOP`.
        window: a form within so many words behind a negation, inside its clause, is denied.
    """

    def __init__(self, wheels: Wheels, stop: Sequence[str] | None = None, window: int = 3) -> None:
        self.forms = wheels.forms.keys() | {"neutral"}
        self.stop, self.window = STOP if stop is None else frozenset(stop), window
        if window < 0:
            raise ConfigError(
                "The negation window is too short.", expected=">= 0", got=window, where="extractor.window"
            )

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """An answer that is a list is taken as it is, whatever words it uses; other text is searched."""
        return [self.find(text) if (found := listed(text)) is None else found for text in texts]

    def find(self, text: str) -> list[str]:
        """Forms of the lexicon in free text."""
        words = [t.lower().replace("’", "'") for t in TOKEN.findall(text)]
        found, denied = [], 0
        for i, word in enumerate(words):
            if word in NEGATIONS or word.endswith("n't"):
                denied = self.window + 1
            elif not word[0].isalpha():  # the clause ends
                denied = 0
            elif denied == 0:
                pair = f"{word} {words[i + 1]}" if i + 1 < len(words) else ""
                found += [w for w in (pair, word) if w in self.forms and w not in self.stop][:1]
            denied = max(0, denied - 1)
        return list(dict.fromkeys(found))


class LocalLLM:
    """Asks a causal language model of transformers, greedily; what it answers is read by `listed`.

    Args:
        name: local folder or hub id of an instruction-tuned model.
    """

    PROMPT = (
        "List every emotional state that the following description ascribes to the person, as English words in square "
        "brackets, for example [happy, surprised]. Leave out states that it denies. Answer [] if there is none.\n\n{}"
    )

    def __init__(self, name: str, batch_size: int = 8, max_new_tokens: int = 64) -> None:
        self.name, self.batch_size, self.max_new_tokens = name, batch_size, max_new_tokens

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """One answer per text; an answer without a list gives no label."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        source = Pretrained(
            self.name, "extractor.name", instead="extractor._target_=hero_lightning.metrics.extraction.Lexicon"
        )
        tokenizer = source.tokenizer(padding_side="left")
        model = source.network("AutoModelForCausalLM", "auto").to(device).eval()
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        out: list[list[str]] = []
        for start in range(0, len(texts), self.batch_size):
            prompts = [self.PROMPT.format(t) for t in texts[start : start + self.batch_size]]
            chat = bool(tokenizer.chat_template)  # its template writes the start token itself
            if chat:
                turns = [[{"role": "user", "content": p}] for p in prompts]
                prompts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            rows = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not chat).to(device)
            options = {
                "max_new_tokens": self.max_new_tokens,
                "do_sample": False,
                "pad_token_id": tokenizer.pad_token_id,
            }
            with torch.inference_mode():
                ids = model.generate(rows["input_ids"], attention_mask=rows["attention_mask"], **options)
            answers = tokenizer.batch_decode(ids[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)
            out += [listed(a) or [] for a in answers]
        return out
