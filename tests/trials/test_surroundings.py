"""Nothing here runs what a stranger could have written; and what a full disk, a second build or Ctrl-C do to the machinery."""

import ast
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import pytest

from book_tools import __main__ as commands
from book_tools import building, notebooks
from book_tools.chapter import ROOT, Chapter, book, contents
from trials import copies, surroundings

posix = pytest.mark.skipif(os.name == "nt", reason="signals and locks of POSIX")

# ---- what the code may not do

MODULES = {
    "cloudpickle",
    "dill",
    "ftplib",
    "http",
    "httpx",
    "joblib",
    "marshal",
    "pickle",
    "requests",
    "shelve",
    "smtplib",
    "socket",
}
MODULES |= {"telnetlib", "urllib.request", "urllib3"}
CALLS = {
    "__import__",
    "eval",
    "exec",
    "os.popen",
    "os.system",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "tempfile.mktemp",
}
CALLS |= {"torch.hub.load", "yaml.full_load", "yaml.load", "yaml.unsafe_load"}
NEEDED_KEYWORD = {"torch.load": ("weights_only", True)}
FORBIDDEN_KEYWORD = {"shell", "allow_pickle"}
CELLS = "it executes the cells of a chapter, which the reader executes too"
ALLOWED = {("trials/cells.py", "exec"): CELLS, ("trials/digits.py", "exec"): CELLS}
ALLOWED[("trials/abuse.py", "pickle")] = "it pickles the records of the package, and reads back what it has just written"


def dangers(tree):
    """The names of what may not be imported or called, once per place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if banned(alias.name))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if banned(name) or banned(node.module or "") or name in CALLS)
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
            name = re.sub(r"^builtins\.", "", name)
            if name in CALLS:
                yield name
            if name in NEEDED_KEYWORD:
                keyword, value = NEEDED_KEYWORD[name]
                if getattr(given.get(keyword), "value", None) is not value:
                    yield name
            yield from (word for word in FORBIDDEN_KEYWORD & given.keys() if getattr(given[word], "value", None) is not False)


def banned(module):
    return module in MODULES or module.partition(".")[0] in MODULES


@pytest.mark.parametrize(
    "sample",
    ["import pickle", "from pickle import loads", "import http.client", "from urllib import request", "import urllib.request"]
    + ["from os import system", "os.system('x')", "eval('1')", "builtins.exec('1')", "subprocess.run('x', shell=True)"]
    + [
        "subprocess.run('x', shell=flag)",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
    ]
    + ["yaml.load(text, Loader)", "__import__('socket')", "def f():\n    import socket"],
)
def test_the_scan_finds(sample):
    assert len(list(dangers(ast.parse(sample)))) == 1


def test_the_scan_lets_pass():
    harmless = "from urllib.parse import quote\nmodel.eval()\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)"
    assert not list(dangers(ast.parse(harmless + "\nsubprocess.run(['x'], shell=False)\nyaml.safe_load(t)")))


def test_code_and_chapters_execute_no_strangers_data_and_reach_for_no_network():
    paths = [path for folder in ("kexue", "book_tools", "benchmarks", "trials") for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    texts |= {f"chapters/{chapter.name}.ipynb": chapter.code for chapter in book()}
    found = Counter((name, danger) for name, text in texts.items() for danger in dangers(ast.parse(text)))
    assert found == Counter(ALLOWED.keys())


# ---- what the pages may not hold

LIVE = {"applet", "base", "embed", "form", "iframe", "link", "meta", "object", "script", "style"}


class Article(HTMLParser):
    """What a browser would execute or load in the article of a page."""

    def __init__(self, markup):
        super().__init__()
        self.depth, self.live = 0, []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.depth += tag == "article"
        if self.depth:
            self.live += [tag] * (tag in LIVE) + [name for name, _ in attrs if name.startswith("on")]
            self.handle_data(" ".join(value or "" for _, value in attrs))

    def handle_endtag(self, tag):
        self.depth -= tag == "article"

    def handle_data(self, data):
        if self.depth:
            self.live += re.findall(r"(?i)(?:java|vb)script:|data:text/html", data)


@pytest.mark.parametrize(
    "planted",
    ["<script>1</script>", "<img src='x' onerror='1'>", "<a href=' JavaScript:1'>x</a>", "<p>\\(\\href{javascript:1}{x}\\)</p>"]
    + ["<svg onload='1'></svg>", "<iframe src='x'></iframe>", "<a href='data:text/html,x'>x</a>", "<form action='x'></form>"],
)
def test_a_planted_attack_is_found(planted):
    assert len(Article(f"<article><p>text</p>{planted}</article>").live) == 1


@pytest.mark.skipif(not (building.SITE / "index.html").exists(), reason="the book is not built: run make book")
def test_no_page_carries_anything_live_from_a_notebook():
    pages = [building.SITE / "index.html", *(building.SITE / "chapters" / f"{name}.html" for name in contents())]
    pages += sorted((building.SITE / "pages").glob("*.html"))
    assert not {(page.name, *found) for page in pages if (found := Article(page.read_text(encoding="utf-8")).live)}


@pytest.mark.skipif(not (building.SITE / "index.html").exists(), reason="the book is not built: run make book")
def test_no_source_begins_with_a_mark_that_another_build_would_not_write():
    assert not [path.name for path in (building.SITE / "_sources").rglob("*.*") if path.read_bytes().startswith(b"\xef\xbb\xbf")]


# ---- a full disk

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse(*_, **__):
    raise FULL


@pytest.fixture
def place(monkeypatch, tmp_path):
    """A book of its own with an old site, where nothing is really built."""
    monkeypatch.setattr(building, "SITE", tmp_path / "_build" / "html")
    monkeypatch.setattr(building, "STAGE", tmp_path / "_build" / "stage")
    monkeypatch.setattr(building, "faults", list)
    building.SITE.mkdir(parents=True)
    (building.SITE / "index.html").write_text("old", encoding="utf-8")
    return tmp_path / "_build"


def old_site(place):
    return (place / "html" / "index.html").read_text(encoding="utf-8") == "old" and not list(place.glob("html.*"))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_notebook(tmp_path, monkeypatch, step):
    path, stored = tmp_path / "a.ipynb", Chapter.load(contents()[0]).notebook
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(notebooks.os, step, refuse)
    with pytest.raises(OSError, match="No space"):
        notebooks.write(path, stored)
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [("a.ipynb", "old")]


def test_a_build_is_not_begun_on_a_disk_that_is_nearly_full(place, monkeypatch, capsys):
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda _: usage._replace(free=30 << 20))
    assert building.build() == 1
    assert "30 MB of disk are free here and the book needs about 100" in capsys.readouterr().err
    assert old_site(place)


def test_a_build_that_fills_the_disk_says_so(place, monkeypatch, capsys):
    usage, free = shutil.disk_usage(place), iter((200 << 20, 0))
    monkeypatch.setattr(building.shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
    monkeypatch.setattr(building.subprocess, "call", lambda *_, **__: 2)
    assert building.build() == 1
    assert "the disk is full; the old site is as it was" in capsys.readouterr().err
    assert old_site(place)
    assert not building.STAGE.exists()


def test_a_copy_that_fails_leaves_the_old_site_and_one_line(place, monkeypatch, capsys):
    (built := place / "built").mkdir()
    failed = shutil.Error([("a", "b", str(FULL)), ("c", "d", "another")])
    monkeypatch.setattr(building.shutil, "copytree", lambda *_: (_ for _ in ()).throw(failed))
    monkeypatch.setattr(building, "build", lambda: building._replace_site(built))
    assert called(monkeypatch, "build") == 1
    assert capsys.readouterr().err == f"{FULL}\n"
    assert old_site(place)


# ---- interruptions


def called(monkeypatch, *arguments):
    """What the command returns; the answers to signals are put back. A test run in the background begins with Ctrl-C ignored."""
    before = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(sys, "argv", ["book_tools", *arguments])
    try:
        return commands.main()
    finally:
        for which, answer in before.items():
            signal.signal(which, answer)


@posix
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_says_that_nothing_is_lost(place, monkeypatch, capsys, which):
    def interrupted(*_, **__):
        os.kill(os.getpid(), which)
        time.sleep(5)

    monkeypatch.setattr(building.subprocess, "call", interrupted)
    assert called(monkeypatch, "build") == 130
    assert capsys.readouterr().err.strip() == f"{surroundings.INTERRUPTED}, run the same command again"
    assert old_site(place)


def test_a_site_lost_between_two_renamings_comes_back(place, monkeypatch):
    (built := place / "built").mkdir()
    (place / "html").rename(place / "html.old")
    monkeypatch.setattr(building.shutil, "copytree", refuse)
    with pytest.raises(OSError, match="No space"):
        building._replace_site(built)
    assert old_site(place)


def test_what_an_interrupted_build_wrote_is_not_used(place, monkeypatch):
    page = building.STAGE / "_build" / "html" / "chapters" / "page.html"
    found = []

    def sphinx(*_, **__):
        found.append(page.exists())
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("new", encoding="utf-8")
        if len(found) == 1:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(building.subprocess, "call", sphinx)
    monkeypatch.setattr(building, "contents", lambda: ["page"])
    with pytest.raises(KeyboardInterrupt):
        building.build()
    assert building.build() == 0
    (building.SITE / "index.html").write_text("spoiled", encoding="utf-8")  # or nothing would have to be built
    assert building.build() == 0
    assert found == [False, False, True]


@posix
def test_a_second_build_waits_for_the_first(place, capsys):
    order = []

    def second():
        with building._alone():
            order.append("second")

    with building._alone():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert "another build is at work in this folder; waiting for its end" in capsys.readouterr().out


@posix
def test_workers_end_with_a_command_that_was_killed():
    script = """import os, time
from concurrent.futures import ProcessPoolExecutor
from book_tools.__main__ import _obey_parent
with ProcessPoolExecutor(1, initializer=_obey_parent, initargs=('.',)) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        status = Path(f"/proc/{worker}/stat")
        if status.read_text().split()[2] == "Z" if status.exists() else not alive(worker):
            return
        time.sleep(0.1)
    raise AssertionError("the worker lives on")


def alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@posix
@pytest.mark.filterwarnings("ignore:IPython parent")
def test_a_chapter_runs_without_a_home_and_with_a_deep_folder_for_temporary_files(tmp_path, monkeypatch):
    deep = tmp_path.joinpath("d" * 100, "e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    cell = {"cell_type": "code", "metadata": {}, "source": "print(6 * 7)", "execution_count": None, "outputs": []}
    notebooks.write(tmp_path / "a.ipynb", {"cells": [cell]})
    notebooks.execute(tmp_path / "a.ipynb")
    assert notebooks.read(tmp_path / "a.ipynb")["cells"][0]["outputs"][0]["text"] == ["42\n"]


def test_a_folder_that_cannot_be_written_is_told_before_a_chapter_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks.os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="the folder cannot be written") as told:
        notebooks.execute(tmp_path / "a.ipynb")
    assert commands._plain(told.value) == f"the folder cannot be written: {tmp_path}"


# ---- the command and what it stored


def test_every_surrounding_stands_in_the_result():
    found = json.loads(surroundings.RESULT.read_text(encoding="utf-8"))
    assert found.keys() == {"date", "entries"}
    assert date.fromisoformat(found["date"])
    assert [(entry["name"], entry["done"]) for entry in found["entries"]] == [row[:2] for row in surroundings.TABLE]
    for entry in found["entries"]:
        assert entry.keys() == {"name", "done", "outcome", "message"}
        assert entry["outcome"] != "FAILED"
        assert not re.search(r"[|\n]|/(home|root|tmp|work|Users)\b|kexue-", " ".join(entry.values()))


def test_the_end_of_each_surrounding_is_told(monkeypatch, capsys):
    def wrong(_):
        copies.expect(False, "half a site")

    def untried(_):
        monkeypatch.setattr(copies.shutil, "which", lambda _: None)
        copies.namespace("-n")

    table = (("a", "x", lambda _: ("fine", "well")), ("b", "y", wrong), ("c", "z", untried))
    monkeypatch.setattr(surroundings, "TABLE", table)
    ends = [entry[2:] for entry in surroundings.tried(None)]
    assert ends[:2] == [("fine", "well"), ("FAILED", "half a site")]
    assert ends[2][0] == "not tried"
    assert "b: FAILED; half a site" in capsys.readouterr().out


def test_the_moments_cover_the_command_and_every_way_of_ending_it():
    moments = list(surroundings._moments(10, 20.0))
    assert {way for way, _ in moments} == surroundings.WAYS.keys()
    assert sorted(int(moment // 2) for _, moment in moments) == list(range(10))
    assert moments == list(surroundings._moments(10, 20.0))


def test_a_process_that_stays_is_found_and_a_message_names_no_place(tmp_path):
    (original := tmp_path / "original").mkdir()
    (place := tmp_path / f"trial-{os.getpid()}").mkdir()
    book = copies.Book(original, place / "a b")
    process = book.start(["timeit", "-n1", "-r1", "import time; time.sleep(60)"])
    if Path("/proc/self/environ").exists():
        assert book.leftovers(0.6) == [process.pid]
    copies.kill_started()
    assert book.end(process).code == -signal.SIGKILL
    assert book.leftovers(5) == []
    told = copies.Ended(1, f"first\n\x1b[31mNo: {book.root}/chapters/.x-1_a.tmp | {book.root}\n\n")
    assert book.said(told) == "No: chapters/a temporary file / ."
