"""What the README and the guide show: their fenced blocks, and what is written as code in their text."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]
DOCS = REPO / "docs"
PAGES = [REPO / "README.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^( *)```(\w*)")
_MARK = re.compile(r"^ *<!-- (?:checked, )?not run: .+ -->$")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `is_run` unless the comment right above it says why not."""

    page: Path
    line: int
    language: str
    text: str
    is_run: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPO)}:{self.line}"

    def commands(self) -> Iterator[str]:
        """Its commands, those over several lines in one, comments left out."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if shlex.split(line, comments=True):
                yield from (part.strip() for part in _without_comment(line).split(" && "))


def _without_comment(line: str) -> str:
    """A line up to the first ` #` that is not in quotes."""
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and line[place - 1].isspace():
            return line[:place]
    return line


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    start, indent, language, is_run = 0, "", "", True
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if not start:
            start, indent, language = number + 1, fence[1], fence[2]
            is_run = not (number and _MARK.match(lines[number - 1]))
        else:
            text = "\n".join(one.removeprefix(indent) for one in lines[start:number])
            found.append(Block(page, start, language, text, is_run))
            start = 0
    return [block for block in found if block.language in languages]


def code_in_text(page: Path) -> list[str]:
    """What stands between single backticks, outside fenced blocks."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def without_variables(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The variables that a command line sets in front, and the rest of it."""
    variables: dict[str, str] = {}
    while words and _VARIABLE.match(words[0]):
        name, _, value = words[0].partition("=")
        variables[name] = value
        words = words[1:]
    return variables, words
