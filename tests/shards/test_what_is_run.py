"""No command runs, and no host is asked, because of a file's name or of what a file says."""

import contextlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from stream_data import local, read, write_layer

from loopback import Web, serve
from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.shards import expand, open_source
from vila2cli.shards.places import Command, Remote, found_locally, from_record, is_pipe, is_remote, typed
from vila2cli.shards.streams import open_stream

MARK = "mark"


@pytest.fixture
def here(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the shards in `data/` and a layer over them in `r1/`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for tar in (data / "data").glob("*.tar"):
        (tmp_path / "data" / tar.name).write_bytes(tar.read_bytes())
    write_layer(tmp_path / "r1", open_source([str(tmp_path / "data")]))
    return tmp_path


def command(here: Path) -> str:
    """What leaves a mark where it is run, and gives a shard."""
    return f"pipe:touch {here}/{MARK}; cat {here}/data/000000.tar"


def edited(here: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = here / "r1" / "layer.json"
    value = json.loads(path.read_text())
    for base in value["base"]:
        change(base)
    path.write_text(json.dumps(value))


COMMANDS = (
    ["shards", "stats", "r1"],
    ["shards", "show", "r1"],
    ["shards", "check", "r1"],
    ["shards", "check", "r1", "--fast"],
    ["shards", "merge", "r1", "--out", "merged"],
    ["lineage", "r1"],
    ["report", "run"],
    ["report", "--card", "run"],
    ["judge", "--layers", "r1", "r2", "--out", "judged", "--set", "judge.judges=oracle"],
    ["judge", "--layers", "r1", "r2", "--shards", "data", "--out", "judged", "--set", "judge.judges=oracle"],
    ["pretrain", "--shards", "r1", "--out", "checkpoint"],
    ["plan", "--set", "data.pretrain=r1"],
)

CHANGES: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "url": lambda base, run: {"url": run},
    "url and no path": lambda base, run: {"url": run, "path": run, "relative": run},
    "path": lambda base, run: {"url": "gone/000000.tar", "relative": "gone/000000.tar", "path": run},
    "relative": lambda base, run: {"url": "gone/000000.tar", "relative": run, "path": "gone"},
    "upper case": lambda base, run: {"url": run.replace("pipe:", "PIPE:"), "path": run, "relative": run},
    "file URL": lambda base, run: {
        "url": f"file://{run}",
        "path": f"file://{run}",
        "relative": f"file://{run}",
    },
    "layer": lambda base, run: {"layers": [{"name": "below", "url": run}]},
    "path of a layer": lambda base, run: {"layers": [{"name": "below", "url": "gone.tar", "path": run}]},
    "relative of a layer": lambda base, run: {
        "layers": [{"name": "below", "url": "gone.tar", "path": "gone.tar", "relative": run}]
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("argv", COMMANDS, ids=[" ".join(argv[:2]) for argv in COMMANDS])
def test_a_layer_makes_no_command_run(
    here: Path, argv: list[str], change: Callable[..., dict[str, Any]]
) -> None:
    write_layer(here / "r2", open_source([str(here / "data")]))
    edited(here, lambda base: base.update(change(base, command(here))))
    if argv[0] == "report":
        (here / "run" / "round1").mkdir(parents=True)
        (here / "r1").rename(here / "run" / "round1" / "recaption")
    expected = (0,) if argv[0] in ("report", "lineage", "plan") else (4, 5)
    assert main(argv) in expected
    assert not (here / MARK).exists()
    if argv[:2] == ["shards", "stats"]:
        with pytest.raises(DataError) as caught:
            open_source(["r1"])
        assert "\n" not in str(caught.value)


def test_what_was_asked_of_a_command_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(here, lambda base: base.update({"url": command(here)}))
    assert main(["shards", "stats", "r1"]) == 4
    said = capsys.readouterr().err
    assert "which a layer cannot make run: give it among the shards, too, or with --base" in said
    assert not (here / MARK).exists()


def named_like_a_command(here: Path) -> list[Path]:
    """Shards and folders whose names begin as a command does, or a URL."""
    data = (here / "data" / "000000.tar").read_bytes()
    found = [
        here / "odd" / f"pipe:touch {MARK}; cat 0.tar",
        here / "odd" / "simplecache::memory:x.tar",
        here / "odd" / f"pipe:touch {MARK}; true" / "1.tar",
    ]
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (here / "odd" / f"pipe:touch {MARK}; ls 2.tar").symlink_to(here / "data" / "000000.tar")
    return found


@pytest.mark.parametrize(
    "spec",
    [
        ".",
        "*",
        "*.tar",
        "./*.tar",
        "pipe*",
        "[p]ipe*",
        "{pipe,x}*.tar",
        "file://*.tar",
        "*/*.tar",
        "**/*.tar",
        "{a,*}.tar",
    ],
)
def test_a_name_that_is_found_is_no_command(here: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named_like_a_command(here)
    monkeypatch.chdir(here / "odd")
    if spec.startswith(("pipe", "[p]")):
        spec = f"./{spec}"
    with contextlib.suppress(DataError):  # of what matches nothing
        source = open_source([spec])
        assert not any(is_remote(shard.url) for shard in source.shards)
        assert read(source)
    assert not (here / "odd" / MARK).exists()
    assert not list(here.rglob(MARK))


def test_shards_with_odd_names_are_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = named_like_a_command(here)
    monkeypatch.chdir(here / "odd")
    expected = local(here)[:4]
    for spec in (".", "*.tar"):
        assert len(read(open_source([spec]))) == 12
    for path in paths:
        assert read(open_source([path])) == expected
        assert read(open_source([f"./{path.relative_to(here / 'odd')}"])) == expected
    assert expand([Path(paths[0].name)]) == [str(paths[0])]
    write_layer(Path("pipe:layer"), open_source([paths[0]]))
    assert len(read(open_source([Path("pipe:layer")]))) == 4
    assert not list(here.rglob(MARK))


def test_a_word_that_the_shell_took_from_a_folder_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [path.name for path in named_like_a_command(here)[:2]]
    monkeypatch.chdir(here / "odd")
    for name in (*names, f"pipe:touch {MARK}; true/1.tar"):
        with pytest.raises(
            DataError, match=r"is the name of a file here as well as a (command|URL); write \./"
        ):
            open_source([name])
    assert not list(here.rglob(MARK))


@pytest.mark.parametrize(
    "text", ["pipe:touch mark", "PIPE:touch mark", "s3://b/0.tar", "filecache::file:///x.tar"]
)
def test_text_that_nobody_typed_is_a_local_path(text: str) -> None:
    assert not is_remote(text)
    assert not is_pipe(found_locally(Path(text)))
    assert not is_pipe(str(typed(text)))
    with pytest.raises(DataError, match="No such file"):
        open_stream(text)
    with pytest.raises(DataError, match="No such file"):
        open_stream(found_locally(Path(text)))


@pytest.mark.parametrize(
    "url",
    [
        "ssh://me@host/0.tar",
        "sftp://host/0.tar",
        "ftp://host/0.tar",
        "smb://host/0.tar",
        "webhdfs://host/0.tar",
        "github://org:repo@main/0.tar",
        "git:///x:0.tar",
        "simplecache::s3://b/0.tar",
        "filecache::https://x.org/0.tar",
        "reference::https://x.org/0.tar",
        "file::/etc/passwd",
        "FILE:///etc/passwd",
        "zip://0.tar::https://x.org/0.zip",
    ],
)
def test_a_layer_sends_nobody_to_hosts_that_are_logged_in_to(here: Path, url: str) -> None:
    edited(here, lambda base: base.update({"url": url}))
    with pytest.raises(DataError, match="is named by a layer and not read on its word"):
        open_source(["r1"])
    with pytest.raises(DataError, match="not read on its word"):
        from_record(url)
    assert type(typed(url)) is Remote
    (here / "r1" / "layer.json").unlink()


def test_a_command_is_typed_again_with_base(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipes = f"pipe:cat {shlex.quote(str(here))}/data/{{000000..000002}}.tar"
    write_layer(here / "r2", open_source([pipes]))
    expected = read(open_source([pipes, "r2"]))
    assert [len(sample.annotations) for sample in expected] == [1] * 12
    assert read(open_source(["r2"], base=pipes)) == expected
    assert main(["shards", "stats", "r2", "--base", pipes]) == 0
    assert main(["shards", "stats", "r2"]) == 4
    with pytest.raises(DataError, match=r"not among the commands of --base: none gives 000000\.tar"):
        open_source(["r2"], base="pipe:cat x/000009.tar")
    capsys.readouterr()


def test_only_what_is_typed_is_a_command() -> None:
    assert type(typed("pipe:cat 0.tar")) is Command
    assert type(typed("https://x.org/0.tar")) is Remote
    assert type(typed("data/0.tar")) is str
    assert type(from_record("pipe:cat 0.tar")) is str
    assert type(from_record("https://x.org/0.tar")) is Remote


def test_a_remote_layer_names_nothing_here(web: Web, data: Path) -> None:
    layer = write_layer(data / "remote" / "recaption", open_source([str(data / "data")]))
    path = layer / "layer.json"
    value = json.loads(path.read_text())
    for base in value["base"]:
        base.update({"relative": f"pipe:touch {data}/{MARK}", "path": f"pipe:touch {data}/{MARK}"})
    path.write_text(json.dumps(value))
    with pytest.raises(DataError):
        read(open_source([f"{web.url}/remote/recaption"]))
    assert not (data / MARK).exists()


def test_headers_of_the_user_go_to_the_host_that_was_typed(
    web: Web, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{web.url}/data/000000.tar"
    layer = write_layer(tmp_path / "r1", open_source([url]))
    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"X-Api-Key": "of-the-user"}})
    assert len(read(open_source([url]))) == 4
    assert web.headers[-1]["X-Api-Key"] == "of-the-user"
    assert [len(sample.annotations) for sample in read(open_source([url, str(layer)]))] == [1] * 4
    with pytest.raises(DataError, match="is named by a layer and not read on its word"):
        open_source([str(layer)])
    with serve(data) as first:
        web.headers.clear()
        first.redirect = web.url
        with pytest.raises(
            DataError, match=r"it redirects to 127\.0\.0\.1, and fsspec is set up to send headers"
        ):
            read(open_source([f"{first.url}/data/000000.tar"]))
        assert web.headers == []
        first.redirect = first.url.replace("127.0.0.1", "localhost")
        with pytest.raises(DataError, match="it redirects to localhost"):
            read(open_source([f"{first.url}/data/000000.tar"]))


def test_a_redirect_is_followed_where_nothing_of_the_user_is_sent(web: Web, data: Path) -> None:
    with serve(data) as first:
        first.redirect = web.url
        assert len(read(open_source([f"{first.url}/data/000000.tar"]))) == 4
