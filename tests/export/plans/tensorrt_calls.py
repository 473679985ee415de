"""All uses of TensorRT in a source file: members of classes, and the arguments of calls.

Types are followed through assignments, beginning with the names below. Return types of calls and types of properties
come from the signatures of the bindings.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.export.plans.tensorrt_surface import Surface

MODULE: Final = "module"
# Names of parameters, loop variables and list items in the sources.
NAMES: Final = {
    "library": MODULE,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "tensor": "ITensor",
    "profile": "IOptimizationProfile",
}


@dataclass(frozen=True)
class Use:
    """A use of a member of a TensorRT class or of the module.

    Attributes:
        owner: the class, or `MODULE` for a name of the module.
        member: name of the member.
        line: line of the source.
        call: number of positional arguments, and names of the others. None if it is not called. -1 is a number that
            the source does not determine.
        stored: whether the source assigns to it.
        guarded: whether the source checks first that the member exists.
    """

    owner: str
    member: str
    line: int
    call: tuple[int, tuple[str, ...]] | None = None
    stored: bool = False
    guarded: bool = False


def uses(source: str, surface: Surface) -> Iterator[Use]:
    """All uses in a source, with types from a surface."""
    tree = ast.parse(source)
    attributes: dict[str, str] = {}
    # Attributes of lrclr's own objects are set in one method and used in others.
    for _ in range(2):
        found = [use for scope in _scopes(tree) for use in _Scope(scope, surface, attributes).uses()]
    yield from found


def _scopes(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


class _Scope:
    """A function. A name in it has a type after its assignment."""

    def __init__(self, function: ast.FunctionDef, surface: Surface, attributes: dict[str, str]) -> None:
        self._function, self._surface, self._attributes = function, surface, attributes
        given = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
        inner = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        self._types = {name: type_ for name, type_ in NAMES.items() if name in given | inner}
        self._asked: set[str] = set()
        self._uses: list[Use] = []

    def uses(self) -> list[Use]:
        inside = list(ast.walk(self._function))
        if any(isinstance(node, ast.Name) and node.id in {"hasattr", "getattr"} for node in inside):
            self._asked = {str(node.value) for node in inside if isinstance(node, ast.Constant)}
        for statement in self._function.body:
            self._visit(statement)
        return self._uses

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            self._visit(node.value)
            for target in node.targets:
                self._assign(target, node.value)
            return
        if isinstance(node, ast.Call):
            self._call(node)
            return
        if isinstance(node, ast.Attribute):
            self._use(node)
            return
        for child in ast.iter_child_nodes(node):
            self._visit(child)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=True):
                self._assign(one, other)
            return
        if isinstance(target, ast.Attribute) and (owner := self.type_of(target.value)):
            self._uses.append(Use(owner, target.attr, target.lineno, stored=True))
            return
        type_ = self.type_of(value)
        if isinstance(target, ast.Name):
            if type_ is not None:
                self._types[target.id] = type_
            elif target.id not in NAMES or isinstance(value, (ast.Constant, ast.Dict, ast.List)):
                self._types.pop(target.id, None)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and type_ is not None:
            self._attributes[target.attr] = type_

    def _call(self, node: ast.Call) -> None:
        for child in (*node.args, *node.keywords):
            self._visit(child)
        if isinstance(node.func, ast.Name) and node.func.id in {"hasattr", "getattr"}:
            self._ask(node)
            return
        if not isinstance(node.func, ast.Attribute):
            self._visit(node.func)
            return
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        named = tuple(keyword.arg or "**" for keyword in node.keywords)
        self._use(node.func, (-1 if starred else len(node.args), named))

    def _ask(self, node: ast.Call) -> None:
        """A member that is looked up by name. Any string in the function may be the name."""
        owner = self.type_of(node.args[0])
        if owner is None:
            return
        word = node.args[1]
        names = {str(word.value)} if isinstance(word, ast.Constant) else {one for one in self._asked if one.isupper()}
        self._uses += [Use(owner, name, node.lineno, guarded=True) for name in sorted(names)]

    def _use(self, node: ast.Attribute, call: tuple[int, tuple[str, ...]] | None = None) -> None:
        self._visit(node.value)
        owner = self.type_of(node.value)
        if owner is not None and not node.attr.startswith("__"):
            self._uses.append(Use(owner, node.attr, node.lineno, call, guarded=node.attr in self._asked))

    def type_of(self, node: ast.expr) -> str | None:
        """The class of an expression's value, or the class that the expression names. None if it is not of TensorRT."""
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self._attributes.get(node.attr)
            return self._member(self.type_of(node.value), node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = self.type_of(node.func.value)
            if owner == MODULE:
                return node.func.attr if node.func.attr in self._surface else None
            signatures = self._surface.get(owner or "", {}).get(node.func.attr, {}).get("signatures", [])
            return self._known(signatures[0]["returns"]) if signatures else None
        return None

    def _member(self, owner: str | None, name: str) -> str | None:
        if owner == MODULE:
            # The values of an enumeration are its members.
            return name if name in self._surface else None
        return self._known(self._surface.get(owner or "", {}).get(name, {}).get("type"))

    def _known(self, type_: str | None) -> str | None:
        return type_ if type_ in self._surface else None
