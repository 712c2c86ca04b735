"""No setting is there for nothing: every field of every table is read somewhere in the product, by its type.

The types of expressions are told from annotations, as far as settings go: parameters, fields of classes,
what functions return, and what is assigned or looped over.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import vila2cli.settings as package
from vila2cli.settings import Recipe, Settings, describe
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
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self.reads |= {(kind, node.attr) for kind in self.of(node.value, names)}
            if isinstance(node, _SCOPES):
                self._function(node, names)

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


def family(name: str) -> set[str]:
    """A class with those above it, and with those below, as which its fields are read."""
    kind = CLASSES[name]
    return {other.__name__ for other in CLASSES.values() if issubclass(kind, other) or issubclass(other, kind)}


def unread(texts: Mapping[str, str]) -> set[str]:
    reads = Types([ast.parse(text) for text in texts.values()]).reads
    return {
        f"{name}.{field}"
        for name, kind in CLASSES.items()
        for field in kind.model_fields
        if not any((relative, field) in reads for relative in family(name))
    }


def test_every_setting_is_read() -> None:
    assert unread(sources()) == set()


def test_a_setting_that_nobody_reads_is_found() -> None:
    left_out = {
        "max_grad_norm": "TrainSettings",
        "keep_share": "FilterSettings",
        "max_requeues": "SlurmSettings",
    }
    texts = sources()
    for name in left_out:
        texts = {path: text.replace(f".{name}", ".other") for path, text in texts.items()}
    assert {f"{kind}.{name}" for name, kind in left_out.items()} <= unread(texts)


def test_tables_of_one_source_have_nothing_about_several() -> None:
    keys = {key for key, *_ in describe(Recipe)}
    for table in ("pretrain.main", "sft"):
        assert {f"{table}.mixture.NAME.weight", f"{table}.text_share"} <= keys
    of_one_source = [key for key in keys if key.startswith(("pretrain.align.", "specialists.NAME."))]
    assert len(of_one_source) > 30
    assert not [key for key in of_one_source if "mixture" in key or "text_share" in key]
    assert not {"sft.captions", "sft.answers", "specialists.NAME.captions", "pretrain.align.answers"} & keys
    assert not REMOVED.keys() & keys
