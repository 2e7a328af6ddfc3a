"""Mutants of a module: its syntax tree with one small change each, of the source or of what a public function returns."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

NAMES = {
    "mean": "sum",
    "max": "min",
    "amax": "amin",
    "argmax": "argmin",
    "any": "all",
    "cos": "sin",
    "tril": "triu",
    "floor": "ceil",
}
NAMES |= {new: old for old, new in NAMES.items()} | {"detach": "clone", "no_grad": "enable_grad", "zeros": "ones"}
BUILTINS = ("max", "min", "any", "all")
OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
UNSEEN = ("annotation", "returns", "decorator_list", "bases")  # fields that are not executed for their value
CHANGES = ("* 1.01", "negated", "+ 0.01")

Edit = tuple[ast.AST, str, Any]


class Mutant(NamedTuple):
    """One change of a module's source; ``edits`` are made in place, in a process of their own."""

    line: int
    function: str
    change: str
    edits: tuple[Edit, ...]


def source_mutants(tree: ast.Module) -> list[Mutant]:
    """Changes of operators, comparisons, constants, conditions, reductions and statements, in the order of the source."""
    return [_mutant(node, parent, function, edits) for node, parent, function in _nodes(tree) for edits in edits_of(node)]


def result_mutants(tree: ast.Module) -> list[Mutant]:
    """Each public function and method with a result scaled, negated or shifted; a result of several parts has each changed alone."""
    tuples = {node.name: len(node.body) - 1 for node in tree.body if isinstance(node, ast.ClassDef) and _is_tuple(node)}
    found = []
    for function, node in _public(tree):
        returns = [n for n, _, inside in _nodes(node) if isinstance(n, ast.Return) and n.value and inside == node.name]
        parts: list[int | None] = list(range(_parts(node.returns, tuples))) or [None]
        for part in parts if returns else []:
            for how in CHANGES:
                edits = tuple((give, "value", _changed(give.value, how, part)) for give in returns)
                text = "result" + (f"[{part}] " if part is not None else " ") + how
                found.append(Mutant(node.lineno, function, text, edits))
    return found


def apply(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Make the changes; the edits that are returned take them back."""
    back = tuple((node, field, getattr(node, field)) for node, field, _ in edits)
    for node, field, value in edits:
        setattr(node, field, value)
    return back


def changed(value: Any, how: str, part: int | None, used: list[bool]) -> Any:
    """``value`` with its numbers changed (integers by 1 or in sign); ``used`` learns that there was something to change."""
    if isinstance(value, (tuple, list)):
        items = [changed(item, how, None, used) if part in (None, i) else item for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    whole = kind.startswith(("int", "uint"))
    if not (whole or kind.startswith(("float", "bfloat", "complex"))) or (whole and how == "* 1.01"):
        return value
    used.append(True)
    return -value if how == "negated" else value * 1.01 if how == "* 1.01" else value + (1 if whole else 0.01)


def _nodes(node: ast.AST, parent: ast.AST | None = None, function: str = "") -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """What is executed, each with its parent and function: no annotation, no text, no message of an error, no import."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        function = f"{function}.{node.name}".lstrip(".")
    yield node, parent or node, function
    for field, children in ast.iter_fields(node):
        for child in children if isinstance(children, list) else [children]:
            if isinstance(child, ast.AST) and field not in UNSEEN and not _silent(child):
                yield from _nodes(child, node, function)


def _silent(node: ast.AST) -> bool:
    imports = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return imports or isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom))


def edits_of(node: ast.AST) -> Iterator[tuple[Edit, ...]]:
    """The changes of one node, without its children."""
    operators: list[Any] = [*node.ops] if isinstance(node, ast.Compare) else [getattr(node, "op", None)]
    for place, operator in enumerate(operators):
        for new in OPERATORS.get(type(operator), ()):
            compare = isinstance(node, ast.Compare)
            one = [*operators[:place], new(), *operators[place + 1 :]]
            yield ((node, "ops" if compare else "op", one if compare else new()),)
    if isinstance(node, ast.UnaryOp) and not _is_index(node):
        yield ((node, "operand", ast.UnaryOp(node.op, node.operand)),)  # twice is never
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield ((node, "value", (not node.value) if isinstance(node.value, bool) else node.value + 1),)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in NAMES:
        yield ((node.func, "attr", NAMES[node.func.attr]),)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
        yield ((node.func, "id", NAMES[node.func.id]),)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ((node, "value", ast.Constant(None)),)
    elif isinstance(node, (ast.If, ast.IfExp)) and isinstance(node.test, (ast.Name, ast.Attribute, ast.Call)):
        yield ((node, "test", ast.UnaryOp(ast.Not(), node.test)),)


def _mutant(node: ast.AST, parent: ast.AST, function: str, edits: tuple[Edit, ...]) -> Mutant:
    shown = parent if isinstance(node, ast.Constant) and not isinstance(parent, ast.arguments) else node
    before = _text(shown)
    back = apply(edits)
    after = _text(shown)
    apply(back)
    return Mutant(node.lineno, function, f"{before} -> {after}", edits)  # type: ignore[attr-defined]


def _text(node: ast.AST) -> str:
    lines = ast.unparse(node).splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} ..."


def _is_index(node: ast.UnaryOp) -> bool:
    """A negative number: its constant changes (-1 becomes -2), its sign does not."""
    return isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)


def _is_tuple(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases)


def _public(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
            yield from ((f"{node.name}.{method.name}", method) for method in methods)


def _parts(returns: ast.expr | None, tuples: dict[str, int]) -> int:
    """How many parts a result has by its annotation, 0 if it is one."""
    if isinstance(returns, ast.Subscript) and ast.unparse(returns.value) == "tuple" and isinstance(returns.slice, ast.Tuple):
        return len(returns.slice.elts)
    return tuples.get(ast.unparse(returns), 0) if returns else 0


def _changed(value: ast.expr | None, how: str, part: int | None) -> ast.Call:
    assert value is not None
    return ast.Call(ast.Name("__changed__", ast.Load()), [value, ast.Constant(how), ast.Constant(part)], [])
