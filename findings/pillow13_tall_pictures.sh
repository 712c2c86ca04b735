#!/usr/bin/env bash
# Pillow 13.0.0 under transformers 5.19.0: the same image processor makes other pixels of a tall picture than with 12.3.0.
#
# Since 13.0 the height is scaled before the width where it shrinks by more than twice as many pixels, and what lies
# between the two passes is rounded and clipped, so that the order shows. A page of 400 x 2,400 pixels for SigLIP at
# 384 differs in one value of seven, by up to 16 of 255 levels; the same page on its side does not differ at all.
# Captions and scores of tall pictures (receipts, screenshots, columns) can therefore change with an upgrade of
# Pillow alone. Processors on torchvision scale by themselves and are not touched.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 pillow==13.0.0
"$here/venv/bin/pip" install --quiet --disable-pip-version-check --target "$here/older" pillow==12.3.0
cat >"$here/run.py" <<'PY'
import sys

import numpy as np
import PIL
from PIL import Image
from transformers import SiglipImageProcessorPil

down, across = np.mgrid[0:2400, 0:400]
page = np.stack([(across * 7 + down * 3) % 256, across**2 // 50 + down & 255, (across // 9 + down // 11) % 2 * 255], -1)
tall = Image.fromarray(page.astype(np.uint8))
processor = SiglipImageProcessorPil(size={"height": 384, "width": 384})
made = {
    name: processor(image, return_tensors="np")["pixel_values"]
    for name, image in {"tall": tall, "wide": tall.transpose(Image.Transpose.ROTATE_90)}.items()
}
np.savez(sys.argv[1], **made)
print(f"Pillow {PIL.__version__}")
PY
"$here/venv/bin/python" "$here/run.py" "$here/13.npz"
PYTHONPATH="$here/older" "$here/venv/bin/python" "$here/run.py" "$here/12.npz"
"$here/venv/bin/python" - "$here" <<'PY'
import sys

import numpy as np

newer, older = (np.load(f"{sys.argv[1]}/{name}.npz") for name in ("13", "12"))
apart = {name: np.abs(newer[name] - older[name]) * 127.5 for name in newer}
for name, levels in apart.items():
    print(f"{name}: {(levels > 0).mean():.3f} of the values differ, by {levels.max():.0f} of 255 levels at most")
if round(float(apart["tall"].max())) != 16 or not 0.1 < (apart["tall"] > 0).mean() < 0.2 or apart["wide"].max() > 0:
    sys.exit("this has changed")
PY
