"""The mutation test bites: loose checks and weak tests leave survivors, sharp ones do not."""

import ast
import json
import subprocess
import sys

import numpy as np
import pytest

from book_tools import system
from book_tools.chapter import ROOT
from trials import mutation
from trials.cells import FORMULA, POINT, SURVIVED, Trial
from trials.mutants import apply, changed, result_mutants, source_mutants

TOY = '''"""Toy."""

__all__ = ["halves", "label"]


def halves(x: float, wide: bool = False) -> tuple[float, float]:
    """Halves of a positive number."""
    if x <= 0:
        raise ValueError("x must be positive, got " + str(x))
    return x / 2, -x / 2


def label(x: float) -> str:
    return f"{x + 1}"
'''
WEAK = "from toy.halves import halves, label\n\n\ndef test_first():\n    assert halves(4.0)[0] == 2\n    assert label(1)\n"
SHARP = """import pytest
from toy.halves import halves, label


def test_both():
    assert halves(1.0) == (0.5, -0.5)
    assert halves.__defaults__ == (False,)
    with pytest.raises(ValueError, match="positive"):
        halves(0)
"""
SCRIPT = """import json, pathlib, sys
from trials.forks import Target
from trials.mutation import function
root = pathlib.Path(sys.argv[1])
print(json.dumps(function(Target("toy.halves", root / "toy" / "halves.py", root / "tests" / "test_halves.py", root), jobs=2)))
"""


def test_survivors_count_by_change_and_by_label():
    trials = [
        Trial(1, ("eq-a",), FORMULA, "a", "noticed", ""),
        Trial(1, ("eq-a",), FORMULA, "b", SURVIVED, "the same number"),
        Trial(2, ("eq-b", "eq-d"), FORMULA, "c", SURVIVED, ""),
        Trial(2, ("eq-b",), POINT, "d", SURVIVED, ""),
        Trial(3, ("eq-d",), FORMULA, "e", "noticed", ""),
    ]
    tally = mutation._tally(trials, ["eq-a", "eq-b", "eq-c", "eq-d"])
    assert (tally["mutants"], tally["noticed"], tally["explained"]) == (3, 2, 1)
    assert (tally["labels"], tally["labels_sharp"], tally["labels_blunt"]) == (4, 1, ["eq-b", "eq-d"])
    assert tally["labels_elsewhere"] == ["eq-c"]
    assert (tally["points"], tally["points_noticed"]) == (1, 0)
    assert [entry["reason"] for entry in tally["survivors"]] == ["the same number", ""]


def test_the_source_is_changed_where_it_acts_and_nowhere_else():
    tree = ast.parse(TOY)
    before = ast.unparse(tree)
    found = [(mutant.line, mutant.function, mutant.change) for mutant in source_mutants(tree)]
    assert ast.unparse(tree) == before
    assert (8, "halves", "x <= 0 -> x < 0") in found and (10, "halves", "x / 2 -> x * 2") in found
    assert (6, "halves", "False -> True") in found and (10, "halves", "-x -> --x") in found
    assert {line for line, _, _ in found} == {6, 8, 10}  # no message, no annotation, no text
    for mutant in source_mutants(tree):
        back = apply(mutant.edits)
        assert ast.unparse(tree) != before
        apply(back)


def test_results_are_changed_part_by_part():
    found = result_mutants(ast.parse(TOY))
    assert [m.change for m in found if m.function == "halves"][:4] == [
        "result[0] * 1.01",
        "result[0] negated",
        "result[0] + 0.01",
        "result[1] * 1.01",
    ]
    used = []
    assert changed((2.0, "a", 3), "negated", None, used) == (-2.0, "a", -3) and len(used) == 2
    assert changed((2.0, 4.0), "* 1.01", 1, used) == (2.0, 4.04)
    np.testing.assert_array_equal(changed(np.array([1, 2]), "+ 0.01", None, used), [2, 3])
    assert changed("a", "negated", None, []) == "a" and changed(True, "negated", None, []) is True


@pytest.mark.parametrize(("tests", "survivors"), [(WEAK, 9), (SHARP, 0), ("def test_no():\n    assert 0\n", None)])
def test_weak_tests_leave_survivors(tests, survivors, tmp_path):
    for folder, name, text in (("toy", "__init__", ""), ("toy", "halves", TOY), ("tests", "test_halves", tests)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    if survivors is None:
        assert "RuntimeError: test_halves.py fails before anything was changed" in done.stderr
        return
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["results"] == 6  # a text cannot be scaled
    assert len(found["survivors"]) == survivors, found["survivors"]
    assert found["mutants"] - found["killed"] + found["results"] - found["results_killed"] == survivors


def test_figures_are_stored_in_one_step(tmp_path):
    path = tmp_path / "results" / "mutation.json"
    system.save(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in path.parent.iterdir()] == ["mutation.json"]
    with pytest.raises(TypeError):
        system.save(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in path.parent.iterdir()] == ["mutation.json"]
