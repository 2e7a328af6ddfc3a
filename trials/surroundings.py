"""``make surroundings``: the book built and a chapter executed where things go wrong, in temporary copies of the working tree.

One function per surrounding, in ``TABLE``; how each ended stands in ``results/surroundings.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from book_tools import system
from book_tools.chapter import ROOT
from trials.copies import BUILD, EXECUTE, TESTS, Book, Ended, Untried, World, Wrong, expect, kill_started, namespace, tree

RESULT = ROOT / "results" / "surroundings.json"
NO_SOCKETS = """import socket
def connect(self, address): raise OSError("the network is blocked")
socket.socket.connect = socket.socket.connect_ex = connect
"""
INTERRUPTED = "interrupted; chapters and site are as they were"
SAME = "built and executed, equal to the byte"
DONE = r"\] \S+: \d+ s$|The book is built"
IMPORTS = 2  # seconds in which Python loads the command, which cannot yet answer in words
WAYS = {  # the signal, and whether it goes to all processes of the command
    "Ctrl-C": (signal.SIGINT, True),
    "kill": (signal.SIGTERM, False),
    "kill -9": (signal.SIGKILL, False),
    "kill -9 of all processes": (signal.SIGKILL, True),
}


class Entry(NamedTuple):
    """A row of the result."""

    name: str
    done: str
    outcome: str
    message: str


def no_network(world: World) -> tuple[str, str]:
    book, changes = world.book(), dict[str, str]()
    try:
        prefix, how = namespace("-n"), "no network interface was there"
    except Untried:
        prefix, how = [], "every connection of a socket was refused"
        (book.root.parent / "sitecustomize.py").write_text(NO_SOCKETS, encoding="utf-8")
        changes = {"PYTHONPATH": f"{book.root}{os.pathsep}{book.root.parent}"}
    world.usual(book, prefix, **changes)
    ended = book.call(TESTS, prefix, **changes)
    expect(ended.code == 0, f"unit tests: {book.said(ended)}")
    return f"{SAME}; tests passed", how


def forbidden(world: World) -> tuple[str, str]:
    """Permissions say no; root needs to be robbed of its right to ignore them."""
    prefix = []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
        if not shutil.which("setpriv"):
            raise Untried("root writes anyway")
    book = world.book()
    paths = [book.root, *book.root.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        return _refused(book, prefix)
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


def read_only(world: World) -> tuple[str, str]:
    book = world.book()
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && shift && exec "$@"'
    return _refused(book, [*namespace("-m"), "sh", "-c", script, "sh", str(book.root)])


def _refused(book: Book, prefix: Sequence[str]) -> tuple[str, str]:
    before, told = tree(book.root), []
    for command in (BUILD, EXECUTE):
        ended = book.call(command, prefix)
        told.append(f"{command[1]}: {book.said(ended)}")
        expect(ended.code != 0 and "Traceback" not in ended.text, told[-1])
    expect(tree(book.root) == before, "files have changed")
    return "refused, nothing changed", "; ".join(told)


def no_home(world: World) -> tuple[str, str]:
    gone: dict[str, str | None] = {
        "DISPLAY": None,
        "XDG_CACHE_HOME": None,
        "XDG_CONFIG_HOME": None,
        "MPLCONFIGDIR": None,
        "TERM": "dumb",
    }
    for home in (None, "/dev/null/home"):
        world.usual(world.book(), (), HOME=home, **gone)
    return SAME, ""


def ascii_locale(world: World) -> tuple[str, str]:
    world.usual(world.book(), LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    return SAME, ""


def latin_locale(world: World) -> tuple[str, str]:
    """A German locale of the nineties, made for the occasion."""
    book, name = world.book(), "de_DE.ISO-8859-1"
    made = [str(shutil.which("localedef")), "-i", "de_DE", "-f", "ISO-8859-1", str(book.root.parent / name)]
    if not shutil.which("localedef") or subprocess.run(made, check=False, capture_output=True).returncode > 1:
        raise Untried("the machine cannot make such a locale")
    world.usual(book, LOCPATH=str(book.root.parent), LC_ALL=name, LANG=name, PYTHONUTF8="0")
    return SAME, ""


def odd_path(world: World) -> tuple[str, str]:
    world.usual(world.book("科学 空间 'a' \"b\" & %20 #1"))
    return SAME, ""


def another_day(world: World) -> tuple[str, str]:
    """A later build, west and east of the date line, from files of another age."""
    book = world.book()
    for path in book.root.rglob("*"):
        os.utime(path, (10**9, 10**9))
    world.usual(book, TZ="EAST-14", PYTHONHASHSEED="1")
    return SAME, ""


def long_tmpdir(world: World) -> tuple[str, str]:
    book = world.book()
    deep = book.root.parent.joinpath(*["d" * 60] * 4)
    deep.mkdir(parents=True)
    world.usual(book, TMPDIR=str(deep))
    return SAME, ""


def full_notebook(world: World) -> tuple[str, str]:
    """The folder of the chapters has room for them, and not for one more."""
    book = world.book()
    size = sum(-(-path.stat().st_size // 4096) * 4 + 4 for path in (book.root / "chapters").rglob("*")) + 40
    script = f"""mount -t tmpfs -o size={size}k none chapters
        cp -r "$1"/. chapters; shift; "$@"; code=$?; cp -r chapters after; exit $code"""
    before = tree(book.root / "chapters")
    ended = book.call(EXECUTE, [*namespace("-m"), "sh", "-c", script, "sh", str(world.original / "chapters")])
    expect(ended.code != 0 and "Traceback" not in ended.text, book.said(ended))
    expect(tree(book.root / "after") == before, "the old notebooks have changed")
    return "refused, notebooks intact", book.said(ended)


def full_at_once(world: World) -> tuple[str, str]:
    return _full(world, 30, "")


def full_on_the_way(world: World) -> tuple[str, str]:
    started = "_build/stage/_build/html/chapters"
    return _full(world, 150, f"(until test -d {started}; do sleep 0.1; done; cat /dev/zero > _build/filler 2> /dev/null) &")


def _full(world: World, size: int, meanwhile: str) -> tuple[str, str]:
    """A build into a small file system: it ends with a message, the old site stays, and with room again it is built."""
    book = world.book()
    (book.root / "_build").mkdir()
    script = f"""mount -t tmpfs -o size={size}m none _build
        cp -r "$1" _build/html; touch _build/html/old; shift
        {meanwhile}
        "$@"; code=$?; wait; cp -r _build/html after; rm -f _build/filler; mount -o remount,size=500m _build
        "$@" > /dev/null && cp -r _build/html next; exit $code"""
    ended = book.call(BUILD, [*namespace("-m"), "sh", "-c", script, "sh", str(world.built / "_build" / "html")])
    expect(ended.code != 0, f"no error; {book.said(ended)}")
    expect(tree(book.root / "after") == world.site | {"old": hashlib.sha256(b"").hexdigest()}, "the old site has changed")
    world.same_site(tree(book.root / "next"))
    said = book.said(ended)
    expect(" full" in said or "MB of disk" in said, f"the message names no full disk: {said}")
    return "refused, old site intact, next build clean", said


def interrupted_execute(world: World) -> tuple[str, str]:
    book = world.book()

    def prepare() -> set[str]:
        book.chapter.write_text(book.chapter.read_text(encoding="utf-8").rstrip("\n") + "\n\n", encoding="utf-8")
        return {json.dumps(tree(book.root / "chapters")), json.dumps(world.chapters)}

    def check() -> None:
        expect(tree(book.root / "chapters") == world.chapters, "the next execution comes out differently")

    return _interrupted(world, book, EXECUTE, 8, book.root / "chapters", prepare, check)


def interrupted_build(world: World) -> tuple[str, str]:
    book = world.book()
    shutil.copytree(world.built / "_build" / "html", book.site)

    def prepare() -> set[str]:
        shutil.rmtree(book.root / "_build" / "stage", ignore_errors=True)
        (book.site / "old").touch()
        return {json.dumps(tree(book.site)), json.dumps(world.site)}

    return _interrupted(world, book, BUILD, 10, book.site, prepare, lambda: world.same_site(tree(book.site)))


def _interrupted(
    world: World,
    book: Book,
    command: Sequence[str],
    times: int,
    kept: Path,
    prepare: Callable[[], set[str]],
    check: Callable[[], None],
) -> tuple[str, str]:
    """A command interrupted at random moments in turn leaves the old or the new, no process and no damage for the next."""
    for way, moment in _moments(times, world.seconds[command[1]]):
        allowed = prepare()
        ended, late = _interrupt(book, command, *WAYS[way], moment)
        where = f"{way} after {moment:.0f} s"
        left = book.leftovers()
        for number in left:
            os.kill(number, signal.SIGKILL)
        expect(not left, f"{where}: {len(left)} processes stay")
        expect(json.dumps(tree(kept)) in allowed, f"{where}: neither the old files nor the new ones")
        if way in ("Ctrl-C", "kill") and moment > IMPORTS and not late:
            told = ended.code == 130 and INTERRUPTED in ended.text and "Traceback" not in ended.text
            expect(told, f"{where}: it ended with {ended.code}: {book.said(ended)}")
        following = book.call(command)
        expect(following.code == 0, f"{where}, then again: {book.said(following)}")
        check()
        print(f"  {where}: as it should", flush=True)
    return (
        "old files intact, no process left, next run clean",
        f"{times} moments between the start and the end, by {', '.join(WAYS)}",
    )


def _moments(times: int, seconds: float) -> Iterator[tuple[str, float]]:
    draw = random.Random(2)
    order = draw.sample(range(times), times)
    for number, place in enumerate(order):
        yield list(WAYS)[number % len(WAYS)], (place + draw.random()) / times * seconds


def _interrupt(book: Book, command: Sequence[str], which: signal.Signals, everyone: bool, moment: float) -> tuple[Ended, bool]:
    """Send the signal; also whether the command had done its work before."""
    book.log.write_bytes(b"")
    process = book.start(command)
    time.sleep(moment)
    late = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if everyone else os.kill)(process.pid, which)
    ended = book.end(process)
    return ended, late or bool(re.search(DONE, ended.text, re.MULTILINE))


def two_at_once(world: World) -> tuple[str, str]:
    book = world.book()
    processes = [book.start(BUILD), book.start(BUILD)]
    ended = [book.end(process) for process in processes]
    expect(not any(each.code for each in ended), book.said(ended[-1]))
    world.same_site(tree(book.site))
    waited = "another build is at work in this folder" in ended[-1].text
    return "both built, equal to the byte", "the second waited for the first" if waited else "they did not meet"


TABLE: tuple[tuple[str, str, Callable[[World], tuple[str, str]]], ...] = (
    ("No network", "build, execution of a chapter, unit tests of a module", no_network),
    ("Checkout without write permission", "build, execution", forbidden),
    ("Read-only file system", "build, execution", read_only),
    ("No home folder", "HOME unset, then impossible; no display, TERM=dumb; build, execution", no_home),
    ("ASCII locale", "LC_ALL=C, UTF-8 mode off; build, execution", ascii_locale),
    ("Latin-1 locale", "LC_ALL=de_DE.ISO-8859-1, UTF-8 mode off; build, execution", latin_locale),
    ("Odd path", "spaces, quotes, Chinese characters in it; build, execution", odd_path),
    ("Another day and folder", "24 hours of time zone apart, older files, another hash seed; build, execution", another_day),
    ("Deep folder for temporary files", "more than 240 characters; build, execution", long_tmpdir),
    ("Full disk", "execution of a chapter", full_notebook),
    ("Nearly full disk", "build", full_at_once),
    ("Disk that fills up", "while a build writes its pages", full_on_the_way),
    ("Interrupted execution", "Ctrl-C, kill and kill -9 at 8 moments", interrupted_execute),
    ("Interrupted build", "Ctrl-C, kill and kill -9 at 10 moments", interrupted_build),
    ("Two builds at once", "started in one folder", two_at_once),
)


def tried(world: World, only: Sequence[str] = ()) -> Iterator[Entry]:
    """The surroundings one after the other (all, or those named), each told when it is done."""
    for name, done, function in TABLE:
        if only and function.__name__ not in only:
            continue
        start = time.monotonic()
        try:
            outcome, message = function(world)
        except Untried as why:
            outcome, message = "not tried", str(why)
        except Wrong as why:
            outcome, message = "FAILED", str(why)
        finally:
            kill_started()
        print(f"{name}: {outcome}{message and '; '}{message} ({time.monotonic() - start:.0f} s)", flush=True)
        yield Entry(name, done, outcome, message)


def run(only: Sequence[str] = ()) -> int:
    """Try the surroundings and store how they ended; 1 if one of them did not end as it should."""
    if not hasattr(os, "killpg"):
        print("the surroundings are made for Linux and macOS", file=sys.stderr)
        return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts this in the background has Ctrl-C ignored
    with tempfile.TemporaryDirectory(prefix="kexue-", ignore_cleanup_errors=True) as folder:
        try:
            entries = list(tried(World(Path(folder).resolve()), only))
        finally:
            kill_started()
    if not only:
        system.save(RESULT, {"date": datetime.now(UTC).date().isoformat(), "entries": [entry._asdict() for entry in entries]})
    return int(any(entry.outcome == "FAILED" for entry in entries))
