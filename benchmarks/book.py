"""What the book itself costs at 5 and at 35 chapters (copies with names of their own): builds, the page of an edited chapter, a chapter
proved alone, the printed book, and the tests with their overhead.

Everything happens in a temporary copy of the working tree. Times are wall time and CPU time of all processes together.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from pypdf import PdfReader

from benchmarks import cases, timing
from book_tools import browser, notebooks
from book_tools.chapter import LABEL
from book_tools.system import snapshot

BUILD = [sys.executable, "-m", "book_tools", "build"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
NBVAL = ["--nbval", "--nbval-current-env", "--dist", "loadfile"]
NAMED = re.compile(r"^:(?:label|name): *(\S+)|^\((\S+)\)=", re.MULTILINE)
# What must be kept, at the largest size that is measured; of the tests, at the smallest.
GOALS = {
    "build_s": 90.0,
    "unchanged_s": 5.0,
    "page_s": 10.0,
    "check_beyond_execution_s": 60.0,
    "print_s": 600.0,
    "print_gb": 6.0,
    "print_mb": 60.0,
    "overhead_of_chapters": 0.35,
    "overhead_of_unit_tests": 0.35,
}


def measure(sizes: Sequence[int], tests: bool) -> dict[str, Any]:
    """Builds at every size, growth per chapter, tests and their overhead, and which goals are met."""
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": timing.machine("cpu"),
        "versions": {name: cases.version(name) for name in ("python", "jupyter-book", "Sphinx", "nbval", "torch")},
        "builds": {},
    }
    with tempfile.TemporaryDirectory(prefix="kexue-book-") as place:
        for size in sizes:
            tree = Path(place) / f"book{size}"
            snapshot(tree)
            names = grow(tree, size)
            found["builds"][str(len(names))] = builds(tree, names[-1])
            if size == max(sizes):
                found["printed"] = printed(tree)
                found["checked"] = checked(tree, names[0])
            if tests and size == sizes[0]:
                found["tests"] = tested(tree, names)
            shutil.rmtree(tree)
    found["machine"]["load_after"] = timing.machine("cpu")["load"]
    found["growth"] = growth(found["builds"])
    return found | {"goals": goals(found)}


def spent(command: Sequence[str], tree: Path, codes: Sequence[int] = (0,)) -> dict[str, Any]:
    """Wall and CPU seconds of a command in ``tree``; its last lines, if it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"  {wall:7.1f} s wall, {cpu:7.1f} s CPU: {' '.join(Path(part).name for part in command)}", flush=True)
    found: dict[str, Any] = {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}
    if done.returncode not in codes:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).replace(str(tree), ".").strip().splitlines()
        found["failed"] = " | ".join(lines[-3:])[-400:]
        print(f"  FAILED: {found['failed']}", flush=True)
    return found


def grow(tree: Path, size: int) -> list[str]:
    """Copy chapters with their modules until the book has ``size``; all their names."""
    toc = yaml.safe_load((tree / "_toc.yml").read_text(encoding="utf-8"))
    originals = [(part, entry["file"].removeprefix("chapters/")) for part in toc["parts"] for entry in part["chapters"]]
    originals = [(part, name) for part, name in originals if (tree / "chapters" / f"{name}.ipynb").is_file()]
    names = [name for _, name in originals]
    while len(names) < size:
        round_, which = divmod(len(names), len(originals))
        part, name = originals[which]
        copied = f"{name}_{round_}"
        module = (tree / "kexue" / f"{name}.py").read_text(encoding="utf-8").replace('"kexue::', f'"kexue{round_}::')
        (tree / "kexue" / f"{copied}.py").write_text(module, encoding="utf-8")
        calls = (tree / "tests" / f"{name.replace('/', '/calls_')}.py").read_text(encoding="utf-8")
        calls = under_number(calls, name, round_)  # the sweep asks each module for its valid calls
        (tree / "tests" / f"{copied.replace('/', '/calls_')}.py").write_text(calls, encoding="utf-8")
        text = (tree / "chapters" / f"{name}.ipynb").read_text(encoding="utf-8")
        (tree / "chapters" / f"{copied}.ipynb").write_text(renamed(text, name, round_), encoding="utf-8")
        part["chapters"].append({"file": f"chapters/{copied}"})
        names.append(copied)
    (tree / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    form = tree / "book_tools" / "form.py"  # the longer labels of copies are not to make a chapter too heavy
    form.write_text(re.sub(r"(?m)^HEAVIEST = \S+", "HEAVIEST = 500_000", form.read_text(encoding="utf-8")), encoding="utf-8")
    return names


def under_number(text: str, name: str, number: int) -> str:
    """The module of a chapter with the number of its copy, wherever a text names it."""
    module = f"kexue.{name.replace('/', '.')}"
    return re.sub(rf"{re.escape(module)}(?!\w)", f"{module}_{number}", text)


def renamed(text: str, name: str, number: int) -> str:
    """A chapter under another name: its module and all labels get the number, in cells and outputs alike."""
    cells = json.loads(text)["cells"]
    sources = "\n".join(notebooks.source(cell) for cell in cells if cell["cell_type"] == "markdown")
    labels = {label for match in LABEL.findall(sources) for label in match if label}
    labels |= {label for match in NAMED.findall(sources) for label in match if label}
    labels |= {cell["metadata"].get("mystnb", {}).get("figure", {}).get("name", "") for cell in cells} - {""}
    text = under_number(text, name, number)
    if labels:
        alternatives = "|".join(re.escape(label) for label in labels)
        text = re.sub(rf"(?<![\w-])({alternatives})(?![\w-])", rf"\1-{number}", text)
    return notebooks.dumps(json.loads(text))


def builds(tree: Path, edited: str) -> dict[str, Any]:
    """A first build, one with nothing to do, the page of a chapter to which a sentence was added, and the whole book after that."""
    print(f"builds of {len(list((tree / 'chapters').rglob('*.ipynb')))} chapters")
    found = {"cold": spent(BUILD, tree), "unchanged": spent(BUILD, tree)}
    path = tree / "chapters" / f"{edited}.ipynb"
    notebook = notebooks.read(path)
    cell = next(cell for cell in notebook["cells"][1:] if cell["cell_type"] == "markdown")
    cell["source"] = [*cell["source"], "\n\nOne sentence more."]
    notebooks.write(path, notebook)
    return found | {"page": spent([*BUILD, edited], tree), "edited": spent(BUILD, tree)}


def printed(tree: Path) -> dict[str, Any]:
    """The whole book printed: seconds, the memory of all processes at its highest, megabytes and pages of the file."""
    if browser.find() is None:
        print(f"not printed: {browser.MISSING}")
        return {}
    with Memory() as memory:
        found = spent([sys.executable, "-m", "book_tools", "pdf"], tree)
    path = tree / "_build" / "kexue.pdf"
    if "failed" not in found:
        found |= {"mb": round(path.stat().st_size / 1e6, 1), "pages": len(PdfReader(path).pages)}
    return found | {"gb": round(memory.highest / 1e9, 1)}


class Memory(threading.Thread):
    """The memory of this process's descendants together, at its highest, for the length of a ``with`` block."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.done = 0, threading.Event()

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()

    def run(self) -> None:
        while not self.done.wait(0.5):
            now = 0
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    full = child.memory_full_info()
                    now += getattr(full, "pss", full.rss)  # what is shared counts once
            self.highest = max(self.highest, now)


def checked(tree: Path, name: str) -> dict[str, Any]:
    """One chapter proved alone, and its execution."""
    return {
        "execution": spent([sys.executable, "-m", "book_tools", "execute", name], tree),
        "check": spent([sys.executable, "-m", "book_tools", "check", name], tree),
    }


def tested(tree: Path, names: Sequence[str]) -> dict[str, Any]:
    """Unit tests and chapters, and the share that goes into starting: collection without a test, chapters with nothing but imports."""
    print("tests")
    found = {
        "unit_tests": spent([*PYTEST, "tests"], tree),
        "unit_tests_collected": spent([*PYTEST, "tests", "-k", "no_test_has_this_name"], tree, codes=(5,)),
        "chapters": spent([*PYTEST, "chapters", *NBVAL], tree),
    }
    for name in names:
        path = tree / "chapters" / f"{name}.ipynb"
        notebook = notebooks.read(path)
        notebooks.write(path, notebook | {"cells": notebooks.code_cells(notebook)[:1]})
    return found | {"chapters_only_imports": spent([*PYTEST, "chapters", *NBVAL], tree)}


def growth(built: dict[str, Any]) -> dict[str, float]:
    """Seconds that one chapter more adds to each kind of build, from the smallest to the largest book."""
    few, many = min(built, key=int), max(built, key=int)
    if few == many:
        return {}
    return {
        f"{kind}_{unit}": round((built[many][kind][unit] - built[few][kind][unit]) / (int(many) - int(few)), 3)
        for kind in ("cold", "unchanged", "page", "edited")
        for unit in ("wall_s", "cpu_s")
    }


def goals(found: dict[str, Any]) -> dict[str, Any]:
    """The goals that could be measured: the value, the bound, and whether it is kept. What failed keeps no goal."""
    built = found["builds"][max(found["builds"], key=int)]
    values: dict[str, float] = {}
    for name, kind in (("build_s", "cold"), ("unchanged_s", "unchanged"), ("page_s", "page")):
        values[name] = (
            math.inf if "failed" in built[kind] else built[kind]["cpu_s"]
        )  # one process: its wall time on an idle machine
    if found.get("checked"):
        seconds = {kind: row["wall_s"] for kind, row in found["checked"].items()}
        failed = any("failed" in row for row in found["checked"].values())
        values["check_beyond_execution_s"] = math.inf if failed else round(seconds["check"] - seconds["execution"], 1)
    if found.get("printed"):
        row = found["printed"]
        values |= {f"print_{unit}": row.get(key, math.inf) for unit, key in (("s", "wall_s"), ("gb", "gb"), ("mb", "mb"))}
    if "tests" in found:
        spent_cpu = {kind: row["cpu_s"] for kind, row in found["tests"].items()}
        values["overhead_of_chapters"] = round(spent_cpu["chapters_only_imports"] / spent_cpu["chapters"], 3)
        values["overhead_of_unit_tests"] = round(spent_cpu["unit_tests_collected"] / spent_cpu["unit_tests"], 3)
    judged = {
        name: {"value": value if math.isfinite(value) else None, "must": GOALS[name], "met": value <= GOALS[name]}
        for name, value in values.items()
    }
    for name, goal in judged.items():
        print(f"{name}: {goal['value']} ({'met' if goal['met'] else 'MISSED'}, must {goal['must']})")
    return judged
