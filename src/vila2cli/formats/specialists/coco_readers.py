"""Annotations in COCO's way to pictures: instances, captions, and RefCOCO's references to instances."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.entries import (
    EntryError,
    Json,
    Page,
    Pages,
    box_of,
    id_of,
    list_of,
    lost,
    name_of,
    object_of,
    read_document,
    read_list,
    size_of,
    stated,
    text_of,
    unlisted,
)
from vila2cli.formats.specialists.pictures import Malformed, Picture, Thing

FRAME = Frame("pixel", "xywh")


@dataclass(slots=True)
class Listed:
    """What COCO's list of images says of one; `problem` is why it cannot be used."""

    name: str
    size: tuple[float, float] | None = None
    problem: tuple[str, str] | None = None

    def picture(self, page: Page) -> Picture:
        if self.problem:
            return lost(page, self.name, FRAME, *self.problem)
        return page.picture(self.name, Frame(FRAME.unit, FRAME.form, self.size))


def read_coco(paths: Sequence[Path]) -> Iterator[Picture]:
    """COCO instances and, from further files, captions; pictures in the order of the files.

    A region is a crowd where `iscrowd` is set, unless it is outlined by polygons: some data sets set it on
    single things. Annotations of an image that is not listed are a picture with a problem.
    """
    images: dict[Any, Listed] = {}
    unusable: list[Picture] = []
    names: dict[Any, str] = {}
    pages: Pages = defaultdict(Page)
    for path in paths:
        document = read_document(path, "images", "annotations")
        unusable += list_images(document["images"], images, path.name)
        names |= category_names(document)
        read_annotations(document["annotations"], names, pages, path.name)
    yield from (image.picture(pages[key]) for key, image in images.items())
    yield from unusable
    yield from unlisted(pages, images, FRAME)


def read_refcoco(paths: Sequence[Path]) -> Iterator[Picture]:
    """COCO instances first, then references as a JSON list of `{ann_id, image_id, split, sentences: [{sent}]}`.

    Only pictures with references are read; a reference to an annotation that is not there counts as an
    object. The published `refs(unc).p` is a pickle, which is not read.
    """
    _refuse_pickles(paths)
    if len(paths) < 2:
        raise DataError("RefCOCO needs two --annotations: COCO's instances, and the references as JSON")
    document = read_document(paths[0], "images", "annotations")
    images: dict[Any, Listed] = {}
    yield from list_images(document["images"], images, paths[0].name)
    pages: Pages = defaultdict(Page)
    phrases, targets = _read_references(paths[1:], pages)
    everything: Pages = defaultdict(Page, pages)
    names = category_names(document)
    there = read_annotations(document["annotations"], names, everything, paths[0].name, phrases)
    pages[None] = everything[None]
    for target, where in targets.items():
        if target not in there:
            error = f"no annotation of image {target[0]!r} has the id {target[1]!r}"
            pages[target[0]].malformed.append(Malformed("object", where, "unknown-annotation", error))
    yield from (images[key].picture(pages[key]) for key in pages if key in images)
    yield from unlisted(pages, images, FRAME)


Target = tuple[Any, Any]
"""Ids of an image and of an annotation."""


def _read_references(paths: Sequence[Path], pages: Pages) -> tuple[dict[Target, list[str]], dict[Target, str]]:
    """The phrases of each annotation referred to, and where that is; pages learn their split."""
    phrases: dict[Target, list[str]] = defaultdict(list)
    targets: dict[Target, str] = {}
    for path in paths:
        for number, entry in enumerate(read_list(path)):
            where = f"{path.name}[{number}]"
            page = pages[stated(id_of, entry, "image_id")]
            with page.reading("phrase", where):
                image_id = id_of(object_of(entry), "image_id")
                if isinstance(split := entry.get("split"), str) and page.split in ("", "train"):
                    page.split = split  # of several the one that is not for training
                target = image_id, id_of(entry, "ann_id")
                targets.setdefault(target, where)
                for one in list_of(entry, "sentences"):
                    with page.reading("phrase", where):
                        phrases[target].append(text_of(object_of(one), "sent"))
    return phrases, targets


def _refuse_pickles(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.suffix == ".p":
            raise DataError(
                f"{path} is a pickle, which may run any program when it is read; turn it into JSON where you "
                "trust it: python -c 'import json, pickle, sys; json.dump(pickle.load(open(sys.argv[1], "
                '"rb")), sys.stdout)\' FILE > refs.json'
            )


def list_images(entries: Sequence[Any], images: dict[Any, Listed], name: str) -> list[Picture]:
    """Add a file's images to those known by id; returns what cannot be added, as pictures with a problem.

    An image that is listed again in the same file counts as one more; under an id that stands for another
    picture nobody can tell whose annotations there are, so neither is used.
    """
    unusable: list[Picture] = []
    seen: set[Any] = set()
    for number, entry in enumerate(entries):
        where, key = f"{name}: images[{number}]", None
        try:
            key = id_of(object_of(entry), "id")
            image = Listed(name_of(entry, "file_name"), size_of(entry))
        except EntryError as error:
            image = Listed(where, problem=("malformed", str(error)))
        first = images.get(key)
        if key is None:
            unusable.append(image.picture(Page()))
        elif first is None:
            images[key] = image
        elif key in seen or not (image.problem or first.problem or image.name == first.name):
            problem = image.problem or ("duplicate-id", f"{where}: id {key!r} is that of {first.name}")
            if image.name != first.name and not image.problem:
                first.problem = first.problem or ("duplicate-id", f"id {key!r} is also that of {image.name}")
            unusable.append(lost(Page(), image.name, FRAME, *problem))
        elif first.problem and first.problem[0] == "malformed":
            images[key] = image
        seen.add(key)
    return unusable


def category_names(document: Json) -> dict[Any, str]:
    """Names of categories by id; those without either are left out, and what is of them has no category."""
    names: dict[Any, str] = {}
    entries = document.get("categories")
    for entry in entries if isinstance(entries, list) else ():
        with suppress(EntryError):
            key = id_of(object_of(entry), "id")
            names[key] = text_of(entry, "name").lower()
    return names


def read_annotations(
    entries: Sequence[Any],
    names: Mapping[Any, str],
    pages: Pages,
    name: str,
    phrases: Mapping[tuple[Any, Any], Sequence[str]] | None = None,
) -> set[tuple[Any, Any]]:
    """Put annotations on the pages of their images; returns ids of images and annotations that were there."""
    there: set[tuple[Any, Any]] = set()
    for number, entry in enumerate(entries):
        key = stated(id_of, entry, "image_id")
        page, where = pages[key], f"{name}: annotations[{number}]"
        is_caption = isinstance(entry, Mapping) and "caption" in entry and "bbox" not in entry
        with page.reading("caption" if is_caption else "object", where):
            if key is None:
                id_of(object_of(entry), "image_id")
            if is_caption:
                caption = text_of(entry, "caption")
                page.note_id(name, entry, "id", caption)
                page.captions.append(caption)
                continue
            target = key, entry.get("id")
            if phrases is not None and target in there:
                raise EntryError(
                    f"id {target[1]!r} is that of an earlier one, and phrases go by it", "duplicate-id"
                )
            thing = _thing(page, entry, names, (phrases or {}).get(target, ()))
            page.note_id(name, entry, "id", (thing.category, thing.box))
            there.add(target)
            page.things.append(thing)
    return there


def _thing(page: Page, entry: Json, names: Mapping[Any, str], phrases: Sequence[str]) -> Thing:
    key = id_of(entry, "category_id")
    if key not in names:
        raise EntryError(f"no category has the id {key!r}", "unknown-category")
    with page.placing(names[key]):
        box = box_of(entry.get("bbox"), "bbox")
    outline = entry.get("segmentation")
    is_crowd = bool(entry.get("iscrowd")) and not (outline and isinstance(outline, list))
    return Thing(category=names[key], box=box, phrases=tuple(phrases), is_crowd=is_crowd)
