"""``verify``: the one way in which a chapter executes a labelled equation.

Every form compares two sides that were computed independently, raises :class:`VerificationError` when they disagree, and otherwise prints
one line that is the same on every machine (label, what was checked, oracle) and never the error that happened to occur. Each form also
refuses checks that could not fail: NaN, empty arrays, shapes that only broadcasting would reconcile, the same array on both sides, and
tolerances that would let a relative change of ``sensitivity`` (1e-3 unless the call says otherwise and why) pass unnoticed.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["verify", "verify_bound", "verify_statistic", "verify_order", "records", "Record", "VerificationError"]

Array = NDArray[Any]
LABEL = re.compile(r"eq-[a-z0-9]+(-[a-z0-9]+)*")
SHARP = 1e-3  # the relative change every check notices unless it declares another, with a reason
SMALL = 0.1  # a tolerance is judged at the entry that nine of ten exceed


class VerificationError(AssertionError):
    """An equation does not hold, or its check could not have failed.

    A notebook shows the message alone, in a line or three; everything else, pytest among it, sees an ordinary error.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of the way through this file."""
        return [f"{type(self).__name__}: {self}"]


class Record(NamedTuple):
    """One executed equation: label, what was checked, kind of oracle."""

    label: str
    check: str
    oracle: str


_records: list[Record] = []
_numbers: dict[str, str] = {}


def number_equations(numbers: dict[str, str]) -> None:
    """Let the messages of failing checks name equations as the text does, ``{"eq-gap": "3.8"}``; a reader's notebook begins with it."""
    _numbers.clear()
    _numbers.update(numbers)


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
    sensitivity: float = SHARP,
    reason: str = "",
) -> None:
    """Both sides of the equation ``label`` are equal: ``|lhs - rhs| <= atol + rtol * |rhs|`` in every entry.

    Args:
        label: the label of the equation in the text, ``eq-...``.
        lhs, rhs: numbers, arrays or tensors of one shape (a plain number fits every shape); infinities must match exactly.
        atol, rtol: absolute and relative tolerance.
        oracle: where the second side comes from, in two or three words ("brute force", "quadrature", "autograd", "another library").
        scale: size of the quantities that cancel where ``rhs`` is zero to within ``atol`` throughout; the tolerance is judged
            against it, and the printed line names it.
        sensitivity: a relative change that the check is sure to notice in nine of ten non-zero entries of ``rhs``; more than
            1e-3 needs a ``reason``.
        reason: why the check cannot be sharper.
    Raises:
        VerificationError: the sides differ (the message gives the largest deviation, its index and both values), or the check could
            not have failed.
    """
    left, right = _pair(label, lhs, rhs)
    _require(label, atol >= 0 and rtol >= 0 and math.isfinite(atol + rtol), "tolerances must be finite and not negative")
    _require(label, scale is None or 0 < scale < math.inf, f"scale must be positive, got {scale}")
    _declared(label, sensitivity, reason)
    finite = np.abs(right[np.isfinite(right)])
    cancels = finite.size == 0 or finite.max() <= atol
    if cancels:
        _require(
            label,
            scale is not None or atol + rtol == 0,
            "rhs is zero to within atol: pass scale=, the size of what cancels, or atol=0",
        )
        small = scale or 0.0
    else:
        small = float(np.quantile(finite[finite > 0], SMALL))
    _require(
        label,
        small == 0 or atol + rtol * small < sensitivity * small,
        f"the tolerance atol={atol:g}, rtol={rtol:g} would not notice a relative change of {sensitivity:g} in a quantity of size "
        f"{small:.3g}",
    )
    difference = np.zeros(left.shape, dtype=np.result_type(left, right))
    same = left == right  # infinities of one sign subtract to NaN
    np.subtract(left, right, out=difference, where=~same)
    deviation = np.abs(difference)
    allowed = atol + rtol * np.where(np.isfinite(right), np.abs(right), 0.0)
    tolerance = " + ".join([_short(atol)] * (atol > 0 or rtol == 0) + [f"{_short(rtol)} relative"] * (rtol > 0))
    _compare(label, deviation - allowed, deviation, ("lhs", left), ("rhs", right), f"allowed: {tolerance}", oracle)
    check = "equal" if tolerance == "0" else f"equal within {tolerance}"
    _done(label, check + (f" of {scale:g}" if cancels and scale else ""), oracle, sensitivity)


def verify_bound(
    label: str,
    value: Any,
    *,
    lower: Any = None,
    upper: Any = None,
    slack: float = 0.0,
    oracle: str = "",
    sensitivity: float = SHARP,
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
        left, right = _pair(label, value, bound, real=True)
        size = np.maximum(np.abs(left), np.abs(right))
        typical = float(np.median(size[np.isfinite(size)])) if np.isfinite(size).any() else 0.0
        _require(
            label, slack <= 1e-6 * typical, f"slack={slack:g} is for rounding: at most 1e-6 of the typical size {typical:.3g}"
        )
        same = left == right
        gap = np.zeros(left.shape)
        np.subtract(left, right, out=gap, where=~same)
        gap *= sign
        rule = f"{name} bound" + f", allowed beyond it: {_short(slack)}" * bool(slack)
        _compare(label, -gap - slack, -gap, ("value", left), (name, right), rule, oracle)
        reached = same | (np.abs(gap) <= slack)
        distance = np.where(reached, 0.0, (gap + slack) / np.where(reached, 1.0, size))
        _require(
            label,
            bool(distance.min() <= sensitivity),
            f"the {name} bound is never approached: its nearest relative distance is {distance.min():.3g}, "
            f"the declared sensitivity {sensitivity:g}",
        )
        parts.append(name)
    check = "both bounds hold" if len(parts) == 2 else f"{parts[0]} bound holds"
    _done(label, check + (f" within {_short(slack)}" if slack else ""), oracle, sensitivity)


def verify_statistic(
    label: str,
    estimate: Any,
    expected: Any,
    *,
    standard_error: Any,
    k: float = 4.0,
    oracle: str = "Monte Carlo",
    scale: float | None = None,
    sensitivity: float = SHARP,
    reason: str = "",
) -> None:
    """``|estimate - expected| <= k * standard_error`` in every entry.

    In nine of ten entries the sampling error must not hide a change of ``sensitivity`` of the expected value (of ``scale`` where
    every expected value is zero).
    """
    left, right = _pair(label, estimate, expected, real=True)
    error, _ = _pair(label, standard_error, right, real=True)
    _declared(label, sensitivity, reason)
    _require(label, 0 < k <= 5, f"k must be in (0, 5], got {k}")
    _require(label, bool(np.all(error > 0)) and bool(np.all(np.isfinite(error))), "standard_error must be positive")
    sizes = np.abs(right)
    if not sizes.any():
        _require(
            label,
            scale is not None and 0 < scale < math.inf,
            "the expected value is zero: pass scale=, the size of what is averaged",
        )
        sizes = np.full(sizes.shape, scale)
    reach = float(np.quantile((k * error)[sizes > 0] / sizes[sizes > 0], 1 - SMALL))
    _require(
        label,
        reach <= sensitivity,
        f"{k:g} standard errors are {reach:.3g} of the expected value: a change of {sensitivity:g} would pass unnoticed",
    )
    deviation = np.abs(left - right)
    with np.errstate(all="ignore"):
        far = f"{float(np.nanmax(deviation / error)):.1f} standard errors, allowed: {k:g}"
    _compare(label, deviation - k * error, deviation, ("estimate", left), ("expected", right), far, oracle)
    _done(label, f"within {k:g} standard errors", oracle, sensitivity)


def verify_order(label: str, steps: Any, errors: Any, order: float, *, atol: float, oracle: str = "step refinement") -> None:
    """The errors shrink like ``step ** order``: the least-squares slope in log-log is within ``atol`` (below 0.5) of ``order``."""
    step, error = _pair(label, steps, errors, real=True)
    _require(label, step.ndim == 1 and step.size >= 3, f"at least three steps are needed, got shape {step.shape}")
    _require(
        label, bool(np.all(step > 0)) and bool(np.all(error > 0)) and step.max() > step.min(), "steps and errors must be positive"
    )
    _require(label, 0 < atol < min(0.5, abs(order) / 2), f"atol must be in (0, 0.5) and below half the order, got {atol}")
    slope = float(np.polyfit(np.log(step), np.log(error), 1)[0])
    _require(
        label,
        abs(slope - order) <= atol,
        f"order {slope:.4g} instead of {order:g} (allowed: {atol:g})" + f" · {oracle}" * bool(oracle),
    )
    _done(label, f"order {order:g} within {_short(atol)}", oracle)


def _short(number: float) -> str:
    """A tolerance as one reads it: 0.05, 5e-4, 1e-12."""
    if number == 0 or number >= 0.01:
        return f"{number:g}"
    mantissa, _, exponent = f"{number:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _pair(label: str, lhs: Any, rhs: Any, *, real: bool = False) -> tuple[Array, Array]:
    if not (isinstance(label, str) and LABEL.fullmatch(label)):
        raise VerificationError(f"label must be the label of an equation, 'eq-...' in a-z, 0-9 and -, got {label!r}")
    first, second = _array(label, lhs), _array(label, rhs)
    _require(label, first.size > 0 and second.size > 0, "an empty array verifies nothing")
    plain = first.ndim == 0 or second.ndim == 0
    _require(
        label,
        plain or first.shape == second.shape,
        f"shapes {first.shape} and {second.shape} differ and would broadcast silently",
    )
    _require(label, not np.isnan(first).any() and not np.isnan(second).any(), "NaN")
    _require(label, lhs is not rhs or first.ndim == 0, "both sides are the same object")
    _require(label, first.ndim == 0 or not np.shares_memory(first, second), "both sides share memory")
    _require(label, not (real and (np.iscomplexobj(first) or np.iscomplexobj(second))), "complex numbers have no order")
    left, right = np.broadcast_arrays(_wide(label, first), _wide(label, second))
    return left, right


def _array(label: str, value: Any) -> Array:
    """The numbers as they are; a tensor and its array share memory."""
    if isinstance(value, (list, tuple)):
        value = [item.detach() if hasattr(item, "detach") else item for item in value]
    elif hasattr(value, "detach"):
        value = value.detach().cpu().resolve_conj()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.asarray(value)
    if array.dtype == bool:
        raise VerificationError(f"{label}: compare numbers: a truth value hides what was compared")
    if not np.issubdtype(array.dtype, np.number):
        raise VerificationError(f"{label}: compare int, float or complex numbers, not {array.dtype}")
    return array


def _wide(label: str, array: Array) -> Array:
    if np.issubdtype(array.dtype, np.integer):
        exact = array.size == 0 or max(abs(int(array.min())), abs(int(array.max()))) <= 2**53
        _require(label, exact, "integers above 2**53 are not exact in float64: compare their difference")
    return array if np.iscomplexobj(array) else array.astype(np.float64, copy=False)


def _declared(label: str, sensitivity: float, reason: str, most: float = 0.5) -> None:
    _require(label, 0 < sensitivity <= most, f"sensitivity must be in (0, {most:g}], got {sensitivity}")
    _require(label, sensitivity <= SHARP or bool(reason.strip()), f"sensitivity={sensitivity:g} needs a reason")


def _compare(
    label: str, excess: Array, deviation: Array, first: tuple[str, Array], second: tuple[str, Array], rule: str, oracle: str
) -> None:
    """Three lines where something exceeds what is allowed: which equation, how far apart, by which rule."""
    if np.all(excess <= 0):
        return
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    where = f" at index {tuple(int(i) for i in worst)}" if worst else ""
    (left, one), (right, other) = ((name, values[worst]) for name, values in (first, second))
    raise VerificationError(
        f"{_named(label)} does not hold\n"
        f"  largest deviation {deviation[worst]:.6g}{where}: {left} {one:.9g}, {right} {other:.9g}\n"
        f"  {rule}" + f" · {oracle}" * bool(oracle)
    )


def _named(label: str) -> str:
    return f"{label} ({_numbers[label]})" if label in _numbers else label


def _require(label: str, condition: bool, message: str) -> None:
    if not condition:
        raise VerificationError(f"{_named(label)}: {message}")


def _done(label: str, check: str, oracle: str, sensitivity: float = SHARP) -> None:
    _require(label, not re.search(r'[\n|·"<>]', oracle), f"oracle must be two or three plain words, got {oracle!r}")
    if sensitivity > SHARP:
        check += f", notices {100 * sensitivity:g} %" if sensitivity < 1 else ", notices a change of sign"
    _records.append(Record(label, check, oracle))
    print(f"✓ {label}: {check}" + (f" · {oracle}" if oracle else ""))
