"""Metrics, one module for each family; `find_scorer` gets one by the name that a task.toml uses.

scorer says what a family is and task what a task is; yesno, choice, vqa, documents, box, caption, cider, chair,
amber, mmmu and judged are the families; stats has intervals, significance how sure a difference is, grouping
samples that count as one. Read scorer and task, then any family.
"""

import copyreg

from vila2cli.errors import DataError, meant
from vila2cli.score.amber import AMBER, AMBER_YESNO
from vila2cli.score.box import BOX, REFCOCO
from vila2cli.score.caption import FACTS
from vila2cli.score.chair import CHAIR
from vila2cli.score.choice import CHOICE, MCQ, MMBENCH, SCIENCEQA, SEED
from vila2cli.score.cider import CIDER
from vila2cli.score.documents import CHARTQA, DOCVQA, OCR, OCRBENCH
from vila2cli.score.judged import LLAVA_BENCH, MMVET
from vila2cli.score.mmmu import MMMU, MMMU_RANDOM
from vila2cli.score.scorer import Scorer
from vila2cli.score.vqa import GQA, SHORT, TEXTVQA, VIZWIZ, VQA, VQAEVAL
from vila2cli.score.yesno import HALLUSION, MME, POPE, TRUTH, YESNO

BY_TYPE = {
    "yesno": (YESNO, POPE, MME, HALLUSION, TRUTH, AMBER_YESNO),
    "choice": (CHOICE, SCIENCEQA, SEED, MCQ, MMBENCH, MMMU, MMMU_RANDOM),
    "short": (SHORT, VQA, VQAEVAL, VIZWIZ, TEXTVQA, GQA, OCR, DOCVQA, CHARTQA, OCRBENCH),
    "box": (BOX, REFCOCO),
    "caption": (FACTS, CIDER, CHAIR, AMBER),
    "open": (MMVET, LLAVA_BENCH),
}
"""By the type of answers that a task.toml names the scorers for it, the usual one first."""
SCORERS = {scorer.name: scorer for scorers in BY_TYPE.values() for scorer in scorers}
CAPTION_SCORERS = frozenset(scorer.name for scorer in BY_TYPE["caption"])


def answer_type_of(scorer: Scorer) -> str:
    """What kind of answers a scorer is for, as task.toml says it."""
    return next(kind for kind, scorers in BY_TYPE.items() if scorer in scorers)


def find_scorer(name: str) -> Scorer:
    """The scorer of that name; raises DataError naming the nearest one."""
    if name in SCORERS:
        return SCORERS[name]
    raise DataError(f"no scorer is named {name!r}{meant(name, SCORERS)}; there are {', '.join(SCORERS)}")


# By name, for their functions have none: a replica looks a scorer up as everybody does.
copyreg.pickle(Scorer, lambda scorer: (find_scorer, (scorer.name,)))
