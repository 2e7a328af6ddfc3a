"""Versions, read from ``requirements.txt`` and ``pyproject.toml``; needs nothing but Python, so that it runs before anything is installed.

``python -m trials.versions oldest`` prints the lock with lower bounds of ``pyproject.toml`` in the place of its pins;
``... lock`` finishes a fresh ``requirements-hashed.txt`` and writes the same pins without hashes to ``requirements.txt``;
``... record WHAT REPORT`` notes in ``results/versions.json`` how the tests of a JUnit report ended, and under which versions;
``... properties REPORT ...`` notes in ``results/properties.json`` how many examples the property tests of JUnit reports tried.
"""

from __future__ import annotations

import argparse
import base64
import json
import platform
import re
import sys
import tomllib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from book_tools import system

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PROMISED = ("numpy", "scipy", "torch", "matplotlib", "scikit-learn")
# Beside the oldest versions: torch pins sympy, and pyparsing 3.3 deprecates names that matplotlib 3.9 calls.
COMPANIONS = {"sympy": [], "pyparsing": ["pyparsing<3.3"]}
HEADER = (
    '# The tested set: every package of the book at an exact version, on every platform; made by "make lock".',
    "# Left out: the CUDA packages of torch on Linux, which torch names itself and the CPU build does not want.",
)
HASHED_HEADER = (
    "# The pins of requirements.txt with hashes, as the Makefile installs them (--no-deps --require-hashes, torch before).",
)


def pins() -> list[tuple[str, str]]:
    """Name and line of every package of the lock; a name may stand there for several platforms."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [(line.partition("==")[0], line) for line in lines if re.match(r"[a-z]", line)]


def pinned(package: str) -> str | None:
    """The locked version of a package, None if it is not in the lock."""
    return next((line.partition("==")[2].partition(" ")[0] for name, line in pins() if name == package), None)


def oldest() -> list[str]:
    """The lock with the lower bounds of what the unit tests promise in the place of its pins."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [
        re.match(r"([\w-]+)>=([\w.]+)", line) for line in project["dependencies"] + project["optional-dependencies"]["book"]
    ]
    lowest = {bound[1]: [f"{bound[1]}=={bound[2]}"] for bound in bounds if bound and bound[1] in PROMISED}
    other = lowest | COMPANIONS
    return [line for name, pin in pins() for line in other.get(name, [pin])]


def finish_lock() -> None:
    """Take torch's CUDA packages out of a fresh lock: torch names them itself, and the CPU build does not want them."""
    path = ROOT / "requirements-hashed.txt"
    packages = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
    kept = [package for package in packages if not re.match(r"nvidia-|triton==|cuda-|#", package)]
    system.replace(path, "\n".join([*HASHED_HEADER, *kept]) + "\n")
    plain = [package.partition("\n")[0].rstrip(" \\") for package in kept]
    system.replace(ROOT / "requirements.txt", "\n".join([*HEADER, *plain]) + "\n")


def record(what: str, report: Path) -> None:
    """Note how the tests of a report ended, in the place of what was noted for the same tests and versions."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, failed, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    entry: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "python": platform.python_version()}
    entry |= {name: version(name) for name in ("torch", "numpy", "scipy")}
    entry |= {"what": what, "passed": tests - failed - skipped, "failed": failed, "skipped": skipped}
    path = RESULTS / "versions.json"
    old = json.loads(path.read_text(encoding="utf-8"))["entries"] if path.is_file() else []
    same = ("python", "torch", "numpy", "scipy", "what")
    entries = [each for each in old if any(each[key] != entry[key] for key in same)] + [entry]
    entries.sort(
        key=lambda each: [[int(n) for n in re.findall(r"\d+", each[key])] for key in ("python", "torch")] + [each["what"]]
    )
    lines = ",\n".join(f"  {json.dumps(each)}" for each in entries)
    system.replace(path, f'{{"date": "{entry["date"]}", "entries": [\n{lines}\n]}}\n')


def properties(reports: list[Path]) -> None:
    """Note how many examples the property tests of some reports tried; nothing if a test failed."""
    roots = [ElementTree.parse(report).getroot() for report in reports]
    if any(element.tag in ("failure", "error") for root in roots for element in root.iter()):
        sys.exit("some property tests failed: nothing was noted")
    told = [base64.b64decode(each.get("value", "")).decode() for root in roots for each in root.iter("property")]
    examples = sum(int(count) for text in told for count in re.findall(r"(\d+) passing", text))
    found = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "tests": len(told), "examples": examples}
    system.replace(RESULTS / "properties.json", json.dumps(found) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trials.versions", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("oldest", "lock"):
        commands.add_parser(name)
    run = commands.add_parser("record")
    run.add_argument("what")
    run.add_argument("report", type=Path)
    commands.add_parser("properties").add_argument("reports", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "oldest":
        print(*oldest(), sep="\n")
    elif arguments.command == "lock":
        finish_lock()
    elif arguments.command == "record":
        record(arguments.what, arguments.report)
    else:
        properties(arguments.reports)


if __name__ == "__main__":
    main()
