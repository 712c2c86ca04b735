"""Do evaluation and judging keep a server as busy as recaptioning does, also where shards end?

A server that takes `--latency-s` for an answer, whoever asks, counts what is open at a time. Pictures in
`--shards` shards of `--per-shard` are recaptioned, evaluated and judged through it, each with as many requests
and at most `--in-flight` of them at a time. Prints seconds, the ratio to recaption's, and the most
that was open.

    python benchmarks/in_flight.py
"""

import argparse
import asyncio
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import running
from PIL import Image
from running import machine, write_results

CAPTION = "A picture of a large red star on the left, and of nothing else at all."
LARGEST_RATIO = 1.1


class Server:
    """Answers chat completions after a while, in a thread of its own, and counts those that are open."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.num_open = self.most_open = self.num_asked = 0
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        loop = asyncio.new_event_loop()
        listener = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256))
        self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            body = json.loads(await reader.readexactly(int(length)))
            data = json.dumps(await self._answer(body["model"])).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()

    async def _answer(self, model: str) -> dict[str, Any]:
        self.num_asked += 1
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        await asyncio.sleep(self.latency_s)
        self.num_open -= 1
        text = "A" if model == "judge" else CAPTION
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 20, "completion_tokens": 16, "total_tokens": 36}
        return {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}


def write_pictures(folder: Path, num_shards: int, per_shard: int) -> None:
    """Shards of pictures with a question and an alt-text, which are a task and pretraining data at once."""
    from vila2cli.shards import TarWriter

    for shard in range(num_shards):
        with TarWriter(folder / f"{shard:06d}.tar") as tar:
            for number in range(shard * per_shard, (shard + 1) * per_shard):
                stream = io.BytesIO()
                Image.new("RGB", (224, 224), (number % 256, number // 256, 90)).save(stream, "PNG")
                meta = json.dumps({"question": "What is it?", "answers": ["a star"]}).encode()
                members = {"png": stream.getvalue(), "txt": b"a star", "json": meta}
                tar.write_sample(f"{number:09d}", members)
    (folder / "task.toml").write_text('name = "task"\nanswer_type = "short"\nscorer = "ocrbench"\n')


def run_stage(stage: str, server: Server, data: Path, work: Path, options: argparse.Namespace) -> None:
    """Run a stage through the server; judging compares the captions that recaption wrote with the alt-texts."""
    from vila2cli.settings.recipe import load_recipe
    from vila2cli.stages.evaluate import evaluate
    from vila2cli.stages.judge import judge
    from vila2cli.stages.recaption import recaption

    tables = ("api", "judges.other.api")
    sets = [f"{table}.max_in_flight={options.in_flight}" for table in tables]
    sets += [f"{table}.base_url={server.url}" for table in tables]
    sets += [f"{name}.engine=api" for name in ("recaption", "eval")]
    sets += [f"{name}.num_bootstrap=20" for name in ("eval", "judge")]
    sets += ["judge.judges=other", "judges.other.model=judge"]
    # Two requests a pair of captions, one in each order.
    sets += [f"judge.num_samples={options.shards * options.per_shard // 2}"]
    recipe, out = load_recipe(None, sets), work / stage
    if stage == "recaption":
        recaption(recipe, shards=[str(data)], model="m", out=out, round=None)
    elif stage == "eval":
        evaluate(recipe, model="m", tasks=[data], out=out)
    else:
        judge(recipe, layers=["alt-text", str(work / "recaption")], shards=[str(data)], out=out)


def main() -> None:
    parser = running.parser_of(__doc__, "in_flight")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--per-shard", type=int, default=16, help="pictures in a shard")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency-s", type=float, default=0.2, help="seconds that an answer takes")
    options = running.parse(parser, shards=4, per_shard=4, in_flight=8, latency_s=0.01)
    rows: dict[str, dict[str, Any]] = {}
    server = Server(options.latency_s)
    with tempfile.TemporaryDirectory() as text, server.running():
        work = Path(text)
        write_pictures(work / "data", options.shards, options.per_shard)
        run_stage("recaption", server, work / "data", work / "first", options)  # what is imported on the way
        for stage in ("recaption", "eval", "judge"):
            server.most_open = server.num_asked = 0
            start_s = time.perf_counter()
            run_stage(stage, server, work / "data", work, options)
            seconds = time.perf_counter() - start_s
            rows[stage] = {
                "seconds": round(seconds, 2),
                "ratio": round(seconds / rows.get("recaption", {"seconds": seconds})["seconds"], 3),
                "most_open": server.most_open,
                "requests": server.num_asked,
            }
            print(stage, rows[stage], flush=True)
    is_broken = any(row["requests"] != rows["recaption"]["requests"] for row in rows.values())
    if not running.is_quick():
        settings = {name: value for name, value in vars(options).items() if name not in ("out", "quick")}
        write_results(options.out, {"machine": machine(), "settings": settings, "stages": rows})
        is_broken |= any(row["most_open"] < options.in_flight for row in rows.values())
        is_broken |= max(row["ratio"] for row in rows.values()) > LARGEST_RATIO
    sys.exit(1 if is_broken else 0)


if __name__ == "__main__":
    main()
