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


@pytest.mark.parametrize("alter", [None, forget_run, alter_text, alter_figure, remove_figure])
def test_stored_outputs_must_be_reproduced(tmp_path, alter):
    shutil.copy(ROOT / "chapters" / "conftest.py", tmp_path)
    path = tmp_path / "a.ipynb"
    code = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    notebooks.write(path, {"cells": [code | {"source": "print(42)"}, code | {"source": DRAW}]})
    notebooks.execute(path)
    if alter is not None:
        stored = notebooks.read(path)
        alter(stored)
        notebooks.write(path, stored)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    result = subprocess.run(
        [*command, "--nbval", "--nbval-current-env", str(path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == (0 if alter is None else 1), result.stdout
