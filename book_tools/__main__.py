"""The commands behind the Makefile: ``python -m book_tools execute [part/slug ...]``, ``build``, ``pdf``, ``links``,
``mutate``, ``digits`` and ``lock``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from book_tools import digits, mutation, notebooks, pdf
from book_tools.chapter import ROOT, Chapter, contents
from book_tools.form import faults

STAGE = ROOT / "_build" / "stage"
SITE = ROOT / "_build" / "html"
JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
LOCK_HEADER = (
    '# The tested set: every package of the book at an exact version, on every platform; made by "make lock".',
    "# Left out: the CUDA packages of torch on Linux, which torch itself pins exactly and the CPU build does not want.",
)


def execute(names: list[str], jobs: int) -> int:
    """Re-run chapters (all if none is named) and store their outputs in canonical form."""
    names = names or contents()
    missing = [name for name in names if not Chapter.path_of(name).is_file()]
    if missing:
        print(f"no such chapter: {', '.join(missing)}; the book has: {', '.join(contents())}", file=sys.stderr)
        return 2
    failed = 0
    with ProcessPoolExecutor(max_workers=min(jobs, len(names))) as pool:
        running = {pool.submit(_timed, name): name for name in names}
        for done, future in enumerate(as_completed(running), 1):
            name, error = running[future], future.exception()
            failed += error is not None
            print(
                f"[{done}/{len(names)}] {name}: " + (f"FAILED\n{_plain(error)}" if error else f"{future.result():.0f} s"),
                flush=True,
            )
    return int(failed > 0)


def _plain(error: BaseException) -> str:
    """The message without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))


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
    built = STAGE / "_build" / "html"
    command = [*JUPYTER_BOOK, "build", str(ROOT), "--path-output", str(STAGE), "-n", "-W", "--keep-going"]
    code = subprocess.call(command, cwd=ROOT)
    if code:
        # What was read is not read again, and would not warn again: the next build must start afresh.
        shutil.rmtree(STAGE, ignore_errors=True)
        print("the book was not built; the lines with WARNING or ERROR above say why", file=sys.stderr)
        return code
    pages = {str(path.relative_to(built / "chapters").with_suffix("")) for path in (built / "chapters").rglob("*.html")}
    if pages != set(contents()):
        print(f"pages and table of contents differ: {', '.join(sorted(pages ^ set(contents())))}", file=sys.stderr)
        return 1
    fresh, old = SITE.with_name("html.new"), SITE.with_name("html.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(built, fresh)
    if SITE.exists():
        SITE.rename(old)
    fresh.rename(SITE)
    shutil.rmtree(old, ignore_errors=True)
    print(f"\nThe book is built. Open {Path(os.path.relpath(SITE, Path.cwd())) / 'index.html'} in a browser.")
    return 0


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


def lock() -> int:
    """Take torch's CUDA packages out of a fresh lock: torch pins them itself, and the CPU build does not want them."""
    path = ROOT / "requirements.txt"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not re.match(r"nvidia-|triton==|cuda-|#", line)]
    path.write_text("\n".join([*LOCK_HEADER, *lines]) + "\n", encoding="utf-8")
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
    commands.add_parser("mutate", help="try wrong equations and wrong code")
    commands.add_parser("digits", help="judge the printed digits")
    commands.add_parser("lock", help="finish a fresh requirements.txt")
    arguments = parser.parse_args()
    try:
        if arguments.command == "execute":
            return execute(arguments.chapters, arguments.jobs)
        others = {"build": build, "pdf": lambda: pdf.make(SITE, SITE.with_name("kexue.pdf")), "links": links, "lock": lock}
        others |= {"digits": digits.run, "mutate": lambda: mutation.run(os.cpu_count() or 1)}
        return others[arguments.command]()
    except KeyboardInterrupt:
        print("\ninterrupted; chapters and site are as they were, run the same command again", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
