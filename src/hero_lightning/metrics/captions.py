"""Metrics of generated descriptions: BLEU, ROUGE-L, CIDEr-D and the similarity of sentence embeddings.

Data flow: predicted and reference texts --statistics--> [N, 14] --sum--> metrics.

Shapes: N clips, one reference each; `...` in the shape of sums are optional axes (resamples).

Definitions:
  bleu1, bleu4  corpus BLEU (Papineni et al. 2002), n-gram counts and lengths of torchmetrics' BLEUScore
  rouge_l       mean F of the longest common subsequence (Lin 2004), torchmetrics
  cider         mean CIDEr-D (Vedantam et al. 2015): tf-idf vectors of n-grams, n = 1..4, document frequency over the
                references, predicted counts clipped to the reference's; cosine * exp(-(length difference)^2 / 72), mean
                over n, times 10
  similarity    mean cosine of mean-pooled embeddings of a text encoder, if one is given
  words         mean length of the predictions
Words are lower-case runs of letters and digits; every Chinese character is a word. SPICE and METEOR are not offered:
they need a Java parser and WordNet.
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
"""Standard deviation of CIDEr-D's length penalty, in words."""
WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+(?:'[^\W\d_]+)?")


def statistics(
    predicted: Sequence[str], reference: Sequence[str], embed: Callable[[Sequence[str]], Tensor] | None
) -> Tensor:
    """Additive statistics of N predicted texts and their references.

    Args:
        embed: texts -> unit vectors [N, D]; None = no similarity.

    Returns:
        [N, 14] float64: 1, length, length of the reference, matched n-grams (4), predicted n-grams (4), rouge_l, cider,
        similarity (nan without an encoder).
    """
    predicted, reference = ([" ".join(WORD.findall(t.lower())) for t in texts] for texts in (predicted, reference))
    rows, bleu = [], BLEUScore(n_gram=GRAMS)
    for p, y, cider in zip(predicted, reference, cider_d(predicted, reference), strict=True):
        bleu.reset()
        bleu.update([p], [[y]])
        rouge = float(rouge_score(p, y, rouge_keys="rougeL")["rougeL_fmeasure"]) if p and y else 0.0
        lengths = [1.0, float(bleu.preds_len), float(bleu.target_len)]
        rows.append([*lengths, *bleu.numerator.tolist(), *bleu.denominator.tolist(), rouge, cider])
    out = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5 + 2 * GRAMS)
    cosine = F.cosine_similarity(embed(predicted), embed(reference)) if embed else torch.full((len(out),), torch.nan)
    return torch.cat([out, cosine.unsqueeze(-1).to(out)], dim=-1)


def metrics(sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics [..., 14] -> metric name -> [...]."""
    n, length, reference = sums[..., 0], sums[..., 1], sums[..., 2]
    precision = sums[..., 3 : 3 + GRAMS] / sums[..., 3 + GRAMS : 3 + 2 * GRAMS].clamp(min=1)
    brevity = torch.exp((1 - reference / length.clamp(min=1)).clamp(max=0))
    bleu = {f"bleu{k}": brevity * precision[..., :k].log().mean(dim=-1).exp() for k in (1, GRAMS)}
    rouge, cider, cosine = (sums[..., -3:] / n.unsqueeze(-1)).unbind(dim=-1)
    return {"cider": cider, **bleu, "rouge_l": rouge, "similarity": cosine, "words": length / n}


def cider_d(predicted: Sequence[str], reference: Sequence[str]) -> list[float]:
    """CIDEr-D of every text against its reference; words are separated by spaces."""
    predictions, references = ([text.split() for text in texts] for texts in (predicted, reference))
    document_frequency = Counter(gram for words in references for gram in _ngrams(words))
    log_documents = math.log(max(1, len(references)))

    def tf_idf(words: list[str]) -> tuple[dict[tuple[str, ...], float], list[float]]:
        """Weight of every n-gram, and the norm of the vector of every n."""
        counts = _ngrams(words).items()
        weight = {g: c * (log_documents - math.log(max(1, document_frequency[g]))) for g, c in counts}
        return weight, [math.sqrt(sum(w * w for g, w in weight.items() if len(g) == n)) for n in range(1, GRAMS + 1)]

    out = []
    for p, y in zip(predictions, references, strict=True):
        (weight_p, norm_p), (weight_y, norm_y) = tf_idf(p), tf_idf(y)
        product = [0.0] * GRAMS
        for gram in weight_p.keys() & weight_y.keys():
            product[len(gram) - 1] += min(weight_p[gram], weight_y[gram]) * weight_y[gram]
        cosine = sum(t / (i * j) if i and j else 0.0 for t, i, j in zip(product, norm_p, norm_y, strict=True)) / GRAMS
        out.append(10 * cosine * math.exp(-((len(p) - len(y)) ** 2) / (2 * SIGMA**2)))
    return out


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, GRAMS + 1) for i in range(len(words) - n + 1))


class SentenceVectors:
    """Mean-pooled embeddings of a text encoder of transformers.

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
