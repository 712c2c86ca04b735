"""Languages told apart by script and function words, without a model."""

from typing import get_args

import pytest

from vila2cli.settings import Language
from vila2cli.text.language import LANGUAGES, is_in_language, possible_languages

CAPTIONS = {
    "en": "There is a small dog on the grass next to a red ball, and a woman is watching it from a bench.",
    "de": "Ein kleiner Hund liegt auf der Wiese neben einem roten Ball, und eine Frau sitzt auf der Bank.",
    "fr": "Un petit chien est couché dans l'herbe, avec une balle rouge, et une femme est assise sur un banc.",
    "es": "Un perro pequeño está en la hierba con una pelota roja y una mujer que lo mira desde un banco.",
    "it": "Un piccolo cane è nel prato con una palla rossa e una donna che lo guarda da una panchina.",
    "pt": "Um cachorro pequeno está na grama com uma bola vermelha e uma mulher que não olha para ele.",
    "nl": "Een kleine hond ligt op het gras naast een rode bal en een vrouw zit op een bank bij het water.",
    "ru": "Маленькая собака лежит на траве рядом с красным мячом.",
    "el": "Ένας μικρός σκύλος βρίσκεται στο γρασίδι δίπλα σε μια μπάλα.",
    "ar": "كلب صغير يرقد على العشب بجانب كرة حمراء.",
    "he": "כלב קטן שוכב על הדשא ליד כדור אדום.",
    "hi": "एक छोटा कुत्ता घास पर लाल गेंद के पास बैठा है।",
    "th": "สุนัขตัวเล็กนอนอยู่บนสนามหญ้าข้างลูกบอลสีแดง",
    "zh": "一只小狗躺在草地上，旁边有一个红色的球，远处的长椅上坐着一位女士。",
    "ja": "小さな犬が芝生の上で赤いボールの隣に寝ていて、女性がベンチに座っています。",
    "ko": "작은 개가 빨간 공 옆의 잔디 위에 누워 있습니다.",
}


@pytest.mark.parametrize("language", CAPTIONS)
def test_a_caption_is_in_its_own_language_and_in_no_other(language: str) -> None:
    fits = [name for name in CAPTIONS if is_in_language(CAPTIONS[language], name)]
    assert fits == [language] == possible_languages(CAPTIONS[language])


def test_the_settings_know_every_language() -> None:
    assert {*LANGUAGES, ""} == set(get_args(Language)) == {*CAPTIONS, ""}


@pytest.mark.parametrize(
    "text",
    [
        "a red circle",
        "red circle, blue square, star",
        'The word "KAB" is written at the bottom left.',
        "The sign says “Bitte nicht auf den Rasen treten und die Hunde an der Leine führen”.",
        "12 14 16",
        "",
    ],
)
def test_what_cannot_be_told_passes(text: str) -> None:
    assert is_in_language(text, "en")


def test_a_caption_that_turns_into_another_script_is_not_in_its_language() -> None:
    assert not is_in_language("A dog. " + CAPTIONS["zh"], "en")
    assert is_in_language("The sign above the old wooden door of the shop reads 花店.", "en")


def test_a_long_list_of_words_has_no_language() -> None:
    assert not is_in_language("gpu kub lorm " * 8, "en")
