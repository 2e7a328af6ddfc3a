"""Result files: written whole or not at all, one case per line; and what became worse between two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from book_tools import system

Results = dict[str, Any]

KIND = {"cpu": "bench", "cuda": "bench-cuda"}  # the folder of results/ for each device
WORSE = 1.10  # a ratio that grows by less is no regression, however quiet the machine


def dumps(results: Mapping[str, Any]) -> str:
    """JSON in which each case is followed by its measurements, one per line, so that a difference can be read."""
    entries = []
    for name, value in results.items():
        if name == "cases":
            value = ",\n".join(_group(case) for case in value)
            entries.append(f' "cases": [\n{value}\n ]')
        else:
            entries.append(f' "{name}": {_plain(value)}')
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _group(case: Mapping[str, Any]) -> str:
    rows = ",\n".join(f"   {json.dumps(row, allow_nan=False, separators=(',', ':'))}" for row in case["rows"])
    return f'  {_plain({k: v for k, v in case.items() if k != "rows"})[:-1]}, "rows": [\n{rows}]}}'


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Replace a result file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    system.replace(path, dumps(results))


def read(path: Path) -> Results:
    """The results of a file, or of all files of a folder; ValueError with a sentence where one holds none."""
    if path.is_dir():
        files = [read(file) for file in sorted(path.rglob("*.json"))]
        return {**files[0], "cases": [case for file in files for case in file["cases"]]} if files else {"cases": []}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        rows(results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: neither JSON nor text
        raise ValueError(f"{path} is no result file of the benchmarks: {type(error).__name__}: {error}") from None
    return dict(results)


def rows(results: Results) -> dict[tuple[str, ...], dict[str, Any]]:
    """Every measurement under what makes it the same one in another file; the version of the peer may differ."""
    found = {}
    for case in results["cases"]:
        peer, _, version = case["peer"].partition(" ")
        for row in case["rows"]:
            name = f"{case['function']} {case['variant']}".strip()
            key = name, f"{case['against']} ({peer})", row["size"], f"{row['dtype']} {row['mode']}"
            found[key] = {"status": "ok", **row, "version": version}
    return found


def regressions(old: Results, new: Results) -> list[str]:
    """The measurements whose ratio is worse by more than the noise, or that gave a ratio and give none now.

    Worse: the quartiles do not overlap, and the median grew by more than a tenth. A peer that is missing now is no regression.
    """
    before, found = rows(old), []
    for key, row in rows(new).items():
        past = before.get(key)
        if past is None or past["status"] != "ok" or row["status"] == "missing":
            continue
        if row["status"] != "ok":
            found.append(f"{', '.join(key)}: {row['status']}: {row['reason']}")
            continue
        (_, median, high), (low, now, _) = past["ratio"], row["ratio"]
        if low > high and now > WORSE * median:
            found.append(f"{', '.join(key)}: {median:.3g} -> {now:.3g} times the peer ({now / median - 1:+.0%})")
    return found


def gone(old: Results, new: Results) -> list[str]:
    """The measurements of the old file that the new one lacks."""
    now = {key for key, row in rows(new).items() if row["status"] != "missing"}
    return [", ".join(key) for key, row in rows(old).items() if row["status"] == "ok" and key not in now]
