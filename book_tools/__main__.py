"""The commands behind the Makefile: ``python -m book_tools new``, ``execute``, ``check``, ``build``, ``pdf``, ``links`` and ``copies``."""

from __future__ import annotations

import argparse
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
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait

from book_tools import building, new, notebooks
from book_tools.building import os_error
from book_tools.chapter import ROOT, Chapter, contents

COPIES = ROOT / "_build" / "notebooks"


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
        return os_error(error)
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))


def _timed(name: str) -> float:
    start = time.perf_counter()
    notebooks.execute(Chapter.path_of(name))
    return time.perf_counter() - start


def links() -> int:
    """Ask every external address once; the dead ones stand in ``_build/links/broken.txt``."""
    place = ROOT / "_build" / "links"
    shutil.rmtree(place, ignore_errors=True)
    subprocess.call([*building.JUPYTER_BOOK, "build", str(ROOT), "--path-output", str(place), "--builder", "linkcheck"], cwd=ROOT)
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
    from book_tools import reader

    for path in reader.lay_out(COPIES):
        print(f"kept with your changes: {path.relative_to(ROOT)} (delete it for a fresh copy)")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m book_tools", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("execute", help="re-run chapters and store their outputs")
    run.add_argument("chapters", nargs="*", metavar="part/slug")
    run.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    one = commands.add_parser("build", help="build the book strictly, or the page of one chapter into the built book")
    one.add_argument("chapter", nargs="?", default="", metavar="part/slug")
    one = commands.add_parser("check", help="prove one chapter alone")
    one.add_argument("chapter", metavar="part/slug")
    one = commands.add_parser("new", help="lay out the files of a post")
    one.add_argument("chapter", metavar="part/slug")
    one = commands.add_parser("pdf", help="print the built book, a part of it or a chapter")
    one.add_argument("what", nargs="?", default="", metavar="part or part/slug")
    commands.add_parser("links", help="check the external links")
    commands.add_parser("copies", help="lay out the reader's edition of the chapters")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # "kill" and "timeout" are answered like Ctrl-C
    try:
        if arguments.command == "execute":
            return execute(arguments.chapters, arguments.jobs)
        if arguments.command == "new":
            return new.make(arguments.chapter)
        if arguments.command == "pdf":
            from book_tools import pdf

            return pdf.make(building.SITE, arguments.what)
        if getattr(arguments, "chapter", "") and arguments.chapter not in contents():
            print(f"no such chapter: {arguments.chapter}; the book has: {', '.join(contents())}", file=sys.stderr)
            return 2
        if arguments.command == "check":
            from book_tools import check

            return check.run(arguments.chapter)
        if arguments.command == "build":
            return building.build_page(arguments.chapter) if arguments.chapter else building.build()
        return {"links": links, "copies": copies}[arguments.command]()
    except KeyboardInterrupt:
        print("\ninterrupted; chapters and site are as they were, run the same command again", file=sys.stderr)
        return 130
    except OSError as error:
        print(os_error(error), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
