"""The form of every chapter, and its spelling. A failure names the chapter, the cell or label, and the remedy."""

import re
import subprocess
import sys

import pytest

from book_tools.chapter import ROOT, Chapter, contents
from book_tools.form import faults


def test_every_chapter_carries_what_it_must():
    assert not faults(), "\n" + "\n".join(faults())


@pytest.mark.parametrize("name", contents())
def test_prose_is_spelt_correctly(name):
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", Chapter.load(name).markdown, flags=re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "-"], input=prose, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, f"{name}: {result.stdout}"
