"""`vila2 shards export`: captions with or without pictures as files of other tools, shard by shard."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import MARK, PARTIAL, read_json, sweep, to_json_bytes, write_atomically
from vila2cli.formats.exports.chats import join_lists
from vila2cli.formats.exports.files import join_lines
from vila2cli.formats.exports.parquet import check_pyarrow, join_tables
from vila2cli.formats.exports.rows import QUESTION, Content, Writer
from vila2cli.formats.registry import find_format
from vila2cli.run.folder import claim, read_manifest, write_json
from vila2cli.run.locks import lock
from vila2cli.run.stopping import interruptible
from vila2cli.run.written import ShardsWritten
from vila2cli.shards import (
    Shard,
    ShardStats,
    Source,
    Unreadable,
    read_shard,
    to_made_from,
    write_rejects,
)
from vila2cli.shards.contents import contents_of
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.members import Unusable
from vila2cli.shards.places import is_remote, local_path
from vila2cli.shards.reader import check_any
from vila2cli.shards.records import parts_of
from vila2cli.shards.sample import Reject, is_kept
from vila2cli.shards.streams import fingerprint
from vila2cli.text.compose import filter_inputs

DATA = "data"
"""The folder of the rows in an export, apart from what is kept about them."""


@dataclass(frozen=True, kw_only=True)
class Exported(ShardsWritten):
    """The counts of exported samples; `out_dir` is the file where they are in one."""

    format: str


def export(
    form: str,
    source: Source,
    out: Path,
    *,
    captions: Sequence[str] = (),
    with_pictures: bool = False,
    question: str = "",
) -> Exported:
    """Write the samples of a source that its filters keep in a format of `formats.registry`.

    `captions` are sources by name, by default the alt-text and every caption layer, or the newest caption layer
    alone in a format that holds one text. Shards that are there are kept. Raises RecipeError for captions that
    no layer has or another export's folder, DataError for shards that changed or cannot be read.
    """
    make: Callable[[Path, Shard, Content], Writer] = find_format("shards export", form).load()
    if form == "parquet":
        check_pyarrow()
    if with_pictures and form == "vila":
        raise RecipeError(
            "--pictures: vila's captions have none beside them; its reader has the tars themselves"
        )
    if question and form != "llava":
        raise RecipeError(f"--question is what captions answer in llava's conversations; {form} has none")
    content = _content(form, source, captions, with_pictures, question)
    folder = out / DATA if form in ("jsonl", "parquet") else out
    with lock(out), interruptible() as stop:
        if (stored := read_manifest(out)) is not None:  # an export that was begun goes on with its own columns
            content = replace(content, origins="origins" in stored.inputs)
        claim(out, _inputs(form, source, content))
        unreadable = Unreadable()

        def write(shard: Shard) -> None:
            for place in {out, folder, out / "shards"}:
                sweep(place)
            _write(make(folder, shard, content), shard, out)

        with stop.at_once():
            unreadable.each((shard for shard in source.shards if not _is_done(out, shard)), write)
        names = [shard.name for shard in source.shards if _stats_file(out, shard).is_file()]
        lines = [path.read_bytes() for name in names if (path := out / f"{name}.rejects.jsonl").is_file()]
        write_atomically(out / "rejects.jsonl", b"".join(lines))
        unreadable.check()
        if form == "llava":
            join_lists(out, names)
        total = _sum(out, names)
        check_any(total.num_in, source.shards)
        about = {"captions": list(content.captions), "pictures": content.with_pictures}
        write_json(out / "summary.json", {"stage": "export", "format": form, **about, **total.to_json()})
    _check_some(total, out)
    return Exported.counting(total, stage="export", format=form, out_dir=out)


def export_file(
    form: str,
    source: Source,
    path: Path,
    *,
    captions: Sequence[str] = (),
    with_pictures: bool = False,
    question: str = "",
) -> Exported:
    """Write the rows of `export` as one file, a .parquet or a .jsonl; what could not be used lies beside it.

    Raises what `export` does, DataError for a file that is there, and RecipeError for what takes several files.
    """
    if form == "jsonl" and with_pictures:
        raise RecipeError("--pictures: beside .jsonl pictures are files of their own; name a folder with --out")
    if os.path.lexists(path):
        raise DataError(f"{path} is there already; move it, or give another --out")
    folder = path.with_name(f"{MARK}{path.name}.parts{PARTIAL}")
    total = export(form, source, folder, captions=captions, with_pictures=with_pictures, question=question)
    names = [shard.name for shard in source.shards]
    parts = [part for name in names if (part := folder / DATA / f"{name}.{form}").is_file()]
    (join_tables if form == "parquet" else join_lines)(parts, path)
    if total.num_rejected:
        (folder / "rejects.jsonl").replace(rejects_beside(path))
    shutil.rmtree(folder)
    return replace(total, out_dir=path)


def rejects_beside(path: Path) -> Path:
    """Where the rejects of an export to one file are."""
    return path.with_name(f"{path.stem}.rejects.jsonl")


def _inputs(form: str, source: Source, content: Content) -> dict[str, Any]:
    """What decides an export."""
    return {
        "stage": "export",
        "format": form,
        "captions": list(content.captions),
        "answers": list(content.answers),
        "pictures": content.with_pictures,
        **({"question": content.question} if form == "llava" else {}),
        **({"origins": True} if content.origins else {}),
        "layers": source.outline()["layers"],
        **filter_inputs(source.layers),
    }


def _check_some(total: ShardStats, out: Path) -> None:
    if total.num_in and not total.num_out:
        why = ", ".join(f"{num:,} {reason}" for reason, num in total.dropped.items())
        raise DataError(f"none of {total.num_in:,} samples is in {out}: {why}; look at its rejects.jsonl")


def _content(form: str, source: Source, captions: Sequence[str], with_pictures: bool, question: str) -> Content:
    """What is exported of this source, by what its layers hold."""
    held = contents_of(source)
    known = held.captions
    held.check(captions, known)
    of_rounds = {name: numbers for name, numbers in held.rounds.items() if len(numbers) > 1}
    all_known = [one for name in known for one in _by_round(name, of_rounds.get(name, ()))]
    answers = [name for name, kind in held.kinds.items() if kind == "turns"]
    content = Content(
        captions=tuple(captions or (known[-1:] if form in ("llava", "vila") else all_known)),
        answers=tuple(answers) if form != "vila" else (),
        with_pictures=with_pictures,
        root=_root(source),
        question=question or QUESTION,
    )
    for name in (*content.captions, *answers):
        others = tuple(one for one in content.captions if one != name)
        columns = Content(others, with_pictures=True).columns()
        if name in columns:
            raise RecipeError(
                f"the layer {name} has the name of a column ({', '.join(columns)}); name other --captions"
            )
    return content


def _by_round(name: str, numbers: Sequence[int]) -> list[str]:
    """What layers of one name and several rounds go by."""
    return [f"{name}@{number}" for number in numbers] or [name]


def _root(source: Source) -> str:
    """The folder that all base shards of this machine are below."""
    tars = [local_path(shard.url).absolute() for shard in source.shards if not is_remote(shard.url)]
    return os.path.commonpath([tar.parent for tar in tars]) if tars else ""


def _stats_file(out: Path, shard: Shard) -> Path:
    return out / f"{shard.name}.stats.json"


def _is_done(out: Path, shard: Shard) -> bool:
    """Whether a shard is exported; raises DataError where it was made from other files than there are."""
    path = _stats_file(out, shard)
    if not path.is_file():
        return False
    then, parts = parts_of(read_json(path)), shard.parts()
    is_same = then.keys() == parts.keys() and all(
        then[name].agrees(fingerprint(place)) is not False for name, place in parts.items()
    )
    if not is_same:
        raise DataError(
            f"{shard.url} or a layer over it has changed since it was exported to {out}; remove {path.name} "
            "there to have it done again"
        )
    return True


def _write(writer: Writer, shard: Shard, out: Path) -> None:
    rejects: list[Reject] = []
    fingerprints: dict[str, Fingerprint] = {}
    num_out = num_filtered = 0
    try:
        for sample in read_shard(shard, on_reject=rejects.append, fingerprints=fingerprints):
            if not is_kept(sample):
                num_filtered += 1
                continue
            try:
                writer.add(sample)
                num_out += 1
            except Unusable as error:
                rejects.append(Reject(shard.name, sample.key, error.reason, str(error)))
        writer.close()
    finally:
        writer.abort()
    dropped = Counter(reject.reason for reject in rejects) + Counter(filtered=num_filtered)
    stats = {
        "in": num_out + dropped.total(),
        "out": num_out,
        "dropped": dict(sorted(dropped.items())),
        "rejected": len(rejects),
        **write_rejects(out, shard.name, rejects),
        "made_from": to_made_from(shard, fingerprints),
    }
    write_atomically(_stats_file(out, shard), to_json_bytes(stats))


def _sum(out: Path, names: Sequence[str]) -> ShardStats:
    total: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for name in names:
        stats = ShardStats.read(out / f"{name}.stats.json")
        total.update(num_in=stats.num_in, num_out=stats.num_out, num_rejected=stats.num_rejected)
        total.update(num_empty_shards=not stats.num_in)
        dropped.update(stats.dropped)
    return ShardStats(**total, dropped=dict(sorted(dropped.items())))
