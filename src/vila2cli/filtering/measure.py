"""What is measured of a sample without a model: its image's hash, its caption's words and defects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vila2cli.errors import DataError
from vila2cli.files import DEFAULT_DRAFT, DEFAULT_MAX_PIXELS
from vila2cli.filtering.image_hash import image_hash
from vila2cli.filtering.metadata import Chooser
from vila2cli.image import Decode, decode_image
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.sample import Sample, caption_of, is_kept
from vila2cli.text.caption_checks import check_caption
from vila2cli.text.compose import compose_caption, neutral
from vila2cli.text.language import LANGUAGES, possible_languages
from vila2cli.text.placeholder import is_placeholder
from vila2cli.text.words import num_words

NO_CAPTION = "no-caption"
PLACEHOLDER = "placeholder"
FILTERED_BEFORE = "filtered-before"
NOT_MET, TOP = "not_met", "top"
"""The scores that hold which conditions on its metadata a sample does not meet, and what it is ranked by."""


@dataclass(slots=True)
class MeasuredSample:
    """A sample's caption, its image, the same as it is shown to the model, and the scores so far.

    What cannot be trained on has `unusable` among its scores, one word, and `error` when something
    went wrong with it.
    """

    caption: str = ""
    image: Image.Image | None = None
    shown: Image.Image | None = None
    scores: dict[str, Any] = field(default_factory=dict)

    def reject(self, reason: str, error: str) -> None:
        self.scores |= {"unusable": reason, "error": error}

    @property
    def is_usable(self) -> bool:
        return "unusable" not in self.scores

    @property
    def is_asked_about(self) -> bool:
        """Whether models are to score it: it is of use, and its metadata is as the filter wants it."""
        return self.is_usable and NOT_MET not in self.scores


@dataclass(frozen=True, slots=True)
class Measure:
    """A function of one sample, which threads can be handed; `chooser` where metadata is a rule.

    With `shows` a model is shown the image.
    """

    captions: Sequence[str]
    separator: str = "\n"
    max_pixels: int = DEFAULT_MAX_PIXELS
    reads_captions: bool = True
    decodes_pictures: bool = True
    chooser: Chooser | None = None
    draft: float = DEFAULT_DRAFT
    shows: bool = False

    def __call__(self, sample: Sample, decode: Decode = decode_image) -> MeasuredSample:
        if not is_kept(sample):
            return MeasuredSample(scores={"unusable": FILTERED_BEFORE})
        caption = neutral(compose_caption(sample, self.captions, self.separator) or "")
        measured = MeasuredSample(caption, scores={"num_words": num_words(caption)})
        if self.reads_captions and measured.scores["num_words"]:
            measured.scores |= self._text_scores(sample)
        elif self.reads_captions:
            measured.scores["unusable"] = NO_CAPTION
        self._look(sample, measured, decode)
        if self.chooser is not None and measured.is_usable:
            self._choose(self.chooser, sample, measured)
        return measured

    def _choose(self, chooser: Chooser, sample: Sample, measured: MeasuredSample) -> None:
        try:
            chosen = chooser(sample)
        except DataError as error:
            measured.reject("bad-image", str(error))
            return
        if chosen.reasons:
            measured.scores[NOT_MET] = list(chosen.reasons)
        if chosen.top is not None:
            measured.scores[TOP] = chosen.top

    def _text_scores(self, sample: Sample) -> dict[str, list[str]]:
        """What is wrong with any of the captions, and the languages that all of them may be in; both sorted."""
        texts = [text for name in self.captions if (text := caption_of(sample, name))]
        checked = [check_caption(text, reached_limit=False) for text in texts]
        # An empty caption is not a defect beside one that has words.
        worded = [caption for caption in checked if caption.defect != "empty"]
        defects = {caption.defect for caption in worded if caption.defect is not None}
        # Left out of what a model just wrote, but here a part of the text that would be trained on.
        defects |= {"reasoning" for caption in worded if caption.has_reasoning}
        # Nor is one without content beside one that has some.
        says_nothing = {PLACEHOLDER} if all(is_placeholder(caption.text) for caption in worded) else set()
        languages = set(LANGUAGES).intersection(*(possible_languages(caption.text) for caption in worded))
        return {"defects": sorted(defects | says_nothing), "languages": sorted(languages)}

    def _look(self, sample: Sample, measured: MeasuredSample, decode: Decode) -> None:
        if len(sample.images) != 1:
            reason = "several-images" if sample.images else NO_IMAGE
            measured.reject(reason, f"the sample has {len(sample.images)} images, not one")
            return
        if not self.decodes_pictures:
            return
        try:
            data = sample.images[0].data
            measured.image = decode_image(data, max_pixels=self.max_pixels)
            if self.shows and measured.is_usable:
                measured.shown = decode(data, max_pixels=self.max_pixels, draft=self.draft)
        except DataError as error:
            measured.reject("bad-image", str(error))
            return
        measured.scores["image_hash"] = str(image_hash(measured.image))
