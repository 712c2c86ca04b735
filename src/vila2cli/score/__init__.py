"""Metric families, one module each; `find_scorer` gets one by the name a task.toml uses."""

import difflib

from vila2cli.errors import DataError
from vila2cli.score.caption import FACTS
from vila2cli.score.choice import CHOICE
from vila2cli.score.grounding import BOX
from vila2cli.score.ocr import OCR
from vila2cli.score.scorer import Scorer
from vila2cli.score.short import SHORT, VQA
from vila2cli.score.yesno import YESNO

SCORERS = {scorer.name: scorer for scorer in (YESNO, SHORT, VQA, CHOICE, BOX, OCR, FACTS)}


def find_scorer(name: str) -> Scorer:
    """The scorer of that name; raises DataError naming the nearest one."""
    if name in SCORERS:
        return SCORERS[name]
    near = difflib.get_close_matches(name, SCORERS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SCORERS)}"
    raise DataError(f"no scorer is named {name!r}; {hint}")
