"""Answers that were paid for, kept in a file so that none is asked for twice.

Each line is one answer under the digest of everything that decides it: the model, the picture, the
prompt as it was sent, and how it was to be answered. Lines are appended as answers come in, so what a
crash leaves is everything but the answers still on their way. Workers append to a file each, beside the
one of a lone process, and know what is in all of them.
"""

import glob
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from vila2cli.engine import Failure, Result
from vila2cli.errors import DataError
from vila2cli.judging.protocols import Reply
from vila2cli.run import Worker, digest

OVER_BUDGET = "over-budget"
NO_ANSWER = "no-answer"
MAY_PASS = (OVER_BUDGET, NO_ANSWER)
"""Reasons for which a pair is asked about again when the command runs again."""
_REASONS: dict[Failure, str] = {"request": "not-accepted", "unanswered": NO_ANSWER, "filtered": "refused"}


def reply_of(result: Result) -> Reply:
    """A result as a judge's reply."""
    if result.error is None:
        return Reply(result.text)
    return Reply(problem=f"{_REASONS[result.failure or 'request']}: {result.error}")


class Answers:
    """The answers in a file and those of its workers; open it with `with`.

    One process at a time appends to a file: the stage holds a lock on its part.
    """

    def __init__(self, path: Path, worker: Worker | None = None) -> None:
        self._shared = self._path = path
        if worker is not None and worker.count > 1:
            self._path = path.with_name(f"{path.stem}.{worker.index}of{worker.count}{path.suffix}")
        self._known: dict[str, Reply] = {}
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        parts = f"{glob.escape(self._shared.stem)}.*of*{glob.escape(self._shared.suffix)}"
        for path in [self._shared, *sorted(self._shared.parent.glob(parts))]:
            if path.is_file():
                self._read(path)
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def find(self, key: str) -> Reply | None:
        return self._known.get(key)

    def keep(self, key: str, result: Result) -> None:
        """Append an answer; what was not answered is not kept, so that it is asked for again."""
        if result.error is not None and result.failure != "filtered":
            return
        reply = self._known[key] = reply_of(result)
        assert self._file is not None
        line = {"id": key, "text": reply.text, "problem": reply.problem, "tokens": result.num_tokens}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self, path: Path) -> None:
        """Take in a file and cut off a last line of our own that a crash left unfinished."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                value = json.loads(line)
                self._known[value["id"]] = Reply(value["text"], value["problem"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}:{number} is no answer ({error}); remove the line, or the file to ask again"
                ) from None
        if whole < len(data) and path == self._path:
            os.truncate(path, whole)


def answer_key(protocol: Mapping[str, Any], prompt: str, image_sha256: str) -> str:
    """What an answer is kept under: `protocol` names the model and how it answers."""
    return digest({"by": dict(protocol), "prompt": prompt, "image": image_sha256})
