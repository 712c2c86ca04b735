"""CIDEr and CIDEr-D: how much a caption has in common with those that people wrote (Vedantam et al. 2015).

n-grams of 1 to 4 words, weighed by how few images have them among their reference captions (the corpus is the
task itself, all images that were answered); the cosine with each reference, averaged over references and n,
times 10. CIDEr-D counts an n-gram no more often than the reference has it, and lowers the score by the
difference in length (a Gaussian of sigma 6). COCO's "CIDEr" is CIDEr-D; papers print it times 100.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vila2cli.errors import DataError
from vila2cli.score.grouping import means
from vila2cli.score.ptb import tokenise, tokenise_all
from vila2cli.score.scorer import Reference, Row, Scored, Scorer

NGram = tuple[str, ...]
MAX_N = 4
_SIGMA = 6.0
_SCALE = 10.0


@dataclass(frozen=True, slots=True)
class _Vector:
    """Weights of a caption's n-grams by their length, the norm of each length, and the number of 2-grams."""

    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider(
    captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], *, defended: bool = True
) -> list[float]:
    """The score of each caption, given as words, against the references of its image.

    The weights come from `references`, one group per image; with a single image all scores are 0.
    """
    counts = [[_ngrams(words) for words in group] for group in references]
    rarity = Counter(ngram for group in counts for ngram in set[NGram]().union(*group))
    log_num_images = math.log(len(references)) if references else 0.0

    def vector(ngrams: Counter[NGram]) -> _Vector:
        weights: tuple[dict[NGram, float], ...] = tuple({} for _ in range(MAX_N))
        for ngram, times in ngrams.items():
            weights[len(ngram) - 1][ngram] = times * (log_num_images - math.log(max(1, rarity[ngram])))
        norms = tuple(math.sqrt(sum(w * w for w in part.values())) for part in weights)
        return _Vector(weights, norms, sum(times for ngram, times in ngrams.items() if len(ngram) == 2))

    scores = []
    for caption, group in zip(captions, counts, strict=True):
        given = vector(_ngrams(caption))
        total = sum(_similarity(given, vector(ngrams), defended=defended) for ngrams in group)
        scores.append(_SCALE * total / (MAX_N * len(group)))
    return scores


def _ngrams(words: Sequence[str]) -> Counter[NGram]:
    return Counter(tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


def _similarity(given: _Vector, truth: _Vector, *, defended: bool) -> float:
    """The sum over n of the cosine, clipped and with the length penalty where `defended`."""
    total = 0.0
    for n in range(MAX_N):
        if not given.norms[n] or not truth.norms[n]:
            continue
        dot = 0.0
        for ngram, weight in given.weights[n].items():
            true_weight = truth.weights[n].get(ngram, 0.0)
            dot += (min(weight, true_weight) if defended else weight) * true_weight
        total += dot / (given.norms[n] * truth.norms[n])
    penalty = math.exp(-((given.length - truth.length) ** 2) / (2 * _SIGMA**2)) if defended else 1.0
    return total * penalty


def score(answer: str, reference: Reference) -> Row:
    """What shows in one caption alone; the scores need all of them and come from `complete`."""
    if not reference.answers:
        raise DataError("a caption needs at least one reference caption in 'answers'")
    return {"num_words": float(len(tokenise(answer)))}


def complete(scored: Sequence[Scored]) -> list[Row]:
    """The CIDEr-D and CIDEr of every caption."""
    captions = tokenise_all([caption.text for caption in scored])
    words = iter(tokenise_all([text for caption in scored for text in caption.references]))
    references = [[next(words) for _ in caption.references] for caption in scored]
    both = [cider(captions, references, defended=defended) for defended in (True, False)]
    return [
        {**caption.row, "score": defended, "cider_plain": plain}
        for caption, defended, plain in zip(scored, *both, strict=True)
    ]


CIDER = Scorer(
    name="cider",
    version="cider-d-3",
    headline="cider",
    score=score,
    metrics=means(cider="score", cider_plain="cider_plain", num_words="num_words"),
    complete=complete,
    keeps_references=True,
    is_share=False,
    rule="CIDEr-D of coco-caption, weights from the task's own references",
)
