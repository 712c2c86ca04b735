"""Soft accuracy of short answers as VQAv2, VizWiz and TextVQA score it (VILA table 5).

Ten people answered each question. An answer counts min(matches / 3, 1), averaged over leaving out
each person in turn. VQAEval, of VQAv2, normalises only where the ten do not all agree: where they
do, even "Yes" is not "yes". So what LLaVA, VILA and lmms-eval hand in is M4C's normal form of an answer
(`vqa`); `vqaeval` takes answers as they are. VizWiz's own code always normalises what it is given, and never
what people answered (`vizwiz`). TextVQA is scored by the M4C evaluator, which always normalises both.
"""

from vila2cli.errors import DataError
from vila2cli.score.normal_form import ARTICLES, NUMBERS, strip_punctuation
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.short import accuracy

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
_NUM_ANSWERS = 10


def normalise(answer: str) -> str:
    """Punctuation, then number words, articles and contractions, as VQAEval does one after the other."""
    words = (NUMBERS.get(word, word) for word in strip_punctuation(answer).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise_m4c(answer: str) -> str:
    """M4C's processor: commas, question marks and the joint of 's go first, then `normalise`."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise(_one_line(text))


def soft_accuracy(given: str, answers: list[str]) -> float:
    """min(matches / 3, 1), averaged over leaving each answer out."""
    matches = answers.count(given)
    left_out = (min((matches - (one == given)) / 3, 1.0) for one in answers)
    return sum(left_out) / len(answers)


def score_vqa(answer: str, reference: Reference) -> Row:
    """VQAEval of the answer in M4C's normal form, as it is handed in to the server of VQAv2."""
    return score_vqaeval(normalise_m4c(answer), reference)


def score_vqaeval(answer: str, reference: Reference) -> Row:
    """VQAEval; texts are compared as they are where all people gave the same answer."""
    answers = [_one_line(one) for one in _answers(reference)]
    given = _one_line(answer)
    if len(set(answers)) > 1:
        answers, given = [normalise(one) for one in answers], normalise(given)
    return {"score": soft_accuracy(given, answers)}


def score_vizwiz(answer: str, reference: Reference) -> Row:
    """VizWiz's rule: the answer in M4C's normal form, normalised once more; references as they are."""
    given = normalise(_one_line(normalise_m4c(answer)))
    return {"score": soft_accuracy(given, list(_answers(reference)))}


def score_textvqa(answer: str, reference: Reference) -> Row:
    """The M4C evaluator's rule, which needs ten answers."""
    answers = [normalise_m4c(one) for one in _answers(reference)]
    if len(answers) != _NUM_ANSWERS:
        raise DataError(f"TextVQA is scored against {_NUM_ANSWERS} answers, and this sample has {len(answers)}")
    return {"score": soft_accuracy(normalise_m4c(answer), answers)}


def _answers(reference: Reference) -> tuple[str, ...]:
    if len(reference.answers) < 2:
        raise DataError("soft accuracy needs the answers of several people; score one answer with 'short'")
    return reference.answers


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


VQA = Scorer(
    name="vqa",
    version="vqaeval-2",
    headline="accuracy",
    score=score_vqa,
    metrics=accuracy,
    rule="VQAEval (VQAv2) of answers in M4C's normal form, as LLaVA hands them in",
)
VQAEVAL = Scorer(
    name="vqaeval",
    version="vqaeval-2",
    headline="accuracy",
    score=score_vqaeval,
    metrics=accuracy,
    rule="VQAEval (VQAv2) of answers as they are",
)
VIZWIZ = Scorer(
    name="vizwiz",
    version="vizwiz-1",
    headline="accuracy",
    score=score_vizwiz,
    metrics=accuracy,
    rule="VizWiz's VQAEval of answers in M4C's normal form, as LLaVA hands them in",
)
TEXTVQA = Scorer(
    name="textvqa",
    version="m4c-1",
    headline="accuracy",
    score=score_textvqa,
    metrics=accuracy,
    rule="M4C evaluator, as in LLaVA's eval_textvqa",
)
