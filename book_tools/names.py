"""What the names of a notebook tell without running it: which cells would not print the same again (names with two meanings, generators
drawn from elsewhere), and which show something that was trained."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import NamedTuple

from book_tools import notebooks

TRAINERS = {"fit", "Adam", "AdamW", "SGD", "RMSprop", "LBFGS"}
MAKERS = {"default_rng", "Generator", "RandomState", "Random", "manual_seed"}


class Used(NamedTuple):
    """What a cell does with the names of the notebook."""

    bound: set[str]
    read: set[str]  # from other cells
    made: set[str]  # names of random generators


def spoiled(notebook: notebooks.Notebook) -> Iterator[tuple[int, str]]:
    """The numbers of the cells that bind a name anew which another cell reads, or draw from another cell's generator, with the remedy."""
    cells = {number: used(notebooks.source(cell)) for number, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code"}
    first: dict[str, int] = {}
    for number, cell in cells.items():
        for name in sorted(cell.bound):
            if name in first:
                readers = [other for other, one in cells.items() if name in one.read]
                if readers:
                    yield (
                        number,
                        f"{name} is bound in cell {first[name]} too and read in cell {readers[0]}; give it another name, so that each "
                        "cell can be run again",
                    )
            first.setdefault(name, number)
    for number, cell in cells.items():
        for other, one in cells.items():
            for name in sorted(cell.made & one.read) if other != number else ():
                yield (
                    other,
                    f"the generator {name} of cell {number} is used here; make a generator in the cell that draws from it",
                )


def trained(notebook: notebooks.Notebook) -> set[int]:
    """The numbers of the cells that read, directly or through others, what a training loop has left."""
    trainers, results, found = set(TRAINERS), set[str](), set[int]()
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        source = notebooks.source(cell)
        body = ast.parse(source).body
        functions = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        others = [node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        trainers |= {function.name for function in functions if calls(function) & trainers}
        used_here = set().union(*(calls(node) for node in others))
        if used_here & trainers or used(source).read & results:
            results |= set().union(*(binds(node) for node in others))
            found.add(number)
    return found


def calls(node: ast.AST) -> set[str]:
    """The names of all that is called in ``node``, of a method its own name."""
    return {called(call) for call in ast.walk(node) if isinstance(call, ast.Call)}


def used(source: str) -> Used:
    """The names that a cell binds at its top level, those it needs from elsewhere, and its generators."""
    bound: set[str] = set()
    read: set[str] = set()
    made: set[str] = set()
    later: set[str] = set()  # inside functions, which are called when the cell has bound its own names
    for statement in ast.parse(source).body:
        for when, name in _free(statement, frozenset(), top=True):
            if name not in bound:
                (later if when == "later" else read).add(name)
        bound |= binds(statement)
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call) and called(statement.value) in MAKERS:
            made |= binds(statement)
    return Used(bound, {name for name in read | (later - bound) if not hasattr(builtins, name)}, made)


def called(call: ast.Call) -> str:
    """The name of what is called, of a method its own name."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else str(getattr(call.func, "id", ""))


def binds(node: ast.AST) -> set[str]:
    """The names that a statement binds around itself, those inside functions and comprehensions not counted."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return {inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)}
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)) else set[str]()
    return own.union(*(binds(child) for child in ast.iter_child_nodes(node)))


def free(node: ast.AST) -> set[str]:
    """The names that a piece of code reads from around it, at once or when a function in it is called."""
    return {name for _, name in _free(node, frozenset())}


def _free(node: ast.AST, local: frozenset[str], top: bool = False) -> Iterator[tuple[str, str]]:
    """The names that are read: ``now``, or ``later`` where the reading waits in the body of a function."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in local:
            yield "now", node.id
        return
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id not in local:
        yield "now", node.target.id
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        body = node.body if isinstance(node.body, list) else [node.body]
        inside = local | {one.arg for one in parameters if one} | set().union(*(binds(one) for one in body))
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults), *getattr(node, "decorator_list", ())):
            yield from _free(default, local)
        for one in body:
            yield from (("later", name) for _, name in _free(one, inside))
        return
    if isinstance(node, ast.ClassDef):
        inside = local | set().union(*(binds(one) for one in node.body))
        for one in (*node.bases, *node.decorator_list):
            yield from _free(one, local)
        for one in node.body:
            yield from _free(one, frozenset(inside))
        return
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        targets = {name.id for generator in node.generators for name in ast.walk(generator.target) if isinstance(name, ast.Name)}
        for child in ast.iter_child_nodes(node):
            yield from _free(child, local | targets)
        return
    if top and isinstance(node, (ast.For, ast.With, ast.If, ast.While, ast.Try)):
        # A block binds as it goes; what it binds itself before reading it is not read from elsewhere.
        seen: set[str] = set()
        for child in ast.iter_child_nodes(node):
            yield from ((when, name) for when, name in _free(child, local, top=True) if when == "later" or name not in seen)
            seen |= binds(child)
        return
    for child in ast.iter_child_nodes(node):
        yield from _free(child, local)
