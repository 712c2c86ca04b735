"""Pictures and tables as people have them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Sample


def picture(form: str = "PNG", colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(stream, form)
    return stream.getvalue()


def samples(folder: Path) -> dict[str, Sample]:
    source = open_source([str(folder)])
    return {s.key: s for shard in source.shards for s in read_shard(shard, on_reject=print)}


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        delimiter = {".tsv": "\t", ".csv": ",", ".semicolon": ";"}[path.suffix]
        path = path.with_suffix(".csv") if path.suffix == ".semicolon" else path
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path
