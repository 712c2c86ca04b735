"""lmms-eval in its own process and environment: its command line, and its results read back.

Nothing of it is imported, as it pins libraries of its own. `eval.lmms_command` says how it is started where
it is not on the PATH, such as "/envs/lmms/bin/python -m lmms_eval".
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, ModelError, RecipeError
from vila2cli.files import read_json
from vila2cli.score.stats import Interval

RESULTS = "*_results.json"
PREFIX = "lmms:"
_Z = 1.959963984540054
_FILTERED = re.compile(r"(?P<metric>.+?)(?P<error>_stderr)?,(?P<filter>.+)")
_LOG_LINES = 5


def command_line(
    program: str, *, model: str, model_args: str, tasks: Sequence[str], out: Path, num_fewshot: int
) -> list[str]:
    """The words that start lmms-eval; raises ModelError when the program is not there.

    `model` is lmms-eval's name of a model family, such as `llava_hf` or `vllm`.
    """
    words = shlex.split(program)
    if not words:
        raise RecipeError("eval.lmms_command is empty; give the command that starts lmms-eval")
    found = shutil.which(words[0])
    if found is None:
        raise ModelError(
            f"there is no {words[0]}: install lmms-eval into an environment of its own (python -m venv lmms; "
            "lmms/bin/pip install lmms-eval) and set eval.lmms_command to 'lmms/bin/python -m lmms_eval'"
        )
    few = ["--num_fewshot", str(num_fewshot)] if num_fewshot else []
    return [
        found,
        *words[1:],
        *("--model", model),
        *("--model_args", model_args),
        *("--tasks", ",".join(tasks)),
        *("--batch_size", "1"),
        *few,
        "--log_samples",
        *("--output_path", str(out)),
    ]


def run_lmms(words: Sequence[str], out: Path) -> Path:
    """Run it, its output going to lmms.log, and return its results file; raises ModelError when it fails."""
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.rglob(RESULTS))
    log = out / "lmms.log"
    with log.open("ab") as stream:
        code = subprocess.run(words, stdout=stream, stderr=stream, check=False).returncode
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        raise ModelError(f"lmms-eval ended with {code}; the end of {log}: {' | '.join(tail)}")
    made = sorted(set(out.rglob(RESULTS)) - before)
    if not made:
        raise ModelError(f"lmms-eval ended well, but wrote no {RESULTS} below {out}; see {log}")
    return made[-1]


def read_results(path: Path) -> dict[str, Any]:
    """The tasks of a results file as entries of metrics.json, with intervals where standard errors are given.

    Metrics keep lmms-eval's names and scale; one with another filter than "none" is named with it. Raises
    DataError for a file that holds no results.
    """
    value = read_json(path)
    results = value.get("results")
    if not isinstance(results, dict) or not results:
        raise DataError(f"{path} holds no 'results'; give the *_results.json that lmms-eval wrote")
    rows = {name: row for name, row in results.items() if isinstance(row, dict)}
    return {f"{PREFIX}{name}": _entry(name, row, value) for name, row in rows.items()}


def _entry(name: str, row: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    metrics, errors = _metrics(row)
    num = _inner(value, "n-samples", name)
    num = num.get("effective", num.get("original", 0)) if isinstance(num, dict) else num or 0
    return {
        "metrics": {metric: _figure(number, errors.get(metric)) for metric, number in metrics.items()},
        "headline": next(iter(metrics), ""),
        "num_samples": num,
        "num_rejected": 0,
        "rejected": {},
        "version": "" if (version := _inner(value, "versions", name)) is None else str(version),
        "split": "",
        "answer_type": "",
        "scorer": "lmms-eval",
        "scorer_version": str(value.get("git_hash") or ""),
        "num_fewshot": _inner(value, "n-shot", name),
        "rule": "lmms-eval's own",
    }


def _metrics(row: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, number in row.items():
        match = _FILTERED.fullmatch(key)
        if match is None or not isinstance(number, int | float) or isinstance(number, bool):
            continue
        name = match["metric"] if match["filter"] == "none" else f"{match['metric']},{match['filter']}"
        (errors if match["error"] else metrics)[name] = float(number)
    return metrics, errors


def _figure(value: float, error: float | None) -> dict[str, float]:
    if error is None:
        return {"value": value}
    return Interval(value, value - _Z * error, value + _Z * error).to_json()


def _inner(value: Mapping[str, Any], key: str, name: str) -> Any:
    table = value.get(key)
    return table.get(name) if isinstance(table, dict) else None


def samples_of(results: Path) -> list[Path]:
    """The files of samples that lmms-eval wrote beside its results."""
    stem = results.name.removesuffix("_results.json")
    return sorted(results.parent.glob(f"{stem}_samples_*.jsonl"))


def describe(words: Sequence[str], results: Path) -> dict[str, Any]:
    """What metrics.json says of where the figures come from."""
    return {
        "command": shlex.join(words),
        "results": str(results),
        "samples": [str(path) for path in samples_of(results)],
        "config": json.loads(json.dumps(read_json(results).get("config", {}), default=str)),
    }
