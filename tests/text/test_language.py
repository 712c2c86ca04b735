"""Languages told apart by script and py3langid, sentence by sentence."""

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


@pytest.mark.parametrize(
    "text",
    [
        "Na zdjęciu widać małego psa leżącego na trawie obok czerwonej piłki, a kobieta siedzi na ławce.",
        "Küçük bir köpek çimenlerin üzerinde kırmızı bir topun yanında yatıyor.",
        "Pieni koira makaa nurmikolla punaisen pallon vieressä, ja nainen istuu penkillä.",
        "Egy kis kutya fekszik a fűben egy piros labda mellett, és egy nő ül a padon.",
        "En liten hund ligger på gräset bredvid en röd boll och en kvinna sitter på en bänk.",
        "Một con chó nhỏ nằm trên cỏ cạnh quả bóng đỏ, và một người phụ nữ ngồi trên ghế.",
        "Seekor anjing kecil berbaring di rumput di samping bola merah.",
        "Un gos petit està estirat a la gespa al costat d’una pilota vermella.",
    ],
)
def test_other_languages_in_latin_letters_are_none_of_ours(text: str) -> None:
    assert possible_languages(text) == []


def test_other_languages_in_the_same_script_are_told_apart() -> None:
    assert (
        possible_languages("Маленький собака лежить на траві біля червоного м’яча, а жінка сидить на лавці.")
        == []
    )
    assert possible_languages("Малко куче лежи на тревата до червена топка, а жена седи на пейката.") == []
    assert possible_languages("سگ کوچکی روی چمن کنار توپ قرمز دراز کشیده است.") == []
    assert possible_languages("एक लहान कुत्रा लाल चेंडूजवळ गवतावर बसला आहे.") == []


@pytest.mark.parametrize("other", [name for name in CAPTIONS if name != "en"])
def test_a_caption_that_goes_on_in_another_language_is_in_neither(other: str) -> None:
    assert possible_languages(f"{CAPTIONS['en']} {CAPTIONS[other]}") == []
    assert possible_languages(f"{CAPTIONS[other]}\n{CAPTIONS['en']}") == []


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs in the park. 一只狗在公园里奔跑。",
        "The image shows a large building with 红色的屋顶和白色的墙壁，前面有一个大花园。",
        "a 熊猫 eats 竹子 in the 动物园 near 一个湖",
        "A dog lies on the grass. Ein Hund liegt auf der Wiese neben dem Ball.",
    ],
)
def test_half_a_caption_in_another_language_is_found(text: str) -> None:
    assert not is_in_language(text, "en")


@pytest.mark.parametrize(
    "text",
    [
        "The sign reads 请勿吸烟禁止停车 in red letters.",
        "A bottle of 可口可乐 (Coca-Cola) stands on a table next to a glass.",
        "The man wears a shirt. It says:\n请勿吸烟\nHe smiles at the camera.",
        "The café Les Deux Magots in Paris on a rainy day",
        "Marie Curie, Pierre Curie, Irène Joliot-Curie",
        "Saturn's moons, from https://nssdc.gsfc.nasa.gov/planetary/planets/saturnpage.html",
    ],
)
def test_names_and_signs_do_not_change_the_language(text: str) -> None:
    assert is_in_language(text, "en")
    assert is_in_language("图片中是一台 MacBook Pro 笔记本电脑，旁边放着一杯 Starbucks 咖啡。", "zh")


def test_real_captions_are_english(real_captions: list[str]) -> None:
    assert [text for text in real_captions[::7] if not is_in_language(text, "en")] == []


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("th", "ป้าย McDonald's ตั้งอยู่หน้าร้านอาหาร มีคนเดินผ่านไปมา"),
        ("ko", "간판에 Starbucks라고 쓰여 있다."),
        ("en", "A book cover titled El amor en los tiempos del cólera by Gabriel García Márquez."),
        ("en", "The menu lists crème brûlée, bouillabaisse, coq au vin and pâté en croûte."),
    ],
)
def test_brands_and_titles_do_not_change_the_language(language: str, text: str) -> None:
    assert is_in_language(text, language)


def test_a_title_hides_no_other_language() -> None:
    assert not is_in_language("A book titled Berlin. Im Hintergrund steht ein blaues Haus mit Garten.", "en")
    assert not is_in_language("ภาพรถสีแดง parked under a big tree near the house", "th")


def test_a_word_without_end_is_looked_at_once() -> None:
    """A hundred thousand letters, looked through anew from each of them, took minutes."""
    noise = "x" * 100_000
    assert "en" in possible_languages(noise)
    assert is_in_language(f"{noise}= A dog runs over the wet grass of the park.", "en")
    assert not is_in_language(f"{noise}= Ein Hund rennt über die nasse Wiese im Park.", "en")
