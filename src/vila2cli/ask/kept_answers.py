"""Answers that were paid for, kept in a file so that none is paid for twice.

Each line is one answer under the digest of everything that decides it: the model, the images, the messages,
and how it was to be answered. Lines are appended as answers come in, so what a crash leaves is everything but
the answers still on their way. Workers append to a file each, beside the one of a lone process, and know
what is in all of them.
"""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from vila2cli.ask.engines import Wrapper
from vila2cli.engine import AnyRequest, Engine, Request, Result
from vila2cli.errors import DataError
from vila2cli.files import naming
from vila2cli.run.folder import digest
from vila2cli.run.workers import Worker
from vila2cli.settings import ApiSettings
from vila2cli.shards.places import redacted

ANSWERS_FILE = "answers.jsonl"
_LINE = b'{"id": "'
"""What every line begins with."""
_REFUSED = "refused: "
"""What files of earlier versions put before a refusal."""
_MAX_HELD = 64
"""Kept answers found in a row before they are handed on."""


class Answers:
    """The answers in a file and those of its workers; open it with `with`.

    One process at a time appends to a file: the stage holds a lock on its part. In memory is only where each
    answer is, for there may be millions.
    """

    def __init__(self, path: Path, worker: Worker | None = None) -> None:
        self.path = self._shared = self._path = path
        if worker is not None and worker.count > 1:
            self._path = path.with_name(f"{path.stem}.{worker.index}of{worker.count}{path.suffix}")
        self._places: dict[str, tuple[Path, int]] = {}
        self._ends: dict[Path, int] = {}
        self._readers: dict[Path, BinaryIO] = {}
        self._file: BinaryIO | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Take in what the files hold now, those of workers that went on meanwhile, too."""
        for path in self._paths():
            self._read(path)

    def find(self, key: str) -> Result | None:
        """The answer kept under a key, None where there is none."""
        if key not in self._places:
            return None
        path, start = self._places[key]
        if path not in self._readers:
            self._readers[path] = self._stack.enter_context(path.open("rb"))
        self._readers[path].seek(start)
        return _result(json.loads(self._readers[path].readline()))

    def keep(self, key: str, result: Result) -> None:
        """Append an answer; what was not answered is not kept, so that it is asked for again."""
        if result.error is not None and result.failure != "filtered":
            return
        line = {
            "id": key,
            "text": result.text,
            "problem": result.error or "",
            "tokens": result.num_tokens,
            "finish_reason": result.finish_reason,
            "logprob_mean": result.logprob_mean,
            **({"token_logprobs": result.token_logprobs} if result.token_logprobs else {}),
        }
        data = json.dumps(line).encode() + b"\n"
        with naming(self._path):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._stack.enter_context(self._path.open("ab"))
            try:
                self._file.write(data)
                self._file.flush()
            except OSError:
                with suppress(OSError):  # where a disk is full, closing fails as writing did
                    self._file.close()
                raise
            self._places[key] = self._path, self._file.tell() - len(data)

    def remove(self) -> None:
        """Delete the files of all workers, whose answers nobody will need again."""
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        parts = f"{glob.escape(self._shared.stem)}.*of*{glob.escape(self._shared.suffix)}"
        paths = [self._shared, *sorted(self._shared.parent.glob(parts))]
        return [path for path in paths if path.is_file()]

    def _read(self, path: Path) -> None:
        """Take in what is new in a file, and cut off a last line of our own that a crash left unfinished."""
        start = self._ends.get(path, 0)
        with path.open("rb") as file:
            file.seek(start)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._cut_off(path, start, line)
                    break
                try:
                    self._places[_result(json.loads(line)).id] = path, start
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    raise DataError(
                        f"{path}:{number} is no answer ({error}); remove the line, or the file to ask again"
                    ) from None
                start += len(line)
        self._ends[path] = start

    def _cut_off(self, path: Path, start: int, rest: bytes) -> None:
        if path != self._path or self._file is not None:
            return  # of a worker that goes on writing
        if not rest.startswith(_LINE[: len(rest)]):
            raise DataError(f"{path}: what it ends in is no answer; name another file for them")
        os.truncate(path, start)


class Kept(Wrapper):
    """An engine that asks another one only for what is not kept, and for equal requests once.

    `how` is what decides answers beside the model and what a request says: the server's settings, the limits
    under which images were decoded. Answers are kept before they are yielded; several engines may share them.
    """

    def __init__(self, engine: Engine, answers: Answers, how: Mapping[str, Any]) -> None:
        super().__init__(engine)
        self._answers = answers
        self._by = {"engine": engine.name, "model_sha256": engine.model_sha256, **how}
        if engine.name == "api":
            self._by.pop("draft", None)  # servers are sent pictures that were decoded whole
        self.num_kept = 0
        """Requests answered without the engine."""

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield a result for each request; the engine is given those of which none is kept."""
        lacking = _Lacking(self, iter(requests))
        while (request := next(lacking, None)) is not None or lacking.known:
            lacking.held = request
            if request is not None:
                for result in self._engine.generate(lacking):
                    self._answers.keep(result.id, result)
                    yield from (replace(result, id=name) for name in lacking.asked.pop(result.id))
                    yield from lacking.take_known()
            yield from lacking.take_known()

    def find(self, key: str) -> Result | None:
        """The answer kept under a key, counted."""
        result = self._answers.find(key)
        self.num_kept += result is not None
        return result

    def key(self, request: AnyRequest) -> str:
        """What the answer to a request is kept under."""
        assert request.image_sha256s or not request.images, "whoever shows images says which"
        return digest(
            {
                "by": self._by,
                "messages": request.messages,
                "images": request.image_sha256s,
                "adapter": request.adapter,
                **(_sampling(request) if isinstance(request, Request) else {"text": request.text}),
            }
        )


class _Lacking:
    """The requests of which no answer is kept, each of equal ones once, with its key as its id.

    It runs dry, to go on later (see `Engine`), when many kept answers wait to be handed on. `asked` are the
    ids of the requests behind a key.
    """

    def __init__(self, kept: Kept, requests: Iterator[AnyRequest]) -> None:
        self._kept, self._requests = kept, requests
        self.asked: dict[str, list[str]] = {}
        self.known: list[Result] = []
        self.held: AnyRequest | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AnyRequest:
        if self.held is not None:
            request, self.held = self.held, None
            return request
        while len(self.known) < _MAX_HELD:
            request = next(self._requests)
            key = self._kept.key(request)
            if (result := self._kept.find(key)) is not None:
                self.known.append(replace(result, id=request.id))
                continue
            names = self.asked.setdefault(key, [])
            names.append(request.id)
            if len(names) == 1:
                return replace(request, id=key)
        raise StopIteration

    def take_known(self) -> list[Result]:
        known, self.known = self.known, []
        return known


def _sampling(request: Request) -> dict[str, Any]:
    """How a request is to be answered; a seed that is not drawn by decides nothing."""
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed if request.temperature > 0 else None,
        "max_new_tokens": request.max_new_tokens,
        "schema": request.schema,
    }


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
        token_logprobs=tuple(line.get("token_logprobs", ())),
        error=problem or None,
        failure="filtered" if problem else "",
    )
