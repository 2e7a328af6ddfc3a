"""The commands behind the Makefile: ``python -m book_tools execute [part/slug ...]``, ``build``, ``pdf`` and ``links``."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path

from book_tools import notebooks, pdf, reader
from book_tools.chapter import ROOT, Chapter, contents
from book_tools.form import faults, warnings

STAGE = ROOT / "_build" / "stage"
SITE = ROOT / "_build" / "html"
COPIES = ROOT / "_build" / "notebooks"
NEEDED = 100  # MB of disk: twice the stage and the site of five chapters
# A book is millions of small objects that stay: to look for garbage among them as often as usual costs a fifth of a build, and half
# of one with nothing to do.
QUICK = "import gc; gc.set_threshold(200_000, 50, 100); from jupyter_book.cli.main import main; main()"
JUPYTER_BOOK = [sys.executable, "-c", QUICK]


def execute(names: list[str], jobs: int) -> int:
    """Re-run chapters (all if none is named) and store their outputs in canonical form."""
    names = names or contents()
    missing = [name for name in names if not Chapter.path_of(name).is_file()]
    if missing:
        print(f"no such chapter: {', '.join(missing)}; the book has: {', '.join(contents())}", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory(dir=notebooks.short_folder(), ignore_cleanup_errors=True) as folder,
        ProcessPoolExecutor(min(jobs, len(names)), initializer=_obey_parent, initargs=(folder,)) as pool,
    ):
        running = {pool.submit(_timed, name): name for name in names}
        try:
            ends = enumerate(as_completed(running), 1)
            failed = [_told(future, running[future], f"[{done}/{len(names)}]") for done, future in ends]
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.kill()  # it has nothing to tidy up, and its kernel follows it
            raise
    return int(any(failed))


def _told(future: Future[float], name: str, place: str) -> bool:
    """Print how a chapter ended; True if it failed."""
    error = future.exception()
    print(f"{place} {name}: " + (f"FAILED\n{_plain(error)}" if error else f"{future.result():.0f} s"), flush=True)
    return error is not None


def _obey_parent(folder: str) -> None:
    """In a worker: temporary files in ``folder``, no Ctrl-C from the terminal, and an end when the parent is killed."""
    tempfile.tempdir = folder
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel] if parent else [])
        os._exit(1)

    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    threading.Thread(target=watch, daemon=True).start()


def _plain(error: BaseException) -> str:
    """The message without terminal colours, and without the whole path of a file that cannot be written."""
    if isinstance(error, OSError) and error.strerror:
        return _os_error(error)
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))


def _os_error(error: OSError) -> str:
    """One line for what the system refused; a failed copy of a folder tells its first reason."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][0][2])
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")


def _timed(name: str) -> float:
    start = time.perf_counter()
    notebooks.execute(Chapter.path_of(name))
    return time.perf_counter() - start


def build() -> int:
    """Build the book with warnings as errors; the old site stays until the new one is whole."""
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
        return _build(lock)


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


def _build(lock: list[int]) -> int:
    built, whole = STAGE / "_build" / "html", STAGE / ".whole"
    if not whole.exists():  # what an interrupted build wrote is not to be trusted
        shutil.rmtree(STAGE, ignore_errors=True)
    whole.unlink(missing_ok=True)
    command = [*JUPYTER_BOOK, "build", str(ROOT), "--path-output", str(STAGE), "-n", "-W", "--keep-going"]
    code = subprocess.call(command, cwd=ROOT, pass_fds=lock)
    if code:
        # What was read is not read again, and would not warn again: the next build must start afresh.
        full = shutil.disk_usage(SITE.parent).free >> 20 < 5
        shutil.rmtree(STAGE, ignore_errors=True)
        why = (
            "the disk is full; the old site is as it was" if full else "the lines with WARNING, ERROR or Exception above say why"
        )
        print(f"the book was not built; {why}", file=sys.stderr)
        return 1
    whole.touch()
    pages = {str(path.relative_to(built / "chapters").with_suffix("")) for path in (built / "chapters").rglob("*.html")}
    if pages != set(contents()):
        print(f"pages and table of contents differ: {', '.join(sorted(pages ^ set(contents())))}", file=sys.stderr)
        return 1
    _replace_site(built)
    print(f"\nThe book is built. Open {Path(os.path.relpath(SITE, Path.cwd())) / 'index.html'} in a browser.")
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


def links() -> int:
    """Ask every external address once; the dead ones stand in ``_build/links/broken.txt``."""
    place = ROOT / "_build" / "links"
    shutil.rmtree(place, ignore_errors=True)
    subprocess.call([*JUPYTER_BOOK, "build", str(ROOT), "--path-output", str(place), "--builder", "linkcheck"], cwd=ROOT)
    found = list(place.rglob("output.json"))
    if not found:
        print("the links were not checked; the lines above say why", file=sys.stderr)
        return 1
    answers = [json.loads(line) for line in found[0].read_text(encoding="utf-8").splitlines()]
    broken = [
        f"{link['filename']}: {link['uri']} ({link['info']})" for link in answers if link["status"] in ("broken", "timeout")
    ]
    (place / "broken.txt").write_text("\n".join(broken) + "\n", encoding="utf-8")
    print(*broken, f"{len(broken)} of {len(answers)} links are dead", sep="\n")
    return int(bool(broken))


def copies() -> int:
    """Copies of the chapters for reading and trying; what a reader has changed stays."""
    for path in reader.lay_out(COPIES):
        print(f"kept with your changes: {path.relative_to(ROOT)} (delete it for a fresh copy)")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m book_tools", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("execute", help="re-run chapters and store their outputs")
    run.add_argument("chapters", nargs="*", metavar="part/slug")
    run.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    commands.add_parser("build", help="build the book strictly")
    commands.add_parser("pdf", help="print the built book")
    commands.add_parser("links", help="check the external links")
    commands.add_parser("copies", help="lay out the reader's edition of the chapters")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # "kill" and "timeout" are answered like Ctrl-C
    try:
        if arguments.command == "execute":
            return execute(arguments.chapters, arguments.jobs)
        others = {"build": build, "pdf": lambda: pdf.make(SITE, SITE.with_name("kexue.pdf")), "links": links, "copies": copies}
        return others[arguments.command]()
    except KeyboardInterrupt:
        print("\ninterrupted; chapters and site are as they were, run the same command again", file=sys.stderr)
        return 130
    except OSError as error:
        print(_os_error(error), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
