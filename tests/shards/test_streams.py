"""Remote shards, over a real web server on loopback, a store in memory, and commands."""

import gzip
import lzma
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from stream_data import NUM_EACH, NUM_SHARDS, local, read

from loopback import Web
from vila2cli.errors import DataError
from vila2cli.shards import TarWriter, expand, open_source, streams
from vila2cli.shards.places import file_name, folder, folders, join, tar_stem, typed
from vila2cli.shards.streams import open_stream

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
        ("pipe:zstd -dc data/000.tar.zst", "000", "", ()),
        ("/a/b/000.tar", "000", "/a/b", ("a", "b")),
        ("https://x.org/download?id=3", "", "https://x.org?id=3", ()),
    ],
)
def test_names_of_places(place: str, stem: str, above: str, names: tuple[str, ...] | None) -> None:
    place = typed(place)
    assert tar_stem(place) == stem
    assert folder(place) == above
    if names is not None:
        assert folders(place) == names
    if above and stem:
        assert join(folder(place), file_name(place)) == place


def test_a_command_without_a_tar_has_a_name_of_its_own() -> None:
    one, other = tar_stem(typed("pipe:make-shard 1")), tar_stem(typed("pipe:make-shard 2"))
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
    """A shard of 160 MB is read in a process that may not take 80 MB more than it starts with."""
    with TarWriter(data / "large.tar") as tar:
        for i in range(160):
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
        assert num_bytes == 160 << 20
        assert more_kib < 80 << 10
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


def test_keys_of_a_store_may_hold_any_letter(data: Path) -> None:
    """Two that differ behind a `#` are two shards; brackets are a pattern where something matches it."""
    memory = fsspec.filesystem("memory")
    tars = sorted((data / "data").glob("*.tar"))
    keys = ("a#1.tar", "a#2.tar", "[b] c+d%20é.tar")
    for key, path in zip(keys, tars, strict=True):
        memory.pipe_file(f"/odd/{key}", path.read_bytes())
    source = open_source([f"memory://odd/{key}" for key in keys])
    assert [shard.name for shard in source.shards] == ["a#1", "a#2", "[b] c+d%20é"]
    assert read(source) == local(data)
    assert len(open_source(["memory://odd/a*.tar"]).shards) == 2
    with pytest.raises(DataError, match="no shards match"):
        open_source(["memory://odd/[x].tar"])


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


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the xz program")
def test_tars_that_are_packed_otherwise_are_read_through_the_command_that_is_named(
    data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "000000.tar.xz"
    path.write_bytes(lzma.compress((data / "data" / "000000.tar").read_bytes()))
    for spec in (path, tmp_path, tmp_path / "*.xz"):
        with pytest.raises(DataError, match=r"only gzip is unpacked here: .* 'pipe:xz -dc .*/000000\.tar\.xz'"):
            open_source([str(spec)])
    source = open_source([f"pipe:xz -dc {shlex.quote(str(path))}"])
    assert source.shards[0].name == "000000"
    assert read(source) == local(data)[:NUM_EACH]


def test_a_command_that_is_not_read_to_its_end_is_stopped() -> None:
    stream = open_stream(typed("pipe:yes"))
    assert stream.read(4) == b"y\ny\n"
    stream.close()
