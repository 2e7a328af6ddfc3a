"""The code of the checks, changed: does a check, an assertion or another checked output of the chapter notice?

A chapter is executed once in this process. Before a cell that verifies something, or computes one side of a later check, each change of
its syntax tree (operators, constants, axes, reductions, arguments) is tried in a forked child: the changed cell runs there, and where it
prints what is stored, so do the later cells that read what it binds. What a change touches says what its survival means. Code that feeds
one side of a check is a formula: a change of it must be noticed. Code that feeds both sides chooses the point at which they are compared:
a change of it compares them at another point, where the equation holds as well, so only its own cell is asked. What cannot be noticed for
another reason stands in the metadata of its cell, ``kexue.survives``: the change, and why.
"""

from __future__ import annotations

import ast
import contextlib
import io
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from book_tools import names, notebooks
from book_tools.chapter import Chapter
from trials import mutants
from trials.mutants import Edit

NOTICED, SURVIVED = "noticed", "survived"
FORMULA, POINT, ELSEWHERE = "formula", "point", "elsewhere"  # what a change touches
FORMS = {"verify", "verify_bound", "verify_statistic", "verify_order"}
SIDES = {  # the arguments of a check that are compared; by position, then by name
    "verify": (("lhs", "rhs"), {"lhs": 0, "rhs": 1}),
    "verify_bound": (("value",), {"value": 0, "lower": 1, "upper": 1}),
    "verify_statistic": (("estimate", "expected"), {"estimate": 0, "expected": 1}),
    "verify_order": (("steps", "errors", "order"), {"steps": 0, "errors": 1, "order": 1}),
}
SHOWN = {"print", "table"}  # what they are given is compared with what is stored
SEEDS = {"default_rng", "manual_seed", "RandomState", "Random", "Generator"}
MORE = {
    "prod": "sum",
    "cumsum": "cumprod",
    "cumprod": "cumsum",
    "exp": "expm1",
    "log": "log1p",
    "sqrt": "square",
    "square": "sqrt",
}
MORE |= {
    "tanh": "sin",
    "arange": "zeros",
    "outer": "add",
    "hypot": "subtract",
    "maximum": "minimum",
    "minimum": "maximum",
    "T": "real",
}
SAMPLED = {
    "range",
    "linspace",
    "geomspace",
    "logspace",
    "arange",
    "random",
    "normal",
    "standard_normal",
    "integers",
    "dirichlet",
    "randn",
}
SAMPLED |= {"rand", "randint", "randperm", "permutation", "choice", "uniform", "poisson", "exponential"}
SYMMETRIC = FORMS | SHOWN | {"zip", "max", "min", "isclose", "maximum", "minimum"}  # the order of two arguments says nothing
LARGE = 50  # a count: one more of so many changes nothing that could be seen
LIMIT = 10.0  # times what the cell takes unchanged, and some seconds for the later ones


class Change(NamedTuple):
    """One change of a cell: the labels of the checks that it feeds, what it touches, and the edits."""

    labels: tuple[str, ...]
    kind: str
    text: str
    edits: tuple[Edit, ...]


class Trial(NamedTuple):
    """What became of a change."""

    cell: int
    labels: tuple[str, ...]
    kind: str
    change: str
    outcome: str
    reason: str


Place = tuple[int, str]  # a cell, and a name that it binds


class Feed(NamedTuple):
    """A check or a printing call: its label, and for each side the nodes that it is given and what they need."""

    label: str
    sides: tuple[tuple[frozenset[ast.AST], frozenset[Place]], ...]


class Unit(NamedTuple):
    """A piece of a cell that binds names together: a simple statement, the head of a loop, a whole function."""

    roots: tuple[ast.AST, ...]
    bound: frozenset[str]
    shown: ast.stmt


def changes(tree: ast.Module) -> list[Change]:
    """The changes of a cell that a check of it could notice."""
    return Flow([tree]).changes(0)


class Flow:
    """What feeds the checks of a notebook, through all its cells; a name of another cell is the one that was bound last."""

    def __init__(self, trees: Sequence[ast.Module]) -> None:
        self.units = [list(_units(tree.body)) for tree in trees]
        self.bound: list[set[str]] = [set().union(*(unit.bound for unit in units)) for units in self.units]
        statements = [node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        self.modules = set().union(*(names.binds(statement) for statement in statements))
        self.needs: dict[Place, set[Place]] = {}
        for cell, units in enumerate(self.units):
            for unit in units:
                read = set().union(*(names.free(root) for root in unit.roots))
                for name in unit.bound | self.changed(unit):
                    self.needs.setdefault(self.place(cell, name), set()).update(self.place(cell, one) for one in read)
        self.feeds = [feed for cell, tree in enumerate(trees) for feed in self._feeds(cell, tree)]

    def place(self, cell: int, name: str) -> Place:
        """The cell that binds what ``name`` means in ``cell``."""
        return next((one for one in range(cell, -1, -1) if name in self.bound[one]), cell), name

    def changed(self, unit: Unit) -> set[str]:
        """The names of what a method is called of: ``xs.append(y)`` changes what is in ``xs``; a function of a module changes nothing."""
        calls = (node.func for root in unit.roots for node in ast.walk(root) if isinstance(node, ast.Call))
        owners = {func.value.id for func in calls if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name)}
        return owners - self.modules

    def closure(self, cell: int, parts: Sequence[ast.AST], more: set[str]) -> frozenset[Place]:
        """All that ``parts`` and the names ``more`` need."""
        known = set[Place]()
        waiting = [self.place(cell, one) for one in more.union(*(names.free(part) for part in parts))]
        while waiting:
            one = waiting.pop()
            if one not in known:
                known.add(one)
                waiting.extend(self.needs.get(one, ()))
        return frozenset(known)

    def _feeds(self, cell: int, tree: ast.Module) -> Iterator[Feed]:
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            name, around = names.called(call), _loops(tree, call)
            if name in FORMS:
                parts: tuple[list[ast.AST], list[ast.AST]] = ([], [])
                places, side_of = SIDES[name]
                for place, argument in zip(places, call.args[1:], strict=False):
                    parts[side_of[place]].append(argument)
                for keyword in call.keywords:
                    if keyword.arg in side_of:
                        parts[side_of[keyword.arg]].append(keyword.value)
                label = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
                yield Feed(str(label), tuple((_all(one), self.closure(cell, one, around)) for one in parts))
            elif name in SHOWN:
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                yield Feed("", ((_all(given), self.closure(cell, given, around)),))

    def changes(self, cell: int) -> list[Change]:
        """The changes of a cell, with the labels of the checks that they feed, here or later."""
        found = []
        for unit in self.units[cell]:
            own = {self.place(cell, name) for name in unit.bound | self.changed(unit)}
            for node, parent, sampled in (triple for root in unit.roots for triple in _nodes(root)):
                for edits in _edits(node, parent):
                    labels, kind = _touched(self.feeds, own, node)
                    if isinstance(node, ast.Constant) and (sampled or _large(node.value)):
                        kind = POINT
                    found.append(Change(labels, kind, _text(unit.shown, edits), edits))
        return [change for change in found if change.text]


def _units(body: Sequence[ast.stmt]) -> Iterator[Unit]:
    for statement in body:
        if isinstance(statement, (ast.For, ast.While, ast.If, ast.With)):
            inner = [*statement.body, *getattr(statement, "orelse", [])]
            roots = tuple(child for child in ast.iter_child_nodes(statement) if child not in inner)
            yield Unit(roots, frozenset().union(*(names.binds(root) for root in roots)), statement)
            yield from _units(inner)
        else:
            yield Unit((statement,), frozenset(names.binds(statement)), statement)


def _all(parts: Sequence[ast.AST]) -> frozenset[ast.AST]:
    return frozenset(node for part in parts for node in ast.walk(part))


def _loops(tree: ast.Module, call: ast.Call) -> set[str]:
    """The names in the heads of the loops that a check stands in: they choose its points."""
    heads = [node for node in ast.walk(tree) if isinstance(node, ast.For) and call in ast.walk(node)]
    return {name.id for head in heads for part in (head.iter,) for name in ast.walk(part) if isinstance(name, ast.Name)}


def _touched(feeds: Sequence[Feed], bound: set[Place], node: ast.AST) -> tuple[tuple[str, ...], str]:
    """The labels that a node feeds; a formula if it feeds one side of some check, a point if it feeds both sides of each."""
    labels: list[str] = []
    kinds: set[str] = set()
    for feed in feeds:
        reached = [node in given or bool(bound & needed) for given, needed in feed.sides]
        if any(reached):
            labels += [feed.label] * bool(feed.label)
            kinds.add(POINT if all(reached) and len(reached) > 1 else FORMULA if feed.label else ELSEWHERE)
    kind = FORMULA if FORMULA in kinds else POINT if POINT in kinds else ELSEWHERE
    return tuple(dict.fromkeys(labels)), kind


def _nodes(node: ast.AST, parent: ast.AST | None = None, sampled: bool = False) -> Iterator[tuple[ast.AST, ast.AST, bool]]:
    """What is computed, each with its parent and whether it says how often and where something is drawn or tried: no text, no seed,
    no tolerance of a check."""
    if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Raise)):
        return
    yield node, parent or node, sampled
    children: Sequence[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call):
        name = names.called(node)
        if name in SEEDS:
            return
        if name in FORMS:
            children = [*node.args[1:], *(k for k in node.keywords if k.arg in SIDES[name][1])]
        elif name in SHOWN:
            children = node.args[:1] if name == "table" else []
        sampled = sampled or name in SAMPLED
    for child in children:
        yield from _nodes(child, node, sampled)


def _large(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) >= LARGE


def _edits(node: ast.AST, parent: ast.AST) -> Iterator[tuple[Edit, ...]]:
    """The changes of one node: those of the modules' mutants, and axes, transposes and the order of arguments."""
    if isinstance(node, ast.keyword) and node.arg in ("axis", "dim") and (number := _integer(node.value)) is not None:
        yield ((node, "value", ast.Constant({0: 1, 1: 0, -1: 0}.get(number, 0))),)
        return
    if isinstance(parent, ast.keyword) and parent.arg in ("axis", "dim"):
        return
    if isinstance(node, ast.Expr):
        return  # a check that is left out is missed in what is printed
    if isinstance(node, ast.Attribute) and node.attr in MORE and isinstance(node.ctx, ast.Load):
        yield ((node, "attr", MORE[node.attr]),)
    if isinstance(node, ast.Call) and names.called(node) not in SYMMETRIC and len(node.args) == 2 and not _starred(node):
        yield ((node, "args", node.args[::-1]),)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)) and getattr(node.right, "value", None) == 1:
        return  # times one makes a float of it
    yield from mutants.edits_of(node)


def _starred(call: ast.Call) -> bool:
    return any(isinstance(argument, ast.Starred) for argument in call.args)


def _integer(node: ast.AST) -> int | None:
    with contextlib.suppress(ValueError):
        value = ast.literal_eval(node)
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    return None


def _text(statement: ast.stmt, edits: Sequence[Edit]) -> str:
    """The line of the statement that changes, before and after."""
    before = ast.unparse(statement).splitlines()
    back = mutants.apply(edits)
    after = ast.unparse(statement).splitlines()
    mutants.apply(back)
    lines = [(a.strip(), b.strip()) for a, b in zip(before, after, strict=False) if a != b]
    return " -> ".join(lines[0]) if lines else ""


def chapter_trials(name: str, jobs: int = 2) -> list[Trial]:
    """Execute a chapter once and try the changes of each of its verifying cells."""
    os.chdir(Chapter.path_of(name).parent)
    cells = [(n, cell) for n, cell in enumerate(Chapter.load(name).notebook["cells"]) if cell["cell_type"] == "code"]
    trees = [ast.parse(notebooks.source(cell)) for _, cell in cells]
    flow = Flow(trees)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    trials: list[Trial] = []
    for place, (number, cell) in enumerate(cells):
        source, slow = notebooks.source(cell), "slow" in cell["metadata"].get("tags", [])
        tree = trees[place]
        verifies = bool(names.calls(tree) & FORMS)
        kept = dict(namespace)
        begun = time.perf_counter()
        printed = _run(tree, namespace, f"{name}, cell {number}")
        limit = 20 + LIMIT * (time.perf_counter() - begun)
        found = [] if slow and not verifies else flow.changes(place)
        if not verifies:  # its formulas only, where a later check uses them
            found = [change for change in found if change.labels and change.kind == FORMULA]
        later = _later(cells[place + 1 :], names.used(source).bound)
        reasons = cell["metadata"].get("kexue", {}).get("survives", {})
        ends = _try_all(tree, found, kept, printed, later, limit, jobs)
        trials += [
            Trial(number, change.labels, change.kind, change.text, end, reasons.get(change.text, ""))
            for change, end in zip(found, ends, strict=True)
        ]
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
    return trials


def _run(tree: ast.Module, namespace: dict[str, Any], where: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(ast.fix_missing_locations(tree), where, "exec"), namespace)  # noqa: S102
    return output.getvalue()


def _later(cells: Sequence[tuple[int, dict[str, Any]]], changed: set[str]) -> list[tuple[str, str]]:
    """The quick cells after a cell that read what it binds, or what these bind in turn: source and stored text. Those that show nothing
    and bind nothing that another of them needs, which are the pictures, are left out."""
    reached, depending = set(changed), list[tuple[names.Used, str, str]]()
    for _, cell in cells:
        used = names.used(notebooks.source(cell))
        if used.read & reached and "slow" not in cell["metadata"].get("tags", []):
            text = "".join("".join(output.get("text", "")) for output in cell["outputs"] if output["output_type"] == "stream")
            depending.append((used, notebooks.source(cell), text))
            reached |= used.bound
    found, needed = list[tuple[str, str]](), set[str]()
    for used, source, text in reversed(depending):
        if text or used.bound & needed:
            found.append((source, text))
            needed |= used.read
    return found[::-1]


def _try_all(
    tree: ast.Module, found: Sequence[Change], namespace: dict[str, Any], printed: str, later: Any, limit: float, jobs: int
) -> list[str]:
    """What becomes of each change, ``jobs`` at a time in children of this process; what takes too long is noticed."""
    ends = [SURVIVED] * len(found)
    context = multiprocessing.get_context("fork")
    running: dict[int, tuple[Any, float]] = {}
    waiting = list(range(len(found)))[::-1]
    while waiting or running:
        while waiting and len(running) < jobs:
            index = waiting.pop()
            cells = [] if found[index].kind == POINT else later
            child = context.Process(target=_try, args=(tree, found[index], dict(namespace), printed, cells))
            child.start()
            running[index] = child, time.monotonic() + limit
        wait([child.sentinel for child, _ in running.values()], timeout=0.5)
        for index, (child, end) in list(running.items()):
            if child.exitcode is None and time.monotonic() < end:
                continue
            ends[index] = SURVIVED if child.exitcode == 0 else NOTICED
            child.kill()
            child.join()
            del running[index]
    return ends


def _try(tree: ast.Module, change: Change, namespace: dict[str, Any], printed: str, later: Any) -> None:
    """Exit with 0 where neither the changed cell nor a later one shows the change."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # past Python, which LAPACK does
    os.dup2(quiet, 2)
    mutants.apply(change.edits)
    try:
        if _plain(_run(tree, namespace, "changed")) != _plain(printed):
            os._exit(1)
        for source, text in later:
            if _plain(_run(ast.parse(source), namespace, "later")) != _plain(text):
                os._exit(1)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
