"""Look into shards and layers: check them, count them, show them."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.image import decode_image, image_size
from vila2cli.judging.terminal import verdict_lines
from vila2cli.run.cost import counted
from vila2cli.run.results import StageResult, Texts, summary_lines
from vila2cli.score.task import TASK_FILE, load_task
from vila2cli.shards import (
    Shard,
    Source,
    member_problems,
    read_rejects,
    read_shard,
)
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.places import is_remote, local_path, tar_stem
from vila2cli.shards.records import digests_of, parts_of, recorded
from vila2cli.shards.sample import ORIGINAL, Annotation, Reject, Sample, kept_instead, source_of
from vila2cli.shards.streams import fingerprint
from vila2cli.text.printable import printable
from vila2cli.text.words import num_words


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong or suspicious in a shard; `key` is "" when it concerns the whole archive."""

    shard: str
    key: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class CheckReport(StageResult):
    """What `check` found; `counts` is the number of problems by kind, `notes` are of no harm here."""

    num_shards: int
    num_samples: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(problem.kind for problem in self.problems).items()))

    def lines(self, max_problems: int | None = None) -> Iterator[str]:
        """Every problem in a line, of several the first `max_problems`."""
        yield f"{counted(self.num_shards, 'shard')}, {counted(self.num_samples, 'sample')}"
        for problem in (shown := self.problems[:max_problems]):
            where = f"{problem.shard}/{problem.key}" if problem.key else problem.shard
            yield f"  {problem.kind}: {where}: {problem.detail}"
        if len(shown) < len(self.problems):
            yield f"  ... and {len(self.problems) - len(shown)} more; list them with --num 0"
        if not self.problems:
            yield "no problems"
        yield from (f"note: {note}" for note in self.notes)


class FirstColumns:
    """What Hugging Face `datasets` loses of tars: its columns are those of the first tar's first five.

    So it does in 5.2.0. It reads no tars at all where those five do not all have the same extensions, and drops
    without a word a sample's member of another extension, and a key of its JSON that none of the five has.
    """

    NUM_FIRST = 5

    def __init__(self) -> None:
        self._shard = ""
        self._extensions: list[set[str]] = []
        self._keys: set[str] = set()
        self._lost: Counter[str] = Counter()

    def add(self, shard: str, sample: Sample) -> None:
        self._shard = self._shard or shard
        if shard == self._shard and len(self._extensions) < self.NUM_FIRST:
            self._extensions.append(set(sample.members))
            self._keys |= sample.meta.keys()
            return
        extensions = self._extensions[0]
        self._lost.update(f".{extension}" for extension in sample.members.keys() - extensions)
        if "json" in extensions:
            self._lost.update(f"JSON key {printable(key)!r}" for key in sample.meta.keys() - self._keys)

    def notes(self) -> Iterator[str]:
        first = f"the first {len(self._extensions)} samples of {self._shard}"
        if odd := {one for some in self._extensions for other in self._extensions for one in some - other}:
            shown = ", ".join(f".{printable(extension)}" for extension in sorted(odd)[:5])
            yield (
                f"Hugging Face datasets (5.2.0) takes the columns of tars from {first}, and reads none as not "
                f"all of these have {shown}; `vila2 shards export parquet` has no such limit"
            )
        elif self._lost:
            shown = ", ".join(f"{what} of {num:,} samples" for what, num in self._lost.most_common(5))
            more = f" and {len(self._lost) - 5} more" if len(self._lost) > 5 else ""
            yield (
                f"Hugging Face datasets (5.2.0) takes the columns of tars from {first}, and would drop "
                f"{shown}{more} without a word; `vila2 shards export parquet` keeps all"
            )


def check(source: Source, *, decode: bool = True, digests: bool = True) -> CheckReport:
    """Read everything and list every problem: damage, keys used twice in a shard or across those of a folder
    (two data sets may count alike), images that cannot be decoded (skipped without `decode`), text that is not
    UTF-8, missing partners, dots in names, and tars that are not as their stats files say (with `digests`
    compared to the last byte)."""
    problems: list[Problem] = []
    first_shard: dict[tuple[str, str], str] = {}
    empty: list[Problem] = []
    num_samples, columns = 0, FirstColumns()
    for shard in source.shards:
        unreadable = ""
        fingerprints: dict[str, Fingerprint] | None = {} if digests else None
        try:
            for found in _checked_samples(shard, problems, fingerprints):
                num_samples += 1
                columns.add(shard.name, found)
                problems += _sample_problems(shard, found, first_shard, decode)
        except DataError as error:
            unreadable = str(error)
        try:
            for kind, text in member_problems(shard):
                (empty if kind == "empty-shard" else problems).append(Problem(shard.name, "", kind, text))
        except DataError as error:
            unreadable = unreadable or str(error)
        if unreadable:
            problems.append(Problem(shard.name, "", "unreadable", unreadable))
        problems += _record_problems(shard, fingerprints or {})
    notes = [*columns.notes()]
    if empty and num_samples:
        num = counted(len(empty), "shard")
        notes.insert(0, f"{num} without any file, which every stage passes over; first {empty[0].shard}")
    else:  # no stage takes a set of such shards alone
        problems += empty
    return CheckReport(len(source.shards), num_samples, tuple(problems), tuple(notes))


def _record_problems(shard: Shard, found: Mapping[str, Fingerprint]) -> Iterator[Problem]:
    """What of a shard's tars is not as the stats files beside them say; `found` are the digests of parts."""
    for name, place in shard.parts().items():
        is_layer = place != shard.url
        try:
            stats, record = f"{tar_stem(place)}.stats.json", recorded(place)
            parts = parts_of(record)
        except DataError as error:
            yield Problem(shard.name, "", "stats", str(error))
            continue
        if is_layer and not {"bytes", "sha256"} <= record.keys():
            yield Problem(
                shard.name, "", "no-stats", f"{place}: without {stats} nobody can tell if it is whole"
            )
        if not _is_of(found.get(name), digests_of(record)):
            yield Problem(
                shard.name, "", "changed", f"{place}: its SHA-256 is not the one in {stats} beside it"
            )
        base = parts.get(tar_stem(place)) if is_layer else None
        if base is not None and not _is_of(found.get(shard.name), {base.sha256} - {""}):
            yield Problem(shard.name, "", "changed", f"{shard.url}: {place} was made from another file")
        if is_layer and record and not is_remote(place):
            try:
                read_rejects(local_path(place).parent, tar_stem(place))
            except DataError as error:
                yield Problem(shard.name, "", "rejects", str(error))


def _is_of(found: Fingerprint | None, digests: set[str]) -> bool:
    """Whether one of the digests is that of a file, as far as any is known."""
    return found is None or not digests or bool(digests & {found.sha256, found.unpacked})


def _checked_samples(
    shard: Shard, problems: list[Problem], fingerprints: dict[str, Fingerprint] | None
) -> Iterator[Sample]:
    def note(reject: Reject) -> None:
        problems.append(Problem(shard.name, reject.key, reject.reason, reject.error))

    # `member_problems` has the notes
    return read_shard(shard, on_reject=note, on_note=lambda text: None, fingerprints=fingerprints)


def _sample_problems(
    shard: Shard, sample: Sample, first_shard: dict[tuple[str, str], str], decode: bool
) -> Iterator[Problem]:
    earlier = first_shard.setdefault((shard.url.rpartition("/")[0], sample.key), shard.name)
    if earlier != shard.name:
        yield Problem(shard.name, sample.key, "key-in-two-shards", f"shard {earlier} holds this key too")
    has_text = bool(sample.text and sample.text.strip()) or bool(sample.meta) or bool(sample.annotations)
    if sample.images and not has_text:
        yield Problem(shard.name, sample.key, "no-text", "an image without .txt, .json or annotation")
    if sample.lacks_images:
        yield Problem(shard.name, sample.key, NO_IMAGE, "neither an image nor a conversation")
    for number, image in enumerate(sample.images if decode else ()):
        try:
            decode_image(image.data)
        except DataError as error:
            yield Problem(
                shard.name, sample.key, "undecodable", f"image {number} (.{image.extension}): {error}"
            )


@dataclass(slots=True)
class Figures:
    """Count, mean, standard deviation, least and greatest of a stream of numbers."""

    num: int = 0
    mean: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.num += 1
        step = value - self.mean
        self.mean += step / self.num
        self._squares += step * (value - self.mean)
        self.least, self.greatest = min(self.least, value), max(self.greatest, value)

    @property
    def sd(self) -> float:
        """Standard deviation of the sample (n - 1), 0 below two values."""
        return math.sqrt(self._squares / (self.num - 1)) if self.num > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        figures = {"mean": self.mean, "sd": self.sd, "least": self.least, "greatest": self.greatest}
        return {"num": self.num, **(figures if self.num else {})}

    def __str__(self) -> str:
        spread = f"{self.mean:.1f} ± {self.sd:.1f}, {self.least:g} to {self.greatest:g}"
        return f"{spread}, in {self.num:,}" if self.num else ""


@dataclass(slots=True)
class SourceStats(StageResult):
    """Counts over a source: `words` by caption name ("original" is the alt-text), sizes in pixels and bytes."""

    num_shards: int
    num_samples: int
    num_images: int
    shard_bytes: int
    layer_bytes: int
    rejected: Counter[str] = field(default_factory=Counter)
    words: dict[str, Figures] = field(default_factory=dict)
    widths: Figures = field(default_factory=Figures)
    heights: Figures = field(default_factory=Figures)
    image_bytes: Figures = field(default_factory=Figures)

    def lines(self) -> list[str]:
        figures = {
            "shards": f"{self.num_shards:,} ({self.shard_bytes:,} bytes, layers {self.layer_bytes:,} bytes)",
            "samples": f"{self.num_samples:,}",
            "images": f"{self.num_images:,}",
            "rejected": self.rejected,
            "width": str(self.widths),
            "height": str(self.heights),
            "image bytes": str(self.image_bytes),
            "words": {name: str(figures) for name, figures in self.words.items()},
        }
        return summary_lines({name: value for name, value in figures.items() if value})


def stats(source: Source) -> SourceStats:
    """Count samples, rejects, words per caption and layer, image sizes and bytes in one pass."""
    total = SourceStats(len(source.shards), 0, 0, 0, 0)

    def note(reject: Reject) -> None:
        total.rejected[reject.reason] += 1

    for shard in source.shards:
        total.shard_bytes += fingerprint(shard.url).num_bytes or 0
        total.layer_bytes += sum(fingerprint(layer.url).num_bytes or 0 for layer in shard.layers)
        for sample in read_shard(shard, on_reject=note):
            total.num_samples += 1
            _count_sample(sample, total)
    return total


def _count_sample(sample: Sample, total: SourceStats) -> None:
    texts = [(ORIGINAL, sample.text)] + [(one.layer, _text_of(one)) for one in sample.annotations]
    for name, text in texts:
        if text is not None:
            total.words.setdefault(name, Figures()).add(num_words(text))
    for image in sample.images:
        total.num_images += 1
        total.image_bytes.add(len(image.data))
        try:
            width, height = image_size(image.data)
        except DataError:
            total.rejected["undecodable"] += 1
            continue
        total.widths.add(width)
        total.heights.add(height)


def _text_of(annotation: Annotation) -> str | None:
    if annotation.kind == "turns":
        return " ".join(turn.text for turn in annotation.turns if turn.role == "assistant")
    return annotation.text


def show(source: Source, num: int = 3, *, start: int = 0, max_chars: int | None = None) -> Texts:
    """The texts of `num` samples from sample `start` on, with nothing in them that a terminal would obey.

    Of each text that is longer, `max_chars` characters and how many more there are.
    """
    samples = ((shard, sample) for shard in source.shards for sample in read_shard(shard, on_reject=_ignore))
    shown = islice(samples, start, start + num)
    return Texts([_shown(shard, sample, max_chars) for shard, sample in shown])


def _ignore(reject: Reject) -> None:
    """Rejects are for `check`; `show` goes on with the next sample."""


def _shown(shard: Shard, sample: Sample, max_chars: int | None) -> str:
    lines = [
        f"{shard.name}/{sample.key}",
        *(f"image: {_image_line(i.data, i.extension)}" for i in sample.images),
    ]
    if sample.text is not None:
        lines.append(f"{ORIGINAL}: {sample.text.strip()}")
    lines += _asked_lines(shard, sample)
    lines += [f"{turn.role}: {turn.text}" for turn in sample.turns]
    if "interleaved" in sample.meta:
        texts = sample.meta["interleaved"]["texts"]
        lines.append("document: " + " ".join("<image>" if text is None else text for text in texts))
    lines += [line for annotation in sample.annotations for line in _annotation_lines(annotation)]
    return "\n  ".join(printable(_cut(line, max_chars)) for line in lines)


def _asked_lines(shard: Shard, sample: Sample) -> Iterator[str]:
    """The question of a sample of a task, and what is right."""
    question = sample.meta.get("question")
    if not isinstance(question, str) and not is_remote(shard.url):
        question = _question_of_task(local_path(shard.url).parent)
    if isinstance(question, str):
        yield f"question: {question}"
    answers = sample.meta.get("answers")
    if isinstance(answers, list) and answers:
        yield f"reference: {' | '.join(map(str, answers))}"


@cache
def _question_of_task(folder: Path) -> str | None:
    """The question that a task folder has for all of its samples, None where it has none."""
    return load_task(folder).question if (folder / TASK_FILE).is_file() else None


_ORIGIN = (
    *("model_sha256", "prompt_sha256", "sampling", "seed", "decision", "num_tokens", "logprob_mean"),
    *("image_sha256", "tool_version"),
)
"""What `show` says of an annotation's origin beside model, prompt and round."""


def _cut(line: str, max_chars: int | None) -> str:
    if max_chars is None or len(line) <= max_chars:
        return line
    return f"{line[:max_chars]} ... and {len(line) - max_chars:,} more characters"


def _image_line(data: bytes, extension: str) -> str:
    try:
        width, height = image_size(data)
    except DataError as error:
        return f"{extension}, {len(data)} bytes, {error}"
    return f"{extension}, {width}x{height}, {len(data)} bytes"


def _annotation_lines(annotation: Annotation) -> Iterator[str]:
    kept = kept_instead(source_of(annotation))
    origin = [kept, annotation.model, annotation.prompt_id, annotation.finish_reason]
    about = ", ".join(str(part) for part in origin if part)
    called = "answer" if annotation.kind == "prediction" else annotation.layer
    name = called if annotation.round is None else f"{called} of round {annotation.round}"
    yield f"{name} ({about}): {annotation.text or ''}" if about else f"{name}: {annotation.text or ''}"
    yield from (f"  {turn.role}: {turn.text}" for turn in annotation.turns)
    scores = dict(annotation.scores)
    if verdicts := verdict_lines(scores.get("verdicts")):
        yield from (f"  {line}" for line in verdicts)
        del scores["verdicts"]
    if scores:
        yield "  " + ", ".join(f"{name}={value}" for name, value in scores.items())
    said = annotation.to_json()
    yield from (f"  {name}: {json.dumps(said[name])}" for name in _ORIGIN if said[name] not in (None, {}, ""))
