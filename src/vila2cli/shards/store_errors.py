"""What the errors of stores say, each of its own kind: why, and whether and when trying again may help."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from vila2cli.errors import Vila2Error
from vila2cli.shards import web
from vila2cli.shards.credentials import masked

Kind = Literal["absent", "final", "passing"]

_FINAL = ImportError | NotImplementedError | IsADirectoryError | ValueError | Vila2Error
_FINAL_NAMES = frozenset(
    ("OfflineModeIsEnabled", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError")
)
"""Errors of packages that are not imported for this; trying again changes nothing about them."""
_NO_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"


def explained(error: Exception) -> tuple[str, Kind]:
    """What a store's error says, and whether the file is not there (for us), or trying again may help."""
    if any(isinstance(one, TimeoutError) for one in _chain(error)):
        return f"it sent nothing for {web.STALL_S:g} s", "passing"
    for one in _chain(error):
        if (status := _status(one)) is not None:
            may_pass = status >= 500 or status in (408, 412, 425, 429)  # 412: another file since; see `_Remote`
            kind: Kind = "passing" if may_pass else "absent" if status in (403, 404, 410) else "final"
            hint = "; it wants credentials, or others than it is given" if status in (401, 403) else ""
            return masked(f"the server answers {status} {_message(one)}".rstrip()) + hint, kind
    # fsspec's web file system calls whatever went wrong a missing file.
    hides = isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception)
    cause = error.__cause__ if hides else error
    if isinstance(cause, FileNotFoundError):
        return "there is no such file", "absent"
    if isinstance(cause, PermissionError):
        return one_line(cause), "absent"
    if type(cause).__name__ == "TooManyRedirects":
        return "it redirects in a circle", "final"
    if _NO_CERTIFICATE in str(cause):
        how = "name the file of your own authorities in SSL_CERT_FILE (for S3 in AWS_CA_BUNDLE)"
        return f"nobody known here vouches for its certificate; {how}", "final"
    if type(cause).__name__ == "NoCredentialsError":
        return f"{one_line(cause)}; to read a public bucket without, set FSSPEC_S3_ANON=true", "final"
    is_final = isinstance(cause, _FINAL) or any(kind.__name__ in _FINAL_NAMES for kind in type(cause).__mro__)
    return one_line(cause), "final" if is_final else "passing"


def asked_wait_s(error: Exception) -> float:
    """The seconds that a store asks to wait before the next try, 0 where it asks for none."""
    asked = (web.retry_after_s(_headers(one)) for one in _chain(error))
    return min(next(filter(None, asked), 0.0), web.MAX_RETRY_AFTER_S)


def one_line(error: BaseException | None) -> str:
    """An error's text in one line and without credentials, its name where it has none."""
    return masked(" ".join(str(error).split())) or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> int | None:
    """The status of a server's answer, as aiohttp, httpx and botocore have it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", getattr(response, "status_code", None))
    return status if isinstance(status, int) and status >= 300 else None


def _message(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        about = response.get("Error", {})
        code, message = (str(about.get(name, "")) for name in ("Code", "Message"))
        return message if code.isdigit() else f"{code}: {message}".strip(": ")  # HEAD has no more to say
    return str(getattr(error, "message", getattr(response, "reason_phrase", "")))


def _headers(error: BaseException) -> Mapping[str, Any]:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return dict(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
    headers = getattr(error, "headers", getattr(response, "headers", None))
    return headers if isinstance(headers, Mapping) else {}
