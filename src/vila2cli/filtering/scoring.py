"""Scoring captions: the task that fills a layer of scores, on which a filter decides later."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from vila2cli.ask.fill import Dialogue
from vila2cli.engine import Result, ScoreRequest
from vila2cli.filtering.measure import Measure, MeasuredSample
from vila2cli.filtering.perplexity import Score, image_gain, perplexity
from vila2cli.shards import ShardWriter
from vila2cli.shards.sample import Annotation, Sample, Turn

if TYPE_CHECKING:
    from vila2cli.model.dual_encoder import DualEncoder

LAYER = "filter-scores"
_DIGITS = 6  # of a cosine


class CaptionScorer:
    """The task of scoring captions; `blank` says where the scores come from, `scores` which are computed.

    The two perplexities condition on `prompt` and need an engine.
    """

    def __init__(self, measure: Measure, scores: Sequence[Score], blank: Annotation, prompt: str) -> None:
        self.prepare = measure
        self._scores, self._blank, self._prompt = scores, blank, prompt

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Every sample gets an annotation, if only one that says why it is unusable."""
        return True

    def talk(self, out: ShardWriter, sample: Sample, measured: MeasuredSample) -> Dialogue:
        """Ask for the perplexities of a usable caption and write its scores."""
        image, measured.image, measured.shown = measured.shown, None, None
        kinds = [score for score in self._scores if score != "similarity"] if measured.is_asked_about else []
        logprobs: tuple[float, ...] = ()
        if kinds:
            results = yield [self._request(score, sample, measured.caption, image) for score in kinds]
            logprobs = _take(measured, dict(zip(kinds, results, strict=True)))
        else:
            out.count(answered=int(measured.is_usable))
        num_tokens = len(logprobs)
        annotation = dataclasses.replace(
            self._blank,
            scores=measured.scores | ({"num_tokens": num_tokens} if num_tokens else {}),
            num_tokens=num_tokens or None,
            logprob_mean=math.fsum(logprobs) / num_tokens if num_tokens else None,
        )
        out.annotate(sample, annotation)
        out.count(tokens=num_tokens)

    def _request(self, score: Score, sample: Sample, caption: str, image: Image.Image | None) -> ScoreRequest:
        with_image = score == "perplexity"
        assert image is not None or not with_image, "usable samples have one"
        return ScoreRequest(
            id=score,
            messages=(Turn("user", self._prompt),),
            images=(image,) if with_image and image else (),
            image_sha256s=(sample.image_sha256,) if with_image else (),
            text=caption,
        )


def _take(measured: MeasuredSample, results: Mapping[Score, Result]) -> tuple[float, ...]:
    """Note the perplexities, and return the log-probabilities of the caption: with the image, where asked."""
    scores = measured.scores
    logprobs: tuple[float, ...] = ()
    for score, result in results.items():
        if problem := _problem(result):
            measured.reject("engine-error", problem)
            continue
        scores[score.replace("-", "_")] = perplexity(result.token_logprobs)
        if score == "perplexity" or not logprobs:
            logprobs = result.token_logprobs
    if "perplexity" in scores and "text_perplexity" in scores:
        scores["image_gain"] = image_gain(scores["perplexity"], scores["text_perplexity"])
    return logprobs


def _problem(result: Result) -> str | None:
    if result.error is not None:
        return result.error
    if not result.token_logprobs:
        return "the caption has no tokens"
    odd = next((value for value in result.token_logprobs if not math.isfinite(value)), None)
    return None if odd is None else f"the model gave a token the log-probability {odd}"


class Similarity:
    """Adds similarities to what is measured of samples; the model is loaded for the first of them."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._encoder: DualEncoder | None = None

    def __call__(self, batch: Sequence[MeasuredSample]) -> None:
        """Of the sentences of each caption with its image: mean and lowest cosine, and how many there are."""
        from vila2cli.model.dual_encoder import DualEncoder

        encoder = self._encoder = self._encoder or DualEncoder(self._model)
        asked = [measured for measured in batch if measured.is_asked_about]
        pieces = [encoder.pieces(measured.caption) for measured in asked]
        images = [measured.image for measured in asked if measured.image is not None]
        cosines_of = encoder.similarities(images, [piece.texts for piece in pieces]) if asked else []
        for measured, piece, cosines in zip(asked, pieces, cosines_of, strict=True):
            if not all(map(math.isfinite, cosines)):
                measured.reject("engine-error", "the similarity model gave no number")
                continue
            measured.scores |= {
                "similarity": round(math.fsum(cosines) / len(cosines), _DIGITS),
                "sentence_similarity_min": round(min(cosines), _DIGITS),
                "num_sentences": len(cosines),
                "num_split_sentences": piece.num_split,
            }
