"""Human judgements as files: answers exported by the page, and verdicts.jsonl, one verdict a line."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import load_json, read_json
from vila2cli.judging.people_page import ANSWERS_FORMAT, KEY_FORMAT
from vila2cli.judging.verdicts import MAJORITY, SampleVerdicts, by_sample, read_verdict_layer
from vila2cli.run.folder import write_text
from vila2cli.score.verdict import Outcome, Verdict
from vila2cli.shards.annotations import SampleId
from vila2cli.shards.records import LAYER_FILE

VERDICTS_FILE = "verdicts.jsonl"
KEY_FILE = "key.json"
_ANSWERS = {"left": "A", "right": "B", "tie": "tie", "both-bad": "both bad"}
"""What each choice on the page is as a judge's answer: A is shown first, on the left."""
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
            raise DataError(f"{path}: {sheet.judge!r} is in another file, too; give each person's last export")
        sheets[sheet.judge] = sheet
    return list(sheets.values())


def _read_sheet(path: Path, key: Mapping[str, Any]) -> Sheet:
    value = read_json(path)
    if value.get("format") != ANSWERS_FORMAT:
        raise DataError(f"{path} holds no answers of a page of vila2 judge --human")
    if value.get("page") != key["page"]:
        raise DataError(
            f"{path} answers another page than {key['page'][:8]}; give the key.json that was written with it"
        )
    known = {pair["id"] for pair in key["pairs"]}
    choices: dict[str, str] = {}
    answers = value.get("answers")
    for answer in answers if isinstance(answers, list) else [answers]:
        pair, choice = (answer.get("pair"), answer.get("choice")) if isinstance(answer, dict) else (None, None)
        if not (isinstance(pair, str) and isinstance(choice, str) and pair in known and choice in _ANSWERS):
            raise DataError(f"{path}: {json.dumps(answer)[:120]} answers no pair of this page")
        choices[pair] = choice
    return Sheet(safe_name(str(value.get("judge", ""))), choices)


def safe_name(text: str) -> str:
    """A person's name as the name of a folder, which is no other judge's."""
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", text).lower()[:_MAX_NAME]).strip("-")
    return words if words not in ("", MAJORITY) else "somebody"


def read_key(path: Path) -> dict[str, Any]:
    """The key file of a page; raises DataError when it is none."""
    if not path.is_file():
        raise DataError(
            f"there is no {path}; name with --page the folder in which vila2 judge --human wrote the page"
        )
    key = read_json(path)
    if key.get("format") != KEY_FORMAT:
        raise DataError(f"{path} is no key of a page of vila2 judge --human")
    return key


def to_verdicts(sheet: Sheet, key: Mapping[str, Any]) -> dict[SampleId, SampleVerdicts]:
    """A person's verdicts; a pair that was not answered is unjudged.

    Two bad captions are a tie, and so are two equal ones, which are not on the page.
    """
    same = key.get("ties", ())
    ties = [_verdict(sheet.judge, pair, outcome="tie", equal=True) for pair in same]
    verdicts = [_answered(sheet, pair) for pair in key["pairs"]]
    samples = ((pair["shard"], pair["key"], pair["image_sha256"]) for pair in (*key["pairs"], *same))
    return dict(sorted(by_sample(zip(samples, (*verdicts, *ties), strict=True)).items()))


def _answered(sheet: Sheet, pair: Mapping[str, Any]) -> Verdict:
    choice = sheet.choices.get(pair["id"])
    if choice is None:
        return _verdict(sheet.judge, pair, outcome="unjudged", reason="not-answered")
    outcome: Outcome = "tie"
    if choice in ("left", "right"):
        outcome = "win" if (choice == "left") == (pair["left"] == pair["layer"]) else "loss"
    return _verdict(sheet.judge, pair, outcome=outcome, answers=(_ANSWERS[choice],))


def _verdict(judge: str, pair: Mapping[str, Any], **given: Any) -> Verdict:
    first, second = map(int, pair["num_words"])
    about = {"layer": pair["layer"], "against": pair["against"], "judge": judge}
    return Verdict(**about, num_words=(first, second), **given)


def write_verdicts(folder: Path, verdicts: Mapping[SampleId, SampleVerdicts]) -> None:
    """Write verdicts.jsonl: the sample, its image and the verdict."""
    lines = [
        json.dumps({"shard": shard, "key": key, "image_sha256": sample.image, **verdict.to_json()})
        for (shard, key), sample in verdicts.items()
        for verdict in sample.verdicts
    ]
    write_text(folder / VERDICTS_FILE, "\n".join(lines) + "\n")


def read_judges(folder: Path) -> dict[str, dict[SampleId, SampleVerdicts]]:
    """The verdicts in a folder by judge: one verdict layer or verdicts.jsonl, or a folder of such folders.

    Raises DataError when there are none.
    """
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    by_judge: dict[str, dict[SampleId, SampleVerdicts]] = {}
    for place in places:
        if (place / VERDICTS_FILE).is_file():
            samples = _read_verdicts(place / VERDICTS_FILE)
        elif (place / LAYER_FILE).is_file():
            samples = read_verdict_layer(place)
        else:
            continue
        for sample_id, sample in samples.items():
            for judge in dict.fromkeys(verdict.judge for verdict in sample.verdicts):
                own = tuple(verdict for verdict in sample.verdicts if verdict.judge == judge)
                by_judge.setdefault(judge, {})[sample_id] = replace(sample, verdicts=own)
    if not by_judge:
        raise DataError(f"{folder} holds no verdicts; vila2 judge and vila2 judge collect write some")
    return by_judge


def _read_verdicts(path: Path) -> dict[SampleId, SampleVerdicts]:
    rows = []
    for number, value in enumerate(_lines(path), 1):
        try:
            sample = (str(value["shard"]), str(value["key"]), str(value["image_sha256"]))
            rows.append((sample, Verdict.from_json(value)))
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}:{number} is no verdict: {error}") from None
    return by_sample(rows)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = load_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number} is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number} is no JSON object")
        yield value
