"""No setting is there for nothing: every field of every table is read somewhere in the product, by its type.

The types of expressions are told from annotations, as far as settings go: parameters, fields of classes,
what functions return, and what is assigned or looped over.
"""

import ast
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import vila2cli.settings as package
from vila2cli.settings import Recipe, Settings, ShownSettings, describe
from vila2cli.settings.asking import FilterSettings
from vila2cli.settings.recipe import REMOVED

SRC = Path(package.__file__).parents[1]
Classes = Mapping[str, type[Settings]]


def all_classes(model: type[Settings] = Settings) -> dict[str, type[Settings]]:
    found = {kind.__name__: kind for kind in model.__subclasses__()}
    for kind in model.__subclasses__():
        found |= all_classes(kind)
    return found


CLASSES = all_classes()
_SCOPES = (ast.FunctionDef, ast.Lambda, ast.ClassDef)


def sources() -> dict[str, str]:
    paths = [path for path in SRC.rglob("*.py") if "recipes" not in path.parts]
    texts = {str(path.relative_to(SRC)): path.read_text() for path in paths}
    return {path: text for path, text in texts.items() if "settings" in text or "recipe" in text}


def named_in(annotation: str) -> tuple[str, bool] | None:
    """The settings class that an annotation names, and whether it is one of many."""
    names = [name for name in re.findall(r"\w+", annotation) if name in CLASSES]
    is_many = bool(re.search(r"(Sequence|Mapping|dict|list|tuple|Iterator)\[", annotation))
    return (names[-1], is_many) if names else None


class Types:
    """What is a table of settings, by name of a field, of a function, or of a variable of a function."""

    def __init__(self, trees: list[ast.Module]) -> None:
        self.fields: dict[str, set[str]] = {}
        self.returns: dict[str, set[str]] = {}
        self.reads: set[tuple[str, str]] = set()
        for kind in CLASSES.values():
            for name, field in kind.model_fields.items():
                if named := named_in(str(field.annotation).replace(".", " ")):
                    self.fields.setdefault(name, set()).add(named[0])
        for tree in trees:
            self._declare(tree)
        for _ in range(2):  # until what is assigned to self is known to all of its class
            for tree in trees:
                self._function(tree, {})

    def _declare(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign):
                target = (
                    node.target.attr if isinstance(node.target, ast.Attribute) else ast.unparse(node.target)
                )
                if named := named_in(ast.unparse(node.annotation)):
                    self.fields.setdefault(target, set()).add(named[0])
            if (
                isinstance(node, ast.FunctionDef)
                and node.returns
                and (named := named_in(ast.unparse(node.returns)))
            ):
                self.returns.setdefault(node.name, set()).add(named[0])

    def of(self, node: ast.expr, names: Mapping[str, set[str]]) -> set[str]:
        if isinstance(node, ast.Name):
            return names.get(node.id, set())
        if isinstance(node, ast.Attribute):
            return self.fields.get(node.attr, set()) | self.returns.get(node.attr, set())  # or a property
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("values", "items", "get", "enumerate", "zip", "list"):
                inner = [node.func.value] if isinstance(node.func, ast.Attribute) else node.args
                return set().union(*(self.of(one, names) for one in inner))
            return {called} if called in CLASSES else self.returns.get(called, set())
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.Starred):
            return self.of(node.value if isinstance(node, ast.Starred) else node.elt, names)
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        if isinstance(node, ast.Subscript):
            parts = [node.value]
        if isinstance(node, ast.Subscript | ast.IfExp | ast.BoolOp | ast.NamedExpr | ast.Dict | ast.Tuple):
            return set().union(*(self.of(part, names) for part in parts))
        return set()

    def _function(self, scope: ast.AST, outer: Mapping[str, set[str]]) -> None:
        names = {name: set(kinds) for name, kinds in outer.items()}
        if isinstance(scope, ast.ClassDef):
            names["self"] = {scope.name} & CLASSES.keys()
        if isinstance(scope, ast.FunctionDef | ast.Lambda):
            for argument in [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]:
                named = named_in(ast.unparse(argument.annotation)) if argument.annotation else None
                if argument.arg != "self":
                    names[argument.arg] = {named[0]} if named else set()
        body = list(own_nodes(scope))
        for _ in range(2):
            for node in body:
                self._bind(node, names)
        for node in body:
            self._read(node, names)
            if isinstance(node, _SCOPES) and not only_checks(node):
                self._function(node, names)

    def _read(self, node: ast.AST, names: Mapping[str, set[str]]) -> None:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            self.reads |= {(kind, node.attr) for kind in self.of(node.value, names)}
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            # An image processor's own settings are a table as it stands.
            is_tiles = isinstance(node.value, ast.Attribute) and node.value.attr == "vila2_tiles"
            self.reads |= {("TilesSettings", str(node.slice.value))} if is_tiles else set()

    def _bind(self, node: ast.AST, names: dict[str, set[str]]) -> None:
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.NamedExpr):
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.For | ast.comprehension):
            pairs = [(node.target, node.iter)]
        else:
            return
        for target, value in pairs:
            are_many = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            inner = zip(target.elts, value.elts, strict=False) if are_many else [(target, value)]
            for one, given in inner:
                kinds = self.of(given, names)
                for place in one.elts if isinstance(one, ast.Tuple) else [one]:
                    if isinstance(place, ast.Name):
                        names[place.id] = names.get(place.id, set()) | kinds
                    elif isinstance(place, ast.Attribute) and kinds:
                        self.fields.setdefault(place.attr, set()).update(kinds)


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """What is in a function or class, but for the inside of functions and classes in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, _SCOPES):
            yield from own_nodes(child)


def only_checks(scope: ast.AST) -> bool:
    """Whether a function is called when a recipe is loaded, so that what it reads can do no more than raise."""
    decorators = [ast.unparse(one) for one in getattr(scope, "decorator_list", ())]
    return any("_validator(" in one for one in decorators)


def read_as(kind: type[Settings]) -> set[str]:
    """A table's class and those above it, as which its fields are read; not another table of those.

    What a model is shown is taken out of its table by `asked()`.
    """
    asked = {"AskedSettings"} if issubclass(kind, ShownSettings) else set()
    return asked | {other.__name__ for other in (kind, *CLASSES.values()) if issubclass(kind, other)}


def tables(model: type[Settings] = Recipe) -> dict[str, type[Settings]]:
    """The class of every table of a recipe, by one key of it."""
    found = {}
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Settings):
                found |= {name: kind, **{f"{name}.{key}": inner for key, inner in tables(kind).items()}}
    return found


@cache
def reads_of(texts: tuple[str, ...]) -> set[tuple[str, str]]:
    return Types([ast.parse(text) for text in texts]).reads


def unread(texts: Mapping[str, str], more: Classes = MappingProxyType({})) -> set[str]:
    reads = reads_of(tuple(texts.values()))
    return {
        f"{name}.{field}"
        for name, kind in {"recipe": Recipe, **tables(), **more}.items()
        for field in kind.model_fields.keys() - getattr(kind, "not_own", frozenset())
        if not any((one, field) in reads for one in read_as(kind))
    }


def test_every_setting_is_read() -> None:
    assert unread(sources()) == set()


def test_a_key_that_is_added_and_read_by_nobody_is_found() -> None:
    class More(FilterSettings):
        nobody: int = 0

    assert unread(sources(), {"more": More}) == {"more.nobody"}, "what it inherits is read"


def test_a_key_that_is_read_no_more_or_only_to_raise_is_found() -> None:
    left_out = {"max_grad_norm": "sft", "keep_share": "filter", "max_requeues": "slurm"}
    texts = sources()
    for name in left_out:
        texts = {path: text.replace(f".{name}", ".other") for path, text in texts.items()}
    texts = {path: text.replace('self.vila2_tiles["overlap"]', '"last"') for path, text in texts.items()}
    assert any("self.overlap" in text for text in texts.values()), "what it is set to is still checked"
    assert {*(f"{table}.{name}" for name, table in left_out.items()), "base.tiles.overlap"} <= unread(texts)


def test_tables_of_one_source_have_nothing_about_several() -> None:
    keys = {key for key, *_ in describe(Recipe)}
    for table in ("pretrain.main", "sft"):
        assert {f"{table}.mixture.NAME.weight", f"{table}.text_share"} <= keys
    of_one_source = [key for key in keys if key.startswith(("pretrain.align.", "specialists.NAME."))]
    assert len(of_one_source) > 30
    assert not [key for key in of_one_source if "mixture" in key or "text_share" in key]
    assert not {"sft.captions", "sft.answers", "specialists.NAME.captions", "pretrain.align.answers"} & keys
    assert not REMOVED.keys() & keys
