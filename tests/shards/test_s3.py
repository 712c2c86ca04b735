"""Shards in S3, of a small server of our own that speaks as much of it as reading takes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from stream_data import NUM_EACH, local, read, write_layer
from test_web_servers import Asked

from loopback import listening
from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.shards import open_source, streams

s3fs = pytest.importorskip("s3fs")
SECRET = "wJalrXUtnFEMIhunter2SECRET9876"


@dataclass
class Store:
    """Objects by `bucket/key`; the first `num_errors` requests for an object's bytes get `error`.

    The `next_version` takes the place of an object of which a part was read."""

    objects: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    num_errors: int = 0
    error: tuple[int, str, str] = (503, "SlowDown", "Please reduce your request rate.")
    num_requests: int = 0
    next_version: bytes = b""


class _Handler(Asked):
    store: Store

    def do_GET(self) -> None:
        self.store.num_requests += 1
        address = urlsplit(self.path)
        name, query = unquote(address.path).lstrip("/"), parse_qs(address.query)
        buckets = {key.partition("/")[0] for key in self.store.objects}
        if name.partition("/")[0] not in buckets:
            self._fail(404, "NoSuchBucket", "The specified bucket does not exist")
        elif "list-type" in query:
            self._list(name, query.get("prefix", [""])[0])
        elif name not in self.store.objects:
            self._fail(404, "NoSuchKey", "The specified key does not exist.")
        elif self.store.num_errors and self.command == "GET":
            self.store.num_errors -= 1
            self._fail(*self.store.error)
        else:
            self._send(self.store.objects[name])

    do_HEAD = do_GET

    def _send(self, data: bytes) -> None:
        tag = {"ETag": f'"{hash(data):x}"'}
        if self.headers.get("If-Match", tag["ETag"]) != tag["ETag"]:
            self._fail(
                412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"
            )
        elif asked := self.headers.get("Range"):
            start, _, end = asked.removeprefix("bytes=").partition("-")
            part = data[int(start) : int(end) + 1]
            place = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
            self.say(206, part, Content_Range=place, **tag)
            if self.store.next_version and self.command == "GET":
                name = unquote(urlsplit(self.path).path).lstrip("/")
                self.store.objects[name], self.store.next_version = self.store.next_version, b""
        else:
            self.say(200, data, **tag)

    def _list(self, bucket: str, prefix: str) -> None:
        keys = sorted(name.removeprefix(f"{bucket}/") for name in self.store.objects)
        keys = [key for key in keys if key.startswith(prefix)]
        folders = {key[: key.index("/", len(prefix)) + 1] for key in keys if "/" in key[len(prefix) :]}
        files = [key for key in keys if "/" not in key[len(prefix) :]]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.store.objects[f'{bucket}/{key}'])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;x&quot;</ETag></Contents>"
            for key in files
        )
        contents += "".join(
            f"<CommonPrefixes><Prefix>{one}</Prefix></CommonPrefixes>" for one in sorted(folders)
        )
        body = f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(files)}</KeyCount>{contents}"
        self._xml(200, f"{body}<IsTruncated>false</IsTruncated></ListBucketResult>")

    def _fail(self, status: int, code: str, message: str) -> None:
        self._xml(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>")

    def _xml(self, status: int, text: str) -> None:
        self.say(status, f'<?xml version="1.0"?>{text}'.encode(), Content_Type="application/xml")


@pytest.fixture
def store(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    settings = {
        "ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "SECRET_ACCESS_KEY": SECRET,
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in {**settings, "EC2_METADATA_DISABLED": "true", "MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(streams, "RETRY_WAITS_S", (0.01,) * 5)
    store = Store(
        {f"bucket/data/{path.name}": path.read_bytes() for path in sorted((data / "data").glob("*.tar"))}
    )
    with listening(type("Handler", (_Handler,), {"store": store})) as store.url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("spec", ["data/{000000..000002}.tar", "data/*.tar", "data", "data/"])
def test_shards_in_a_bucket(store: Store, data: Path, spec: str) -> None:
    assert read(open_source([f"s3://bucket/{spec}"])) == local(data)


def test_keys_of_any_letters(store: Store, data: Path) -> None:
    keys = ("a b+c", "100%25 x%20y", "ключ é", "a#1", "a#2", "q?x=1", "q?x=2", "[1]", "a&b=c;d,e'f")
    shard = store.objects["bucket/data/000000.tar"]
    for key in keys:
        store.objects[f"bucket/odd keys/{key}.tar"] = shard
    source = open_source([f"s3://bucket/odd keys/{key}.tar" for key in keys])
    assert [one.name for one in source.shards] == list(keys)
    assert read(source) == local(data)[:NUM_EACH] * len(keys)
    assert len(open_source(["s3://bucket/odd keys/*.tar"]).shards) == len(keys)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/data/9.tar", r"cannot read s3://bucket/data/9\.tar: there is no such file$"),
        (
            "s3://nobody/9.tar",
            r"9\.tar: the server answers 404 NoSuchBucket: The specified bucket does not exist$",
        ),
        ("s3://Nobody!/9.tar", 'Invalid bucket name "Nobody!"'),
    ],
)
def test_what_is_not_there_is_asked_for_once(store: Store, url: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(open_source([url]))
    assert "times" not in str(error.value)
    assert store.num_requests <= 4


def test_no_credentials(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"Unable to locate credentials; .* set FSSPEC_S3_ANON=true$"):
        read(open_source(["s3://bucket/data/000000.tar"]))


def test_refusals_and_throttling(store: Store, data: Path) -> None:
    store.num_errors = 3
    assert read(open_source(["s3://bucket/data/000000.tar"])) == local(data)[:NUM_EACH]
    store.num_errors, store.error = 10**6, (403, "AccessDenied", "Access Denied")
    with pytest.raises(DataError, match=r"403 AccessDenied: Access Denied; it wants credentials, or others"):
        read(open_source(["s3://bucket/data/000000.tar"]))


def test_blocks_of_two_versions_are_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", 2048)
    monkeypatch.setattr(streams, "_BUFFER_BYTES", 1024)
    store.next_version = store.objects["bucket/data/000002.tar"]
    with pytest.raises(DataError, match=r"s3://bucket/data/000001\.tar was changed while it was read"):
        read(open_source(["s3://bucket/data/000001.tar"]))


def test_an_object_that_changes_between_runs_and_keys_that_nobody_keeps(
    store: Store, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = write_layer(tmp_path / "r1", open_source(["s3://bucket/data/*.tar"]))
    assert [len(sample.annotations) for sample in read(open_source([str(layer)]))] == [1] * 12
    store.objects["bucket/data/000001.tar"] = store.objects["bucket/data/000002.tar"]
    with pytest.raises(DataError, match=r"s3://bucket/data/000001\.tar .*(changed|not what)"):
        read(open_source([str(layer)]))
    assert main(["shards", "check", str(layer)]) == 4
    said = capsys.readouterr()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in ("AKIAIOSFODNN7EXAMPLE", SECRET):
        assert secret not in said.out + said.err
        assert secret.encode() not in kept
