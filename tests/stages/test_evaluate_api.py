"""An eval through a server that speaks chat completions: it looks at the picture and says its colour."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chat_server import Reply, Server, completion, problem, serving
from vila2cli.engine import pace
from vila2cli.errors import BudgetError, ModelError, RejectBudgetError
from vila2cli.evaluation.predictions import read_predictions
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter
from vila2cli.stages.evaluate import evaluate

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}
NUM = 12


def colour_of(body: dict[str, Any]) -> str:
    """The colour in the last picture of a request."""
    urls = [
        part["image_url"]["url"] for turn in body["messages"] for part in parts(turn) if "image_url" in part
    ]
    pixel = Image.open(io.BytesIO(base64.b64decode(urls[-1].partition(",")[2]))).convert("RGB").getpixel((5, 5))
    return next(name for name, value in COLOURS.items() if value == pixel)


def parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    return turn["content"] if isinstance(turn["content"], list) else []


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts servers that name the colour of the last picture; see `answering` for the options."""
    monkeypatch.setattr(pace, "MAX_WAIT_S", 0.02)
    monkeypatch.setenv("VILA2_TEST_KEY", "secret-key")
    with serving() as serve:
        yield lambda **options: serve(answering(**options))


def answering(
    *, num_busy: int = 0, refused: str = "", down: str = "", dies_at: int = 0
) -> Callable[[dict[str, Any], int], Reply]:
    """Says what colour the square is, but for the first requests and those about `refused` or `down`.

    From request `dies_at` on it takes the key for a wrong one.
    """

    def reply(body: dict[str, Any], number: int) -> Reply:
        colour = colour_of(body)
        if number <= num_busy:
            return problem(429, "busy")
        if colour == refused:
            return problem(400, "not this one", "content_filter")
        if colour == down:
            return problem(503, "overloaded")
        if dies_at and number >= dies_at:
            return problem(401, "who are you?")
        return completion(f"The square is {colour}.", num_written=5)

    return reply


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
            data = square((16 if split == "test" else 40) + number, colour)
            answer = "blue" if number % 4 == 0 else colour
            tar.write_sample(f"{number:09d}", {"png": data, "json": json.dumps({"answers": [answer]}).encode()})
    return folder


def square(width: int, colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 16), COLOURS[colour]).save(stream, "PNG")
    return stream.getvalue()


def run(server: Server, task: Path, out: Path, *sets: str) -> dict[str, Any]:
    settings = (
        "eval.engine=api",
        "eval.num_bootstrap=20",
        f"api.base_url={server.url}",
        "api.model=m",
        "api.key_env=VILA2_TEST_KEY",
        "api.logprobs=false",
        "api.retries=3",
    )
    return evaluate(load_recipe(None, [*settings, *sets]), model="m", tasks=[task], out=out).to_json()


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
    server.reply, asked = answering(refused="blue"), len(server.bodies)
    again = run(server, task, tmp_path / "out", *patient)["tasks"]["colour"]
    assert [colour_of(body) for body in server.bodies[asked:]] == ["lime"] * 4
    assert (again["num_samples"], again["rejected"]) == (8, {"engine": 4})
    assert again["num_tokens"] == 2 * entry["num_tokens"]
    run(server, task, tmp_path / "out", *patient)
    assert len(server.bodies) == asked + 4


def test_an_eval_that_a_server_ends_keeps_the_answers_of_its_shard(start: Any, tmp_path: Path) -> None:
    server = start(dies_at=8)
    task = write(tmp_path / "task", "test")
    with pytest.raises(ModelError, match="refuses the key"):
        run(server, task, tmp_path / "out", "api.max_in_flight=1")
    assert not list((tmp_path / "out/colour").glob("*.tar.gz"))
    with (tmp_path / "out/answers.jsonl").open("a") as file:
        file.write('{"id": "torn off')
    server.reply, asked = answering(), len(server.bodies)
    entry = run(server, task, tmp_path / "out", "api.max_in_flight=1")["tasks"]["colour"]
    assert len(server.bodies) - asked == NUM - 7
    assert (entry["num_samples"], entry["num_tokens"]) == (NUM, 5 * NUM)
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(10 / NUM)
    run(server, task, tmp_path / "out")
    assert len(server.bodies) - asked == NUM - 7


def test_a_budget_below_a_shard_gets_on_and_pays_for_each_answer_once(start: Any, tmp_path: Path) -> None:
    server = start()
    task = write(tmp_path / "task", "test")
    limited = ("eval.max_new_tokens=16", "api.max_tokens_total=150", "api.max_in_flight=2")
    for _ in range(2):
        before = len(server.bodies)
        with pytest.raises(BudgetError):
            run(server, task, tmp_path / "out", *limited)
        assert before < len(server.bodies) < NUM
        assert not list((tmp_path / "out/colour").glob("*.tar.gz"))
    metrics = run(server, task, tmp_path / "out", *limited)
    assert len(server.bodies) == NUM
    assert metrics["tasks"]["colour"]["num_samples"] == NUM


def test_a_judge_marks_what_a_model_answers(start: Any, tmp_path: Path) -> None:
    server = start()
    task = write(tmp_path / "task", "test")
    text = (task / "task.toml").read_text()
    (task / "task.toml").write_text(
        text.replace('answer_type = "short"\nscorer = "ocrbench"\n', 'answer_type = "open"\n').replace(
            'question = "What colour is the square?"\n', ""
        )
    )
    with TarWriter(task / "000000.tar") as tar:
        for number, colour in enumerate(COLOURS):
            meta = {"question": "What colour?", "answers": [colour], "capability": ["rec"]}
            tar.write_sample(f"{number:09d}", {"png": square(16, colour), "json": json.dumps(meta).encode()})

    with serving() as serve:
        judge = serve(lambda body, number: completion("0.0" if "is lime" in str(body) else "1.0"))
        sets = ("eval.judge=other", "judges.other.model=j", f"judges.other.api.base_url={judge.url}")
        entry = run(server, task, tmp_path / "out", *sets)["tasks"]["colour"]
        again = run(server, task, tmp_path / "out", *sets)["tasks"]["colour"]
    assert entry["metrics"]["total"]["value"] == pytest.approx(200 / 3)
    assert (len(server.bodies), len(judge.bodies)) == (3, 3)
    assert again["metrics"] == entry["metrics"]
    assert entry["num_tokens"] == 15
    first = read_predictions(tmp_path / "out/colour").scored[1]
    assert (first.text, first.row["score"]) == ("The square is lime.", 0.0)


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


@pytest.mark.parametrize(
    ("text", "finish", "counts"),
    [
        ("<think>Is it blue? No.</think>{}", "stop", (0, 0, NUM)),
        ("Is it blue? No.\n</think>\n\n{}", "stop", (0, 0, NUM)),
        ("{}", "length", (0, NUM, 0)),
        ("<think>It may be {}", "length", (NUM, NUM, NUM)),
        (None, "stop", (NUM, 0, 0)),
        (None, "length", (NUM, NUM, 0)),
    ],
)
def test_what_is_answered_behind_reasoning_or_not_at_all(
    start: Any, tmp_path: Path, text: str | None, finish: str, counts: tuple[int, int, int]
) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        status, value = completion(finish=finish)
        assert isinstance(value, dict)
        said = None if text is None else text.format(colour_of(body))
        value["choices"][0]["message"] |= {"content": said, "reasoning_content": "Is it blue?"}
        return status, value

    server = start()
    server.reply = reply
    entry = run(server, write(tmp_path / "task", "test"), tmp_path / "out")["tasks"]["colour"]
    assert (entry["num_empty"], entry["num_cut"], entry["num_with_reasoning"]) == counts
    num_empty, num_cut, _ = counts
    assert entry["official"] is (num_empty + num_cut == 0)
    if not num_empty:
        texts = [one.text for one in read_predictions(tmp_path / "out/colour").scored]
        assert texts == [*COLOURS] * (NUM // 3)
        assert entry["metrics"]["accuracy"]["value"] == pytest.approx(10 / NUM)
