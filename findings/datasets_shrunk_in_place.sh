#!/usr/bin/env bash
# datasets 5.2.0: a picture that was changed in place is stored as its file had it, before the change.
#
# Pillow changes a picture in place in `thumbnail`, `paste` and ImageDraw, and the picture goes on naming the file that
# it was opened from. Where a name is there, `datasets` stores the name (and `save_to_disk` the file's bytes), not the
# pixels. A `map` over an image folder that shrinks pictures, or blackens faces, therefore runs without an error
# or a warning and changes none: the model trains on the originals, and what was blackened is published. What makes a
# new picture (`resize`, `crop`) is stored, and so is all of it where pictures came as bytes, as from Parquet. Seen:
# 400 x 300 after `thumbnail((100, 100))` in `map`, with 100 x 75 after `resize`; a picture painted black all over is
# back with its colours, also from `Dataset.from_dict`, until it is copied.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cat >"$here/run.py" <<'PY'
import io
import pathlib
import sys
import tempfile
import warnings

import datasets
import numpy as np
from PIL import Image

warnings.simplefilter("error", UserWarning)
datasets.disable_progress_bars()
root = pathlib.Path(sys.argv[1])
(root / "pictures").mkdir()
Image.fromarray(np.random.default_rng(0).integers(50, 256, (300, 400, 3), np.uint8)).save(root / "pictures" / "0.png")
features = datasets.Features({"image": datasets.Image()})


def black(image: Image.Image) -> Image.Image:
    image.paste((0, 0, 0), (0, 0, *image.size))
    return image


def shrunk(image: Image.Image) -> Image.Image:
    image.thumbnail((100, 100))
    return image


def look(rows: datasets.Dataset) -> tuple[tuple[int, int], bool]:
    """The size of the first row's picture as it is saved, with its bytes, and whether it is black."""
    folder = tempfile.mkdtemp(dir=root)
    rows.save_to_disk(folder)
    saved = datasets.load_from_disk(folder).cast_column("image", datasets.Image(decode=False))
    stored = Image.open(io.BytesIO(saved[0]["image"]["bytes"]))
    return stored.size, not np.asarray(stored).any()


def opened() -> Image.Image:
    return Image.open(root / "pictures" / "0.png")


folder = datasets.load_dataset("imagefolder", data_dir=str(root / "pictures"), split="train")
in_bytes = datasets.Dataset.from_dict(
    {"image": [{"bytes": (root / "pictures" / "0.png").read_bytes(), "path": None}]}, features=features
)
seen = {
    "folder, thumbnail": look(folder.map(lambda row: {"image": shrunk(row["image"])})),
    "folder, resize": look(folder.map(lambda row: {"image": row["image"].resize((100, 75))})),
    "folder, painted black": look(folder.map(lambda row: {"image": black(row["image"])})),
    "folder, painted black and copied": look(folder.map(lambda row: {"image": black(row["image"]).copy()})),
    "bytes, thumbnail": look(in_bytes.map(lambda row: {"image": shrunk(row["image"])})),
    "bytes, painted black": look(in_bytes.map(lambda row: {"image": black(row["image"])})),
    "from_dict, thumbnail": look(datasets.Dataset.from_dict({"image": [shrunk(opened())]}, features=features)),
    "from_dict, painted black": look(datasets.Dataset.from_dict({"image": [black(opened())]}, features=features)),
}
for name, (size, is_black) in seen.items():
    print(f"{name}: {size[0]} x {size[1]}, {'black' if is_black else 'its colours'}")
unchanged = [name for name, found in seen.items() if found == ((400, 300), False)]
assert unchanged == [
    "folder, thumbnail", "folder, painted black", "from_dict, thumbnail", "from_dict, painted black"
], "this has changed"
assert seen["folder, resize"] == seen["bytes, thumbnail"] == ((100, 75), False), "this has changed"
all_black = [name for name, (_, is_black) in seen.items() if is_black]
assert all_black == ["folder, painted black and copied", "bytes, painted black"], "this has changed"
PY
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$here/cache" "$here/venv/bin/python" "$here/run.py" "$here"
