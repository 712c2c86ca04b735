"""Which samples are judged: drawn by a hash of key and picture among those that every layer captions.

Whether a sample has an alt-text the base alone tells; of that no more is read than the draw comes to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path

from vila2cli.errors import DataError, RecipeError
from vila2cli.score.verdict import Pair
from vila2cli.shards import Shard, Source, open_source
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.reader import check_layers
from vila2cli.shards.records import LAYER_FILE
from vila2cli.shards.sample import ORIGINAL, Sample
from vila2cli.shards.tarfiles import read_members, split_name

ALT_TEXT = "alt-text"
"""The captioning that is in the base shards themselves."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn sample: its captions by layer (without alt-text), and the picture they were written for."""

    captions: Mapping[str, str]
    image_sha256: str


@dataclass(frozen=True, slots=True)
class Draw:
    """The drawn samples by shard name and key; `source` holds just their base shards, without layers.

    `num_lacking` were passed over, as one of the captions is missing or blank.
    """

    layers: tuple[str, ...]
    source: Source
    drawn: Mapping[str, Mapping[str, Drawn]]
    num_candidates: int
    num_lacking: int = 0

    @property
    def pairs(self) -> list[Pair]:
        """Every two layers as (later, earlier), the newest against the oldest first."""
        pairs = [(later, earlier) for earlier, later in combinations(self.layers, 2)]
        return sorted(pairs, key=lambda pair: pair != (self.layers[-1], self.layers[0]))

    def captions_of(self, shard: str, sample: Sample) -> dict[str, str] | None:
        """The captions of a drawn sample in the order of the layers, None for one that was not drawn.

        A missing alt-text is an empty caption. Raises DataError when the layers were written for
        another picture.
        """
        drawn = self.drawn[shard].get(sample.key)
        if drawn is None:
            return None
        if drawn.image_sha256 != sample.image_sha256:
            raise DataError(f"the layers were made for another picture than {sample.key!r} of shard {shard}")
        return {name: (sample.text or "") if name == ALT_TEXT else drawn.captions[name] for name in self.layers}


def draw_samples(
    layers: Sequence[str | Path],
    shards: Sequence[str] = (),
    *,
    num_samples: int,
    seed: int,
    base: str | None = None,
) -> Draw:
    """Draw the same samples however the base is cut into shards.

    A layer is a caption layer's folder or "alt-text". `shards` restricts the draw; by default it
    is over everything that all layers caption. Raises RecipeError for fewer than two layers and
    DataError when no sample has a caption in each.
    """
    names = _names(layers)
    folders = {Path(name).resolve(): name for name in names if name != ALT_TEXT}
    wanted = {Path(shard.url).resolve() for shard in open_source(shards).shards} if shards else None
    source = open_source([*shards, *folders], base=base)
    candidates: dict[str, dict[str, Drawn]] = {}
    for shard in source.shards:
        if wanted is None or Path(shard.url).resolve() in wanted:
            candidates[shard.name] = _candidates(shard, folders)
    order = sorted(
        (_rank(seed, key, drawn), name, key)
        for name, samples in candidates.items()
        for key, drawn in samples.items()
    )
    if not order:
        raise DataError(f"no sample has a caption in each of {', '.join(names)}")
    urls = {shard.name: shard.url for shard in source.shards}
    alt_texts = _AltTexts(urls) if ALT_TEXT in names else None
    drawn: dict[str, dict[str, Drawn]] = {}
    num_drawn = num_lacking = 0
    for _, name, key in order:
        if num_drawn == num_samples:
            break
        captions = candidates[name][key].captions.values()
        if all(text.strip() for text in captions) and (alt_texts is None or alt_texts.has(name, key)):
            drawn.setdefault(name, {})[key] = candidates[name][key]
            num_drawn += 1
        else:
            num_lacking += 1
    if not drawn:
        raise DataError(
            f"none of {num_lacking:,} samples has a caption in each of {', '.join(names)}; "
            "one is missing or blank: compare other --layers"
        )
    for shard in (shard for shard in source.shards if shard.name in drawn):
        check_layers(shard)
    chosen = tuple(Shard(shard.name, shard.url) for shard in source.shards if shard.name in drawn)
    return Draw(names, Source(chosen), drawn, len(order), num_lacking)


class _AltTexts:
    """Which samples have an alt-text, by the base shards; each is read when it is first asked about."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._keys: dict[str, set[str]] = {}

    def has(self, shard: str, key: str) -> bool:
        """Whether a sample has one that is not blank."""
        if shard not in self._keys:
            texts = read_members(self._urls[shard], lambda name: (split_name(name) or ("", ""))[1] == "txt")
            found = ((split_name(name), data) for name, data in texts if data is not None and data.strip())
            self._keys[shard] = {split[0] for split, _ in found if split is not None}
        return key in self._keys[shard]


def layer_name(layer: str | Path) -> str:
    """A layer's folder, or ALT_TEXT; "original", its name among captions, is that too if it is no folder."""
    name = str(layer)
    return ALT_TEXT if name == ORIGINAL and not Path(name).is_dir() else name


def _names(layers: Sequence[str | Path]) -> tuple[str, ...]:
    names = tuple(map(layer_name, layers))
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise RecipeError(f"name two or more different layers to compare, not {list(names)}")
    for name in names:
        if name != ALT_TEXT and not (Path(name) / LAYER_FILE).is_file():
            raise DataError(f"{name} is no layer folder: it has no {LAYER_FILE}; give one, or {ALT_TEXT!r}")
    return names


def _candidates(shard: Shard, folders: Mapping[Path, str]) -> dict[str, Drawn]:
    """The samples of a shard that every layer folder captions."""
    tars = {Path(layer.url).parent.resolve(): Path(layer.url) for layer in shard.layers}
    if not folders.keys() <= tars.keys():
        return {}
    captions: dict[str, dict[str, str]] = {}
    images: dict[str, str] = {}
    for folder, name in folders.items():
        for key, annotation in read_annotation_tar(tars[folder]):
            if annotation.kind != "caption":
                raise DataError(f"{name} is a layer of kind {annotation.kind!r}; only captions can be judged")
            captions.setdefault(key, {})[name] = annotation.text or ""
            if images.setdefault(key, annotation.image_sha256) != annotation.image_sha256:
                raise DataError(f"the layers were made for different pictures under the key {key!r}")
    return {key: Drawn(texts, images[key]) for key, texts in captions.items() if len(texts) == len(folders)}


def _rank(seed: int, key: str, drawn: Drawn) -> bytes:
    return sha256(f"judge\x1f{seed}\x1f{key}\x1f{drawn.image_sha256}".encode()).digest()
