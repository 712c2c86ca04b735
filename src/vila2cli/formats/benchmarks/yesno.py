"""Yes/no benchmarks and statements: POPE, MME, HallusionBench, VSR, NLVR."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.questions import (
    SHORT_PROMPT,
    BenchmarkQuestion,
    BenchmarkTask,
    by_file,
    one_file,
    one_task,
    question_of,
    split_in_name,
)
from vila2cli.formats.reading import Row, read_rows, read_text

_TRUTH_PROMPT = "Is this statement about the image true? {question}\nAnswer with true or false."
_WORDS = dict.fromkeys(("1", "1.0", "true", "yes"), True) | dict.fromkeys(("0", "0.0", "false", "no"), False)
_IMAGES = (".jpg", ".png", ".jpeg")
_NLVR_SPLITS = ("dev", "train", "test", "hidden")


def read_pope(paths: Sequence[Path], split: str) -> Iterator[BenchmarkTask]:
    """POPE: a file of labels for each split, and LLaVA's questions where its answers are to be scored.

    LLaVA numbers the questions of all splits through; its file is recognised by the `category` of each row. The
    rows of a split belong to the labels in the order of their lines, as in LLaVA's eval_pope, and must
    ask the same.
    """
    tables = [(path, read_rows(path)) for path in paths]
    if all("category" in rows[0] for _, rows in tables):
        raise DataError(
            "these are LLaVA's questions, which say no answers: give POPE's labels, too (coco_pope_*.json)"
        )
    numbered = [row for _, rows in tables for row in rows if "category" in row]
    for path, rows in tables:
        if "category" in rows[0]:
            continue
        category = path.stem.rpartition("_")[2]
        asked = [row for row in numbered if row.get("category") == category] if numbered else rows
        yield BenchmarkTask(
            name=f"pope-{category}",
            answer_type="yesno",
            scorer="pope",
            split=split or category,
            prompt=SHORT_PROMPT,
            questions=_pope(path, rows, asked),
        )


def _pope(path: Path, labels: list[Row], asked: list[Row]) -> Iterator[BenchmarkQuestion]:
    if len(asked) != len(labels):
        raise DataError(
            f"{path} holds {len(labels)} labels for {len(asked)} questions; is it of another version?"
        )
    for label, row in zip(labels, asked, strict=True):
        question, image = label.string("text"), label.string("image")
        if row.need("image") != image or not row.string("text").startswith(question):
            raise label.error(f"the labels ask {question!r} of {image}, the questions do not")
        name, answers = row.string("question_id"), (label.string("label"),)
        yield question_of(label, name, question="text", answers=answers, meta={"image_id": image})


@one_task("mme", "yesno", "mme", SHORT_PROMPT)
def read_mme(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """MME: its folder with one folder per subtask; a .txt beside each image, or in questions_answers_YN."""
    folder = one_file(paths, "the folder of MME")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the folder of MME")
    lines = [
        (subtask, text, number, line)
        for subtask in sorted(path for path in folder.iterdir() if path.is_dir())
        for text in sorted([*subtask.glob("*.txt"), *subtask.glob("questions_answers_YN/*.txt")])
        for number, line in enumerate(read_text(text).splitlines())
        if line.strip()
    ]
    for subtask, text, number, line in lines:
        question, tab, answer = line.rpartition("\t")
        if not tab or answer.strip().lower() not in ("yes", "no"):
            raise DataError(f"{text}, line {number + 1}: it should be a question, a tab, and Yes or No")
        image_id = f"{subtask.name}/{text.stem}"
        yield BenchmarkQuestion(
            id=f"{image_id}/{number}",
            question=question.replace("Please answer yes or no.", "").strip(),
            answers=(answer.strip(),),
            images=(_mme_image(folder, text),),
            meta={"category": subtask.name, "image": text.stem, "image_id": image_id},
        )
    if not lines:
        raise DataError(f"{folder} holds no SUBTASK/*.txt with questions; give the folder of MME")


def _mme_image(folder: Path, text: Path) -> str:
    places = (text.parent, text.parent.parent / "images")
    images = [place / f"{text.stem}{ending}" for place in places for ending in _IMAGES]
    image = next((image for image in images if image.is_file()), images[0])
    return str(image.relative_to(folder))


@one_task("hallusionbench", "yesno", "hallusionbench", SHORT_PROMPT)
def read_hallusion(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """HallusionBench.json: a list with category, subcategory, set_id, figure_id, question_id and gt_answer.

    With --split image those without a figure are left out, as VLMEvalKit and lmms-eval do.
    """
    for row in read_rows(one_file(paths, "HallusionBench.json")):
        if split == "image" and str(row.get("visual_input")) == "0":
            continue
        names = ("category", "subcategory", "set_id", "figure_id", "question_id")
        meta = {name: row.string(name) for name in names}
        answer, file = "yes" if _is_true(row, "gt_answer") else "no", row.get("filename")
        images = (str(file).removeprefix("./"),) if file else ()
        yield question_of(row, "_".join(meta.values()), answers=(answer,), images=images, meta=meta)


def _is_true(row: Row, key: str) -> bool:
    """A label as 0 or 1, true or false, yes or no, in any case and type; raises RowError for another."""
    if (word := row.string(key).strip().lower()) not in _WORDS:
        raise row.wrong(key, "0 or 1, true or false, yes or no")
    return _WORDS[word]


@one_task(by_file("vsr"), "yesno", "truth", _TRUTH_PROMPT)
def read_vsr(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    """VSR: JSON lines with image, caption, label 0 or 1, and relation."""
    for number, row in enumerate(read_rows(one_file(paths, "VSR's test.jsonl"))):
        meta = {"category": str(row.get("relation", ""))}
        yield question_of(row, str(number), question="caption", answers=(_truth(row),), meta=meta)


def _truth(row: Row) -> str:
    return "true" if _is_true(row, "label") else "false"


def read_nlvr(paths: Sequence[Path], split: str) -> Iterator[BenchmarkTask]:
    """NLVR or NLVR2: JSON lines with sentence, label and identifier; NLVR2 shows two images.

    NLVR2 says the split in each identifier, NLVR only in the name of its file.
    """
    path = one_file(paths, "NLVR's train.json, dev.json or test.json, or NLVR2's")
    first = read_rows(path)[0]
    prefix = str(first.get("identifier", "")).split("-")[0]
    is_split = prefix.isalnum() and not prefix.isdecimal()
    split = split or (prefix if is_split else split_in_name(paths, _NLVR_SPLITS))
    unclear = (
        f"{path} does not say which split of NLVR it is, and images are named after it: give --split dev, "
        "train or test"
    )
    is_unclear = not split and not {"image", "images"} & first.fields.keys()
    for table in _nlvr(paths, split):
        yield replace(table, no_images=unclear) if is_unclear else table


@one_task(by_file("nlvr"), "yesno", "truth", _TRUTH_PROMPT)
def _nlvr(paths: Sequence[Path], split: str) -> Iterator[BenchmarkQuestion]:
    for row in read_rows(paths[0]):
        name, images = row.string("identifier"), _nlvr_images(row, split)
        yield question_of(row, name, question="sentence", answers=(_truth(row),), images=images)


def _nlvr_images(row: Row, split: str) -> tuple[str, ...]:
    """NLVR draws a statement in six orders, the first of which is taken; NLVR2 has two images."""
    if files := row.get("images") or row.get("image"):
        return tuple(map(str, files if isinstance(files, list) else [files]))
    name = row.string("identifier")
    folder = f"{row.get('directory')}/" if "directory" in row else ""
    stem, _, sentence = name.rpartition("-")
    if "left_url" in row or (stem.count("-") >= 2 and sentence.isdecimal()):
        return (f"{folder}{stem}-img0.png", f"{folder}{stem}-img1.png")
    return (f"{folder}{split}-{name}-0.png" if split else f"{folder}{name}-0.png",)
