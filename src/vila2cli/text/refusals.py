"""How assistants decline to answer, in every language that a recipe can ask captions in.

A refusal opens its text. What a caption quotes, reports of others, or states in the middle is none: "the man is
unable to lift the box", "a sign that says Sorry, we're closed". Patterns are matched against `plain` text, so
accents, cases and typographic apostrophes make no difference, and are themselves written plainly.
"""

import functools
import re
import unicodedata

from vila2cli.text.phrases import phrases

# What may go before: a greeting, thanks, understanding.
_GREETINGS = (
    "hi hello hey oh(?:\\sno)? oops hm+ well okay ok yes no hallo bonjour hola ciao ola здравствуите مرحبا "
    "שלום नमस्ते สวัสดี(?:ครับ|ค่ะ)? 您好 你好 こんにちは 안녕하세요"
)
_LEAD_IN = (
    rf"(?:assistant\s*:\s*)?(?:(?:{'|'.join(_GREETINGS.split())})(?: there)?\W{{1,3}})?"
    r"(?:(?:thank you|thanks)[^.!?,]{0,60}[.!?,]\s*(?:but |however,? )?"
    r"|i (?:understand|appreciate|see|know|realize)\b[^.!?,]{0,80},? (?:but|however),? |while i [^.!?,]{0,80}, "
    r"|(?:please )?(?:note|be aware)(?: that)?:? |but |however,? |please accept [^.!?,]{0,40}, (?:but )?"
    r"|(?:it (?:seems|looks|appears)|unfortunately it (?:seems|looks|appears))(?: like| that)? "
    r"|(?:due to|for|based on|because of|given|according to|in line with|per) [^.!?,]{0,60}, )?"
)
_QUOTES = "\"'“”„‟‘’‛«»‹›「」『』《》`"
# Never from inside quotation marks: a caption may begin with what a sign says.
_OPENING = re.compile(rf"[^\w{_QUOTES}]*")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|「[^」]*」")
# Also behind a caption's first sentences: nobody but an assistant says this of itself.
_UNABLE = r"(?:can't|cannot|can not|(?:am|'m) (?:unable|not able) to)"
_LATER = re.compile(
    r"(?:[.!?][^\S\n]+|\n[^\S\n]*)(?:but |however,? )?"
    r"(?:(?:i'?m|i am) (?:\w+ )?sorry,? but i (?:can|am|do|could)"
    rf"|as an ai\b|as a (?:large )?language model\b|unfortunately,? i ?{_UNABLE}"
    rf"|i ?{_UNABLE} (?:identify|recogni[sz]e|assist|help|provide|describe))"
)


def refuses(text: str) -> bool:
    """Whether the text declines to answer: it opens so, or says later that its writer will not."""
    bare = plain(_without_outer_quotes(text.strip()))
    opening = _OPENING.match(bare)
    start = opening.end() if opening else 0
    return _refusal().match(bare, start) is not None or _LATER.search(_QUOTED.sub(" ", bare)) is not None


@functools.cache
def _refusal() -> "re.Pattern[str]":
    patterns = [refusal for known in phrases().values() for refusal in known["refusals"]]
    return re.compile(_plain_pattern(_LEAD_IN) + "(?:" + "|".join(map(_plain_pattern, patterns)) + ")")


def _plain_pattern(pattern: str) -> str:
    """A pattern written like the plain text it is matched against, its escapes left as they are."""
    return re.sub(r"\\.|[^\\]+", lambda part: part[0] if part[0][0] == "\\" else plain(part[0]), pattern)


def plain(text: str) -> str:
    """Text without accents, vowel points, cases and typographic variants, for comparing phrases."""
    decomposed = unicodedata.normalize("NFKD", text.replace("’", "'").replace("‘", "'").replace("`", "'"))
    bare = "".join(c for c in decomposed if unicodedata.category(c) not in ("Mn", "Cf"))
    return unicodedata.normalize("NFC", bare).casefold()


def _without_outer_quotes(text: str) -> str:
    """A text that is quoted as a whole, without its quotation marks."""
    inside = text[1:-1]
    is_quoted = len(text) > 2 and text[0] in _QUOTES and text[-1] in _QUOTES
    return inside if is_quoted and not any(mark in inside for mark in '"“”«»「」') else text
