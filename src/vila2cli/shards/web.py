"""Web addresses as fsspec reads them: what servers are asked and how long they are waited for.

The headers set up for fsspec go to the host that was typed, no further.
"""

import email.utils
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from vila2cli.errors import DataError

CONNECT_S = 30.0
STALL_S = 60.0
"""Seconds without a byte after which a server has stopped sending; a file may take any time."""
MAX_RETRY_AFTER_S = 60.0
"""The longest wait that a server may ask for with Retry-After; it is asked again then, and may ask for more."""

_RANGE = re.compile(r"bytes[= ](\d+)-")


def has_headers(url: str) -> bool:
    """Whether fsspec is set up to send something of the user's own with each request to any web address."""
    if not _is_web(url):
        return False
    from fsspec.config import conf

    return any(conf.get(protocol) for protocol in ("http", "https"))


def options(url: str) -> dict[str, Any]:
    """What a file system of fsspec is opened with, beside what the user set up."""
    if not _is_web(url):
        return {}
    return {"get_client": _staying_client if has_headers(url) else _client}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait that a server asks for, in seconds or as a date; None where it asks for none or nonsense."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(text)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return seconds if 0 < seconds < float("inf") else None


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


async def _client(*, stays: bool = False, **settings: Any) -> Any:
    """An aiohttp session for large files: no limit to the whole of an answer, which a model reads at its pace,
    but to a silence in it; and nothing packed by the server, as the parts of that could not be unpacked."""
    import aiohttp

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(_check_part)
    if stays:
        trace.on_request_redirect.append(_stay)
    defaults = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S)}
    headers = {"Accept-Encoding": "identity", **(settings.pop("headers", None) or {})}
    return aiohttp.ClientSession(**{**defaults, **settings}, headers=headers, trace_configs=[trace])


async def _staying_client(**settings: Any) -> Any:
    """One that follows no redirect to another server."""
    return await _client(stays=True, **settings)


async def _check_part(session: Any, context: Any, end: Any) -> None:
    """Raise ValueError for another part of a file than was asked for, as for a server that gives none."""
    asked = _RANGE.match(end.headers.get("Range", ""))
    if asked is None or end.response.status != 206:
        return
    given = _RANGE.match(end.response.headers.get("Content-Range", f"bytes {asked[1]}-"))
    if given is None or given[1] != asked[1] or "multipart" in end.response.headers.get("Content-Type", ""):
        end.response.close()
        raise ValueError("the server sends another part of the file than it was asked for")


async def _stay(session: Any, context: Any, redirect: Any) -> None:
    here = str(redirect.url)
    target = urljoin(here, redirect.response.headers.get("Location", ""))
    if _server(target) != _server(here):
        raise DataError(
            f"it redirects to {urlsplit(target).hostname}, and fsspec is set up to send headers of yours with "
            "each request, which are not meant for that server; name the address that it redirects to"
        )


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
