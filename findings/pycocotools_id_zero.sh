#!/usr/bin/env bash
# pycocotools 2.0.11: a box whose annotation has the id 0 is never found, and whoever finds it has a false alarm.
#
# The evaluation notes for each detection the id of the box that it matched, and reads a 0 there as "none". COCO's own
# files number annotations from 1, but nothing asks for that: ids counted from 0, as `enumerate` gives them, load and
# score without an error or a warning. The one box costs little among thousands and much in a small set or a rare
# class, whose mean over classes it enters whole. Seen: the same perfect detections of two boxes have an AP of 1.0 with
# the ids 1 and 2, and of 0.252 with 0 and 1. Ids of images and of categories may be 0.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cat >"$here/run.py" <<'PY'
import contextlib
import io
import warnings

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

warnings.simplefilter("error")
BOX = [10, 10, 50, 50]


def scores(annotation: int, image: int, category: int) -> tuple[float, float]:
    """Average precision and recall of perfect detections in two images; ids count up from those given."""
    images = [image, image + 1]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": one, "width": 100, "height": 100} for one in images],
        "categories": [{"id": category, "name": "cat"}],
        "annotations": [
            {"id": annotation + place, "image_id": one, "category_id": category, "bbox": BOX, "area": 2500, "iscrowd": 0}
            for place, one in enumerate(images)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes([{"image_id": one, "category_id": category, "bbox": BOX, "score": 0.9} for one in images])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 3), round(float(evaluation.stats[8]), 3)


seen = {start: scores(*start) for start in ((1, 1, 1), (0, 1, 1), (1, 0, 0))}
for (annotation, image, category), (precision, recall) in seen.items():
    print(f"ids of boxes from {annotation}, images {image}, classes {category}: AP {precision}, AR {recall}")
assert seen[1, 1, 1] == seen[1, 0, 0] == (1.0, 1.0), "this has changed"
assert seen[0, 1, 1] == (0.252, 0.5), "this has changed"
PY
"$here/venv/bin/python" "$here/run.py"
