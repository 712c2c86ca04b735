"""A folder with what the guide's commands name: photos, shards, checkpoints, tasks and files of other tools."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

import vila2cli.world
from vila2cli.shards import TarWriter

NUM_PHOTOS = 3
SHIPPED_LLM = Path(vila2cli.world.__file__).parent / "bases" / "llm"

RECIPE = """name = "mine"
rounds = 1

[data]
pretrain = ["data/*.tar"]
sft = ["data/sft/*.tar"]
text = []

[recaption]
engine = "hf"
max_new_tokens = 12
max_reject_rate = 1.0

[pretrain.align]
max_samples = 2

[pretrain.main]
batch_size = 4

[judge]
judges = ["model"]

[eval]
tasks = ["tasks/*"]

[specialists.ocr]
data = ["data/sft/*.tar"]
prompts = ["ocr-v1"]
questions = "ocr"
"""


def photos(real: Path) -> list[tuple[Path, str]]:
    """Photographs with a caption by a person each: those of the shards, then those of the tasks."""
    folder = real / "coco_ccby"
    table = json.loads((folder / "annotations" / "captions_val2017.json").read_text())
    captions = {row["image_id"]: row["caption"] for row in table["annotations"]}
    found = [(folder / "val2017" / row["file_name"], captions[row["id"]]) for row in table["images"]]
    return found[: 2 * NUM_PHOTOS]


def make_place(folder: Path, real: Path, checkpoint: Path) -> None:
    """Write everything but what a command makes of it."""
    pairs, others = photos(real)[:NUM_PHOTOS], photos(real)[NUM_PHOTOS:]
    (folder / "my.toml").write_text(RECIPE)
    for name in ("r2", "a", "b", "c", "r3-pretrain"):
        shutil.copytree(checkpoint, folder / "ckpt" / name)
    shutil.copytree(SHIPPED_LLM, folder / "ckpt" / "llm")
    write_photos(folder, pairs)
    write_tables(folder, pairs)
    write_shards(folder, pairs)
    write_files_of_others(folder, pairs, real)
    write_specialists_files(folder, pairs)
    for name, split in (("tasks/zoo", "eval"), ("tasks/street", "eval"), ("dev/zoo", "dev")):
        write_task(folder / name, others[:2] if split == "eval" else others[2:], split)


def write_photos(folder: Path, pairs: list[tuple[Path, str]]) -> None:
    for name in ("photos", "train2017", "train_images", "data/images"):
        (folder / name).mkdir(parents=True)
        for path, _ in pairs:
            shutil.copy(path, folder / name)
    with (folder / "alt.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "caption"], *((path.name, text) for path, text in pairs)])


def write_tables(folder: Path, pairs: list[tuple[Path, str]]) -> None:
    """Pairs of a picture and a caption, and questions about them."""
    with (folder / "pairs.tsv").open("w", newline="") as file:
        rows = [["image", "caption"], *((path.name, text) for path, text in pairs)]
        csv.writer(file, delimiter="\t").writerows(rows)
    with (folder / "q.csv").open("w", newline="") as file:
        rows = [
            ["question", "image", "answer"],
            *(("What is this?", path.name, "a dog|a cat") for path, _ in pairs),
        ]
        csv.writer(file).writerows(rows)


def write_shards(folder: Path, pairs: list[tuple[Path, str]]) -> None:
    meta = {"width": 640, "height": 480, "nsfw_score": 0.01, "clip_similarity_vitl14": 0.3, "site": "a.example"}
    for number, pair in enumerate(pairs):
        with TarWriter(folder / "data" / f"{number:06d}.tar") as tar:
            write_sample(tar, pair, {**meta, "url": f"https://a.example/{number}"})
    with (
        TarWriter(folder / "coyo" / "000000.tar") as coyo,
        TarWriter(folder / "data/sft" / "000000.tar") as sft,
    ):
        for path, text in pairs:
            write_sample(coyo, (path, text), meta)
            write_sample(sft, (path, text), {"messages": conversation(text)})


def write_sample(tar: TarWriter, pair: tuple[Path, str], meta: dict[str, Any]) -> None:
    path, text = pair
    tar.write_sample(
        path.stem, {"jpg": path.read_bytes(), "txt": text.encode(), "json": json.dumps(meta).encode()}
    )


def conversation(text: str) -> list[dict[str, str]]:
    question = {"role": "user", "content": "<image>What is this?"}
    return [question, {"role": "assistant", "content": text}]


def write_task(folder: Path, pairs: list[tuple[Path, str]], split: str) -> None:
    with TarWriter(folder / "000000.tar") as tar:
        for path, _ in pairs:
            meta = {"question": "What is this?", "answers": ["a dog"]}
            tar.write_sample(path.stem, {"jpg": path.read_bytes(), "json": json.dumps(meta).encode()})
    (folder / "task.toml").write_text(f'answer_type = "short"\nsplit = "{split}"\n')


def write_specialists_files(folder: Path, pairs: list[tuple[Path, str]]) -> None:
    """GRIT's shards and TextOCR's annotations: a phrase of each caption and a word in each picture."""
    words: dict[str, Any] = {"imgs": {}, "anns": {}}
    with TarWriter(folder / "grit" / "000000.tar") as tar:
        for path, text in pairs:
            with Image.open(path) as picture:
                size = {"width": picture.width, "height": picture.height}
            chunk = [0, len(text), 0.1, 0.2, 0.5, 0.6, 0.9]
            write_sample(tar, (path, text), {"caption": text, "noun_chunks": [chunk], **size})
            words["imgs"][path.stem] = {"id": path.stem, "file_name": path.name, **size}
            words["anns"][path.stem] = {"image_id": path.stem, "bbox": [9, 9, 60, 30], "utf8_string": "STOP"}
    (folder / "TextOCR.json").write_text(json.dumps(words))


def write_files_of_others(folder: Path, pairs: list[tuple[Path, str]], real: Path) -> None:
    """LLaVA's and COCO's annotations, a Parquet file of pictures, and one of captions."""
    import pyarrow
    from pyarrow.parquet import write_table

    names = {path.name for path, _ in pairs}
    for kind in ("captions", "instances"):
        table = json.loads((real / "coco_ccby" / "annotations" / f"{kind}_val2017.json").read_text())
        table["images"] = [row for row in table["images"] if row["file_name"] in names]
        ids = {row["id"] for row in table["images"]}
        table["annotations"] = [row for row in table["annotations"] if row["image_id"] in ids]
        name = "captions_train2017.json" if kind == "captions" else "instances.json"
        (folder / name).write_text(json.dumps(table))
    llava = [
        {"id": path.stem, "image": path.name, "conversations": list(llava_turns(text))} for path, text in pairs
    ]
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps(llava))
    pictures = [
        {"image": {"bytes": path.read_bytes(), "path": path.name}, "text": text} for path, text in pairs
    ]
    write_table(pyarrow.Table.from_pylist(pictures), folder / "train-0.parquet")
    theirs = [{"key": path.stem, "caption": f"Theirs: {text}"} for path, text in pairs]
    write_table(pyarrow.Table.from_pylist(theirs), folder / "theirs.parquet")


def llava_turns(text: str) -> Iterator[dict[str, str]]:
    yield {"from": "human", "value": "<image>\nWhat is this?"}
    yield {"from": "gpt", "value": text}
