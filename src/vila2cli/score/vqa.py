"""Short answers: normalised and matched exactly, GQA's stricter match, and soft accuracy (VILA table 5).

VQAv2, VizWiz and TextVQA have ten people's answers to each question. An answer counts min(matches / 3, 1),
averaged over leaving out each person in turn. VQAEval, of VQAv2, normalises only where the ten do not all
agree: where they do, even "Yes" is not "yes". So what LLaVA, VILA and lmms-eval submit is M4C's normal form of
an answer (`vqa`); `vqaeval` takes answers unchanged. VizWiz's own code always normalises what it is given, and
never what people answered (`vizwiz`). TextVQA is scored by the M4C evaluator, which always normalises both.
"""

import re
from dataclasses import replace

from vila2cli.errors import DataError
from vila2cli.score.grouping import means
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.text.bare import bare

ARTICLES = frozenset(("a", "an", "the"))
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(digit) for digit, word in enumerate(_DIGITS)}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
# The official pattern says "not after a digit" in a way that never holds, and its flag is taken for a count.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
_FULL_FORMS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
you've
"""
_NUM_ANSWERS = 10
_BELOW_ZERO = re.compile(r"(?<![\w.)%])[-−](?=[$€£]?\.?\d)")
_SIGNS_BEHIND = re.compile(r"(?:(?<=\w)\+{1,2}|(?:(?<=\b\w)|(?<=\b\w\w))[−-]{1,2})(?=[\s.,;:)]|$)")
"""Behind a longer word a dash is none: "left-" is "left"."""
_SIGNS = str.maketrans({"+": " plus", "-": " minus", "−": " minus"})
_ANNOUNCED = re.compile(
    r"(?<!\s)\s*(?:(?:the\s+)?(?:(?:final|short|correct)\s+)?answer\s*(?:is\b\s*)?[:：]"
    r"|the\s+(?:correct\s+)?answer\s+is\b)\s*",
    re.IGNORECASE,
)


def strip_punctuation(text: str, *, max_periods: int = _MAX_PERIODS) -> str:
    """The text without punctuation, by VQAEval's rule, which removes 32 full stops at most; 0 is for all.

    A mark beside a space anywhere in the text is removed, another becomes a space; where a comma stands
    between digits all marks are removed. Apostrophes and colons stay.
    """
    cleaned = text
    removes_all = _DIGIT_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or removes_all else " ")
    return _PERIOD.sub("", cleaned, count=max_periods)


def _contractions() -> dict[str, str]:
    """Every form with one apostrophe left out to the full form. One entry of the official table is the other
    way round, and stays so; those with a capital letter never apply to lower-case words."""
    table = {
        form[:place] + form[place + 1 :]: form
        for form in _FULL_FORMS.split()
        for place, letter in enumerate(form)
        if letter == "'"
    }
    return table | {"somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()


def normalise_vqaeval(answer: str) -> str:
    """Punctuation, then number words, articles and contractions, as VQAEval does one after the other."""
    words = (NUMBERS.get(word, word) for word in strip_punctuation(answer).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise_m4c(answer: str) -> str:
    """M4C's processor: commas, question marks and the joint of 's go first, then VQAEval's normal form."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise_vqaeval(_one_line(text))


def soft_accuracy(given: str, answers: list[str]) -> float:
    """min(matches / 3, 1), averaged over leaving each answer out."""
    matches = answers.count(given)
    left_out = (min((matches - (answer == given)) / 3, 1.0) for answer in answers)
    return sum(left_out) / len(answers)


def normalise_short(answer: str) -> str:
    """Lower case without articles, punctuation, apostrophes or marks around the whole, number words as digits.

    Punctuation goes by the VQA rule, but for signs that tell answers apart: "-5" is not "5", and "A+" neither
    "A" nor "A-". Where VQA restores the apostrophe of known contractions, apostrophes are dropped on both
    sides: "dont" still equals "don't". Of an answer that is all articles, such as the letter "A" or "an A",
    the last stays, and one of marks keeps them: an empty answer must not equal it.
    """
    signed = _BELOW_ZERO.sub("minus ", " ".join(bare(answer).split()))
    signed = _SIGNS_BEHIND.sub(lambda match: match[0].translate(_SIGNS), signed)
    cleaned = strip_punctuation(signed, max_periods=0)
    cleaned = cleaned.replace("'", "").replace("’", "")
    words = [NUMBERS.get(word, word) for word in cleaned.lower().split()]
    return " ".join([word for word in words if word not in ARTICLES] or words[-1:]) or bare(answer).lower()


def announced(answer: str) -> str:
    """What stands behind "Answer:" or "The answer is"; the whole where an answer does not announce itself."""
    return _ANNOUNCED.sub("", bare(answer), count=1)


def score_exact(answer: str, reference: Reference) -> Row:
    """1 when the normalised answer, or what it announces, equals any normalised reference answer."""
    if not reference.answers:
        raise DataError("a short-answer question needs at least one reference answer")
    given = {normalise_short(answer), normalise_short(announced(answer))}
    return {"score": float(not given.isdisjoint(map(normalise_short, reference.answers)))}


def score_gqa(answer: str, reference: Reference) -> Row:
    """1 when the lower-case answer without final full stops is the reference answer."""
    if len(reference.answers) != 1:
        raise DataError(f"a GQA question has one answer, not {list(reference.answers)}")
    return {"score": float(answer.rstrip(".").lower() == reference.answers[0])}


def score_vqa(answer: str, reference: Reference) -> Row:
    """VQAEval of the answer in M4C's normal form, as it is submitted to the server of VQAv2."""
    return score_vqaeval(normalise_m4c(answer), reference)


def score_vqaeval(answer: str, reference: Reference) -> Row:
    """VQAEval; texts are compared unchanged where all people gave the same answer."""
    answers = list(map(_one_line, _answers(reference)))
    given = _one_line(answer)
    if len(set(answers)) > 1:
        answers, given = list(map(normalise_vqaeval, answers)), normalise_vqaeval(given)
    return {"score": soft_accuracy(given, answers)}


def score_vizwiz(answer: str, reference: Reference) -> Row:
    """VizWiz's rule: the answer in M4C's normal form, normalised once more; references unchanged."""
    given = normalise_vqaeval(_one_line(normalise_m4c(answer)))
    return {"score": soft_accuracy(given, list(_answers(reference)))}


def score_textvqa(answer: str, reference: Reference) -> Row:
    """The M4C evaluator's rule, which needs ten answers."""
    answers = list(map(normalise_m4c, _answers(reference)))
    if len(answers) != _NUM_ANSWERS:
        raise DataError(f"TextVQA is scored against {_NUM_ANSWERS} answers, and this sample has {len(answers)}")
    return {"score": soft_accuracy(normalise_m4c(answer), answers)}


def _answers(reference: Reference) -> tuple[str, ...]:
    if len(reference.answers) < 2:
        raise DataError("soft accuracy needs the answers of several people; score one answer with 'short'")
    return reference.answers


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


SHORT = Scorer(
    name="short",
    version="vqa-norm-4",
    headline="accuracy",
    score=score_exact,
    metrics=means(accuracy="score"),
)
GQA = replace(
    SHORT,
    name="gqa",
    version="exact-1",
    score=score_gqa,
    rule="GQA's exact match, after LLaVA's convert_gqa_for_eval",
)
VQA = replace(
    SHORT,
    name="vqa",
    version="vqaeval-2",
    score=score_vqa,
    rule="VQAEval (VQAv2) of answers in M4C's normal form, as LLaVA submits them",
)
VQAEVAL = replace(VQA, name="vqaeval", score=score_vqaeval, rule="VQAEval (VQAv2) of answers unchanged")
VIZWIZ = replace(
    SHORT,
    name="vizwiz",
    version="vizwiz-1",
    score=score_vizwiz,
    rule="VizWiz's VQAEval of answers in M4C's normal form, as LLaVA submits them",
)
TEXTVQA = replace(
    SHORT,
    name="textvqa",
    version="m4c-1",
    score=score_textvqa,
    rule="M4C evaluator, as in LLaVA's eval_textvqa",
)
