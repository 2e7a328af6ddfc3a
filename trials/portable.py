"""The chapters once more where the arithmetic differs: each cell executed under ``VARIANTS`` and compared character by character."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from book_tools import state
from book_tools.chapter import ROOT, Chapter
from book_tools.system import ONE_THREAD
from trials import digits

KIND = "portable"
VARIANTS: dict[str, dict[str, str]] = {
    "plain instructions": {"ATEN_CPU_CAPABILITY": "default"},
    "two threads, other kernels": digits.VARIANTS["two threads"],
}
NBVAL = ("--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-p", "no:xdist")


def run(names: Sequence[str] = (), everything: bool = False, jobs: int = 2) -> int:
    """Execute the chapters whose code or outputs have changed under every variant; 1 if a cell prints something else."""
    chosen = state.changed(KIND, names, everything)
    of = {name: state.digest(KIND, name) for name in chosen}
    failed = False
    with ThreadPoolExecutor(jobs) as pool:
        for name, found in zip(chosen, pool.map(executed, chosen), strict=True):
            failed |= found["failed"] > 0
            state.save(KIND, name, found, of[name])
    return int(failed)


def executed(name: str) -> dict[str, Any]:
    """How many cells of a chapter print what is stored, under each variant, and how many do not."""
    ends = {variant: _compared(name, variant) for variant in VARIANTS}
    return {"variants": ends, "failed": sum(end["failed"] for end in ends.values())}


def _compared(name: str, variant: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "cells.xml"
        command = [sys.executable, "-m", "pytest", str(Chapter.path_of(name)), *NBVAL, "--junitxml", str(report)]
        environment = os.environ | ONE_THREAD | VARIANTS[variant]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False)
        if done.returncode not in (0, 1) or not report.is_file():
            raise ChildProcessError(f"{name} was not executed:\n{_last(done.stdout + done.stderr)}")
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    cells, failed = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys) for keys in (("tests",), ("failures", "errors"))
    )
    said = f"{name}, {variant}: {cells - failed} cells print what is stored"
    print(said if not failed else f"{said}, {failed} DO NOT\n{_last(done.stdout)}", flush=True)
    return {"cells": cells, "failed": failed}


def _last(text: str, lines: int = 60) -> str:
    return "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[-lines:])
