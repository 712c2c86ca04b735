"""Perplexity of a caption under a model, and what of it captions are ranked by (POINTS section 3.2)."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Score = Literal["perplexity", "text-perplexity", "similarity"]
"""What can be computed for a caption besides text quality and image hashes."""
RankBy = Literal["perplexity", "text-perplexity", "image-gain", "similarity"]
"""What the kept share is chosen by."""

NEEDS: Mapping[RankBy, tuple[Score, ...]] = {
    "perplexity": ("perplexity",),
    "text-perplexity": ("text-perplexity",),
    "image-gain": ("perplexity", "text-perplexity"),
    "similarity": ("similarity",),
}


def perplexity(token_logprobs: Sequence[float]) -> float:
    """exp of minus the mean log-probability (nats) of the caption's tokens, which must be one or more.

    POINTS conditions on image and prompt and leaves the end token out; so do the engines' scores.
    """
    # Beyond exp(700) a float is infinite, which is no JSON; nothing ranks differently for it.
    return math.exp(min(700.0, -math.fsum(token_logprobs) / len(token_logprobs)))


def image_gain(perplexity: float, text_perplexity: float) -> float:
    """How much likelier the image makes a caption, in nats per token; below 0 it speaks against it."""
    return math.log(text_perplexity) - math.log(perplexity)


def rank_value(scores: Mapping[str, Any], rank: RankBy) -> float | None:
    """The number by which a caption is ranked, lowest first; None when its scores do not have it."""
    sign = 1.0 if rank in ("perplexity", "text-perplexity") else -1.0
    value = scores.get(rank.replace("-", "_"))
    return None if value is None else sign * float(value)


def length_bucket(num_tokens: int, edges: Sequence[int]) -> int:
    """Which bucket a caption falls into: from 0, each edge begins the next one."""
    return bisect_right(sorted(edges), num_tokens)
