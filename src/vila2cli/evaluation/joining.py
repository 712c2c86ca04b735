"""Which answer belongs to which sample: by id where the questions agree, else by image and question."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import PurePosixPath

from vila2cli.evaluation.answer_files import FiledAnswer
from vila2cli.shards.sample import Sample

_OPTION = re.compile(r"[A-Z]\. ")
_IMAGE_MARK = re.compile(r"<image(?: \d)?>|\bimage \d\b")
_COCO = re.compile(r"(?:.*/)?(?:COCO_\w+_|(?=\d{12}$))0*([1-9]\d*)")
_OCR_FORM = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Known:
    """What of a sample answers are joined by; `asked` are the lines of its question above the options."""

    place: int
    key: str
    id: str
    image: str
    question: str
    asked: tuple[str, ...]
    index: int | None
    number: str = ""

    @classmethod
    def of(cls, sample: Sample, place: int, *, is_caption: bool = False) -> "Known":
        """What of a sample; a caption may have been asked for in any words."""
        meta = sample.meta
        index, question = meta.get("index"), str(meta.get("question", ""))
        lines = takewhile(lambda line: not _OPTION.match(line), question.split("\n"))
        return cls(
            place=place,
            key=sample.key,
            id=str(meta.get("sample_id", meta.get("question_id", ""))),
            image=_stem(str(meta.get("image_id", meta.get("image", "")))),
            question=_plain(question),
            asked=() if is_caption else tuple(line for line in map(_plain, lines) if line),
            index=index if isinstance(index, int) else place,
            number=str(meta.get("question_id", "")),
        )


@dataclass(slots=True)
class Join:
    """The answers of a task: per sample, by its place; how they were found; and which belong to no sample.

    `num_disagreeing` answers have the id of a sample but were given to another question.
    """

    how: str = ""
    answers: dict[int, list[FiledAnswer]] = field(default_factory=lambda: defaultdict(list))
    used: set[int] = field(default_factory=set)
    num_disagreeing: int = 0

    @property
    def num_joined(self) -> int:
        return len(self.answers)


Finder = Callable[[FiledAnswer], Known | None]


def join(samples: Sequence[Known], answers: Sequence[FiledAnswer], *, split: str = "") -> Join:
    """Join in the way that answers most samples; of equal ways the first, by id.

    Where answers say which part of a benchmark they are of, and one is the `split`, the others are left out.
    """
    is_parted = bool(split) and any(answer.part == split for answer in answers)
    mine = [not is_parted or answer.part in ("", split) for answer in answers]
    ways = {
        "question id": _by(samples, lambda one: one.id or None, lambda answer: answer.id),
        "question number": _by(samples, lambda one: one.number or None, lambda answer: answer.id),
        "sample key": _by(samples, lambda one: one.key, lambda answer: answer.id),
        "image and question": _by_image_and_question(samples),
        "image": _by(samples, lambda one: one.image or None, lambda answer: _stem(answer.image or answer.id)),
        "document number": _by(samples, lambda one: one.index, _doc_of(samples)),
        **_by_lines(samples, answers),
    }
    best = Join()
    for how, find in ways.items():
        found = _join(how, find, answers, mine)
        if found.num_joined > best.num_joined:
            best = found
        if best.num_joined == len(samples):
            break
    return best


def _join(how: str, find: Finder, answers: Sequence[FiledAnswer], mine: Sequence[bool]) -> Join:
    result = Join(how)
    for number, answer in enumerate(answers):
        sample = find(answer) if mine[number] else None
        if sample is None:
            continue
        if not _agrees(answer, sample):
            result.num_disagreeing += 1
            continue
        result.answers[sample.place].append(answer)
        result.used.add(number)
    return result


def _by(
    samples: Sequence[Known],
    of_sample: Callable[[Known], str | int | None],
    of_answer: Callable[[FiledAnswer], str | int | None],
) -> Finder:
    """Samples by a name that only one of them has."""
    names: dict[str | int, Known | None] = {}
    for one in samples:
        name = of_sample(one)
        if name is not None:
            names[name] = None if name in names else one

    def find(answer: FiledAnswer) -> Known | None:
        name = of_answer(answer)
        return None if name is None else names.get(name)

    return find


def _doc_of(samples: Sequence[Known]) -> Callable[[FiledAnswer], int | None]:
    """The number of an answer's document: of one that names its id or image only where questions tell it apart.

    All captions are asked for alike, and other copies of a benchmark have another order.
    """
    is_told = len({one.question for one in samples}) > 1 or len(samples) == 1
    return lambda answer: answer.doc if is_told or not (answer.id or answer.image) else None


def _by_lines(samples: Sequence[Known], answers: Sequence[FiledAnswer]) -> dict[str, Finder]:
    """Samples by the place of the answer in its file, a way for each file: another task's is of no use here."""

    def line_in(file: str) -> Callable[[FiledAnswer], int | None]:
        return lambda answer: answer.line if answer.file == file else None

    files = dict.fromkeys(answer.file for answer in answers if answer.line is not None)
    return {f"order in {file}": _by(samples, lambda one: one.index, line_in(file)) for file in files}


def _by_image_and_question(samples: Iterable[Known]) -> Finder:
    """Samples by their image, named as the answer's id, and the question in its prompt (LLaVA's TextVQA).

    Samples that ask the same of one image get their answers in the order of the file.
    """
    found: Mapping[tuple[str, str], list[Known]] = defaultdict(list)
    for one in samples:
        if one.image and one.question:
            found[one.image, one.question].append(one)
    times: dict[tuple[str, str], int] = defaultdict(int)

    def find(answer: FiledAnswer) -> Known | None:
        image = PurePosixPath(_stem(answer.image or answer.id))
        names = (str(image), f"{image.parts[0]}/{image.name}" if image.parts else "", image.name)
        for place in ((name, question) for name in names for question in _questions_in(answer.prompt)):
            if same := found.get(place):
                number = min(times[place], len(same) - 1)
                times[place] += 1
                return same[number]
        return None

    return find


def _questions_in(prompt: str) -> list[str]:
    """What of a prompt may be the question: its lines, or what M4C's older prompts put after OCR tokens."""
    if prompt.startswith("OCR tokens: ") and (match := _OCR_FORM.search(prompt)):
        return [_plain(match[1])]
    return [_plain(line) for line in prompt.split("\n")]


def _agrees(answer: FiledAnswer, sample: Known) -> bool:
    """Whether the prompt holds a line of the sample's question; yes where one of the two is not known.

    One line is enough, as tools put hints and options in other places. Where the question tells nothing, the
    image's name does.
    """
    if not sample.asked and answer.image and sample.image:
        return _file_name(_stem(answer.image)) == _file_name(sample.image)
    prompt = _plain(answer.prompt)
    return not prompt or not sample.asked or any(line in prompt for line in sample.asked)


def _plain(text: str) -> str:
    """Lower case, single spaces, without marks of images and what MME's questions end in and LLaVA's do not."""
    return " ".join(_IMAGE_MARK.sub(" ", text.lower().replace("please answer yes or no.", "")).split())


def _file_name(image: str) -> str:
    return image.rpartition("/")[2]


def _stem(image: str) -> str:
    """An image's name without its ending, of COCO's the number alone."""
    stem, dot, ending = image.rpartition(".")
    name = stem if dot and 3 <= len(ending) <= 4 and not ending.isdigit() else image
    return match[1] if (match := _COCO.fullmatch(name)) else name
