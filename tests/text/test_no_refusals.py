"""Captions that sound like a refusal, in every language that captions can be asked in."""

from typing import get_args

import pytest

from vila2cli.settings import Language
from vila2cli.text.refusals import refuses

CAPTIONS = {
    "en": (
        "The image failed to catch the bird's wings sharply.",
        "I love you is written on the wall.",
        "I can do it, says the poster.",
        "I am a robot, says the screen of the toy.",
        "I will survive is written across the T-shirt of the singer.",
        "I can't believe it's not butter is printed on the tub.",
        "I don't know is written on the board.",
        "Unfortunately placed traffic sign in front of a shop.",
        "Sorry is written on a piece of paper.",
        "Sorry for the inconvenience is printed on a sign at the road works.",
        "No dogs allowed sign on a fence.",
        "It is not possible to enter: a closed gate with a chain.",
        "We are sorry, closed today: a note taped on a shop window.",
        "Due to construction the road is closed, as a sign says.",
        "As a model poses on the catwalk, photographers take pictures.",
        "Not able to fly, the penguin stands on the ice.",
        "This image cannot be described as sharp: it shows a blurred car.",
        "The image may contain: one person, sky, beach.",
        "An individual who cannot be identified stands in the shadow.",
        "Cannot beach, a resort, seen from above.",
        "A cannot-be-missed red tower.",
        "Hello, I am Ann, says a name tag on the jacket of a woman.",
        "Thanks a lot, written on a card with flowers.",
        "I'm a Barbie girl is written on the pink cup.",
        "I do is written on the cake of the bride and groom.",
        "My name is Earl is the title on the poster.",
        "A notable feature of the building is its tower.",
        "A man says that he is sorry.",
        "The man is unable to lift the box.",
        "Unable to lift the box, the man sits down on it.",
        "A sign that says Sorry, we're closed hangs on the door.",
        "Sorry, we're closed",
        '"I can\'t wait" is printed on a shirt.',
        "“I’m sorry” is written on a card next to a bunch of flowers.",
        "'I cannot tell a lie' stands below the portrait.",
        "Asian food on a plate.",
        "As an airplane takes off, a crowd waves.",
        "As an artificial lake, it is round.",
        "As an assistant holds the lamp, the surgeon works.",
        "I can see a cat.",
        "I see a red car in front of a house.",
        "An apology is printed in the newspaper.",
        "Apologies written in chalk cover the wall.",
        "A robot with a screen that reads: I'm sorry, Dave. I'm afraid I can't do that.",
        "No one is in the room, and no image hangs on the wall.",
        "The dog cannot see the ball behind the tree.",
        "I love New York is printed on a mug.",
        "It is impossible to see the far bank through the fog.",
        "Unfortunate weather: a tent lies in the mud.",
        "The woman is not able to reach the shelf. She is afraid of the ladder.",
        "Ai Weiwei stands next to his sculpture.",
        "An AI-generated picture of a castle.",
        "Thank you for not smoking, says a sign at the gate.",
        "Hello Kitty sits on a shelf.",
    ),
    "de": (
        "Es ist kein Foto vorhanden, nur ein leerer Rahmen hängt an der Wand.",
        "Leider, ein Gasthaus in den Bergen.",
        "Leiderdorp station with a train.",
        "Ein Schild mit der Aufschrift „Leider geschlossen“ hängt an der Tür.",
        "Der Mann kann die Kiste nicht heben.",
        "Als Kind trägt sie einen roten Hut.",
        "Das Bild zeigt einen Hund, der nicht in das Wasser will.",
        "Als Kinderbuch gestaltete Broschüre mit einem Hund.",
        "Eine Frau entschuldigt sich bei einem Polizisten.",
        "Ein Leiterwagen steht vor dem Haus.",
    ),
    "fr": (
        "Il n'y a pas de personnes sur l'image.",
        "Je t'aime est écrit sur le mur.",
        "Une pancarte « Désolé, nous sommes fermés » est accrochée à la porte.",
        "Un homme ne peut pas soulever la caisse.",
        "En tant que mannequin, elle pose devant un mur.",
        "Désolante plaine sous un ciel gris.",
        "Un jeune garçon je ne sais où joue au ballon.",
        "L'image montre un chat qui n'est pas sur le tapis.",
    ),
    "es": (
        "No hay fotos en la pared.",
        "No entrar: una señal roja en una puerta.",
        "Un cartel que dice «Lo siento, está cerrado».",
        "El hombre no puede levantar la caja.",
        "No hay nadie en la calle.",
        "Como modelo, ella posa frente a una pared.",
        "Una mujer se disculpa con un policía.",
        "Perdón es la palabra escrita en la pared.",
    ),
    "it": (
        "Non calpestare l'erba è scritto sul cartello.",
        "Un cartello con scritto «Mi dispiace, siamo chiusi».",
        "L'uomo non può sollevare la scatola.",
        "Non lontano dal ponte si vede una barca.",
        "Come una modella, la donna posa davanti al muro.",
        "Spiaggia con ombrelloni rossi.",
    ),
    "pt": (
        "Não fumar: uma placa na parede.",
        "Uma placa que diz “Desculpe, estamos fechados”.",
        "O homem não consegue levantar a caixa.",
        "Não há ninguém na rua.",
        "Como modelo, ela posa em frente a uma parede.",
        "Desculpas escritas a giz numa parede.",
    ),
    "nl": (
        "Ik hou van jou staat op de muur geschreven.",
        "Een bord met de tekst “Sorry, wij zijn gesloten”.",
        "De man kan de doos niet optillen.",
        "Als kind draagt zij een rode hoed.",
        "Een straat zonder mensen, niet ver van het water.",
    ),
    "ru": (
        "Я люблю тебя — надпись на стене.",
        "На табличке написано «Извините, закрыто».",
        "Мужчина не может поднять ящик.",
        "Ягоды лежат в миске, их не видно целиком.",
        "Как на картине, дерево стоит у воды.",
    ),
    "el": (
        "Δεν είναι κανείς στην παραλία.",
        "Μια πινακίδα που γράφει «Συγγνώμη, κλειστά».",
        "Ο άντρας δεν μπορεί να σηκώσει το κουτί.",
        "Δεν υπάρχει κανείς στον δρόμο.",
    ),
    "ar": (
        "لا للتدخين، لافتة على الجدار.",
        "لافتة مكتوب عليها «عذرا، المحل مغلق».",
        "الرجل لا يستطيع رفع الصندوق.",
        "لا أحد في الشارع.",
        "أسد يجلس على العشب.",
    ),
    "he": (
        'שלט שכתוב עליו "סליחה, סגור" תלוי על הדלת.',
        "האיש לא יכול להרים את הארגז.",
        "אין איש ברחוב.",
        "אניה לבנה בנמל.",
    ),
    "hi": (
        "मैं तुमसे प्यार करता हूँ, दीवार पर लिखा है।",
        'एक बोर्ड पर लिखा है "क्षमा करें, दुकान बंद है"।',
        "आदमी बक्सा नहीं उठा सकता।",
        "महिला लाल साड़ी में है और उसके पास कोई नहीं है।",
        "मैदान में दो बच्चे खेल रहे हैं, वहाँ कोई पेड़ नहीं है।",
        "एक आदमी सड़क पर चल रहा है।",
    ),
    "th": (
        "ฉันรักเธอ เขียนอยู่บนกำแพง",
        'ป้ายที่เขียนว่า "ขออภัย ร้านปิด" แขวนอยู่ที่ประตู',
        "ผู้ชายไม่สามารถยกกล่องได้",
        "ผมสีดำของผู้หญิงยาวมาก",
        "ไม่มีใครอยู่บนถนน",
    ),
    "zh": (
        "图中的男子没有提供照片。",
        "我爱你三个字写在墙上。",
        "门上挂着一块牌子，上面写着“抱歉，本店已打烊”。",
        "男人无法抬起箱子。",
        "我们看到一只猫坐在垫子上。",
        "图中一位医生无法看到病人的脸。",
        "不同颜色的气球飘在空中。",
        "作为背景的山脉覆盖着白雪。",
    ),
    "ja": (
        "私の名前と書かれた本。",
        "ドアに「申し訳ありません、閉店しました」と書かれた看板が掛かっている。",
        "男性は箱を持ち上げることができません。",
        "この画像には、海辺を走る犬が写っています。人の顔は確認できません。",
        "私服の女性が駅前に立っている。",
    ),
    "ko": (
        "이미지가 흐리다.",
        "나는 학생이다라고 적힌 칠판.",
        "문에 '죄송합니다, 영업 종료'라고 적힌 팻말이 걸려 있다.",
        "남자는 상자를 들 수 없습니다.",
        "이 이미지는 해변을 달리는 개를 보여줍니다.",
        "저녁 노을이 바다 위로 지고 있다.",
    ),
}


def test_every_language_of_the_settings_has_such_captions() -> None:
    assert set(get_args(Language)) - {""} == set(CAPTIONS)


@pytest.mark.parametrize(
    ("language", "text"), [(name, one) for name, texts in CAPTIONS.items() for one in texts]
)
def test_a_caption_is_no_refusal(language: str, text: str) -> None:
    assert not refuses(text)


def test_real_captions_are_no_refusals(real_captions: list[str]) -> None:
    assert len(real_captions) > 30_000
    assert [text for text in real_captions if refuses(text)] == []
