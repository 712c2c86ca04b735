"""An eval through a server that speaks chat completions: it looks at the picture and says its colour."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.engine import pace
from vila2cli.errors import RejectBudgetError
from vila2cli.recipe import load_recipe
from vila2cli.score.compare import read_predictions
from vila2cli.shards import TarWriter
from vila2cli.stages.evaluate import evaluate

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}
NUM = 12


class ColourServer(ThreadingHTTPServer):
    """Names the colour of the last picture it is sent; refuses the first requests and those about `refused`.

    Requests about `down` fail for a reason that may pass.
    """

    request_queue_size = 64

    def __init__(self, *, num_busy: int = 0, refused: str = "", down: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.block_on_close = False
        self.num_busy, self.refused, self.down = num_busy, refused, down
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: ColourServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.add(self.headers["Authorization"])
            number = len(self.server.bodies)
        colour = colour_of(body)
        if number <= self.server.num_busy:
            status, value = 429, {"error": {"message": "busy"}}
        elif colour == self.server.refused:
            status, value = 400, {"error": {"message": "not this one", "code": "content_filter"}}
        elif colour == self.server.down:
            status, value = 503, {"error": {"message": "overloaded"}}
        else:
            status, value = 200, completion(f"The square is {colour}.")
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def colour_of(body: dict[str, Any]) -> str:
    """The colour in the last picture of a request."""
    urls = [
        part["image_url"]["url"] for turn in body["messages"] for part in parts(turn) if "image_url" in part
    ]
    pixel = Image.open(io.BytesIO(base64.b64decode(urls[-1].partition(",")[2]))).convert("RGB").getpixel((5, 5))
    return next(name for name, value in COLOURS.items() if value == pixel)


def parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    return turn["content"] if isinstance(turn["content"], list) else []


def completion(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return {**head, "choices": [choice], "usage": usage}


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(pace, "MAX_WAIT_S", 0.02)
    monkeypatch.setenv("VILA2_TEST_KEY", "secret-key")
    running: list[tuple[ColourServer, threading.Thread]] = []

    def begin(**options: Any) -> ColourServer:
        server = ColourServer(**options)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield begin
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def write(folder: Path, split: str) -> Path:
    """Twelve squares in turn red, lime and blue, of which every fourth is called blue by its answer."""
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(
        f'name = "colour"\nsplit = "{split}"\nanswer_type = "short"\nscorer = "ocrbench"\n'
        'question = "What colour is the square?"\nprompt = "{question}\\nAnswer shortly."\n'
    )
    with TarWriter(folder / "000000.tar") as tar:
        for number in range(NUM):
            colour = list(COLOURS)[number % 3]
            stream = io.BytesIO()
            size = (16 + number, 16) if split == "test" else (40 + number, 16)
            Image.new("RGB", size, COLOURS[colour]).save(stream, "PNG")
            answer = "blue" if number % 4 == 0 else colour
            tar.write_sample(
                f"{number:09d}", {"png": stream.getvalue(), "json": json.dumps({"answers": [answer]}).encode()}
            )
    return folder


def run(server: ColourServer, task: Path, out: Path, *sets: str) -> dict[str, Any]:
    settings = (
        "eval.engine=api",
        "eval.num_bootstrap=20",
        f"api.base_url={server.url}",
        "api.model=m",
        "api.key_env=VILA2_TEST_KEY",
        "api.logprobs=false",
        "api.retries=3",
    )
    return evaluate(load_recipe(None, [*settings, *sets]), model="m", tasks=[task], out=out)


def test_a_server_is_asked_each_question_once_with_its_picture(start: Any, tmp_path: Path) -> None:
    server = start(num_busy=2)
    task = write(tmp_path / "task", "test")
    metrics = run(server, task, tmp_path / "out")
    assert metrics["tasks"]["colour"]["metrics"]["accuracy"]["value"] == pytest.approx(10 / NUM)
    assert len(server.bodies) == NUM + 2
    assert server.keys == {"Bearer secret-key"}
    assert all(body["temperature"] == 0 and body["max_completion_tokens"] == 96 for body in server.bodies)
    texts = {part["text"] for body in server.bodies for part in parts(body["messages"][0]) if "text" in part}
    assert texts == {"What colour is the square?\nAnswer shortly."}
    assert (metrics["protocol"]["engine"], metrics["protocol"]["image_size"]) == ("api", None)
    first = read_predictions(tmp_path / "out/colour").scored[1]
    assert (first.text, first.row["score"]) == ("The square is lime.", 1.0)
    assert "secret-key" not in "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json*"))
    assert run(server, task, tmp_path / "out")["tasks"] == metrics["tasks"]
    assert len(server.bodies) == NUM + 2


def test_what_a_server_refuses_is_a_reject_and_no_wrong_answer(start: Any, tmp_path: Path) -> None:
    server = start(refused="lime")
    task = write(tmp_path / "task", "test")
    with pytest.raises(RejectBudgetError, match=r"4 of 12 samples .*engine 4"):
        run(server, task, tmp_path / "out")
    entry = run(server, task, tmp_path / "out", "eval.max_reject_rate=0.5")["tasks"]["colour"]
    assert (entry["num_samples"], entry["official"]) == (8, False)
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(7 / 8)


def test_what_a_server_left_unanswered_is_asked_again_and_nothing_else(start: Any, tmp_path: Path) -> None:
    server = start(down="lime", refused="blue")
    task = write(tmp_path / "task", "test")
    patient = ("api.retries=0", "api.max_in_flight=1", "eval.max_reject_rate=0.9")
    entry = run(server, task, tmp_path / "out", *patient)["tasks"]["colour"]
    assert entry["rejected"] == {"engine": 4, "no-answer": 4}
    server.down, asked = "", len(server.bodies)
    again = run(server, task, tmp_path / "out", *patient)["tasks"]["colour"]
    assert [colour_of(body) for body in server.bodies[asked:]] == ["lime"] * 4
    assert (again["num_samples"], again["rejected"]) == (8, {"engine": 4})
    assert again["num_tokens"] == 2 * entry["num_tokens"]
    run(server, task, tmp_path / "out", *patient)
    assert len(server.bodies) == asked + 4


def test_shots_are_sent_as_turns_with_their_own_pictures(start: Any, tmp_path: Path) -> None:
    server = start()
    write(tmp_path / "train/task", "train")
    run(
        server,
        write(tmp_path / "task", "test"),
        tmp_path / "out",
        "eval.num_shots=4",
        f"eval.shots_dir={tmp_path / 'train'}",
    )
    assert len(server.bodies) == NUM
    for body in server.bodies:
        assert [turn["role"] for turn in body["messages"]] == ["user", "assistant"] * 4 + ["user"]
        assert [sum("image_url" in part for part in parts(turn)) for turn in body["messages"]] == [1, 0] * 4 + [
            1
        ]
