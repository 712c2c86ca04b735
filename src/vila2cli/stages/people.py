"""`vila2 judge --human`, `collect`, `import`, `agreement`: people judge, and how far judges agree with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import refuse_foreign, write_atomically
from vila2cli.image import decode_image, jpeg_url, shrink, to_jpeg
from vila2cli.judging.imageinwords import read_imageinwords
from vila2cli.judging.matching import bring_together, judged_pairs, majority
from vila2cli.judging.pairing import Draw, draw_samples
from vila2cli.judging.people_page import Captioned, ShownPair, arrange, render_page, to_key
from vila2cli.judging.sheets import (
    KEY_FILE,
    read_judges,
    read_key,
    read_sheets,
    to_verdicts,
    write_verdicts,
)
from vila2cli.judging.verdicts import MAJORITY, Judgements, Verdicts, summarise_judges
from vila2cli.run.folder import write_json, write_text
from vila2cli.run.locks import lock
from vila2cli.run.results import StageResult
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import read_shard
from vila2cli.shards.members import NO_IMAGE

PAGE_FILE = "judge.html"
IMAGES = "images"
MAX_SIDE = 1024
"""Pixels of the longer side of an image on the page."""
MIN_ACROSS = 256
"""Pixels of the shorter side of a strip, which is longer for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(StageResult):
    """The page that was written, and its key; `left_out` counts samples that cannot be shown by reason."""

    page: Path
    key: Path
    pairs: int
    ties_of_equal_captions: int = 0
    images: int
    megabytes: float
    left_out: Mapping[str, int] = field(default_factory=dict)


def write_page(
    recipe: Recipe,
    *,
    layers: Sequence[str | Path],
    out: str | Path,
    shards: Sequence[str] = (),
    base: str | None = None,
    images_apart: bool = False,
) -> Page:
    """Write the page for people and its key, over the samples that `vila2 judge` would draw.

    `out`/judge.html is for those who judge, `out`/key.json for who collects. Samples without a caption or
    with a picture that cannot be decoded are left out and counted. Raises DataError when `out` holds the
    key of another page, whose answers could not be read any more.
    """
    folder = Path(out)
    draw = draw_samples(layers, shards, num_samples=recipe.judge.num_samples, seed=recipe.seed, base=base)
    jpegs: dict[str, bytes] = {}
    left_out = {"no-caption": draw.num_lacking} if draw.num_lacking else {}
    captioned = list(_captioned(draw, jpegs, left_out))
    shown, same = arrange(captioned, draw.pairs, recipe.seed)
    key = to_key(shown, same, recipe.judge.question, draw.layers, recipe.seed)
    with lock(folder):
        _check_key(folder / KEY_FILE, key)
        if not (folder / KEY_FILE).exists():
            refuse_foreign(folder / PAGE_FILE)

        def image_url(pair: ShownPair) -> str:
            jpeg = jpegs[f"{pair.shard}/{pair.key}"]
            if not images_apart:
                return jpeg_url(jpeg)
            path = folder / IMAGES / f"{pair.id}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, jpeg)
            return f"{IMAGES}/{pair.id}.jpg"

        html = render_page(shown, recipe.judge.question, image_url, inlined=not images_apart)
        write_json(folder / KEY_FILE, key)
        write_text(folder / PAGE_FILE, html)
    return Page(
        page=folder / PAGE_FILE,
        key=folder / KEY_FILE,
        pairs=len(shown),
        ties_of_equal_captions=len(same),
        images=len({(pair.shard, pair.key) for pair in shown}),
        megabytes=round(len(html) / 1e6, 1),
        left_out=left_out,
    )


def collect(recipe: Recipe, *, answers: Sequence[str | Path], page: str | Path, out: str | Path) -> Judgements:
    """Read exported answers into `out`/NAME/verdicts.jsonl of each person, and write their summary.json.

    `draft` is the folder with key.json. Of several people the majority is one judge more.
    """
    key = read_key(Path(page) / KEY_FILE)
    sheets = read_sheets([Path(path) for path in answers], key)
    by_person = {sheet.judge: to_verdicts(sheet, key) for sheet in sheets}
    return _write(recipe, by_person, Path(out), {"page": key["page"], "question": key["question"]})


def import_judgements(recipe: Recipe, *, files: Sequence[str | Path], out: str | Path) -> Judgements:
    """Read ImageInWords' judgements into `out`/METRIC/verdicts.jsonl, and write their summary.json."""
    by_metric = read_imageinwords([Path(path) for path in files])
    return _write(recipe, by_metric, Path(out), {"source": "ImageInWords"}, same_question=False)


def agree(recipe: Recipe, first: str | Path, second: str | Path) -> Judgements:
    """How far each judge of one folder agrees with each of the other on what both judged.

    `bring_together` describes what is compared, and when DataError is raised.
    """
    left, right = (read_judges(Path(folder)) for folder in (first, second))
    together, pairs = bring_together(left, right)
    summary = summarise_judges(together, pairs, num_bootstrap=recipe.judge.num_bootstrap, seed=recipe.seed)
    for pair in summary["pairs"]:
        pair["agreement"] = [
            two for two in pair["agreement"] if len({judge in left for judge in two["judges"]}) == 2
        ]
    return Judgements.of(summary)


def _write(
    recipe: Recipe,
    by_judge: Mapping[str, Verdicts],
    folder: Path,
    about: Mapping[str, Any],
    *,
    same_question: bool = True,
) -> Judgements:
    """Write verdicts and summary; judges of different questions are not held against each other."""
    everybody = dict(by_judge)
    if same_question and len(by_judge) > 1:
        everybody[MAJORITY] = majority(by_judge)
    with lock(folder):
        for judge, verdicts in everybody.items():
            write_verdicts(folder / judge, verdicts)
        summary = summarise_judges(
            by_judge, judged_pairs(by_judge), num_bootstrap=recipe.judge.num_bootstrap, seed=recipe.seed
        )
        if not same_question:
            for pair in summary["pairs"]:
                pair["agreement"] = []
                pair.pop("all_judges", None)
        summary |= {**about, "num_people": len(by_judge), "seed": recipe.seed}
        refuse_foreign(folder / "summary.json", '"pairs"')
        write_json(folder / "summary.json", summary)
    return Judgements.of(summary)


def _captioned(draw: Draw, jpegs: dict[str, bytes], left_out: dict[str, int]) -> Iterator[Captioned]:
    """The drawn samples that can be shown, their images into `jpegs` by SHARD/KEY."""

    def leave_out(reason: str) -> None:
        left_out[reason] = left_out.get(reason, 0) + 1

    for shard in draw.source.shards:
        for sample in read_shard(shard, on_reject=lambda reject: leave_out(reject.reason)):
            captions = draw.captions_of(shard.name, sample)
            if captions is None:
                continue
            if not all(text.strip() for text in captions.values()):
                leave_out("no-caption")
                continue
            if len(sample.images) != 1:
                leave_out("several-images" if sample.images else NO_IMAGE)
                continue
            try:
                image = decode_image(sample.images[0].data)
            except DataError:
                leave_out("image")
                continue
            shrink(image, MAX_SIDE, MIN_ACROSS)
            jpegs[f"{shard.name}/{sample.key}"] = to_jpeg(image, quality=88)
            yield Captioned(shard.name, sample.key, sample.image_sha256, captions)


def _check_key(path: Path, key: Mapping[str, Any]) -> None:
    if path.is_file() and (old := read_key(path))["page"] != key["page"]:
        raise DataError(
            f"{path} is the key of another page ({old['page'][:8]}), without which its answers cannot be read; "
            "give another --out"
        )
