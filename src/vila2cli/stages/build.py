"""`vila2 shards build`: a specialist's training shards from public annotations."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import PARTIAL, read_json, sweep, to_json_bytes, write_atomically
from vila2cli.formats.specialists.boxes import BOX_FRAME
from vila2cli.formats.specialists.depth import DepthMaps
from vila2cli.formats.specialists.drawing import draw_boxes
from vila2cli.formats.specialists.folders import FileFolder
from vila2cli.formats.specialists.formats import FORMATS, SPECIALISTS, read_pictures
from vila2cli.formats.specialists.pictures import BuildSettings, Malformed, Picture, Thing
from vila2cli.formats.specialists.rules import Dropped, clean, settle
from vila2cli.image import decode_image, stored_as
from vila2cli.run.folder import claim, digest, lock, read_manifest, write_json
from vila2cli.run.results import StageResult
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.shards import TarWriter, done, expand, file_sha256, folder_stats, gather_rejects, write_rejects
from vila2cli.shards.places import local_path
from vila2cli.shards.records import check_whole, note, recorded
from vila2cli.shards.rejects import REJECTS_FILE, read_rejects
from vila2cli.shards.sample import EncodedImage, Reject
from vila2cli.shards.tarfiles import read_members

NOT_A_BOX = "not-a-box"
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
    if depth is not None and (specialist != "spatial" or FORMATS[format].in_shards):
        raise RecipeError("--depth is for spatial questions about a folder of images")
    if depth is None and depth_unit is not None:
        raise RecipeError("--depth-unit needs --depth, the folder of depth maps")
    pictures = read_pictures(format, specialist, annotations)
    if images is None and not FORMATS[format].in_shards:
        raise DataError(f"--format {format} needs --images, the folder that its pictures are in")
    files = _files(format, annotations)
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
    maps = None if depth is None else DepthMaps(FileFolder(depth), depth_unit)
    with lock(out), interruptible() as stop:
        if draw is not None and draw.is_dir() and any(draw.iterdir()) and read_manifest(out) is None:
            raise RecipeError(
                f"--draw {draw} holds files already, which would be overwritten; name another folder"
            )
        claim(out, inputs)
        sweep(out)
        builder = _Builder(specialist, format, images, settings, draw, num_drawn, maps)
        shards = builder.write_all(chain(first, pictures), out, stop)
        gather_rejects(out, shards)
        summary = _summary(specialist, format, out, shards)
        write_json(out / "summary.json", summary.to_json())
    if not summary.out:
        raise DataError(
            f"no sample came of {summary.in_} pictures: {_counts(summary.dropped)}{_first_reject(out)}; "
            f"see {out}/rejects.jsonl"
        )
    return summary


def _files(format: str, annotations: Sequence[Path]) -> dict[str, str]:
    """Digests of the annotation files, by name where that is one file's alone; raises DataError."""
    files = list(annotations)
    if FORMATS[format].in_shards:
        files = [local_path(tar) for tar in expand([str(path) for path in annotations])]
    if missing := [path for path in files if not path.is_file()]:
        raise DataError(f"--annotations {missing[0]}: there is no such file")
    names = Counter(path.name for path in files)
    return {path.name if names[path.name] == 1 else str(path): file_sha256(path) for path in files}


class _Builder:
    def __init__(
        self,
        specialist: str,
        format: str,
        images: Path | None,
        settings: BuildSettings,
        draw: Path | None,
        num_drawn: int,
        depth: DepthMaps | None,
    ) -> None:
        self.specialist, self.format, self.settings = specialist, format, settings
        self.draw, self.num_left = draw, num_drawn
        self._images = None if images is None else FileFolder(images)
        self._depth = depth

    def write_all(self, pictures: Iterator[Picture], out: Path, stop: Stop) -> list[str]:
        """Write the shards that are not there yet; returns the names of all."""
        names: list[str] = []
        complete = done(out)
        while batch := list(islice(pictures, self.settings.samples_per_shard)):
            name = f"{len(names):06d}"
            names.append(name)
            if name not in complete:
                self._write_shard(name, batch, out, stop)
            else:
                self._check_shard(name, batch, out, stop)
        return names

    def _check_shard(self, name: str, pictures: Sequence[Picture], out: Path, stop: Stop) -> None:
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
            again = _Builder(self.specialist, self.format, None, self.settings, None, 0, self._depth)
            again._images = self._images
            again._write_shard(name, pictures, aside, stop)
            first = int(name) * self.settings.samples_per_shard
            _compare(name, {f"{i:09d}": one.name for i, one in enumerate(pictures, first)}, out, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        note(tar, taken=taken)

    def _taken(self, pictures: Sequence[Picture]) -> str:
        """A digest of what tells the pictures' files; those in shards are told by the shards' digests."""
        named = [picture.image for picture in pictures if isinstance(picture.image, Path)]
        folders = [folder for folder in (self._images, self._depth) if folder is not None]
        return digest([folder.identity(name) for name in named for folder in folders])

    def _write_shard(self, name: str, pictures: Sequence[Picture], out: Path, stop: Stop) -> None:
        rejects: list[Reject] = []
        unused: list[bytes] = []
        objects: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        people: Counter[str] = Counter()
        malformed: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        first = int(name) * self.settings.samples_per_shard
        taken = self._taken(pictures)  # before they are read
        with TarWriter(out / f"{name}.tar") as tar:
            for index, picture in enumerate(pictures, first):
                stop.check()
                key = f"{index:09d}"
                problem, dropped = self._write_sample(tar, key, picture, objects, kinds, people)
                broken = [*picture.malformed, *(_no_box(one) for one in dropped if one.reason == NOT_A_BOX)]
                self._count_malformed(picture, objects, people)
                malformed.update(f"{one.kind} {one.reason}" for one in broken)
                objects["in"] += len(picture.things)
                unused += [_object_line(key, one) for one in dropped]
                if problem:
                    counts[problem[0]] += 1
                    rejects.append(Reject(name, key, problem[0], f"{picture.name}: {problem[1]}"))
                rejects += [_entry_reject(name, key, picture, one) for one in broken]
            tar.stats = {
                "in": len(pictures),
                "dropped": dict(sorted(counts.items())),
                "rejected": counts.total(),
                **write_rejects(out, name, rejects),
                "objects": dict(sorted(objects.items())),
                "questions": dict(sorted(kinds.items())),
                "people_asked": dict(sorted((+people).items())),
                "malformed": dict(sorted(malformed.items())),
                "taken": taken,
            }
            write_atomically(out / f"{name}{OBJECTS_FILE}", b"".join(unused))

    def _write_sample(
        self,
        tar: TarWriter,
        key: str,
        picture: Picture,
        objects: Counter[str],
        kinds: Counter[str],
        people: Counter[str],
    ) -> tuple[tuple[str, str] | None, list[Dropped]]:
        """Write a sample, or say why there is none; with the objects that were dropped."""
        people["in"] += len(picture.questions)
        try:
            if problem := picture.problem or self._other_split(picture):
                people["image-rejected"] += len(picture.questions)
                return problem, self._unused(picture, objects)
            image = picture.image if isinstance(picture.image, EncodedImage) else self._image(picture.image)
            upright = decode_image(image.data)
            stored, orientation = stored_as(image.data)
        except DataError as error:
            people["image-rejected"] += len(picture.questions)
            return ("unreadable-image", str(error)), self._unused(picture, objects)
        things, dropped = settle(
            picture, stored, orientation, self.settings, for_grounding=self.specialist == "grounding"
        )
        if self._depth and isinstance(picture.image, Path):
            try:
                things = self._depth.measure(things, picture.image, stored, orientation)
            except DataError as error:
                objects.update(one.reason for one in dropped)
                objects["image-rejected"] += len(things)
                return ("unreadable-depth", str(error)), dropped
        talk = SPECIALISTS[self.specialist](picture, things, self.settings)
        objects.update(one.reason for one in dropped)
        people.update(talk.unasked)
        if talk.problem:
            objects["image-rejected"] += len(things)
            return talk.problem, dropped
        kinds.update(talk.kinds)
        people["asked"] += talk.kinds.count("comprehend")
        objects["named"] += len(talk.used)
        objects["not-asked-about"] += len(things) - len(talk.used)
        meta = {
            "messages": [turn.to_json() for turn in talk.turns],
            "box_frame": BOX_FRAME,
            "objects": [_object_json(thing) for thing in talk.used],
            "questions": talk.kinds,
            "built": {"specialist": self.specialist, "format": self.format, "source": picture.name},
        }
        tar.write_sample(key, {image.extension: image.data, "json": to_json_bytes(meta)})
        if self.draw is not None and self.num_left > 0:
            self.draw.mkdir(parents=True, exist_ok=True)
            write_atomically(self.draw / f"{key}.png", draw_boxes(upright, meta))
            self.num_left -= 1
        return None, dropped

    def _other_split(self, picture: Picture) -> tuple[str, str] | None:
        wanted = self.settings.split
        if picture.split in ("", wanted):
            return None
        return "other-split", f"it is of split {picture.split}, not {wanted}; --split {picture.split} takes it"

    def _image(self, name: Path) -> EncodedImage:
        assert self._images is not None, "annotations with files come with a folder of images"
        return self._images.image(name)

    def _count_malformed(self, picture: Picture, objects: Counter[str], people: Counter[str]) -> None:
        for one in picture.malformed:
            counts = {"object": objects, "question": people}.get(one.kind)
            if counts is not None:
                counts["in"] += 1
                counts[one.reason] += 1

    def _unused(self, picture: Picture, objects: Counter[str]) -> list[Dropped]:
        objects["image-rejected"] += len(picture.things)
        return []


def _compare(name: str, pictures: Mapping[str, str], out: Path, aside: Path) -> None:
    """Raise DataError naming the first picture of which something else was made than now."""
    was, now = (_made(folder, name) for folder in (out, aside))
    first = next((key for key in sorted(was | now) if was.get(key) != now.get(key)), None)
    if first is not None:
        raise DataError(
            f"{out / name}.tar was built from other files than there are now: that of "
            f"{pictures.get(first, first)} differs; put the old one back, remove {name}.stats.json to have it "
            "built again, or give another --out"
        )


def _made(folder: Path, name: str) -> dict[str, list[str]]:
    """What was made of each picture of a shard, its members and rejects as text, by key."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for member, data in read_members(folder / f"{name}.tar", lambda name: True):
        key, _, extension = member.partition(".")
        found[key].append(f"{extension} {sha256(data or b'').hexdigest()}")
    for reject in read_rejects(folder, name):
        found[reject.key.partition("#")[0]].append(f"{reject.reason} {reject.error}")
    return found


def _object_json(thing: Thing) -> dict[str, Any]:
    depth = {} if thing.distance is None else {"depth": thing.distance}
    text = {} if thing.text is None else {"text": clean(thing.text)}
    return {"category": thing.category, "box": [int(value) for value in thing.box], **depth, **text}


def _object_line(key: str, dropped: Dropped) -> bytes:
    thing = dropped.thing
    box = [value if abs(value) < 1e9 else None for value in thing.box]
    value = {"key": key, "category": thing.category, "box": box, "reason": dropped.reason}
    return to_json_bytes(value) + b"\n"


def _no_box(dropped: Dropped) -> Malformed:
    thing = dropped.thing
    return Malformed("object", thing.category, dropped.reason, f"box {list(thing.box)} has no area")


def _entry_reject(shard: str, key: str, picture: Picture, one: Malformed) -> Reject:
    """An entry's line among the rejects: the key of its sample with the place of the entry behind it."""
    error = f"{picture.name}: {one.kind} {one.where} {one.error}"
    return Reject(shard, f"{key}#{one.where}", one.reason, error)


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


def _first_reject(out: Path) -> str:
    with (out / REJECTS_FILE).open(encoding="utf-8") as lines:
        line = next(lines, "")
    return f"; the first: {json.loads(line)['error']}" if line else ""


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there were none"
