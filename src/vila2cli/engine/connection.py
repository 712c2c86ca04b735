"""The way to a chat server: which key goes there, where a redirect may lead, how long an answer may take."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import openai

from vila2cli.engine.keys import is_openai
from vila2cli.errors import ModelError
from vila2cli.settings import ApiSettings
from vila2cli.shards.places import redacted
from vila2cli.shards.web import retry_after_s

NO_KEY = "none"
_MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}


def connect(settings: ApiSettings, key: str) -> openai.AsyncOpenAI:
    """A client for the server of [api].

    The openai package sends what OPENAI_ORG_ID, OPENAI_PROJECT_ID, OPENAI_ADMIN_KEY and OPENAI_CUSTOM_HEADERS
    hold to whatever server it is pointed at; they are meant for OpenAI's own.
    """
    headers: dict[str, Any] = {}
    if not is_openai(settings.base_url):
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        names = [line.partition(":")[0].strip() for line in lines if ":" in line]
        headers = {name: openai.Omit() for name in (*names, "OpenAI-Organization", "OpenAI-Project")}
    headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    client = openai.AsyncOpenAI(
        base_url=settings.base_url,
        api_key=key or NO_KEY,
        timeout=settings.timeout_s,
        max_retries=0,
        default_headers={**headers, "Authorization": f"Bearer {key or NO_KEY}"},
    )
    client.admin_api_key = None
    return client


async def post(client: openai.AsyncOpenAI, settings: ApiSettings, url: str, body: Mapping[str, Any]) -> Any:
    """Send JSON and return what comes, as JSON or text; the whole of it within `timeout_s`.

    Raises TimeoutError, openai.APIError and ValueError for a body that says it is JSON and is not, and
    ModelError for a redirect to another server, to which neither pictures nor key go.
    """
    async with asyncio.timeout(settings.timeout_s):
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                return await client.post(
                    url, body=dict(body), cast_to=object, options={"follow_redirects": False}
                )
            except openai.APIStatusError as error:
                if not 300 <= error.status_code < 400:
                    raise
                url = _redirected(settings, str(error.request.url), error)
    raise ModelError(f"{redacted(settings.base_url)} redirects in a circle; set base_url to where it answers")


def _redirected(settings: ApiSettings, url: str, error: openai.APIStatusError) -> str:
    """Where a redirect leads; raises ModelError where that is another server, or no request is kept."""
    target = urljoin(url, error.response.headers.get("location", ""))
    here = redacted(settings.base_url)
    if _server(target) != _server(url):
        raise ModelError(
            f"{here} redirects to another server, {redacted(target)}, where neither the pictures nor the key "
            "are sent; if that is the right one, set base_url to it"
        )
    if error.status_code not in (307, 308) or target == url:
        raise ModelError(f"{here} redirects ({error.status_code}) to {redacted(target)}; set base_url to it")
    return target


def _server(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None


def key_refused(settings: ApiSettings, key: str, status: int) -> str:
    """What is said where a server refuses the key, or that none was sent."""
    url = redacted(settings.base_url)
    if settings.key_env or key:
        return (
            f"{url} refuses the key ({status}): put one into the environment variable "
            f"{settings.key_env or 'OPENAI_API_KEY'} (api.key_env)"
        )
    return (
        f"{url} refuses the key ({status}): none was sent; name the environment variable that holds it in "
        "api.key_env, of a judge in judges.NAME.api.key_env (OPENAI_API_KEY is for OpenAI alone)"
    )


def words_of(error: openai.APIError) -> str:
    """What a server said, too, where it said it in a form of its own, as FastAPI does under "detail".

    The openai package takes the words of the protocol's `{"error": {"message": ...}}` alone.
    """
    text = str(error) or type(error).__name__
    if not isinstance(error, openai.APIStatusError) or error.message != f"Error code: {error.status_code}":
        return text
    return f"{text} - {error.response.text.strip()}"


def asked_wait_s(error: openai.APIError) -> float | None:
    """The wait that a server asks for; None where it asks for none or nonsense."""
    return retry_after_s(error.response.headers if isinstance(error, openai.APIStatusError) else {})


async def close(client: openai.AsyncOpenAI) -> None:
    """Give up what is still asked, then close the connections."""
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:  # ending one may begin another
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    await asyncio.get_running_loop().shutdown_default_executor()
