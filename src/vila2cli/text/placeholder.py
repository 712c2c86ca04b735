"""Alt-texts that say nothing about their picture: file names, numbers, and what web sites put there unasked.

A language model finds them likely, so a perplexity keeps them. Conceptual Captions (Sharma et al. 2018,
section 3) trims such phrases off alt-texts; here a text counts only when nothing else is in it.
"""

import re

_FILE = re.compile(r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg)", re.I)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+", re.I)
_HASH = re.compile(r"(?=.*\d)[0-9a-f]{8,}(?:-[0-9a-f]{4,})*", re.I)
_LETTERS = re.compile(r"[^\W\d_]+")

_FILES = "jpg jpeg png gif webp img dsc dscn dscf pxl mvimg gopr pict scan screenshot screen shot x px"
_PICTURES = """image images photo photos photograph picture pictures pic pics thumbnail thumb slide figure fig
    page file attachment untitled unnamed final cover banner header background hero default placeholder
    preview"""
_NOTHING = "none null undefined n a na no not available caption title description text alt missing blank empty"
_STOCK = """stock royalty free download downloads vector vectors illustration illustrations clipart hd getty
    gettyimages shutterstock istock istockphoto alamy dreamstime depositphotos adobe"""
_SITES = """click tap here open enlarge zoom view see more larger large full size share pin tweet like follow
    copyright copyrighted rights reserved subject owner owners credit courtesy source home homepage gallery menu
    contact us about terms use privacy policy login search next previous back"""
_SHOPS = "buy shop order online now sale best price prices fast shipping delivery new discount offer cart add"
_BETWEEN = "a an the this of for to by in on from with and or is are be may its your our all"
_EMPTY_WORDS = frozenset(" ".join((_FILES, _PICTURES, _NOTHING, _STOCK, _SITES, _SHOPS, _BETWEEN)).split())


def is_placeholder(text: str) -> bool:
    """Whether a text is nothing but a file name, a web address, a number, or words that fit any picture.

    The words are English. "Stock photo of a red kite" is none, as it names the kite.
    """
    bare = text.strip()
    if any(pattern.fullmatch(bare) for pattern in (_FILE, _ADDRESS, _HASH)):
        return True
    return all(word in _EMPTY_WORDS for word in _LETTERS.findall(bare.lower()))
