"""The README against the code: every command, every recipe key, every line that can be pasted.

`python tests/test_readme.py` writes the reference tables anew.
"""

import json
import re
from pathlib import Path

from typer.main import get_command

from vila2cli.cli.app import app
from vila2cli.settings import describe

README = Path(__file__).parents[1] / "README.md"


def reference() -> str:
    """The recipe reference as a Markdown table."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, doc in describe():
        if isinstance(default, tuple):
            default = list(default)
        elif isinstance(default, str) and not default.isprintable():
            default = json.dumps(default)
        cells = [f"`{key}`", kind.replace("|", "or"), f"`{default}`", doc]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def section(text: str, name: str) -> str:
    found = re.search(rf"<!-- {name}: [^>]*-->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found, f"README.md has no <!-- {name}: --> section"
    return found[1].strip()


def test_every_recipe_key_is_in_the_reference() -> None:
    assert section(README.read_text(), "reference") == reference(), "run python tests/test_readme.py"


def test_every_command_is_in_the_table_of_stages() -> None:
    text = README.read_text()
    missing = [name for name in get_command(app).commands if f"| `vila2 {name}` |" not in text]
    assert not missing


def test_the_commands_shown_have_the_options_shown() -> None:
    commands = get_command(app).commands
    for line in re.findall(r"^vila2 [^#\n]*", README.read_text(), re.MULTILINE):
        _, name, *words = line.split()
        command = commands[name]
        if words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = [word for word in words if word.startswith("--") and word not in known]
        assert not unknown, line


def test_paths_named_in_the_readme_exist() -> None:
    for path in re.findall(r"(?:recipes|benchmarks|docs)/[\w./-]+\w", README.read_text()):
        assert (README.parent / path).exists(), path


if __name__ == "__main__":
    text = README.read_text()
    pattern = r"(<!-- reference: [^>]*-->\n).*?(<!-- /reference -->)"
    README.write_text(re.sub(pattern, lambda m: f"{m[1]}{reference()}\n{m[2]}", text, flags=re.DOTALL))
