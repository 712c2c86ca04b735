"""Refusals in every language that captions can be asked in, and captions that sound like one."""

from typing import get_args

import pytest

from vila2cli.settings import Language
from vila2cli.text.phrases import phrases
from vila2cli.text.quality import check_caption
from vila2cli.text.refusals import plain, refuses

REFUSED = {
    "en": (
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, but I can’t help with identifying people in images.",
        "I am sorry, but I cannot describe this image.",
        "I'm really sorry, but that is not something I can do.",
        "I'm unable to view images directly.",
        "I am unable to provide a description of the people in this image.",
        "I'm not able to see the image you mention.",
        "I’m currently unable to process images.",
        "I cannot help with that.",
        "I can't identify the person in this photo.",
        "I can't physically see the image, as I am a text model.",
        "I do not have the ability to view images.",
        "I don't have access to the image.",
        "I don't see an image attached to your message.",
        "I do not feel comfortable describing this image.",
        "I apologize, but I cannot fulfil this request.",
        "My apologies, but the image did not load.",
        "Apologies, but I can't continue.",
        "Sorry, I can't help with that.",
        "Sorry, but I am not allowed to describe people.",
        "Sorry, no image was given.",
        "Unfortunately, I am not able to see the picture.",
        "Unfortunately, the image cannot be displayed.",
        "As an AI language model, I cannot see images.",
        "As an AI, I have no eyes.",
        "As a text-based AI model, I don't process pictures.",
        "I must decline to describe this content.",
        "I won't be able to describe this image.",
        "I'm just an AI and have no access to pictures.",
        "I'm afraid I can't do that.",
        "It is not possible for me to describe the image.",
        "It's not appropriate to identify people from their appearance in an image without consent.",
        "This request violates our content policy.",
        "I'd be happy to help, but I don't see any image.",
        "Hello! I'm sorry, but I can't help with this.",
        "Thank you for sharing, but I cannot identify the person.",
        "I understand your request, but I'm unable to describe real people.",
        "**I'm sorry**, I can't help with that.",
        "\"I'm sorry, but I can't assist with that.\"",
        "Unable to describe the image as it is not available.",
        "You haven't uploaded an image.",
        "The image shows a man at a table. I'm sorry, but I can't identify who this is.",
        "A woman smiles at the camera. As an AI language model, I cannot tell who she is.",
    ),
    "de": (
        "Es tut mir leid, aber ich kann dieses Bild nicht beschreiben.",
        "Tut mir sehr leid, dabei kann ich nicht helfen.",
        "Entschuldigung, aber ich kann Personen nicht identifizieren.",
        "Leider kann ich dieses Bild nicht sehen.",
        "Leider ist es mir nicht möglich, das Bild zu beschreiben.",
        "Ich kann Ihnen bei dieser Anfrage leider nicht helfen.",
        "Ich bin nicht in der Lage, Bilder zu sehen.",
        "Ich sehe kein Bild.",
        "Als KI-Sprachmodell kann ich keine Bilder sehen.",
        "Ich entschuldige mich für die Unannehmlichkeiten.",
    ),
    "fr": (
        "Je suis désolé, mais je ne peux pas décrire cette image.",
        "Désolée, je ne peux pas vous aider.",
        "Je ne peux pas identifier les personnes sur cette photo.",
        "Je ne suis pas en mesure de voir les images.",
        "Je n’ai pas la capacité de voir des images.",
        "Malheureusement, je ne vois aucune image.",
        "En tant qu'IA, je ne peux pas voir les images.",
        "En tant que modèle de langage, je ne vois pas.",
        "Il m'est impossible de décrire cette image.",
        "Je regrette, mais je ne peux pas répondre.",
    ),
    "es": (
        "Lo siento, pero no puedo describir esta imagen.",
        "Lo lamento, no puedo ayudar con eso.",
        "No puedo identificar a las personas de la foto.",
        "No soy capaz de ver imágenes.",
        "Lamentablemente, no puedo ver la imagen.",
        "Desafortunadamente no tengo acceso a la imagen.",
        "Como modelo de lenguaje, no puedo ver imágenes.",
        "Me temo que no puedo ayudarte.",
        "Disculpa, pero no puedo hacerlo.",
        "Siento no poder ayudarte con esa imagen.",
    ),
    "it": (
        "Mi dispiace, ma non posso descrivere questa immagine.",
        "Sono spiacente, ma non posso aiutarti.",
        "Non posso identificare le persone nella foto.",
        "Non sono in grado di vedere le immagini.",
        "Purtroppo non riesco a vedere l'immagine.",
        "In quanto modello linguistico, non posso vedere le immagini.",
        "Come intelligenza artificiale, non vedo le immagini.",
        "Mi scuso, ma non posso rispondere.",
        "Scusa, ma non posso farlo.",
    ),
    "pt": (
        "Sinto muito, mas não posso descrever esta imagem.",
        "Desculpe, não consigo ajudar com isso.",
        "Lamento, mas não posso identificar pessoas.",
        "Não posso ajudar com este pedido.",
        "Não sou capaz de ver imagens.",
        "Infelizmente, não consigo ver a imagem.",
        "Como modelo de linguagem, não posso ver imagens.",
        "Peço desculpas, mas não posso continuar.",
        "Eu não tenho acesso à imagem.",
    ),
    "nl": (
        "Het spijt me, maar ik kan deze afbeelding niet beschrijven.",
        "Sorry, maar ik kan je daar niet bij helpen.",
        "Helaas kan ik de afbeelding niet zien.",
        "Ik kan geen personen identificeren.",
        "Ik ben niet in staat om afbeeldingen te bekijken.",
        "Als AI-taalmodel kan ik geen afbeeldingen zien.",
        "Mijn excuses, dat kan ik niet doen.",
        "Het is voor mij niet mogelijk om dit te beschrijven.",
    ),
    "ru": (
        "Извините, но я не могу описать это изображение.",
        "Простите, я не могу помочь с этим.",
        "К сожалению, я не вижу изображение.",
        "Я не могу определить, кто изображён на фото.",
        "Мне очень жаль, но я не могу ответить.",
        "Как языковая модель, я не могу видеть изображения.",
        "Прошу прощения, но это невозможно.",
        "Я не имею возможности просматривать изображения.",
    ),
    "el": (
        "Λυπάμαι, αλλά δεν μπορώ να περιγράψω αυτή την εικόνα.",
        "Συγγνώμη, δεν μπορώ να βοηθήσω.",
        "Δυστυχώς, δεν βλέπω την εικόνα.",
        "Δεν μπορώ να αναγνωρίσω πρόσωπα.",
        "Δεν είμαι σε θέση να δω εικόνες.",
        "Ως γλωσσικό μοντέλο, δεν μπορώ να δω εικόνες.",
        "Ζητώ συγγνώμη, αλλά δεν γίνεται.",
    ),
    "ar": (
        "آسف، لا أستطيع وصف هذه الصورة.",
        "أنا آسف، ولكن لا يمكنني المساعدة في ذلك.",
        "عذرًا، لا يمكنني التعرف على الأشخاص.",
        "أعتذر، لا أستطيع الإجابة.",
        "لا يمكنني رؤية الصور.",
        "للأسف، لا أستطيع رؤية الصورة.",
        "كنموذج لغوي، لا أستطيع رؤية الصور.",
        "لست قادرًا على عرض الصور.",
    ),
    "he": (
        "אני מצטער, אבל אני לא יכול לתאר את התמונה הזו.",
        "מצטערת, איני יכולה לעזור בכך.",
        "סליחה, אבל אינני יכול לזהות אנשים.",
        "לצערי אין באפשרותי לראות את התמונה.",
        "אני לא יכול לראות תמונות.",
        "כמודל שפה, איני יכול לראות תמונות.",
        "אין לי אפשרות לצפות בתמונות.",
    ),
    "hi": (
        "मुझे खेद है, लेकिन मैं इस छवि का वर्णन नहीं कर सकता।",
        "क्षमा करें, मैं इसमें मदद नहीं कर सकता।",
        "माफ़ कीजिए, मैं यह नहीं कर सकती।",
        "मैं इस तस्वीर में व्यक्ति की पहचान नहीं कर सकता।",
        "मैं छवियों को देखने में असमर्थ हूँ।",
        "दुर्भाग्य से, मैं छवि नहीं देख सकता।",
        "एक एआई भाषा मॉडल के रूप में, मैं चित्र नहीं देख सकता।",
        "मैं क्षमा चाहता हूँ, पर यह संभव नहीं है।",
    ),
    "th": (
        "ขออภัย ฉันไม่สามารถอธิบายภาพนี้ได้",
        "ขอโทษครับ ผมไม่สามารถช่วยเรื่องนี้ได้",
        "ฉันไม่สามารถระบุตัวบุคคลในภาพได้",
        "ฉันขอโทษ แต่ฉันไม่เห็นภาพ",
        "ในฐานะโมเดลภาษา ฉันไม่สามารถดูภาพได้",
        "น่าเสียดายที่ฉันไม่สามารถดูรูปภาพได้",
        "ไม่สามารถอธิบายภาพได้",
    ),
    "zh": (
        "抱歉，我无法描述这张图片。",
        "很抱歉，我不能协助处理这个请求。",
        "对不起，我无法识别图中的人物。",
        "對不起，我無法提供協助。",
        "我无法查看图片。",
        "我不能提供这方面的帮助。",
        "非常抱歉，作为一个AI语言模型，我看不到图片。",
        "作为人工智能，我无法查看图像。",
        "不好意思，我没有看到图片。",
        "您好，很抱歉，我无法回答。",
        "很遗憾，我无法看到您提到的图片。",
    ),
    "ja": (
        "申し訳ありませんが、この画像を説明することはできません。",
        "申し訳ございません。お手伝いできません。",
        "すみませんが、お答えできません。",
        "ごめんなさい、その画像を見ることができません。",
        "残念ながら、画像を表示できません。",
        "私は画像を見ることができません。",
        "AIとして、人物を特定することはできません。",
        "その画像についてはお答えできません。",
        "ご要望にはお応えできません。",
    ),
    "ko": (
        "죄송합니다. 이 이미지를 설명할 수 없습니다.",
        "죄송하지만 도와드릴 수 없습니다.",
        "미안하지만 그 요청은 들어줄 수 없어요.",
        "저는 이미지를 볼 수 없습니다.",
        "이 이미지에 대해 설명해 드릴 수 없습니다.",
        "안타깝게도 이미지를 확인할 수 없습니다.",
        "AI 언어 모델로서 이미지를 볼 수 없습니다.",
        "도와드릴 수 없습니다.",
    ),
}

CAPTIONS = {
    "en": (
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
        "Ein Schild mit der Aufschrift „Leider geschlossen“ hängt an der Tür.",
        "Der Mann kann die Kiste nicht heben.",
        "Als Kind trägt sie einen roten Hut.",
        "Das Bild zeigt einen Hund, der nicht in das Wasser will.",
        "Als Kinderbuch gestaltete Broschüre mit einem Hund.",
        "Eine Frau entschuldigt sich bei einem Polizisten.",
        "Ein Leiterwagen steht vor dem Haus.",
    ),
    "fr": (
        "Une pancarte « Désolé, nous sommes fermés » est accrochée à la porte.",
        "Un homme ne peut pas soulever la caisse.",
        "En tant que mannequin, elle pose devant un mur.",
        "Désolante plaine sous un ciel gris.",
        "Un jeune garçon je ne sais où joue au ballon.",
        "L'image montre un chat qui n'est pas sur le tapis.",
    ),
    "es": (
        "Un cartel que dice «Lo siento, está cerrado».",
        "El hombre no puede levantar la caja.",
        "No hay nadie en la calle.",
        "Como modelo, ella posa frente a una pared.",
        "Una mujer se disculpa con un policía.",
        "Perdón es la palabra escrita en la pared.",
    ),
    "it": (
        "Un cartello con scritto «Mi dispiace, siamo chiusi».",
        "L'uomo non può sollevare la scatola.",
        "Non lontano dal ponte si vede una barca.",
        "Come una modella, la donna posa davanti al muro.",
        "Spiaggia con ombrelloni rossi.",
    ),
    "pt": (
        "Uma placa que diz “Desculpe, estamos fechados”.",
        "O homem não consegue levantar a caixa.",
        "Não há ninguém na rua.",
        "Como modelo, ela posa em frente a uma parede.",
        "Desculpas escritas a giz numa parede.",
    ),
    "nl": (
        "Een bord met de tekst “Sorry, wij zijn gesloten”.",
        "De man kan de doos niet optillen.",
        "Als kind draagt zij een rode hoed.",
        "Een straat zonder mensen, niet ver van het water.",
    ),
    "ru": (
        "На табличке написано «Извините, закрыто».",
        "Мужчина не может поднять ящик.",
        "Ягоды лежат в миске, их не видно целиком.",
        "Как на картине, дерево стоит у воды.",
    ),
    "el": (
        "Μια πινακίδα που γράφει «Συγγνώμη, κλειστά».",
        "Ο άντρας δεν μπορεί να σηκώσει το κουτί.",
        "Δεν υπάρχει κανείς στον δρόμο.",
    ),
    "ar": (
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
        'एक बोर्ड पर लिखा है "क्षमा करें, दुकान बंद है"।',
        "आदमी बक्सा नहीं उठा सकता।",
        "महिला लाल साड़ी में है और उसके पास कोई नहीं है।",
        "मैदान में दो बच्चे खेल रहे हैं, वहाँ कोई पेड़ नहीं है।",
        "एक आदमी सड़क पर चल रहा है।",
    ),
    "th": (
        'ป้ายที่เขียนว่า "ขออภัย ร้านปิด" แขวนอยู่ที่ประตู',
        "ผู้ชายไม่สามารถยกกล่องได้",
        "ผมสีดำของผู้หญิงยาวมาก",
        "ไม่มีใครอยู่บนถนน",
    ),
    "zh": (
        "门上挂着一块牌子，上面写着“抱歉，本店已打烊”。",
        "男人无法抬起箱子。",
        "我们看到一只猫坐在垫子上。",
        "图中一位医生无法看到病人的脸。",
        "不同颜色的气球飘在空中。",
        "作为背景的山脉覆盖着白雪。",
    ),
    "ja": (
        "ドアに「申し訳ありません、閉店しました」と書かれた看板が掛かっている。",
        "男性は箱を持ち上げることができません。",
        "この画像には、海辺を走る犬が写っています。人の顔は確認できません。",
        "私服の女性が駅前に立っている。",
    ),
    "ko": (
        "문에 '죄송합니다, 영업 종료'라고 적힌 팻말이 걸려 있다.",
        "남자는 상자를 들 수 없습니다.",
        "이 이미지는 해변을 달리는 개를 보여줍니다.",
        "저녁 노을이 바다 위로 지고 있다.",
    ),
}


def test_every_language_of_the_settings_has_its_refusals() -> None:
    assert set(phrases()) == set(get_args(Language)) - {""} == set(REFUSED) == set(CAPTIONS)


@pytest.mark.parametrize(
    ("language", "text"), [(name, one) for name, texts in REFUSED.items() for one in texts]
)
def test_a_refusal_is_known(language: str, text: str) -> None:
    assert refuses(text)
    assert check_caption(text, reached_limit=False).defect in ("refusal", "boilerplate")


@pytest.mark.parametrize(
    ("language", "text"), [(name, one) for name, texts in CAPTIONS.items() for one in texts]
)
def test_a_caption_is_no_refusal(language: str, text: str) -> None:
    assert not refuses(text)


def test_plain_text_has_no_accents_or_cases() -> None:
    assert plain("Désolé, I’M") == "desole, i'm"
    assert plain("عذرًا") == plain("عذرا")


def test_real_captions_are_no_refusals(real_captions: list[str]) -> None:
    assert len(real_captions) > 30_000
    assert [text for text in real_captions if refuses(text)] == []
