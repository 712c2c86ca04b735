"""Whether the files of a shard are those that the layers over it say they were made from.

Size and time of change tell at once. Where only the time differs the SHA-256 decides, of a base that is
read anyway along the way, and what was found is noted in the layer's stats file for the next time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vila2cli.errors import DataError
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.places import is_remote, local_path, tar_stem
from vila2cli.shards.records import note_origin, parts_of, recorded
from vila2cli.shards.streams import digest_of, fingerprint, is_gzip

Record = Mapping[str, Any]


class Origins:
    """What the layers of a shard were made from, by their stats files, against what is there.

    `layers` are names and places in their order, `records` what the stats files beside them say.
    """

    def __init__(self, base: str, layers: Sequence[tuple[str, str]], records: Sequence[Record]) -> None:
        self.base = base
        self.problem = ""
        """Why the base or a layer below is not what a layer was made from, as far as size and records tell."""
        self._pending: list[tuple[str, Fingerprint]] = []
        places = [place for _, place in layers]
        made_from = [parts_of(record) if record.get("sha256") else {} for record in records]
        known = [parts.get(tar_stem(place)) for place, parts in zip(places, made_from, strict=True)]
        now = _known_fingerprint(base) if any(known) else None
        self.are_same = [self._compare(place, then, now) for place, then in zip(places, known, strict=True)]
        """Of each layer, whether the base is known to be the file that it was made from."""
        for place, parts in zip(places, made_from, strict=True):
            self.problem = self.problem or _problem_below(place, parts, layers, records)

    @property
    def needs_digest(self) -> bool:
        """Whether the base has to be read to its end to be known, see `finish`."""
        return bool(self._pending)

    def finish(self, now: Fingerprint) -> None:
        """Take the fingerprint of the base that was read; raises DataError when it is another base."""
        for place, then in self._pending:
            if then.sha256 not in (now.sha256, now.unpacked):
                raise DataError(_changed(self.base, place))
            if not is_remote(place):
                note_origin(local_path(place), tar_stem(place), now)

    def _compare(self, layer: str, then: Fingerprint | None, now: Fingerprint | None) -> bool:
        if then is None or now is None:
            return False
        agrees = then.agrees(now)
        if agrees is False and not is_gzip(self.base):
            self.problem = self.problem or _changed(self.base, layer)
        elif not agrees and then.sha256:
            self._pending.append((layer, then))
        return agrees is True


def check_origins(base: str, layers: Sequence[tuple[str, str]]) -> None:
    """Raise DataError where `Origins` does; the base is read for it where nothing else tells."""
    origins = Origins(base, layers, [recorded(place) for _, place in layers])
    if origins.problem:
        raise DataError(origins.problem)
    if origins.needs_digest:
        origins.finish(digest_of(base))


def check_is_base(place: str) -> None:
    """Raise DataError for a tar of a layer, which lies over nothing without its layer.json."""
    record = {} if is_remote(place) else recorded(place)
    if "layer" in record:
        raise DataError(
            f"{place} is a shard of the layer {str(record['layer'])!r}, and no layer.json beside it says over "
            "which base it lies; copy that, too"
        )


def _known_fingerprint(place: str) -> Fingerprint:
    """The fingerprint of a file, with the digest in its own stats file where it was not touched since."""
    now = fingerprint(place)
    record = {} if is_remote(place) else recorded(place)
    if (record.get("bytes"), f"mtime {record.get('mtime_ns')}") == (now.num_bytes, now.tag):
        return Fingerprint(now.num_bytes, now.tag, str(record.get("sha256", "")))
    return now


def _problem_below(
    place: str, parts: Mapping[str, Fingerprint], layers: Sequence[tuple[str, str]], records: Sequence[Record]
) -> str:
    """What is wrong when a layer was written over other layers than those of these names that are there."""
    for part, then in parts.items():
        name = part.removeprefix(f"{tar_stem(place)}+")
        names = {name, name.rpartition(".")[0]}  # the second layer of a name is NAME.2
        below = [(tar, record) for (layer, tar), record in zip(layers, records, strict=True) if layer in names]
        if name != part and below and not any(_is_same(tar, record, then) for tar, record in below):
            return _changed(below[0][0], place)
    return ""


def _is_same(place: str, record: Record, then: Fingerprint) -> bool:
    """Whether a layer tar, which its own record fits, is the one of a fingerprint."""
    if record.get("sha256"):
        return then.sha256 in ("", record["sha256"]) or then.agrees(fingerprint(place)) is True
    agrees = then.agrees(fingerprint(place))
    return then.agrees(digest_of(place)) is not False if agrees is None else agrees


def _changed(place: str, layer: str) -> str:
    return (
        f"{place} is not what {layer} was made from: it has changed since, or is another file; put the old one "
        f"back, say with --base where it is, or remove {tar_stem(layer)}.stats.json beside the layer's tar to "
        "have that shard done again"
    )
