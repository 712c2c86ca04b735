"""What language models write around a merged caption; the longer answers are SmolLM2-135M-Instruct's own."""

import pytest

from vila2cli.text.merged import labels_of, merged_part
from vila2cli.text.prompts import prompt_text

LABELS = ("Sentence 1:", "Sentence 2:")
CAR = "A man talking on a phone standing behind a blue car."
COURT = "A professional tennis player serving on a clay court"


def test_labels_are_those_of_the_prompt() -> None:
    slots = ("original", "recaption")
    assert labels_of(prompt_text("merge-v1"), slots) == LABELS
    assert labels_of("Web: {original}\n**New**: {recaption} (of a model)", slots) == ("Web:", "**New**:")
    assert labels_of("Join {original}\n{recaption}", slots) == ()
    assert labels_of("{original} + {recaption}", slots) == ()


@pytest.mark.parametrize(
    ("answer", "merged"),
    [
        (CAR, CAR),
        (f"Sure! Here is the merged caption:\n\n{CAR}", CAR),
        (f'"{CAR}"', CAR),
        (f"“{CAR}”", CAR),
        (f"- {CAR}", CAR),
        (f"1. {CAR}", CAR),
        (f"**Merged sentence:** {CAR}", CAR),
        (f'The combined sentence would be: "{CAR}"', CAR),
        (f"{CAR}\n\nThis sentence combines the two given sentences into one.", CAR),
        (f"{CAR}\n\nNote that I left out the second car.", CAR),
        (f"New sentence: The man.\n\nRevised sentence: {CAR}\n\nI removed a word.", CAR),
        (f"Sentence 1: {CAR}", CAR),
        (
            f"Sentence 1: {CAR}\nSentence 2: An older man on a small pole.\n\nCombined Sentence: {CAR}\n\n"
            "The original sentence is grammatically correct, but it contains a grammatical error. The original",
            CAR,
        ),
        (f"Sentence 1: {COURT}\nSentence 2: A tennis player in front of a crowd.\n\n{CAR}", CAR),
        (f"**Sentence 1:** {COURT}\n**Sentence 2:** A player.\n{CAR}\n\n{CAR}", CAR),
        (f"Sentence 1: {COURT}\nSentence 2: A tennis player on a clay court in front of a crowd.", ""),
        (f"Sentence 1: {COURT}\nSentence 2: A player.\n\nThe two sentences are alike.", ""),
        ("A sign says: new\n\nIt is red.", "A sign says: new\n\nIt is red."),
        (
            '"STOP" is on the sign and "GO" on the bus, says "A"',
            '"STOP" is on the sign and "GO" on the bus, says "A"',
        ),
    ],
)
def test_the_merged_caption_is_found(answer: str, merged: str) -> None:
    assert merged_part(answer, LABELS) == merged
