"""The API engine: any server that speaks OpenAI's chat completions, such as `vllm serve`.

Requests are sent from an event loop in a thread of its own, so that answers are taken in while the
caller's thread prepares the next images. A request that fails for a reason that may pass
(connection, time-out, 408, 409, 429, 5xx) is tried again after growing waits; one that the server
refuses for what it is becomes a failed result; a server that answers nobody any more ends the stage.
"""

import asyncio
import base64
import contextlib
import io
import random
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import openai
from PIL import Image

from vila2cli.engine import (
    DeviceKind,
    Failure,
    FinishReason,
    Request,
    Result,
    ScoreRequest,
    ScoreResult,
    identify,
)
from vila2cli.engine.background import event_loop, has_answer
from vila2cli.engine.batching import Window
from vila2cli.engine.limits import Asked, answered, failed, one_line
from vila2cli.engine.pace import Budget, RateLimit, wait_s
from vila2cli.engine.patterns import compact_pattern
from vila2cli.errors import BudgetError, DataError, ModelError
from vila2cli.files import whole_characters
from vila2cli.model.chat import turn_parts
from vila2cli.settings import ApiSettings
from vila2cli.stopping import Stop

Answered = TypeVar("Answered", Result, ScoreResult)
Response = TypeVar("Response")
Messages = list[dict[str, Any]]

_MAY_PASS = (408, 409, 429)  # and everything from 500 on
_NO_KEY = "none"


class _Refused(Exception):
    """The server would not take one request; the others may be fine."""

    failure: Failure = "request"


class _Unanswered(_Refused):
    """No answer came to one request."""

    failure: Failure = "unanswered"


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Answered]):
    """What came of a request, and the tokens it took."""

    result: Answered
    num_read: int = 0
    num_written: int = 0


class ApiEngine:
    """A model behind a URL, asked about many samples at once."""

    name = "api"
    num_devices = 1  # the server's are not known
    device_kind: DeviceKind = "server"

    def __init__(
        self, model: str, settings: ApiSettings, key: str, stop: Stop, *, fails_alone: bool = False
    ) -> None:
        # anyio never awaits a connection that is cancelled before it begins; Python says so at some later time
        warnings.filterwarnings("ignore", r"coroutine 'connect_tcp\.", RuntimeWarning)
        self.model, self.model_sha256 = identify("api", model, settings)
        self.notes: list[str] = []
        self.budget = Budget(settings)
        self._settings, self._stop = settings, stop
        self._key, self._fails_alone = key or _NO_KEY, fails_alone
        self._rate = RateLimit(settings.requests_per_minute)
        self._num_answers = 0
        self._noted: set[str] = set()
        if settings.max_dollars and not self.budget.has_prices:
            raise ModelError(
                "api.max_dollars needs prices: set dollars_per_million_read and dollars_per_million_written"
            )

    @property
    def dollars(self) -> float:
        """What was read and written so far, at the prices of the settings."""
        return self.budget.dollars

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Yield answers as they come, with at most `max_in_flight` requests out.

        Where one request ends the stage, the answers that others have got by then are yielded first.
        """
        return self._run(requests, self._generate, lambda request: request.max_new_tokens)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """Yield scores as they come, from a server that gives log-probabilities of a prompt (vLLM's does)."""
        return self._run(requests, self._score, lambda request: 1)

    def _run(
        self,
        requests: Iterable[Asked],
        answer: Callable[[openai.AsyncOpenAI, Asked], Coroutine[Any, Any, _Outcome[Answered]]],
        num_new: Callable[[Asked], int],
    ) -> Iterator[Answered]:
        waiting = iter(requests)
        held: Asked | None = None
        flying: dict[Future[_Outcome[Answered]], int] = {}
        landed: SimpleQueue[Future[_Outcome[Answered]]] = SimpleQueue()
        window = Window(self._settings.max_in_flight)
        serial = 0
        with event_loop() as loop, self._client(loop) as client:
            while True:
                while window.has_room:
                    held = next(waiting, None) if held is None else held
                    if held is None or not self.budget.reserve(serial, num_new(held)):
                        break
                    future = asyncio.run_coroutine_threadsafe(answer(client, held), loop)
                    flying[future] = serial
                    window.open(serial, held)
                    future.add_done_callback(landed.put)
                    held, serial = None, serial + 1
                if not flying and held is not None:
                    raise BudgetError(f"{self.budget.spent()}; raise the limit in [api] and run this again")
                if not flying:
                    return
                with self._stop.at_once():
                    future = landed.get()
                problem = future.exception()
                if problem is None:
                    window.close(flying[future])
                    yield self._settle(future, flying)
                    continue
                del flying[future]
                while (paid := next((one for one in flying if has_answer(one)), None)) is not None:
                    yield self._settle(paid, flying)
                raise problem

    def _settle(
        self, future: "Future[_Outcome[Answered]]", flying: "dict[Future[_Outcome[Answered]], int]"
    ) -> Answered:
        """Take the answer that a future brought, and count what it cost."""
        outcome = future.result()
        self.budget.settle(flying.pop(future), outcome.num_read, outcome.num_written)
        return outcome.result

    @contextlib.contextmanager
    def _client(self, loop: asyncio.AbstractEventLoop) -> Iterator[openai.AsyncOpenAI]:
        settings = self._settings
        client = openai.AsyncOpenAI(
            base_url=settings.base_url, api_key=self._key, timeout=settings.timeout_s, max_retries=0
        )
        try:
            yield client
        finally:
            asyncio.run_coroutine_threadsafe(_close(client), loop).result()

    async def _generate(self, client: openai.AsyncOpenAI, request: Request) -> _Outcome[Result]:
        try:
            messages = await asyncio.to_thread(self._messages, request)
            response = await self._ask(
                lambda: client.chat.completions.create(
                    model=self.model,
                    messages=messages,  # type: ignore[arg-type]
                    max_completion_tokens=request.max_new_tokens,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    seed=request.seed if request.temperature > 0 else openai.omit,
                    logprobs=self._settings.logprobs or openai.omit,
                    response_format=self._format(request) or openai.omit,  # type: ignore[arg-type]
                    extra_body=self._pattern(request),
                )
            )
        except _Refused as error:
            return _Outcome(failed(request, str(error), error.failure))
        except DataError as error:
            return _Outcome(failed(request, str(error)))
        return _Outcome(_to_result(request, response), *self._used(response))

    def _format(self, request: Request) -> dict[str, Any] | None:
        """How the server is told of a request's schema, None where it is not."""
        if request.schema is None or self._settings.structured in ("none", "vllm"):
            return None
        if self._settings.structured == "json_object":
            return {"type": "json_object"}
        schema = {"name": "answer", "strict": True, "schema": dict(request.schema)}
        return {"type": "json_schema", "json_schema": schema}

    def _pattern(self, request: Request) -> dict[str, Any] | None:
        """The same in the words of a vLLM server, without white space; None where it is told otherwise."""
        if request.schema is None or self._settings.structured != "vllm":
            return None
        return {"structured_outputs": {"regex": compact_pattern(request.schema)}}

    async def _score(self, client: openai.AsyncOpenAI, request: ScoreRequest) -> _Outcome[ScoreResult]:
        try:
            num_tokens = await self._num_tokens(client, request.text)
            messages = await asyncio.to_thread(self._messages, request)
            messages.append({"role": "assistant", "content": request.text})
            response = await self._ask(
                lambda: client.chat.completions.create(
                    model=self.model,
                    messages=messages,  # type: ignore[arg-type]
                    max_completion_tokens=1,
                    temperature=0.0,
                    extra_body={
                        "prompt_logprobs": 0,
                        "add_generation_prompt": False,
                        "continue_final_message": True,
                    },
                )
            )
        except (_Refused, DataError) as error:
            return _Outcome(ScoreResult(id=request.id, error=str(error)))
        found = (response.model_extra or {}).get("prompt_logprobs")
        if not found:
            raise ModelError(
                f"{self._settings.base_url} gives no log-probabilities of a prompt; score with a vLLM server, "
                'or engine = "hf" or "vllm"'
            )
        logprobs = [next(iter(token.values()))["logprob"] for token in found[-num_tokens:]]
        return _Outcome(ScoreResult(id=request.id, token_logprobs=tuple(logprobs)), *self._used(response))

    def _used(self, response: Any) -> tuple[int, int]:
        """Tokens read and written; raises ModelError where a limit cannot be kept because nobody says."""
        if getattr(response, "usage", None) is None and self.budget.is_limited:
            raise ModelError(
                f"{self._settings.base_url} does not say how many tokens a request takes (usage), so "
                "api.max_dollars and api.max_tokens_total cannot be kept; set both to 0, or limit it there"
            )
        return _usage(response)

    async def _num_tokens(self, client: openai.AsyncOpenAI, text: str) -> int:
        """How many tokens the server makes of a text."""
        url = f"{self._settings.base_url.rstrip('/').removesuffix('/v1')}/tokenize"
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        answer: Any = await self._ask(lambda: client.post(url, body=body, cast_to=object))
        if not answer["count"]:
            raise DataError("there is no text to score")
        return int(answer["count"])

    async def _ask(self, send: Callable[[], Awaitable[Response]]) -> Response:
        """Send until an answer comes.

        Raises _Refused for a request that cannot be answered, ModelError where no other is answered either.
        """
        clock = asyncio.get_running_loop()
        num_answers_before = 0
        for attempt in range(1, self._settings.retries + 2):
            await asyncio.sleep(self._rate.turn(clock.time()))
            try:
                response = await send()
            except openai.APIError as error:
                problem = self._problem(error)
                self._rate.hold(clock.time() + _retry_after_s(error))
            except ValueError as error:  # a body that says it is JSON and is not
                problem = f"it sent broken JSON: {one_line(error)}"
                self._note("broken JSON", problem)
            else:
                problem = _problem_of(response)
                if not problem:
                    self._num_answers += 1
                    return response
                self._note(problem, problem)
            if attempt <= self._settings.retries:
                num_answers_before = self._num_answers
                await asyncio.sleep(wait_s(attempt, random.random()))
        # the server is there, but not for this request
        if self._num_answers > (0 if self._fails_alone else num_answers_before):
            raise _Unanswered(f"no answer in {self._settings.retries + 1} tries: {problem}")
        raise ModelError(
            f"{self._settings.base_url} gave no answer in {self._settings.retries + 1} tries: {problem}; "
            "run the same command again when it does"
        )

    def _problem(self, error: openai.APIError) -> str:
        """The error in one line, if it may pass; otherwise raises what it means."""
        text = one_line(error).replace(self._key, "***") if self._key != _NO_KEY else one_line(error)
        if isinstance(error, openai.APIStatusError):
            url, status = self._settings.base_url, error.status_code
            if status in (401, 403):
                raise ModelError(
                    f"{url} refuses the key ({status}): put one into the environment variable "
                    f"{self._settings.key_env} (api.key_env)"
                )
            if status == 404:
                raise ModelError(f"{url} does not serve {self.model}: {text}")
            if error.code == "insufficient_quota":
                raise BudgetError(f"{url} says that the key's quota is used up: {text}")
            if status < 500 and status not in _MAY_PASS:
                raise _Refused(text)
        self._note(type(error).__name__, text)
        return text

    def _note(self, kind: str, text: str) -> None:
        """Tell once of a kind of problem that may pass."""
        if kind not in self._noted:
            self._noted.add(kind)
            self.notes.append(f"{self._settings.base_url}: {text}; such requests are tried again")

    def _messages(self, request: Request | ScoreRequest) -> Messages:
        images = iter(request.images)
        return [
            {"role": turn.role, "content": self._content(parts, images)}
            for turn, parts in zip(
                request.messages, turn_parts(request.messages, len(request.images)), strict=True
            )
        ]

    def _content(self, parts: list[str | None], images: Iterator[Image.Image]) -> str | list[dict[str, Any]]:
        if None not in parts:
            return "".join(part for part in parts if part)
        return [
            {"type": "image_url", "image_url": {"url": data_url(next(images), self._settings.image_format)}}
            if part is None
            else {"type": "text", "text": part}
            for part in parts
        ]


def data_url(image: Image.Image, image_format: str) -> str:
    """An image as a data: URL; png keeps every pixel."""
    file = io.BytesIO()
    if image_format == "png":
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "JPEG", quality=95)
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _problem_of(response: Any) -> str:
    """Why what came with status 200 is no answer; empty when it is one."""
    if isinstance(response, str):
        return f"it sent no JSON but {response[:80]!r}"
    if response is None or isinstance(response, list | int | float):
        return f"it sent no JSON object but {str(response)[:80]!r}"
    error = (getattr(response, "model_extra", None) or {}).get("error")
    if error and not getattr(response, "choices", None):
        text = error.get("message") if isinstance(error, dict) else error
        return f"it sent an error: {' '.join(str(text).split())[:200]}"
    return ""


def _to_result(request: Request, response: Any) -> Result:
    choices = getattr(response, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    ended = getattr(choice, "finish_reason", None)
    message = getattr(choice, "message", None)
    if choice is None or message is None or ended not in ("stop", "length"):
        return failed(request, f"the server ended the answer with {ended}", "filtered")
    if refusal := getattr(message, "refusal", None):
        return failed(request, f"the model refused: {' '.join(str(refusal).split())[:200]}", "filtered")
    finish_reason: FinishReason = ended
    tokens = choice.logprobs.content if choice.logprobs else None
    num_tokens = _usage(response)[1] or len(tokens or ())
    return answered(
        request,
        text=whole_characters(str(message.content or "")).strip(),
        num_tokens=num_tokens,
        finish_reason=finish_reason,
        logprob_mean=sum(token.logprob for token in tokens) / len(tokens) if tokens else None,
    )


def _usage(response: Any) -> tuple[int, int]:
    """Tokens read and written; zeros from a server that does not say."""
    usage = getattr(response, "usage", None)
    return (0, 0) if usage is None else (usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _retry_after_s(error: openai.APIError) -> float:
    """The wait that a server asks for in whole seconds, 0 where it asks for none."""
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    text = headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


async def _close(client: openai.AsyncOpenAI) -> None:
    """Give up what is still asked, then close the connections."""
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:  # ending one may begin another
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    await asyncio.get_running_loop().shutdown_default_executor()
