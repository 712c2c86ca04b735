"""From a sample with its annotations to the turns that a model is trained on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vila2cli.settings import CaptionSettings
from vila2cli.shards.layers import LayerInfo
from vila2cli.shards.sample import (
    FILTER,
    IMAGE_PLACEHOLDER,
    ORIGINAL,
    Annotation,
    Sample,
    Turn,
    caption_of,
    is_kept,
)
from vila2cli.text.prompts import draw, stable_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """How a sample's captions become one training text.

    With `choose`, the shares of sources, a sample has one caption, which is drawn by the epoch as well, see
    `alternatives`. Else `captions` are joined by `separator` in the order given, or in one drawn per image
    with `shuffle`.
    `dropout` leaves a named caption out of that share of the samples which have another one.
    `draw_candidate` takes one of a recaption's n candidates instead of the best. Every draw is decided
    by the sample's key and `seed`. VILA^2 section 2.1.1 keeps the original caption and
    concatenates the recaption to it; order and separator are not in the paper. The specialists'
    answers follow the caption as further turns (section 2.2.1), or with `answers_apart` each
    specialist's is a text of its own beside it (as in the 40B run, appendix A.5.2).
    """

    captions: Sequence[str] = (ORIGINAL,)
    separator: str = "\n"
    shuffle: bool = False
    dropout: Mapping[str, float] = field(default_factory=dict)
    draw_candidate: bool = False
    answers_apart: bool = False
    choose: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def sources(self, sample: Sample) -> dict[str, str]:
        """The captions of a sample that one is drawn from, by source."""
        return {name: text for name in sorted(self.choose) if (text := self._text(sample, name))}

    def caption(self, sample: Sample) -> str | None:
        """The composed caption of a sample, None when it has none of those named."""
        by_name = {name: text for name in self.captions if (text := self._text(sample, name))}
        names = self._kept(sample.key, list(by_name))
        # A recaption that fell back to the alt-text is not repeated.
        texts = list(dict.fromkeys(by_name[name] for name in names))
        return self.separator.join(texts) if texts else None

    def _text(self, sample: Sample, name: str) -> str | None:
        annotation = sample.annotation(name)
        if self.draw_candidate and annotation is not None and (candidates := _candidates(annotation)):
            return draw(candidates, "candidate", self.seed, name, sample.key)
        return caption_of(sample, name)

    def answers(self, sample: Sample) -> list[tuple[Turn, ...]]:
        """Each specialist's turns, in an order drawn by the key (`coyo_qa.py`, VILA^2 2.2.1)."""
        answers = [one for one in sample.annotations if one.kind == "turns" and one.turns]
        answers.sort(key=lambda answer: stable_hash("answers", self.seed, answer.layer, sample.key))
        return [tuple(Turn(turn.role, neutral(turn.text)) for turn in answer.turns) for answer in answers]

    def _kept(self, key: str, names: list[str]) -> list[str]:
        order = names
        if self.shuffle:
            order = sorted(names, key=lambda name: stable_hash("order", self.seed, name, key))
        below = {name: share * 2**63 for name, share in self.dropout.items()}
        kept = [one for one in order if stable_hash("dropout", self.seed, one, key) >= below.get(one, 0.0)]
        # Never all of them: where every caption would go, one drawn among them stays.
        return kept or ([draw(names, "stays", self.seed, key)] if names else [])


def composition_of(settings: CaptionSettings, seed: int, *, answers: str = "appended") -> Composition:
    """How a phase of pretraining joins the captions of a sample, and the specialists' answers to them."""
    return Composition(
        captions=settings.captions,
        separator=settings.separator,
        shuffle=settings.shuffle_captions,
        dropout=settings.caption_dropout,
        draw_candidate=settings.draw_candidate,
        answers_apart=answers == "apart",
        choose=settings.choose,
        seed=seed,
    )


def _candidates(annotation: Annotation) -> list[str]:
    """The captions that passed the checks, of several requested for an image."""
    attempts = annotation.decision.get("attempts", ())
    return [attempt["text"] for attempt in attempts if attempt.get("defect") is None and attempt.get("text")]


def compose_caption(sample: Sample, captions: Sequence[str], separator: str = "\n") -> str | None:
    """The named captions that the sample has, joined in the order given; None when it has none."""
    return Composition(captions=captions, separator=separator).caption(sample)


def filter_inputs(layers: Iterable[LayerInfo]) -> dict[str, str]:
    """What a manifest adds where one of the layers below is a filter: that its dropped samples are left out."""
    return {"filtered": "left out"} if any(layer.name == FILTER for layer in layers) else {}


def conversations(
    sample: Sample, composition: Composition, *, with_answers: bool = True
) -> list[tuple[Turn, ...]]:
    """The training conversations of a sample, none when nothing in it can be trained on.

    A sample that a filter layer leaves out has none. A conversation in the sample is used as it is. A
    document (`meta["interleaved"]`) becomes one assistant turn with a placeholder where each
    picture stands, so that the loss covers all its text (VILA section 2 and appendix). A captioned
    picture becomes an empty request with the composed caption as the answer, followed by the
    question-answer turns of the specialists, or beside them, which `with_answers=False` leaves out. Where one
    of several captions is drawn they are not among these, see `alternatives`.
    """
    if not is_kept(sample):
        return []
    if sample.meta.get("messages"):
        return [sample.turns] if sample.turns else []
    if sample.meta.get("interleaved"):
        return [(Turn("user", ""), Turn("assistant", document_text(sample)))]
    images = IMAGE_PLACEHOLDER * len(sample.images)
    answers = composition.answers(sample) if with_answers else []
    apart = answers if composition.answers_apart else []
    texts: list[tuple[Turn, ...]] = []
    if not composition.choose and (caption := composition.caption(sample)) is not None:
        appended = [] if apart else answers
        texts.append(_captioned(sample, caption, appended))
    for question, *rest in apart:
        texts.append((Turn(question.role, images + question.text), *rest))
    return texts


def alternatives(
    sample: Sample, composition: Composition, *, with_answers: bool = True
) -> dict[str, tuple[Turn, ...]]:
    """The conversations of which one is drawn in each epoch, by the source of the caption; {} for none."""
    is_text = any(sample.meta.get(name) for name in ("messages", "interleaved"))
    if not composition.choose or not is_kept(sample) or is_text:
        return {}
    answers = composition.answers(sample) if with_answers and not composition.answers_apart else []
    return {name: _captioned(sample, text, answers) for name, text in composition.sources(sample).items()}


def _captioned(sample: Sample, caption: str, answers: Iterable[Sequence[Turn]]) -> tuple[Turn, ...]:
    images = IMAGE_PLACEHOLDER * len(sample.images)
    appended = (turn for turns in answers for turn in turns)
    return (Turn("user", images), Turn("assistant", neutral(caption)), *appended)


def document_text(sample: Sample) -> str:
    """An interleaved document as one text with `<image>` where each picture stands."""
    document = sample.meta["interleaved"]
    parts = [IMAGE_PLACEHOLDER if text is None else neutral(text) for text in document["texts"]]
    spaced = (part if part == IMAGE_PLACEHOLDER else f" {part}" for part in parts[1:])
    return "".join([*parts[:1], *spaced])


def neutral(text: str) -> str:
    """Untrusted text that cannot be taken for an image placeholder."""
    return text.replace(IMAGE_PLACEHOLDER, "< image>")
