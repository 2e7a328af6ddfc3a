"""What a result was measured on: one file per kind and chapter, ``results/kind/part/slug.json``, with a hash of what was measured.

``changed`` names the chapters whose result belongs to an earlier state, so that a run over the book repeats only these; the pages say
which results are of the present state. The hash covers what can move the result and no more: code without its comments, and for most
kinds without docstrings; not the tool that measures (after a change of that: ``--all``), nor the versions, which the result itself names.
"""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import io
import json
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from book_tools import notebooks, system
from book_tools.chapter import ROOT, Chapter, contents

RESULTS = ROOT / "results"
Json = dict[str, Any]

# What a result of each kind depends on: of the chapter its code, its labels, its outputs; the module with all it imports, with or
# without docstrings; files that stand beside the module's tests or in the benchmarks.
KINDS: dict[str, tuple[str, ...]] = {
    "mutate": ("code", "labels", "module", "tests/{part}/test_{slug}.py"),
    "digits": ("code", "module"),
    "portable": ("code", "outputs", "module"),
    "abuse": ("documented module", "tests/{part}/calls_{slug}.py"),
    "bench": ("module", "benchmarks/{part}/{slug}.py"),
    "bench-cuda": ("module", "benchmarks/{part}/{slug}.py"),
}


def place(kind: str, name: str) -> Path:
    return RESULTS / kind / f"{name}.json"


def stored(kind: str, name: str) -> Json:
    """The result of a chapter, empty where there is none."""
    path = place(kind, name)
    found: Json = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def save(kind: str, name: str, result: Json, of: str | None = None) -> None:
    """Replace the result of a chapter; ``of`` is the hash of what was measured, taken before the measurement began."""
    system.save(place(kind, name), stamp(of or digest(kind, name)) | result)


def stamp(of: str) -> Json:
    return {"of": of, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def is_present(kind: str, name: str) -> bool:
    """Whether the stored result belongs to the present state."""
    return bool(found := stored(kind, name)) and found["of"] == digest(kind, name)


def changed(kind: str, names: Sequence[str], everything: bool = False) -> list[str]:
    """The chapters to measure again: all of ``names``; else those of the book without a result of the present state, or with a failure."""
    chosen = [*names] or [
        name for name in contents() if everything or not is_present(kind, name) or stored(kind, name).get("failed")
    ]
    if not names:
        skipped = len(contents()) - len(chosen)
        print(
            f"{kind}: {len(chosen)} of {len(contents())} chapters to measure" + f", {skipped} unchanged since" * bool(skipped),
            flush=True,
        )
    return chosen


def digest(kind: str, name: str) -> str:
    """The hash of what a result of that kind depends on, equal on every Python."""
    part, _, slug = name.rpartition("/")
    whole = hashlib.sha256()
    for what in KINDS[kind]:
        if what in ("code", "labels", "outputs"):
            pieces = _of_chapter(what, name)
        elif what.endswith("module"):
            start = _imported(Chapter.load(name).code) if "code" in KINDS[kind] and Chapter.path_of(name).is_file() else []
            pieces = _with_imports([f"kexue.{name.replace('/', '.')}", *start], docstrings=what.startswith("documented"))
        else:
            path = ROOT / what.format(part=part, slug=slug)
            pieces = [bare(path.read_text(encoding="utf-8"))] if path.is_file() else []
        for piece in pieces:
            whole.update(f"{len(piece)}\n{piece}\n".encode())
    return whole.hexdigest()[:16]


def _of_chapter(what: str, name: str) -> list[str]:
    if not Chapter.path_of(name).is_file():
        return []
    chapter = Chapter.load(name)
    if what == "labels":
        return chapter.labels
    cells = notebooks.code_cells(chapter.notebook)
    if what == "code":
        return [bare(notebooks.source(cell)) for cell in cells]
    return [json.dumps(cell["outputs"], sort_keys=True) for cell in cells]


def _with_imports(modules: Sequence[str], docstrings: bool) -> list[str]:
    """The sources of modules of ``kexue`` and of all that these import from ``kexue``, in a fixed order."""
    seen: dict[str, str] = {}
    waiting = [*modules]
    while waiting:
        module = waiting.pop()
        path = _path(module)
        if module in seen or path is None:
            continue
        text = path.read_text(encoding="utf-8")
        seen[module] = "" if path.name == "__init__.py" else bare(text, docstrings)
        waiting += [] if path.name == "__init__.py" else _imported(text)
    return [f"{module}\n{seen[module]}" for module in sorted(seen) if seen[module]]


def _path(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@functools.cache
def _imported(text: str) -> list[str]:
    """The modules of ``kexue`` that a source takes names from; a name of ``kexue.lab`` counts for the module that defines it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [_definition(node.module, alias.name) for alias in node.names]
    return [module for module in found if module.partition(".")[0] == "kexue"]


def _definition(module: str, name: str) -> str:
    if _path(f"{module}.{name}"):
        return f"{module}.{name}"
    return _gathered(module).get(name, module)


@functools.cache
def _gathered(module: str) -> dict[str, str]:
    """Where the names that a package gathers come from."""
    path = _path(module)
    if path is None or path.name != "__init__.py":
        return {}
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {alias.name: node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module for alias in node.names}


@functools.cache
def bare(source: str, docstrings: bool = False) -> str:
    """A source without comments, blank lines and ends of lines, and without docstrings unless they are wanted."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for first, last in () if docstrings else _docstrings(ast.parse(source)):
        lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            yield node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno
