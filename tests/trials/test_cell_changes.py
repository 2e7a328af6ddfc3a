"""Changes of the code of verifying cells: what they touch, and what notices them."""

import ast
import json
import subprocess
import sys

import pytest

from book_tools import notebooks
from trials.cells import ELSEWHERE, FORMULA, POINT, Flow, changes

CHECK = "from kexue.lab import verify\nimport numpy as np\n"
SCRIPT = """import json, sys
from book_tools import notebooks
from book_tools.chapter import Chapter
from pathlib import Path
Chapter.path_of = staticmethod(lambda name: Path(sys.argv[1]))
from trials.cells import chapter_trials
print(json.dumps([trial._asdict() for trial in chapter_trials("a/b")]))
"""


def kinds(source):
    return {change.text: (change.labels, change.kind) for change in changes(ast.parse(source))}


def tried(folder, *sources, metadata=None):
    path = folder / "a.ipynb"
    code = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells = [code | {"source": source} for source in (CHECK, *sources)]
    cells[1]["metadata"] = metadata or {}
    notebooks.write(path, {"cells": cells})
    notebooks.execute(path)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True)
    return {trial["change"]: trial for trial in json.loads(done.stdout.splitlines()[-1])}


def test_what_feeds_one_side_is_a_formula_and_what_feeds_both_a_point():
    found = kinds("x = 2.0\na = x + 3\nverify('eq-a', a, f(x) * 5, atol=1e-9)")
    assert found["x = 2.0 -> x = 3.0"] == (("eq-a",), POINT)
    assert found["a = x + 3 -> a = x - 3"] == (("eq-a",), FORMULA)
    assert found["verify('eq-a', a, f(x) * 5, atol=1e-09) -> verify('eq-a', a, f(x) / 5, atol=1e-09)"] == (("eq-a",), FORMULA)
    assert not any("1.000000001" in text or "eq-b" in text for text in found)  # neither tolerance nor label


def test_inside_a_loop_the_statements_are_judged_one_by_one():
    found = kinds("for x in (1.5, 2.5):\n    a = x + 3\n    verify('eq-a', a, g(x), atol=0)")
    assert found["a = x + 3 -> a = x - 3"] == (("eq-a",), FORMULA)
    assert found["for x in (1.5, 2.5): -> for x in (2.5, 2.5):"] == (("eq-a",), POINT)


def test_lists_that_are_filled_pass_on_what_feeds_them():
    found = kinds("found = []\nfor n in range(3):\n    found.append(n + 7)\nverify('eq-a', found, h(3), atol=0)")
    assert found["found.append(n + 7) -> found.append(n - 7)"] == (("eq-a",), FORMULA)
    assert found["for n in range(3): -> for n in range(4):"][1] == POINT  # how many are tried


def test_axes_transposes_and_orders_of_arguments_change_too():
    found = kinds("a = f(x.T, y)\nb = x.sum(axis=1)\nverify('eq-a', a, b, atol=0)")
    assert {
        "a = f(x.T, y) -> a = f(y, x.T)",
        "a = f(x.T, y) -> a = f(x.real, y)",
        "b = x.sum(axis=1) -> b = x.sum(axis=0)",
    } <= set(found)


def test_seeds_and_texts_stay_and_what_is_only_printed_is_elsewhere():
    found = kinds("rng = np.random.default_rng(3)\nc = rng.random(4) * 2\nprint(f'{c + 1}')\nverify('eq-a', 1, one(), atol=0)")
    assert all("default_rng(4)" not in text and "c - 1" not in text for text in found)
    assert found["c = rng.random(4) * 2 -> c = rng.random(4) / 2"] == ((), ELSEWHERE)


@pytest.mark.parametrize(
    "other",
    [
        "n = 4 + 1",  # the n of the check is the comprehension's own
        "picture = np.linspace(0, 4 + 1)",  # a function is called, and the module stays what it was
        "x = 4 + 1",  # bound anew before the check
    ],
)
def test_what_only_shares_a_name_with_a_check_feeds_nothing(other):
    cells = ("import numpy as np", other, "x = f(2)\nverify('eq-a', np.sum([g(n) for n in range(3)]), x, atol=0)")
    flow = Flow([ast.parse(cell) for cell in cells])
    assert [change.kind for change in flow.changes(1)] and not any(change.labels for change in flow.changes(1))


def test_pictures_are_not_drawn_again_for_a_change(tmp_path):
    cell = "x = np.array([1.5, 2.5])\ny = x * x\nverify('eq-a', y, x**2, atol=1e-9)"
    cells = [cell, "z = y * 0 + 1", "open('drawn', 'a').write('.'); w = y;", "print(f'{z.sum():.1f}')"]
    found = tried(tmp_path, *cells)
    assert all(trial["outcome"] == "noticed" for trial in found.values() if trial["kind"] == FORMULA)
    assert (tmp_path / "drawn").read_text() == ".."  # by the author, and by the run that is then changed


@pytest.mark.parametrize(("numbers", "alive"), [("1.5, 2.5", set()), ("1.0, 1.0", {"3 * x -> 3 / x"})])
def test_a_check_where_a_factor_is_one_leaves_survivors(tmp_path, numbers, alive):
    found = tried(tmp_path, f"x = np.array([{numbers}])\nleft = 3 * x\nverify('eq-a', left, x + x + x, atol=1e-9)")
    survived = {text for text, trial in found.items() if trial["outcome"] == "survived" and trial["kind"] == FORMULA}
    assert survived == {f"left = {one.replace(' -> ', ' -> left = ')}" for one in alive}
    assert sum(trial["outcome"] == "noticed" for trial in found.values()) >= 3


def test_a_later_cell_notices_and_a_reason_is_told(tmp_path):
    cell = "x = np.array([1.5, 2.5])\nscale = np.float64(3.0) + 0\nverify('eq-a', x + x, 2 * x, atol=1e-9)"
    reason = {"scale = np.float64(3.0) + 0 -> scale = np.float64(3.0) - 0": "zero"}
    found = tried(tmp_path, cell, "print(f'{scale:.2f}')", metadata={"kexue": {"survives": reason}})
    assert found["scale = np.float64(3.0) + 0 -> scale = np.float64(4.0) + 0"]["outcome"] == "noticed"
    assert found["scale = np.float64(3.0) + 0 -> scale = np.float64(3.0) - 0"]["reason"] == "zero"
    assert found["scale = np.float64(3.0) + 0 -> scale = np.float64(3.0) - 0"]["outcome"] == "survived"


def test_a_formula_in_an_earlier_cell_is_changed_for_the_check_that_uses_it(tmp_path):
    found = tried(
        tmp_path, "x = np.array([1.5, 2.5])", "def f(y):\n    return y * y + 1", "verify('eq-a', f(x), x**2 + 1, atol=1e-9)"
    )
    trial = found["return y * y + 1 -> return y * y - 1"]
    assert (trial["labels"], trial["kind"], trial["outcome"]) == (["eq-a"], FORMULA, "noticed")
    assert not any(text.startswith("x = np.array") for text in found)  # it feeds both sides, and is no formula
