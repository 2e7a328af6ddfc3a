"""Mutants run in forked children of a warm process (everything the tests import is loaded but what is mutated)."""

from __future__ import annotations

import ast
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

from trials import mutants
from trials.mutants import Mutant

KILLED, SURVIVED, IDLE, LATE = "killed", "survived", "not applicable", "timeout"
IDLE_CODE = 99  # pytest has 0 to 5
CODES = {0: SURVIVED, 5: SURVIVED, IDLE_CODE: IDLE}  # 5: there was no test to run
PYTEST = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider")
COMPILER = os.path.join("torch", "_dynamo", "convert_frame.py")


class Target(NamedTuple):
    """A module, the file of its source, the file of its tests and the folder that holds both."""

    module: str
    source: Path
    tests: Path
    root: Path


class Survey(NamedTuple):
    """What the tests of a module do: seconds and functions touched by each, whether it compiles, and what they import."""

    seconds: dict[str, float]
    touched: dict[str, set[str]]
    compiles: set[str]
    imports: list[str]

    def of(self, function: str) -> list[str]:
        """The tests that touch a function (all for what runs on import), those that compile and touch it unseen last."""
        known = any(function in touched for touched in self.touched.values())
        chosen = [test for test in self.seconds if not known or test in self.compiles or function in self.touched[test]]
        return sorted(chosen, key=lambda test: (test in self.compiles, self.seconds[test]))


class Selection:
    """A pytest plugin that runs the chosen tests in their order (all where nothing is chosen) and watches what they do."""

    def __init__(self, source: Path, tests: Sequence[str] = ()) -> None:
        self.source, self.tests = str(source), list(tests)
        self.survey = Survey({}, {}, set(), [])
        self.loaded = set(sys.modules)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.tests:
            order = {test: place for place, test in enumerate(self.tests)}
            items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])

    def watch(self, test: str) -> Callable[[FrameType, str, Any], None]:
        """A profiler that notes the functions of the module which ``test`` enters."""
        touched = self.survey.touched.setdefault(test, set())

        def note(frame: FrameType, event: str, _: Any) -> None:
            if event == "call":
                code = frame.f_code
                if code.co_filename == self.source:
                    touched.add(code.co_qualname.split(".<locals>")[0])
                elif code.co_filename.endswith(COMPILER):
                    self.survey.compiles.add(test)

        return note


class Watching(Selection):
    """The same, with the profiler on."""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.begun = time.perf_counter()
        sys.setprofile(self.watch(nodeid))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.setprofile(None)
        self.survey.seconds[nodeid] = time.perf_counter() - self.begun

    def pytest_sessionfinish(self) -> None:
        self.survey.imports.extend(sorted(set(sys.modules) - self.loaded))


class Source(importlib.machinery.SourceFileLoader):
    """Finds and loads one module from a changed tree."""

    def __init__(self, target: Target, tree: ast.Module) -> None:
        super().__init__(target.module, str(target.source))
        self.tree, self.used = tree, list[bool]()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None

    def get_code(self, fullname: str) -> Any:
        return compile(ast.fix_missing_locations(self.tree), str(self.path), "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__changed__"] = lambda value, how, part: mutants.changed(value, how, part, self.used)
        super().exec_module(module)


def survey(target: Target) -> Survey:
    """Run all tests of ``target`` once, watched, in a child; then load here what they imported."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = _fork(_watch, target, there)
    there.close()
    try:
        found: Survey = here.recv()
    except EOFError:
        raise RuntimeError(f"{target.tests.name} fails before anything was changed: run the tests first") from None
    child.join()
    _warm(found.imports, target)
    return found


def seconds_unchanged(target: Target) -> float:
    """How long the tests take in a warm child; they must pass there."""
    begun = time.perf_counter()
    child = _fork(_try, target, _tree(target), None, ())
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"{target.tests.name} passes alone and fails in a forked child (code {child.exitcode})")
    return time.perf_counter() - begun


def outcomes(
    target: Target, tree: ast.Module, found: Sequence[Mutant], seen: Survey, limit: float, jobs: int, tell: Callable[[int], None]
) -> list[str]:
    """What became of each mutant of ``tree``, ``jobs`` at a time; one that takes longer than ``limit`` seconds is noticed too."""
    results = [SURVIVED] * len(found)
    running: dict[int, tuple[ForkProcess, float]] = {}
    waiting = [(index, seen.of(mutant.function)) for index, mutant in enumerate(found)]
    waiting = [(index, tests) for index, tests in reversed(waiting) if tests]
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                index, tests = waiting.pop()
                running[index] = _fork(_try, target, tree, found[index], tests), time.monotonic() + limit
            wait([child.sentinel for child, _ in running.values()], timeout=0.5)
            for index, (child, end) in list(running.items()):
                if child.exitcode is None and time.monotonic() < end:
                    continue
                results[index] = LATE if child.exitcode is None else CODES.get(child.exitcode, KILLED)
                child.kill()
                child.join()
                del running[index]
                tell(len(found) - len(waiting) - len(running))
    finally:
        for child, _ in running.values():
            child.kill()
    return results


def _fork(work: Callable[..., None], *arguments: Any) -> ForkProcess:
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    return child


def _tree(target: Target) -> ast.Module:
    return ast.parse(target.source.read_text(encoding="utf-8"))


def _watch(target: Target, answer: Connection) -> None:
    plugin = Watching(target.source)
    if _pytest(target, plugin) == 0:
        answer.send(plugin.survey)


def _try(target: Target, tree: ast.Module, mutant: Mutant | None, tests: Sequence[str]) -> None:
    """Exit with 0 where the tests pass although ``mutant`` was made, with ``IDLE_CODE`` where it had no result to change."""
    mutants.apply(mutant.edits if mutant else ())
    loader = Source(target, tree)
    sys.meta_path.insert(0, loader)
    code = _pytest(target, Selection(target.source, tests))
    idle = code == 0 and mutant is not None and mutant.change.startswith("result") and not loader.used
    os._exit(IDLE_CODE if idle else code)


def _pytest(target: Target, plugin: Selection) -> int:
    import pytest

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(target.root)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    top = target.module.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]
    return int(pytest.main([str(target.tests), *PYTEST], plugins=[plugin]))


def _warm(names: Iterable[str], target: Target) -> None:
    """Import ``names``, but for what is in the folder of the book itself and may be changed."""
    own = tuple(str(target.root / folder) for folder in (target.module.partition(".")[0], "tests", "book_tools", "trials"))
    for name in names:
        with suppress(Exception):
            spec = importlib.util.find_spec(name)
            if spec and not (spec.origin or "").startswith(own):
                importlib.import_module(name)
    gc.freeze()  # pytest collects garbage ten times in each child
