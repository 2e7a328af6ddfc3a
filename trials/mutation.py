"""``make mutate``: does the book notice when it is wrong? Wrong right-hand sides against its checks, wrong code against its tests."""

from __future__ import annotations

import ast
import os
import platform
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

from book_tools import system
from book_tools.chapter import ROOT, Chapter, contents
from trials import forks
from trials.equations import MISSED, NOTICED, Trial, chapter_trials
from trials.forks import IDLE, SURVIVED, Target
from trials.mutants import Mutant, result_mutants, source_mutants

RESULTS = ROOT / "results" / "mutation.json"
SAMPLE = 400  # source mutants of one module; of a longer list a fixed sample is run
HELPERS = {"kexue._check": "test_check.py", "kexue.attention._mask": "attention/test_position_encodings.py"}

Json = dict[str, Any]


def equations(names: list[str] | None = None, jobs: int = 2) -> Json:
    """Try every executed check of the chapters with wrong right-hand sides."""
    names = names or contents()
    found: dict[str, list[Trial]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for name, trials in zip(names, pool.map(_afresh, names), strict=True):
            found[name] = trials
            print(f"{name}: {_share(trials)}", flush=True)
    return _tally(found, {name: Chapter.load(name).labels for name in names})


def _afresh(name: str) -> list[Trial]:
    """The trials of a chapter, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(chapter_trials, name).result()


def functions(targets: list[Target] | None = None, jobs: int = 2, sample: int = SAMPLE) -> Json:
    """Run the mutants of each module against its own tests."""
    report: Json = {}
    for target in targets or _targets():
        begun = time.perf_counter()
        report[target.module] = _mutate(target, jobs, sample)
        line = "{killed} of {mutants} source mutants and {results_killed} of {results} changed results noticed"
        print(f"\r{target.module}: {line.format(**report[target.module])}, {time.perf_counter() - begun:.0f} s", flush=True)
    return report


def run(jobs: int) -> int:
    """Both, with the figures stored in ``results/mutation.json``; survivors are a finding and no failure."""
    if not hasattr(os, "fork"):
        print("the mutation test forks and so needs Linux or macOS", file=sys.stderr)
        return 1
    for name, value in (system.ONE_THREAD | {"PYTHONHASHSEED": "0"}).items():
        os.environ.setdefault(name, value)
    os.environ["MPLBACKEND"] = "agg"
    begun = time.perf_counter()
    try:
        report = {"equations": equations(jobs=jobs), "functions": functions(jobs=jobs)}
    except RuntimeError as error:
        print(f"nothing was stored: {error}", file=sys.stderr)
        return 1
    stamp = {"date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(), "torch": version("torch")}
    system.save(RESULTS, stamp | {"minutes": round((time.perf_counter() - begun) / 60, 1)} | report)
    print(summary(report))
    return 0


def summary(report: Json) -> str:
    """The figures in two or three lines."""
    equation, modules = report["equations"], report["functions"].values()
    killed, ran = (sum(module[key] for module in modules) for key in ("killed", "mutants"))
    results_killed, results = (sum(module[key] for module in modules) for key in ("results_killed", "results"))
    return (
        f"equations: {equation['noticed']} of {equation['mutants']} wrong right-hand sides noticed in {equation['calls']} checks; "
        f"{equation['labels_sharp']} of {equation['labels']} labels notice every kind\n"
        f"code: {killed} of {ran} source mutants ({killed / max(ran, 1):.0%}) and {results_killed} of {results} changed results noticed\n"
        f"the survivors stand in {RESULTS.relative_to(ROOT)}"
    )


def _share(trials: list[Trial]) -> str:
    real = [trial for trial in trials if trial.outcome in (NOTICED, MISSED)]
    return f"{sum(trial.outcome == NOTICED for trial in real)} of {len(real)} wrong right-hand sides noticed"


def _tally(found: dict[str, list[Trial]], labels: dict[str, list[str]]) -> Json:
    """The counts, and what no check noticed: call by call, and label by label where every call of the label missed it."""
    every = [(chapter, trial) for chapter, trials in found.items() for trial in trials]
    real = [(chapter, trial) for chapter, trial in every if trial.outcome in (NOTICED, MISSED)]
    kinds = {(chapter, trial.label, trial.mutant) for chapter, trial in real}
    seen = {(chapter, trial.label, trial.mutant) for chapter, trial in real if trial.outcome == NOTICED}
    tried = {(chapter, label) for chapter, label, _ in kinds}
    blunt = {(chapter, label) for chapter, label, _ in kinds - seen}
    blunt |= {(chapter, label) for chapter, listed in labels.items() for label in listed} - tried
    return {
        "labels": sum(map(len, labels.values())),
        "labels_sharp": sum(map(len, labels.values())) - len(blunt),
        "calls": len({(chapter, trial.label, trial.call) for chapter, trial in every}),
        "mutants": len(real),
        "noticed": sum(trial.outcome == NOTICED for _, trial in real),
        "not_applicable": [{"chapter": c, **t._asdict()} for c, t in every if t.outcome not in (NOTICED, MISSED)],
        "labels_blunt": [{"chapter": chapter, "label": label} for chapter, label in sorted(blunt)],
        "survivors": [{"chapter": c, **t._asdict()} for c, t in real if t.outcome == MISSED],
    }


def _targets() -> list[Target]:
    tests = {f"kexue.{name.replace('/', '.')}": f"{name.replace('/', '/test_')}.py" for name in contents()} | HELPERS
    return [Target(m, ROOT.joinpath(*m.split(".")).with_suffix(".py"), ROOT / "tests" / file, ROOT) for m, file in tests.items()]


def _mutate(target: Target, jobs: int, sample: int) -> Json:
    lines = target.source.read_text(encoding="utf-8").splitlines()
    tree = ast.parse("\n".join(lines))
    exist, results = source_mutants(tree), result_mutants(tree)
    chosen = exist if len(exist) <= sample else random.Random(target.module).sample(exist, sample)
    found = [*sorted(chosen, key=exist.index), *results]
    seen = forks.survey(target)
    limit = 20 + 5 * forks.seconds_unchanged(target)
    ends = forks.outcomes(target, tree, found, seen, limit, jobs, lambda done: _progress(target.module, done, len(found)))
    source, result = ends[: len(chosen)], [end for end in ends[len(chosen) :] if end != IDLE]
    return {
        "exist": len(exist),
        "mutants": len(source),
        "killed": len(source) - source.count(SURVIVED),
        "results": len(result),
        "results_killed": len(result) - result.count(SURVIVED),
        "survivors": [_place(target, mutant, lines) for mutant, end in zip(found, ends, strict=True) if end == SURVIVED],
    }


def _place(target: Target, mutant: Mutant, lines: list[str]) -> Json:
    where = f"{target.source.relative_to(target.root).as_posix()}:{mutant.line}"
    return {"where": where, "function": mutant.function, "mutation": mutant.change, "line": lines[mutant.line - 1].strip()}


def _progress(module: str, done: int, whole: int) -> None:
    if sys.stdout.isatty():
        print(f"\r{module}: {done}/{whole}", end="", flush=True)
