"""Yes/no benchmarks and statements: POPE, MME, HallusionBench, VSR, NLVR."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.reading import (
    SHORT_PROMPT,
    Question,
    Table,
    need,
    one_file,
    read_rows,
    read_text,
    split_in_name,
    stem_name,
)

_TRUTH_PROMPT = "Is this statement about the image true? {question}\nAnswer with true or false."
_WORDS = dict.fromkeys(("1", "1.0", "true", "yes"), True) | dict.fromkeys(("0", "0.0", "false", "no"), False)
_IMAGES = (".jpg", ".png", ".jpeg")
_NLVR_SPLITS = ("dev", "train", "test", "hidden")


def read_pope(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """POPE: a file of labels for each split, and LLaVA's questions where its answers are to be scored.

    LLaVA numbers the questions of all splits through; its file is told by the `category` of each row. A split's
    rows belong to the labels in the order of their lines, as in LLaVA's eval_pope, and must ask the same.
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
        asked = [row for row in numbered if row["category"] == category] if numbered else rows
        yield Table(
            name=f"pope-{category}",
            answer_type="yesno",
            scorer="pope",
            split=split or category,
            prompt=SHORT_PROMPT,
            questions=_pope(path, rows, asked),
        )


def _pope(path: Path, labels: list[dict[str, Any]], asked: list[dict[str, Any]]) -> Iterator[Question]:
    if len(asked) != len(labels):
        raise DataError(
            f"{path} holds {len(labels)} labels for {len(asked)} questions; is it of another version?"
        )
    for number, (label, row) in enumerate(zip(labels, asked, strict=True), 1):
        question, image = str(need(label, "text", path)), str(need(label, "image", path))
        if need(row, "image", path) != image or not str(need(row, "text", path)).startswith(question):
            raise DataError(
                f"{path}, line {number}: the labels ask {question!r} of {image}, the questions do not"
            )
        yield Question(
            id=str(need(row, "question_id", path)),
            question=question,
            answers=(str(need(label, "label", path)),),
            images=(image,),
            meta={"image_id": image},
        )


def read_mme(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """MME: its folder with one folder per subtask; a .txt beside each image, or in questions_answers_YN."""
    folder = one_file(paths, "the folder of MME")
    yield Table(
        name="mme",
        answer_type="yesno",
        scorer="mme",
        split=split,
        prompt=SHORT_PROMPT,
        questions=_mme(folder),
    )


def _mme(folder: Path) -> Iterator[Question]:
    found = False
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the folder of MME")
    for subtask in sorted(path for path in folder.iterdir() if path.is_dir()):
        texts = sorted([*subtask.glob("*.txt"), *subtask.glob("questions_answers_YN/*.txt")])
        for text in texts:
            for number, line in enumerate(read_text(text).splitlines()):
                if not line.strip():
                    continue
                question, tab, answer = line.rpartition("\t")
                if not tab or answer.strip().lower() not in ("yes", "no"):
                    raise DataError(f"{text}, line {number + 1}: it should be a question, a tab, and Yes or No")
                found = True
                yield Question(
                    id=f"{subtask.name}/{text.stem}/{number}",
                    question=question.replace("Please answer yes or no.", "").strip(),
                    answers=(answer.strip(),),
                    images=(_mme_image(folder, text),),
                    meta={
                        "category": subtask.name,
                        "image": text.stem,
                        "image_id": f"{subtask.name}/{text.stem}",
                    },
                )
    if not found:
        raise DataError(f"{folder} holds no SUBTASK/*.txt with questions; give the folder of MME")


def _mme_image(folder: Path, text: Path) -> str:
    places = (text.parent, text.parent.parent / "images")
    images = [place / f"{text.stem}{ending}" for place in places for ending in _IMAGES]
    found = next((image for image in images if image.is_file()), images[0])
    return str(found.relative_to(folder))


def read_hallusion(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """HallusionBench.json: a list with category, subcategory, set_id, figure_id, question_id and gt_answer.

    With --split image those without a figure are left out, as VLMEvalKit and lmms-eval do.
    """
    path = one_file(paths, "HallusionBench.json")
    rows = [row for row in read_rows(path) if split != "image" or str(row.get("visual_input")) != "0"]
    yield Table(
        name="hallusionbench",
        answer_type="yesno",
        scorer="hallusionbench",
        split=split,
        prompt=SHORT_PROMPT,
        questions=(_hallusion(row, path) for row in rows),
    )


def _hallusion(row: dict[str, Any], path: Path) -> Question:
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    meta = {name: str(need(row, name, path)) for name in names}
    file = row.get("filename")
    return Question(
        id="_".join(meta.values()),
        question=str(need(row, "question", path)),
        answers=("yes" if _is_true(row, "gt_answer", path) else "no",),
        images=(str(file).removeprefix("./"),) if file else (),
        meta=meta,
    )


def _is_true(row: Mapping[str, Any], key: str, path: Path) -> bool:
    """A label as 0 or 1, true or false, yes or no, in any case and type; raises DataError for another."""
    value = need(row, key, path)
    if (word := str(value).strip().lower()) not in _WORDS:
        raise DataError(f"{path}: {key!r} is {value!r}; it should be 0 or 1, true or false, yes or no")
    return _WORDS[word]


def read_vsr(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """VSR: JSON lines with image, caption, label 0 or 1, and relation."""
    path = one_file(paths, "VSR's test.jsonl")
    questions = (
        Question(
            id=str(number),
            question=str(need(row, "caption", path)),
            answers=("true" if _is_true(row, "label", path) else "false",),
            images=(str(need(row, "image", path)),),
            meta={"category": str(row.get("relation", ""))},
        )
        for number, row in enumerate(read_rows(path))
    )
    yield _statements(stem_name(paths, "vsr"), split, questions)


def read_nlvr(paths: Sequence[Path], split: str) -> Iterator[Table]:
    """NLVR or NLVR2: JSON lines with sentence, label and identifier; NLVR2 shows two images.

    NLVR2 says the split in each identifier, NLVR only in the name of its file.
    """
    path = one_file(paths, "NLVR's train.json, dev.json or test.json, or NLVR2's")
    rows = read_rows(path)
    prefix = str(rows[0].get("identifier", "")).split("-")[0]
    split = split or (
        prefix if prefix.isalnum() and not prefix.isdecimal() else split_in_name(paths, _NLVR_SPLITS)
    )
    unclear = (
        f"{path} does not say which split of NLVR it is, and images are named after it: give --split dev, "
    )
    is_unclear = not split and not any(key in rows[0] for key in ("image", "images"))
    questions = (
        Question(
            id=str(need(row, "identifier", path)),
            question=str(need(row, "sentence", path)),
            answers=("true" if _is_true(row, "label", path) else "false",),
            images=_nlvr_images(row, split),
        )
        for row in rows
    )
    table = _statements(stem_name(paths, "nlvr"), split, questions)
    yield replace(table, no_images=f"{unclear}train or test") if is_unclear else table


def _nlvr_images(row: dict[str, Any], split: str) -> tuple[str, ...]:
    """NLVR draws a statement in six orders, the first of which is taken; NLVR2 has two images."""
    if files := row.get("images") or row.get("image"):
        return (files,) if isinstance(files, str) else tuple(map(str, files))
    name = str(row["identifier"])
    folder = f"{row['directory']}/" if "directory" in row else ""
    stem, _, sentence = name.rpartition("-")
    if "left_url" in row or (stem.count("-") >= 2 and sentence.isdecimal()):
        return (f"{folder}{stem}-img0.png", f"{folder}{stem}-img1.png")
    return (f"{folder}{split}-{name}-0.png" if split else f"{folder}{name}-0.png",)


def _statements(name: str, split: str, questions: Iterator[Question]) -> Table:
    return Table(
        name=name, answer_type="yesno", scorer="truth", split=split, prompt=_TRUTH_PROMPT, questions=questions
    )
