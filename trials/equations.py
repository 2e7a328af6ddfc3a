"""Every executed check of a chapter, tried again with a wrong right-hand side: which checks notice?"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from book_tools import notebooks
from book_tools.chapter import Chapter
from kexue import lab
from kexue.lab import verification

RELATIVE = 1e-2  # the change of a right-hand side that every check is to notice
MARGIN = 1.5  # a check that declares a sensitivity is tried with this much more than it promises to notice
NOTICED, MISSED = "noticed", "missed"

Changes = Iterator[tuple[str, dict[str, Any] | str]]


class Trial(NamedTuple):
    """One wrong right-hand side: noticed, missed, or why there is nothing to notice."""

    label: str
    call: int
    form: str
    mutant: str
    outcome: str


def chapter_trials(name: str) -> list[Trial]:
    """Execute a chapter once, in this process, and try each of its checks with wrong right-hand sides."""
    os.chdir(Chapter.path_of(name).parent)
    trials: list[Trial] = []
    with watched(trials), contextlib.redirect_stdout(io.StringIO()):
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for number, cell in enumerate(notebooks.code_cells(Chapter.load(name).notebook), 1):
            try:
                exec(compile(notebooks.source(cell), f"{name}, cell {number}", "exec"), namespace)  # noqa: S102
            except Exception as error:
                raise RuntimeError(f"{name}, cell {number}: {type(error).__name__}: {error}") from None
            if "matplotlib.pyplot" in sys.modules:
                sys.modules["matplotlib.pyplot"].close("all")
    return trials


@contextlib.contextmanager
def watched(trials: list[Trial]) -> Iterator[None]:
    """``kexue.lab`` with forms of ``verify`` that also try wrong right-hand sides."""
    genuine = {form: getattr(lab, form) for form in MUTANTS}
    for form, check in genuine.items():
        setattr(lab, form, _trying(form, check, trials))
    try:
        yield
    finally:
        for form, check in genuine.items():
            setattr(lab, form, check)


def _trying(form: str, genuine: Callable[..., None], trials: list[Trial]) -> Callable[..., None]:
    def check(*args: Any, **kwargs: Any) -> None:
        genuine(*args, **kwargs)
        bound = inspect.signature(genuine).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        call = 1 + len({trial.call for trial in trials if trial.label == given["label"]})
        kept = list(verification._records)
        for mutant, change in MUTANTS[form](given):
            outcome = change if isinstance(change, str) else _outcome(genuine, given | change)
            trials.append(Trial(given["label"], call, form, mutant, outcome))
        verification._records[:] = kept

    return check


def _outcome(genuine: Callable[..., None], given: dict[str, Any]) -> str:
    """What a check says of wrong arguments; its own guard against loose tolerances is no answer, so it is opened wide."""
    if "sensitivity" in given:
        given |= {"sensitivity": 1.0 if "lower" in given else 0.5, "reason": "a trial"}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            genuine(**given)
    except verification.VerificationError:
        return NOTICED
    return MISSED


def _step(given: dict[str, Any]) -> float:
    declared = float(given["sensitivity"])
    return RELATIVE if declared <= verification.SHARP else max(RELATIVE, MARGIN * declared)


def _equality(given: dict[str, Any]) -> Changes:
    right = _numbers(given, "rhs", "lhs")
    finite = np.abs(right[np.isfinite(right)])
    if finite.size and finite.max() > given["atol"]:
        yield from _scaled("rhs", right, _step(given), np.abs(right))
    elif finite.size:
        yield from _shifted("rhs", right, _step(given) * (given["scale"] or 1.0))
    else:
        yield "sign", {"rhs": -right}


def _statistic(given: dict[str, Any]) -> Changes:
    right = _numbers(given, "expected", "estimate")
    if right.any():
        error = _numbers(given, "standard_error", "expected")
        with np.errstate(divide="ignore"):
            yield from _scaled("expected", right, _step(given), np.abs(right) / error)
    else:
        yield from _shifted("expected", right, _step(given) * given["scale"])


def _bound(given: dict[str, Any]) -> Changes:
    for side, other, sign in (("lower", "upper", 1.0), ("upper", "lower", -1.0)):
        if given[side] is None:
            continue
        bound, value = _numbers(given, side, "value"), _numbers(given, "value", side)
        size = np.maximum(np.abs(bound), np.abs(value))
        typical = float(np.median(size[np.isfinite(size)]))
        size = np.where(bound == 0, typical, size)  # zero has no size of its own
        yield f"{side} moved", {side: bound + sign * _step(given) * size}
        yield f"{side} taken as {other}", {side: None, other: bound}
        tighter = bool((sign * bound < 0).any())
        yield f"{side} sign", {side: -bound} if tighter else "the bound becomes weaker and holds too"


def _order(given: dict[str, Any]) -> Changes:
    for name, sign in (("up", 1), ("down", -1)):
        yield name, {"order": given["order"] + sign * MARGIN * given["atol"]}
    yield "sign", {"order": -given["order"]}


MUTANTS: dict[str, Callable[[dict[str, Any]], Changes]] = {
    "verify": _equality,
    "verify_bound": _bound,
    "verify_statistic": _statistic,
    "verify_order": _order,
}


def _scaled(name: str, right: Any, step: float, weight: Any) -> Changes:
    yield "up", {name: right * (1 + step)}
    yield "down", {name: right * (1 - step)}
    yield "sign", {name: -right}
    if right.size > 1:  # of nine in ten entries that must be sharp, the one that is hardest to notice
        counted = np.isfinite(weight) & (weight > 0)
        sharp = counted & (weight >= np.quantile(weight[counted], verification.SMALL))
        place = np.unravel_index(int(np.argmin(np.where(sharp, weight, np.inf))), right.shape)
        single = right.astype(np.result_type(right, np.float64))
        single[place] *= 1 + step
        yield "one entry up", {name: single}


def _shifted(name: str, right: Any, step: float) -> Changes:
    yield "up", {name: right + step}
    yield "down", {name: right - step}
    yield "sign", "zero has no sign"


def _numbers(given: dict[str, Any], name: str, like: str) -> Any:
    """The numbers of an argument, in the common shape of both sides, free to be changed."""
    array = verification._array(given["label"], given[name])
    other = verification._array(given["label"], given[like])
    return np.array(np.broadcast_to(array, np.broadcast_shapes(array.shape, other.shape)))
