"""A server that repeats its key does not get it into any file of a stage, nor onto the terminal."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chat_server import Reply, Server, completion, problem, serving
from vila2cli.cli.app import main
from vila2cli.engine import pace
from vila2cli.shards import TarWriter

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    with serving() as serve:
        yield serve


@pytest.fixture(autouse=True)
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VILA2_TEST_KEY", KEY)
    monkeypatch.setattr(pace, "MAX_WAIT_S", 0.02)
    with TarWriter(tmp_path / "data" / "000000.tar") as tar:
        for number in range(12):
            stream = io.BytesIO()
            Image.effect_noise((64, 64), 10.0 + number).convert("RGB").save(stream, "JPEG")
            tar.write_sample(f"{number}", {"jpg": stream.getvalue(), "txt": b"alt"})


def echo(body: dict[str, Any], number: int) -> Reply:
    """The key in captions, refusals, errors around the cut, and what may pass."""
    said = "x" * (20 * number) + KEY + "y" * 300
    replies: list[Reply] = [
        completion(f"A photo whose key is {KEY}. It is grey."),
        problem(400, said),
        (200, said),
        completion("no", finish=KEY),
        problem(500, said),
        (200, {"error": {"message": said, "code": KEY}}),
    ]
    return replies[number % len(replies)]


def written(folder: Path) -> str:
    return "".join(path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file())


def test_recaption_keeps_the_key_to_itself(
    start: Callable[..., Server], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start(echo)
    url = server.url.replace("http://", f"http://me:pass-{KEY[-8:]}-word@")
    sets = ["recaption.engine=api", "recaption.prompts=long-v1", "recaption.max_reject_rate=1"]
    sets += [f"api.base_url={url}", "api.key_env=VILA2_TEST_KEY", "api.retries=1", "api.logprobs=false"]
    argv = ["recaption", "--model", "m", "--shards", "data", "--out", "round1/recaption", "--round", "1"]
    code = main([*argv, *(word for text in sets for word in ("--set", text))])
    assert code == 0
    out = tmp_path / "round1" / "recaption"
    assert (out / "000000.tar.gz").is_file()
    said = capfd.readouterr()
    for text in (written(out), said.out, said.err):
        assert KEY not in text
        assert f"pass-{KEY[-8:]}-word" not in text
    assert "***" in written(out)
    assert main(["report", "."]) == 0
    assert KEY not in written(tmp_path)


def test_judges_keep_the_key_to_themselves(
    start: Callable[..., Server], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start(lambda body, number: completion("A photo. It is grey."))
    sets = ["recaption.engine=api", f"api.base_url={server.url}", "api.logprobs=false"]
    argv = ["recaption", "--model", "m", "--shards", "data", "--out", "r1", "--round", "1"]
    assert main([*argv, *(word for text in sets for word in ("--set", text))]) == 0
    server = start(echo)
    sets = [
        "judge.judges=gpt",
        "judges.gpt.model=m",
        f"judges.gpt.api.base_url={server.url}",
        "judges.gpt.api.key_env=VILA2_TEST_KEY",
        "judges.gpt.api.retries=1",
        "judge.max_new_tokens=64",
    ]
    argv = ["judge", "--layers", "alt-text", "r1", "--out", "judged"]
    main([*argv, *(word for text in sets for word in ("--set", text))])
    said = capfd.readouterr()
    assert server.keys == {f"Bearer {KEY}"}
    assert (tmp_path / "judged").is_dir()
    for text in (written(tmp_path / "judged"), said.out, said.err):
        assert KEY not in text


def test_openais_key_goes_to_no_other_host(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = start(lambda body, number: problem(401, "who are you?"))
    sets = ["recaption.engine=api", f"api.base_url={server.url}"]
    argv = ["recaption", "--model", "m", "--shards", "data", "--out", "r1", "--round", "1"]
    assert main([*argv, *(word for text in sets for word in ("--set", text))]) == 5
    assert KEY not in json.dumps([*server.keys])
    said = capfd.readouterr().err
    assert (
        "refuses the key (401): none was sent; name the environment variable that holds it in api.key_env"
        in said
    )
