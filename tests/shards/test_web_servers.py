"""Web servers that answer by the rules in an unusual way, and such as break them."""

import contextlib
import gzip
import io
import shutil
import ssl
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.http import HTTPFileSystem

from loopback import listening
from vila2cli.errors import DataError
from vila2cli.shards import open_source, read_shard, streams, web

NUM_SAMPLES, IMAGE_BYTES = 6, 30_000


def shard(word: str = "caption") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for i in range(NUM_SAMPLES):
            for extension, data in (("jpg", bytes([i]) * IMAGE_BYTES), ("txt", f"{word} {i}".encode())):
                header = tarfile.TarInfo(f"{i}.{extension}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return out.getvalue()


TAR = shard()


class Asked(BaseHTTPRequestHandler):
    """One request; `answer` of the class says what is sent, of which this has the parts."""

    answer: Callable[["Asked"], None]
    asked: list[str]

    def do_GET(self) -> None:
        if self.path.endswith("layer.json"):
            self.say(404, b"")
            return
        self.asked.append(f"{self.command} {self.headers.get('Range', '')}".strip())
        type(self).answer(self)

    do_HEAD = do_GET

    @property
    def part(self) -> tuple[int, int] | None:
        """First byte that is asked for, and the one behind the last."""
        start, _, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        return (int(start), min(int(end) + 1, len(TAR))) if start else None

    def say(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(OSError):  # the client may have given up
                self.wfile.write(data)

    def send_part(self, data: bytes = TAR, **headers: str) -> None:
        """What was asked for."""
        if (part := self.part) is None:
            self.say(200, data, **headers)
        else:
            start, end = part
            place = f"bytes {start}-{end - 1}/{len(data)}"
            self.say(206, data[start:end], **{"Content_Range": place, **headers})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several blocks in a file; sessions of fsspec are opened with the settings of the test."""
    monkeypatch.setattr(streams, "RETRY_WAITS_S", (0.01,) * 5)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(streams, "_BUFFER_BYTES", 10_000)
    HTTPFileSystem.clear_instance_cache()
    yield
    HTTPFileSystem.clear_instance_cache()


def captions(url: str) -> list[str | None]:
    """The captions of a shard, whose pictures are those that were written."""
    (shard,) = open_source([url]).shards
    samples = list(read_shard(shard, on_reject=pytest.fail, on_note=pytest.fail))
    assert [sample.images[0].data for sample in samples] == [
        bytes([i]) * IMAGE_BYTES for i in range(len(samples))
    ]
    return [sample.text for sample in samples]


def serving(answer: Callable[[Asked], None]) -> Any:
    return listening(type("Handler", (Asked,), {"answer": answer, "asked": []}))


WHOLE = [f"caption {i}" for i in range(NUM_SAMPLES)]


def from_the_start(request: Asked) -> None:
    """A part of the right length, which begins where the file does."""
    if (part := request.part) is None:
        request.send_part()
    else:
        length = part[1] - part[0]
        request.say(206, TAR[:length], Content_Range=f"bytes 0-{length - 1}/{len(TAR)}")


def in_many_parts(request: Asked) -> None:
    """One part, as the only one of several."""
    if (part := request.part) is None:
        request.send_part()
        return
    place = f"Content-Range: bytes {part[0]}-{part[1] - 1}/{len(TAR)}"
    body = b"--B\r\n" + place.encode() + b"\r\n\r\n" + TAR[slice(*part)] + b"\r\n--B--\r\n"
    request.say(206, body, Content_Type="multipart/byteranges; boundary=B")


def size_of_nothing(request: Asked) -> None:
    request.say(200, b"") if request.command == "HEAD" else request.send_part()


def packed_if_wanted(request: Asked) -> None:
    """Parts of the packed file, as some servers do where gzip is welcome."""
    packed = gzip.compress(TAR)
    if "gzip" not in request.headers.get("Accept-Encoding", ""):
        request.send_part()
    elif (part := request.part) is None:
        request.say(200, packed, Content_Encoding="gzip")
    else:
        place = f"bytes {part[0]}-{part[1] - 1}/{len(packed)}"
        request.say(206, packed[part[0] : part[1]], Content_Encoding="gzip", Content_Range=place)


def packed_always(request: Asked) -> None:
    request.say(200, gzip.compress(TAR), Content_Encoding="gzip")


def short_parts(request: Asked) -> None:
    if (part := request.part) is None:
        request.send_part()
    else:
        start, end = part[0], min(part[1], part[0] + 9_999)
        request.say(206, TAR[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(TAR)}")


def no_head(request: Asked) -> None:
    request.say(405, b"") if request.command == "HEAD" else request.send_part()


def tag_now_and_then(request: Asked) -> None:
    headers = {"ETag": '"x"'} if len(request.asked) % 2 else {}
    request.send_part(**headers)


@pytest.mark.parametrize(
    "answer",
    [
        *(from_the_start, in_many_parts, size_of_nothing, packed_if_wanted, packed_always, short_parts),
        *(no_head, tag_now_and_then),
    ],
)
def test_whatever_the_server_makes_of_ranges_the_file_is_read(answer: Callable[[Asked], None]) -> None:
    with serving(answer) as url:
        assert captions(f"{url}/0.tar") == WHOLE


def test_blocks_of_two_files_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is replaced while it is read, by one of the same size."""
    other = shard("CAPTION")

    def answer(request: Asked) -> None:
        is_new = len(request.asked) > 4
        request.send_part(other if is_new else TAR, ETag=f'"{is_new}"')

    with serving(answer) as url, pytest.raises(DataError, match=r"0\.tar was changed while it was read"):
        captions(f"{url}/0.tar")


def test_a_wait_that_the_server_asks_for_is_kept() -> None:
    """Five more tries last 0.05 seconds otherwise."""
    begun = time.monotonic()

    def answer(request: Asked) -> None:
        if time.monotonic() < begun + 1:
            request.say(429, b"", Retry_After="1")
        else:
            request.send_part()

    with serving(answer) as url:
        assert captions(f"{url}/0.tar") == WHOLE


def test_a_silence_is_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "STALL_S", 0.2)
    silent = []

    def answer(request: Asked) -> None:
        if request.part and request.part[0] and len(silent) < 2:
            silent.append(request.part)
            request.send_response(206)
            request.send_header("Content-Length", "50000")
            request.end_headers()
            request.wfile.write(TAR[request.part[0] : request.part[0] + 700])
            time.sleep(0.6)
        else:
            request.send_part()

    with serving(answer) as url:
        assert captions(f"{url}/0.tar") == WHOLE
    assert len(silent) == 2


def test_a_server_that_says_nothing_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "STALL_S", 0.05)
    monkeypatch.setattr(streams, "RETRY_WAITS_S", (0.01,))

    def answer(request: Asked) -> None:
        if request.part:
            time.sleep(0.3)
        request.send_part()

    with (
        serving(answer) as url,
        pytest.raises(DataError, match=r"0\.tar: it sent nothing for 0\.05 s, 2 times$"),
    ):
        captions(f"{url}/0.tar")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://[::1/0.tar", r"http://\[::1/0\.tar is no address: Invalid IPv6 URL"),
        ("http://127.0.0.1:99999/0.tar", r"Port out of range 0-65535$"),
        ("{here}/circle.tar", r"circle\.tar: it redirects in a circle$"),
        (
            "{here}/closed.tar",
            r"closed\.tar: the server answers 403 Forbidden; it wants credentials, or others",
        ),
    ],
)
def test_what_no_further_try_changes_is_said_at_once(url: str, message: str) -> None:
    def answer(request: Asked) -> None:
        if "circle" in request.path:
            request.say(302, b"", Location=request.path)
        else:
            request.say(403, b"")

    with serving(answer) as here, pytest.raises(DataError, match=message) as error:
        captions(url.format(here=here))
    assert "times" not in str(error.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_an_unknown_authority_is_said_at_once(tmp_path: Path) -> None:
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out own.pem"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")

    class Secure(Asked):
        answer, asked = Asked.send_part, []

        def setup(self) -> None:
            self.request = context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
            super().setup()

        def handle(self) -> None:
            with contextlib.suppress(ssl.SSLError):  # the client does not trust it
                super().handle()

        def finish(self) -> None:
            super().finish()
            self.request.close()

    with listening(Secure) as url, pytest.raises(DataError, match="SSL_CERT_FILE") as error:
        captions(f"{url.replace('http', 'https')}/0.tar")
    assert "times" not in str(error.value)
    assert "\n" not in str(error.value)
