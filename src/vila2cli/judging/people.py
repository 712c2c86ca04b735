"""Human judgements as files: answers exported by the page, and verdicts.jsonl, one verdict a line."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import load_json, read_json
from vila2cli.judging.page import ANSWERS_FORMAT, KEY_FORMAT
from vila2cli.judging.summary import MAJORITY, SampleVerdicts, read_verdict_layer
from vila2cli.run.folder import write_text
from vila2cli.score.verdict import Outcome, Verdict
from vila2cli.shards.annotations import SampleId
from vila2cli.shards.layers import LAYER_FILE

VERDICTS_FILE = "verdicts.jsonl"
KEY_FILE = "key.json"
CHOICES = ("left", "right", "tie", "both-bad")
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Sheet:
    """What one person answered: choice by pair id."""

    judge: str
    choices: Mapping[str, str]


def read_sheets(paths: Sequence[Path], key: Mapping[str, Any]) -> list[Sheet]:
    """The answers of several people to the page that `key` belongs to.

    Raises DataError for answers to another page, for pairs that are not on it, and for two files of one person.
    """
    sheets: dict[str, Sheet] = {}
    for path in paths:
        sheet = _read_sheet(path, key)
        if sheet.judge in sheets:
            raise DataError(
                f"{path}: {sheet.judge!r} is in another file, too; give the last export of each person"
            )
        sheets[sheet.judge] = sheet
    return list(sheets.values())


def _read_sheet(path: Path, key: Mapping[str, Any]) -> Sheet:
    value = read_json(path)
    if value.get("format") != ANSWERS_FORMAT:
        raise DataError(f"{path} holds no answers of a page of vila2 judge --human")
    if value.get("page") != key["page"]:
        raise DataError(
            f"{path} answers another page than {key['page'][:8]}; give the key.json that lay beside it"
        )
    known = {one["id"] for one in key["pairs"]}
    choices: dict[str, str] = {}
    answers = value.get("answers")
    for one in answers if isinstance(answers, list) else [answers]:
        pair, choice = (one.get("pair"), one.get("choice")) if isinstance(one, dict) else (None, None)
        if not isinstance(pair, str) or pair not in known or choice not in CHOICES:
            raise DataError(f"{path}: {json.dumps(one)[:120]} answers no pair of this page")
        choices[pair] = choice
    return Sheet(safe_name(str(value.get("judge", ""))), choices)


def safe_name(text: str) -> str:
    """A person's name as the name of a folder, which is no other judge's."""
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", text).lower()[:_MAX_NAME]).strip("-")
    return words if words not in ("", MAJORITY) else "somebody"


def read_key(path: Path) -> dict[str, Any]:
    """The key file of a page; raises DataError when it is none."""
    if not path.is_file():
        raise DataError(f"there is no {path}; say with --page where vila2 judge --human wrote the page")
    key = read_json(path)
    if key.get("format") != KEY_FORMAT:
        raise DataError(f"{path} is no key of a page of vila2 judge --human")
    return key


def to_verdicts(sheet: Sheet, key: Mapping[str, Any]) -> dict[SampleId, SampleVerdicts]:
    """A person's verdicts; a pair that was not answered is unjudged.

    Two bad captions are a tie, and so are two equal ones, which are not on the page.
    """
    found: dict[SampleId, list[Verdict]] = {}
    images: dict[SampleId, str] = {}
    same = {one["id"] for one in key.get("ties", ())}
    for one in (*key["pairs"], *key.get("ties", ())):
        sample_id = (one["shard"], one["key"])
        images[sample_id] = one["image_sha256"] or "/".join(sample_id)
        is_same = one["id"] in same
        found.setdefault(sample_id, []).append(_tie(sheet, one) if is_same else _verdict(sheet, one))
    return {
        sample_id: SampleVerdicts(images[sample_id], tuple(verdicts), {})
        for sample_id, verdicts in sorted(found.items())
    }


def _tie(sheet: Sheet, one: Mapping[str, Any]) -> Verdict:
    """The verdict on equal captions, about which nobody was asked."""
    return Verdict(
        layer=one["layer"],
        against=one["against"],
        judge=sheet.judge,
        outcome="tie",
        num_words=(int(one["num_words"][0]), int(one["num_words"][1])),
    )


def _verdict(sheet: Sheet, one: Mapping[str, Any]) -> Verdict:
    choice = sheet.choices.get(one["id"])
    is_left = one["left"] == one["layer"]
    outcome: Outcome = "unjudged" if choice is None else "tie"
    if choice in ("left", "right"):
        outcome = "win" if (choice == "left") == is_left else "loss"
    # A is what stands first, on the left.
    answer = {"left": "A", "right": "B", "tie": "tie", "both-bad": "both bad"}.get(choice or "")
    return Verdict(
        layer=one["layer"],
        against=one["against"],
        judge=sheet.judge,
        outcome=outcome,
        num_words=(int(one["num_words"][0]), int(one["num_words"][1])),
        answers=() if answer is None else (answer,),
        reason="not-answered" if choice is None else "",
    )


def write_verdicts(folder: Path, verdicts: Mapping[SampleId, SampleVerdicts]) -> None:
    """Write verdicts.jsonl: the sample, its image, and what was said of it."""
    lines = [
        json.dumps({"shard": shard, "key": key, "image_sha256": said.image, **one.to_json()})
        for (shard, key), said in verdicts.items()
        for one in said.verdicts
    ]
    write_text(folder / VERDICTS_FILE, "\n".join(lines) + "\n")


def read_judges(folder: Path) -> dict[str, dict[SampleId, SampleVerdicts]]:
    """The verdicts in a folder by judge: one verdict layer or verdicts.jsonl, or a folder of such folders.

    Raises DataError when there are none.
    """
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    found: dict[str, dict[SampleId, SampleVerdicts]] = {}
    for place in places:
        if (place / VERDICTS_FILE).is_file():
            samples = _read_verdicts(place / VERDICTS_FILE)
        elif (place / LAYER_FILE).is_file():
            samples = read_verdict_layer(place)
        else:
            continue
        for judge, mine in _by_judge(samples).items():
            found.setdefault(judge, {}).update(mine)
    if not found:
        raise DataError(f"{folder} holds no verdicts; vila2 judge and vila2 judge collect write some")
    return found


def _by_judge(
    samples: Mapping[SampleId, SampleVerdicts],
) -> dict[str, dict[SampleId, SampleVerdicts]]:
    found: dict[str, dict[SampleId, SampleVerdicts]] = {}
    for sample_id, said in samples.items():
        for judge in dict.fromkeys(one.judge for one in said.verdicts):
            mine = tuple(one for one in said.verdicts if one.judge == judge)
            found.setdefault(judge, {})[sample_id] = SampleVerdicts(said.image, mine, said.captions)
    return found


def _read_verdicts(path: Path) -> dict[SampleId, SampleVerdicts]:
    found: dict[SampleId, list[Verdict]] = {}
    images: dict[SampleId, str] = {}
    for number, value in enumerate(_lines(path), 1):
        try:
            sample_id = (str(value["shard"]), str(value["key"]))
            found.setdefault(sample_id, []).append(Verdict.from_json(value))
            images[sample_id] = str(value["image_sha256"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}:{number} is no verdict: {error}") from None
    return {key: SampleVerdicts(images[key], tuple(verdicts), {}) for key, verdicts in found.items()}


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = load_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number} is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number} is no JSON object")
        yield value
