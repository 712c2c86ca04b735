"""What is in a merged caption and in neither of its sources: numbers, names, words, and who has what.

Pure functions for the rewrite mode. A language model that merges an alt-text with a recaption sees
no picture, so everything in its answer has to come from them (POINTS section 3.1 asks for it in
the prompt only). The check reads words, not meaning: a paraphrase counts as new, a claim turned
round with the same words does not, save for the numbers, colours and sizes of things.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vila2cli.text.words import sentences, words

_NUMBER_WORDS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split(), start=2)}
_VALUE_WORDS = (
    "red orange yellow green blue purple violet pink brown black white grey gray gold golden silver "
    "beige turquoise cyan magenta large small big little tiny huge tall short long wide narrow old young"
)
_VALUES = frozenset(_VALUE_WORDS.split())
# Words that join facts and state none.
_JOINING_WORDS = (
    "image picture photo photograph scene view shows show showing shown features feature featuring "
    "featured depicts depict depicting depicted displays display displaying displayed captures capture "
    "capturing captured contains contain containing includes include including included appears appear "
    "appearing seems seem set placed positioned located situated visible seen side next together with "
    "along within also well known named called titled labeled labelled text word words reads read reading "
    "says written made up part while where against background foreground"
)
# Of English, German, French, Spanish, Italian, Portuguese and Dutch.
_FUNCTION_WORDS = """
    a an the this that these those there here it its is are was were be been being has have had of in on at to
    from by with without and or but as for into onto over under near between behind beside above below around
    through across against along while which who whose where when what both each other another some any all no
    not very also than then so such can may one he she his her they their them him we our you your i my der
    die das den dem des ein eine einen einem einer eines und oder aber ist sind war waren mit ohne auf aus bei
    von vom zu zum zur im am unter über neben vor hinter zwischen nicht auch sich wird werden hat haben es er
    sie ihr sein seine als wie le la les un une du de et ou est sont avec sans dans sur sous par pour pas ne
    qui que il elle ils elles son sa ses leur leurs au aux ce cette ces à en entre devant derrière el los las
    una unos unas y o está están con sin sobre bajo del al por para se su sus hay este esta detrás delante muy
    lo gli uno e è sono senza sotto di della dei delle alla nel nella per non che si suo sua c'è questo questa
    tra dietro davanti os um uma uns umas é são estão com sem em na nos nas sob do da dos ao não seu há atrás
    het een zijn met zonder op uit bij van naar onder boven naast voor achter tussen niet ook dat deze dit
    haar wordt worden heeft hebben aan
"""
_FUNCTION = frozenset(_FUNCTION_WORDS.split()) | frozenset(_JOINING_WORDS.split())
_ENDINGS = ("ingly", "edly", "ing", "ed", "es", "s", "ly")
_REACH = 3
"""Content words behind a number, colour or size among which the thing it belongs to is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventions:
    """What is in a text and in none of its sources, each in the order of the text.

    `facts` are numbers, colours and sizes that the sources give to other things, as "red circle".
    """

    numbers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    def kind(self, max_new_words: int = 0) -> str | None:
        """The gravest kind of invention in one word, None when the text is faithful.

        New plain words are forgiven up to `max_new_words`; numbers, names and facts never are.
        """
        if self.numbers:
            return "new-number"
        if self.names:
            return "new-name"
        if self.facts:
            return "new-fact"
        return "new-words" if len(self.words) > max_new_words else None


def inventions(text: str, sources: Sequence[str]) -> Inventions:
    """Compare a text with what it was made from.

    A capitalised word counts as a name, the first one of a sentence too when it is new, for nothing
    tells it from one.
    """
    known = [list(_tokens(sentence)) for source in sources for sentence in sentences(source)]
    there = {token for tokens in known for token in tokens} | {_stem(t) for tokens in known for t in tokens}
    numbers: list[str] = []
    names: list[str] = []
    plain: list[str] = []
    capitalised = re.findall(r"\b[^\W\d_a-z][\w'’-]*", text)
    capitals = {token for word in capitalised for token in _tokens(word)}
    for token in dict.fromkeys(_tokens(text)):
        if token in there or token in _FUNCTION or _stem(token) in there:
            continue
        if any(character.isdigit() for character in token):
            numbers.append(token)
        elif token in capitals:
            names.append(token)
        else:
            plain.append(token)
    facts = tuple(_new_facts(text, known))
    return Inventions(numbers=tuple(numbers), names=tuple(names), words=tuple(plain), facts=facts)


def _tokens(text: str) -> Iterator[str]:
    """Words with number words as digits, without possessives and thousands separators, hyphens apart."""
    for word in words(text):
        word = re.sub(r"['’]s?$", "", word)
        if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", word):
            word = word.replace(",", "")
        yield from (_NUMBERS.get(part, part) for part in word.split("-") if part)


def _stem(word: str) -> str:
    """A word without its English ending: enough to see `sits`, `sitting` and `sit` as one."""
    ending = next((e for e in _ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), "")
    stem = word.removesuffix(ending)
    if ending and len(stem) > 3 and stem[-1] == stem[-2]:
        stem = stem[:-1]
    stem = stem.removesuffix("e")
    return f"{stem[:-1]}y" if stem.endswith("i") else stem


def _new_facts(text: str, known: Sequence[Sequence[str]]) -> Iterator[str]:
    """Numbers, colours and sizes before another thing than in every source that has them before one."""
    stated: dict[str, list[set[str]]] = {}
    for tokens in known:
        for value, things in _facts(tokens):
            stated.setdefault(value, []).append(set(map(_stem, things)))
    for sentence in sentences(text):
        for value, things in _facts(list(_tokens(sentence))):
            stems, said = set(map(_stem, things)), stated.get(value)
            if things and said and all(there and not stems & there for there in said):
                yield f"{value} {things[0]}"


def _facts(tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each number, colour and size with the next content words, up to the next of its kind."""
    first_things, place = [0] * len(tokens), len(tokens)
    for index in reversed(range(len(tokens))):
        first_things[index] = place
        if tokens[index] not in _FUNCTION and not _is_value(tokens[index]):
            place = index
    for index, token in enumerate(tokens):
        if not _is_value(token):
            continue
        things: list[str] = []
        for following in map(tokens.__getitem__, range(first_things[index], len(tokens))):
            if len(things) == _REACH or (things and _is_value(following)):
                break
            if following not in _FUNCTION and not _is_value(following):
                things.append(following)
        yield token, things


def _is_value(token: str) -> bool:
    """A colour, a size, or a number small enough to count things; a year belongs to nothing in particular."""
    return token in _VALUES or (token.isdigit() and len(token) < 3)
