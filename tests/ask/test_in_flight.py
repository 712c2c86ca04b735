"""Every stage that asks a server keeps as many requests open as it may, also where a shard ends."""

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chat_server import Reply, Server, completion, serving
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.annotations import read_annotations
from vila2cli.shards.sample import Annotation
from vila2cli.stages.evaluate import evaluate
from vila2cli.stages.judge import judge
from vila2cli.stages.recaption import recaption
from vila2cli.stages.score_only import score_answers

NUM_SHARDS, PER_SHARD, WINDOW = 10, 4, 16
NUM = NUM_SHARDS * PER_SHARD


class Crowd:
    """Answers a request when `WINDOW` are open, or all that are left of `total`: one by one, as they came."""

    def __init__(self, total: int, text: str) -> None:
        self.total, self.text = total, text
        self.num_asked = self.num_answered = 0
        self.has_stalled = False
        self._changed = threading.Condition()

    def reply(self, body: dict[str, Any], number: int) -> Reply:
        with self._changed:
            self.num_asked += 1
            self._changed.notify_all()
            is_full = self._changed.wait_for(lambda: self._is_full(number) or self.has_stalled, timeout=30)
            self.has_stalled |= not is_full
            self.num_answered += 1
            self._changed.notify_all()
        return completion(self.text)

    def _is_full(self, number: int) -> bool:
        num_open = self.num_asked - self.num_answered
        return number == self.num_answered + 1 and num_open >= min(WINDOW, self.total - self.num_answered)


@pytest.fixture
def crowded() -> Iterator[Callable[[int, str], tuple[Crowd, Server]]]:
    with serving() as start:

        def serve(total: int, text: str) -> tuple[Crowd, Server]:
            crowd = Crowd(total, text)
            return crowd, start(crowd.reply)

        yield serve


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path) -> Path:
    """Pictures with a question, an answer and an alt-text that name their number."""
    for shard in range(NUM_SHARDS):
        with TarWriter(folder / f"{shard:06d}.tar") as tar:
            for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                meta: dict[str, Any] = {
                    "question": f"What is thing {number:03d}?",
                    "sample_id": f"{number:09d}",
                }
                meta |= {"answers": ["a star"], "capability": ["rec"]}
                members = {"png": picture(number), "txt": f"thing {number:03d}".encode()}
                tar.write_sample(f"{number:09d}", {**members, "json": json.dumps(meta).encode()})
    return folder


def write_task(folder: Path, answer_type: str, scorer: str) -> Path:
    write_shards(folder)
    (folder / "task.toml").write_text(f'name = "task"\nanswer_type = "{answer_type}"\nscorer = "{scorer}"\n')
    return folder


def write_captions(base: Path, folder: Path) -> Path:
    source = open_source([str(base)])
    layer = open_layer(folder, layer="recaption", source=source)
    for shard in source.shards:
        with layer.shard(shard) as out:
            for sample in out.samples():
                text = f"This is thing {int(sample.key):03d}, a star."
                out.annotate(sample, Annotation(layer="recaption", kind="caption", text=text))
    layer.finish()
    return folder


def check(crowd: Crowd, server: Server, layer: Path, per_sample: int = 1) -> None:
    """As many as may be were open all the time, sent in the order of the samples, and all are written."""
    assert not crowd.has_stalled
    assert server.most_open == WINDOW
    assert len(server.bodies) == crowd.total == NUM * per_sample
    asked = [int(re.search(r"thing (\d{3})", json.dumps(body))[1]) for body in server.bodies]  # type: ignore[index]
    assert all(abs(place // per_sample - number) <= WINDOW for place, number in enumerate(asked))
    assert [key for (_, key), _ in read_annotations(layer)] == [f"{number:09d}" for number in range(NUM)]


def api(server: Server, table: str = "api") -> list[str]:
    values = {"base_url": server.url, "retries": 0, "max_in_flight": WINDOW, "timeout_s": 120}
    return [f"{table}.{name}={value}" for name, value in values.items()]


def test_recaptions(crowded: Any, tmp_path: Path) -> None:
    crowd, server = crowded(NUM, "A picture of a large red star on the left, and of nothing else at all.")
    shards = write_shards(tmp_path / "base")
    sets = ["recaption.engine=api", "recaption.prompts=mine", 'prompts.mine="Describe {alt_text}."']
    recipe = load_recipe(None, [*sets, *api(server)])
    recaption(recipe, model="m", shards=[str(shards)], out=tmp_path / "out", round=None)
    check(crowd, server, tmp_path / "out")


def test_evaluates(crowded: Any, tmp_path: Path) -> None:
    crowd, server = crowded(NUM, "a star")
    recipe = load_recipe(None, ["eval.engine=api", "eval.num_bootstrap=20", *api(server)])
    task = write_task(tmp_path / "task", "short", "ocrbench")
    evaluate(recipe, model="m", tasks=[task], out=tmp_path / "out")
    check(crowd, server, tmp_path / "out/task")


def test_judges(crowded: Any, tmp_path: Path) -> None:
    crowd, server = crowded(2 * NUM, "A")
    layer = write_captions(write_shards(tmp_path / "base"), tmp_path / "r1")
    sets = ["judge.judges=gpt", "judges.gpt.model=m", *api(server, "judges.gpt.api")]
    judge(load_recipe(None, sets), layers=["alt-text", str(layer)], out=tmp_path / "out")
    check(crowd, server, tmp_path / "out/gpt", per_sample=2)


def test_marks(crowded: Any, tmp_path: Path) -> None:
    crowd, server = crowded(NUM, "0.5")
    task = write_task(tmp_path / "task", "open", "mmvet")
    answers = tmp_path / "answers.jsonl"
    rows = [{"question_id": f"{number:09d}", "text": f"a star, thing {number:03d}"} for number in range(NUM)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ["eval.judge=gpt", "judges.gpt.model=m", "eval.num_bootstrap=20", *api(server, "judges.gpt.api")]
    score_answers(load_recipe(None, sets), answers=[answers], tasks=[task], out=tmp_path / "out")
    check(crowd, server, tmp_path / "out/task")
