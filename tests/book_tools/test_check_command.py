"""``make check``: one chapter proved alone; a step that fails is told, and so is one that could not be taken."""

import time

import pytest

from book_tools import check
from book_tools.check import End
from book_tools.system import concerns

NAME = "part/slug"


def steps(monkeypatch, **ends):
    """The steps, each with what it comes to."""
    usual = {what: lambda _: End(True, "well") for what in check.STEPS}
    monkeypatch.setattr(check, "STEPS", usual | {what: lambda _, end=end: end for what, end in ends.items()})


def test_a_chapter_that_holds_is_told_in_one_summary(monkeypatch, capsys):
    steps(monkeypatch, cells=End(True, "40 passed", "long output"))
    assert check.run(NAME) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("part/slug, 0 s") and len(lines) == 1 + len(check.STEPS)
    assert "  ✓ cells     0 s  40 passed" in lines


def test_a_step_that_fails_is_told_in_full(monkeypatch, capsys):
    steps(monkeypatch, tests=End(False, "1 failed", "the reason"), page=End(None, "built; no browser to see it", "get one"))
    assert check.run(NAME) == 1
    said = capsys.readouterr().out
    assert "--- tests\nthe reason\n" in said and "--- page\nget one\n" in said
    assert "  ✗ tests     0 s  1 failed" in said and "  – page      0 s  built; no browser to see it" in said


def test_what_could_not_be_seen_is_no_failure(monkeypatch):
    steps(monkeypatch, page=End(None, "built; no browser to see it"))
    assert check.run(NAME) == 0


def test_a_long_spine_is_told_and_is_no_fault(monkeypatch, capsys):
    monkeypatch.setattr(check, "faults_of", lambda name: [])
    monkeypatch.setattr(check.Chapter, "load", lambda name: name)
    monkeypatch.setattr(check, "warnings", lambda chapters: [f"chapters/{chapters[0]}.ipynb: the spine has 3000 words"])
    monkeypatch.setattr(check, "to_fill_in", lambda name: [])
    assert check.form(NAME) == End(True, "long", f"chapters/{NAME}.ipynb: the spine has 3000 words")
    monkeypatch.setattr(check, "to_fill_in", lambda name: ["kexue/part/slug.py: FILL IN: the formula"])
    assert not check.form(NAME).holds


def test_steps_run_beside_one_another(monkeypatch):
    steps(monkeypatch)
    slow = dict.fromkeys(check.STEPS, lambda _: (time.sleep(0.2), End(True, "well"))[1])
    monkeypatch.setattr(check, "STEPS", slow)
    start = time.monotonic()
    check.run(NAME)
    assert time.monotonic() - start < 0.2 * len(slow)


def test_the_words_of_pytest_are_counted(tmp_path):
    (tmp_path / "test_toy.py").write_text("def test_a():\n    pass\n\n\ndef test_b():\n    assert 0\n", encoding="utf-8")
    end = check._tested([str(tmp_path / "test_toy.py"), "--rootdir", str(tmp_path)])
    assert end.holds is False and set(end.words.split(", ")) == {"1 failed", "1 passed"} and "assert 0" in end.said


@pytest.mark.parametrize(
    ("test", "its"),
    [
        ("test_abuse.py::test_every[part/slug:name]", True),
        ("test_abuse.py::test_every[part/slug:]", True),
        ("test_package.py::test_a_module[part/slug]", True),
        ("test_package.py::test_examples[kexue.part.slug]", True),
        ("test_browser.py::test_page[chapters/part/slug.html]", True),
        ("test_abuse.py::test_every[part/slug_2:name]", False),
        ("test_package.py::test_examples[kexue.part.slug_2]", False),
        ("test_package.py::test_examples[kexue.part]", False),
        ("test_package.py::test_parts_stand_in_book_order", False),
    ],
)
def test_the_tests_that_concern_a_post_are_chosen(test, its):
    assert concerns(test, NAME) is its
