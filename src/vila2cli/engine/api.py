"""The API engine: any server that speaks OpenAI's chat completions, such as `vllm serve`.

Requests are sent from an event loop in a thread of its own, so that answers are taken in while the
caller's thread prepares the next images. A request that fails for a reason that may pass
(connection, time-out, 408, 409, 429, 5xx) is tried again after growing waits; one that the server
refuses for what it is becomes a failed result, as does an answer that cannot be; a server that answers
nobody any more ends the stage. All that a server says goes through `_masked` before it goes anywhere.
"""

import asyncio
import contextlib
import random
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import openai

from vila2cli.engine import AnyRequest, DeviceKind, Failure, Preparing, Request, Result, ScoreRequest, identify
from vila2cli.engine.asking import beyond_protocol, shown_beyond_protocol, with_system
from vila2cli.engine.background import event_loop, has_answer
from vila2cli.engine.batching import Window
from vila2cli.engine.connection import asked_wait_s, close, connect, key_refused, post, words_of
from vila2cli.engine.fields import Fields
from vila2cli.engine.keys import is_openai
from vila2cli.engine.limits import MAX_LINE, answered, failed
from vila2cli.engine.messages import messages_of
from vila2cli.engine.pace import Budget, RateLimit, wait_s
from vila2cli.engine.patterns import schema_fields
from vila2cli.engine.replies import (
    NOTHING,
    Malformed,
    Usage,
    Withheld,
    answer_of,
    problem_of,
    prompt_logprobs_of,
    token_count_of,
    usage_of,
)
from vila2cli.errors import BudgetError, DataError, ModelError
from vila2cli.files import whole_characters
from vila2cli.model.control import visibly_inert
from vila2cli.run.stopping import Stop
from vila2cli.settings import ApiSettings, AskedSettings
from vila2cli.shards.credentials import masked, secrets_of, without_secrets
from vila2cli.shards.places import redacted
from vila2cli.shards.web import MAX_RETRY_AFTER_S

_MAY_PASS = (408, 409, 429)  # and everything from 500 on
_REFUSES_FIELDS = (400, 422)
_NO_SUCH_PAGE = (404, 405, 501)
_SCORE_ELSEWHERE = 'score with a vLLM server, or engine = "hf" or "vllm"'
_MIN_KEY = 6
"""Characters of a key that a caption is searched for; a shorter one ("EMPTY") is a word of its own."""


class _Refused(Exception):
    """The server would not take one request; the others may be fine."""

    failure: Failure = "request"


class _Unanswered(_Refused):
    """No answer came to one request."""

    failure: Failure = "unanswered"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of a request, and the tokens it took; None where they are not told, and count at their most."""

    result: Result
    usage: Usage | None = NOTHING


class ApiEngine:
    """A model behind a URL, asked about many samples at once."""

    name = "api"
    num_devices = 1  # the server's are not known
    num_fewer_tiles = 0
    device_kind: DeviceKind = "server"
    preparing = Preparing()

    def __init__(
        self,
        model: str,
        settings: ApiSettings,
        key: str,
        stop: Stop,
        *,
        asked: AskedSettings | None = None,
        fails_alone: bool = False,
    ) -> None:
        # anyio never awaits a connection that is cancelled before it begins; Python says so at some later time
        warnings.filterwarnings("ignore", r"coroutine 'connect_tcp\.", RuntimeWarning)
        self.model, self.model_sha256 = identify("api", model, settings)
        self.notes: list[str] = []
        self.budget = Budget(settings)
        self._settings, self._stop = settings, stop
        self._asked = asked or AskedSettings()
        self._key, self._fails_alone = key, fails_alone
        self._url, self._secrets = redacted(settings.base_url), [key, *secrets_of(settings.base_url)]
        beyond, at_openai = beyond_protocol(self._asked), is_openai(settings.base_url)
        if beyond and at_openai:
            raise ModelError(f"{self._url} takes no {', '.join(beyond)}; leave out what sets it")
        self._fields = Fields(beyond, is_openai=at_openai)
        self._tells_usage = False
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

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield answers as they come, with at most `max_in_flight` requests out.

        Scores need a server that gives log-probabilities of a prompt (vLLM's does). Where one request ends the
        stage, the answers that others have got by then are yielded first.
        """
        waiting = iter(requests)
        held: AnyRequest | None = None
        flying: dict[Future[_Outcome], int] = {}
        landed: SimpleQueue[Future[_Outcome]] = SimpleQueue()
        window = Window(self._settings.max_in_flight)
        serial = 0
        with event_loop() as loop, self._client(loop) as client:
            while True:
                while window.has_room:
                    held = next(waiting, None) if held is None else held
                    if held is None or not self.budget.reserve(serial, _num_new(held)):
                        break
                    future = asyncio.run_coroutine_threadsafe(self._answer(client, held), loop)
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
                while (paid := next(filter(has_answer, flying), None)) is not None:
                    yield self._settle(paid, flying)
                raise problem

    def _settle(self, future: "Future[_Outcome]", flying: "dict[Future[_Outcome], int]") -> Result:
        """Take the answer that a future brought, and count what it cost."""
        outcome = future.result()
        self.budget.settle(flying.pop(future), outcome.usage)
        return outcome.result

    @contextlib.contextmanager
    def _client(self, loop: asyncio.AbstractEventLoop) -> Iterator[openai.AsyncOpenAI]:
        client = connect(self._settings, self._key)
        try:
            yield client
        finally:
            asyncio.run_coroutine_threadsafe(close(client), loop).result()

    async def _answer(self, client: openai.AsyncOpenAI, request: AnyRequest) -> _Outcome:
        request = with_system(request, self._asked.system)
        try:
            if isinstance(request, ScoreRequest):
                return await self._score(client, request)
            return await self._generate(client, request)
        except _Refused as error:
            return _Outcome(failed(request, str(error), error.failure))
        except DataError as error:
            return _Outcome(failed(request, str(error)))

    async def _generate(self, client: openai.AsyncOpenAI, request: Request) -> _Outcome:
        body = {
            "model": self.model,
            "messages": await asyncio.to_thread(messages_of, request, self._settings.image_format),
            "max_completion_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            **({"seed": request.seed} if request.temperature > 0 else {}),
            **({"logprobs": True} if self._settings.logprobs else {}),
            **({"stop": list(self._asked.stop)} if self._asked.stop else {}),
            **schema_fields(request.schema, self._settings.structured),
        }
        reply = await self._ask(lambda: self._complete(client, body))
        usage = self._untold
        try:
            usage = self._used(reply)
            return _Outcome(self._result(request, reply, usage), usage)
        except Withheld as error:
            return _Outcome(failed(request, self._shown(str(error)), "filtered"), usage)
        except Malformed as error:
            return _Outcome(self._failed(request, error), usage)

    def _result(self, request: Request, reply: dict[str, Any], usage: Usage | None) -> Result:
        answer = answer_of(reply)
        keys = [secret for secret in self._secrets if len(secret) >= _MIN_KEY]  # should a server put them there
        return answered(
            request,
            text=without_secrets(whole_characters(answer.text), keys).strip(),
            num_tokens=(usage.num_written if usage else 0) or answer.num_logprobs,
            finish_reason=answer.finish_reason,
            logprob_mean=answer.logprob_mean,
        )

    def _failed(self, request: AnyRequest, error: Malformed) -> Result:
        return failed(request, self._shown(f"the answer cannot be: {error}"), "unanswered")

    async def _score(self, client: openai.AsyncOpenAI, request: ScoreRequest) -> _Outcome:
        text = visibly_inert(request.text)
        num_tokens = await self._num_tokens(client, text)
        messages = await asyncio.to_thread(messages_of, request, self._settings.image_format)
        body = {
            "model": self.model,
            "messages": [*messages, {"role": "assistant", "content": text}],
            "max_completion_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "add_generation_prompt": False,
            "continue_final_message": True,
            **shown_beyond_protocol(self._asked),
        }
        reply = await self._ask(lambda: post(client, self._settings, "/chat/completions", body))
        usage = self._untold
        try:
            usage = self._used(reply)
            logprobs = prompt_logprobs_of(reply, num_tokens)
        except Malformed as error:
            return _Outcome(self._failed(request, error), usage)
        if logprobs is None:
            raise ModelError(f"{self._url} gives no log-probabilities of a prompt; {_SCORE_ELSEWHERE}")
        return _Outcome(Result(id=request.id, token_logprobs=logprobs), usage)

    def _used(self, reply: dict[str, Any]) -> Usage | None:
        """Tokens read and written; raises ModelError where a limit cannot be kept because nobody ever says."""
        usage = usage_of(reply)
        self._tells_usage = self._tells_usage or usage is not None
        if not self._tells_usage and self.budget.is_limited:
            raise ModelError(
                f"{self._url} does not say how many tokens a request takes (usage), so "
                "api.max_dollars and api.max_tokens_total cannot be kept; set both to 0, or limit it there"
            )
        return usage or self._untold

    @property
    def _untold(self) -> Usage | None:
        """What an answer counts for where nobody says it: under a limit, all that it may have cost."""
        return None if self.budget.is_limited else NOTHING

    async def _num_tokens(self, client: openai.AsyncOpenAI, text: str) -> int:
        """How many tokens the server makes of a text."""
        url = f"{self._settings.base_url.rstrip('/').removesuffix('/v1')}/tokenize"
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}

        async def send() -> Any:
            try:
                return await post(client, self._settings, url, body)
            except openai.APIStatusError as error:
                if error.status_code not in _NO_SUCH_PAGE or self.model in words_of(error):
                    raise
                raise ModelError(f"{self._url} counts no tokens ({error}); {_SCORE_ELSEWHERE}") from None

        reply = await self._ask(send)
        try:
            count = token_count_of(reply)
        except Malformed as error:
            raise _Unanswered(self._shown(f"the answer cannot be: {error}")) from None
        if not count:
            raise DataError("there is no text to score")
        return count

    async def _complete(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> Any:
        """Send a request with the fields that the server takes.

        Raises ModelError where it does not take what the settings ask for.
        """
        untaken: frozenset[str] = frozenset()
        while True:
            sent = self._fields.of(body, untaken)
            try:
                reply = await post(client, self._settings, "/chat/completions", sent)
            except openai.APIStatusError as error:
                if error.status_code not in _REFUSES_FIELDS:
                    raise
                try:
                    refused = self._fields.refused(sent, words_of(error), has_answered=self._num_answers > 0)
                except ModelError as problem:
                    raise ModelError(f"{self._url} {problem}: {self._shown(words_of(error))}") from None
                if not refused:
                    raise
                untaken |= refused
            else:
                self._fields.learn(sent, untaken, self._say_once)
                return reply

    async def _ask(self, send: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
        """Send until an answer comes.

        Raises _Refused for a request that cannot be answered, ModelError where no other is answered either.
        """
        clock = asyncio.get_running_loop()
        num_answers_before = 0
        for attempt in range(1, self._settings.retries + 2):
            await asyncio.sleep(self._rate.turn(clock.time()))
            reply, problem = await self._try(send)
            if not problem:
                self._num_answers += 1
                return dict(reply)
            if attempt <= self._settings.retries:
                num_answers_before = self._num_answers
                await asyncio.sleep(wait_s(attempt, random.random()))
        # the server is there, but not for this request
        if self._num_answers > (0 if self._fails_alone else num_answers_before):
            raise _Unanswered(f"no answer in {self._settings.retries + 1} tries: {problem}")
        raise ModelError(
            f"{self._url} gave no answer in {self._settings.retries + 1} tries: {problem}; "
            "run the same command again when it does"
        )

    async def _try(self, send: Callable[[], Awaitable[Any]]) -> tuple[Any, str]:
        """What came of sending once, and why it is no answer; raises for what another try does not help."""
        try:
            reply = await send()
        except openai.APIError as error:
            self._hold(asked_wait_s(error))
            return None, self._problem(error)
        except TimeoutError:
            problem = f"no whole answer in {self._settings.timeout_s:g} s (timeout_s)"
        except (ValueError, RecursionError) as error:  # a body that says it is JSON and is not
            problem = self._shown(f"it sent broken JSON: {error}")
        else:
            problem = self._shown(problem_of(reply))
        if problem:
            self._note(problem, problem)
        return reply if not problem else None, problem

    def _hold(self, asked_s: float | None) -> None:
        """Ask nothing for as long as a server wants it, within bounds."""
        if asked_s is None:
            return
        wait_s = min(asked_s, MAX_RETRY_AFTER_S)
        self._rate.hold(asyncio.get_running_loop().time() + wait_s)
        bound = "" if wait_s == asked_s else f"; tried again after {wait_s:g} s all the same"
        self._say_once("retry-after", f" asks to wait {asked_s:,.0f} s (Retry-After){bound}")

    def _problem(self, error: openai.APIError) -> str:
        """The error in one line, if it may pass; otherwise raises what it means."""
        text = self._shown(words_of(error))
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status in (401, 403):
                raise ModelError(key_refused(self._settings, self._key, status))
            if status == 404:
                raise ModelError(f"{self._url} does not serve {self.model}: {text}")
            if error.code == "insufficient_quota":
                raise BudgetError(f"{self._url} says that the key's quota is used up: {text}")
            if status < 500 and status not in _MAY_PASS:
                raise _Refused(text)
        self._note(type(error).__name__, text)
        return text

    def _shown(self, text: str) -> str:
        """What a server said in one line, masked before it is cut."""
        return masked(" ".join(text.split()), self._secrets)[:MAX_LINE]

    def _note(self, kind: str, text: str) -> None:
        """Tell once of a kind of problem that may pass."""
        self._say_once(kind, f": {text}; such requests are tried again")

    def _say_once(self, kind: str, text: str) -> None:
        """Tell once what is to be known of the server."""
        if kind not in self._noted:
            self._noted.add(kind)
            self.notes.append(f"{self._url}{text}")


def _num_new(request: AnyRequest) -> int:
    """Tokens that an answer takes at most: the server cannot score without generating one."""
    return 1 if isinstance(request, ScoreRequest) else request.max_new_tokens
