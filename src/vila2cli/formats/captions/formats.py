"""What each format says of an item: its images by name, its text, and what KEY.json should hold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import load_json
from vila2cli.formats.captions.rows import Row, files_in, read_rows, read_table
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.members import NO_IMAGE, Unusable
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, EncodedImage
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS

FORMATS = ("llava", "coco", "coyo", "mmc4", "obelics", "img2dataset")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TEXT_KEYS = ("text", "caption", "alt")
_IMAGE_KEYS = ("image", "file_name", "url")
_TABLES = (".json", ".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zip", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of the input; an image is named, or is there already.

    `name` tells it from the others in an error. Of a document `may_lose` says that an image which is
    missing is left out instead of the whole; then `meta["interleaved"]["images"]` holds the names.
    """

    name: str
    images: tuple[str | EncodedImage, ...] = ()
    text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    may_lose: bool = False


def sources_of(form: str, inputs: Sequence[Path]) -> list[Path]:
    """The files that hold items, and for img2dataset folders of loose files, in order and each once."""
    first: dict[Path, Path] = {}
    for path in _img2dataset(inputs) if form == "img2dataset" else files_in(inputs, _TABLES):
        first.setdefault(path.resolve(), path)
    return list(first.values())


def read_items(form: str, path: Path, *, max_images: int) -> Iterator[Item | Unusable]:
    """Every item of a source in order, or why one cannot be used."""
    if form == "img2dataset":
        yield from _file_items(path) if path.is_dir() else _tar_items(path)
        return
    readers: dict[str, Callable[[Mapping[str, Any]], Item]] = {
        "llava": llava,
        "coco": coco,
        "coyo": pair,
        "mmc4": lambda row: mmc4(row, max_images),
        "obelics": lambda row: obelics(row, max_images),
    }
    rows = _coco_rows if form == "coco" else read_rows
    for number, row in enumerate(rows(path), 1):
        if isinstance(row, Unusable):
            yield Unusable(row.reason, f"{path.name}: {row}")
            continue
        try:
            yield readers[form](row)
        except Unusable as error:
            yield Unusable(error.reason, f"{path.name}, item {number}: {error}")


def llava(row: Mapping[str, Any]) -> Item:
    """A conversation: `conversations` of `from` and `value`, `image` one name, several, or none."""
    if row.get("video"):
        raise Unusable("video", "videos are not read")
    named = row.get("image") or []
    images = [named] if isinstance(named, str) else named
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unusable("bad-conversation", "'conversations' should be a list of turns")
    messages = [{"role": _ROLES.get(str(t.get("from"))), "content": t.get("value")} for t in turns]
    for message in messages:
        if message["role"] is None or not isinstance(message["content"], str):
            raise Unusable("bad-conversation", "a turn needs 'from' (human or gpt) and a text 'value'")
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        raise Unusable(
            "bad-conversation", f"turns should go human, gpt, human, gpt; got {', '.join(map(str, roles[:6]))}"
        )
    marked = sum(str(message["content"]).count(IMAGE_PLACEHOLDER) for message in messages)
    if marked not in (0, len(images)):
        raise Unusable("image-count", f"the turns name {marked} images, the item has {len(images)}")
    return Item(name=_name(row), images=tuple(map(str, images)), meta={"messages": messages, **_origin(row)})


def coco(row: Mapping[str, Any]) -> Item:
    """An image with its captions, joined by `_coco_rows`; the first is the text, all are in the JSON."""
    if not row.get("file_name"):
        raise Unusable(
            "no-image-entry", f"{len(row['captions'])} captions of image {row['id']}, which is not listed"
        )
    captions = [text.strip() for text in row["captions"] if isinstance(text, str) and text.strip()]
    if not captions:
        raise Unusable("no-caption", f"{row['file_name']} has no caption")
    size = {name: row[name] for name in ("width", "height") if name in row}
    meta = {"captions": captions, **size, **_origin(row)}
    return Item(name=str(row["file_name"]), images=(str(row["file_name"]),), text=captions[0], meta=meta)


def _coco_rows(path: Path) -> Iterator[Row]:
    table = read_table(path)
    rows: dict[Any, Row] = {}
    captions: dict[Any, list[Any]] = {}
    for number, image in enumerate(_entries(table, "images", path), 1):
        if not isinstance(image, dict) or not isinstance(found := image.get("id"), int | str):
            rows[f"image {number}"] = Unusable("bad-row", f"image {number} has no id that is a number or text")
            continue
        captions[found] = []
        rows[found] = {**image, "captions": captions[found]}
    for number, annotation in enumerate(_entries(table, "annotations", path), 1):
        if not isinstance(annotation, dict) or not isinstance(found := annotation.get("image_id"), int | str):
            rows[f"annotation {number}"] = Unusable("bad-row", f"annotation {number} names no image")
            continue
        if found not in captions:
            captions[found] = []
            rows[found] = {"id": found, "captions": captions[found]}
        captions[found].append(annotation.get("caption"))
    yield from rows.values()


def _entries(table: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    """A list of a COCO file, empty where it has none; raises DataError for anything else."""
    entries = table.get(name) or []
    if not isinstance(entries, list):
        raise DataError(f"{path} should hold a list of {name}")
    return entries


def pair(row: Mapping[str, Any]) -> Item:
    """An image and its alt-text, as COYO's rows: `text`, and an `image`, `file_name` or `url`."""
    text = next((row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str) and row[key].strip()), None)
    if text is None:
        raise Unusable("no-caption", f"{_name(row)} has no text")
    image = next((row[key] for key in _IMAGE_KEYS if isinstance(row.get(key), str) and row[key]), None)
    if image is None:
        raise Unusable("no-image-entry", f"{_name(row)} names no image")
    rest = {key: value for key, value in row.items() if key not in (*_TEXT_KEYS, "image", "file_name")}
    return Item(name=_name(row), images=(image,), text=text, meta=rest)


def mmc4(row: Mapping[str, Any], max_images: int) -> Item:
    """A web document: sentences, and before each the images that were matched to it, at most `max_images`
    in all, as VILA reads it (VILA section 2 and released loader)."""
    sentences, infos = row.get("text_list"), row.get("image_info")
    if not isinstance(sentences, list) or not isinstance(infos, list):
        raise Unusable("bad-document", "a document needs 'text_list' and 'image_info'")
    for info in infos:
        index = info.get("matched_text_index") if isinstance(info, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(sentences):
            raise Unusable("bad-document", f"an image is matched to sentence {index!r} of {len(sentences)}")
    kept = sorted(infos, key=lambda info: int(info["matched_text_index"]))[:max_images]
    places: list[tuple[str | None, str | None]] = []
    for index, sentence in enumerate(sentences):
        own = [info for info in kept if info["matched_text_index"] == index]
        places += [(None, str(info.get("image_name") or info.get("raw_url"))) for info in own]
        places += [(sentence, None)] if isinstance(sentence, str) and sentence.strip() else []
    return _document(row, places)


def obelics(row: Mapping[str, Any], max_images: int) -> Item:
    """A web document: `texts` and `images` of one length, one of the two at every position."""
    texts, images = row.get("texts"), row.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        raise Unusable("bad-document", "a document needs 'texts' and 'images' of one length")
    places: list[tuple[str | None, str | None]] = []
    for text, image in zip(texts, images, strict=True):
        if isinstance(image, str) and image and sum(place[1] is not None for place in places) < max_images:
            places.append((None, image))
        elif isinstance(text, str) and text.strip():
            places.append((text, None))
    return _document(row, places)


def _document(row: Mapping[str, Any], places: Sequence[tuple[str | None, str | None]]) -> Item:
    texts, images = [text for text, _ in places], [image for _, image in places]
    named = tuple(image for image in images if image is not None)
    if not named or not any(texts):
        raise Unusable("bad-document", "the document has no text" if named else "the document has no image")
    meta = {"interleaved": {"texts": texts, "images": images}, **_origin(row)}
    return Item(name=_name(row), images=named, meta=meta, may_lose=True)


def _img2dataset(inputs: Sequence[Path]) -> Iterator[Path]:
    """Tars or folders of files as img2dataset writes them; what it could not download is in its tables."""
    for place in inputs:
        if not place.is_dir():
            yield place
            continue
        for folder in [place, *sorted(path for path in place.rglob("*") if path.is_dir())]:
            yield from sorted(folder.glob("*.tar"))
            yield folder


def _tar_items(tar: Path) -> Iterator[Item | Unusable]:
    found: list[Item | Unusable] = []
    for shard in open_source([tar]).shards:
        for sample in read_shard(
            shard, on_reject=lambda r: found.append(Unusable(r.reason, f"{r.key}: {r.error}"))
        ):
            yield from found
            found.clear()
            if sample.lacks_images:
                yield Unusable(NO_IMAGE, f"{sample.key}: there is no picture of this key")
            else:
                yield Item(name=sample.key, images=sample.images, text=sample.text, meta=sample.meta)
        yield from found
    table = tar.with_suffix(".parquet")
    for row in read_rows(table) if table.is_file() else ():
        if not isinstance(row, Unusable) and row.get("status") not in (None, "success"):
            yield Unusable("not-downloaded", f"{row.get('url')}: {row.get('error_message') or row['status']}")


def _file_items(folder: Path) -> Iterator[Item | Unusable]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.stem.endswith("_stats"))
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix[1:].lower() in IMAGE_EXTENSIONS:
            by_stem.setdefault(path.stem, []).append(path)
    for stem in dict.fromkeys(path.stem for path in files if path.suffix in (".json", ".txt")):
        meta: dict[str, Any] = {}
        if (record := folder / f"{stem}.json").is_file():
            try:
                meta = load_json(record.read_bytes())
                if not isinstance(meta, dict):
                    raise ValueError("it should hold an object")
            except ValueError as error:
                yield Unusable("bad-json", f"{record}: {error}")
                continue
        pictures = by_stem.get(stem, [])
        text = folder / f"{stem}.txt"
        caption = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else meta.get("caption")
        if not pictures:
            yield Unusable(
                "not-downloaded", f"{meta.get('url') or stem}: {meta.get('error_message') or 'no image'}"
            )
            continue
        images = tuple(EncodedImage(p.read_bytes(), p.suffix[1:].lower()) for p in pictures)
        yield Item(name=stem, images=images, text=caption, meta=meta)


def _name(row: Mapping[str, Any]) -> str:
    for key in ("id", "doc_id", "url", "image", "title"):
        if isinstance(value := row.get(key), str | int):
            return str(value)
    return "an item without id"


def _origin(row: Mapping[str, Any]) -> dict[str, Any]:
    """What tells where an item came from, kept in KEY.json."""
    return {key: row[key] for key in ("id", "url", "doc_id", "title", "license") if key in row}
