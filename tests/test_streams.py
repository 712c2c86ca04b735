"""Remote shards, over a real web server on loopback, a store in memory, and commands."""

import gzip
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from loopback import Web, serve
from vila2cli import streams
from vila2cli.cli import main
from vila2cli.errors import DataError
from vila2cli.places import file_name, folder, folders, join, tar_stem
from vila2cli.sample import Annotation, Sample
from vila2cli.shards import Source, TarWriter, expand, open_layer, open_source, read_shard
from vila2cli.streams import digest_of, fingerprint, open_stream

NUM_SHARDS, NUM_EACH = 3, 4


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), shade + 1).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("web")
    for number in range(NUM_SHARDS):
        with TarWriter(root / "data" / f"{number:06}.tar") as tar:
            for i in range(NUM_EACH):
                tar.write_sample(f"{number}-{i}", {"jpg": jpeg(16 * number + i), "txt": b"alt"})
    return root


@pytest.fixture
def web(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(streams, "RETRY_WAITS_S", (0.01,) * 5)
    with serve(data) as server:
        yield server


def read(source: Source) -> list[Sample]:
    return [sample for shard in source.shards for sample in read_shard(shard, on_reject=pytest.fail)]


def local(data: Path) -> list[Sample]:
    return read(open_source([str(data / "data")]))


def write_layer(out: Path, source: Source, layer: str = "recaption") -> Path:
    writer = open_layer(out, layer=layer, source=source)
    for shard in writer.missing(source.shards):
        with writer.shard(shard) as shard_out:
            for sample in shard_out.samples():
                caption = Annotation(layer=layer, kind="caption", text=f"{layer} {sample.key}")
                shard_out.annotate(sample, caption)
    writer.finish()
    return out


# Specs


@pytest.mark.parametrize(
    ("place", "stem", "above", "names"),
    [
        ("s3://bucket/a/000.tar", "000", "s3://bucket/a", ("bucket", "a")),
        ("https://x.org/a/000.tar?sig=a/b", "000", "https://x.org/a?sig=a/b", ("a",)),
        ("simplecache::s3://bucket/000.tgz", "000", "simplecache::s3://bucket", ("bucket",)),
        ("hf://datasets/org/name@main/data/000.tar.gz", "000", "hf://datasets/org/name@main/data", None),
        ("pipe:aws s3 cp 's3://b/with space/000.tar' -", "000", "", ()),
        ("pipe:curl -s https://x.org/000.tar?sig=1", "000", "", ()),
        ("/a/b/000.tar", "000", "/a/b", ("a", "b")),
        ("https://x.org/download?id=3", "", "https://x.org?id=3", ()),
    ],
)
def test_names_of_places(place: str, stem: str, above: str, names: tuple[str, ...] | None) -> None:
    assert tar_stem(place) == stem
    assert folder(place) == above
    if names is not None:
        assert folders(place) == names
    if above and stem:
        assert join(above, file_name(place)) == place


def test_a_command_without_a_tar_has_a_name_of_its_own() -> None:
    one, other = tar_stem("pipe:make-shard 1"), tar_stem("pipe:make-shard 2")
    assert one != other
    assert one.startswith("pipe-")


def test_urls_are_expanded_and_tars_not_asked_for(web: Web) -> None:
    urls = [f"{web.url}/data/{number:06}.tar" for number in range(NUM_SHARDS)]
    assert expand([f"{web.url}/data/{{000000..000002}}.tar"]) == urls
    assert web.requests.total() == 0
    for spec in ("data/*.tar", "data/", "data"):
        assert expand([f"{web.url}/{spec}"]) == urls


def test_only_the_ranges_of_a_command_are_expanded() -> None:
    assert expand(["pipe:cat {08..10}.tar"]) == [f"pipe:cat {number}.tar" for number in ("08", "09", "10")]
    assert len(expand(["pipe:cat {0..2}/{00..03}.tar"])) == 12
    for command in (
        r"pipe:ls | awk '{print $1,$2}' | sed 's/\.gz//'",
        "pipe:cat {a,b}.tar",
        "pipe:echo ${X} }",
    ):
        assert expand([command]) == [command]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{url}/none/*.tar", "no shards match|there is no|404"),
        ("{url}/none", "cannot read .*none: there is no such file|404"),
        ("s4://bucket/000.tar", "cannot read s4://bucket/.*: Protocol not known: s4"),
        ("{url}/data/{{0", "braces"),
    ],
)
def test_what_cannot_be_found_is_one_line(web: Web, spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(open_source([spec.format(url=web.url)]))
    assert "\n" not in str(error.value)


def test_a_store_without_its_package_is_named() -> None:
    if any(name in sys.modules for name in ("s3fs", "gcsfs")):
        pytest.skip("the packages are there")
    with pytest.raises(DataError, match=r"cannot read s3://bucket/.*: Install s3fs"):
        read(open_source(["s3://bucket/000.tar"]))


# Reading


@pytest.mark.parametrize("ranges", [True, False])
def test_shards_are_read_over_the_web(web: Web, data: Path, ranges: bool) -> None:
    web.ranges = ranges
    source = open_source([f"{web.url}/data/{{000000..000002}}.tar"])
    assert [shard.name for shard in source.shards] == ["000000", "000001", "000002"]
    assert read(source) == local(data)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("break_after", [0, 700, 5000])
def test_a_connection_that_breaks_off_is_taken_up_again(
    web: Web, data: Path, ranges: bool, break_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(streams, "_BUFFER_BYTES", 1024)
    web.ranges, web.break_after, web.num_breaks = ranges, break_after, 3
    assert read(open_source([f"{web.url}/data/000001.tar"])) == local(data)[NUM_EACH : 2 * NUM_EACH]
    assert web.num_breaks == 0 or break_after == 5000  # no answer is so long where ranges are


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_always_breaks_off_is_given_up(web: Web, ranges: bool) -> None:
    web.ranges, web.break_after, web.num_breaks = ranges, 700, 10**6
    with pytest.raises(DataError, match=r"cannot read http.*/000001\.tar: .*, 6 times$") as error:
        read(open_source([f"{web.url}/data/000001.tar"]))
    assert "\n" not in str(error.value)
    assert web.requests["GET"] < 20


def test_errors_of_the_server_are_waited_out_and_missing_files_are_not(web: Web, data: Path) -> None:
    web.num_errors = 4
    assert read(open_source([f"{web.url}/data/000000.tar"])) == local(data)[:NUM_EACH]
    web.num_errors = 10**6
    with pytest.raises(DataError, match=r"the server answers 503 .*, 6 times"):
        read(open_source([f"{web.url}/data/000000.tar"]))
    web.num_errors = 0
    web.requests.clear()
    with pytest.raises(DataError, match=r"cannot read http.*/000009\.tar: the server answers 404 Not Found$"):
        read(open_source([f"{web.url}/data/000009.tar"]))
    assert web.requests.total() <= 4


def test_a_server_that_is_not_there(web: Web) -> None:
    nobody = web.url.rpartition(":")[0] + ":9"
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9.*, 6 times") as error:
        read(open_source([f"{nobody}/000000.tar"]))
    assert "\n" not in str(error.value)


def test_damage_is_told_from_a_bad_connection(web: Web, data: Path) -> None:
    whole = (data / "data" / "000000.tar").read_bytes()
    (data / "cut.tar").write_bytes(whole[:5000])
    with pytest.raises(DataError, match=r"cut\.tar is damaged or cut off at byte \d+"):
        read(open_source([f"{web.url}/cut.tar"]))


def test_gzip_and_a_query(web: Web, data: Path) -> None:
    (data / "zip.tar.gz").write_bytes(gzip.compress((data / "data" / "000000.tar").read_bytes()))
    assert read(open_source([f"{web.url}/zip.tar.gz?sig=1"])) == local(data)[:NUM_EACH]


def test_memory_stays_flat_whatever_the_size(web: Web, data: Path) -> None:
    """A shard of 300 MB is read in a process that may not take 150 MB more than it starts with."""
    with TarWriter(data / "large.tar") as tar:
        for i in range(300):
            tar.write_sample(f"{i}", {"jpg": os.urandom(1 << 20)})
    code = (
        "import sys\n"
        "from vila2cli.shards import open_source, read_shard\n"
        "import fsspec.implementations.http\n"
        "def peak():\n"
        "    return int(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])\n"
        "used = peak()\n"
        "(shard,) = open_source([sys.argv[1]]).shards\n"
        "num = sum(len(s.images[0].data) for s in read_shard(shard, on_reject=print))\n"
        "print(num, peak() - used)\n"
    )
    place = f"{web.url}/large.tar"
    command = [sys.executable, "-c", code]
    for where in (place, f"pipe:cat {shlex.quote(str(data / 'large.tar'))}"):
        done = subprocess.run([*command, where], check=True, capture_output=True, text=True)
        num_bytes, more_kib = map(int, done.stdout.split())
        assert num_bytes == 300 << 20
        assert more_kib < 150 << 10
    (data / "large.tar").unlink()


def test_any_file_system_of_fsspec(data: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in sorted((data / "data").glob("*.tar")):
        memory.pipe_file(f"/bucket/data/{path.name}", path.read_bytes())
    for spec in (
        "memory://bucket/data/*.tar",
        "memory://bucket/data",
        "memory://bucket/data/{000000..000002}.tar",
    ):
        assert read(open_source([spec])) == local(data)
    with pytest.raises(DataError, match=r"cannot read memory://bucket/data/9\.tar: there is no such file"):
        read(open_source(["memory://bucket/data/9.tar"]))


def test_file_urls_are_local(data: Path) -> None:
    assert read(open_source([f"file://{data}/data/*.tar"])) == local(data)


# Commands


def test_commands_are_shards(data: Path) -> None:
    source = open_source([f"pipe:cat {data}/data/{{000000..000002}}.tar"])
    assert [shard.name for shard in source.shards] == ["000000", "000001", "000002"]
    assert read(source) == local(data)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("cat nothing/000.tar", "failed with exit code 1: cat: .*No such file"),
        ("head -c 5000 {data}/data/000000.tar; exit 3 # 000.tar", "failed with exit code 3"),
        ("false | cat {data}/data/000000.tar", "failed with exit code 1"),
        ("head -c 5000 {data}/data/000000.tar", "damaged or cut off"),
        ("no-such-program 000.tar", "failed with exit code 127: .*not found"),
    ],
)
def test_a_command_that_fails_is_an_error(data: Path, command: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(open_source([f"pipe:{command.format(data=data)}"]))
    assert "\n" not in str(error.value)


def test_a_command_that_is_not_read_to_its_end_is_stopped() -> None:
    stream = open_stream("pipe:yes")
    assert stream.read(4) == b"y\ny\n"
    stream.close()


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
        f"{web.url}/r1/recaption/{{000000..000002}}.tar",
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
    path, url = data / "data" / "000000.tar", f"{web.url}/data/000000.tar"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    assert digest_of(path).sha256 == digest_of(url).sha256 == digest_of(f"pipe:cat {path}").sha256 == sha256
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
