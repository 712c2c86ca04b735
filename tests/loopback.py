"""A web server on loopback that serves a folder, and misbehaves on request."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Web:
    """What the server does: it breaks each answer off after `break_after` bytes as long as `num_breaks`
    last, answers `num_errors` requests with `status`, and with `ranges` False always sends whole files.
    With `redirect` it sends everybody on to that server."""

    folder: Path
    url: str = ""
    ranges: bool = True
    break_after: int = 0
    num_breaks: int = 0
    status: int = 503
    num_errors: int = 0
    etags: bool = True
    redirect: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    num_bytes_sent: int = 0


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on loopback as long as the context lasts; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve(folder: Path) -> Iterator[Web]:
    """Serve a folder; the server is a real one, what it does is read from the Web that is yielded."""
    web = Web(folder)
    with listening(type("Handler", (_Handler,), {"web": web})) as web.url:
        yield web


class _Handler(BaseHTTPRequestHandler):
    web: Web

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        web = self.web
        path = web.folder / self.path.partition("?")[0].lstrip("/")
        web.requests[self.command] += 1
        web.headers.append(dict(self.headers))
        if web.redirect:
            self._send(302, b"", {"Location": web.redirect + self.path}, with_body=False)
            return
        if web.num_errors:
            web.num_errors -= 1
            self.send_error(web.status)
        elif path.is_dir():
            self._send(200, _listing(path), {"Content-Type": "text/html"}, with_body)
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send_file(path.read_bytes(), with_body)

    def _send_file(self, data: bytes, with_body: bool) -> None:
        headers = {"ETag": f'"{hash(data):x}"'} if self.web.etags else {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not self.web.ranges or asked is None:
            self._send(200, data, headers, with_body)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self._send(206, data[start : end + 1], headers, with_body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        if self.web.num_breaks and len(data) > self.web.break_after:
            self.web.num_breaks -= 1
            data = data[: self.web.break_after]
            self.close_connection = True
        self.web.num_bytes_sent += len(data)
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _listing(folder: Path) -> bytes:
    links = (f'<a href="{path.name}{"/" * path.is_dir()}">{path.name}</a>' for path in sorted(folder.iterdir()))
    return f"<html><body>{' '.join(links)}</body></html>".encode()
