"""A result knows what it was measured on: what could move it makes it old, and nothing else does."""

import json

import pytest

from book_tools import chapter, state
from book_tools.chapter import Chapter

FILES = {
    "kexue/lab/__init__.py": "from kexue.lab.one import first\nfrom kexue.lab.two import second\n",
    "kexue/lab/one.py": "first = 1\n",
    "kexue/lab/two.py": "second = 2\n",
    "kexue/_check.py": "def check(x):\n    return x\n",
    "kexue/part/__init__.py": "",
    "kexue/part/slug.py": '"""Doc."""\n\nfrom kexue import _check\n\n\ndef f(x):\n    """More."""\n    return _check.check(x)  # why\n',
    "tests/part/test_slug.py": "def test():\n    pass\n",
    "tests/part/calls_slug.py": "CALLS = {}\n",
    "benchmarks/part/slug.py": "CASES = []\n",
    "_toc.yml": "parts:\n- chapters:\n  - file: chapters/part/slug\n",
}
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": "# A title\n\n$$ x=1 $$ (eq-a)"},
        {"cell_type": "code", "source": "from kexue.lab import first\nprint(first)  # this", "outputs": [{"text": "1"}]},
    ]
}
KINDS = ("mutate", "digits", "portable", "abuse", "bench")


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small house, with functions that write a file and tell which kinds of result are old."""
    monkeypatch.setattr(chapter, "ROOT", tmp_path)
    monkeypatch.setattr(state, "ROOT", tmp_path)
    monkeypatch.setattr(state, "RESULTS", tmp_path / "results")

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        Chapter.load.cache_clear()
        state._gathered.cache_clear()

    for name, text in FILES.items():
        write(name, text)
    write("chapters/part/slug.ipynb", json.dumps(NOTEBOOK))
    for kind in KINDS:
        state.save(kind, "part/slug", {"n": 1})
    yield lambda name, text: (write(name, text), {kind for kind in KINDS if not state.is_present(kind, "part/slug")})[1]
    Chapter.load.cache_clear()
    state._gathered.cache_clear()


def notebook(change):
    changed = json.loads(json.dumps(NOTEBOOK))
    change(changed["cells"])
    return json.dumps(changed)


SLUG, LAB, CODE = FILES["kexue/part/slug.py"], "kexue/lab/", "chapters/part/slug.ipynb"
OF_CODE = {"mutate", "digits", "portable"}


@pytest.mark.parametrize(
    ("file", "text", "old"),
    [
        ("kexue/part/slug.py", SLUG.replace("return", "return 2 *"), set(KINDS)),
        ("kexue/part/slug.py", SLUG.replace("# why", "# another reason") + "\n\n# the end\n", set()),
        ("kexue/part/slug.py", SLUG.replace("More", "Other words"), {"abuse"}),
        ("kexue/_check.py", "def check(x):\n    return -x\n", set(KINDS)),
        (LAB + "one.py", "first = 2\n", OF_CODE),
        (LAB + "two.py", "second = 3\n", set()),
        ("tests/part/test_slug.py", "def test():\n    assert 1\n", {"mutate"}),
        ("tests/part/calls_slug.py", "CALLS = {1: 2}\n", {"abuse"}),
        ("benchmarks/part/slug.py", "CASES = [1]\n", {"bench"}),
        (CODE, notebook(lambda cells: cells[0].update(source="# Another\n\n$$ x=1 $$ (eq-a)")), set()),
        (CODE, notebook(lambda cells: cells[0].update(source="# A title\n\n$$ x=1 $$ (eq-b)")), {"mutate"}),
        (CODE, notebook(lambda cells: cells[1].update(source="from kexue.lab import first\nprint(first)  # that")), set()),
        (CODE, notebook(lambda cells: cells[1].update(source="from kexue.lab import first\nprint(first + 0)")), OF_CODE),
        (CODE, notebook(lambda cells: cells[1].update(source="from kexue.lab import second\nprint(second)")), OF_CODE),
        (CODE, notebook(lambda cells: cells[1].update(outputs=[{"text": "2"}])), {"portable"}),
    ],
)
def test_what_can_move_a_result_makes_it_old(house, file, text, old):
    assert house(file, text) == old


def test_a_run_repeats_what_is_old_missing_or_failed(house, capsys):
    assert state.changed("abuse", []) == []
    assert "0 of 1 chapters to measure, 1 unchanged" in capsys.readouterr().out
    assert state.changed("abuse", [], everything=True) == ["part/slug"] == state.changed("abuse", ["part/slug"])
    state.save("portable", "part/slug", {"failed": 1})
    assert state.changed("portable", []) == ["part/slug"]
    state.place("digits", "part/slug").unlink()
    assert state.changed("digits", []) == ["part/slug"]


def test_a_result_is_of_the_state_in_which_its_measurement_began(house):
    before = state.digest("digits", "part/slug")
    house("kexue/part/slug.py", SLUG.replace("return", "return 2 *"))
    state.save("digits", "part/slug", {}, before)
    assert not state.is_present("digits", "part/slug")
