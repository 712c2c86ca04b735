"""What an assistant says around a caption: "Sure! Here is ...:" before it and "Let me know if ..." behind it.

In every language that captions can be asked in. Only a lead-in that ends in a colon, an agreement and a label
go, and behind the caption only whole sentences that speak to the reader.
"""

import functools
import re

from vila2cli.text.phrases import phrases

_IMAGE = (
    r"\bimage|\bpicture|\bphoto|bild|foto|imagen|immagine|imagem|afbeelding|изображени\w*|εικόνα\w*|الصورة|תמונה"
    "|图片|圖片|图像|画像|이미지"
)


def strip_wrapping(text: str) -> str:
    """The caption without what an assistant says around it."""
    preface, agreement, closing = _patterns()
    text = preface.sub("", text, count=1)
    text = agreement.sub("", text, count=1)
    return closing.sub("", text).strip()


@functools.cache
def _patterns() -> tuple["re.Pattern[str]", "re.Pattern[str]", "re.Pattern[str]"]:
    """A preface or label, an agreement alone, and offers to go on, as sentences of their own."""
    known = phrases().values()
    agrees, here_is, caption, label, offers = (
        "|".join(language[name] for language in known)
        for name in ("agrees", "here_is", "caption", "label", "offers")
    )
    preface = (
        rf"^\s*(?:(?:{agrees})(?!\w)[^\w\n]*)?"
        rf"(?:(?:{here_is})[^.:：。\n]{{0,100}}?(?:(?:{caption})[^.:：。\n]{{0,60}}|(?:{_IMAGE})\s*)[:：]"
        rf"|\**(?:{label})\s*[:：])\**\s*"
    )
    agreement = rf"^\s*(?:(?:{agrees})(?!\w)\s*[!.:！。：]|(?:sure|certainly)\s*,)\s*"
    closing = rf"(?:(?:^|(?<=[.!?。！？।\n]))[^\S\n]*(?:{offers})[^.!?。！？।\n\"”»」]*[.!?。！？।]*)+\s*$"
    first, second, third = (re.compile(pattern, re.IGNORECASE) for pattern in (preface, agreement, closing))
    return first, second, third
