"""``python -m benchmarks run [--only TEXT]``, ``check OLD NEW`` and ``book``."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from book_tools.system import ONE_THREAD

FOLDER = Path(__file__).resolve().parent / "results"
# One thread in every library; and no word of the profiler about itself.
ENVIRONMENT = ONE_THREAD | {"KINETO_LOG_LEVEL": "99"}


def run(only: str, seconds: float, fresh: bool, output: Path | None) -> int:
    """Measure the cases and store what came out, also of those that are slow, broken or without their peer."""
    import torch

    from benchmarks import cases, timing

    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock, clock_name = timing.cuda_clock() if device == "cuda" else timing.cpu_clock(torch.get_num_threads())
    start, chosen = time.perf_counter(), [case for case in cases.all_cases() if only in f"{case.name} {case.peer} {case.against}"]
    if not chosen:
        print(f"no case whose function or peer contains {only!r}", file=sys.stderr)
        return 2
    found: results.Results = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": timing.machine(device),
        "clock": clock_name,
        "memory": timing.fix_allocator(fresh),
        "versions": {name: cases.version(name) for name in ("python", "torch", "numpy", *sorted({c.peer for c in chosen}))},
    }
    lab = cases.Lab(device, clock, timing.limits(clock, device), seconds)
    found["limits"] = {
        "copy_bytes_per_s": {str(size): cases.round_to(speed) for size, speed in lab.limits.copy.items()},
        "product_flops_per_s": {dtype: cases.round_to(speed) for dtype, speed in lab.limits.product.items()},
    }
    found["cases"] = []
    for case in chosen:
        group: dict[str, Any] = {
            "function": case.function,
            "variant": case.variant,
            "peer": f"{case.peer} {cases.version(case.peer) or '(missing)'}",
            "against": case.against,
        }
        group |= {name: text for name, text in (("differs", case.differs), ("why", case.why)) if text}
        print(f"{case.name} / {case.against} ({group['peer']})")
        rows = []
        for size, dtype, mode in case.plan(device):
            rows.append(cases.measure(case, size, dtype, mode, lab))
            print(f"    {line(rows[-1])}", flush=True)
        found["cases"].append(group | grown(rows) | {"rows": rows})
    found["without_peer"] = cases.without_peer()
    found["machine"]["load_after"] = timing.machine(device)["load"]
    found["seconds"] = round(time.perf_counter() - start)
    path = output or FOLDER / f"{device}.json"
    results.write(path, found)
    print(summary(found), f"{found['seconds']} s; written to {os.path.relpath(path)}", sep="\n")
    return 0


def grown(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The exponents of time over size, of ours and of the peer, fitted to the forward passes; the sizes they need leave the rows."""
    from benchmarks import timing

    sizes = [row.pop("scale", None) for row in rows]
    fit = [(size, row) for size, row in zip(sizes, rows, strict=True) if "ratio" in row and row["mode"] == "forward"]
    fit = [(size, row) for size, row in fit if row["dtype"] == fit[0][1]["dtype"]]
    fitted = {}
    for name, side in (("exponent", "ours_s"), ("peer_exponent", "peer_s")):
        slope = timing.exponent([size for size, _ in fit], [row[side] for _, row in fit])
        fitted |= {} if slope is None else {name: round(slope, 2)}
    return fitted


def line(row: dict[str, Any]) -> str:
    """One measurement for the eye."""
    head = f"{row['size']:<20} {row['dtype']:<8} {row['mode']:<16}"
    if "ratio" not in row:
        return f"{head} {row['status'].upper()}: {row['reason']}"
    low, median, high = row["ratio"]
    target = ""
    if "target" in row:
        verdict = "reached" if row.get("reached") else "met" if row["met"] else "MISSED"
        target = f"  {verdict} ({', '.join(f'{name} {value}' for name, value in row['target'].items())})"
    floor, memory = (f"{row[name]:.3g}" if row[name] is not None else "-" for name in ("floor_ratio", "memory_ratio"))
    return f"{head} {median:8.3g} [{low:.3g}, {high:.3g}]  memory {memory}  {floor} x limit{target}"


def summary(found: results.Results) -> str:
    """What needs attention: targets that are missed, peers that are missing, cases that broke."""
    rows = results.rows(found)
    lines = []
    for words, chosen in (
        ("missed targets", [key for key, row in rows.items() if row.get("met") is False]),
        ("measurements without their peer", [key for key, row in rows.items() if row["status"] == "missing"]),
        ("failed measurements", [key for key, row in rows.items() if row["status"] in ("failed", "unequal")]),
    ):
        lines.append(f"{len(chosen)} of {len(rows)}: {words}")
        lines += [f"    {key[0]} / {key[1]}\n        {line(rows[key])}" for key in chosen]
    return "\n".join(lines)


def check(old: Path, new: Path) -> int:
    """Compare two result files; 1 if something became slower, 2 if a file cannot be read."""
    try:
        before, after = results.read(old), results.read(new)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if before.get("machine", {}).get("processor") != after.get("machine", {}).get("processor"):
        print("note: the two files come from different processors, whose ratios need not agree")
    for missing in results.gone(before, after):
        print(f"note: not measured any more: {missing}")
    found = results.regressions(before, after)
    print(*found, f"{len(found)} regressions", sep="\n")
    return int(bool(found))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure ratios to the peers")
    runs.add_argument("--only", default="", metavar="TEXT", help="only the cases whose function or peer contains it")
    runs.add_argument("--seconds", type=float, default=0.6, help="time for the pairs of one measurement")
    runs.add_argument("--fresh", action="store_true", help="let every large tensor be new memory, see timing.fix_allocator")
    runs.add_argument("--output", type=Path, help="result file (default: benchmarks/results/<device>.json)")
    checks = commands.add_parser("check", help="compare two result files")
    checks.add_argument("old", type=Path)
    checks.add_argument("new", type=Path)
    books = commands.add_parser("book", help="measure what building and testing the book costs")
    books.add_argument("--chapters", type=int, nargs="+", default=[5, 35, 100], help="sizes of the book, reached with copies")
    books.add_argument("--no-tests", dest="tests", action="store_false", help="only the builds")
    books.add_argument("--output", type=Path, help="result file (default: benchmarks/results/book.json)")
    given = parser.parse_args(arguments)
    for name, value in ENVIRONMENT.items():  # read when PyTorch and NumPy are imported, which they are not yet
        os.environ.setdefault(name, value)
    try:
        if given.command == "run":
            return run(given.only, given.seconds, given.fresh, given.output)
        if given.command == "check":
            return check(given.old, given.new)
        from benchmarks import book

        path = given.output or FOLDER / "book.json"
        results.write(path, book.measure(given.chapters, given.tests))
        print(f"written to {os.path.relpath(path)}")
        return 0
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
