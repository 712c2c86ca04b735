"""Boxes as models write them: the notations of papers and model cards, each with its frame where it has one.

A notation that fixes its frame (location tokens, `box_2d`, tags) has it in `FoundBox.frame`. Plain numbers do
not: only the reader of all answers can tell whether they are pixels, thousandths or shares.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

LIST = "[n,n,n,n]"
BARE = "n,n,n,n"
CORNERS = "(x,y),(x,y)"
QWEN = "bbox_2d"
"""Notations that are looked for by name: plain lists, numbers without brackets, corners, Qwen's JSON."""

_N = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,2})?"
_UNIT = r"(?:\s*(?:%|px\b|pixels?\b))?"
_NUMBER = re.compile(rf"""["']?({_N})\s*(%|px|pixels?)?["']?""")
_THOUSANDS = re.compile(r"[1-9]\d?,\d{3}")
_DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+)")
_SMALL_COMMA = re.compile(r"-?0,\d+|1,0+")
_BODY = r"[^\[\](){}<>]{7,200}"
_LIST = re.compile(rf"[\[(]({_BODY})[\])](\s*%)?")
_POINT = rf"[\[(]\s*{_N}{_UNIT}\s*[,;\s]\s*{_N}{_UNIT}\s*[\])]"
_CHAIN = re.compile(rf"{_POINT}(?:\s*(?:[,;:\-–—→]|->|\bto\b|(?<=\))\s(?=\())\s*{_POINT})+", re.IGNORECASE)
_POINTS = re.compile(_POINT)
_XY = re.compile(
    r"""[{(]\s*["']?x["']?\s*[:=]\s*([^{}(),:=]+),\s*["']?y["']?\s*[:=]\s*([^{}(),:=]+)[})]""", re.IGNORECASE
)
_CORNERS = re.compile(
    rf"(?:(?:top|upper)[-_ ]?left|左上角?)[^()\[\]\d]{{0,60}}({_POINT})[^()\[\]\d]{{0,60}}"
    rf"(?:(?:bottom|lower)[-_ ]?right|右下角?)[^()\[\]\d]{{0,60}}({_POINT})",
    re.IGNORECASE,
)
_RUN = re.compile(rf"(?<![\w.])(?>{_N}{_UNIT}(?:(?:\s*[,;]\s*|\s+){_N}{_UNIT}){{3,}})(?!\w)")
_TAGGED = re.compile(
    r"<(box|point_box|\|box_start\||\|det\||\|begin_of_box\|)(?:\s[^<>]*)?>(.{1,200}?)"
    r"(?:<(?:/box|/point_box|\|box_end\||\|/det\||\|end_of_box\|)>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_KEYED = re.compile(rf"""["']?\b(bbox_2d|box_2d)\b["']?\s*[:=]\s*(\[\s*{_BODY}\])""", re.IGNORECASE)
_PATCH = re.compile(r"<patch_index_(\d{1,4})>\s*<patch_index_(\d{1,4})>")
_KEYS = (
    r"x_?min|y_?min|x_?max|y_?max|x_?center|y_?center|center_?x|center_?y|cx|cy|[xy]_?[012]|"
    r"left|top|right|bottom|width|height|[xywh]"
)
_NAMED = re.compile(
    rf"""\b({_KEYS})["']?\s*(?:[:=>≈]|=>|\bis\b)\s*["']?((?:[1-9]\d?,\d{{3}}|-?0,\d+)(?![\d.])|{_N})\s*(%|px)?""",
    re.IGNORECASE,
)
_POINT_TAG = re.compile(r"<points?\b[^>]*>|\bpoint_2d\b", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([\[\](){}<>_])")
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_ANSWER = re.compile(
    r"""<answer>|\\boxed|\bfinal (?:answer|box|coordinates?)\b|\banswer[\s*"']*(?:is\b|:)""", re.IGNORECASE
)
_PLAIN = str.maketrans({"−": "-", "，": ",", "、": ",", "；": ";"})
_TOKENS = {
    "loc": (re.compile(r"<loc(\d{4})>\s*<loc(\d{4})>\s*<loc(\d{4})>\s*<loc(\d{4})>"), "xyxy-1024"),
    "loc_": (re.compile(r"<loc_(\d{1,4})>\s*<loc_(\d{1,4})>\s*<loc_(\d{1,4})>\s*<loc_(\d{1,4})>"), "xyxy-1000"),
    "bin_": (re.compile(r"<bin_(\d{1,4})>\s*<bin_(\d{1,4})>\s*<bin_(\d{1,4})>\s*<bin_(\d{1,4})>"), "xyxy-999"),
    "<n>": (re.compile(r"<(\d{1,4})>\s*<(\d{1,4})>\s*<(\d{1,4})>\s*<(\d{1,4})>"), "xyxy-100"),
}
_CORNER_KEYS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_SIZE_KEYS = (("xmin", "ymin"), ("x1", "y1"), ("left", "top"), ("x", "y"))
_CENTRE_KEYS = (("cx", "cy"), ("xcenter", "ycenter"), ("centerx", "centery"))
_KEY_NAMES = {
    name: {"w": "width", "h": "height"}.get(name, name)
    for keys in (*_CORNER_KEYS, *_SIZE_KEYS, *_CENTRE_KEYS, ("width", "height", "w", "h"))
    for name in keys
}
_CLOSED = {"[": "]", "(": ")", "{": "}", "<": ">"}
_MAX_CHARS = 8000
"""The end of an answer that is read: a model that never stops has nothing to add."""
_PATCHES = 32
"""Patches along each side of Kosmos-2's grid."""


@dataclass(frozen=True, slots=True)
class FoundBox:
    """A box as it is written: the notation's name, its numbers, and their frame where the notation fixes it.

    Where `is_ordered` the four are left, top, right, bottom whatever the frame of plain numbers.
    """

    notation: str
    box: Box
    frame: str = ""
    is_ordered: bool = True


def find_boxes(text: str) -> list[FoundBox]:
    """The boxes of an answer, in the most specific notation that it has, in order.

    What stands before `</think>` is left out, and of an answer that announces itself ("Answer:") the part
    behind the last such word is read first. A list of more or fewer than four numbers is no box, nor is one
    that was cut off.
    """
    text = _THOUGHT.split(text)[-1][-_MAX_CHARS:]
    text = _ESCAPED.sub(r"\1", unicodedata.normalize("NFKC", text).translate(_PLAIN))
    marks = list(_ANSWER.finditer(text))
    for part in (*([text[marks[-1].end() :]] if marks else ()), text):
        for read in _READERS:
            if found := list(read(part)):
                return found
    return []


def has_point(text: str) -> bool:
    """Whether a text points at a place, as Molmo does, in place of a box."""
    return bool(_POINT_TAG.search(text))


def patch_box(first: int, last: int) -> Box:
    """Kosmos-2's box between two patches in 0-1: centre to centre, or whole patches of one row or column."""
    (top, left), (bottom, right) = divmod(first, _PATCHES), divmod(last, _PATCHES)
    start, end = (0.0, 1.0) if left == right or top == bottom else (0.5, 0.5)
    near = (left + start) / _PATCHES, (top + start) / _PATCHES
    return *near, (right + end) / _PATCHES, (bottom + end) / _PATCHES


def _tokens(text: str) -> Iterator[FoundBox]:
    """Location tokens: PaliGemma's have y first, Florence-2's are bins with a middle, MiniGPT-v2's 0-100.

    Rex-Omni writes the last in Qwen's tags, and means 0-999.
    """
    small = 0 if "<|box_start|>" in text else 100
    for name, (pattern, frame) in _TOKENS.items():
        for match in pattern.finditer(text):
            a, b, c, d = (float(number) for number in match.groups())
            if name == "loc":
                yield FoundBox("<locNNNN>", (b, a, d, c), frame)
            elif name == "loc_":
                yield FoundBox("<loc_N>", (a + 0.5, b + 0.5, c + 0.5, d + 0.5), frame)
            elif name == "bin_":
                yield FoundBox("<bin_N>", (a, b, c, d), frame)
            else:
                frame = frame if max(a, b, c, d) <= small else "" if small else "xyxy-999"
                yield FoundBox("<N><N><N><N>", (a, b, c, d), frame)


def _patches(text: str) -> Iterator[FoundBox]:
    for match in _PATCH.finditer(text):
        first, last = int(match[1]), int(match[2])
        if max(first, last) < _PATCHES**2:
            yield FoundBox("<patch_index_N>", patch_box(first, last), "xyxy-1")


def _tags(text: str) -> Iterator[FoundBox]:
    """Qwen-VL, InternVL, MiniCPM-V and Isaac (0-1000), DeepSeek-VL2 (0-999), GLM (0-1000)."""
    for match in _TAGGED.finditer(text):
        name, far = match[1].lower(), 999 if match[1].lower() == "|det|" else 1000
        for read in (_pairs, _lists, _runs):
            if inner := list(read(match[2])):
                break
        commas_alone = read is _runs and "," in match[2]
        for found in inner:
            is_known = not found.frame and not commas_alone and _is_of(found.box, far)
            yield FoundBox(f"<{name}>", found.box, f"xyxy-{far}" if is_known else found.frame)


def _keyed(text: str) -> Iterator[FoundBox]:
    """`box_2d` as Gemini has it, top first in 0-1000, and Qwen's `bbox_2d`: pixels or, since Qwen3, 0-1000."""
    for match in _KEYED.finditer(text):
        for found in _lists(match[2]):
            a, b, c, d = found.box
            if match[1].lower() == QWEN:
                yield FoundBox(QWEN, found.box, found.frame)
            else:
                frame = "xyxy-1000" if _is_of(found.box, 1000) else found.frame
                yield FoundBox("box_2d", (b, a, d, c), frame)


def _named(text: str) -> Iterator[FoundBox]:
    """Numbers by name, in any order: x1, left, x_min ...; or a corner or centre with width and height."""
    values: dict[str, float] = {}
    units: set[str] = set()
    for match in _NAMED.finditer(_POINT_TAG.sub(" ", text)):
        name = match[1].lower().replace("_", "")
        if name not in values:
            values[{"w": "width", "h": "height"}.get(name, name)] = _value(match[2])
            units.add(match[3] or "")
    box = _box_of(values)
    if len(units) == 1 and box is not None and all(map(math.isfinite, box)):
        yield FoundBox("named", box, _frame_of(units))


def _tables(text: str) -> Iterator[FoundBox]:
    """Rows of a Markdown table whose head names the numbers, or that name one number each."""
    rows = [
        [cell.strip(" *`") for cell in line[1:-1].split("|")]
        for line in map(str.strip, text.splitlines())
        if len(line) > 2 and line.startswith("|") and line.endswith("|")
    ]
    rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    names, *others = [[_KEY_NAMES.get(_bare_key(cell), "") for cell in row] for row in rows] or [[]]
    if sum(map(bool, names)) >= 4:
        for row in rows[1:]:
            yield from _of_cells(zip(names, row, strict=False))
    elif sum(len(row) == 2 and bool(row[0]) for row in others) >= 3:
        yield from _of_cells((_KEY_NAMES.get(_bare_key(row[0]), ""), row[1]) for row in rows if len(row) == 2)


def _of_cells(cells: Iterable[tuple[str, str]]) -> Iterator[FoundBox]:
    """The box of named cells, each a number of one unit; none where a name comes twice."""
    found = [(name, _NUMBER.fullmatch(cell)) for name, cell in cells if name]
    values = {name: float(match[1]) for name, match in found if match is not None}
    units = {(match[2] or "")[:1] for _, match in found if match is not None}
    box = _box_of(values)
    if len(values) == len(found) and len(units) == 1 and box is not None and all(map(math.isfinite, box)):
        yield FoundBox("table", box, _frame_of(units))


def _bare_key(cell: str) -> str:
    return re.sub(r"[\s_()-]", "", cell.lower())


def _box_of(values: Mapping[str, float]) -> Box | None:
    for keys in _CORNER_KEYS:
        if all(key in values for key in keys):
            a, b, c, d = (values[key] for key in keys)
            return a, b, c, d
    width, height = values.get("width", math.nan), values.get("height", math.nan)
    for x, y in (*_SIZE_KEYS, *_CENTRE_KEYS):
        if x in values and y in values:
            back = 0.5 if (x, y) in _CENTRE_KEYS else 0.0
            left, top = values[x] - back * width, values[y] - back * height
            return left, top, left + width, top + height
    return None


def _pairs(text: str) -> Iterator[FoundBox]:
    """Two corners, `(x1,y1),(x2,y2)`; a chain of more is no box."""
    for match in _CORNERS.finditer(_XY.sub(r"(\1,\2)", text)):
        yield from _corners([match[1], match[2]])
    for match in _CHAIN.finditer(text):
        yield from _corners(_POINTS.findall(match[0]))


def _corners(points: list[str]) -> Iterator[FoundBox]:
    if len(points) == 2:
        yield from _four(", ".join(point.strip("[]() ") for point in points), CORNERS)


def _lists(text: str) -> Iterator[FoundBox]:
    """Four numbers in brackets, `[x1, y1, x2, y2]`; of CogVLM's `[[a,b,c,d;e,f,g,h]]` every one."""
    for match in _LIST.finditer(text):
        bodies = [match[1]]
        if match[1].count(";") and match[1].split(";")[0].count(",") == 3:
            bodies = match[1].split(";")
        for body in bodies:
            yield from _four(body, LIST, in_percent=bool(match[2]))


def _runs(text: str) -> Iterator[FoundBox]:
    """Four bare numbers in a row, behind no bracket that is not closed."""
    for match in _RUN.finditer(text):
        before, after = text[: match.start()].rstrip()[-1:], text[match.end() :].lstrip()[:1]
        is_whole = after == _CLOSED[before] if before in _CLOSED else after not in _CLOSED.values()
        if before != "," and is_whole:
            yield from _four(match[0], BARE)


def _four(body: str, notation: str, *, in_percent: bool = False) -> Iterator[FoundBox]:
    """Four numbers that are separated alike, in the frame that their unit gives.

    With semicolons or spaces between them a comma is the decimal one. With a comma and a space, `1,024` is a
    thousand and `0,24` less than one; other commas without a space separate.
    """
    body = body.strip().strip(",;")
    for separator in (r"\s*;\s*", r"\s*,\s*", r",\s+", r"\s+"):
        pieces = re.split(separator, body)
        if len(pieces) == 4:
            break
    else:
        return
    with_comma = [piece for piece in pieces if "," in piece]
    if separator == r",\s+" and all(map(_THOUSANDS.fullmatch, with_comma)):
        pieces = [piece.replace(",", "") for piece in pieces]
    elif separator != r",\s+" or all(map(_SMALL_COMMA.fullmatch, with_comma)):
        pieces = [_DECIMAL_COMMA.sub(r"\1.\2", piece) for piece in pieces]
    matches = [_NUMBER.fullmatch(piece) for piece in pieces]
    numbers = [(float(match[1]), (match[2] or "")[:1]) for match in matches if match is not None]
    if len(numbers) < 4 or not all(math.isfinite(value) for value, _ in numbers):
        return
    (a, first), (b, second), (c, third), (d, fourth) = numbers
    units = {first, second, third, fourth}
    if len(units) == 1:
        frame = _frame_of(units) or ("xyxy-100" if in_percent else "")
        yield FoundBox(notation, (a, b, c, d), frame, is_ordered=False)


def _value(number: str) -> float:
    """A number that may have a comma for thousands or decimals; not a number where it has another."""
    if _THOUSANDS.fullmatch(number):
        return float(number.replace(",", ""))
    try:
        return float(number.replace(",", "."))
    except ValueError:
        return math.nan


def _frame_of(units: set[str]) -> str:
    return "xyxy-100" if "%" in units else "xyxy-pixel" if units - {""} else ""


def _is_of(box: Box, far: float) -> bool:
    """Whether numbers can be in a frame of whole numbers from 0 to `far`."""
    return min(box) >= 0 and 1 < max(box) <= far


_READERS: tuple[Callable[[str], Iterator[FoundBox]], ...] = (
    *(_tokens, _patches, _tags, _keyed),
    *(_named, _pairs, _lists, _runs),
    _tables,  # last, as what is said beside a table of several things tells which is meant
)
