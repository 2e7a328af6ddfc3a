"""Every command that README, CONTRIBUTING, the pages or ``make help`` name exists, and is run by a test or before a release."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from urllib.parse import urljoin

import pytest

from book_tools import building
from book_tools.chapter import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
RELEASE = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "release").read_text(encoding="utf-8"), re.MULTILINE))
# What no release runs, and which test does.
TESTED = {
    "help": "test_help_lists_every_command",
    "serve": "test_the_server_shows_the_book",
    "new": "test_new.py",
    "check": "test_check_command.py, test_a_command_does_what_its_recipe_says",
    "book": "make test builds it, test_building.py",
    "execute": "test_surroundings.py",
    "chapters": "test_a_command_does_what_its_recipe_says",
    "notebook": "test_reader.py, test_a_command_does_what_its_recipe_says",
    "author": "test_a_command_does_what_its_recipe_says",
    "bench-check": "test_benchmarks.py",
    "lock": "test_supply.py",
    "clean": "test_a_command_does_what_its_recipe_says",
    "release": "test_everything_in_a_release_exists",
}
make = pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")


def recipe(*arguments):
    """What a command would run; the environment counts as made."""
    command = ["make", "--dry-run", "--no-print-directory", "--assume-old", ".venv/.ready", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_every_command_is_run_by_a_test_or_before_a_release():
    assert set(TESTED) == TARGETS - RELEASE
    assert not RELEASE & set(TESTED)


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", *sorted(f"pages/{path.name}" for path in (ROOT / "pages").glob("*.md"))]
)
def test_no_text_names_a_command_that_is_not_there(file):
    named = set(re.findall(r"`make ([a-z-]+)|^\s*make ([a-z-]+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE))
    assert {a or b for a, b in named} <= TARGETS


def test_everything_in_a_release_exists():
    assert RELEASE <= TARGETS and os.access(ROOT / ".ci" / "release", os.X_OK)


@make
def test_help_lists_every_command():
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)) == TARGETS


@make
@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (("check", "CHAPTER=part/slug"), '-m book_tools check "part/slug"'),
        (("new", "POST=part/slug"), '-m book_tools new "part/slug"'),
        (("book", "CHAPTER=part/slug"), "-m book_tools build part/slug"),
        (("pdf", "PART=attention"), "-m book_tools pdf attention"),
        (("pdf", "CHAPTER=part/slug"), "-m book_tools pdf part/slug"),
        (("mutate",), "-m trials mutate \n"),
        (("mutate", "CHAPTER=part/slug", "FORCE=1"), "-m trials mutate part/slug\n"),
        (("digits", "FORCE=1"), "-m trials digits --all\n"),
        (("bench", "CHAPTER=part/slug"), "-m benchmarks run part/slug\n"),
        (("chapters", "CHAPTER=part/slug"), "-m pytest chapters/part/slug.ipynb --nbval"),
        (("author",), "-m jupyterlab chapters"),
        (("notebook",), "-m book_tools copies"),
        (("clean",), "rm -rf _build .venv"),
        (("release",), ".ci/release"),
    ],
)
def test_a_command_does_what_its_recipe_says(arguments, runs):
    assert runs in recipe(*arguments)


@pytest.mark.parametrize("room", ["book_tools", "trials", "benchmarks"])
def test_commands_of_the_recipes_exist(room):
    helped = subprocess.run([sys.executable, "-m", room, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    offered = re.search(r"\{([\w,]+)\}", helped)[1].split(",")
    assert set(re.findall(rf"-m {room} ([a-z]+)", MAKEFILE)) == set(offered)


@pytest.mark.skipif(not (building.SITE / "index.html").is_file(), reason="the book is not built: run make book")
def test_the_server_shows_the_book():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = re.search(r"-m http\.server.*", recipe("serve"))[0].replace("8000", str(port)) if shutil.which("make") else ""
    if not command:
        pytest.skip("no make on this machine")
    with subprocess.Popen(
        [sys.executable, *command.split()], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            said = _fetch(port, urljoin("/", "index.html"))
        finally:
            server.kill()
    assert b"200 OK" in said and b"Scientific Spaces" in said


def _fetch(port, path):
    for _ in range(50):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")
