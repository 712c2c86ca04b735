"""What `vila2 shards check` notes of tars that Hugging Face `datasets` would read in part, or not at all."""

import io
import json
from pathlib import Path

from PIL import Image

from vila2cli.shards import TarWriter, open_source
from vila2cli.stages.shards import check


def picture(shade: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 90, 30)).save(stream, kind)
    return stream.getvalue()


def test_check_notes_what_datasets_would_drop(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "000000.tar") as tar:
        for number in range(8):
            kind = "png" if number > 5 else "jpg"
            meta = {"a": 1, **({"rare": 2} if number == 7 else {})}
            members = {
                kind: picture(number, "PNG" if kind == "png" else "JPEG"),
                "json": json.dumps(meta).encode(),
            }
            tar.write_sample(str(number), members)
    report = check(open_source([tmp_path]))
    assert report.problems == ()
    (note,) = report.notes
    assert ".png of 2 samples" in note
    assert "JSON key 'rare' of 1 samples" in note


def test_check_notes_tars_that_datasets_refuses_and_goes_by_the_first_tar(tmp_path: Path) -> None:
    for shard, kinds in enumerate((("jpg", "png"), ("jpg",) * 6)):
        with TarWriter(tmp_path / "mixed" / f"{shard:06}.tar") as tar:
            for number, kind in enumerate(kinds):
                tar.write_sample(f"{shard}-{number}", {kind: picture(9, "PNG" if kind == "png" else "JPEG")})
    (note,) = check(open_source([tmp_path / "mixed"])).notes
    assert "reads none" in note
    assert "the first 2 samples of 000000" in note
    with TarWriter(tmp_path / "few" / "000000.tar") as tar:
        tar.write_sample("0", {"jpg": picture(9)})
    with TarWriter(tmp_path / "few" / "000001.tar") as tar:
        tar.write_sample("1", {"png": picture(9, "PNG")})
    (note,) = check(open_source([tmp_path / "few"])).notes
    assert ".png of 1 samples" in note
