"""Multiple choice as the benchmarks' own harnesses read the answer: ScienceQA, SEED, and VLMEvalKit's sets.

VLMEvalKit (MMBench, AI2D, MMStar, RealWorldQA) asks a language model where its rules read no option; without
one such an answer is wrong here, and counted as unparsed.
"""

import re
from dataclasses import replace

from vila2cli.errors import DataError
from vila2cli.score.grouping import LabelGroup, category_label, category_metrics, group_name, means, tally
from vila2cli.score.scorer import Labels, Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio
from vila2cli.score.vqa import announced, normalise_short
from vila2cli.text.bare import bare

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LETTER = r"[(\[]?([A-Z])[)\]]?"
_ALONE = re.compile(r"(?:(?:option|choice)\s+)?[(\[<]?([A-Z])[)\]>]?[.:。]?", re.IGNORECASE)
# Another letter that is chosen as well, or is what "A" as an article cannot be before.
_NO_OTHER = r"(?!\s*(?:or|and|/|&)\s*[(\[]?[A-Z]\b)(?!\s*,\s*[(\[]?[A-Z]\b(?!\s+(?:is|are|was|shows)\b))"
_FIRST = re.compile(
    rf"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])(?:[.:)]|(?=\s*\n)|(?<!I)(?=,\s|\s+[-–—]\s))){_NO_OTHER}(?=\W)"
)
_STATED = re.compile(
    r"(?:(?<!can.t )(?<!cannot )\b(?i:answer|antwort|réponse|respuesta|risposta|resposta|antwoord|ответ"
    r"|choose|pick|select|go with|it(?:['’]s| is)|(?:option|choice)(?=\s(?:is|would)\b))|答案|答え|정답)"
    r"(?:\s+corre\w+)?\W{0,6}"
    r"(?:(?:(?i:is|would be|ist|est|es|è|é)\b|为|是|は|은|는)\W{0,8}?)?"
    rf"(?<![A-Za-z]){_LETTER}(?![\w'’]){_NO_OTHER}"
    r"(?!(?<=[AI])\s+(?!because|since|as\b|is\b|for\b)[a-z])"
)
_OPTION = re.compile(
    rf"(?:\b(?i:option|choice)|选项|選項|選択肢)\W{{0,6}}{_LETTER}(?=\W*$|\s*[.:,]){_NO_OTHER}"
)
_RIGHT = re.compile(rf"\b{_LETTER}[.:]?\s+is\s+(?:the\s+)?(?:most\s+|best\s+)?(?:correct|right|best|answer)\b")
_LISTED = re.compile(
    r"^[^\S\n]*(?:[-*]\s+)?(?:(?i:option|choice)\s+)?[(\[]?([A-Z])(?:[)\]][^\S\n]*[.:]?|[.:])[^\S\n]+\S",
    re.MULTILINE,
)
_SUPPOSES = re.compile(r"\b(?:if|unless)\b", re.IGNORECASE)
_SCIENCEQA_SENTENCE = re.compile(r"The answer is ([A-Z]).")
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
_FAILED = "Failed to obtain answer via API"
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_REFUSED = "Z"
_NO_LLM = "counted as wrong, where VLMEvalKit asks a language model about them"


def choices_of(reference: Reference) -> dict[str, str]:
    """The options of a question by letter; raises DataError when `choices` is not a list of texts."""
    choices = reference.meta.get("choices")
    if not isinstance(choices, list) or not 1 <= len(choices) <= len(LETTERS):
        raise DataError("a multiple-choice question needs 'choices' in its JSON, a list of texts")
    return {LETTERS[index]: str(choice) for index, choice in enumerate(choices)}


def true_letter(reference: Reference) -> str:
    """The reference letter; raises DataError when it is none."""
    truth = reference.answers[0].strip() if len(reference.answers) == 1 else ""
    if not re.fullmatch("[A-Z]", truth):
        raise DataError(f"a multiple-choice question needs one answer A-Z, not {list(reference.answers)}")
    return truth


def parse_letter(answer: str) -> str | None:
    """The letter of "X", "X.", "(X)", "X. text", or the only one in sentences such as "The answer is X".

    Emphasis, quotation marks, a code fence or JSON around it make no difference.
    """
    text = bare(answer)
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper()
    if (chosen := _below_options(text)) is not None:
        return chosen
    if _only_lists(text):
        return None
    if first := _FIRST.match(text):
        return str(first[first.lastindex or 0])
    for patterns in ((_STATED, _RIGHT), (_OPTION,)):  # options are also gone through before one is chosen
        if stated := {match[1] for pattern in patterns for match in pattern.finditer(text)}:
            return str(stated.pop()) if len(stated) == 1 else None
    return None


def _below_options(text: str) -> str | None:
    """The letter that stands alone, or is stated, on the last line below options written out again.

    Those begin with A and leave none out; in another order they are an answer, and why it is not the others.
    """
    above, _, last = text.rpartition("\n")
    listed = "".join(_LISTED.findall(above))
    is_answered = _ALONE.fullmatch(text.partition("\n")[0].strip())
    if is_answered or len(listed) < 2 or not LETTERS.startswith(listed):
        return None
    if _LISTED.match(last.strip()) or _SUPPOSES.search(last):
        return None
    alone = _ALONE.fullmatch(last.strip())
    stated = {match[1] for pattern in (_STATED, _RIGHT) for match in pattern.finditer(last)}
    return alone[1].upper() if alone else stated.pop() if len(stated) == 1 else None


def _only_lists(text: str) -> bool:
    """Whether a text is options written out again, A and those after it a line each, and nothing is chosen."""
    lines = [line for line in text.splitlines() if line.strip()]
    listed = "".join(match[1] for match in map(_LISTED.match, lines) if match)
    return len(lines) > 1 and len(listed) == len(lines) and LETTERS.startswith(listed)


def _letter_of_text(answer: str, choices: object) -> str | None:
    """The letter of the only option that is the answer, or what it announces, word for word."""
    options = [normalise_short(str(choice)) for choice in choices] if isinstance(choices, list) else []
    for said in map(normalise_short, (answer, announced(answer))):
        if said and options[: len(LETTERS)].count(said) == 1:
            return LETTERS[options.index(said)]
    return None


def scienceqa_letter(answer: str) -> str | None:
    """The letter of "X", "X. text", or of one "The answer is X." in the text (LLaVA's eval_science_qa)."""
    if answer[:1] in tuple("ABCDE") and answer[1:3] in ("", ". "):
        return answer[0]
    stated = _SCIENCEQA_SENTENCE.findall(answer)
    return stated[0] if len(stated) == 1 else None


def vlmevalkit_letter(answer: str, choices: dict[str, str]) -> str | None:
    """The option that VLMEvalKit reads since 2026-06-17: by its letter, else by its text.

    The letter is the only one among the words and one of the last four, else what follows the first "answer is"
    (A to D in any case, and be it the start of a word: "the answer is a dog" says A). A refusal is the letter
    Z, which is no option. The text is looked for only in an answer of at most twice the length of all options.
    """
    return _vlmevalkit_option(answer, choices) or _vlmevalkit_text(answer.lower(), choices)


def _vlmevalkit_option(answer: str, choices: dict[str, str]) -> str | None:
    if _FAILED in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return _REFUSED
    words = answer.translate(_MARKS).split()
    letters = [letter for letter in choices if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
        return letters[0]
    if not letters and _REFUSED in words:
        return _REFUSED
    stated = _ANSWER_IS.search(answer)
    letter = stated[1].upper() if stated else None
    return letter if letter in choices else None


def _vlmevalkit_text(answer: str, choices: dict[str, str]) -> str | None:
    if len(answer) > 2 * sum(map(len, choices.values())):
        return None
    named = [letter for letter, choice in choices.items() if choice.lower() in answer]
    return named[0] if len(named) == 1 else None


def score(answer: str, reference: Reference) -> Row:
    """1 when the letter read from the answer is the reference letter."""
    choices = reference.meta.get("choices")
    letter = parse_letter(answer) or _letter_of_text(answer, choices)
    if letter is not None and isinstance(choices, list) and letter not in LETTERS[: len(choices)]:
        letter = None
    return {"score": float(letter == true_letter(reference)), "unparsed": float(letter is None)}


def score_scienceqa(answer: str, reference: Reference) -> Row:
    """ScienceQA: a letter beyond the question's own options is wrong, as an unparsed answer is."""
    choices, truth = choices_of(reference), true_letter(reference)
    letter = scienceqa_letter(answer)
    has_image = float(bool(reference.meta.get("has_image", True)))
    right = float(letter in choices and letter == truth)
    return {
        "score": right,
        "unparsed": float(letter not in choices),
        "image": has_image,
        "image_right": right * has_image,
    }


def score_seed(answer: str, reference: Reference) -> Row:
    """SEED-Bench: the answer has to be the letter and nothing else."""
    return {"score": float(answer == true_letter(reference)), "unparsed": float(len(answer) != 1)}


def score_mcq(answer: str, reference: Reference) -> Row:
    """VLMEvalKit's rules: 1 when the option read is the right one."""
    letter = vlmevalkit_letter(answer, choices_of(reference))
    return {"score": float(letter == true_letter(reference)), "unparsed": float(letter is None)}


def circular_labels(reference: Reference) -> Labels:
    """The question that a rotation of options belongs to, and its category."""
    return {"question": group_name(reference, "group"), **category_label(reference)}


def circular_metrics(totals: Columns) -> dict[str, FloatArray]:
    """CircularEval accuracy, beside that of the single rotations (vanilla where there is but one)."""
    circular = ratio(totals["question_right"], totals["questions"])
    return {"circular_accuracy": circular, **category_metrics(totals)}


CHOICE = Scorer(
    name="choice",
    version="letter-4",
    headline="accuracy",
    score=score,
    metrics=means(accuracy="score", unparsed_ratio="unparsed"),
)
SCIENCEQA = Scorer(
    name="scienceqa",
    version="llava-1",
    headline="image_accuracy",
    score=score_scienceqa,
    metrics=means(image_accuracy="image_right/image", accuracy="score", unparsed_ratio="unparsed"),
    rule="LLaVA's eval_science_qa",
)
SEED = Scorer(
    name="seed",
    version="letter-1",
    headline="accuracy",
    score=score_seed,
    metrics=category_metrics,
    labels=category_label,
    complete=tally("score"),
    rule="LLaVA's convert_seed_for_submission: the answer is the letter",
)
MCQ = replace(
    SEED,
    name="mcq",
    version="vlmevalkit-2",
    score=score_mcq,
    rule="VLMEvalKit's exact matching as of 2026-06-17 (AI2D, MMStar, RealWorldQA)",
    unread=_NO_LLM,
)
MMBENCH = replace(
    MCQ,
    name="mmbench",
    version="circular-2",
    headline="circular_accuracy",
    metrics=circular_metrics,
    labels=circular_labels,
    complete=tally("score", groups=[LabelGroup("question", right="question_right", count="questions")]),
    unit="question",
    rule="MMBench's CircularEval with VLMEvalKit's exact matching as of 2026-06-17",
)
