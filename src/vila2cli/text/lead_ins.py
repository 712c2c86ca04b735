"""What an assistant says around a caption: "Sure! Here is ...:" before it and "Let me know if ..." behind it.

In every language that captions can be asked in. Only a lead-in that ends in a colon, an agreement, a label or
heading and what is drawn around the whole (a code fence, rules, JSON of one text, quotation marks behind a
lead-in) go, and behind the caption only whole sentences that speak to the reader.
"""

import functools
import re

from vila2cli.text.bare import unfenced, unquoted, whole_object
from vila2cli.text.phrases import phrases

_IMAGE = (
    r"\bimage|\bpicture|\bphoto|bild|foto|imagen|immagine|imagem|afbeelding|изображени\w*|εικόνα\w*|الصورة|תמונה"
    "|图片|圖片|图像|画像|이미지"
)


_RULES = re.compile(r"\A\s*(?:-{3,}|\*{3,})[^\S\n]*\n|\n[^\S\n]*(?:-{3,}|\*{3,})\s*\Z")


def strip_wrapping(text: str) -> str:
    """The caption without what an assistant says around it."""
    preface, agreement, closing = _patterns()
    led = preface.sub("", text, count=1)
    led = agreement.sub("", led, count=1)
    inside = unfenced(_RULES.sub("", closing.sub("", led)))
    said = whole_object(inside)
    if said is not None and len(said) == 1 and all(isinstance(value, str) for value in said.values()):
        (inside,) = said.values()
    return (inside if led == text else unquoted(inside)).strip()


@functools.cache
def _patterns() -> tuple["re.Pattern[str]", "re.Pattern[str]", "re.Pattern[str]"]:
    """A preface or label, an agreement alone, and offers to go on, as sentences of their own."""
    known = phrases().values()
    agrees, here_is, caption, label, offers = (
        "|".join(language[name] for language in known)
        for name in ("agrees", "here_is", "caption", "label", "offers")
    )
    preface = (
        rf"^\s*(?:assistant\s*:\s*)?(?:(?:{agrees})(?!\w)[^\w\n]*)?"
        rf"(?:(?:{here_is})[^.:：。\n]{{0,100}}?(?:(?:{caption})[^.:：。\n]{{0,60}}|(?:{_IMAGE})\s*)[:：]"
        rf"|\**(?:{label})\s*[:：]|#+\s*\**(?:{label})\**\s*\n)\**\s*|^\s*assistant\s*:\s*"
    )
    agreement = rf"^\s*(?:(?:{agrees})(?!\w)\s*[!.:！。：]|(?:sure|certainly)\s*,)\s*"
    closing = rf"(?:(?:^|(?<=[.!?。！？।\n]))[^\S\n]*(?:{offers})[^.!?。！？।\n\"”»」]*[.!?。！？।]*)+\s*$"
    first, second, third = (re.compile(pattern, re.IGNORECASE) for pattern in (preface, agreement, closing))
    return first, second, third
