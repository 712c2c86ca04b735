"""The patterns by which `ptb` cuts captions into tokens, each found by trying texts on the Java program.

Every pattern has a group "token"; what it matches beyond that group is only looked at, and counts towards its
length. The word lists are outcomes too: candidates (all strings of up to four letters, the words of caption
sets and their beginnings) were run through the program, and those that it treats in their own way are kept.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

# Keep their full stop wherever they stand, in lower case, with a capital or in capitals.
_TITLES = """
    adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft
    gen gov govs hon insp invt jos lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt
    rep reps rev sen sens sfc sgt spc st ste supt treas vs wm
"""
# The same, for those that often end a sentence; a single letter behind the full stop is not joined to these.
_ENDINGS = """
    al ala apr ariz assn aug bhd bldg blvd bros calif co col colo conn corp cos ct dak dec esq est etc ext feb
    fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla
    penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
"""
_ENDINGS_WITH_A_CAPITAL = "ark az del ill la mass miss ore pa tex wash"
_TITLES_NOT_ALL_CAPITALS = "mfg mtg"
_ENDINGS_NOT_ALL_CAPITALS = "ppte ppty pte ptes pty ptys"
_BEFORE_A_NUMBER = "art ca fig figs no nos op pp prop"
# A single letter loses its full stop before one of these with a capital: there a new sentence begins.
_SENTENCE_STARTERS = """
    a about according additionally after an as at but earlier he her here however if in it last many more now
    once one other our she since so some such that the their then there these they this we what when while yet
    you
"""
_CLITIC = "(?:(?i:s|m|d|re|ve|ll)(?![A-Za-z]))"
_FILE_ENDINGS = """
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps
    py sql tar txt wav x xml zip
"""
_ACCENTED = "[aeiouAEIOU](?:acute|grave|uml)"  # as in "&eacute;", which stays as it is
_BREAKS = r' \t-\r"<>|(){}'  # end an address; other spaces than those of ASCII do not
_SITES = "(?:com|edu|net|org)"

# Characters other than letters that are tokens: the rest of what is not ASCII is dropped.
_SIGNS = (
    "¡-©¬®-´¶-¹¿×÷;·։־׀׃׆׳-״؀-؃؆-،؛؞-؟٪٭۔܀-܍߶-߸।-॥ฯ๏᾽‖-‗‚„-‣‰-‸※‾-⁂⁄⁰⁴-⁾₀-₎₤℀-℁℃-℆℈-℉℔№-℘℞-℣℥℧℩℮"
    "℺-℻⅀-⅄⅊-⅍⅏⅕-⅞←-⯿、-。〒・！-／：-＠［-｀｛-･￠-￡￥-￦"
)
_JOINERS = "‐‑֊"  # hyphens between letters, nothing elsewhere


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of token: its pattern, and the kind by which `ptb` writes it ("word" where nothing is renamed)."""

    pattern: re.Pattern[str]
    kind: str


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules by the kind of character that they start with, and what decides on the rest."""

    plain: re.Pattern[str]
    by_letter: tuple[Rule, ...]
    by_foreign_letter: tuple[Rule, ...]
    by_digit: tuple[Rule, ...]
    by_sign: tuple[Rule, ...]
    letter: re.Pattern[str]
    sign: re.Pattern[str]

    def starting_with(self, char: str) -> tuple[Rule, ...]:
        """The rules whose tokens may start with `char`."""
        if char.isascii():
            return self.by_letter if char.isalpha() else self.by_digit if char.isdigit() else self.by_sign
        return self.by_foreign_letter if self.letter.match(char) else self.by_sign

    def is_sign(self, char: str) -> bool:
        """Whether a character that no rule knows is a token of its own."""
        return bool(self.sign.match(char))


@cache
def _letters() -> str:
    """All letters, digits and marks beyond ASCII that words are made of, as ranges for a character class."""
    ranges: list[list[int]] = []
    for code in [*range(0x80, 0xD800), *range(0xF900, 0xFFDD)]:
        char = chr(code)
        mark = (code < 0xED0 and unicodedata.category(char) in ("Mn", "Mc")) or 0x2C2 <= code < 0x370
        if not (char.isalpha() or char.isdecimal() or mark or code == 0xAD):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@cache
def rules() -> Rules:
    """All rules, made once."""
    letter, sign = f"[a-zA-Z{_letters()}]", re.compile(f"[!-/:-@\\[-`{{-~{_SIGNS}]")
    words = _words_with_apostrophes(letter) + _joined_words(letter)
    by_letter = (*_abbreviations(), *words, *_ascii_words(), *_addresses(), *_sites())
    return Rules(
        plain=re.compile(r"[A-Za-z]{2,}(?=,? |,?\n|$)"),
        by_letter=by_letter,
        by_foreign_letter=(*words, *_sites()),
        by_digit=(*_joined_words(letter), *_slashed(), *_numbers(), *_addresses()),
        by_sign=(*_signs(letter), *_clitics(), *_numbers(), *_tags(), *_addresses(), *_sites()),
        letter=re.compile(letter),
        sign=sign,
    )


def _rule(pattern: str, kind: str = "word", flags: re.RegexFlag = re.NOFLAG) -> Rule:
    if "(?P<token>" not in pattern:
        pattern = f"(?P<token>{pattern})"
    return Rule(re.compile(pattern, flags), kind)


def _one_of(words: str, *forms: str) -> str:
    """A pattern for the words as they are, or in the forms named: "lower", "title", "upper"."""
    spelt = {getattr(str, form)(word) for word in words.split() for form in forms or ["lower"]}
    return "(?:" + "|".join(sorted(spelt, key=lambda word: (-len(word), word))) + ")"


def _joined_words(letter: str) -> list[Rule]:
    """Words alone, with hyphens or underscores, with inner full stops, and file names."""
    char, plain, hyphen = f"[0-9{letter[1:]}", "[A-Za-z0-9]", f"[-{_JOINERS}]"
    elided = rf"[dloDLO]{_apostrophe(char)}(?={char}{{2}})"
    part = f"(?:{elided})?{char}+"
    compound = f"{part}(?:[-_{_JOINERS}]{part})*"
    # Full stops and commas may stand before the first hyphen only: "3.5-inch", "27,000-ton".
    behind = rf"{hyphen}(?:(?:[A-Za-z]\.){{2,}}|{plain}+)"
    loose = f"{plain}[A-Za-z0-9.,]{{0,200}}(?:{behind})+"
    acronyms = rf"(?:[A-Za-z]\.){{2,}}(?:{behind})*"
    dotted = rf"{letter}{char}*(?:[.!?](?!\d){letter}{char}*)+"
    endings = f"(?i:{_one_of(_FILE_ENDINGS)})"
    return [
        _rule(compound),
        _rule(loose),
        _rule(acronyms),
        _rule(dotted),
        _rule(rf"{char}+(?:\.{char}+)*\.{endings}(?=[\s.,!?]|$)"),
        _rule(rf"(?P<token>(?:{compound}|{loose}|{dotted})\.)[,;:]"),
        _rule(rf"(?P<token>{dotted})['’]{_CLITIC}"),
    ]


def _words_with_apostrophes(letter: str) -> list[Rule]:
    """Words that go on behind an apostrophe ("O'Neill", "Hawai'i", not "dog's"), and "do" before "n't"."""
    apostrophe = _apostrophe(letter)
    whole = "e'er|ne'er|o'er|li'l|cap['’]n|c['’]est|s'mores|c'mon|ma'am|o['’‘`]o"
    return [
        _rule(rf"{letter}{{2,}}(?<=[aeiouyAEIOUY]){apostrophe}(?=[aeiouA-Z]){letter}+"),
        _rule(rf"(?:[A-HJ-XZ]|n){apostrophe}{letter}{{2,}}"),
        _rule(
            rf"(?:(?:[djl]|ol)['’]|y['’](?={letter}))(?!{_CLITIC}|(?<=’)(?:s|m|d|re|ve|ll))",
            flags=re.IGNORECASE,
        ),
        _rule(whole, flags=re.IGNORECASE),
        _rule(r"(?P<token>[A-Za-z]*[A-MO-Za-mo-z])[nN](?:['’‘`]|&apos;)[tT]"),
        _rule(r"n(?:['’‘`]|&apos;)t", "clitic", re.IGNORECASE),
    ]


def _apostrophe(char: str) -> str:
    """An apostrophe within a word of such characters: no clitic that ends the word stands behind it."""
    return f"(?:['’](?!(?i:s|m|d|re|ve|ll)(?!{char}))|[‘`])"


def _clitics() -> list[Rule]:
    """What an apostrophe begins; a typographic one needs no end of the word behind it."""
    return [
        _rule(f"(?:'|&apos;){_CLITIC}", "clitic"),
        _rule(r"’(?:s|m|d|re|ve|ll)", "clitic", re.IGNORECASE),
        _rule(r"['’]n['’]|'n(?=\s|$)|’n|['’]em|['’]till?|['’]cause|'t(?=is|was)", flags=re.IGNORECASE),
        _rule(r"['’](?:[1-9]0s|[0-9]{2}(?=\s))"),
    ]


def _slashed() -> list[Rule]:
    """Two or three ASCII words with slashes between; behind their hyphens, two at most, are only letters."""
    part = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
    return [_rule(rf"{part}(?:\\?/{part}){{1,2}}")]


def _ascii_words() -> list[Rule]:
    """Words with slashes, capitals joined by & or +, currencies and programming languages."""
    return [
        *_slashed(),
        _rule(r"[A-Z]+(?:(?:&amp;|[&+])[A-Z]+)+", "pair"),
        _rule(r"(?P<token>[A-Z]+(?:[&+][A-Z]+)+\.)[,;:]"),
        _rule(r"x_[-^=~<>']"),
        _rule(r"[A-Z]+\$|[CcFf]#|[Cc]\+\+|S&P[- ]500"),
        _rule(r"(?:anti|pro)-", flags=re.IGNORECASE),
    ]


def _abbreviations() -> list[Rule]:
    """What keeps its full stop: initials, acronyms and known abbreviations."""
    titles = f"(?i:{_one_of(_TITLES)})|{_one_of(_TITLES_NOT_ALL_CAPITALS, 'lower', 'title')}"
    endings = "|".join(
        [
            f"(?i:{_one_of(_ENDINGS)})",
            _one_of(_ENDINGS_WITH_A_CAPITAL, "title", "upper"),
            _one_of(_ENDINGS_NOT_ALL_CAPITALS, "lower", "title"),
        ]
    )
    behind = "(?:-[A-Za-z0-9]|(?s:.)|$)"  # wins over a compound or a site of the same length
    numbered = f"(?i:{_one_of(_BEFORE_A_NUMBER)})"
    sentence = rf"\s+(?=[A-Z])(?i:{_one_of(_SENTENCE_STARTERS)}|m[rs]\.)\s|\s+(?:{_tag()})\s"
    return [
        _rule(rf"[A-Za-z]\.(?!{sentence})"),
        _rule(rf"(?P<token>(?i:ph|ed)\.[A-Za-z]\.){behind}"),
        _rule(rf"(?:{titles})\."),
        _rule(rf"(?P<token>(?:{endings})\.){behind}"),
        _rule(rf"(?P<token>{numbered}\.)\s?[0-9]"),
    ]


def _numbers() -> list[Rule]:
    """Numbers with sign, comma and point, fractions and telephone numbers."""
    area = "[0-9]{2,4}[- ]"
    return [
        _rule(r"[-+]?(?:\d*(?:[.,:]\d+)+|\d+)"),
        _rule(r"[0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4}"),
        _rule(r"(?:[0-9]{1,4}[- ])?[0-9]{1,4}(?:\\?/|⁄)[0-9]{1,4}"),
        _rule(rf"(?:\+?{area})?(?:\([0-9]{{2,3}}\) ?|\+?{area})[0-9]{{3,4}}[- ]?[0-9]{{3,5}}", "brackets"),
    ]


def _addresses() -> list[Rule]:
    """Addresses of mail and the web. Lengths are bounded so that a long text without spaces takes no longer."""
    char, last = rf"[^{_BREAKS}]", rf"[^{_BREAKS}\-,.!?]"
    middle, label = rf"[^{_BREAKS},.]", rf"[^{_BREAKS}.\xa0]"
    mail = rf"<?[A-Za-z0-9](?:(?!\xa0){char}){{0,80}}@(?:{label}{{1,80}}\.){{0,9}}{label}{{1,80}}>?"
    return [
        _rule(mail),
        _rule(rf"https?://{char}{{1,400}}{last}", flags=re.IGNORECASE),
        _rule(rf"www\.(?:{middle}{{1,80}}\.){{1,9}}[a-z]{{2,4}}(?:{_path()})?", flags=re.IGNORECASE),
    ]


def _sites() -> list[Rule]:
    """Names of sites in lower case, with or without the path behind them."""
    label = r"""[^\s!?@"$'(),\-./:;<=>\[\]\\^_`{|}A-Z0-9]"""
    return [_rule(rf"(?:{label}{{1,80}}\.){{1,9}}{_SITES}(?:{_path()})?")]


def _path() -> str:
    """The path behind the name of a site: a slash, two characters or more, no punctuation at its end."""
    return rf"/(?:[^{_BREAKS}]|[{{}}]){{1,400}}[^{_BREAKS}\-,.!?]"


def _tags() -> list[Rule]:
    """Tags as of HTML, with attributes, and HTML's names of characters."""
    return [
        _rule(_tag()),
        _rule(r"&(?i:amp|lt|gt|quot|apos|nbsp|[mn]dash);", "sign"),
        _rule(rf"&#[0-9]+;|&{_ACCENTED};"),
    ]


def _tag() -> str:
    name = r"[A-Za-z][A-Za-z0-9_:.\-]*"
    attribute = rf" +{name}(?: *= *(?:\"[^\"\n]{{0,400}}\"|'[^'\n]{{0,400}}'))?"
    return rf"<{name}(?:{attribute}){{0,40}} */?>|</{name} *>|<[!?][A-Za-z\-][^>\n]{{0,400}}>"


def _signs(letter: str) -> list[Rule]:
    """Names and tags of social media, runs of one sign, and faces."""
    face = r"[<>]?[:;=][-o'*]?[()@DOP\[\]dp{|\\](?![A-Za-z0-9])"
    eye = r"[-^=~<>'x]"
    return [
        _rule(r"@[A-Za-z_][A-Za-z0-9_]*"),
        _rule(rf"#(?:(?!\d){letter})+"),
        _rule(r"-(?:LRB|RRB|LSB|RSB|LCB|RCB)-", flags=re.IGNORECASE),
        _rule(r"[!?]{2,}|(?:\\?\*)+|_{2,}|#{2,}|@{2,}|<<|>>|-{5,}"),
        _rule(r"-{2,4}", "mark"),
        _rule(face, "brackets"),
        _rule(rf"{eye}_{eye}|\({eye}[_.]?{eye}\)", "brackets"),
        _rule(r"[⁺⁻]?[⁰¹²³⁴-⁹]+|[₊₋]?[₀-₉]+"),
        _rule(r"\.{3,5}|''|``", "mark"),
        _rule(r"[`‘’“”«»‹›‚„‛‟\x91-\x94]{2}", "quotes"),
    ]
