"""What could not be used: samples in rejects.jsonl, and shards that could not be read while others go on."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.files import load_json, one_at_a_time, to_json_bytes, write_atomically
from vila2cli.shards.reader import Shard
from vila2cli.shards.records import recorded
from vila2cli.shards.sample import Reject
from vila2cli.shards.stats import done

REJECTS_FILE = "rejects.jsonl"
NO_ANSWER = "no-answer"
OVER_BUDGET = "over-budget"
MAY_PASS = (NO_ANSWER, OVER_BUDGET)
"""Why a question has no answer where another try may bring one: the server gave none, the budget ended."""


def are_too_many(rate: float, num_failed: int, max_rate: float) -> bool:
    """Whether so many samples failed, which are this `rate` of all, that their stage fails.

    A single one never is, be it one of ten, unless it was the only sample or none may fail.
    """
    return rate > max_rate and (num_failed > 1 or max_rate == 0 or rate >= 1)


class Unreadable:
    """Shards that could not be read while the others go on; several in a row end the work.

    Then it is no longer a shard that is damaged, but the network or disk, or the base is the wrong one.
    """

    MAX_IN_A_ROW = 3

    def __init__(self) -> None:
        self._errors: list[DataError] = []
        self._num_in_a_row = 0

    def succeed(self) -> None:
        """Note that a shard was read to its end."""
        self._num_in_a_row = 0

    def fail(self, error: DataError) -> None:
        """Note a shard that could not be."""
        self._errors.append(error)
        self._num_in_a_row += 1

    @property
    def are_too_many(self) -> bool:
        """Whether to read no further: what is begun can still be finished."""
        return self._num_in_a_row >= self.MAX_IN_A_ROW

    def each(self, shards: Iterable[Shard], write: Callable[[Shard], None]) -> None:
        """Write one shard after the other, going on after those for which DataError is raised."""
        for shard in shards:
            try:
                write(shard)
                self.succeed()
            except DataError as error:
                self.fail(error)
                if self.are_too_many:
                    return

    def check(self) -> None:
        """Raise DataError when there were any, now that the others are done."""
        if self.are_too_many:
            raise DataError(
                f"{self._num_in_a_row} shards in a row cannot be read, the last one: {self._errors[-1]}"
            )
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            more = "; ".join(str(error) for error in self._errors[:3])
            raise DataError(
                f"{len(self._errors)} shards cannot be read; the others are done, and the same command does "
                f"these once they are repaired: {more}" + ("; ..." if len(self._errors) > 3 else "")
            )


def write_rejects(out_dir: Path, name: str, rejects: Sequence[Reject]) -> dict[str, int]:
    """Write NAME.rejects.jsonl, sorted by key; with no rejects remove one that an earlier try left.

    Returns what the stats file should say of it, for `read_rejects`.
    """
    path = out_dir / f"{name}.rejects.jsonl"
    if rejects:
        in_order = sorted(rejects, key=lambda reject: (reject.key, reject.reason, reject.error))
        write_atomically(path, b"".join(to_json_bytes(reject.to_json()) + b"\n" for reject in in_order))
    else:
        path.unlink(missing_ok=True)
    return {"reject_lines": len(rejects)}


def read_rejects(out_dir: Path, name: str) -> list[Reject]:
    """The rejects of a complete shard; raises DataError for a file that is not as its stats file says."""
    return [_parse(line, out_dir, name) for line in _lines(out_dir, name)]


def _parse(line: bytes, out_dir: Path, name: str) -> Reject:
    try:
        return Reject(**load_json(line))
    except (ValueError, TypeError) as error:
        raise DataError(f"cannot read {out_dir / name}.rejects.jsonl: {error}") from None


def _lines(out_dir: Path, name: str) -> list[bytes]:
    path = out_dir / f"{name}.rejects.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    record = recorded(out_dir / f"{name}.tar")
    # Before `reject_lines` was noted a shard could have more lines than rejected samples.
    expected = record.get("reject_lines", max(len(lines), record.get("rejected", 0)))
    if len(lines) != expected or (lines and not lines[-1].endswith(b"\n")):
        num_whole = sum(line.endswith(b"\n") for line in lines)
        raise DataError(
            f"{path} is cut off: it holds {num_whole} whole lines, and {name}.stats.json beside it says "
            f"{expected}; copy it again, or remove both to have that shard done again"
        )
    return lines


def first_reject(out_dir: Path) -> str:
    """What is wrong with the first sample of a folder's rejects.jsonl, for a message."""
    with (out_dir / REJECTS_FILE).open("rb") as file:
        line = file.readline()
    return _parse(line, out_dir, REJECTS_FILE).error if line else "not named"


def gather_rejects(out_dir: Path, names: Sequence[str]) -> None:
    """Join the rejects of the complete shards among `names` to rejects.jsonl, in this order."""
    with one_at_a_time(out_dir):
        complete = done(out_dir)
        lines = b"".join(line for name in names if name in complete for line in _lines(out_dir, name))
        write_atomically(out_dir / REJECTS_FILE, lines)
