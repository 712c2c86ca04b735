"""`vila2 lineage`: what a checkpoint or a layer was made from, back to the original captions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from os.path import normpath
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from vila2cli.errors import DataError
from vila2cli.files import check_shape, read_json
from vila2cli.run.folder import digest
from vila2cli.run.results import StageResult
from vila2cli.shards.places import Remote, folder, is_there, local_path, looks_remote, redacted
from vila2cli.shards.records import read_layer_json

LINEAGE_FILE, LAYER_FILE, SUMMARY_FILE = "vila2.json", "layer.json", "summary.json"
Status = Literal["", "missing", "changed", "seen", "unknown"]
"""`missing` is recorded and no longer there, `changed` no longer what was recorded, `seen` drawn above,
`unknown` without a recorded place."""


class _Weights(BaseModel):
    path: str
    sha256: str


class _Member(_Weights):
    share: float


class _UsedLayer(BaseModel):
    path: str
    digest: str


class _UsedShards(BaseModel):
    layers: list[_UsedLayer]
    shards: dict[str, int]


class _Made(BaseModel):
    bases: dict[str, _Weights] | None = None
    parent: _Weights | None = None
    parents: list[_Member] | None = None
    sources: dict[str, _UsedShards | None] | None = None
    data: dict[str, dict[str, str]] | None = None
    selection: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Node(StageResult):
    """Something that was made, or given: `role` is what it is to the node above, `facts` is about itself."""

    role: str
    kind: Literal["checkpoint", "model", "layer", "shards"]
    path: str
    sha256: str = ""
    facts: tuple[str, ...] = ()
    status: Status = ""
    made_from: tuple["Node", ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The tree as text, one node a line."""
        return [_line(self), *_below(self, "")]

    def walk(self) -> Iterator["Node"]:
        """This node and all below it."""
        yield self
        for node in self.made_from:
            yield from node.walk()


def lineage(path: Path, *, verify: bool = False) -> Node:
    """The tree of what a checkpoint or layer folder was made from; with `verify` weights are hashed again.

    Parents, bases and layers that are recorded and no longer there are nodes of status `missing`.
    Raises DataError for a folder without a record of its origin.
    """
    if not (path / LINEAGE_FILE).is_file() and not (path / LAYER_FILE).is_file():
        raise DataError(f"{path} has no record of its origin: neither {LINEAGE_FILE} nor {LAYER_FILE}")
    tree = _Tree(verify)
    if (path / LAYER_FILE).is_file():
        return tree.layer("", str(path), "", path.parent)
    return tree.model("", str(path), "", path.parent)


class _Tree:
    """Builds nodes; what was drawn once is named again, but not drawn again."""

    def __init__(self, verify: bool) -> None:
        self._verify = verify
        self._seen: set[Path] = set()

    def model(self, role: str, path: str, sha256: str, near: Path) -> Node:
        """A checkpoint, with a tree of its own where this tool made it; else a base or another's model."""
        from vila2cli.model.adapter import is_adapter

        here = _find(path, near)
        if here is None:
            return Node(role, "model", path, sha256, status="missing")
        record = (here.parent if is_adapter(here) else here) / LINEAGE_FILE
        node = Node(role, "model", path, sha256, status=self._status(here, sha256))
        if not record.is_file() or node.status == "changed":
            return node
        made = read_json(record)
        check_shape(_Made, made, str(record))
        node = replace(node, kind="checkpoint", facts=tuple(_facts(made)))
        return self._once(node, here, lambda: self._parts_of_checkpoint(made, here))

    def layer(self, role: str, path: str, recorded: str, near: Path) -> Node:
        """A layer with the model that wrote it, the layers below and the base shards."""
        here = _find(path, near)
        if here is None or not (here / LAYER_FILE).is_file():
            return Node(role, "layer", path, recorded, status="missing")
        own, summary = read_layer_json(here / LAYER_FILE), _read_if_there(here / SUMMARY_FILE)
        now = str(own.get("digest", ""))
        facts = [f"layer {own.get('layer')}"]
        facts += [f"{summary[name]:,} {name}" for name in ("in", "out") if isinstance(summary.get(name), int)]
        status: Status = "changed" if recorded and now != recorded else ""
        node = Node(role, "layer", path, now, tuple(facts), status)
        return self._once(node, here, lambda: self._parts_of_layer(own, summary, here))

    def _once(self, node: Node, here: Path, parts: Callable[[], Iterable[Node]]) -> Node:
        if here.resolve() in self._seen:
            return replace(node, status=node.status or "seen")
        self._seen.add(here.resolve())
        return replace(node, made_from=tuple(parts()))

    def _parts_of_checkpoint(self, made: Mapping[str, Any], here: Path) -> Iterator[Node]:
        for name, base in _table(made, "bases").items():
            yield self.model(f"base {name}", base["path"], base["sha256"], here)
        if parent := _table(made, "parent"):
            yield self.model("parent", parent["path"], parent["sha256"], here)
        for member in made.get("parents") or ():
            role = f"{member['share']:.3f} of the soup"
            yield self.model(role, member["path"], member["sha256"], here)
        sources, digests = _table(made, "sources"), _table(made, "data")
        for name in digests:
            yield from self._source(name, digests[name], sources.get(name), here)

    def _source(
        self, name: str, digests: Mapping[str, str], places: Mapping[str, Any] | None, here: Path
    ) -> Iterator[Node]:
        base = {part: sha for part, sha in digests.items() if "+" not in part}
        layers = list(dict.fromkeys(part.partition("+")[2] for part in digests if "+" in part))
        if places is None:
            facts = (_count(len(base)), *(f"under layer {layer}" for layer in layers))
            yield Node(f"data {name}", "shards", name, digest(base), facts, "unknown")
            return
        for layer in places["layers"]:
            yield self.layer(f"data {name}", layer["path"], layer["digest"], here)
        for place, num in places["shards"].items():
            yield _shards(f"data {name}", place, num, _find(place, here), digest(base))

    def _parts_of_layer(self, own: Mapping[str, Any], summary: Mapping[str, Any], here: Path) -> Iterator[Node]:
        if model := summary.get("model"):
            yield self.model("written by", str(model), str(summary.get("model_sha256") or ""), here)
        for below in own.get("layers", ()):
            place = _first_there(below, here) or below["url"]
            yield self.layer("over", str(place), below.get("digest", ""), here)
        folders: Counter[str] = Counter()
        for shard in own["base"]:
            folders[_folder(str(_first_there(shard, here) or shard["url"]))] += 1
        for place, num in folders.items():
            yield _shards("over", place, num, _find(place, here), "")

    def _status(self, here: Path, sha256: str) -> Status:
        if not (self._verify and sha256):
            return ""
        from vila2cli.model.checkpoint import weights_sha256

        return "" if weights_sha256(here) == sha256 else "changed"


def _below(node: Node, margin: str) -> Iterator[str]:
    for child in node.made_from:
        is_last = child is node.made_from[-1]
        yield f"{margin}{'└─ ' if is_last else '├─ '}{_line(child)}"
        yield from _below(child, margin + ("   " if is_last else "│  "))


_REMARKS: Mapping[Status, str] = {
    "missing": "MISSING",
    "changed": "CHANGED since",
    "seen": "see above",
    "unknown": "its place was not recorded",
}


def _line(node: Node) -> str:
    head = f"{node.role}: {node.path}" if node.role else node.path
    facts = [*node.facts, *([node.sha256[:12]] if node.sha256 else [])]
    facts += [_REMARKS[node.status]] if node.status else []
    return f"{head} ({', '.join(facts)})" if facts else head


def _facts(made: Mapping[str, Any]) -> Iterator[str]:
    round_number = made.get("round")
    yield str(made.get("stage")) + ("" if round_number is None else f" of round {round_number}")
    if made.get("stage") == "pretrain" and made.get("parent"):
        yield "continued, not from scratch"
    if made.get("settings"):
        yield f"settings {digest(made['settings'])[:12]}"
    if "seed" in made:
        yield f"seed {made['seed']}"
    if selection := made.get("selection"):
        yield f"selected on {selection.get('split')}"


def _shards(role: str, place: str, num: int, here: Path | None, sha256: str) -> Node:
    is_known = looks_remote(place) or here is not None
    facts = (_count(num), "original data")
    return Node(role, "shards", place, sha256, facts, "" if is_known else "missing")


def _count(num: int) -> str:
    return f"{num:,} {'shard' if num == 1 else 'shards'}"


def _find(path: str, near: Path) -> Path | None:
    """A folder by its recorded path: a relative one from a folder above `near` first, as a run may have been
    moved, or is looked at from elsewhere."""
    if looks_remote(path):
        return None
    own = local_path(path)
    above = [] if own.is_absolute() else [up / own for up in near.absolute().parents]
    return next((place for place in [*above, own] if is_there(place, Path.is_dir)), None)


def _first_there(location: Mapping[str, Any], near: Path) -> Path | None:
    """Where a part that layer.json names is now; beside the layer first, as reading it looks."""
    places = [Path(normpath(near / location["relative"]))] if "relative" in location else []
    places += [Path(location["path"])] if "path" in location else []
    return next((place for place in places if is_there(place)), None)


def _folder(place: str) -> str:
    """The folder of a place as it is recorded, which is not read here; a command is its own."""
    return redacted(folder(Remote(place))) if looks_remote(place) else folder(place)


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _table(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = value.get(name)
    return table if isinstance(table, dict) else {}
