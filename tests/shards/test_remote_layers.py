"""URLs and commands on the command line, and layers over remote shards."""

import hashlib
import json
from pathlib import Path

import pytest
from stream_data import local, read, write_layer

from loopback import Web, serve
from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.shards import open_layer, open_source
from vila2cli.shards.places import typed
from vila2cli.shards.streams import MAX_SMALL_BYTES, digest_of, fingerprint, open_stream

# On the command line


def test_shard_tools_take_urls(web: Web, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = f"{web.url}/data/{{000000..000002}}.tar"
    assert main(["shards", "check", urls]) == 0
    assert main(["shards", "stats", urls]) == 0
    out = capsys.readouterr().out
    assert "3 shards, 12 samples\nno problems" in out
    assert f"shards: 3 ({sum(p.stat().st_size for p in (data / 'data').glob('*.tar')):,} bytes" in out
    assert main(["shards", "show", f"{web.url}/data/000009.tar"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["shards merge 0.tar", "recaption --model m --shards 0.tar"])
def test_output_is_local(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--out", "s3://bucket/r1"]) == 2
    assert "--out s3://bucket/r1: output is written to local files" in capsys.readouterr().err


def test_notes_are_lines_of_their_own(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (data / "data" / "000000.tar").read_bytes().rstrip(b"\0")
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(whole + bytes(-len(whole) % 512))
    assert main(["shards", "show", str(tmp_path), "-n", "9"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": the")[0] for line in lines] == [f"vila2: {tmp_path}/{n}.tar" for n in (0, 1)]


def test_remote_shards_are_merged_and_a_damaged_one_does_not_stop_the_others(
    web: Web, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("000000.tar", "000001.tar", "000002.tar"):
        (own / name).write_bytes((data / "data" / name).read_bytes()[: 4000 if name == "000001.tar" else None])
    out = tmp_path / "merged"
    with serve(own) as other:
        command = ["shards", "merge", f"{other.url}/{{000000..000002}}.tar", "--captions", "original"]
        assert main([*command, "--out", str(out)]) == 4
        assert "000001.tar is damaged or cut off" in capsys.readouterr().err
        assert sorted(path.stem for path in out.glob("*.tar")) == ["000000", "000002"]
        kept = (out / "000000.tar").stat()
        (own / "000001.tar").write_bytes((data / "data" / "000001.tar").read_bytes())
        assert main([*command, "--out", str(out)]) == 0
    assert (out / "000000.tar").stat() == kept
    assert [sample.key for sample in read(open_source([str(out)]))] == [sample.key for sample in local(data)]


# Layers over remote bases


def test_a_layer_over_remote_shards(web: Web, data: Path, tmp_path: Path) -> None:
    urls = f"{web.url}/data/{{000000..000002}}.tar"
    layer = write_layer(tmp_path / "r1", open_source([urls]))
    assert json.loads((layer / "layer.json").read_text())["base"][1]["url"] == f"{web.url}/data/000001.tar"
    web.requests.clear()
    source = open_source([str(layer)])
    assert web.requests.total() == 0
    captions = {sample.key: sample.annotations[0].text for sample in read(source)}
    assert captions == {sample.key: f"recaption {sample.key}" for sample in local(data)}
    upper = write_layer(tmp_path / "r2", source, "ocr")
    assert [len(sample.annotations) for sample in read(open_source([str(upper)]))] == [2] * 12
    moved = open_source([str(upper)], base=str(data / "data"))
    assert read(moved) == read(open_source([str(upper)]))
    digests = moved.digest()
    for name in ("000000", "000001", "000002"):
        assert digests[name] == hashlib.sha256((data / "data" / f"{name}.tar").read_bytes()).hexdigest()
    assert len(digests) == 9


def test_a_layer_that_is_itself_remote(web: Web, data: Path) -> None:
    write_layer(data / "r1" / "recaption", open_source([str(data / "data")]))
    expected = read(open_source([str(data / "r1" / "recaption")]))
    for spec in (
        f"{web.url}/r1/recaption",
        f"{web.url}/r1/recaption/layer.json",
        f"{web.url}/r1/recaption/{{000000..000002}}.tar.gz",
    ):
        source = open_source([spec])
        assert source.shards[0].url == f"{web.url}/data/000000.tar"
        assert read(source) == expected
    elsewhere = open_source([f"{web.url}/r1/recaption"], base=str(data / "data"))
    assert elsewhere.shards[0].url == str(data / "data" / "000000.tar")
    back = open_source([str(data / "r1" / "recaption")], base=f"{web.url}/data")
    assert back.shards[0].url == f"{web.url}/data/000000.tar"


def test_a_layer_cannot_make_a_command_run(data: Path, tmp_path: Path) -> None:
    pipes = f"pipe:cat {data}/data/{{000000..000002}}.tar"
    layer = write_layer(tmp_path / "r1", open_source([pipes]))
    with pytest.raises(DataError, match="which a layer cannot make run: give it among the shards"):
        open_source([str(layer)])
    expected = read(open_source([str(layer)], base=str(data / "data")))
    assert [len(sample.annotations) for sample in expected] == [1] * 12
    assert read(open_source([pipes, str(layer)])) == read(open_source([str(layer), pipes])) == expected


def test_going_on_over_a_remote_shard_that_has_changed(web: Web, data: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("000000.tar", "000001.tar"):
        (own / name).write_bytes((data / "data" / name).read_bytes())
    with serve(own) as other:
        source = open_source([f"{other.url}/{{000000..000001}}.tar"])
        layer = write_layer(tmp_path / "r1", source)
        (layer / "000001.stats.json").unlink()
        (own / "000001.tar").write_bytes((data / "data" / "000002.tar").read_bytes())
        write_layer(layer, source)  # what is not done may change
        other.requests.clear()
        assert open_layer(layer, layer="recaption", source=source).missing(source.shards) == []
        assert other.requests == {"HEAD": 2}
        (own / "000000.tar").write_bytes((data / "data" / "000002.tar").read_bytes())
        with pytest.raises(DataError, match=r"000000\.tar has changed since .* was made from it"):
            open_layer(layer, layer="recaption", source=source).missing(source.shards)


def test_fingerprints(web: Web, data: Path) -> None:
    path, url = data / "data" / "000000.tar", typed(f"{web.url}/data/000000.tar")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    assert (
        digest_of(path).sha256 == digest_of(url).sha256 == digest_of(typed(f"pipe:cat {path}")).sha256 == sha256
    )
    assert fingerprint(path).num_bytes == fingerprint(url).num_bytes == size
    assert fingerprint(path).agrees(digest_of(path)) is True
    assert fingerprint(path).agrees(fingerprint(url)) is None
    assert digest_of(path).agrees(digest_of(url)) is True
    assert fingerprint(path).agrees(fingerprint(data / "data" / "000001.tar")) is not True


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(b"x" * 1000)
    with open_stream(path, digests=True) as stream:
        stream.read(10)
        path.write_bytes(b"x" * 2000)
        with pytest.raises(DataError, match="was changed while it was read"):
            stream.fingerprint()


def test_a_description_without_end_is_not_read_to_it(web: Web, data: Path) -> None:
    (data / "endless").mkdir()
    with (data / "endless" / "layer.json").open("wb") as file:
        file.truncate(MAX_SMALL_BYTES + 1_000_000)
    with pytest.raises(DataError, match=r"endless/layer\.json: it is larger than 64,000,000 bytes"):
        open_source([f"{web.url}/endless/000000.tar"])
    (data / "endless" / "layer.json").unlink()
