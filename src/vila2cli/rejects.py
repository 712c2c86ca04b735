"""What could not be used: samples in rejects.jsonl, and shards that could not be read while others go on."""

from collections.abc import Sequence
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.files import load_json, one_at_a_time, to_json_bytes, write_atomically
from vila2cli.sample import Reject
from vila2cli.shard_stats import done

REJECTS_FILE = "rejects.jsonl"
NO_ANSWER = "no-answer"
OVER_BUDGET = "over-budget"
MAY_PASS = (NO_ANSWER, OVER_BUDGET)
"""Why a question has no answer where another try may bring one: the server gave none, the budget ended."""


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
                f"these once they are mended: {more}" + ("; ..." if len(self._errors) > 3 else "")
            )


def write_rejects(out_dir: Path, name: str, rejects: Sequence[Reject]) -> None:
    """Write NAME.rejects.jsonl, sorted by key; with no rejects remove one that an earlier try left."""
    path = out_dir / f"{name}.rejects.jsonl"
    if rejects:
        in_order = sorted(rejects, key=lambda reject: (reject.key, reject.reason, reject.error))
        write_atomically(path, b"".join(to_json_bytes(reject.to_json()) + b"\n" for reject in in_order))
    else:
        path.unlink(missing_ok=True)


def read_rejects(path: Path) -> list[Reject]:
    """The rejects in a file, none where there is no file; raises DataError for a damaged one."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            found.append(Reject(**load_json(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number} is no reject: {error}; was the file cut off?") from None
    return found


def gather_rejects(out_dir: Path, names: Sequence[str]) -> None:
    """Join the rejects of the complete shards among `names` to rejects.jsonl, in this order."""
    with one_at_a_time(out_dir):
        complete = done(out_dir)
        parts = [out_dir / f"{name}.rejects.jsonl" for name in names if name in complete]
        lines = b"".join(part.read_bytes() for part in parts if part.is_file())
        write_atomically(out_dir / REJECTS_FILE, lines)
