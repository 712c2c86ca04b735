#!/usr/bin/env bash
# transformers 5.19.0, Idefics3: the number of tiles told by an image's size is not the number that is cut.
#
# `get_number_of_image_patches` is what engines lay out a prompt by before any pixel is touched. Where the longest
# edge is no multiple of the tile's side, the image processor first rounds the long side up to whole tiles and
# scales the short side with it; the count rounds each side by itself. Seen: for a tile of 364 and a longest edge
# of 1,000, 2 x 3 tiles told and 3 x 3 cut of a 1,000 x 700 image; with 1,092, a multiple, all sizes agree.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 pillow numpy
cat >"$here/run.py" <<'PY'
from PIL import Image
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

TILE = 364
SIZES = [(width, height) for width in range(200, 1400, 240) for height in range(200, 1400, 240)] + [(1000, 700)]


def told_and_cut(longest_edge: int, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": longest_edge}, max_image_size={"longest_edge": TILE}
    )
    _, *told = processor.get_number_of_image_patches(height, width)
    made = processor([[Image.new("RGB", (width, height))]], return_row_col_info=True, return_tensors="pt")
    return tuple(told), (made["rows"][0][0], made["cols"][0][0])


for longest_edge in (1000, 3 * TILE):
    differing = [size for size in SIZES if len(set(told_and_cut(longest_edge, *size))) == 2]
    print(f"longest edge {longest_edge}: {len(differing)} of {len(SIZES)} sizes differ")
    assert bool(differing) == (longest_edge % TILE != 0), "this has changed"
told, cut = told_and_cut(1000, 1000, 700)
print(f"1000 x 700: {told[0]} x {told[1]} tiles told, {cut[0]} x {cut[1]} cut")
assert (told, cut) == ((2, 3), (3, 3)), "this has changed"
PY
"$here/venv/bin/python" "$here/run.py"
