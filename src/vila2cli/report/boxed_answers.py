"""What specialists answered with boxes, drawn on the pictures."""

import hashlib
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vila2cli.errors import DataError
from vila2cli.formats.specialists.drawing import draw_boxes
from vila2cli.image import decode_image
from vila2cli.report.inlined import InlinePicture, picture_of
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.wording import visible
from vila2cli.score.box import parse_boxes
from vila2cli.shards import done, layer_tar, open_source
from vila2cli.shards.reader import read_shard
from vila2cli.shards.sample import Sample

MAX_SHOWN = 4
"""Pictures shown of each specialist, drawn by the hash of their keys."""
MAX_SHARDS, MAX_READ = 2, 200
_LABEL_CHARS = 24


@dataclass(frozen=True, slots=True)
class BoxedAnswer:
    """One answer of a specialist, and its picture with the boxes on it."""

    specialist: str
    key: str
    question: str
    answer: str
    picture: InlinePicture


def boxed_answers(run_dir: Path, reader: JsonReader) -> list[BoxedAnswer]:
    """A few answers with boxes of every specialist of a run; what cannot be read is noted and left out."""
    shown: list[BoxedAnswer] = []
    for folder in sorted(run_dir.glob("specialists/*/relabel")):
        answers = list(_answers(folder, reader))
        answers.sort(key=lambda answer: hashlib.sha256(answer[0].key.encode()).digest())
        specialist = visible(folder.parent.name, 80)
        for sample, question, answer in answers[:MAX_SHOWN]:
            try:
                picture = _drawn(decode_image(sample.images[0].data), answer)
            except DataError as error:
                reader.note(folder, error)
                continue
            texts = (visible(sample.key, 80), visible(question, 200), visible(answer))
            shown.append(BoxedAnswer(specialist, *texts, picture))
    return shown


def _answers(folder: Path, reader: JsonReader) -> Iterator[tuple[Sample, str, str]]:
    """Samples of the first shards with the specialist's question and answer, where that holds a box."""
    for name in sorted(done(folder))[:MAX_SHARDS]:
        try:
            for shard in open_source([layer_tar(folder, name)]).shards:
                for sample in itertools.islice(read_shard(shard, on_reject=lambda reject: None), MAX_READ):
                    turns = next((a.turns for a in reversed(sample.annotations) if a.kind == "turns"), ())
                    if len(turns) > 1 and sample.images and parse_boxes(turns[1].text):
                        yield sample, turns[0].text, turns[1].text
        except (DataError, KeyError, TypeError, AttributeError) as error:
            reader.note(layer_tar(folder, name), error)


def _drawn(image: Image.Image, answer: str) -> InlinePicture:
    png = draw_boxes(image, {"objects": list(_objects(answer))})
    return picture_of(Image.open(io.BytesIO(png)).convert("RGB"), quality=85)


def _objects(answer: str) -> Iterator[dict[str, str | Sequence[float]]]:
    """Each box of an answer, named by the end of the words before it."""
    for piece, after in itertools.pairwise(answer.split("[")):
        if boxes := parse_boxes(f"[{after}"):
            label = " ".join(piece.rpartition("]")[2].split())[-_LABEL_CHARS:]
            yield {"category": label or "box", "box": boxes[0]}
