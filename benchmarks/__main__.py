"""The commands: ``python -m benchmarks run [part/slug ...]``, ``check OLD NEW`` and ``book``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from book_tools import state
from book_tools.system import ONE_THREAD

# One thread in every library; and no word of the profiler about itself.
ENVIRONMENT = ONE_THREAD | {"KINETO_LOG_LEVEL": "99"}


def run(posts: Sequence[str], everything: bool, only: str, seconds: float, fresh: bool) -> int:
    """Measure the posts that have changed and store what came out, also of cases that are slow, broken or without their peer.

    With ``only`` some cases are measured and nothing is stored.
    """
    import torch

    from benchmarks import cases, timing

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = results.KIND[device]
    chosen = list(posts) or (
        cases.posts() if only else [post for post in state.changed(kind, (), everything) if post in cases.posts()]
    )
    picked = {post: [c for c in cases.all_cases([post]) if only in f"{c.name} {c.peer} {c.against}"] for post in chosen}
    picked = {post: some for post, some in picked.items() if some}
    if not picked:
        print(
            f"no case whose function or peer contains {only!r}" if only else "nothing to measure",
            file=sys.stderr if only else None,
        )
        return 2 if only else 0
    clock, clock_name = timing.cuda_clock() if device == "cuda" else timing.cpu_clock(torch.get_num_threads())
    memory = timing.fix_allocator(fresh)
    lab = cases.Lab(device, clock, timing.limits(clock, device), seconds)
    limits = {
        "copy_bytes_per_s": {str(size): cases.round_to(speed) for size, speed in lab.limits.copy.items()},
        "product_flops_per_s": {dtype: cases.round_to(speed) for dtype, speed in lab.limits.product.items()},
    }
    for post, some in picked.items():
        start, of = time.perf_counter(), state.digest(kind, post)
        found: results.Results = state.stamp(of) | {
            "machine": timing.machine(device),
            "clock": clock_name,
            "memory": memory,
            "versions": {name: cases.version(name) for name in ("python", "torch", "numpy", *sorted({c.peer for c in some}))},
            "limits": limits,
            "cases": [measured(case, lab) for case in some],
            "without_peer": cases.without_peer([post]),
        }
        found["machine"]["load_after"] = timing.machine(device)["load"]
        found["seconds"] = round(time.perf_counter() - start)
        if not only:
            results.write(state.place(kind, post), found)
        stored = "" if only else f"; stored in {os.path.relpath(state.place(kind, post))}"
        print(summary(found), f"{post}: {found['seconds']} s{stored}", sep="\n")
    return 0


def measured(case: Any, lab: Any) -> dict[str, Any]:
    """One case at all its sizes, told as it goes."""
    from benchmarks import cases

    group: dict[str, Any] = {
        "function": case.function,
        "variant": case.variant,
        "peer": f"{case.peer} {cases.version(case.peer) or '(missing)'}",
        "against": case.against,
    }
    group |= {name: text for name, text in (("differs", case.differs), ("why", case.why)) if text}
    print(f"{case.name} / {case.against} ({group['peer']})")
    rows = []
    for size, dtype, mode in case.plan(lab.device):
        rows.append(cases.measure(case, size, dtype, mode, lab))
        print(f"    {line(rows[-1])}", flush=True)
    return group | grown(rows) | {"rows": rows}


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
    """Compare two result files, or two folders of them; 1 if something became slower, 2 if a file cannot be read."""
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
    runs.add_argument("posts", nargs="*", metavar="part/slug", help="these posts, changed or not")
    runs.add_argument("--all", action="store_true", dest="everything", help="all posts, changed or not")
    runs.add_argument(
        "--only", default="", metavar="TEXT", help="only the cases whose function or peer contains it; stores nothing"
    )
    runs.add_argument("--seconds", type=float, default=0.6, help="time for the pairs of one measurement")
    runs.add_argument("--fresh", action="store_true", help="let every large tensor be new memory, see timing.fix_allocator")
    checks = commands.add_parser("check", help="compare two result files")
    checks.add_argument("old", type=Path)
    checks.add_argument("new", type=Path)
    books = commands.add_parser("book", help="measure what building and testing the book costs")
    books.add_argument("--chapters", type=int, nargs="+", default=[5, 35], help="sizes of the book, reached with copies")
    books.add_argument("--no-tests", dest="tests", action="store_false", help="only the builds")
    books.add_argument("--output", type=Path, help="result file (default: results/book.json)")
    given = parser.parse_args(arguments)
    for name, value in ENVIRONMENT.items():  # read when PyTorch and NumPy are imported, which they are not yet
        os.environ.setdefault(name, value)
    try:
        if given.command == "run":
            return run(given.posts, given.everything, given.only, given.seconds, given.fresh)
        if given.command == "check":
            return check(given.old, given.new)
        from benchmarks import book

        path = given.output or state.RESULTS / "book.json"
        results.write(path, book.measure(given.chapters, given.tests))
        print(f"written to {os.path.relpath(path)}")
        return 0
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
