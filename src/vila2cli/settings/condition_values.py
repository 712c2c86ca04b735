"""What the nodes of a condition do with a sample: fields, numbers, comparisons, each a function of `Facts`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol


class Facts(Protocol):
    """What conditions are about: the metadata, and the picture's own facts, which may raise `Unknown`."""

    @property
    def meta(self) -> Mapping[str, Any]: ...

    def of_picture(self, name: str) -> float | str:
        """Its `width`, `height`, `aspect` or `format`."""
        ...


class Unknown(Exception):
    """What a sample does not tell; the argument says why, in words that samples are counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Value = Callable[[Facts], Any]


def field_value(path: Sequence[str]) -> Value:
    """The value of a field; a name with dots that the metadata has as it stands is that one."""
    whole, first, rest = ".".join(path), path[0], path[1:]

    def read(facts: Facts) -> Any:
        value = facts.meta.get(first)
        for name in rest:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None and rest:
            value = facts.meta.get(whole)
        if value is None or value != value:  # NaN, which is a number to nobody
            raise Unknown(f"missing: {whole}")
        return value

    return read


def to_number(value: Any) -> float | None:
    """A number, or a text that is one as tables have it; None for anything else, and for what is not finite."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def as_number(value: Value, text: str) -> Value:
    def read(facts: Facts) -> float:
        if (number := to_number(value(facts))) is None:
            raise Unknown(f"no number: {text}")
        return number

    return read


def as_truth(value: Value, text: str) -> Value:
    def read(facts: Facts) -> bool:
        if not isinstance(held := value(facts), bool):
            raise Unknown(f"not true or false: {text}")
        return held

    return read


def length(value: Value, text: str) -> Value:
    def read(facts: Facts) -> int:
        if not isinstance(counted := value(facts), str | list | tuple | Mapping):
            raise Unknown(f"no list or text: {text}")
        return len(counted)

    return read


def extreme(choose: Callable[[Iterable[Any]], Any], value: Value, text: str) -> Value:
    def read(facts: Facts) -> float:
        listed = value(facts)
        numbers = list(map(to_number, listed)) if isinstance(listed, list | tuple) else []
        if not numbers or None in numbers:
            raise Unknown(f"no list of numbers: {text}")
        return choose(numbers)  # type: ignore[no-any-return]

    return read


def calculated(apply: Callable[[Any, Any], Any], left: float, right: float, text: str) -> float:
    try:
        number = apply(left, right)
        if isinstance(number, int) or math.isfinite(number):
            return number  # type: ignore[no-any-return]
    except ArithmeticError:
        pass
    raise Unknown(f"no number: {text}")


def joined(parts: Sequence[Value], facts: Facts, decides: bool) -> bool:
    """`or` where True decides, `and` where False does; unknown only where no part decides."""
    unknown: Unknown | None = None
    for part in parts:
        try:
            if bool(part(facts)) is decides:
                return decides
        except Unknown as error:
            unknown = unknown or error
    if unknown is not None:
        raise unknown
    return not decides


def _pair(left: Any, right: Any, texts: tuple[str, str], is_number: bool) -> tuple[Any, Any]:
    """Both sides as numbers where one is a number; two texts, or two truths, as they are."""
    if not is_number and type(left) is type(right) and isinstance(left, str | bool):
        return left, right
    for value, text in zip((left, right), texts, strict=True):
        if to_number(value) is None:
            raise Unknown(f"no number: {text}" if is_number else f"cannot be compared: {text}")
    return to_number(left), to_number(right)


def ordered(
    compare: Callable[[Any, Any], bool], left: Value, right: Value, texts: tuple[str, str], *, is_number: bool
) -> Value:
    def test(facts: Facts) -> bool:
        first, second = left(facts), right(facts)
        if type(first) is not float or type(second) is not float:
            first, second = _pair(first, second, texts, is_number)
            if isinstance(first, bool):
                raise Unknown(f"cannot be compared: {texts[0]}")
        return bool(compare(first, second))

    return test


def equal(left: Value, right: Value, texts: tuple[str, str], *, is_number: bool) -> Value:
    def test(facts: Facts) -> bool:
        first, second = _pair(left(facts), right(facts), texts, is_number)
        return bool(first == second)

    return test


def contained(left: Value, right: Value, text: str) -> Value:
    def test(facts: Facts) -> bool:
        value, holder = left(facts), right(facts)
        if isinstance(holder, str) and isinstance(value, str):
            return value in holder
        if not isinstance(holder, list | tuple):
            raise Unknown(f"no list or text: {text}")
        return any(type(one) is type(value) and one == value for one in holder) or (
            (number := to_number(value)) is not None
            and not isinstance(value, bool)
            and any(not isinstance(one, str) and to_number(one) == number for one in holder)
        )

    return test
