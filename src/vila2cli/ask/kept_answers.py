"""Answers that were paid for, kept in a file so that none is asked for twice.

Each line is one answer under the digest of everything that decides it: the model, the pictures, the
prompt as it was sent, and how it was to be answered. Lines are appended as answers come in, so what a
crash leaves is everything but the answers still on their way. Workers append to a file each, beside the
one of a lone process, and know what is in all of them.
"""

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from vila2cli.engine import Request, Result
from vila2cli.errors import DataError
from vila2cli.files import naming
from vila2cli.run.folder import Worker, digest
from vila2cli.settings import ApiSettings
from vila2cli.shards.places import redacted

ANSWERS_FILE = "answers.jsonl"
_LINE = b'{"id": "'
"""What every line begins with."""
_REFUSED = "refused: "
"""What files of earlier versions put before a refusal."""


class Answers:
    """The answers in a file and those of its workers; open it with `with`.

    One process at a time appends to a file: the stage holds a lock on its part.
    """

    def __init__(self, path: Path, worker: Worker | None = None) -> None:
        self._shared = self._path = path
        if worker is not None and worker.count > 1:
            self._path = path.with_name(f"{path.stem}.{worker.index}of{worker.count}{path.suffix}")
        self._known: dict[str, Result] = {}
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self.refresh()
        return self

    def refresh(self) -> None:
        """Take in what all files hold now, those of workers that went on meanwhile, too."""
        parts = f"{glob.escape(self._shared.stem)}.*of*{glob.escape(self._shared.suffix)}"
        for path in [self._shared, *sorted(self._shared.parent.glob(parts))]:
            if path.is_file():
                self._read(path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def ask(
        self,
        requests: Iterable[tuple[str, Request]],
        generate: Callable[[Iterator[Request]], Iterator[Result]],
    ) -> Iterator[Result]:
        """Yield a result for each request, asking only for what is not kept and for equal ones once.

        Requests come with the key of their answer. What `generate` brings is kept before it is yielded;
        a request that it leaves out has no result.
        """
        waiting: dict[str, list[str]] = {}
        known: list[Result] = []

        def unknown() -> Iterator[Request]:
            for key, request in requests:
                if (found := self._known.get(key)) is not None:
                    known.append(replace(found, id=request.id))
                    continue
                waiting.setdefault(key, []).append(request.id)
                if len(waiting[key]) == 1:
                    yield replace(request, id=key)

        for result in generate(unknown()):
            self._keep(result)
            for name in waiting.pop(result.id):
                yield replace(result, id=name)
        yield from known

    def _keep(self, result: Result) -> None:
        """Append an answer; what was not answered is not kept, so that it is asked for again."""
        if result.error is not None and result.failure != "filtered":
            return
        self._known[result.id] = result
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        line = {
            "id": result.id,
            "text": result.text,
            "problem": result.error or "",
            "tokens": result.num_tokens,
            "finish_reason": result.finish_reason,
            "logprob_mean": result.logprob_mean,
        }
        with naming(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def _read(self, path: Path) -> None:
        """Take in a file and cut off a last line of our own that a crash left unfinished."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                result = _result(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(
                    f"{path}:{number} is no answer ({error}); remove the line, or the file to ask again"
                ) from None
            self._known[result.id] = result
        if whole < len(data) and path == self._path:
            if not data[whole:].startswith(_LINE[: len(data) - whole]):
                raise DataError(f"{path}: what it ends in is no answer; name another file for them")
            os.truncate(path, whole)


def answer_key(protocol: Mapping[str, Any], prompt: str, images: str | Sequence[str]) -> str:
    """What an answer is kept under: `protocol` names the model and how it answers, `images` their digests."""
    return digest({"by": dict(protocol), "prompt": prompt, "image": images})


def server_inputs(settings: ApiSettings) -> dict[str, Any]:
    """What of a server decides its answers, beside the model."""
    return {
        "base_url": redacted(settings.base_url),
        "image_format": settings.image_format,
        "structured": settings.structured,
    }


def _result(line: Mapping[str, Any]) -> Result:
    problem = line["problem"].removeprefix(_REFUSED)
    return Result(
        id=line["id"],
        text=line["text"],
        num_tokens=line.get("tokens", 0),
        finish_reason=line.get("finish_reason", "stop"),
        logprob_mean=line.get("logprob_mean"),
        error=problem or None,
        failure="filtered" if problem else "",
    )
