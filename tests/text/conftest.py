"""Captions that people and machines wrote of real pictures."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_captions(real_data: Path) -> list[str]:
    """English captions, short and dense, of photos, drawings and diagrams, by people and by models."""
    return [text for text in (*_openstax(real_data), *_coco(real_data), *_archived(real_data)) if text]


def _openstax(folder: Path) -> Iterator[str]:
    for line in (folder / "openstax_astronomy" / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield from (row.get("alt"), row.get("caption"))


def _coco(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "coco_ccby" / "annotations").glob("captions_*.json")):
        for row in json.loads(path.read_bytes())["annotations"]:
            yield row["caption"]


def _archived(folder: Path) -> Iterator[str]:
    """POPE's machine captions, ImageInWords, and CIDEr's references and candidates."""
    with tarfile.open(folder / "bench.tar.xz") as archive:
        for member in archive:
            kind = next(
                (
                    name
                    for name in ("caption_data", "imageinwords", "abstract4", "cands")
                    if name in member.name
                ),
                "",
            )
            if kind and member.name.endswith((".json", ".jsonl")):
                file = archive.extractfile(member)
                assert file is not None, member.name
                yield from _texts(kind, file.read().decode().replace("\r\n", "\n"))


def _texts(kind: str, text: str) -> Iterator[str]:
    if kind == "caption_data":
        yield from (json.loads(row)["text"] for row in text.replace("}\n{", "}\0{").split("\0"))
    elif kind == "imageinwords":
        for line in text.splitlines():
            yield from (one for one in json.loads(line).values() if isinstance(one, str) and one.count(" ") > 5)
    else:
        yield from (row["caption"] for row in json.loads(text))
