"""Third-party pictures with real captions through recaption, eval and judge, every sample accounted for."""

import json
from pathlib import Path

import pytest

from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, num_samples, open_source
from vila2cli.stages.evaluate import evaluate
from vila2cli.stages.judge import judge
from vila2cli.stages.recaption import recaption

Pair = tuple[Path, str]


def openstax(folder: Path) -> list[Pair]:
    lines = (folder / "openstax_astronomy" / "pairs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    name = next(key for key in ("file", "image", "path", "file_name") if key in rows[0])
    return [
        (
            next(folder.joinpath("openstax_astronomy").rglob(Path(row[name]).name)),
            row.get("caption") or row["alt"],
        )
        for row in rows[:120]
    ]


def coco(folder: Path) -> list[Pair]:
    pairs = []
    for split in ("train2017", "val2017"):
        table = json.loads((folder / "coco_ccby" / "annotations" / f"captions_{split}.json").read_text())
        captions = {row["image_id"]: row["caption"] for row in table["annotations"]}
        pairs += [
            (folder / "coco_ccby" / split / row["file_name"], captions[row["id"]]) for row in table["images"]
        ]
    return pairs


def dali(folder: Path) -> list[Pair]:
    images = sorted((folder / "dali_coco_cc0" / "images").iterdir())
    return [(image, image.stem.rsplit("-", 1)[0]) for image in images]


def odd(folder: Path) -> list[Pair]:
    images = sorted(p for p in (folder / "odd_images").iterdir() if p.suffix in (".jpg", ".png"))
    return [(image, "an odd image") for image in images]


SOURCES = {"openstax": openstax, "coco": coco, "dali": dali, "odd": odd}


def pack(pairs: list[Pair], folder: Path) -> None:
    """Shards of 50, and a task that asks about the same pictures."""
    for start in range(0, len(pairs), 50):
        with (
            TarWriter(folder / "data" / f"{start // 50:06d}.tar") as data,
            TarWriter(folder / "task" / f"{start // 50:06d}.tar") as task,
        ):
            for i, (image, text) in enumerate(pairs[start : start + 50], start):
                members = {image.suffix.removeprefix("."): image.read_bytes()}
                data.write_sample(f"{i:06d}", {**members, "txt": text.encode()})
                meta = {"question": "What is in the image?", "answers": [text.split()[0]]}
                task.write_sample(f"{i:06d}", {**members, "json": json.dumps(meta).encode()})
    (folder / "task" / "task.toml").write_text(
        'name = "first-word"\nversion = 1\nanswer_type = "short"\nscorer = "short"\nsplit = "test"\n'
    )


@pytest.fixture(scope="module", params=list(SOURCES))
def packed(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    pack(SOURCES[request.param](real_data), folder)
    return folder


@pytest.fixture
def recipe() -> Recipe:
    sets = [
        'recaption.engine="hf"',
        'eval.engine="hf"',
        'judge.engine="hf"',
        'judge.judges=["model"]',
        "judge.num_samples=20",
        "recaption.max_new_tokens=8",
        "recaption.max_reject_rate=1.0",
        "eval.max_new_tokens=4",
        "eval.max_reject_rate=1.0",
    ]
    return load_recipe(None, sets)


def test_every_picture_is_accounted_for(packed: Path, tiny_checkpoint: Path, recipe: Recipe) -> None:
    base = open_source([str(packed / "data")])
    total = sum(num_samples(shard) for shard in base.shards)

    captions = recaption(
        recipe, shards=[str(packed / "data")], model=tiny_checkpoint, out=packed / "r1", round=1
    )
    assert captions.num_in == total
    assert captions.num_in == captions.num_out + sum(captions.dropped.values())
    rejects = [json.loads(line) for line in (packed / "r1" / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == captions.num_rejected
    assert all(reject["reason"] and reject["key"] and reject["error"] for reject in rejects)
    if packed.name.startswith("odd"):
        # CMYK, grey and RGBA pictures are captioned, the truncated one is not.
        assert captions.dropped.get("bad-image", 0) == 1

    metrics = evaluate(recipe, model=tiny_checkpoint, out=packed / "eval", tasks=[packed / "task"])
    entry = metrics.tasks["first-word"]
    assert entry["num_samples"] + entry["num_rejected"] == total

    layers = ["alt-text", packed / "r1"]
    verdicts = judge(recipe, layers=layers, model=tiny_checkpoint, out=packed / "judge").to_json()
    figures = verdicts["pairs"][0]["judges"]["model"]
    judged = figures["wins"] + figures["losses"] + figures["ties"] + figures["unjudged"]
    assert judged == verdicts["num_samples"]
    assert verdicts["num_samples"] + verdicts["num_rejected"] <= verdicts["num_drawn"]
