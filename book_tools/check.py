"""``make check CHAPTER=part/slug``: one chapter proved alone, as its author runs it twenty times a day.

Form and what is left to be filled in, style and types of its files, every cell strictly and any cell again, its unit tests with its
part of the tests over all posts, its page built and seen in the browser at both widths. The steps run beside one another; one summary
says which hold, in how many seconds. A step that fails is told in full.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

from book_tools import browser
from book_tools.building import faults_of
from book_tools.chapter import ROOT, Chapter
from book_tools.form import warnings
from book_tools.new import files_of, to_fill_in

PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist")
NBVAL = ("--nbval", "--nbval-current-env")
# Tests over all posts, of which those are run that concern the one.
OVER_ALL = (
    "tests/trials/test_abuse.py",
    "tests/test_benchmarks.py",
    "tests/test_package.py",
    "tests/book_tools/test_chapters.py",
)
LOOKS = (
    "tests/book_tools/test_browser.py::test_page_at_both_widths",
    "tests/book_tools/test_browser_narrow.py::test_page_at_both_widths",
)


class End(NamedTuple):
    """How a step ended: what it found in a few words, all that it said, and its seconds; ``holds`` None: it was not taken."""

    holds: bool | None
    words: str
    said: str = ""
    seconds: float = 0.0


def form(name: str) -> End:
    """What the chapter lacks, and what is left to be filled in; a spine that is too long is told and no fault."""
    found = faults_of(name) + to_fill_in(name)
    long = warnings([Chapter.load(name)])
    words = f"{len(found)} faults" if found else "long" if long else "as it must be"
    return End(not found, words, "\n".join([*found, *long]))


def style(name: str) -> End:
    """Lint, format, spelling and types of the chapter's files."""
    files = [path.as_posix() for path in files_of(name) if (ROOT / path).is_file()]
    python = [file for file in files if file.endswith(".py")]
    commands = {
        "lint": ["ruff", "check", *files],
        "format": ["ruff", "format", "--check", *files],
        "spelling": ["codespell_lib", *python],
        "types": ["mypy", f"kexue/{name}.py"],
    }
    ends = {what: _call(["-m", *command]) for what, command in commands.items()}
    failed = [what for what, (code, _) in ends.items() if code]
    return End(not failed, f"faults of {', '.join(failed)}" if failed else "clean", "\n".join(ends[what][1] for what in failed))


def cells(name: str) -> End:
    """Every cell prints what is stored; and any cell prints it again after the whole notebook."""
    return _tested([f"chapters/{name}.ipynb", *NBVAL])


def tests(name: str) -> End:
    """The unit tests of the module, and of the tests over all posts those that concern it."""
    own = f"tests/{name.replace('/', '/test_')}.py"
    return _tested([*([own] if (ROOT / own).is_file() else []), *OVER_ALL, "--post", name])


def page(name: str) -> End:
    """The page is built, and seen in the browser at both widths, light and dark."""
    code, said = _call(["-m", "book_tools", "build", name])
    if code:
        return End(False, "not built", said)
    if browser.find() is None:
        return End(None, "built; no browser to see it", browser.MISSING)
    return _tested([*LOOKS, "--post", name])


STEPS: dict[str, Callable[[str], End]] = {"cells": cells, "page": page, "tests": tests, "style": style, "form": form}


def run(name: str) -> int:
    """Take all steps, two at a time; 1 if one of them does not hold."""
    start = time.monotonic()
    ends: dict[str, End] = {}
    with ThreadPoolExecutor(min(len(STEPS), max(2, (os.cpu_count() or 1)))) as pool:
        running = {pool.submit(_timed, step, name): what for what, step in STEPS.items()}
        for done in as_completed(running):
            what, end = running[done], done.result()
            ends[what] = end
            if end.said and (not end.holds or what == "form"):
                print(f"--- {what}\n{end.said}\n", flush=True)
    print(f"{name}, {time.monotonic() - start:.0f} s")
    marks = {True: "✓", False: "✗", None: "–"}
    for what in STEPS:
        end = ends[what]
        print(f"  {marks[end.holds]} {what:<6} {end.seconds:4.0f} s  {end.words}")
    return int(any(end.holds is False for end in ends.values()))


def _timed(step: Callable[[str], End], name: str) -> End:
    start = time.monotonic()
    return step(name)._replace(seconds=time.monotonic() - start)


def _tested(arguments: list[str]) -> End:
    """What pytest says of some tests."""
    code, said = _call([*PYTEST, *arguments])
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", said.rstrip().rpartition("\n")[2])
    return End(code == 0, ", ".join(counts) or f"pytest ended with {code}", said)


def _call(arguments: list[str]) -> tuple[int, str]:
    """``python ARGUMENTS`` in the root of the book: exit code, and what it said without colours."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
