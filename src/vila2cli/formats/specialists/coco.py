"""Annotations in COCO's way to pictures: instances, captions, and RefCOCO's references to instances."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.reading import Row, RowError, read_document, read_list, stated
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.draft import Draft, Drafts, unlisted
from vila2cli.formats.specialists.pictures import BadEntry, Boxed, Picture

FRAME = Frame("pixel", "xywh")


@dataclass(slots=True)
class Listed:
    """What COCO's list of images says of one; `problem` is why it cannot be used."""

    name: str
    size: tuple[float, float] | None = None
    problem: tuple[str, str] | None = None

    def picture(self, draft: Draft) -> Picture:
        if self.problem:
            reason, error = self.problem
            return draft.lost(self.name, error, reason)
        return draft.picture(self.name, replace(FRAME, size=self.size))


def read_coco(paths: Sequence[Path]) -> Iterator[Picture]:
    """COCO instances and, from further files, captions; pictures in the order of the files.

    A region is a crowd where `iscrowd` is set, unless it is outlined by polygons: some data sets set it on
    single objects. Annotations of an image that is not listed are a picture with a problem.
    """
    images: dict[Any, Listed] = {}
    unusable: list[Picture] = []
    names: dict[Any, str] = {}
    drafts: Drafts = defaultdict(Draft)
    for path in paths:
        document = read_document(path, "images", "annotations")
        unusable += _list_images(document, images)
        names |= _category_names(document)
        _read_annotations(document, names, drafts)
    yield from (image.picture(drafts[key]) for key, image in images.items())
    yield from unusable
    yield from unlisted(drafts, images)


Target = tuple[Any, Any]
"""Ids of an image and of an annotation."""


def read_refcoco(paths: Sequence[Path]) -> Iterator[Picture]:
    """COCO instances first, then references as a JSON list of `{ann_id, image_id, split, sentences: [{sent}]}`.

    Only pictures with references are read; a reference to an annotation that is not there counts as an
    object. The published `refs(unc).p` is a pickle, which is not read.
    """
    if pickled := next((path for path in paths if path.suffix == ".p"), None):
        raise DataError(
            f"{pickled} is a pickle, which may run any program when it is read; turn it into JSON where you "
            "trust it: python -c 'import json, pickle, sys; json.dump(pickle.load(open(sys.argv[1], "
            '"rb")), sys.stdout)\' FILE > refs.json'
        )
    if len(paths) < 2:
        raise DataError("RefCOCO needs two --annotations: COCO's instances, and the references as JSON")
    document = read_document(paths[0], "images", "annotations")
    images: dict[Any, Listed] = {}
    yield from _list_images(document, images)
    drafts: Drafts = defaultdict(Draft)
    phrases, targets = _read_references(paths[1:], drafts)
    everything: Drafts = defaultdict(Draft, drafts)
    there = _read_annotations(document, _category_names(document), everything, phrases)
    drafts[None] = everything[None]
    for target, where in targets.items():
        if target not in there:
            error = f"no annotation of image {target[0]!r} has the id {target[1]!r}"
            drafts[target[0]].malformed.append(BadEntry("object", where, "unknown-annotation", error))
    yield from (images[key].picture(drafts[key]) for key in drafts if key in images)
    yield from unlisted(drafts, images)


def _read_references(
    paths: Sequence[Path], drafts: Drafts
) -> tuple[dict[Target, list[str]], dict[Target, str]]:
    """The phrases of each annotation referred to, and where that is; drafts learn their split."""
    phrases: dict[Target, list[str]] = defaultdict(list)
    targets: dict[Target, str] = {}
    for row in (row for path in paths for row in read_list(path)):
        draft = drafts[stated(row.id, "image_id")]
        with draft.reading("phrase"):
            image_id = row.id("image_id")
            if isinstance(split := row.get("split"), str) and draft.split in ("", "train"):
                draft.split = split  # of several the one that is not for training
            target = image_id, row.id("ann_id")
            targets.setdefault(target, row.where)
            for sentence in row.rows("sentences"):
                with draft.reading("phrase"):
                    phrases[target].append(sentence.text("sent"))
    return phrases, targets


def _list_images(document: Row, images: dict[Any, Listed]) -> list[Picture]:
    """Add a file's images to those known by id; returns what cannot be added, as pictures with a problem.

    An image that is listed again in the same file counts as one more; under an id that stands for another
    picture nobody can tell whose annotations there are, so neither is used.
    """
    unusable: list[Picture] = []
    seen: set[Any] = set()
    for row in document.rows("images"):
        key = stated(row.id, "id")
        try:
            row.id("id")
            image = Listed(row.filled("file_name"), row.size())
        except RowError as error:
            image = Listed(row.where, problem=("malformed", error.error))
        first = images.get(key)
        if key is None:
            unusable.append(image.picture(Draft()))
        elif first is None:
            images[key] = image
        elif key in seen or not (image.problem or first.problem or image.name == first.name):
            if image.name != first.name and not image.problem:
                first.problem = first.problem or ("duplicate-id", f"id {key!r} is also that of {image.name}")
            again = ("duplicate-id", f"{row.where}: id {key!r} is that of {first.name}")
            unusable.append(replace(image, problem=image.problem or again).picture(Draft()))
        elif first.problem and first.problem[0] == "malformed":
            images[key] = image
        seen.add(key)
    return unusable


def _category_names(document: Row) -> dict[Any, str]:
    """Names of categories by id; those without either are left out, and what is of them has no category."""
    names: dict[Any, str] = {}
    rows = document.rows("categories") if isinstance(document.get("categories"), list) else ()
    for row in rows:
        with suppress(RowError):
            key = row.id("id")
            names[key] = row.text("name").lower()
    return names


def _read_annotations(
    document: Row,
    names: Mapping[Any, str],
    drafts: Drafts,
    phrases: Mapping[Target, Sequence[str]] | None = None,
) -> set[Target]:
    """Put annotations on the drafts of their images; returns ids of images and annotations that were there."""
    there: set[Target] = set()
    for row in document.rows("annotations"):
        key = stated(row.id, "image_id")
        draft = drafts[key]
        is_caption = isinstance(row.value, Mapping) and "caption" in row and "bbox" not in row
        with draft.reading("caption" if is_caption else "object"):
            row.id("image_id")
            if is_caption:
                caption = row.text("caption")
                draft.note_id(document.where, row, "id", caption)
                draft.captions.append(caption)
                continue
            target = key, None if row.get("id") is None else row.id("id")
            if phrases is not None and target in there:
                raise row.error(
                    f"id {target[1]!r} is that of an earlier one, and phrases go by it", "duplicate-id"
                )
            thing = _thing(draft, row, names, (phrases or {}).get(target, ()))
            draft.note_id(document.where, row, "id", (thing.category, thing.box))
            there.add(target)
            draft.things.append(thing)
    return there


def _thing(draft: Draft, row: Row, names: Mapping[Any, str], phrases: Sequence[str]) -> Boxed:
    key = row.id("category_id")
    if key not in names:
        raise row.error(f"no category has the id {key!r}", "unknown-category")
    with draft.placing(names[key]):
        box = row.box(row.get("bbox"), "bbox")
    outline = row.get("segmentation")
    is_crowd = bool(row.get("iscrowd")) and not (outline and isinstance(outline, list))
    return Boxed(category=names[key], box=box, phrases=tuple(phrases), is_crowd=is_crowd)
