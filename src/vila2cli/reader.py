"""One shard as a stream of samples: members grouped by key, joined with the annotations of its layers."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, DataWarning
from vila2cli.files import read_json
from vila2cli.places import is_remote, local_path, tar_stem
from vila2cli.sample import Annotation, EncodedImage, Reject, Sample, Turn, image_sha256
from vila2cli.streams import Fingerprint, fingerprint
from vila2cli.tarfiles import image_index, key_problem, made_from, read_members, split_name, stats_path

OnReject = Callable[[Reject], None]
Fingerprints = MutableMapping[str, Fingerprint]
MAX_COUNTED_SHARDS = 8
"""Shards whose samples are counted for an estimate of all."""


@dataclass(frozen=True, slots=True)
class LayerShard:
    """The tar of one layer that annotates one base shard; `url` is a path, a URL or a `pipe:` command."""

    layer: str
    url: str


@dataclass(frozen=True, slots=True)
class Shard:
    """A base tar and the layer tars over it; `name` is unique in its source and names every output."""

    name: str
    url: str
    layers: tuple[LayerShard, ...] = ()

    def parts(self) -> dict[str, str]:
        """The place of each tar by a name of its own: "000001", "000001+recaption", "000001+recaption.2"."""
        places = {self.name: self.url}
        times: Counter[str] = Counter()
        for layer in self.layers:
            times[layer.layer] += 1
            again = f".{times[layer.layer]}" if times[layer.layer] > 1 else ""
            places[f"{self.name}+{layer.layer}{again}"] = layer.url
        return places


@dataclass(slots=True)
class _Group:
    """Adjacent members of one key; `members` maps the extensions we read to their bytes."""

    key: str
    members: dict[str, bytes | None] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)


class _Unusable(Exception):
    """A group that makes no sample: why in one word, and in full."""

    def __init__(self, reason: str, error: str):
        super().__init__(error)
        self.reason = reason


def read_shard(
    shard: Shard,
    *,
    on_reject: OnReject,
    verify: bool = True,
    on_note: Callable[[str], None] | None = None,
    fingerprints: Fingerprints | None = None,
) -> Iterator[Sample]:
    """Yield the samples of a shard in file order, each with the annotations of all its layers.

    A key that makes no sample goes to `on_reject` and is never raised; samples plus rejects is what
    `num_samples` counts. Reasons: duplicate-key, not-adjacent, dotted-name, bad-key, bad-json, not-utf8,
    empty-image, ambiguous-image, bad-messages, bad-document. Raises DataError for a damaged or empty
    archive, and with `verify` for a layer whose image SHA-256 or keys are not those of the base. Where
    the base is the very file that the layer says it was made from, no image is hashed for it again.

    `on_note` is told of what is legal and yet suspicious, a missing end marker above all; without it
    that is a DataWarning. `fingerprints` is filled with that of every part read, by the names of `parts`.
    """
    note = _warn(shard.url) if on_note is None else on_note
    base_name, *layer_names = shard.parts()
    layers = [
        _OpenLayer(
            layer,
            read_layer_shard(layer.url, _keeper(fingerprints, name)),
            verify and not _lies_over_this(layer, shard),
        )
        for name, layer in zip(layer_names, shard.layers, strict=True)
    ]
    seen: dict[str, frozenset[str]] = {}
    num_groups = 0
    for group in _groups(shard.url, _is_read, on_odd=note, on_read=_keeper(fingerprints, base_name)):
        num_groups += 1
        try:
            _check_new(group, seen)
            sample = _to_sample(group, layers)
        except _Unusable as error:
            on_reject(Reject(shard.name, _printable_key(group.key), error.reason, str(error)))
            continue
        yield sample
    if num_groups == 0:
        raise DataError(_empty_message(shard.url))
    for layer in layers if verify else ():
        missing = next((key for key in layer.annotations if key not in seen), None)
        if missing is not None:
            raise DataError(
                f"{layer.shard.url} annotates {missing!r}, which {shard.url} does not hold: wrong base?"
            )


def _keeper(fingerprints: Fingerprints | None, name: str) -> Callable[[Fingerprint], None] | None:
    if fingerprints is None:
        return None
    found = fingerprints
    return lambda fingerprint: found.__setitem__(name, fingerprint)


def _warn(place: str) -> Callable[[str], None]:
    return lambda text: warnings.warn(f"{place}: {text}", DataWarning, stacklevel=3)


def num_samples(shard: Shard) -> int:
    """Samples plus rejects that `read_shard` will meet: from a stats file where it fits, else by headers."""
    known = known_num_samples(shard)
    return sum(1 for _ in _groups(shard.url, lambda name: False)) if known is None else known


def known_num_samples(shard: Shard) -> int | None:
    """`num_samples` where a stats file tells it, so that the shard need not be read."""
    for url, field_name in [(layer.url, "in") for layer in shard.layers] + [(shard.url, "out")]:
        if is_remote(url):
            continue
        tar = local_path(url)
        stats = stats_path(tar)
        if stats.is_file() and tar.is_file():
            known = read_json(stats)
            if known.get("bytes") == tar.stat().st_size and isinstance(known.get(field_name), int):
                return int(known[field_name])
    return None


def expected_samples(shards: Sequence[Shard]) -> tuple[int | None, bool]:
    """How many samples shards hold together, and whether that is exact.

    Where stats files do not tell, a few local shards are counted and the others taken to hold as many
    on average. None when nothing is known without reading a remote or damaged shard.
    """
    known = [known_num_samples(shard) for shard in shards]
    unknown = [shard for shard, number in zip(shards, known, strict=True) if number is None]
    total = sum(number for number in known if number is not None)
    if not unknown:
        return total, True
    counted = unknown[:: -(-len(unknown) // MAX_COUNTED_SHARDS)]
    try:
        if any(is_remote(shard.url) for shard in counted):
            return None, False
        mean = sum(map(num_samples, counted)) / len(counted)
    except DataError:  # its turn to be told will come
        return None, False
    return total + round(mean * len(unknown)), len(counted) == len(unknown)


def member_problems(shard: Shard) -> Iterator[tuple[str, str]]:
    """What a shard's archives hold that `read_shard` passes over in silence: kind and description.

    Kinds: odd-archive, dotted-name, ignored-extension. Reads headers only; raises DataError for damage.
    """
    odd: list[str] = []
    extensions: Counter[str] = Counter()
    for url in (shard.url, *(layer.url for layer in shard.layers)):
        for name, _ in read_members(url, lambda name: False, on_odd=odd.append):
            split = split_name(name)
            if split is None:
                extensions["(none)"] += 1
            elif not _is_known(split[1]):
                extensions[split[1]] += 1
        yield from (("odd-archive", f"{url}: {text}") for text in odd)
        odd.clear()
    for extension, number in sorted(extensions.items()):
        if _is_known(extension.rpartition(".")[2]):
            yield (
                "dotted-name",
                f"{number} members end in '.{extension}': a key ends at the first dot of the name",
            )
        else:
            yield "ignored-extension", f"{number} members end in '.{extension}', which is not read"


def read_layer_shard(tar: str | Path, on_read: Callable[[Fingerprint], None] | None = None) -> dict[str, bytes]:
    """The annotations of a layer tar as JSON bytes by key; raises DataError when a key is there twice."""
    annotations: dict[str, bytes] = {}
    for name, data in read_members(tar, lambda name: name.endswith(".json"), on_read=on_read):
        split = split_name(name)
        if split is None or data is None:
            continue
        if split[0] in annotations:
            raise DataError(f"{tar} annotates {split[0]!r} twice; write this layer again")
        annotations[split[0]] = data
    return annotations


def _is_read(name: str) -> bool:
    split = split_name(name)
    return split is not None and _is_known(split[1])


def _is_known(extension: str) -> bool:
    return extension in ("txt", "json") or image_index(extension) is not None


def _groups(
    place: str,
    wanted: Callable[[str], bool],
    *,
    on_odd: Callable[[str], None] | None = None,
    on_read: Callable[[Fingerprint], None] | None = None,
) -> Iterator[_Group]:
    """Group adjacent members by key; a repeated extension starts a second group of the same key.

    Groups of which we know no extension are left out, unless only a dot in the name hides one we know.
    """
    group: _Group | None = None
    for name, data in read_members(place, wanted, on_odd=on_odd, on_read=on_read):
        split = split_name(name)
        if split is None:
            continue
        key, extension = split
        if group is None or key != group.key or extension in group.extensions:
            if group is not None and _is_counted(group):
                yield group
            group = _Group(key)
        group.extensions.add(extension)
        if _is_known(extension):
            group.members[extension] = data
    if group is not None and _is_counted(group):
        yield group


def _is_counted(group: _Group) -> bool:
    return bool(group.members) or any(_is_known(name.rpartition(".")[2]) for name in group.extensions)


def _check_new(group: _Group, seen: dict[str, frozenset[str]]) -> None:
    earlier = seen.get(group.key)
    if earlier is None:
        seen[group.key] = frozenset(group.extensions)
    elif earlier & group.extensions:
        raise _Unusable("duplicate-key", "the shard holds this key already; the first one is used")
    else:
        found = ", ".join(sorted(group.extensions))
        raise _Unusable("not-adjacent", f"{found} does not lie beside the other members of its key")


def _to_sample(group: _Group, layers: list["_OpenLayer"]) -> Sample:
    if not group.key.isascii():
        _check_unicode(group.key, "the key")
    if ".." in group.key or group.key[0] in "_/":
        _check_key(group.key)
    if not group.members:
        found = ", ".join(sorted(group.extensions))
        raise _Unusable("dotted-name", f"a key ends at the first dot, which leaves the extension {found!r}")
    text: str | None = None
    meta: dict[str, Any] = {}
    images: list[tuple[int, EncodedImage]] = []
    for extension, data in group.members.items():
        assert data is not None
        if extension == "txt":
            text = _decode_text(data)
        elif extension == "json":
            meta = _parse_meta(data)
        else:
            index = image_index(extension)
            assert index is not None
            images.append((index, EncodedImage(data, extension.rpartition(".")[2])))
    if "interleaved" in meta:
        _check_document(meta["interleaved"], len(images))
    in_order = _in_order(images)
    annotations = _annotations(group.key, in_order, layers) if layers else ()
    return Sample(key=group.key, images=in_order, text=text, meta=meta, annotations=annotations)


def _in_order(images: list[tuple[int, EncodedImage]]) -> tuple[EncodedImage, ...]:
    if any(not image.data for _, image in images):
        raise _Unusable("empty-image", "an image of this sample has no bytes")
    if len(images) == 1:
        return (images[0][1],)
    if len({index for index, _ in images}) < len(images):
        raise _Unusable("ambiguous-image", "two images have the same place, like KEY.jpg and KEY.png")
    return tuple(image for _, image in sorted(images, key=lambda pair: pair[0]))


def _decode_text(data: bytes) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _Unusable("not-utf8", f"the text is not UTF-8: {error}") from None


def _parse_meta(data: bytes) -> dict[str, Any]:
    try:
        meta = json.loads(data)
    except UnicodeDecodeError as error:
        raise _Unusable("not-utf8", f"the JSON is not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise _Unusable("bad-json", f"the JSON cannot be parsed: {error}") from None
    if not isinstance(meta, dict):
        raise _Unusable("bad-json", f"the JSON should be an object, not a {type(meta).__name__}")
    if b"\\u" in data:
        _check_unicode(json.dumps(meta, ensure_ascii=False), "the JSON")
    if "messages" in meta:
        _check_messages(meta["messages"])
    return meta


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable("not-utf8", f"{what} holds half a character: {error.reason}") from None


def _check_key(key: str) -> None:
    if problem := key_problem(key):
        raise _Unusable("bad-key", problem)


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _Unusable("bad-messages", "'messages' should be a list of objects with a role and a content")
    try:
        for message in messages:
            Turn.from_json(message)
    except DataError as error:
        raise _Unusable("bad-messages", str(error)) from None


def _check_document(document: object, num_images: int) -> None:
    """A web document needs one text or one image at every position, and all its images in the shard."""
    texts = document.get("texts") if isinstance(document, dict) else None
    places = document.get("images") if isinstance(document, dict) else None
    if not isinstance(texts, list) or not isinstance(places, list) or len(texts) != len(places):
        raise _Unusable(
            "bad-document", "'interleaved' should hold 'texts' and 'images', two lists of one length"
        )
    if any((text is None) == (place is None) for text, place in zip(texts, places, strict=True)):
        raise _Unusable("bad-document", "every position of 'interleaved' holds either a text or an image")
    if not all(text is None or isinstance(text, str) for text in texts):
        raise _Unusable("bad-document", "a text of 'interleaved' is no text")
    if (stated := sum(place is not None for place in places)) != num_images:
        raise _Unusable("bad-document", f"'interleaved' names {stated} images, {num_images} are there")


@dataclass(frozen=True, slots=True)
class _OpenLayer:
    """The annotations of a layer tar by key; `checks_images` says whether theirs have to be compared."""

    shard: LayerShard
    annotations: dict[str, bytes]
    checks_images: bool


def _lies_over_this(layer: LayerShard, shard: Shard) -> bool:
    """Whether the base is, by size and time of change, the file that a layer tar was made from."""
    if is_remote(layer.url) or is_remote(shard.url):
        return False
    was = made_from(local_path(layer.url)).get(tar_stem(layer.url))
    return was is not None and was.agrees(fingerprint(shard.url)) is True


def _annotations(
    key: str, images: tuple[EncodedImage, ...], layers: list[_OpenLayer]
) -> tuple[Annotation, ...]:
    found = []
    sha256 = image_sha256(images) if any(layer.checks_images for layer in layers) else ""
    for layer in layers:
        data = layer.annotations.get(key)
        if data is None:
            continue
        annotation = _parse_annotation(data, layer.shard, key)
        if layer.checks_images and annotation.image_sha256 != sha256:
            raise DataError(
                f"{layer.shard.url} was made for other pictures: the image of {key!r} differs; "
                "give the base it was made from (--base says where it is now)"
            )
        found.append(annotation)
    return tuple(found)


def _parse_annotation(data: bytes, layer: LayerShard, key: str) -> Annotation:
    try:
        return Annotation.from_json(json.loads(data.decode("utf-8")))
    except (DataError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{layer.url} holds no valid annotation for {key!r}: {error}") from None


def _printable_key(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


def _empty_message(tar: str) -> str:
    found = sorted({(split_name(name) or ("", "none"))[1] for name, _ in read_members(tar, lambda name: False)})
    if not found:
        return f"empty shard: {tar} holds no files"
    shown = ", ".join(f".{extension}" for extension in found[:5])
    return f"empty shard: {tar} holds no image, .txt or .json that makes a sample, only {shown}"
