"""The site, built strictly by Jupyter Book in a stage of its own and put in the place of the old one when it is whole.

What was not changed is not done again: a hash of all inputs stands in the stage, and where it is the present one (and the site is as
it was left) Sphinx is not even started. ``build_page`` renews the page of one chapter in the built site, without the overviews that show
it too; the next whole build renews these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from book_tools import system
from book_tools.chapter import ROOT, Chapter, contents
from book_tools.form import faults, warnings

STAGE = ROOT / "_build" / "stage"
SITE = ROOT / "_build" / "html"
NEEDED = 100  # MB of disk: twice the stage and the site of five chapters
# A book is millions of small objects that stay: to look for garbage among them as often as usual costs a fifth of a build, and half
# of one with nothing to do.
QUICK = "import gc; gc.set_threshold(200_000, 50, 100); from jupyter_book.cli.main import main; main()"
JUPYTER_BOOK = [sys.executable, "-c", QUICK]
NO_INPUT = {"_build", "build", "dist", "__pycache__", "reference", "node_modules"}  # folders that hold nothing a page is made of
VARIABLES = ("KEXUE_REPOSITORY", "KEXUE_SITE")  # of the environment, that pages show


def build() -> int:
    """Build the book with warnings as errors; the old site stays until the new one is whole."""
    inputs = fingerprint(files_under(ROOT))
    mark = _mark()
    if mark.get("inputs") == inputs and mark.get("site") == listing(SITE):
        print(f"Nothing has changed. Open {_shown(SITE / 'index.html')} in a browser.")
        return 0
    found = faults()
    if found:
        print(*found, "the book was not built; the lines above say what the chapters lack", sep="\n", file=sys.stderr)
        return 1
    for line in warnings():
        print(line)
    SITE.parent.mkdir(exist_ok=True)
    with _alone() as lock:
        free = shutil.disk_usage(SITE.parent).free >> 20
        if free < NEEDED:
            print(
                f"{free} MB of disk are free here and the book needs about {NEEDED}; the old site is as it was", file=sys.stderr
            )
            return 1
        return _build(lock, inputs)


def build_page(name: str) -> int:
    """Renew the page of one chapter in the built site; where none is built, build the whole."""
    found = faults_of(name)
    if found:
        print(*found, "the page was not built; the lines above say what the chapter lacks", sep="\n", file=sys.stderr)
        return 1
    SITE.parent.mkdir(exist_ok=True)
    with _alone() as lock:
        mark = _mark()
        if not mark or mark["machinery"] != machinery() or not (SITE / "index.html").is_file():
            print("the book has not been built by this machinery; building the whole", flush=True)
            return _build(lock, "")
        start = time.time()
        arguments = ["-m", "book_tools.quick", name, *_arguments()]
        if subprocess.call([sys.executable, *arguments], cwd=ROOT, pass_fds=lock):
            # What was read is not read again, and would not warn again.
            (STAGE / "_build" / ".doctrees" / "chapters" / f"{name}.doctree").unlink(missing_ok=True)
            print("the page was not built; the lines with WARNING, ERROR or Exception above say why", file=sys.stderr)
            return 1
        system.save(STAGE / ".whole", mark | {"inputs": ""})
        _renew(STAGE / "_build" / "html", start)
    print(f"The page is built: {_shown(SITE / 'chapters' / f'{name}.html')}; make book renews the overviews.")
    return 0


def faults_of(name: str) -> list[str]:
    """What is missing or wrong in the form of one chapter, looked at with the chapters that it builds on."""
    listed = contents()
    chapters = {name: Chapter.load(name)}
    waiting = [*chapters[name].builds_on]
    while waiting:
        before = waiting.pop()
        if before in listed and before not in chapters:
            chapters[before] = Chapter.load(before)
            waiting += chapters[before].builds_on
    found = faults([chapters[each] for each in listed if each in chapters])
    return [fault for fault in found if fault.startswith(f"chapters/{name}.ipynb")]


def _renew(built: Path, start: float) -> None:
    """Copy what was written since ``start`` into the site, file by file in one step."""
    for path in built.rglob("*"):
        if path.is_file() and path.stat().st_mtime >= start:
            target = SITE / path.relative_to(built)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f".{target.name}.tmp")
            shutil.copy2(path, fresh)
            fresh.replace(target)


def _shown(path: Path) -> Path:
    return Path(os.path.relpath(path, Path.cwd()))


def files_under(folder: Path) -> list[Path]:
    """Everything that a page may be made of."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in NO_INPUT and not name.startswith(".") and ".egg" not in name)
        found += [Path(root) / name for name in sorted(names) if not name.startswith(".") and not name.endswith(".pyc")]
    return found


def fingerprint(files: Sequence[Path]) -> str:
    """A hash of files, Python and what pages show of the environment."""
    whole = hashlib.sha256(repr((platform.python_version(), [os.environ.get(name) for name in VARIABLES])).encode())
    for path in files:
        content = path.read_bytes()
        whole.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return whole.hexdigest()


def machinery() -> str:
    """A hash of what makes the pages; where it has changed, pages that were read by the old one are not to be kept."""
    return fingerprint([*files_under(ROOT / "book_tools"), ROOT / "_config.yml", ROOT / "requirements.txt"])


def listing(site: Path) -> list[int]:
    """How many files a site has, how many bytes, and when the newest was written."""
    stats = [path.stat() for path in site.rglob("*") if path.is_file()]
    return [len(stats), sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)]


def _mark() -> dict[str, Any]:
    """What the last whole build left: hashes of its inputs and of the machinery, and the listing of the site."""
    with contextlib.suppress(OSError, ValueError):
        mark = json.loads((STAGE / ".whole").read_text(encoding="utf-8"))
        return mark if isinstance(mark, dict) else {}
    return {}


@contextlib.contextmanager
def _alone() -> Iterator[list[int]]:
    """One build of this folder at a time, another waits; gives what a subprocess inherits to hold the others back as well."""
    if sys.platform == "win32":
        yield []
        return
    import fcntl

    with (SITE.parent / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another build is at work in this folder; waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield [lock.fileno()]


def _arguments() -> list[str]:
    return ["build", str(ROOT), "--path-output", str(STAGE), "-n", "-W", "--keep-going"]


def _build(lock: list[int], inputs: str) -> int:
    built, whole, mark = STAGE / "_build" / "html", STAGE / ".whole", _mark()
    if mark.get("machinery") != machinery():  # nor is what an interrupted build wrote to be trusted
        shutil.rmtree(STAGE, ignore_errors=True)
    whole.unlink(missing_ok=True)
    code = subprocess.call([*JUPYTER_BOOK, *_arguments()], cwd=ROOT, pass_fds=lock)
    if code:
        # What was read is not read again, and would not warn again: the next build must start afresh.
        full = shutil.disk_usage(SITE.parent).free >> 20 < 5
        shutil.rmtree(STAGE, ignore_errors=True)
        why = (
            "the disk is full; the old site is as it was" if full else "the lines with WARNING, ERROR or Exception above say why"
        )
        print(f"the book was not built; {why}", file=sys.stderr)
        return 1
    pages = {str(path.relative_to(built / "chapters").with_suffix("")) for path in (built / "chapters").rglob("*.html")}
    if pages != set(contents()):
        print(f"pages and table of contents differ: {', '.join(sorted(pages ^ set(contents())))}", file=sys.stderr)
        return 1
    _replace_site(built)
    system.save(whole, {"inputs": inputs, "machinery": machinery(), "site": listing(SITE)})
    print(f"\nThe book is built. Open {_shown(SITE / 'index.html')} in a browser.")
    return 0


def _replace_site(built: Path) -> None:
    """Put a copy of ``built`` in the place of the site, by renaming; a step that fails leaves the old site."""
    fresh, old = SITE.with_name("html.new"), SITE.with_name("html.old")
    if old.exists() and not SITE.exists():  # killed between the two renamings
        old.rename(SITE)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        shutil.copytree(built, fresh)
        if SITE.exists():
            SITE.rename(old)
        fresh.rename(SITE)
    except BaseException:
        if old.exists() and not SITE.exists():
            old.rename(SITE)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def os_error(error: OSError) -> str:
    """One line for what the system refused; a failed copy of a folder tells its first reason."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][0][2])
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
