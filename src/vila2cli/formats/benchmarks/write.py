"""Imported questions as task folders: shards and a task.toml."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import aside, sync_folder, to_json_bytes, write_atomically
from vila2cli.formats.benchmarks.questions import BenchmarkQuestion, BenchmarkTask, TaskReader, with_later
from vila2cli.formats.folders import FileFolder
from vila2cli.formats.registry import find_format
from vila2cli.run.results import StageResult
from vila2cli.score.box_frames import AUTO, FRAMES
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS
from vila2cli.shards.tarwriter import TarWriter
from vila2cli.text.printable import printable

SAMPLES_PER_SHARD = 1000
TASK_FILE = "task.toml"
SYNONYMS_FILE = "synonyms.txt"
_COCO = re.compile(r"(COCO_[a-z]+[0-9]{4}_)?([0-9]{1,12})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_COCO_DIGITS = 12
_REGION = re.compile(r"(?<=[0-9]{12})_[0-9]+(?=\.)")
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}


@dataclass(frozen=True, slots=True)
class TaskWritten(StageResult):
    """A task folder, and how many samples and images it holds; `scorer` and `prompt` of own questions."""

    folder: Path
    num_samples: int
    num_images: int
    scorer: str = ""
    prompt: str = ""

    def lines(self) -> Iterator[str]:
        counts = f"{self.folder}: {self.num_samples:,} samples, {self.num_images:,} images"
        yield f"{counts}, scored by {self.scorer}" if self.scorer else counts
        if self.prompt:
            yield f"  each question is asked as: {printable(self.prompt)}"


def import_tasks(
    form: str,
    files: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    split: str = "",
    synonyms: Path | None = None,
    box_frame: str = "",
) -> list[TaskWritten]:
    """Write every task of the files as OUT/NAME; without `images` only answers of other tools can be scored.

    A task is written aside and renamed, so a folder is there whole or not at all. Raises DataError naming file
    and row for what does not fit the format, for a file or image that is not there, for files without any
    question, for a `box_frame` that is none, and for a folder of that name that holds anything.
    """
    read: TaskReader = find_format("eval import", form).load()
    if missing := next((path for path in (*files, synonyms) if path and not path.exists()), None):
        raise DataError(f"there is no {missing}")
    finder = None if images is None else _Finder(images)
    tables = (_framed(table, box_frame) for table in read(files, split))
    return [_import(table, out, finder, synonyms) for table in tables]


def write_task(table: BenchmarkTask, out: Path, *, images: Path) -> TaskWritten:
    """Write one task as OUT/NAME, as `import_tasks` does."""
    if not images.is_dir():
        raise DataError(f"--images {images}: there is no such folder")
    return _import(table, out, _Finder(images), None)


def _framed(table: BenchmarkTask, box_frame: str) -> BenchmarkTask:
    """The table with another frame for the boxes of its answers."""
    if not box_frame:
        return table
    if not table.box_frame:
        raise DataError(f"the answers of {table.name} are no boxes: leave out --box-frame")
    if box_frame not in (*FRAMES, AUTO):
        raise DataError(f"there is no box frame {box_frame!r}; give {AUTO}, or one of {', '.join(FRAMES)}")
    return replace(table, box_frame=box_frame)


def _import(table: BenchmarkTask, out: Path, finder: "_Finder | None", synonyms: Path | None) -> TaskWritten:
    """Write one task whole, or raise and leave nothing of it."""
    if finder is not None and table.no_images:
        raise DataError(table.no_images)
    folder = out / table.name
    partial = aside(folder)
    if (folder / TASK_FILE).exists():
        raise DataError(f"{folder} holds a task already; remove it or choose another folder")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder} holds files that are no task; move them or choose another folder")
    shutil.rmtree(partial, ignore_errors=True)  # of an import that was killed
    try:
        num_samples, num_images = _write(table, partial, finder)
        if synonyms is not None:
            write_atomically(partial / SYNONYMS_FILE, synonyms.read_bytes())
        write_atomically(partial / TASK_FILE, task_toml(table, synonyms is not None).encode())
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(out)
    return TaskWritten(folder, num_samples, num_images)


def task_toml(table: BenchmarkTask, has_synonyms: bool = False) -> str:
    """The description that makes a folder of shards an evaluation task."""
    values = {
        "name": table.name,
        "version": table.version,
        "split": table.split,
        "answer_type": table.answer_type,
        "scorer": table.scorer,
        "prompt": table.prompt,
        **({"box_frame": table.box_frame} if table.box_frame else {}),
        **({"synonyms": SYNONYMS_FILE} if has_synonyms else {}),
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _write(table: BenchmarkTask, folder: Path, finder: "_Finder | None") -> tuple[int, int]:
    """Write the shards of a task, and return how many samples and images they hold."""
    folder.mkdir(parents=True)
    numbered = enumerate(table.questions)
    num_samples = num_images = 0
    while shard := list(islice(numbered, SAMPLES_PER_SHARD)):
        with TarWriter(folder / f"{num_samples // SAMPLES_PER_SHARD:06d}.tar") as tar:
            for place, (index, question) in enumerate(shard, 1):
                try:
                    members = _members(question, index, finder)
                except _NoPicture as error:
                    raise _with_others(error, finder, chain(shard[place:], numbered)) from None
                tar.write_sample(f"{index:09d}", members)
                num_images += len(members) - 1
        num_samples += len(shard)
    if num_samples == 0:
        raise DataError(f"the files hold no questions for {table.name}")
    return num_samples, num_images


def _members(question: BenchmarkQuestion, index: int, finder: "_Finder | None") -> dict[str, bytes]:
    pictures = _pictures(question, finder)
    members = {
        ending if len(pictures) == 1 else f"{place}.{ending}": data
        for place, (ending, data) in enumerate(pictures)
    }
    meta: dict[str, Any] = {
        "question_id": question.id,
        **question.meta,
        "question": question.question,
        "answers": list(question.answers),
        "index": index,
        "num_images": len(question.images),
        "sample_id": question.id,
    }
    names = [image for image in question.images if isinstance(image, str)]
    named = {"image": names[0]} if names else {}
    return {**members, "json": to_json_bytes({**named, **meta})}


def _pictures(question: BenchmarkQuestion, finder: "_Finder | None") -> list[tuple[str, bytes]]:
    """Extension and bytes of all images of a question; none at all where those named are not to be read."""
    pictures = []
    for image in question.images:
        if isinstance(image, bytes):
            pictures.append((_extension(image), image))
        elif finder is None:
            return []
        else:
            try:
                pictures.append(finder.read(image))
            except DataError as error:
                where = f"{question.where}: " if question.where else ""
                raise _NoPicture(f"{where}{error}") from None
    return pictures


class _NoPicture(DataError):
    """A question whose picture is not there, or is not the only one of its name."""


def _with_others(
    error: _NoPicture, finder: "_Finder | None", later: Iterable[tuple[int, BenchmarkQuestion]]
) -> DataError:
    """The first question without its picture, and how many later ones are, up to one that cannot be read."""
    num = 0
    with suppress(DataError):
        for _, question in later:
            num += not all(isinstance(one, bytes) or (finder and finder.has(one)) for one in question.images)
    return DataError(with_later(str(error), {"the same fault": num}))


def _extension(data: bytes) -> str:
    if extension := next((one for magic, one in _MAGIC.items() if data.startswith(magic)), None):
        return extension
    raise DataError("an image among the questions is no JPEG, PNG, GIF, BMP or WebP")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for one
        return False


def _number(name: str) -> tuple[int, bool] | None:
    """The number of a COCO image, and whether its name is in COCO's form and not a number alone."""
    match = _COCO.fullmatch(name)
    return None if match is None else (int(match[2]), match[1] is not None or len(match[2]) == _COCO_DIGITS)


class _Finder:
    """Images below a folder: by their path in it, else by file name or COCO number where only one has it."""

    def __init__(self, root: Path) -> None:
        self._folder = FileFolder(root)

    def read(self, name: str) -> tuple[str, bytes]:
        """Extension and bytes of an image; raises DataError when it is not there."""
        path = self._path(name)
        ending = path.suffix.removeprefix(".").lower()
        data = path.read_bytes()
        return ending if ending in IMAGE_EXTENSIONS else _extension(data), data

    def has(self, name: str) -> bool:
        """Whether an image is there, and the only one that the name may mean."""
        try:
            self._path(name)
        except DataError:
            return False
        return True

    def _path(self, name: str) -> Path:
        root = self._folder.root
        if ".." not in PurePath(name).parts and not PurePath(name).is_absolute() and _is_file(root / name):
            return root / name
        paths = self._named(name)
        if not paths:
            raise DataError(f"there is no image {name} in {root}")
        if len(paths) > 1:
            raise DataError(f"several images in {root} are called {name}; name it by its path from there")
        return paths[0]

    def _named(self, name: str) -> list[Path]:
        """The files of that name, else of that number: 42.jpg may be COCO_val2014_000000000042.jpg.

        RefCOCO has the number of the region behind that of the image.
        """
        file = Path(name).name
        if (paths := self._folder.named(file)) or (number := _number(_REGION.sub("", file))) is None:
            return paths
        paths = self._by_number.get(number[0], [])
        is_coco = number[1] or any((_number(path.name) or number)[1] for path in paths)
        return paths if is_coco else []

    @cached_property
    def _by_number(self) -> dict[int, list[Path]]:
        by_number: dict[int, list[Path]] = {}
        for name, paths in self._folder.by_name.items():
            if number := _number(name):
                by_number.setdefault(number[0], []).extend(paths)
        return by_number
