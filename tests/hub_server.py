"""A stand-in for the Hub as its client uploads to it: it takes every file, given the token."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import listening

REPOSITORY = "datasets/me/it"
TOKEN = "hf_stand_in"


@dataclass
class Hub:
    """What was created and committed: the repository's entry, and files by path."""

    url: str = ""
    created: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    with listening(type("Handler", (_Handler,), {"hub": hub})) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._say({"error": "Repository Not Found"}, 404)

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._say({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.hub.created = json.loads(body)
            self._say({"url": f"{self.hub.url}/{REPOSITORY}", "id": "me/it"})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self._say({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.hub.url}/{REPOSITORY}/commit/{'0' * 40}"
            self._say({"success": True, "commitOid": "0" * 40, "commitUrl": url})
        else:
            self._say({"errors": [], "warnings": []})

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _say(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
