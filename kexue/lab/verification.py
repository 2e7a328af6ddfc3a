"""``verify``: the one way in which a chapter executes a labelled equation.

Every form compares two sides that were computed independently, raises :class:`VerificationError` when they disagree, and otherwise prints
one line that is the same on every machine (label, what was checked, oracle) and never the error that happened to occur. Each form also
refuses checks that could not fail: NaN, empty arrays, shapes that only broadcasting would reconcile, the same array on both sides, and
tolerances that would let a relative change of ``sensitivity`` (1e-3 unless the call says otherwise and why) pass unnoticed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["verify", "verify_bound", "verify_statistic", "verify_order", "records", "Record", "VerificationError"]

Array = NDArray[Any]


class VerificationError(AssertionError):
    """An equation does not hold, or its check could not have failed."""


class Record(NamedTuple):
    """One executed equation: label, what was checked, kind of oracle."""

    label: str
    check: str
    oracle: str


_records: list[Record] = []


def records() -> tuple[Record, ...]:
    """What has been verified in this process, in order."""
    return tuple(_records)


def verify(
    label: str,
    lhs: Any,
    rhs: Any,
    *,
    atol: float,
    rtol: float = 0.0,
    oracle: str = "",
    scale: float | None = None,
    sensitivity: float = 1e-3,
    reason: str = "",
) -> None:
    """Both sides of the equation ``label`` are equal: ``|lhs - rhs| <= atol + rtol * |rhs|`` in every entry.

    Args:
        label: the label of the equation in the text, ``eq-...``.
        lhs, rhs: numbers, arrays or tensors of one shape (a plain number fits every shape); infinities must match exactly.
        atol, rtol: absolute and relative tolerance.
        oracle: where the second side comes from, in two or three words ("brute force", "quadrature", "autograd", "another library").
        scale: size of the quantities that cancel where ``rhs`` is zero throughout; the tolerance is judged against it.
        sensitivity: a relative change of ``rhs`` that the check is sure to notice; more than 1e-3 needs a ``reason``.
        reason: why the check cannot be sharper.
    Raises:
        VerificationError: the sides differ (the message gives the largest deviation, its index and both values), or the check could
            not have failed.
    """
    left, right = _pair(label, lhs, rhs)
    _require(label, atol >= 0 and rtol >= 0 and math.isfinite(atol + rtol), "tolerances must be finite and not negative")
    _declared(label, sensitivity, reason)
    finite = right[np.isfinite(right)]
    sizes = np.abs(finite[finite != 0])
    if scale is not None:
        _require(label, scale > 0 and math.isfinite(scale), f"scale must be positive, got {scale}")
        sizes = np.append(sizes, scale)
    typical = float(np.median(sizes)) if sizes.size else 0.0
    if typical:
        _require(
            label,
            atol + rtol * typical < sensitivity * typical,
            f"the tolerance atol={atol:g}, rtol={rtol:g} would not notice a relative change of {sensitivity:g} in a quantity of size "
            f"{typical:.3g}",
        )
    elif finite.size:
        _require(label, atol == 0, "rhs is zero throughout: pass scale=, the size of what cancels, or atol=0")
    difference = np.zeros(left.shape, dtype=np.result_type(left, right))
    same = left == right  # infinities of one sign subtract to NaN
    np.subtract(left, right, out=difference, where=~same)
    deviation = np.abs(difference)
    allowed = atol + rtol * np.where(np.isfinite(right), np.abs(right), 0.0)
    _compare(label, deviation - allowed, deviation, left, right)
    tolerance = " + ".join([f"{atol:g}"] * (atol > 0 or rtol == 0) + [f"{rtol:g} relative"] * (rtol > 0))
    _done(label, "equal" if tolerance == "0" else f"equal within {tolerance}", oracle, sensitivity, default=1e-3)


def verify_bound(
    label: str,
    value: Any,
    *,
    lower: Any = None,
    upper: Any = None,
    slack: float = 0.0,
    oracle: str = "",
    sensitivity: float = 1e-3,
    reason: str = "",
) -> None:
    """``lower - slack <= value <= upper + slack`` in every entry, one side or both.

    A bound that nothing comes near proves little: somewhere the distance to each given bound must be at most ``sensitivity`` times the
    larger of the two magnitudes, so that moving the bound by that fraction would be noticed. A loose bound declares by how much, and why
    (``sensitivity=1`` notices a change of sign only).
    """
    _declared(label, sensitivity, reason, most=1.0)
    _require(label, lower is not None or upper is not None, "give lower=, upper= or both")
    _require(label, 0 <= slack < math.inf, "slack must be finite and not negative")
    parts = []
    for name, bound, sign in (("lower", lower, 1.0), ("upper", upper, -1.0)):
        if bound is None:
            continue
        left, right = _pair(label, value, bound)
        gap = sign * (left - right)
        _compare(label, -gap - slack, -gap, left, right)
        size = np.maximum(np.abs(left), np.abs(right))
        nearest = np.min(np.where(size > 0, gap / np.where(size > 0, size, 1.0), 0.0))
        _require(
            label,
            bool(nearest <= sensitivity),
            f"the {name} bound is never approached: its nearest relative distance is {nearest:.3g}, "
            f"the declared sensitivity {sensitivity:g}",
        )
        _require(label, slack <= sensitivity * float(np.max(size)) or slack == 0, f"slack={slack:g} hides the {name} bound")
        parts.append(f"{name} bound holds")
    _done(label, " and ".join(parts), oracle, sensitivity, default=1e-3)


def verify_statistic(
    label: str,
    estimate: Any,
    expected: Any,
    *,
    standard_error: Any,
    k: float = 4.0,
    oracle: str = "Monte Carlo",
    sensitivity: float = 1e-3,
    reason: str = "",
) -> None:
    """``|estimate - expected| <= k * standard_error`` in every entry; the sampling error must not hide a change of ``sensitivity``."""
    left, right = _pair(label, estimate, expected)
    error, _ = _pair(label, standard_error, right)
    _declared(label, sensitivity, reason)
    _require(label, 0 < k <= 5, f"k must be in (0, 5], got {k}")
    _require(label, bool(np.all(error > 0)) and bool(np.all(np.isfinite(error))), "standard_error must be positive")
    reach = float(np.min(k * error / np.where(right == 0, np.nan, np.abs(right)), initial=math.inf, where=right != 0))
    _require(
        label,
        reach <= sensitivity,
        f"{k:g} standard errors are {reach:.3g} of the expected value: a change of {sensitivity:g} would pass unnoticed",
    )
    deviation = np.abs(left - right)
    _compare(label, deviation - k * error, deviation, left, right)
    _done(label, f"within {k:g} standard errors", oracle, sensitivity, default=1e-3)


def verify_order(label: str, steps: Any, errors: Any, order: float, *, atol: float, oracle: str = "step refinement") -> None:
    """The errors shrink like ``step ** order``: the least-squares slope in log-log is within ``atol`` (below 0.5) of ``order``."""
    step, error = _pair(label, steps, errors)
    _require(label, step.ndim == 1 and step.size >= 3, f"at least three steps are needed, got shape {step.shape}")
    _require(
        label, bool(np.all(step > 0)) and bool(np.all(error > 0)) and step.max() > step.min(), "steps and errors must be positive"
    )
    _require(label, 0 < atol < 0.5, f"atol must be in (0, 0.5), got {atol}")
    slope = float(np.polyfit(np.log(step), np.log(error), 1)[0])
    _require(label, abs(slope - order) <= atol, f"order {slope:.4g} instead of {order:g} (tolerance {atol:g})")
    _done(label, f"order {order:g} within {atol:g}", oracle, 0.0, default=0.0)


def _pair(label: str, lhs: Any, rhs: Any) -> tuple[Array, Array]:
    if not (isinstance(label, str) and label.startswith("eq-")):
        raise VerificationError(f"label must be the label of an equation, 'eq-...', got {label!r}")
    left, right = _array(label, lhs), _array(label, rhs)
    _require(label, left.size > 0 and right.size > 0, "an empty array verifies nothing")
    plain = left.ndim == 0 or right.ndim == 0
    _require(
        label, plain or left.shape == right.shape, f"shapes {left.shape} and {right.shape} differ and would broadcast silently"
    )
    _require(label, not np.isnan(left).any() and not np.isnan(right).any(), "NaN")
    _require(label, lhs is not rhs or left.ndim == 0, "both sides are the same object")
    _require(label, left.ndim == 0 or not np.shares_memory(left, right), "both sides share memory")
    left, right = np.broadcast_arrays(left, right)
    return left, right


def _array(label: str, value: Any) -> Array:
    if hasattr(value, "detach"):
        value = value.detach().cpu().resolve_conj()
        value = (value.double() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number):
        raise VerificationError(f"{label}: compare numbers, not {array.dtype}: a truth value hides what was compared")
    return array if np.issubdtype(array.dtype, np.complexfloating) else array.astype(np.float64, copy=False)


def _declared(label: str, sensitivity: float, reason: str, most: float = 0.5) -> None:
    _require(label, 0 < sensitivity <= most, f"sensitivity must be in (0, {most:g}], got {sensitivity}")
    _require(label, sensitivity <= 1e-3 or bool(reason.strip()), f"sensitivity={sensitivity:g} needs a reason")


def _compare(label: str, excess: Array, deviation: Array, left: Array, right: Array) -> None:
    if np.all(excess <= 0):
        return
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    where = f" at index {tuple(int(i) for i in worst)}" if worst else ""
    raise VerificationError(
        f"{label}: largest deviation {deviation[worst]:.6g}{where}: lhs {left[worst]:.9g}, rhs {right[worst]:.9g}"
    )


def _require(label: str, condition: bool, message: str) -> None:
    if not condition:
        raise VerificationError(f"{label}: {message}")


def _done(label: str, check: str, oracle: str, sensitivity: float, *, default: float) -> None:
    if sensitivity > default:
        check += f", notices {100 * sensitivity:g} %" if sensitivity < 1 else ", notices a change of sign"
    _records.append(Record(label, check, oracle))
    print(f"✓ {label}: {check}" + (f" · {oracle}" if oracle else ""))
