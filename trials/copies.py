"""Temporary copies of the working tree, the commands that run in them, and what these are to give."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from book_tools.system import ONE_THREAD, snapshot

CHAPTER = "generation/repetition"  # the quickest
EXECUTE, BUILD, TESTS = (
    ("book_tools", "execute", CHAPTER),
    ("book_tools", "build"),
    ("pytest", f"tests/{CHAPTER.replace('/', '/test_')}.py"),
)
BASE = ONE_THREAD | {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
PATIENCE = 300  # seconds for a command

Tree = dict[str, str]


class Wrong(Exception):
    """It did not end as it should."""


class Untried(Exception):
    """This machine cannot make the surrounding."""


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    text: str


started: list[subprocess.Popen[bytes]] = []


def kill_started() -> None:
    """End what still runs: after a command that hangs, and when the trials themselves are interrupted."""
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    started.clear()


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


def tree(folder: Path) -> Tree:
    """The digest of every file, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Book:
    """A copy of the book, and the commands run in it."""

    def __init__(self, original: Path, root: Path) -> None:
        self.root, self.site, self.log = root, root / "_build" / "html", root.with_name("log.txt")
        shutil.copytree(original, root)

    @property
    def chapter(self) -> Path:
        return self.root / "chapters" / f"{CHAPTER}.ipynb"

    def start(self, arguments: Sequence[str], prefix: Sequence[str] = (), **changes: str | None) -> subprocess.Popen[bytes]:
        """``python -m arguments`` at work in the copy, with a changed environment (None: without the variable)."""
        merged = os.environ | BASE | {"PYTHONPATH": str(self.root), "KEXUE_TRIAL": self.root.parent.name} | changes
        environment = {name: value for name, value in merged.items() if value is not None}
        command = [*prefix, sys.executable, "-m", *arguments]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=self.root, env=environment, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        return process

    def call(self, arguments: Sequence[str], prefix: Sequence[str] = (), **changes: str | None) -> Ended:
        self.log.write_bytes(b"")
        process = self.start(arguments, prefix, **changes)
        return self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> Ended:
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Wrong(f"not ended after {PATIENCE} s") from None
        return Ended(code, self.log.read_text(encoding="utf-8", errors="replace"))

    def said(self, ended: Ended) -> str:
        """The last line, without colours and without the place of the copy."""
        lines = re.sub(r"\x1b\[[0-9;]*m", "", ended.text).replace(f"{self.root}/", "").replace(str(self.root), ".").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return re.sub(r"\.\w+-\w+\.tmp", "a temporary file", last)[:160].replace("|", "/")

    def leftovers(self, patience: float = 60) -> list[int]:
        """The processes of the commands that do not end by themselves."""
        end = time.monotonic() + patience
        while (left := _marked(f"KEXUE_TRIAL={self.root.parent.name}")) and time.monotonic() < end:
            time.sleep(0.5)
        return left


def _marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


class World:
    """A folder for the copies, and what a quiet build and execution give."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.original = folder, folder / "original"
        self.count, self.seconds = 0, dict[str, float]()
        snapshot(self.original)
        book = self.book()
        for command in (EXECUTE, BUILD):
            start = time.monotonic()
            ended = book.call(command, TZ="WEST+10")
            if ended.code:
                raise ChildProcessError(f"quiet surroundings, and yet: {book.said(ended)}")
            self.seconds[command[1]] = time.monotonic() - start
        self.chapters, self.site = tree(book.root / "chapters"), tree(book.site)
        self.built = book.root

    def book(self, name: str = "book") -> Book:
        """A fresh copy, not built."""
        self.count += 1
        place = self.folder / f"{self.folder.name}-{self.count}"
        place.mkdir()
        return Book(self.original, place / name)

    def usual(self, book: Book, prefix: Sequence[str] = (), **changes: str | None) -> None:
        """The chapter executed and the book built in ``book`` come out as in quiet surroundings, to the byte."""
        for command in (EXECUTE, BUILD):
            ended = book.call(command, prefix, **changes)
            expect(ended.code == 0, f"{command[1]}: {book.said(ended)}")
        expect(tree(book.root / "chapters") == self.chapters, "the chapter came out differently")
        self.same_site(tree(book.site))

    def same_site(self, found: Tree) -> None:
        differing = sorted(name for name in found.keys() | self.site if found.get(name) != self.site.get(name))
        expect(not differing, f"{len(differing)} files of the site differ: {', '.join(differing[:3])}")


def namespace(*kinds: str) -> list[str]:
    """The command that gives a process its own network or mounts."""
    prefix = ["unshare", "-r", *kinds]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        raise Untried("the machine does not let a command have its own mounts or network")
    return prefix
