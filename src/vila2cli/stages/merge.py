"""`vila2 shards merge`: self-contained shards of images and joined text, for tools that know no layers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import sweep, to_json_bytes
from vila2cli.run.folder import claim, read_manifest
from vila2cli.run.locks import lock
from vila2cli.run.written import ShardsWritten
from vila2cli.shards import (
    Shard,
    Source,
    TarWriter,
    Unreadable,
    done,
    folder_stats,
    gather_rejects,
    missing,
    read_shard,
    to_made_from,
    write_rejects,
)
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.reader import check_any
from vila2cli.shards.records import add_figures, read_stats
from vila2cli.shards.sample import ORIGINAL, Reject, Sample, is_kept
from vila2cli.text.choose import Choice, drawn_line, reached
from vila2cli.text.compose import Composition, compose_caption, filter_inputs


@dataclass(frozen=True, kw_only=True)
class Merged(ShardsWritten):
    """The counts of merged shards; where captions were drawn, what the shares of each source came to."""

    drawn: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        yield from super().lines()
        if self.drawn:
            yield f"  {drawn_line(self.drawn)}"


def merge(
    source: Source,
    out_dir: str | Path,
    *,
    captions: Sequence[str] = (ORIGINAL, "recaption"),
    separator: str = "\n",
    choice: Choice | None = None,
) -> Merged:
    """Write self-contained WebDataset shards: the images, KEY.txt with the captions composed in the order
    given, KEY.json with the metadata and under "annotations" what the layers say. With a `choice` the caption
    is the one that training draws in its first epoch.

    A sample that a filter layer leaves out, and one with neither caption nor metadata, is dropped and
    counted. Shards that are there are kept, and those of a source that has grown are added. Raises
    RecipeError when they were merged in another way, DataError when one was merged from other files or its
    source is gone, while another process merges, and for shards that cannot be read once the others are
    merged.
    """
    folder = Path(out_dir)
    names = [shard.name for shard in source.shards]
    with lock(folder):
        claim(
            folder,
            {
                "stage": "merge",
                **({"captions": list(captions), "separator": separator} if choice is None else asdict(choice)),
                **_sources(source, folder),
                **filter_inputs(source.layers),
            },
        )
        sweep(folder)
        if gone := sorted(done(folder) - set(names)):
            raise DataError(
                f"{folder} holds {gone[0]}.tar, and no shard of that name is given now; give it again, remove "
                "the merged one, or choose another --out"
            )
        unreadable = Unreadable()
        unreadable.each(
            missing(folder, source.shards),
            lambda shard: _merge_shard(shard, folder, captions, separator, choice),
        )
        gather_rejects(folder, names)
        unreadable.check()
        total = folder_stats(folder, names)
        check_any(total.num_in, source.shards)
        drawn = {} if choice is None else _drawn_shares(choice, folder)
        return Merged.counting(total, stage="merge", out_dir=folder, drawn=drawn)


def _sources(source: Source, folder: Path) -> dict[str, Any]:
    """What of the source decides the merged shards together; what each was made from its stats file says."""
    stored = read_manifest(folder)
    if stored is not None and "shards" in stored.inputs:  # an earlier release held all shards fixed
        return {"shards": source.outline()}
    return {"layers": source.outline()["layers"]}


def _drawn_shares(choice: Choice, folder: Path) -> dict[str, dict[str, float]]:
    """What the shares of a merged folder came to, by source, over the shards that are there."""
    total: dict[str, Any] = {"drawn": {}, "lacking": {}}
    for name in done(folder):
        stats = read_stats(folder / f"{name}.stats.json")
        add_figures(total, {group: stats.get(group, {}) for group in total})
    return reached(choice.shares, total["drawn"], total["lacking"])


def _merge_shard(
    shard: Shard, folder: Path, captions: Sequence[str], separator: str, choice: Choice | None
) -> None:
    drawn: Counter[str] = Counter()
    lacking: Counter[str] = Counter()

    def caption_for(sample: Sample) -> str | None:
        if choice is None:
            return compose_caption(sample, captions, separator)
        texts = Composition(choose=choice.shares).sources(sample)
        name = choice.draw(shard.name, sample.key, texts)
        drawn.update([name] if name else [])
        lacking.update(one for one in choice.names if one not in texts)
        return texts[name] if name else None

    rejects: list[Reject] = []
    fingerprints: dict[str, Fingerprint] = {}
    num_in = num_filtered = 0
    with TarWriter(folder / f"{shard.name}.tar") as tar:
        for sample in read_shard(shard, on_reject=rejects.append, fingerprints=fingerprints):
            num_in += 1
            if not is_kept(sample):
                num_filtered += 1
                continue
            caption = caption_for(sample)
            if caption is None and not sample.meta:
                rejects.append(Reject(shard.name, sample.key, "no-caption", f"none of {', '.join(captions)}"))
                continue
            tar.write_sample(sample.key, _merged_members(sample, caption))
        num_in += sum(reject.reason != "no-caption" for reject in rejects)
        dropped = Counter(reject.reason for reject in rejects) + Counter(filtered=num_filtered)
        assert num_in == tar.num_samples + dropped.total(), f"shard {shard.name} does not add up"
        tar.stats = {
            "in": num_in,
            "dropped": dict(sorted(dropped.items())),
            "rejected": len(rejects),
            **write_rejects(folder, shard.name, rejects),
            **({"drawn": dict(drawn), "lacking": dict(lacking)} if choice is not None else {}),
            "made_from": to_made_from(shard, fingerprints),
        }


def _merged_members(sample: Sample, caption: str | None) -> dict[str, bytes]:
    several = len(sample.images) > 1
    members = {
        f"{number}.{image.extension}" if several else image.extension: image.data
        for number, image in enumerate(sample.images)
    }
    if caption is not None:
        members["txt"] = caption.encode("utf-8", "replace")
    members["json"] = _meta_bytes(sample)
    return members


def _meta_bytes(sample: Sample) -> bytes:
    """KEY.json of a merged sample."""
    earlier: Any = sample.meta.get("annotations", [])
    annotations = [
        *(earlier if isinstance(earlier, list) else []),
        *(one.to_json() for one in sample.annotations),
    ]
    return to_json_bytes({**sample.meta, **({"annotations": annotations} if annotations else {})})
