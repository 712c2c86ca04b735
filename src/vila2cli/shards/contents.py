"""What the layers over shards hold, by the first samples that each annotates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from vila2cli.errors import RecipeError, meant
from vila2cli.shards.layers import Source
from vila2cli.shards.reader import read_shard
from vila2cli.shards.sample import FILTER, ORIGINAL, is_source

_ALT_TEXT = ("alt-text", "alt_text", "alt")
_LOOKED_AT = 100
"""So many shards, and samples of each, tell at most what a layer holds."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The kind of each layer's annotations by its name, captions where none was seen, and their rounds.

    `rounds` are of names of which the round of every layer was seen.
    """

    kinds: Mapping[str, str]
    rounds: Mapping[str, Sequence[int]]

    @property
    def captions(self) -> list[str]:
        """The names that captions may go by."""
        return [ORIGINAL, *(name for name, kind in self.kinds.items() if kind == "caption")]

    @property
    def layers(self) -> list[str]:
        """The names that anything of a sample may go by."""
        return [ORIGINAL, *self.kinds]

    def check(self, names: Sequence[str], known: Sequence[str], option: str = "--captions") -> None:
        """Raise RecipeError for the first name that is not `known`, or of a round that no such layer is of."""
        if unknown := next((name for name in names if not is_source(name, known)), None):
            hint = f"; the alt-text goes by {ORIGINAL}" if unknown in _ALT_TEXT else meant(unknown, known)
            raise RecipeError(f"{option} {unknown}: these shards have {', '.join(known)}{hint}")
        for name in names:
            layer, _, number = name.partition("@")
            if number and layer in self.rounds and int(number) not in self.rounds[layer]:
                of = ", ".join(f"{layer}@{one}" for one in self.rounds[layer]) or f"{layer} of no round"
                raise RecipeError(f"{option} {name}: these shards have {of}")


def contents_of(source: Source) -> Contents:
    """Look at the first samples of shards until each layer was seen."""
    names = [info.name for info in source.layers if info.name != FILTER]
    kinds: dict[str, str] = {}
    rounds: dict[str, set[int]] = {}
    for shard in source.shards[:_LOOKED_AT] if names else ():
        for sample in islice(read_shard(shard, on_reject=lambda reject: None, verify=False), _LOOKED_AT):
            kinds |= {one.layer: one.kind for one in sample.annotations}
            for one in sample.annotations:
                rounds.setdefault(one.layer, set()).update(() if one.round is None else (one.round,))
        if set(names) <= kinds.keys():
            break
    seen = (name for name, numbers in rounds.items() if len(numbers) in (0, names.count(name)))
    known = {name: sorted(rounds[name]) for name in seen}
    return Contents({name: kinds.get(name, "caption") for name in names}, known)
