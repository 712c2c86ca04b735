"""An HTTP server on loopback that writes what it is told to, byte by byte, whether or not it is HTTP."""

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO


@dataclass
class Raw:
    """`write(file, number)` answers one request, counted from 1; the connection is closed after it."""

    write: Callable[[IO[bytes], int], None]
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""


def head(status: str = "200 OK", **headers: str | int) -> bytes:
    """The first lines of an answer; `Content_Type` is sent as Content-Type."""
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def json_answer(body: bytes, status: str = "200 OK", **headers: str | int) -> bytes:
    """A whole answer of JSON."""
    return head(status, Content_Type="application/json", Content_Length=len(body), **headers) + body


@contextlib.contextmanager
def serving_raw() -> Iterator[Callable[[Callable[[IO[bytes], int], None]], Raw]]:
    """A function that starts servers, all of which stop in the end."""
    running: list[tuple[socketserver.ThreadingTCPServer, threading.Thread]] = []

    def start(write: Callable[[IO[bytes], int], None]) -> Raw:
        raw = Raw(write)
        lock = threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                lines = list(iter(lambda: self.rfile.readline().decode("latin-1").strip(), ""))
                if not lines:
                    return
                length = next(
                    (line.split(":")[1] for line in lines if line.lower().startswith("content-length:")), "0"
                )
                body = self.rfile.read(int(length))
                with lock:
                    raw.heads.append("\n".join(lines))
                    raw.bodies.append(body)
                    number = len(raw.heads)
                with contextlib.suppress(OSError):  # the client may have given up
                    raw.write(self.wfile, number)

        class Listener(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True
            request_queue_size = 128

        server = Listener(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        raw.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return raw

    try:
        yield start
    finally:
        for server, thread in running:
            server.shutdown()
            server.server_close()
            thread.join()
