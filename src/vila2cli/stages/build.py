"""`vila2 shards build`: a specialist's training shards from public annotations."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

from PIL import Image

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import PARTIAL, read_json, sweep, to_json_bytes, write_atomically
from vila2cli.formats.folders import FileFolder
from vila2cli.formats.registry import find_format
from vila2cli.formats.specialists import grounding, ocr, spatial
from vila2cli.formats.specialists.account import Outcome, ShardAccount
from vila2cli.formats.specialists.depth import DepthMaps
from vila2cli.formats.specialists.draft import read_pictures
from vila2cli.formats.specialists.drawing import draw_boxes
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Conversation, Picture
from vila2cli.formats.specialists.rules import clean, settle
from vila2cli.image import decode_image, stored_as
from vila2cli.run.beginning import begun_with
from vila2cli.run.folder import claim, digest, read_manifest, write_json
from vila2cli.run.locks import lock
from vila2cli.run.results import StageResult
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.score.box_frames import BOX_FRAME
from vila2cli.shards import TarWriter, done, expand, file_sha256, folder_stats, gather_rejects, write_rejects
from vila2cli.shards.places import local_path
from vila2cli.shards.records import check_whole, note, recorded
from vila2cli.shards.rejects import first_reject, read_rejects
from vila2cli.shards.sample import EncodedImage
from vila2cli.shards.tarfiles import read_members

CONVERSE: Mapping[str, Callable[[Picture, Sequence[Boxed], BuildSettings], Conversation]] = {
    "spatial": spatial.converse,
    "grounding": grounding.converse,
    "ocr": ocr.converse,
}
AGAIN_FOLDER = f".again{PARTIAL}"
"""Where finished shards are built again, to be compared."""
OBJECTS_FILE = ".objects.jsonl"
"""Beside each shard: the objects that were not used, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSummary(StageResult):
    """Pictures in, samples out, and of their objects, questions and malformed entries how many of what kind."""

    stage: str
    specialist: str
    format: str
    in_: int
    out: int
    dropped: Mapping[str, int]
    objects: Mapping[str, int]
    questions: Mapping[str, int]
    people_asked: Mapping[str, int] = field(default_factory=dict)
    malformed: Mapping[str, int] = field(default_factory=dict)
    box_frame: str


def build(
    specialist: str,
    *,
    format: str,
    annotations: Sequence[Path],
    images: Path | None,
    out: Path,
    settings: BuildSettings | None = None,
    draw: Path | None = None,
    num_drawn: int = 20,
    depth: Path | None = None,
    depth_unit: float | None = None,
) -> BuildSummary:
    """Write conversations about annotated pictures as shards, with what was left out and why.

    Every sample holds the picture's bytes as they are, the conversation, and the objects it names with
    their boxes in the frame that `box_frame` states. The same inputs give the same bytes; shards that are
    there are kept. `depth` is a folder of depth maps, see `DepthMaps`. With `draw` the first `num_drawn`
    samples are drawn there with their boxes. An entry that cannot be read is counted and written to
    rejects.jsonl. Raises RecipeError for a folder made with other settings, DataError for annotation files
    that cannot be read and where no sample at all comes of them.
    """
    settings = settings or BuildSettings()
    in_shards = find_format("shards build", format).in_shards
    pictures = read_pictures(format, specialist, annotations)
    if depth is not None and (specialist != "spatial" or in_shards):
        raise RecipeError("--depth is for spatial questions about a folder of images")
    if depth is None and depth_unit is not None:
        raise RecipeError("--depth-unit needs --depth, the folder of depth maps")
    if images is None and not in_shards:
        raise DataError(f"--format {format} needs --images, the folder that its pictures are in")
    files = _digests(annotations, in_shards)
    first = list(islice(pictures, 1))  # what cannot be read at all claims no folder
    inputs = {
        "stage": "build",
        "specialist": specialist,
        "format": format,
        "settings": asdict(settings),
        "annotations": files,
        "images": None if images is None else str(images),
        "box_frame": BOX_FRAME,
        **({} if depth is None else {"depth": str(depth), "depth_unit": depth_unit}),
    }
    with lock(out), interruptible() as stop:
        if draw is not None and draw.is_dir() and any(draw.iterdir()) and read_manifest(out) is None:
            raise RecipeError(f"--draw {draw} holds files already, which would be overwritten; name another")
        stored = begun_with(out, "build")
        numbers = str(stored.get("numbers", "")) if stored else _numbers(inputs)
        claim(out, {**inputs, **({"numbers": numbers} if numbers else {})})
        sweep(out)
        folder = None if images is None else FileFolder(images)
        maps = None if depth is None else DepthMaps(FileFolder(depth), depth_unit)
        drawing = None if draw is None else _Drawing(draw, num_drawn)
        builder = _Builder(specialist, format, settings, stop, folder, maps, drawing, numbers)
        shards = builder.write_all(chain(first, pictures), out)
        gather_rejects(out, shards)
        summary = _summary(specialist, format, out, shards)
        write_json(out / "summary.json", summary.to_json())
    _refuse_empty(summary, out)
    return summary


def _numbers(inputs: Mapping[str, Any]) -> str:
    """What the keys of a data set begin with: eight digits that tell it from others, wherever its files lie."""
    files = sorted(inputs["annotations"].values())
    return f"{digest([inputs['specialist'], inputs['format'], inputs['settings'], files])[:8]}-"


def _refuse_empty(summary: BuildSummary, out: Path) -> None:
    if not summary.out:
        dropped = ", ".join(f"{num} {reason}" for reason, num in summary.dropped.items())
        why = f"{dropped}; the first: {first_reject(out)}" if dropped else "there were none"
        raise DataError(f"no sample came of {summary.in_} pictures: {why}; see {out}/rejects.jsonl")


def _digests(annotations: Sequence[Path], in_shards: bool) -> dict[str, str]:
    """Digests of the annotation files, by name where that is one file's alone; raises DataError."""
    files = list(annotations)
    if in_shards:
        files = [local_path(tar) for tar in expand([str(path) for path in annotations])]
    if missing := [path for path in files if not path.is_file()]:
        raise DataError(f"--annotations {missing[0]}: there is no such file")
    names = Counter(path.name for path in files)
    return {path.name if names[path.name] == 1 else str(path): file_sha256(path) for path in files}


@dataclass(slots=True)
class _Drawing:
    """The folder for pictures with their boxes drawn, and how many are still to be drawn."""

    folder: Path
    num_left: int

    def add(self, key: str, upright: Image.Image, meta: Mapping[str, Any]) -> None:
        if self.num_left > 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key}.png", draw_boxes(upright, meta))
            self.num_left -= 1


@dataclass(frozen=True, slots=True)
class _Builder:
    specialist: str
    format: str
    settings: BuildSettings
    stop: Stop
    images: FileFolder | None
    depth: DepthMaps | None
    drawing: _Drawing | None
    numbers: str
    """What keys begin with, before their number."""

    def write_all(self, pictures: Iterator[Picture], out: Path) -> list[str]:
        """Write the shards that are not there yet; returns the names of all."""
        names: list[str] = []
        complete = done(out)
        while batch := list(islice(pictures, self.settings.samples_per_shard)):
            name = f"{len(names):06d}"
            names.append(name)
            if name not in complete:
                self._write_shard(name, batch, out, self.drawing)
            else:
                self._check_shard(name, batch, out)
        return names

    def _check_shard(self, name: str, pictures: Sequence[Picture], out: Path) -> None:
        """Raise DataError when a finished shard would become another one from what is there now.

        As long as size and time of the pictures are the same it would not; else it is built again, aside.
        """
        tar, aside = out / f"{name}.tar", out / AGAIN_FOLDER
        check_whole(tar)
        taken = self._taken(pictures)
        if recorded(tar).get("taken") == taken:
            return
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        try:
            aside.mkdir()
            self._write_shard(name, pictures, aside, None)
            _compare(name, {key: picture.name for key, picture in self._numbered(name, pictures)}, out, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        note(tar, taken=taken)

    def _taken(self, pictures: Sequence[Picture]) -> str:
        """A digest of what identifies the pictures' files; the shards' digests identify those in shards."""
        named = [picture.image for picture in pictures if isinstance(picture.image, Path)]
        folders = [folder for folder in (self.images, self.depth) if folder is not None]
        return digest([folder.identity(name) for name in named for folder in folders])

    def _numbered(self, name: str, pictures: Sequence[Picture]) -> list[tuple[str, Picture]]:
        """The pictures of a shard by the keys of their samples."""
        first = int(name) * self.settings.samples_per_shard
        return [(f"{self.numbers}{index:09d}", picture) for index, picture in enumerate(pictures, first)]

    def _write_shard(self, name: str, pictures: Sequence[Picture], out: Path, drawing: _Drawing | None) -> None:
        account = ShardAccount(name)
        taken = self._taken(pictures)  # before they are read
        with TarWriter(out / f"{name}.tar") as tar:
            for key, picture in self._numbered(name, pictures):
                self.stop.check()
                made = self._make(picture)
                account.add(key, picture, made)
                if made.talk and made.image and made.upright and not made.problem:
                    meta = self._meta(picture, made.talk)
                    tar.write_sample(key, {made.image.extension: made.image.data, "json": to_json_bytes(meta)})
                    if drawing is not None:
                        drawing.add(key, made.upright, meta)
            rejects = write_rejects(out, name, account.rejects)
            tar.stats = {"in": len(pictures), **account.to_json(), **rejects, "taken": taken}
            write_atomically(out / f"{name}{OBJECTS_FILE}", b"".join(account.unused))

    def _make(self, picture: Picture) -> Outcome:
        """A conversation about what can be used of a picture, or why there is none."""
        if problem := picture.problem or self._other_split(picture):
            return Outcome(problem)
        try:
            image = self._image(picture.image)
            upright = decode_image(image.data)
            stored, orientation = stored_as(image.data)
        except DataError as error:
            return Outcome(("unreadable-image", str(error)))
        is_grounding = self.specialist == "grounding"
        things, dropped = settle(picture, stored, orientation, self.settings, for_grounding=is_grounding)
        if self.depth and isinstance(picture.image, Path):
            try:
                things = self.depth.measure(things, picture.image, stored, orientation)
            except DataError as error:
                return Outcome(("unreadable-depth", str(error)), dropped)
        talk = CONVERSE[self.specialist](picture, things, self.settings)
        return Outcome(talk.problem, dropped, talk, image, upright)

    def _other_split(self, picture: Picture) -> tuple[str, str] | None:
        wanted = self.settings.split
        if picture.split in ("", wanted):
            return None
        return "other-split", f"it is of split {picture.split}, not {wanted}; --split {picture.split} takes it"

    def _image(self, image: EncodedImage | Path) -> EncodedImage:
        if isinstance(image, EncodedImage):
            return image
        assert self.images is not None, "annotations with files come with a folder of images"
        return self.images.image(image)

    def _meta(self, picture: Picture, talk: Conversation) -> dict[str, Any]:
        """KEY.json of a sample."""
        return {
            "messages": [turn.to_json() for turn in talk.turns],
            "box_frame": BOX_FRAME,
            "objects": [_object_json(thing) for thing in talk.used],
            "questions": talk.kinds,
            "built": {"specialist": self.specialist, "format": self.format, "source": picture.name},
            **({"file_name": str(picture.image)} if self.numbers and isinstance(picture.image, Path) else {}),
        }


def _object_json(thing: Boxed) -> dict[str, Any]:
    depth = {} if thing.distance is None else {"depth": thing.distance}
    text = {} if thing.text is None else {"text": clean(thing.text)}
    return {"category": thing.category, "box": [int(value) for value in thing.box], **depth, **text}


def _compare(name: str, pictures: Mapping[str, str], out: Path, aside: Path) -> None:
    """Raise DataError naming the first picture of which something else was made than now."""
    was, now = (_made_of(folder, name) for folder in (out, aside))
    first = next((key for key in sorted(was | now) if was.get(key) != now.get(key)), None)
    if first is not None:
        raise DataError(
            f"{out / name}.tar was built from other files than there are now: that of "
            f"{pictures.get(first, first)} differs; put the old one back, remove {name}.stats.json to have it "
            "built again, or give another --out"
        )


def _made_of(folder: Path, name: str) -> dict[str, list[str]]:
    """What was made of each picture of a shard, its members and rejects as text, by key."""
    made: defaultdict[str, list[str]] = defaultdict(list)
    for member, data in read_members(folder / f"{name}.tar", lambda name: True):
        key, _, extension = member.partition(".")
        made[key].append(f"{extension} {sha256(data or b'').hexdigest()}")
    for reject in read_rejects(folder, name):
        made[reject.key.partition("#")[0]].append(f"{reject.reason} {reject.error}")
    return made


def _summary(specialist: str, format: str, out: Path, names: Iterable[str]) -> BuildSummary:
    stats = folder_stats(out, names)
    groups = ("objects", "questions", "people_asked", "malformed")
    counts: dict[str, Counter[str]] = {group: Counter() for group in groups}
    for name in names:
        shard = read_json(out / f"{name}.stats.json")
        for group, counter in counts.items():
            counter.update(shard.get(group, {}))
    return BuildSummary(
        stage="build",
        specialist=specialist,
        format=format,
        in_=stats.num_in,
        out=stats.num_out,
        dropped=stats.dropped,
        box_frame=BOX_FRAME,
        **{group: dict(sorted(counter.items())) for group, counter in counts.items()},
    )
