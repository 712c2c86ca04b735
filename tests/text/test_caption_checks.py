from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vila2cli.text.caption_checks import Standard, check_caption, is_boilerplate, repeats_itself, shortest_echo
from vila2cli.text.lead_ins import strip_wrapping
from vila2cli.text.refusals import refuses
from vila2cli.text.words import cut_to_sentence, num_words, sentences

WORLD_CAPTION = (
    "The image shows three objects and a word. There is a large red circle at the top left. "
    "There is a small blue square at the bottom right. There is a large red star at the top right. "
    'The word "KAB" is written at the bottom left.'
)


MORE = (
    ("grey", "wall"),
    ("white", "house"),
    ("brown", "bridge"),
    ("black", "gate"),
    ("red", "tower"),
    ("old", "mill"),
)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("A cat sits. A dog ru", "A cat sits."),
        ("A cat sits.", "A cat sits."),
        ("A cat sits on", ""),
        ('It reads "STOP." Next to', 'It reads "STOP."'),
        ("It costs 3.50 at", ""),
        ("This is St. Mary's Chu", ""),
        ("Mr. A. Smith waves. He wears e.g. a hat", "Mr. A. Smith waves."),
        ("Is it a cat? Yes! It", "Is it a cat? Yes!"),
        ("一只猫坐着。一只狗", "一只猫坐着。"),
        ("एक कुत्ता बैठा है। एक बिल्ली", "एक कुत्ता बैठा है।"),
        ("ایک کتا بیٹھا ہے۔ ایک بلی", "ایک کتا بیٹھا ہے۔"),
        ("هل هذا كلب؟ نعم هو", "هل هذا كلب؟"),
        ("Είναι σκύλος; Ναι είναι", "Είναι σκύλος;"),
        ("猫が座っています｡犬が", "猫が座っています｡"),
        ("長さは３．５メートルです．犬が", "長さは３．５メートルです．"),
        ("สุนัขนอนอยู่บนหญ้า แมวนั่งอยู่บนเสื่อ ผู้หญิ", "สุนัขนอนอยู่บนหญ้า แมวนั่งอยู่บนเสื่อ"),
        ("", ""),
    ],
)
def test_cut_to_sentence(text: str, whole: str) -> None:
    assert cut_to_sentence(text) == whole


@given(st.text(alphabet="ab .!?\n。", max_size=60))
def test_cutting_twice_is_cutting_once(text: str) -> None:
    whole = cut_to_sentence(text)
    assert text.strip().startswith(whole) or whole in text
    assert cut_to_sentence(whole) == whole


@pytest.mark.parametrize(
    ("text", "looped"),
    [
        (WORLD_CAPTION, False),
        ("a very, very, very big dog", False),
        ("He says: no, no, no, no!", False),
        ("red blue green red blue green red blue green", True),
        ("no " * 8, True),
        ("A cat sits here. A dog runs. A cat sits here. A bird. A cat sits here.", True),
        ("A cat sits here. A dog runs. A cat sits here.", False),
        ("The sign reads hahahahahahahahahahahahahahahahahahahaha", True),
        ("猫狗猫狗猫狗猫狗猫狗", True),
        ("一只猫坐在垫子上，旁边有一只狗。", False),
        ("Row 1: 12, 14, 12. Row 2: 12, 14, 13. Row 3: 12, 15, 12.", False),
        (
            "| Day | Temperature |\n|----------------|-----------------------|\n| Mon | 12 |\n| Tue | 14 |",
            False,
        ),
        ("| a | b | c | d |\n|:---:|:---:|:---:|:---:|\n| 1 | 2 | 3 | 4 |", False),
        (
            "+----------+---------+\n| Name     | Age     |\n+==========+=========+\n| Ann      | 30      |",
            False,
        ),
        ("A form with the lines Name: ______________________ Date: ____________________ and a stamp.", False),
        ("Chapter 1 .............................. 5\nChapter 2 .............................. 19", False),
        ("Soup · · · · · · · · · · · · · · · · · · · 4.50\nTea – – – – – – – – – – – – – – – – – 2.00", False),
        ("Title\n====================\nText\n────────────────────", False),
        (
            "| Mon | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |\n| Tue | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |",
            False,
        ),
        ("x\t0\t0\t0\t0\t0\t0\t0\t0\t0\ny\t0\t0\t0\t0\t0\t0\t0\t0\t1", False),
        ("☐ Yes ☐ No\n☐ Yes ☐ No\n☐ Yes ☐ No\n☐ Yes ☐ No\n☐ Yes ☐ No", False),
        ("| 5 | 5 | 5 " * 30, True),
        ("| a | b |\n" * 30, True),
        ("-" * 400, True),
        ("|---" * 120, True),
        ("___________\n" * 40, True),
        ("!" * 60, True),
        ("A cat" + " sits" * 12, True),
        ("一只猫坐着。" * 4, True),
    ],
)
def test_repeats_itself(text: str, looped: bool) -> None:
    assert repeats_itself(text) is looped


def test_a_loop_at_the_end_of_a_good_caption_is_found() -> None:
    assert repeats_itself(WORLD_CAPTION + " and a tree next to a tree next to a tree next to a tree next to a")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I cannot describe this image.", True),
        ("I cannot help with that.", True),
        ("As an AI language model, I", True),
        ("Sorry, no image was given.", True),
        ("A man says that he is sorry.", False),
        ("Asian food on a plate.", False),
        ("I can see a cat.", False),
        ("As an AI, I have no eyes.", True),
        ("As an airplane takes off, a crowd waves.", False),
        ("As an artificial lake, it is round.", False),
    ],
)
def test_refuses(text: str, refused: bool) -> None:
    assert refuses(text) is refused


def test_num_words() -> None:
    assert num_words("The dog's well-known 3.5 m leash, red!") == 7
    assert num_words("一只猫 sits") == 4
    assert num_words(" ... ") == 0
    assert num_words("एक छोटा कुत्ता घास पर बैठा है।") == 7
    assert num_words("un cafe\u0301 noir") == 3


def test_sentences() -> None:
    assert sentences("One. Two! Three") == ["One.", "Two!", "Three"]
    assert sentences("") == []


def test_check_caption_keeps_cuts_and_drops() -> None:
    kept = check_caption(f" {WORLD_CAPTION}\n", reached_limit=False)
    assert (kept.text, kept.defect, kept.was_cut) == (WORLD_CAPTION, None, False)
    assert check_caption("a red circle", reached_limit=False).defect is None
    cut = check_caption("A cat sits. A dog ru", reached_limit=True)
    assert (cut.text, cut.defect, cut.was_cut) == ("A cat sits.", None, True)
    ended = check_caption("A cat sits.", reached_limit=True)
    assert (ended.text, ended.defect, ended.was_cut) == ("A cat sits.", None, False)
    assert check_caption("A cat sits on a", reached_limit=True).defect == "truncated"
    assert check_caption(" ,. ", reached_limit=False).defect == "empty"
    assert check_caption("I'm sorry, I can't.", reached_limit=False).defect == "refusal"
    assert check_caption("a b c " * 20, reached_limit=True).defect == "repetition"
    assert check_caption("A cat sits. " + "_" * 80, reached_limit=True).defect == "repetition"
    assert check_caption("Name: " + "_" * 80, reached_limit=False).defect is None


def test_a_few_sentences_that_several_panels_share_are_no_loop(real_captions: list[str]) -> None:
    panel = (
        "The curve begins at 300 K. The {0} curve of {1} then rises to {2} km and falls back to {3} K at night."
    )
    panels = [panel.format(["red", "blue", "green"][i], "ABC"[i], 10 + i, 20 + i) for i in range(3)]
    more = " ".join(f"Behind it lies a {colour} {thing} of stone." for colour, thing in MORE)
    assert not repeats_itself(" ".join([*panels, more]))
    assert repeats_itself(" ".join(panels[:1] * 3))
    looped = [text for text in real_captions if repeats_itself(text)]
    assert all(text.startswith("123456789 123456789") for text in looped)


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ("<think>A dog? No, a cat.</think>\n\nA cat sits.", None),
        ("A dog? No, a cat.\n</think>\n\nA cat sits.", None),
        ("<think>A dog? No, a", "reasoning"),
        ("Okay, let's see. The user wants a caption. There is a cat on a", "reasoning"),
        ("<think>Fine.</think>I'm sorry, but I can't help with that.", "refusal"),
        ("<think>Fine.</think>Sure! Here is a caption:\nA cat sits.", None),
        ("<think>Fine.</think>", "reasoning"),
    ],
)
def test_the_caption_stands_behind_the_reasoning(text: str, defect: str | None) -> None:
    checked = check_caption(text, reached_limit=True)
    assert checked.defect == defect
    assert checked.has_reasoning
    if defect is None:
        assert (checked.text, checked.was_stripped, checked.was_cut) == ("A cat sits.", True, False)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Sure! Here is a detailed description of the image:\n\nA cat sits.", "A cat sits."),
        ("Here's the caption: A cat sits.", "A cat sits."),
        ("Certainly. A cat sits.", "A cat sits."),
        ("New Sentence: A cat sits.", "A cat sits."),
        ("A cat sits. Let me know if you need anything else!", "A cat sits."),
        ("A cat sits. I hope this helps. If you have questions, ask.", "A cat sits."),
        ("Here are two cats on a mat.", "Here are two cats on a mat."),
        ("A sign reads: caption: none", "A sign reads: caption: none"),
        ("Sure-footed goats climb a hill.", "Sure-footed goats climb a hill."),
        ("A cat sits.\nA dog runs.", "A cat sits.\nA dog runs."),
        (
            "A sign says call us if you need help. A man in a blue coat stands beside it.",
            "A sign says call us if you need help. A man in a blue coat stands beside it.",
        ),
        (
            'A sign reads "Wait here. If you need help, ask." A man waits.',
            'A sign reads "Wait here. If you need help, ask." A man waits.',
        ),
        (
            "Here are three signs that read: STOP, YIELD and GO.",
            "Here are three signs that read: STOP, YIELD and GO.",
        ),
        ("Here is what I see in the image: A cat sits.", "A cat sits."),
        ("Natürlich! Hier ist eine Beschreibung des Bildes:\n\nEine Katze sitzt.", "Eine Katze sitzt."),
        ("Bien sûr ! Voici une description de l'image : Un chat est assis.", "Un chat est assis."),
        ("¡Claro! Aquí tienes una descripción: Un gato.", "Un gato."),
        ("Ecco una descrizione dell'immagine: Un gatto. Fammi sapere se serve altro!", "Un gatto."),
        ("Claro! Aqui está a legenda: Um gato. Espero que isso ajude.", "Um gato."),
        ("Natuurlijk! Hier is een beschrijving: Een kat zit. Laat het me weten.", "Een kat zit."),
        ("Конечно! Вот описание изображения: Кошка сидит.", "Кошка сидит."),
        ("Φυσικά! Ακολουθεί η περιγραφή: Μια γάτα.", "Μια γάτα."),
        ("بالتأكيد! إليك وصف الصورة: قطة تجلس.", "قطة تجلس."),
        ("בטח! הנה תיאור התמונה: חתול יושב.", "חתול יושב."),
        ("ज़रूर! यहाँ छवि का विवरण है: एक बिल्ली बैठी है।", "एक बिल्ली बैठी है।"),
        ("ได้เลยครับ! นี่คือคำบรรยายภาพ: แมวนั่งอยู่", "แมวนั่งอยู่"),
        ("当然！以下是对图片的描述：一只猫坐着。希望这对您有帮助。", "一只猫坐着。"),
        ("もちろんです。以下は画像の説明です：猫が座っています。", "猫が座っています。"),
        ("물론입니다! 다음은 이미지에 대한 설명입니다: 고양이가 앉아 있다.", "고양이가 앉아 있다."),
        ("Beschreibung: Eine Katze sitzt.", "Eine Katze sitzt."),
        ('Here is a caption for the image:\n\n"A cat sits."', "A cat sits."),
        ('"Stop" says a sign beside the "Inn".', '"Stop" says a sign beside the "Inn".'),
        ('"A cat sits."', '"A cat sits."'),
        ("### Description\nA cat sits.", "A cat sits."),
        ("## **Caption**\n\nA cat sits.", "A cat sits."),
        ("Assistant: A cat sits.", "A cat sits."),
        ("```\nA cat sits.\n```", "A cat sits."),
        ("The screen shows\n```\nprint(1)\n```", "The screen shows\n```\nprint(1)\n```"),
        ('```json\n{"caption": "A cat sits."}\n```', "A cat sits."),
        ('{"caption": "A cat", "mood": "calm"}', '{"caption": "A cat", "mood": "calm"}'),
        ('{"type": "meme"} is on the screen', '{"type": "meme"} is on the screen'),
        ("Absolutely! Here's a caption:\n\n---\n\nA cat sits.\n\n---", "A cat sits."),
        ("图片描述：一只猫坐着。", "一只猫坐着。"),
        ("Of course, the Sun is not infinitely far away.", "Of course, the Sun is not infinitely far away."),
        ("Klare Sicht auf die Berge.", "Klare Sicht auf die Berge."),
        ("Voici un chat. Il dort.", "Voici un chat. Il dort."),
    ],
)
def test_strip_wrapping(text: str, bare: str) -> None:
    assert strip_wrapping(text) == bare
    assert strip_wrapping(bare) == bare
    checked = check_caption(text, reached_limit=False)
    assert (checked.text, checked.defect, checked.was_stripped) == (bare, None, text != bare)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("No image was provided, so there is nothing to describe.", True),
        ("The image could be of a cat. Please provide the image.", True),
        ("A picture of [insert object here].", True),
        ("A cat<|im_end|> sits.", True),
        ("Image not found", True),
        ("The image could not be loaded.", True),
        ("It seems that no image was provided.", True),
        ("A web page with a sad robot that says image not found.", False),
        ('"Image not found" is written on a gray page.', False),
        ("A template of a web page with lorem ipsum text.", False),
        ("A poster that says all rights reserved.", False),
        ("A webcam image of a cat, no images on the wall.", False),
        ("A score of <3 and a heart.", False),
    ],
)
def test_boilerplate(text: str, found: bool) -> None:
    assert is_boilerplate(text) is found


def test_a_caption_may_not_repeat_its_instruction() -> None:
    prompt = "Describe the image in details."
    assert shortest_echo(prompt, prompt) == "describe the image in details"
    long = "Elaborate on the visual and narrative elements of the image in detail."
    assert is_boilerplate("Elaborate on the visual and narrative side: a cat.", shortest_echo(long, long))
    # A caption may well open like a prompt that begins with the alt-text.
    own = shortest_echo("This is a picture of {alt_text}. Say more.", "This is a picture of a cat. Say more.")
    assert not is_boilerplate("This is a picture of a cat on a mat.", own)
    assert is_boilerplate("This is a picture of a cat. Say more.", own)
    assert shortest_echo("Describe it.", "Describe it.") == "Describe it."
    assert is_boilerplate("Describe the image in details. Describe it.", prompt)
    assert not is_boilerplate("Describe the image.", prompt)
    assert check_caption("Describe the image in details!", reached_limit=False, prompt=prompt).defect == (
        "boilerplate"
    )


def test_the_standard_of_a_recipe() -> None:
    def defect(text: str, *, reached_limit: bool = False, **standard: Any) -> str | None:
        return check_caption(text, reached_limit=reached_limit, standard=Standard(**standard)).defect

    assert defect("a red cat", min_words=4) == "too-short"
    assert defect("a red cat", min_words=3, max_words=3) is None
    assert defect("a very red cat", max_words=3) == "too-long"
    # What is kept is measured, not what was generated.
    assert defect("A cat sits. Then a long cut-off sen", reached_limit=True, max_words=3) is None
    assert defect("Ein Hund liegt auf der Wiese neben dem Ball.", language="en") == "wrong-language"
    assert defect(WORLD_CAPTION, language="en", min_words=10, max_words=60) is None


@given(st.text(max_size=300))
@example("?\r0")  # cut to its last sentence, no word is left
def test_any_text_is_checked(text: str) -> None:
    for reached_limit in (False, True):
        checked = check_caption(text, reached_limit=reached_limit, standard=Standard(language="en"))
        assert checked.defect is not None or num_words(checked.text) > 0


@pytest.mark.parametrize(
    "text",
    ["x" + "\n" * 20_000 + "x", "</think>" * 3_000, "<think>" * 3_000, "<answer>" * 3_000, "reads 猫 " * 3_000],
)
def test_what_runs_to_the_limit_is_no_caption(text: str) -> None:
    assert check_caption(text, reached_limit=True, standard=Standard(language="en")).defect is not None


@pytest.mark.parametrize(
    "table",
    [
        "<table>"
        + "".join(f"<tr><td>{n}</td><td>0</td><td>0</td><td>0</td></tr>" for n in range(6))
        + "</table>",
        "".join(
            f"  <tr>\n    <td>Item {n}</td>\n    <td>yes</td>\n    <td>yes</td>\n  </tr>\n" for n in range(6)
        ),
        "\\begin{array}{ccc} 0 & 0 & 0 & 0 \\\\ 0 & 0 & 0 & 0 \\\\ 0 & 0 & 0 & 0 \\end{array}",
    ],
)
def test_equal_cells_of_html_and_latex_are_no_loop(table: str) -> None:
    assert check_caption(table, reached_limit=False).defect is None


@pytest.mark.parametrize("row", ["<tr><td>a</td><td>b</td></tr>\n", "a & b & b \\\\ ", "<td>a</td>"])
def test_a_table_that_never_ends_is_a_loop(row: str) -> None:
    assert check_caption("A table: " + row * 200, reached_limit=True).defect == "repetition"
