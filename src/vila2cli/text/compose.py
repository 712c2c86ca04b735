"""From a sample with its annotations to the turns that a model is trained on."""

from collections.abc import Sequence

from vila2cli.sample import IMAGE_PLACEHOLDER, Sample, Turn

ORIGINAL = "original"


def caption_of(sample: Sample, name: str) -> str | None:
    """The sample's caption by name: "original" is the alt-text, any other a caption layer; None if absent."""
    if name == ORIGINAL:
        text = sample.text
    else:
        annotation = sample.annotation(name)
        text = annotation.text if annotation else None
    text = text.strip() if text else None
    return text or None


def compose_caption(sample: Sample, captions: Sequence[str], separator: str = "\n") -> str | None:
    """The named captions that the sample has, joined in the order given; None when it has none.

    VILA^2 section 2.1.1 keeps the original caption and concatenates the recaption to it; order and
    separator are not in the paper.
    """
    found = [text for name in captions if (text := caption_of(sample, name))]
    return separator.join(found) if found else None


def compose_turns(
    sample: Sample, captions: Sequence[str], separator: str = "\n", *, with_answers: bool = True
) -> tuple[Turn, ...]:
    """The training conversation of a pretraining sample, () when nothing in it can be trained on.

    A conversation in the sample is used as it is. A document (`meta["interleaved"]`) becomes one
    assistant turn with a placeholder where each picture stands, so that the loss covers all its
    text (VILA section 2 and appendix). A captioned picture becomes an empty request with the
    composed caption as the answer, followed by the question-answer turns of the specialists
    (VILA^2 section 2.2.1; released loader `coyo_qa.py`), which `with_answers=False` leaves out.
    """
    if sample.meta.get("messages"):
        return sample.turns
    if sample.meta.get("interleaved"):
        return (Turn("user", ""), Turn("assistant", document_text(sample)))
    caption = compose_caption(sample, captions, separator)
    if caption is None:
        return ()
    turns = [Turn("user", IMAGE_PLACEHOLDER * len(sample.images)), Turn("assistant", neutral(caption))]
    for annotation in sample.annotations:
        if with_answers and annotation.kind == "turns":
            turns += [Turn(turn.role, neutral(turn.text)) for turn in annotation.turns]
    return tuple(turns)


def document_text(sample: Sample) -> str:
    """An interleaved document as one text with `<image>` where each picture stands."""
    document = sample.meta["interleaved"]
    parts = [IMAGE_PLACEHOLDER if text is None else neutral(text) for text in document["texts"]]
    return "".join(
        part if part == IMAGE_PLACEHOLDER or index == 0 else f" {part}" for index, part in enumerate(parts)
    )


def neutral(text: str) -> str:
    """Untrusted text that cannot be taken for an image placeholder."""
    return text.replace(IMAGE_PLACEHOLDER, "< image>")
