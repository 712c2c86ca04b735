"""Rows as Parquet in the form of Hugging Face `datasets`: a picture is a struct of its bytes and its name."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import aside, naming
from vila2cli.formats.exports.files import put_in_place
from vila2cli.formats.exports.rows import ColumnKind, Content, json_text, row_of, the_picture
from vila2cli.shards import Shard
from vila2cli.shards.sample import Sample

OURS = b"vila2"
"""The key of the schema's metadata that says which columns are captions."""
_ROWS, _BYTES = 1000, 64_000_000
"""Of a row group at most."""
_TEXT = {"dtype": "string", "_type": "Value"}
_FEATURES: Mapping[ColumnKind, dict[str, Any]] = {
    "text": _TEXT,
    "json": _TEXT,
    "number": {"dtype": "float64", "_type": "Value"},
    "whole": {"dtype": "int64", "_type": "Value"},
    "image": {"_type": "Image"},
    "turns": {"feature": {"role": _TEXT, "content": _TEXT}, "_type": "List"},
}


def check_pyarrow() -> None:
    """Raise DataError where Parquet cannot be written."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise DataError("writing Parquet needs pyarrow: pip install 'vila2cli[parquet]'") from None


class Parquet:
    """SHARD.parquet, a row group at a time; every file of an export has the same columns."""

    def __init__(self, folder: Path, shard: Shard, content: Content) -> None:
        import pyarrow.parquet as pq

        self._shard, self._content = shard.name, content
        self._path = folder / f"{shard.name}.parquet"
        self._partial = aside(self._path)
        self._schema = _schema(content)
        self._objects = [name for name, kind in content.columns().items() if kind == "json"]
        folder.mkdir(parents=True, exist_ok=True)
        with naming(self._path):
            self._file = pq.ParquetWriter(self._partial, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0
        self._is_open = True

    def add(self, sample: Sample) -> None:
        row = row_of(sample, self._shard, self._content)
        for name in self._objects:
            row[name] = json_text(row[name]) if row[name] else None
        if self._content.with_pictures:
            image = the_picture(sample)
            row["image"] = {"bytes": image.data, "path": f"{sample.key}.{image.extension}"}
            self._num_bytes += len(image.data)
        self._rows.append(row)
        if len(self._rows) >= _ROWS or self._num_bytes >= _BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        with naming(self._path):
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()
        self._num_bytes = 0

    def close(self) -> None:
        if self._rows:
            self._flush()
        with naming(self._path):
            self._file.close()
        self._is_open = False
        put_in_place(self._partial, self._path)

    def abort(self) -> None:
        if self._is_open:
            with suppress(OSError):  # where a disk is full, closing fails as writing did
                self._file.close()
            self._partial.unlink(missing_ok=True)


def join_tables(parts: Sequence[Path], path: Path) -> None:
    """Write the rows of files of one schema as one file, a row group at a time."""
    import pyarrow.parquet as pq

    partial = aside(path)
    try:
        schema = pq.read_schema(parts[0])
        with naming(path), pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for part in parts:
                with pq.ParquetFile(part) as file:
                    for group in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(group))
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _schema(content: Content) -> Any:
    import pyarrow as pa

    kinds = {
        "text": pa.string(),
        "json": pa.string(),
        "number": pa.float64(),
        "whole": pa.int64(),
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "turns": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    }
    columns = content.columns()
    features = {name: _FEATURES[kind] for name, kind in columns.items()}
    metadata = {
        b"huggingface": json.dumps({"info": {"features": features}}).encode(),
        OURS: json.dumps({"captions": list(content.captions)}).encode(),
    }
    return pa.schema([pa.field(name, kinds[kind]) for name, kind in columns.items()], metadata=metadata)
