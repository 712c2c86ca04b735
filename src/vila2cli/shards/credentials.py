"""What may be shown and kept of places and messages: all but what gives access.

A place without its credentials is still told from every other one, and is the same place when its signature
is renewed. So that is what layers, manifests, cards and logs hold.
"""

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from urllib.parse import quote, unquote, urlsplit

MASK = "***"

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.I)
_WEB = ("http://", "https://", "ws://", "wss://")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>|`\\]+", re.I)
_HARMLESS = re.compile(
    r"versionid|generation|revision|raw|download|format|shard|part|split|file|name|page|index|id|v|path", re.I
)
"""Parameters of a query that say which file is meant; all others may be part of a signature."""
_SIGNATURE = re.compile(
    r"x-(?:amz|goog|oss|ms|cos|bz)-.*|(?:.*[-_])?(?:sig|signature|expires?|exp|policy|hmac|hash|nonce)|q-.*"
    r"|.*(?:token|secret|passw|auth|apikey|api[-_]key|accesskey|credential|key-pair|accessid).*|key|pwd|user|code"
    r"|s[eprtvs]|spr|sip|sdd|skoid|sktid|sk[tesv]|saoid|suoid|scid|ses|response-content-.*",
    re.I,
)
"""Parameters that give access, and are others when a signature is renewed: of AWS, Google, Azure, Alibaba."""
_HARMLESS_VALUE = re.compile(r"[\w./-]{0,64}", re.ASCII)
_SECRET_NAME = (
    r"[\w-]*(?:api-?_?key|access-?_?key|token|secret|passw(?:or)?d|passphrase|signature|credential|auth\b)"
    r"[\w-]*"
)
_IN_TEXT = (
    re.compile(
        r"(?i)(\b(?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|token|digest)\s+)?[^\s'\",;]+"
    ),
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"),
    re.compile(rf"(?i)(\b{_SECRET_NAME}['\"]?\s*[:=]\s*['\"]?)(?![\d.]+\b)[^\s'\"&,;]{{6,}}"),
    re.compile(r"()\b(?:sk-|hf_|gh[pousr]_|github_pat_|xox[abp]-|AKIA|ASIA|AIza|glpat-)[\w-]{12,}"),
    re.compile(r"(^|[\s'\"=(,])[\w.~+%-]+:[^\s/@:'\"]{4,}@(?=[\w.-]{2,})"),
    re.compile(r"()\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=.*", re.S)
_OPTION = re.compile(r"(--?[A-Za-z][\w-]*)(=?).*", re.S)
_MAX_SHORT_OPTIONS = 4
"""Letters of a word such as -fsSL; a longer one may hold a password, as curl's -uNAME:PASSWORD does."""
_PLAIN_PATH = re.compile(r"[\w./~{}@+,:-]*", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{8}")
_PROGRAM = re.compile(r"[\w./+-]{1,64}", re.ASCII)
_SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.I)
_MIN_SECRET = 8
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4")
_OPERATOR = re.compile(r"[|&;()<>]+|-|2>&1")
_STARTS_COMMAND = re.compile(r"[|&;(]+")


def without_credentials(url: str) -> str:
    """A URL without user name, password and signature, a web address without its fragment, too; of a chain
    (`a::b`) each of its parts.

    Of parameters that may be credentials or not, eight digits of their digest are left, after a `#`.
    """
    return "::".join(_clean(part) for part in url.split("::"))


def _clean(url: str) -> str:
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url
    rest = url[scheme.end() :]
    cut = next((i for i, letter in enumerate(rest) if letter in "/?#"), len(rest))
    host, path = rest[:cut], rest[cut:]
    user, at, host = host.rpartition("@")
    if at and not url.lower().startswith(_WEB) and ":" not in user:
        host = f"{user}@{host}"  # abfs://CONTAINER@ACCOUNT, sftp://NAME@HOST
    fragment = ""
    if url.lower().startswith(_WEB):  # in a store `#` is a letter of a key like any other
        path, _, fragment = path.partition("#")
    path, _, query = path.partition("?")
    parts = [part for part in query.split("&") if part]
    kept = [part for part in parts if _is_harmless(part)]
    hidden = [part for part in parts if part not in kept and not _SIGNATURE.fullmatch(part.partition("=")[0])]
    shown = scheme[0] + host + path + ("?" + "&".join(kept) if kept else "")
    if hidden:
        return f"{shown}#{_digest('&'.join(hidden))}"
    return f"{shown}#{fragment}" if _DIGEST.fullmatch(fragment) else shown


def _is_harmless(parameter: str) -> bool:
    name, equals, value = parameter.partition("=")
    return bool(equals and _HARMLESS.fullmatch(name) and _HARMLESS_VALUE.fullmatch(value))


def command_without_credentials(command: str) -> str:
    """A shell command as the programs, options, URLs and files that it names; every other word is masked.

    Which word is a password no one can tell. That two commands which look the same then are two is told by
    the digest at the end; it is of the command without the credentials that can be recognised, so that a
    renewed token makes no other command of it.
    """
    kept, mark, digest = command.rpartition(" #")
    if mark and _DIGEST.fullmatch(digest) and " ".join(_shown_words(kept)) == kept:
        return command  # it is recorded already
    shown = " ".join(_shown_words(command))
    return command if shown == " ".join(command.split()) else f"{shown} #{command_digest(command)}"


def command_digest(command: str) -> str:
    """Eight digits that tell a command from others, the same with a renewed signature or token."""
    return _digest(masked(command))


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _shown_words(command: str) -> Iterator[str]:
    is_program, after_option = True, False
    for word in shell_words(command):
        option = _OPTION.fullmatch(word)
        if _OPERATOR.fullmatch(word):
            yield word
            is_program, after_option = bool(_STARTS_COMMAND.fullmatch(word)) or is_program, False
        elif is_program and (assigned := _ASSIGNMENT.fullmatch(word)):
            yield f"{assigned[1]}={MASK}"
        elif is_program and _PROGRAM.fullmatch(word):
            yield word
            is_program = after_option = False
        elif option is not None:
            yield _shown_option(word, option[1], option[2])
            after_option = not option[2]
        else:
            yield _shown_word(word, after_option)
            is_program = after_option = False


def _shown_option(word: str, name: str, equals: str) -> str:
    if equals:
        return f"{name}={MASK}"
    is_plain = name == word and (word.startswith("--") or len(word) <= _MAX_SHORT_OPTIONS + 1)
    return word if is_plain else f"{word[:2]}{MASK}"


def _shown_word(word: str, after_option: bool) -> str:
    if _URL.fullmatch(word):
        return without_credentials(word)
    is_place = word.endswith(_TAR) or (word.startswith(("/", "./", "~/")) and not after_option)
    return word if is_place and _PLAIN_PATH.fullmatch(word) else MASK


def shell_words(command: str) -> list[str]:
    """The words and operators of a shell command, without quotes."""
    reader = shlex.shlex(command, posix=True, punctuation_chars=True)
    reader.whitespace_split, reader.commenters = True, ""
    try:
        return list(reader)
    except ValueError:  # quotes that do not match: the shell will say so
        return command.split()


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """A message without the secrets given, in any form they may come in, and without what looks like one."""
    text = without_secrets(text, secrets)
    text = _URL.sub(lambda match: without_credentials(match[0]), text)
    for pattern in _IN_TEXT:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """A text without the secrets given, as they are or as a URL, JSON or a header has them."""
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode("ascii").rstrip("=")


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """What the environment calls a key, a token, a secret or a password."""
    named = (value for name, value in environ.items() if _SECRET_VARIABLE.search(name))
    return [value for value in named if len(value) >= _MIN_SECRET]


def secrets_of(url: str) -> list[str]:
    """What must not be shown of a URL's user name and password: the password, and both as a header has them."""
    try:
        parts = urlsplit(url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        return []
    if not password:
        return [user] if user else []
    return [password, f"{user}:{password}", base64.b64encode(f"{user}:{password}".encode()).decode("ascii")]
