"""One shard as a stream of samples: members grouped by key, joined with the annotations of its layers."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, cast

from vila2cli.errors import DataError, DataWarning
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.members import Group, Unusable, is_counted, is_known, parse_group
from vila2cli.shards.origins import Origins, check_is_base, check_origins
from vila2cli.shards.packed import Records, parse_shared
from vila2cli.shards.places import is_remote, is_there, local_path, tar_stem
from vila2cli.shards.records import digests_of, note, read_stats, recorded, stats_path
from vila2cli.shards.sample import Annotation, EncodedImage, Reject, Sample, image_sha256
from vila2cli.shards.tarfiles import SHARED_MEMBER, read_members, split_name

OnReject = Callable[[Reject], None]
Fingerprints = MutableMapping[str, Fingerprint]
_NUM_PARSED_AHEAD = 64
EMPTY = "empty shard: the archive holds no files"
"""What is noted of a shard without samples."""


@dataclass(frozen=True, slots=True)
class LayerShard:
    """The tar of one layer that annotates one base shard; `url` is a path, a URL or a `pipe:` command."""

    layer: str
    url: str


@dataclass(frozen=True, slots=True)
class Shard:
    """A base tar and the layer tars over it; `name` is unique in its source and names every output.

    `first` is how many of its samples there are for whoever reads it, None for all of them.
    """

    name: str
    url: str
    layers: tuple[LayerShard, ...] = ()
    first: int | None = None

    def parts(self) -> dict[str, str]:
        """The place of each tar by a name of its own: "000001", "000001+recaption", "000001+recaption.2"."""
        places = {self.name: self.url}
        times: Counter[str] = Counter()
        for layer in self.layers:
            times[layer.layer] += 1
            again = f".{times[layer.layer]}" if times[layer.layer] > 1 else ""
            places[f"{self.name}+{layer.layer}{again}"] = layer.url
        return places


def read_shard(
    shard: Shard,
    *,
    on_reject: OnReject,
    verify: bool = True,
    on_note: Callable[[str], None] | None = None,
    fingerprints: Fingerprints | None = None,
    takes: Callable[[str], bool] | None = None,
) -> Iterator[Sample]:
    """Yield the samples of a shard in file order, each with the annotations of all its layers.

    A key that makes no sample goes to `on_reject` and is never raised; samples plus rejects is what
    `num_samples` counts. Reasons: duplicate-key, not-adjacent, dotted-name, bad-key, bad-json, not-utf8,
    no-image (there is a picture, and none that is read), empty-image, ambiguous-image, bad-messages,
    bad-document. An archive without files is a shard of no samples, which is noted: img2dataset leaves such
    where nothing could be downloaded. Raises DataError for a damaged archive, or one that holds other files
    alone, and with `verify` for a layer whose image
    SHA-256 or keys are not those of the base, and, at the latest after the last sample, when the base or a
    layer below is not the file that a layer was made from. Where the base is that very file, no image is
    hashed for it again.

    `on_note` gets what is legal and yet suspicious, a missing end marker above all; without it
    that is a DataWarning. `fingerprints` is filled with that of every part read, by the names of `parts`.
    Only keys that it `takes` are read, where that is given. Of a shard of which the `first` samples are meant
    no more is read.
    """

    def warn(text: str) -> None:
        warnings.warn(f"{shard.url}: {text}", DataWarning, stacklevel=3)

    check_is_base(shard.url)
    base_name, *layer_names = shard.parts()
    records = [recorded(layer.url) for layer in shard.layers]
    keep = None if fingerprints is None else fingerprints.__setitem__
    annotations = [
        read_layer_shard(layer.url, partial(keep, name) if keep else None, record)
        for name, layer, record in zip(layer_names, shard.layers, records, strict=True)
    ]
    origins = Origins(shard.url, _places(shard), records) if verify else None
    are_same = origins.are_same if origins else [True] * len(records)
    layers = [
        _OpenLayer(layer, of_layer, not is_same)
        for layer, of_layer, is_same in zip(shard.layers, annotations, are_same, strict=True)
    ]
    if origins is not None and origins.problem:
        _refuse(shard, layers, origins.problem)

    def on_base(fingerprint: Fingerprint) -> None:
        if needs_digest and origins is not None:
            origins.finish(fingerprint)
        if keep is not None:
            keep(base_name, fingerprint)

    needs_digest = origins is not None and origins.needs_digest
    on_read = on_base if needs_digest or keep is not None else None
    wanted = _is_read if takes is None else partial(_is_read, takes=takes)
    groups = _groups(shard.url, wanted, on_odd=on_note or warn, on_read=on_read)
    yield from _joined(shard, groups, layers, on_reject, verify=verify, takes=takes, on_note=on_note or warn)


def _joined(
    shard: Shard,
    groups: Iterator[Group],
    layers: list["_OpenLayer"],
    on_reject: OnReject,
    *,
    verify: bool,
    takes: Callable[[str], bool] | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> Iterator[Sample]:
    seen: dict[str, frozenset[str]] = {}
    for group in islice(groups, shard.first):
        is_taken = takes is None or takes(group.key)
        try:
            _check_new(group, seen)
            if not is_taken:
                continue
            images, text, meta = parse_group(group)
        except Unusable as error:
            if is_taken:
                key = group.key.encode("utf-8", "backslashreplace").decode("utf-8")
                on_reject(Reject(shard.name, key, error.reason, str(error)))
            continue
        annotations = _annotations(group.key, images, layers) if layers else ()
        members = cast(dict[str, bytes], group.members)
        yield Sample(
            key=group.key, images=images, text=text, meta=meta, annotations=annotations, members=members
        )
    if not seen:
        _check_empty(shard.url)
        on_note(EMPTY)
    for layer in layers if verify and shard.first is None else ():
        if (missing := next((key for key in layer.records.by_key if key not in seen), None)) is not None:
            raise DataError(
                f"{layer.shard.url} annotates {missing!r}, which {shard.url} does not hold: wrong base?"
            )


def _refuse(shard: Shard, layers: list["_OpenLayer"], problem: str) -> NoReturn:
    """Raise DataError for a base that a layer was not made from, naming a picture or key that differs."""
    if not is_remote(shard.url):
        groups = _groups(shard.url, _is_read, on_odd=lambda text: None)
        for _ in _joined(shard, groups, layers, lambda reject: None, verify=True):
            pass
    raise DataError(problem)


def check_layers(shard: Shard) -> None:
    """Raise DataError when the base or a layer of a shard is not the file that a layer over it was made from.

    Nothing is read where size and time of change tell.
    """
    check_origins(shard.url, _places(shard))


def _places(shard: Shard) -> list[tuple[str, str]]:
    return [(layer.layer, layer.url) for layer in shard.layers]


def num_samples(shard: Shard) -> int:
    """Samples plus rejects that `read_shard` will meet: from a stats file where it fits, else by headers."""
    known = known_num_samples(shard)
    return (
        sum(1 for _ in islice(_groups(shard.url, lambda name: False), shard.first)) if known is None else known
    )


def known_num_samples(shard: Shard) -> int | None:
    """`num_samples` where a stats file tells it, so that the shard need not be read."""
    for url, field_name in [(layer.url, "in") for layer in shard.layers] + [(shard.url, "out")]:
        if is_remote(url):
            continue
        tar = local_path(url)
        stats = stats_path(tar)
        if stats.is_file() and tar.is_file():
            known = read_stats(stats)
            num = known.get(field_name)
            if known.get("bytes") == tar.stat().st_size and isinstance(num, int):
                return num if shard.first is None else min(num, shard.first)
    return None


def check_any(num_samples: int, shards: Sequence[Shard]) -> None:
    """Raise DataError where shards, all of them read, hold no sample, nor anything that was to be one."""
    if shards and not num_samples:
        num = len(shards)
        what = f"{num} shards, {shards[0].url} first," if num > 1 else shards[0].url
        raise DataError(f"there is no sample in {what} as the archives hold no files; give shards with samples")


def member_problems(shard: Shard) -> Iterator[tuple[str, str]]:
    """What a shard's archives hold that `read_shard` passes over in silence: kind and description.

    Kinds: empty-shard, odd-archive, dotted-name, ignored-extension. Reads headers only; raises DataError for
    damage.
    """
    odd: list[str] = []
    extensions: Counter[str] = Counter()
    for url in (shard.url, *(layer.url for layer in shard.layers)):
        names = [name for name, _ in read_members(url, lambda name: False, on_odd=odd.append)]
        if url == shard.url and not names:
            yield "empty-shard", f"{shard.url} holds no files"
        for name in names:
            split = split_name(name)
            if split is None:
                extensions["(none)"] += name != SHARED_MEMBER or url == shard.url
            elif not is_known(split[1]):
                extensions[split[1]] += 1
        yield from (("odd-archive", f"{url}: {text}") for text in odd)
        odd.clear()
    for extension, number in sorted((+extensions).items()):
        text = f"{number} members end in '.{extension}'"
        if is_known(extension.rpartition(".")[2]):
            yield "dotted-name", f"{text}: a key ends at the first dot of the name"
        else:
            yield "ignored-extension", f"{text}, which is not read"


def read_layer_shard(
    tar: str | Path,
    on_read: Callable[[Fingerprint], None] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Records:
    """The annotations of a layer tar.

    Raises DataError for one that is cut off, anywhere, or was joined with another, that is not as its stats
    file says (`record`, by default read from beside it), or holds a key twice.
    """
    record = recorded(tar) if record is None else record
    fingerprints: list[Fingerprint] = []
    is_copied = _is_copied(tar, record)
    annotations: dict[str, bytes] = {}
    shared: list[dict[str, Any]] = []
    members = read_members(
        tar,
        lambda name: name.endswith(".json") or name == SHARED_MEMBER,
        on_read=fingerprints.append if is_copied or on_read else None,
        record=record,
        is_layer=True,
    )
    for name, data in members:
        if name == SHARED_MEMBER and data is not None:
            shared += parse_shared(data, tar)
        split = split_name(name)
        if split is None or data is None:
            continue
        if split[0] in annotations:
            raise DataError(f"{tar} annotates {split[0]!r} twice; write this layer again")
        annotations[split[0]] = data
    _check_record(tar, len(annotations), fingerprints, record)
    if is_copied:  # and is what was written
        note(local_path(tar), mtime_ns=local_path(tar).stat().st_mtime_ns)
    if on_read:
        on_read(fingerprints[0])
    return Records(tar, annotations, shared)


def _is_copied(tar: str | Path, record: Mapping[str, Any]) -> bool:
    """Whether a local layer tar was touched after it was written, so that only its digest says what it is."""
    if is_remote(tar) or not record.get("sha256"):
        return False
    path = local_path(tar)
    return is_there(path) and path.stat().st_mtime_ns != record.get("mtime_ns")


def _check_record(
    tar: str | Path, num_annotations: int, fingerprints: Sequence[Fingerprint], record: Mapping[str, Any]
) -> None:
    then = digests_of(record)
    if fingerprints and then and not then & {fingerprints[0].sha256, fingerprints[0].unpacked}:
        raise DataError(
            f"{tar} is not the file that was written: its SHA-256 is not the one in {tar_stem(tar)}.stats.json "
            "beside it; put the old one back, or write this layer again"
        )
    if record.get("written", num_annotations) != num_annotations:
        raise DataError(
            f"{tar} holds {num_annotations} annotations, and {tar_stem(tar)}.stats.json beside it says "
            f"{record['written']}; copy both again, or write this layer again"
        )


def _is_read(name: str, takes: Callable[[str], bool] | None = None) -> bool:
    split = split_name(name)
    return split is not None and is_known(split[1]) and (takes is None or takes(split[0]))


def _groups(
    place: str,
    wanted: Callable[[str], bool],
    *,
    on_odd: Callable[[str], None] | None = None,
    on_read: Callable[[Fingerprint], None] | None = None,
) -> Iterator[Group]:
    """Group adjacent members by key; a repeated extension starts a second group of the same key.

    Groups of which we know no extension are left out, unless only a dot in the name hides one we know.
    """
    group: Group | None = None
    for name, data in read_members(place, wanted, on_odd=on_odd, on_read=on_read):
        split = split_name(name)
        if split is None:
            continue
        key, extension = split
        if group is None or key != group.key or extension in group.extensions:
            if group is not None and is_counted(group):
                yield group
            group = Group(key)
        group.extensions.add(extension)
        if is_known(extension):
            group.members[extension] = data
    if group is not None and is_counted(group):
        yield group


def _check_new(group: Group, seen: dict[str, frozenset[str]]) -> None:
    earlier = seen.get(group.key)
    if earlier is None:
        seen[group.key] = frozenset(group.extensions)
    elif earlier & group.extensions:
        raise Unusable("duplicate-key", "the shard holds this key already; the first one is used")
    else:
        extensions = ", ".join(sorted(group.extensions))
        raise Unusable("not-adjacent", f"{extensions} does not lie beside the other members of its key")


class _OpenLayer:
    """The annotations of a layer tar; `checks_images` says whether theirs have to be compared."""

    def __init__(self, shard: LayerShard, records: Records, checks_images: bool) -> None:
        self.shard, self.records, self.checks_images = shard, records, checks_images
        self._ahead: dict[str, Annotation] = {}
        self._unparsed = iter(records.by_key)

    def annotation(self, key: str) -> Annotation | None:
        """What the layer says about a key, if anything; raises DataError for what no annotation can be."""
        if key not in self.records.by_key:
            return None
        if key not in self._ahead:
            self._parse_ahead()
        return self._ahead.pop(key, None) or self.records.annotation(key)

    def _parse_ahead(self) -> None:
        """Parse the next annotations in one go: between two images that are decoded each takes twice as long.

        What cannot be parsed is left for when its key comes up.
        """
        self._ahead.clear()  # a base in another order is read one by one
        for key in islice(self._unparsed, _NUM_PARSED_AHEAD):
            with contextlib.suppress(DataError):
                self._ahead[key] = self.records.annotation(key)


def _annotations(
    key: str, images: tuple[EncodedImage, ...], layers: list[_OpenLayer]
) -> tuple[Annotation, ...]:
    annotations = []
    sha256 = image_sha256(images) if any(layer.checks_images for layer in layers) else ""
    for layer in layers:
        annotation = layer.annotation(key)
        if annotation is None:
            continue
        if layer.checks_images and annotation.image_sha256 != sha256:
            raise DataError(
                f"{layer.shard.url} was made for other pictures: the image of {key!r} differs; "
                "give the base it was made from (--base says where it is now)"
            )
        annotations.append(annotation)
    return tuple(annotations)


def _check_empty(tar: str) -> None:
    """Raise DataError for an archive with files of which none is of a sample."""
    names = [name for name, _ in read_members(tar, lambda name: False)]
    extensions = sorted({(split_name(name) or ("", "none"))[1] for name in names})
    if extensions:
        shown = ", ".join(f".{extension}" for extension in extensions[:5])
        raise DataError(f"empty shard: {tar} holds no image, .txt or .json that makes a sample, only {shown}")
