"""The rooms of the house: arrows run one way, and each room says in its first lines what to read first."""

import ast
import importlib

import pytest

from book_tools.chapter import ROOT

MAY_USE = {
    "kexue": set(),
    "book_tools": {"kexue"},
    "trials": {"kexue", "book_tools"},
    "benchmarks": {"kexue", "book_tools"},
}


def used(source):
    """The rooms that a module imports from, wherever it does so."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} & {*MAY_USE, "tests"}


@pytest.mark.parametrize("room", MAY_USE)
def test_arrows_run_one_way(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        back = used(path.read_text(encoding="utf-8")) - MAY_USE[room] - {room}
        assert not back, f"{path.relative_to(ROOT)} imports from {', '.join(back)}; benchmarks and trials → book_tools → kexue"


def test_an_arrow_that_runs_back_is_found():
    assert used("def f():\n    from trials import digits\nimport benchmarks.cases, os") == {"trials", "benchmarks"}


@pytest.mark.parametrize("room", ["book_tools", "trials", "benchmarks"])
def test_a_room_says_what_to_read_first(room):
    assert "Read ``__main__`` first" in importlib.import_module(room).__doc__
