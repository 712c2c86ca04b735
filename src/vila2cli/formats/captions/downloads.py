"""What img2dataset wrote: tars, or folders of loose files, with tables of what could not be downloaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vila2cli.files import load_json
from vila2cli.formats.captions.items import Item
from vila2cli.formats.reading import RowError, stream_rows
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.sample import EncodedImage, Sample
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS, read_members


def read_img2dataset(path: Path, max_images: int) -> Iterator[Item | RowError]:
    """The items of a tar, or of the files in a folder."""
    yield from _in_folder(path) if path.is_dir() else _in_tar(path)


def samples_in(tar: Path) -> Iterator[Sample | RowError]:
    """The samples of a tar in their order, and why any of them cannot be used."""
    rejects: list[RowError] = []
    is_empty = next(read_members(tar, lambda name: False), None) is None  # nothing could be downloaded
    for shard in () if is_empty else open_source([tar]).shards:
        for sample in read_shard(shard, on_reject=lambda r: rejects.append(RowError(r.error, r.reason, r.key))):
            yield from rejects
            rejects.clear()
            yield sample
        yield from rejects


def _in_tar(tar: Path) -> Iterator[Item | RowError]:
    for sample in samples_in(tar):
        if isinstance(sample, RowError):
            yield sample
        elif sample.lacks_images:
            yield RowError("there is no picture of this key", NO_IMAGE, sample.key)
        else:
            files = tuple(f"{sample.key}.{image.extension}" for image in sample.images)
            files = files if len(files) == 1 else ()
            yield Item(name=sample.key, images=sample.images, files=files, text=sample.text, meta=sample.meta)
    table = tar.with_suffix(".parquet")
    for row in stream_rows(table) if table.is_file() else ():
        if not isinstance(row, RowError) and row.get("status") not in (None, "success"):
            yield _not_downloaded(row.get("url"), row.get("error_message") or row.get("status"))


def _in_folder(folder: Path) -> Iterator[Item | RowError]:
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
                yield RowError(str(error), "bad-json", str(record))
                continue
        if not (pictures := by_stem.get(stem)):
            yield _not_downloaded(meta.get("url") or stem, meta.get("error_message") or "no image")
            continue
        text = folder / f"{stem}.txt"
        caption = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else meta.get("caption")
        images = tuple(EncodedImage(path.read_bytes(), path.suffix[1:].lower()) for path in pictures)
        yield Item(
            name=stem,
            images=images,
            files=tuple(path.name for path in pictures),
            text=caption if isinstance(caption, str) else None,
            meta=meta,
        )


def _not_downloaded(url: Any, why: Any) -> RowError:
    return RowError(f"{url}: {why}", "not-downloaded")
