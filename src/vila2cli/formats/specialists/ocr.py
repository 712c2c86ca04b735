"""Reading: words with boxes are recognised, questions that people asked understood (VILA^2 section 2.2.1)."""

from collections.abc import Sequence
from random import Random
from statistics import median

from vila2cli.formats.specialists.boxes import box_text
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Conversation, Picture, spread
from vila2cli.formats.specialists.rules import clean, text_problem
from vila2cli.text.prompts import PROMPTS, stable_hash

MAX_WORDS = 60
"""Words of a full reading; a page of small print would drown what can be read."""
READ_ALL = ("What text can be seen in the image?", "Read the text in the image.")
READ_BOX = ("What is written at {box}?", "Read the text in {box}.")
FIND_WORD = ('Where is "{text}" written? Answer with [xmin,ymin,xmax,ymax].', 'Locate the text "{text}".')


def converse(picture: Picture, things: Sequence[Boxed], settings: BuildSettings) -> Conversation:
    """Questions about a picture's legible words and those people asked, drawn by its name and the seed."""
    talk = Conversation()
    random = Random(stable_hash("ocr", settings.seed, picture.name))
    words = reading_order([thing for thing in things if thing.text is not None])
    problems = [question_problem(question, answer) for question, answer in picture.questions]
    talk.unasked.update(problem for problem in problems if problem)
    pairs = zip(picture.questions, problems, strict=True)
    asked = [(clean(question), clean(answer)) for (question, answer), problem in pairs if not problem]
    if not words and not asked:
        legible = "no legible word and no question with a plausible answer"
        talk.problem = ("no-text", f"{legible} among {len(picture.things)} words")
        return talk
    if words:
        shown = words[:MAX_WORDS]
        text = " ".join(clean(word.text or "") for word in shown)
        if settings.describe:
            more = " and more" if len(words) > len(shown) else ""
            talk.ask("describe", PROMPTS["ocr-v1"], f'The text in the image reads "{text}"{more}.', shown)
        elif len(words) <= MAX_WORDS:
            talk.ask("read-all", random.choice(READ_ALL), text, shown)
    texts = [(word.text or "").casefold() for word in words]
    kinds: dict[str, list[int]] = {
        "read-box": list(range(len(words))),
        "find-word": [index for index, text in enumerate(texts) if texts.count(text) == 1],
        "comprehend": list(range(len(asked))),
    }
    talk.unasked["not-drawn"] += len(asked)
    for kind, index in spread(kinds, settings.max_questions, random):
        if kind == "comprehend":
            talk.ask(kind, *asked[index])
            talk.unasked["not-drawn"] -= 1
            continue
        text, box = clean(words[index].text or ""), box_text(words[index].box)
        if kind == "read-box":
            talk.ask(kind, random.choice(READ_BOX).format(box=box), text, [words[index]])
        else:
            talk.ask(kind, random.choice(FIND_WORD).format(text=text), box, [words[index]])
    return talk


def question_problem(question: str, answer: str) -> str:
    """Why people's question and answer are not used, "" when they are."""
    if not clean(question):
        return "no-question"
    return text_problem(answer) if answer.strip() else "no-answer"


def reading_order(words: Sequence[Boxed]) -> list[Boxed]:
    """Words line by line from the top, each line from the left; a line is as high as the median word."""
    if not words:
        return []
    height = median(word.box[3] - word.box[1] for word in words)
    lines: list[list[Boxed]] = []
    for word in sorted(words, key=_middle_y):
        if lines and _middle_y(word) - _middle_y(lines[-1][0]) <= height / 2:
            lines[-1].append(word)
        else:
            lines.append([word])
    return [word for line in lines for word in sorted(line, key=lambda word: word.box[0])]


def _middle_y(word: Boxed) -> float:
    return (word.box[1] + word.box[3]) / 2
