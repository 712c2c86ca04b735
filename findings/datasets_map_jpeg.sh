#!/usr/bin/env bash
# datasets 5.2.0, `map` over rows with a picture: a function that only looks at a JPEG has it written anew, and worse.
#
# A picture that the function reads counts as one that it changed. `map` then stores what Pillow makes of it at its own
# quality of 75, whatever the file's was, also where the function returns a caption and nothing else; without an error,
# and without a warning. Whoever captions or measures pictures that way trains on other pixels from then on, and
# writes them to Parquet. Seen, of a picture saved at quality 95: half of its bytes are left, and 86% of the values
# differ, by up to 18 of 255 levels. With `input_columns` the very same work leaves every byte as it was, as do
# `filter`, and a `map` that reads other columns.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0
cat >"$here/run.py" <<'PY'
import io
import sys
import warnings

import datasets
import numpy as np
import pyarrow.parquet
from PIL import Image

warnings.simplefilter("error")
datasets.disable_progress_bars()


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def stored(rows: datasets.Dataset, name: str) -> bytes:
    rows.to_parquet(f"{sys.argv[1]}/{name}.parquet")
    return pyarrow.parquet.read_table(f"{sys.argv[1]}/{name}.parquet")["image"][0].as_py()["bytes"]


coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
original = jpeg(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC), 95)
rows = datasets.Dataset.from_dict(
    {"image": [{"bytes": original, "path": None}], "width": [256]},
    features=datasets.Features({"image": datasets.Image(), "width": datasets.Value("int64")}),
)
written = {
    "row": rows.map(lambda row: {"caption": f"{row['image'].width} pixels wide"}),
    "batch": rows.map(lambda part: {"caption": [f"{one.width} pixels wide" for one in part["image"]]}, batched=True),
    "column": rows.map(lambda image: {"caption": f"{image.width} pixels wide"}, input_columns="image"),
    "other": rows.map(lambda row: {"caption": f"{row['width']} pixels wide"}),
    "filter": rows.filter(lambda row: row["image"].width > 0),
}
assert len({one[0]["caption"] for name, one in written.items() if name != "filter"}) == 1
found = {name: stored(one, name) for name, one in written.items()}
apart = np.abs(pixels(found["row"]) - pixels(original))
print(
    f"row['image'] read: {len(found['row'])} of {len(original)} bytes; {(apart > 0).mean():.3f} of the values "
    f"differ, by up to {apart.max()} levels"
)
same = [name for name, data in found.items() if data == original]
print(f"as they were: {same}")
assert found["row"] == found["batch"] == jpeg(Image.open(io.BytesIO(original)), 75) != original, "this has changed"
assert apart.max() > 10 and len(found["row"]) < 0.6 * len(original), "this has changed"
assert same == ["column", "other", "filter"], "this has changed"
PY
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$here/cache" "$here/venv/bin/python" "$here/run.py" "$here"
