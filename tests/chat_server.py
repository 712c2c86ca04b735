"""An HTTP server on loopback that speaks chat completions, and answers, fails and dawdles as it is told."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vila2cli.engine import Engine, EngineSettings, open_engine
from vila2cli.settings import ApiSettings

Reply = tuple[int, dict[str, Any] | str]


def completion(
    text: str = "a red star", *, num_read: int = 20, num_written: int = 3, finish: str = "stop"
) -> Reply:
    """An answer as a chat completion server gives it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {
        "prompt_tokens": num_read,
        "completion_tokens": num_written,
        "total_tokens": num_read + num_written,
    }
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return 200, {**head, "choices": [choice], "usage": usage}


def connect(url: str, *, key: str = "secret-key", **settings: Any) -> Engine:
    """The API engine for a server."""
    api = ApiSettings(base_url=url, **{"model": "m", "retries": 3, **settings})
    return open_engine("api", "", EngineSettings(api=api, api_key=key))


def problem(status: int, message: str = "no", code: str | None = None) -> Reply:
    return status, {"error": {"message": message, "code": code}}


@dataclass
class Server:
    """Answers with `reply(body, number)`, counting requests from 1; keeps what it was sent."""

    reply: Callable[[dict[str, Any], int], Reply]
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    times_s: list[float] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0
    url: str = ""


@contextlib.contextmanager
def serving() -> Iterator[Callable[..., Server]]:
    """A function that starts servers, all of which stop in the end."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(reply: Callable[[dict[str, Any], int], Reply], **headers: str) -> Server:
        server = Server(reply, headers)
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.bodies.append(body)
                    server.keys.add(self.headers["Authorization"])
                    server.times_s.append(time.monotonic())
                    server.num_open += 1
                    server.most_open = max(server.most_open, server.num_open)
                    number = len(server.bodies)
                status, value = server.reply(body, number)
                data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                with lock:
                    server.num_open -= 1
                self.send_response(status)
                always = {"Content-Length": str(len(data)), "Content-Type": "application/json"}
                for name, text in (always | server.headers).items():
                    self.send_header(name, text)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client may have given up
                    self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            request_queue_size = 128  # with the usual 5, connections wait for seconds

        http = Listener(("127.0.0.1", 0), Handler)
        http.block_on_close = False
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        running.append((http, thread))
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        return server

    try:
        yield start
    finally:
        for http, thread in running:
            http.shutdown()
            http.server_close()
            thread.join()
