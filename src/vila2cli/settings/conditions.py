"""The conditions of `filter.where`: a small language about a sample's metadata and picture.

Python's parser reads it, and a walk over what it read allows comparisons, `and`, `or`, `not`, `in`, `+ - * /`,
`min`, `max`, `abs`, `len`, numbers, texts, true, false and fields. Nothing is ever run: each node becomes a
function of `Facts` written here. `a.b` is the field b inside a, and `field("odd-name")` one whose name is no
word; `width`, `height`, `aspect` (long side to short side, 1 or more) and `format` are the picture's own.

A field that is missing or null, or of a type that a condition cannot use, makes what depends on it unknown, and
a sample is not kept on what is unknown: `a > 1 or b > 1` holds where b is 2, whether or not there is an a.
"""

import ast
import operator
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from vila2cli.settings.condition_values import (
    Facts,
    Unknown,
    Value,
    as_number,
    as_truth,
    calculated,
    contained,
    equal,
    extreme,
    field_value,
    joined,
    length,
    ordered,
)

MAX_CHARS = 1000
MAX_DEPTH = 50
"""Of what stands inside what in a condition."""

Kind = Literal["number", "text", "condition", "list", "field"]
"""What an expression gives, as far as that can be told before there is a sample; of a field it cannot."""


PICTURE_FIELDS: Mapping[str, Kind] = {
    "width": "number",
    "height": "number",
    "aspect": "number",
    "format": "text",
}
FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm", "avif", "jpeg2000")
"""What `format` may be."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read: what it gives for a sample, and whether the picture is looked at for it."""

    text: str
    kind: Kind
    value: Value
    reads_picture: bool


def reason_against(condition: Expression, facts: Facts) -> str | None:
    """Why a sample does not meet a condition, None where it does."""
    try:
        return None if condition.value(facts) else f"not: {condition.text}"
    except Unknown as unknown:
        return unknown.reason


@cache
def parse_condition(text: str) -> Expression:
    """Read a condition; raises ValueError that says what is wrong and at which character."""
    node, reader = _read(text)
    kind, value = reader.compile(node)
    if kind not in ("condition", "field"):
        raise reader.error(node, f"this is a {kind}, not a condition; compare it with something")
    held = value if kind == "condition" else as_truth(value, reader.text_of(node))
    return Expression(reader.text, "condition", held, reader.reads_picture)


@cache
def parse_number(text: str) -> Expression:
    """Read an expression that gives a number, as samples are ranked by; raises ValueError."""
    node, reader = _read(text)
    kind, value = reader.compile(node)
    if kind not in ("number", "field"):
        raise reader.error(node, f"this is a {kind}, not a number or a field")
    return Expression(reader.text, "number", as_number(value, reader.text_of(node)), reader.reads_picture)


def _read(text: str) -> tuple[ast.expr, "_Reader"]:
    text = re.sub(r"\s", " ", text).strip()  # a text in quotes keeps how many spaces it has
    if not text:
        raise ValueError("it is empty; write something like width >= 200")
    if len(text) > MAX_CHARS:
        raise ValueError(f"it is {len(text):,} characters long, and {MAX_CHARS:,} is the limit")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        place = max(1, min(error.offset or 1, len(text)))
        raise ValueError(f"character {place}, at {_near(text, place - 1)}: {_hint(text, error)}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ValueError("it cannot be read; write something like width >= 200") from None
    behind = text.encode()[tree.body.end_col_offset or 0 :].decode().lstrip(" )")
    if behind:  # a comment, which in one line would swallow what a condition of several lines goes on with
        raise ValueError(f"character {len(text) - len(behind) + 1}, at {_near(behind, 0)}: leave comments out")
    return tree.body, _Reader(text)


def _hint(text: str, error: SyntaxError) -> str:
    """What a mistake of the grammar probably was meant to be."""
    for wrong, right in (("&&", "and"), ("||", "or"), ("<>", "!="), ("!", "not")):
        if wrong in text.replace("!=", ""):
            return f"write {right} in place of {wrong}"
    if "=" in text.replace("==", "").replace(">=", "").replace("<=", "").replace("!=", ""):
        return "write == to compare"
    return error.msg.partition(". Perhaps")[0].lower() or "this cannot be read"


def _near(text: str, start: int) -> str:
    part = text[start : start + 20]
    return repr(part + ("..." if len(text) > start + 20 else ""))


_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_WORDS = {"true": True, "false": False, "True": True, "False": False}


class _Reader:
    """Makes functions of the nodes of one expression, and refuses those that the language does not have."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.reads_picture = False
        self._depth = 0

    def error(self, node: ast.AST, problem: str) -> ValueError:
        """What is wrong at a node; the parser counts bytes, people characters."""
        start = len(self.text.encode()[: getattr(node, "col_offset", 0)].decode(errors="ignore"))
        return ValueError(f"character {start + 1}, at {_near(self.text, start)}: {problem}")

    def text_of(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.text, node) or self.text

    def compile(self, node: ast.expr) -> tuple[Kind, Value]:
        """What a node gives, and the function that gives it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.error(node, f"more than {MAX_DEPTH} levels stand inside each other here")
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise self.error(node, "this is not part of the language of conditions")
        kind, value = method(node)
        self._depth -= 1
        return kind, value

    def _Constant(self, node: ast.Constant) -> tuple[Kind, Value]:
        constant = node.value
        if isinstance(constant, bool):
            return "condition", lambda facts: constant
        if isinstance(constant, str):
            return "text", lambda facts: constant
        if isinstance(constant, int | float) and abs(constant) <= sys.float_info.max:
            return "number", lambda facts: constant
        if constant is None:
            raise self.error(node, "a field that is null counts as missing, and such samples as a reason apart")
        raise self.error(node, "only numbers, texts, true and false can stand here")

    def _Name(self, node: ast.Name) -> tuple[Kind, Value]:
        if node.id in _WORDS:
            truth = _WORDS[node.id]
            return "condition", lambda facts: truth
        if node.id in PICTURE_FIELDS:
            self.reads_picture = True
            name = node.id
            return PICTURE_FIELDS[name], lambda facts: facts.of_picture(name)
        if node.id in ("null", "None", "nan", "NaN"):
            raise self.error(node, "a field that is null counts as missing, and such samples as a reason apart")
        return "field", field_value((self._as_written(node, node.id),))

    def _as_written(self, node: ast.expr, name: str) -> str:
        """The name that a node ends with, in its own Unicode form as a JSON key has it, not in the parser's."""
        written = self.text_of(node).rpartition(".")[2].strip()
        return written if unicodedata.normalize("NFKC", written) == name else name

    def _Attribute(self, node: ast.Attribute) -> tuple[Kind, Value]:
        return "field", field_value(self._path(node))

    def _path(self, node: ast.expr) -> tuple[str, ...]:
        if isinstance(node, ast.Attribute):
            return (*self._path(node.value), self._as_written(node, node.attr))
        if isinstance(node, ast.Name):
            return (self._as_written(node, node.id),)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "field":
            return self._named(node)
        raise self.error(node, "a field is its name, or several joined by dots")

    def _named(self, node: ast.Call) -> tuple[str, ...]:
        names = [one.value if isinstance(one, ast.Constant) else None for one in node.args]
        if node.keywords or not names or not all(isinstance(name, str) and name for name in names):
            raise self.error(node, 'write field("name"), or field("outer", "inner") for one inside another')
        return tuple(map(str, names))

    def _Call(self, node: ast.Call) -> tuple[Kind, Value]:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "field":
            return "field", field_value(self._named(node))
        if name not in ("min", "max", "abs", "len"):
            raise self.error(node, "the functions are min, max, abs, len and field")
        if node.keywords or not node.args or (name in ("abs", "len") and len(node.args) > 1):
            few = "one argument" if name in ("abs", "len") else "one list or several numbers"
            raise self.error(node, f"{name} takes {few}")
        return "number", self._called(name, node)

    def _called(self, name: str, node: ast.Call) -> Value:
        first = node.args[0]
        if name == "len" or (name != "abs" and len(node.args) == 1):
            kind, inner = self.compile(first)
            if kind != "field" and not (name == "len" and kind == "text"):
                raise self.error(first, f"{name} of a {kind} cannot be taken; give a field that is a list")
            text = self.text_of(first)
            if name == "len":
                return length(inner, text)
            return extreme(max if name == "max" else min, inner, text)
        numbers = [self._a_number(one) for one in node.args]
        if name == "abs":
            return lambda facts: abs(numbers[0](facts))
        choose: Callable[[Iterable[Any]], Any] = max if name == "max" else min
        return lambda facts: choose([number(facts) for number in numbers])

    def _a_number(self, node: ast.expr) -> Value:
        kind, value = self.compile(node)
        if kind == "field":
            return as_number(value, self.text_of(node))
        if kind != "number":
            raise self.error(node, f"this is a {kind}, and a number is needed")
        return value

    def _a_truth(self, node: ast.expr) -> Value:
        kind, value = self.compile(node)
        if kind == "field":
            return as_truth(value, self.text_of(node))
        if kind != "condition":
            raise self.error(node, f"this is a {kind}, and a condition is needed")
        return value

    def _BinOp(self, node: ast.BinOp) -> tuple[Kind, Value]:
        if (apply := _ARITHMETIC.get(type(node.op))) is None:
            raise self.error(node, "of arithmetic there are + - * and /")
        left, right, text = self._a_number(node.left), self._a_number(node.right), self.text_of(node)
        return "number", lambda facts: calculated(apply, left(facts), right(facts), text)

    def _UnaryOp(self, node: ast.UnaryOp) -> tuple[Kind, Value]:
        if isinstance(node.op, ast.Not):
            held = self._a_truth(node.operand)
            return "condition", lambda facts: not held(facts)
        number = self._a_number(node.operand)
        if isinstance(node.op, ast.USub):
            return "number", lambda facts: -number(facts)
        if isinstance(node.op, ast.UAdd):
            return "number", number
        raise self.error(node, "of arithmetic there are + - * and /")

    def _BoolOp(self, node: ast.BoolOp) -> tuple[Kind, Value]:
        parts = [self._a_truth(one) for one in node.values]
        decides = isinstance(node.op, ast.Or)
        return "condition", lambda facts: joined(parts, facts, decides)

    def _List(self, node: ast.List | ast.Tuple) -> tuple[Kind, Value]:
        parts = [self.compile(one)[1] for one in node.elts]
        return "list", lambda facts: [part(facts) for part in parts]

    _Tuple = _Set = _List

    def _Compare(self, node: ast.Compare) -> tuple[Kind, Value]:
        sides = [node.left, *node.comparators]
        compiled = [self.compile(side) for side in sides]
        tests = []
        for place, how in enumerate(node.ops):
            left, right = compiled[place], compiled[place + 1]
            texts = self.text_of(sides[place]), self.text_of(sides[place + 1])
            self._check_formats(sides[place], sides[place + 1])
            tests.append(self._test(node, how, left, right, texts))
        return "condition", tests[0] if len(tests) == 1 else lambda facts: joined(tests, facts, decides=False)

    def _check_formats(self, *sides: ast.expr) -> None:
        """Raise ValueError for a format that no picture is said to have, which would be met by none."""
        if not any(isinstance(side, ast.Name) and side.id == "format" for side in sides):
            return
        for node in (node for side in sides for node in ast.walk(side)):
            if isinstance(node, ast.Constant) and node.value not in FORMATS:
                raise self.error(node, f"the formats are {', '.join(FORMATS)}")

    def _test(
        self,
        node: ast.Compare,
        how: ast.cmpop,
        left: tuple[Kind, Value],
        right: tuple[Kind, Value],
        texts: tuple[str, str],
    ) -> Value:
        if isinstance(how, ast.Is | ast.IsNot):
            raise self.error(node, "write == or !=")
        if isinstance(how, ast.In | ast.NotIn):
            if right[0] in ("number", "condition") or left[0] == "list":
                raise self.error(node, "in asks whether a value is in a list, or a text in a text")
            is_in = contained(left[1], right[1], texts[1])
            return is_in if isinstance(how, ast.In) else lambda facts: not is_in(facts)
        kinds = {left[0], right[0]} - {"field"}
        if "list" in kinds or len(kinds) > 1:
            raise self.error(node, f"a {left[0]} cannot be compared with a {right[0]}")
        if (compare := _COMPARE.get(type(how))) is not None:
            if "condition" in kinds:
                raise self.error(node, "true and false have no order; write == or !=")
            return ordered(compare, left[1], right[1], texts, is_number="number" in kinds)
        is_equal = equal(left[1], right[1], texts, is_number="number" in kinds)
        return is_equal if isinstance(how, ast.Eq) else lambda facts: not is_equal(facts)
