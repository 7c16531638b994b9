"""Metrics of written descriptions: BLEU, ROUGE-L, CIDEr and the similarity of sentence vectors.

Data flow: said and true texts --statistics--> [N, S] --sum--> metrics.

Shapes: N clips; leading axes `...` of sums are resamples or nothing.

Definitions:
  bleu1, bleu4   dataset BLEU (Papineni et al. 2002): n-gram counts and lengths of torchmetrics' BLEUScore, one reference
  rouge_l        mean F of the longest common subsequence (Lin 2004), torchmetrics
  cider          mean CIDEr-D (Vedantam et al. 2015), the usual figure of caption tables: for n = 1..4 tf-idf vectors of
                 n-grams, document frequency over the true texts, said counts clipped to the true ones, cosine times
                 exp(-(difference in length)^2 / 72); mean over n, times 10
  similarity     mean cosine of mean-pooled, normalised vectors of a local text encoder, where one is given
  words          mean length
Words are runs of letters and digits in lower case, a Chinese character is a word. SPICE and METEOR need a Java parser
and WordNet and are not offered.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.text import rouge_score
from torchmetrics.text import BLEUScore

from hero_lightning.hub import Pretrained

GRAMS = 4
SIGMA = 6.0
"""Words of difference in length that CIDEr-D forgives."""
WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+(?:'[^\W\d_]+)?")


def statistics(said: Sequence[str], true: Sequence[str], embed: Callable[[Sequence[str]], Tensor] | None) -> Tensor:
    """What every text adds to the metrics.

    Args:
        said: N texts.
        true: N references.
        embed: texts -> unit vectors [N, D]; None = without similarity.

    Returns:
        [N, 14] float64: 1, words said, words of the reference, matched n-grams (4), said n-grams (4), rouge_l, cider,
        similarity (nan without an encoder).
    """
    said, true = ([" ".join(WORD.findall(text.lower())) for text in texts] for texts in (said, true))
    rows, bleu = [], BLEUScore(n_gram=GRAMS)
    for p, y, cider in zip(said, true, ciders(said, true), strict=True):
        bleu.reset()
        bleu.update([p], [[y]])
        rouge = float(rouge_score(p, y, rouge_keys="rougeL")["rougeL_fmeasure"]) if p and y else 0.0
        lengths = [1.0, float(bleu.preds_len), float(bleu.target_len)]
        rows.append([*lengths, *bleu.numerator.tolist(), *bleu.denominator.tolist(), rouge, cider])
    out = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5 + 2 * GRAMS)
    alike = F.cosine_similarity(embed(said), embed(true)).double() if embed else torch.full((len(said),), torch.nan)
    return torch.cat([out, alike.unsqueeze(-1).to(out)], dim=-1)


def metrics(sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics [..., 14] -> figure name -> [...]."""
    n, length, reference = sums[..., 0], sums[..., 1], sums[..., 2]
    share = sums[..., 3 : 3 + GRAMS] / sums[..., 3 + GRAMS : 3 + 2 * GRAMS].clamp(min=1)
    brevity = torch.exp((1 - reference / length.clamp(min=1)).clamp(max=0))
    bleu = {f"bleu{k}": brevity * share[..., :k].log().mean(dim=-1).exp() for k in (1, GRAMS)}
    rouge, cider, alike = (sums[..., -3:] / n.unsqueeze(-1)).unbind(dim=-1)
    return {"cider": cider, **bleu, "rouge_l": rouge, "similarity": alike, "words": length / n}


def ciders(said: Sequence[str], true: Sequence[str]) -> list[float]:
    """CIDEr-D of every text against its reference; both are words with blanks between."""
    counts = [[_grams(text.split()) for text in texts] for texts in (said, true)]
    seen = Counter(gram for grams in counts[1] for gram in grams)
    whole = math.log(max(1, len(true)))

    def vectors(grams: Counter[tuple[str, ...]]) -> tuple[dict[tuple[str, ...], float], list[float]]:
        """Weight of every n-gram, and length of the vector of every n."""
        weight = {g: c * (whole - math.log(max(1, seen[g]))) for g, c in grams.items()}
        return weight, [math.sqrt(sum(w * w for g, w in weight.items() if len(g) == n)) for n in range(1, GRAMS + 1)]

    out = []
    for p, y, a, b in zip(*counts, said, true, strict=True):
        (of_p, size_p), (of_y, size_y) = vectors(p), vectors(y)
        together = [0.0] * GRAMS
        for gram in p.keys() & y.keys():
            together[len(gram) - 1] += min(of_p[gram], of_y[gram]) * of_y[gram]
        cosines = (t / (i * j) if i and j else 0.0 for t, i, j in zip(together, size_p, size_y, strict=True))
        out.append(10 * sum(cosines) / GRAMS * math.exp(-((len(a.split()) - len(b.split())) ** 2) / (2 * SIGMA**2)))
    return out


def _grams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, GRAMS + 1) for i in range(len(words) - n + 1))


class SentenceVectors:
    """Mean-pooled vectors of a text encoder of transformers.

    Args:
        name: local folder or hub id, e.g. of all-MiniLM-L6-v2.
    """

    def __init__(self, name: str, batch_size: int = 64) -> None:
        self.name, self.batch_size = name, batch_size

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors [N, D]."""
        source = Pretrained(self.name, "sentence_encoder", instead="sentence_encoder=null")
        tokenizer, model = source.tokenizer(), source.network("AutoModel", "float32", spare=("pooler",)).eval()
        out = []
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                part = list(texts[start : start + self.batch_size])
                rows = tokenizer(part, return_tensors="pt", padding=True, truncation=True, max_length=256)
                hidden, mask = model(**rows).last_hidden_state, rows["attention_mask"].unsqueeze(-1)  # [B, L, D]
                out.append(F.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1), dim=-1))
        return torch.cat(out)
