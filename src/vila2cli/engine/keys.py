"""Which key goes to which server: a key is sent to no host but the one that it was meant for."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from vila2cli.settings import ApiSettings

OPENAI_HOST, OPENAI_KEY = "api.openai.com", "OPENAI_API_KEY"


def api_key(settings: ApiSettings, environ: Mapping[str, str] = os.environ) -> str:
    """The key for the server of [api], from the environment variable that it names; empty without one.

    Where it names none, OPENAI_API_KEY goes to OpenAI's own server, and nothing to any other.
    """
    return environ.get(settings.key_env or (OPENAI_KEY if is_openai(settings.base_url) else ""), "")


def is_openai(url: str) -> bool:
    """Whether a URL is of OpenAI's own server, over TLS."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" and (host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}"))
