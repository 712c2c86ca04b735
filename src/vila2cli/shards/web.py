"""Web addresses, and the headers set up for fsspec: they go to the host that was typed, no further."""

from typing import Any
from urllib.parse import urljoin, urlsplit

from vila2cli.errors import DataError


def has_headers(url: str) -> bool:
    """Whether fsspec is set up to send something of the user's own with each request to any web address."""
    if not url.lower().startswith(("http://", "https://")):
        return False
    from fsspec.config import conf

    return any(conf.get(protocol) for protocol in ("http", "https"))


def options(url: str) -> dict[str, Any]:
    """What a file system of fsspec is opened with, beside what the user set up."""
    return {"get_client": _client} if has_headers(url) else {}


async def _client(**settings: Any) -> Any:
    """An aiohttp session that follows no redirect to another server."""
    import aiohttp

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_stay)
    return aiohttp.ClientSession(**settings, trace_configs=[trace])


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
