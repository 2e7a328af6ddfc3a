"""nbval, as wrapped in ``chapters/conftest.py``: altered text and altered figures fail, faithful ones pass."""

import shutil
import subprocess
import sys

import pytest
from pictures import png

from book_tools import notebooks
from book_tools.chapter import ROOT

DRAW = "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1), dpi=40)\nplt.plot([0, 1]);"


def alter_text(stored):
    stored["cells"][0]["outputs"][0]["text"] = ["43\n"]


def alter_figure(stored):
    stored["cells"][1]["outputs"][0]["data"]["image/png"] = png(0)


def remove_figure(stored):
    del stored["cells"][1]["outputs"][0]["data"]["image/png"]


def forget_run(stored):
    stored["cells"][0] |= {"execution_count": None, "outputs": []}


def compared(folder, *sources, alter=lambda stored: None, tags=()):
    """What nbval says of a notebook that was executed, stored and then altered."""
    shutil.copy(ROOT / "chapters" / "conftest.py", folder)
    path = folder / "a.ipynb"
    code = {"cell_type": "code", "metadata": {"tags": list(tags)}, "execution_count": None, "outputs": []}
    notebooks.write(path, {"cells": [code | {"source": source} for source in sources]})
    notebooks.execute(path)
    stored = notebooks.read(path)
    alter(stored)
    notebooks.write(path, stored)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return subprocess.run(
        [*command, "--nbval", "--nbval-current-env", str(path)], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_faithful_outputs_pass(tmp_path):
    result = compared(tmp_path, "print(42)", DRAW)
    assert result.returncode == 0 and "4 passed" in result.stdout, result.stdout


@pytest.mark.parametrize("alter", [forget_run, alter_text, alter_figure, remove_figure])
def test_stored_outputs_must_be_reproduced(tmp_path, alter):
    result = compared(tmp_path, "print(42)", DRAW, alter=alter)
    assert result.returncode == 1, result.stdout


@pytest.mark.parametrize(
    "sources",
    [
        ("x = 1", "print(x)", "x = 2"),
        ("import random\nrng = random.Random(0)", "print(rng.random())"),
        ("numbers = []", "numbers.append(1)\nprint(len(numbers))"),
        ("y = 1\ndef f():\n    return y", "print(f())", "y = 2"),
    ],
)
def test_a_cell_that_another_cell_spoils_is_found(tmp_path, sources):
    result = compared(tmp_path, *sources)
    assert result.returncode == 1 and "again" in result.stdout, result.stdout
    assert compared(tmp_path, *sources, tags=["slow"]).returncode == 0
