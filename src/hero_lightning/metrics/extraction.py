"""Extracts emotion labels from free text: by parsing a list, with a lexicon, or with a local language model.

Data flow: text -> its own list | lexicon words, without stop words and negated ones | list from an LLM -> labels.

The lexicon needs no download and is deterministic. On 9960 descriptions by ten models, its F_s correlates at 0.92 with
the F_s of labels extracted by a language model of 7 billion parameters (mean difference 2.5 points).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hero_lightning.errors import in_range
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
"""Word forms of the wheels that descriptions use without naming an emotion."""
NEGATIONS = frozenset(("no", "not", "never", "without", "neither", "nor", "none",
    "hardly", "barely", "cannot", "lacks", "lacking", "absence"))  # fmt: skip
TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[.;:!?]")
MAX_LABEL_WORDS = 3

Extractor = Callable[[Sequence[str]], list[list[str]]]
"""N texts -> N label lists, in order of first mention; empty where none was found."""


def parse_list(text: str) -> list[str] | None:
    """Labels of an answer of the form `[a, b]`, `a, b` or `... state is a, b and c.`; None for any other text."""
    brackets = re.findall(r"\[([^\[\]]*)\]", text)
    line = text.strip()
    tail = re.search(r"\b(?:is|are|includes?|feels?|:)\s*:?\s*([^.:]*)\.?\s*$", line)
    body = brackets[-1] if brackets else tail[1] if tail and "\n" not in line else line
    body = re.sub(r",?\s+(?:and|or)\s+", ",", body)
    parts = [re.sub(r"^(?:an?|the)\s+", "", p.strip(" \t\n\"'`.*“”‘’").lower()) for p in re.split(r"[,;、，|]", body)]
    parts = [p for p in parts if p]
    if not parts:
        return [] if brackets else None
    names = all(len(p.split()) <= MAX_LABEL_WORDS and re.fullmatch(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*", p) for p in parts)
    short = len(parts) > 1 or len(line.split()) <= MAX_LABEL_WORDS or bool(brackets) or bool(tail)
    negated = any(set(p.split()) & NEGATIONS for p in parts)
    return list(dict.fromkeys(parts)) if names and short and not negated else None


class Lexicon:
    """Looks up words in the word forms of the wheel tables.

    Args:
        stop: forms to ignore; None = `STOP`.
        window: forms within this many words after a negation, in the same clause, are ignored.
    """

    def __init__(self, wheels: Wheels, stop: Sequence[str] | None = None, window: int = 3) -> None:
        self.forms = wheels.forms.keys() | {"neutral"}
        self.stop, self.window = STOP if stop is None else frozenset(stop), window
        in_range("extractor.window", window, "[0, inf)")

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """A list is parsed, whatever words it contains; any other text is searched for lexicon words."""
        return [self.find(text) if (found := parse_list(text)) is None else found for text in texts]

    def find(self, text: str) -> list[str]:
        """Lexicon words and word pairs of a text that are neither negated nor stop words."""
        words = [t.lower().replace("’", "'") for t in TOKEN.findall(text)]
        found, negated = [], 0  # negated: words that the last negation still covers
        for i, word in enumerate(words):
            if word in NEGATIONS or word.endswith("n't"):
                negated = self.window + 1
            elif not word[0].isalpha():  # the clause ends
                negated = 0
            elif negated == 0:
                pair = f"{word} {words[i + 1]}" if i + 1 < len(words) else ""
                found += [w for w in (pair, word) if w in self.forms and w not in self.stop][:1]
            negated = max(0, negated - 1)
        return list(dict.fromkeys(found))


class LocalLLM:
    """Prompts a causal language model of transformers, greedy decoding; answers are parsed by `parse_list`.

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
        """Labels of the generated answers; an answer that is no list gives none."""
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
            out += [parse_list(a) or [] for a in answers]
        return out
