import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from archives import JPEG, read, write_tar
from vila2cli.errors import DataError, DataWarning
from vila2cli.shards import Shard, TarWriter, open_source, read_shard
from vila2cli.shards.sample import Reject, Sample
from vila2cli.shards.tarwriter import member_header


def test_truncated_tar_gives_what_is_whole_then_an_error(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [(f"{i}.{e}", JPEG) for i in range(4) for e in ("jpg", "bin")])
    data = whole.read_bytes()
    cut = tmp_path / "cut.tar"
    member_bytes = 512 + (len(JPEG) + 511) // 512 * 512
    for length in range(600, 8 * member_bytes, 173):
        cut.write_bytes(data[:length])
        samples: list[Sample] = []
        rejects: list[Reject] = []
        (shard,) = open_source([str(cut)]).shards
        if length % member_bytes:
            with pytest.raises(DataError, match=r"cut\.tar is damaged or cut off at byte \d+"):
                samples.extend(read_shard(shard, on_reject=rejects.append, on_note=pytest.fail))
        for sample in samples:
            assert sample.images[0].data == JPEG


def test_damaged_header_is_an_error_and_no_silent_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.jpg", b"x" * 512), ("b.jpg", b"x" * 512), ("c.jpg", b"x" * 512)])
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0x55
    path.write_bytes(data)
    (shard,) = open_source([str(path)]).shards
    with pytest.raises(DataError, match=r"0\.tar is damaged or cut off at byte 1024: no valid member header"):
        list(read_shard(shard, on_reject=pytest.fail))


def test_negative_size_does_not_loop_for_ever(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    header[124:136] = b"-0000001000\0"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    (tmp_path / "0.tar").write_bytes(bytes(header) + b"x" * 2048)
    with pytest.raises(DataError, match="negative size"):
        read(tmp_path / "0.tar")


def test_random_damage_is_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    messages = []
    path = write_tar(tmp_path / "0.tar", [(f"{i}é.jpg", JPEG) for i in range(3)] + [("m.json", b"{}")])
    for compress in (bytes, gzip.compress):
        whole = compress(path.read_bytes())
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 5)):
                data[rng.randrange(min(len(data), 5000))] = rng.randrange(256)
            (tmp_path / "damaged.tar").write_bytes(data)
            try:
                for sample in read_shard(
                    Shard("0", str(tmp_path / "damaged.tar")),
                    on_reject=lambda reject: None,
                    on_note=lambda text: None,
                ):
                    assert sample.key
            except DataError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert not [message for message in messages if "\n" in message]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "damaged"), (b"no tar at all" * 99, "damaged")],
)
def test_foreign_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(content)
    (shard,) = open_source([str(path)]).shards
    with pytest.raises(DataError, match=message):
        list(read_shard(shard, on_reject=pytest.fail))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bz2.compress(b"x" * 999), "is packed by bzip2, .* 'pipe:bzip2 -dc FILE'$"),
        (lzma.compress(b"x" * 999), "is packed by xz, .* 'pipe:xz -dc FILE'$"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "is packed by zstd, .* 'pipe:zstd -dc FILE'$"),
        (b"PK\x03\x04" + bytes(600), "is no tar but a ZIP archive: .* `vila2 shards convert folder`$"),
        (b"PAR1" + bytes(600), "a Parquet file: .* `vila2 shards convert parquet`$"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS .*: run `git lfs pull`$"),
        (b"<!DOCTYPE html>\n<title>Log in</title>", r"is no tar but text, .*: '<!DOCTYPE html> <title>Log in<"),
        (b'{"error": "token=hunter2SECRET"}', r"is no tar but text, .*token=\*\*\*"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_no_tar_is_named(
    tmp_path: Path, content: bytes, message: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(pack(content))
    (shard,) = open_source([str(path)]).shards
    with pytest.raises(DataError, match=message) as error:
        list(read_shard(shard, on_reject=pytest.fail))
    assert "\n" not in str(error.value)
    assert "copy or download" not in str(error.value)


def test_a_name_that_begins_as_a_page_does_is_a_name(tmp_path: Path) -> None:
    names = ["{1}.txt", "<html>.txt", "PK\x03\x04.txt", "BZh.txt"]
    for name in names:
        assert [sample.key for sample in read(write_tar(tmp_path / "0.tar", [(name, b"x")]))[0]] == [name[:-4]]


def test_shard_without_samples_says_what_it_holds(tmp_path: Path) -> None:
    (shard,) = open_source([str(write_tar(tmp_path / "0.tar", [("a.npy", b"1"), ("b.cls", b"1")]))]).shards
    with pytest.raises(DataError, match=r"empty shard: .*0\.tar .* only \.cls, \.npy"):
        list(read_shard(shard, on_reject=pytest.fail))


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_odd_headers_of_every_format(tmp_path: Path, layout: int) -> None:
    names = ["a.txt", "folder/" * 12 + "b.txt", "c" * 90 + ".txt", "d/" * 60 + "e" * 80 + ".txt"]
    names += [] if layout == tarfile.USTAR_FORMAT else ["f" * 300 + ".txt", "é" * 200 + ".txt"]
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=layout, pax_headers={"comment": "x" * 700}) as tar:
        for number, name in enumerate(names):
            header = tarfile.TarInfo(name)
            header.size, header.mtime, header.uname = number * 300, 1.5, "nobody"
            tar.addfile(header, io.BytesIO(b"x" * header.size))
    for _ in range(2):
        samples, rejects = read(path)
        assert [sample.key + ".txt" for sample in samples] == names
        assert [len(sample.text or "") for sample in samples] == [300 * number for number in range(len(names))]
        assert rejects == []
        path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar program")
@pytest.mark.parametrize("layout", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_the_tar_program(tmp_path: Path, layout: str) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("x" * number * 400)
    command = ["tar", f"--format={layout}", "-cf", "all.tar", "0.txt", "1.txt", "2.txt"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert [sample.text for sample in read(tmp_path / "all.tar")[0]] == ["", "x" * 400, "x" * 800]


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar program")
@pytest.mark.parametrize("layout", ["gnu", "posix"])
def test_sparse_files_are_refused(tmp_path: Path, layout: str) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    subprocess.run(["tar", f"--format={layout}", "-Scf", "0.tar", "a.jpg"], cwd=tmp_path, check=True)
    with pytest.raises(
        DataError, match=r"as a sparse file, which is not read; pack it again without --sparse$"
    ):
        read(tmp_path / "0.tar")


def test_a_cut_between_two_members_is_noted(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [("a.jpg", JPEG), ("b.jpg", JPEG)]).read_bytes()
    member_bytes = 512 + (len(JPEG) + 511) // 512 * 512
    (tmp_path / "cut.tar").write_bytes(whole[:member_bytes])
    with pytest.warns(DataWarning, match=r"cut\.tar: the archive has no end marker"):
        assert [sample.key for sample in read(tmp_path / "cut.tar")[0]] == ["a"]
    (tmp_path / "joined.tar").write_bytes(whole + whole)
    with pytest.warns(DataWarning, match=r"joined\.tar: there is data after the end marker"):
        assert [sample.key for sample in read(tmp_path / "joined.tar")[0]] == ["a", "b"]


def test_gzip_archives_are_read_whatever_their_name(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "plain.tar", [(f"{i}.txt", b"x" * (i * 511)) for i in range(40)])
    for name in ("a.tar.gz", "b.tgz", "c.tar"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
        assert read(tmp_path / name) == read(plain) or name != "c.tar"
        assert [s.text for s in read(tmp_path / name)[0]] == ["x" * (i * 511) for i in range(40)]


def test_a_shard_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "000000.tar") as first:
        first.write_sample("a", {"txt": b"first"})
        with pytest.raises(DataError, match="is being written by another process"):
            TarWriter(tmp_path / "000000.tar")
    with TarWriter(tmp_path / "000000.tar") as second:  # the name is free again
        second.write_sample("a", {"txt": b"second"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.stats.json", "000000.tar"]


def test_the_bytes_of_a_shard_are_those_of_a_plain_tar(tmp_path: Path) -> None:
    """Also where a name is long, not ASCII, or begins with what webdataset skips."""
    samples = {key: {"jpg": JPEG, "txt": b"a", "_own": b"b"} for key in ("a", "é" * 70, f"{'d' * 150}/b")}
    with TarWriter(tmp_path / "ours.tar") as tar:
        for key, members in samples.items():
            tar.write_sample(key, members)
    plain = [(f"{key}.{name}", members[name]) for key, members in samples.items() for name in sorted(members)]
    assert (tmp_path / "ours.tar").read_bytes() == write_tar(tmp_path / "plain.tar", plain).read_bytes()


@pytest.mark.parametrize("size", [0, 1, 512, 8**11 - 1, 8**11])
@pytest.mark.parametrize("name", ["k.json", "x" * 100, "x" * 101, "d/" * 70 + "k.json", "é.jpg", "a\udc80.jpg"])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    assert member_header(name, size) == header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
