"""``exercise``: what a chapter offers a reader who has tried an exercise, a check that says what is wrong and not only that it is."""

from __future__ import annotations

import copy
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABEL = re.compile(r"ex-[a-z0-9]+(-[a-z0-9]+)*")
CASES = 2  # a function that is tried on one input only can be right by luck


def exercise(
    label: str,
    answer: Any,
    *cases: tuple[Any, ...],
    mistakes: Sequence[tuple[Any, str]] = (),
    atol: float = 1e-6,
    rtol: float = 1e-6,
) -> Callable[[Any], None]:
    """A check of attempts at the exercise ``label``; calling it with an attempt prints a line.

    The line says that the attempt is right, or what is wrong with it: a kind or shape that does not fit, an exception and where it
    came from, an input that was changed, a known mistake, a wrong sign, factor or orientation, or the first place that differs.
    ``...`` stands for "no attempt yet".

    Args:
        label: the label of the exercise in the text, ``ex-...``.
        answer: the right answer: a number, an array or tensor of numbers, or a function that returns one.
        cases: for a function, the arguments of at least two calls on which attempts are compared with it.
        mistakes: pairs of a wrong answer of the same kind and a sentence that says which mistake leads to it; they must be told
            apart from the answer.
        atol, rtol: an attempt is right where ``|attempt - answer| <= atol + rtol * |answer|``.
    Raises:
        ValueError: the label has another form, cases are missing or not wanted, or a mistake passes as right.
    Example:
        >>> check = exercise("ex-sum", 5050, mistakes=[(4950, "the last number is missing")])
        >>> check(4950)
        ex-sum: not yet: the last number is missing
        >>> check(5050)
        ✓ ex-sum: right
    """
    if not (isinstance(label, str) and LABEL.fullmatch(label)):
        raise ValueError(f"label must be the label of an exercise, 'ex-...' in a-z, 0-9 and -, got {label!r}")
    if callable(answer) != (len(cases) >= CASES):
        raise ValueError(f"cases must be at least {CASES} argument tuples for a function and none for a number, got {len(cases)}")

    def judge(attempt: Any, known: Sequence[tuple[Any, str]]) -> str:
        compare = _function if callable(answer) else _value
        wrong = compare(attempt, answer, cases, atol, rtol)
        named = (sentence for mistake, sentence in known if not compare(attempt, mistake, cases, atol, rtol))
        return wrong and next(named, wrong)

    for mistake, sentence in mistakes:
        if not judge(mistake, ()):
            raise ValueError(f"mistakes: {sentence!r} passes as right on these cases and tolerances")

    def check(attempt: Any) -> None:
        if attempt is ...:
            line = f"{label}: put your {_wanted(answer)} in place of the dots"
        else:
            wrong = judge(attempt, mistakes)
            line = f"{label}: not yet: {wrong}" if wrong else f"✓ {label}: right" + f" in {len(cases)} cases" * bool(cases)
        print(textwrap.fill(line, 86, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))

    return check


def _wanted(answer: Any) -> str:
    if callable(answer):
        return f"function of ({', '.join(inspect.signature(answer).parameters)})"
    shape = _numbers(answer).shape
    return f"array of shape {shape}" if shape else "number"


def _function(attempt: Any, answer: Any, cases: Sequence[tuple[Any, ...]], atol: float, rtol: float) -> str:
    """What is wrong with a function, or nothing."""
    if not callable(attempt):
        return f"a {_wanted(answer)} is asked for, this is {_kind(attempt)}"
    for number, case in enumerate(cases, 1):
        where = f"in case {number} of {len(cases)}: {_shown(answer, case)}"
        given = copy.deepcopy(case)
        try:
            result = attempt(*given)
        except Exception as error:
            return f"it raises {type(error).__name__}: {error} ({where})"
        for name, before, after in zip(inspect.signature(answer).parameters, case, given, strict=False):
            if _is_numeric(before) and not np.array_equal(_numbers(before), _numbers(after), equal_nan=True):
                return f"it changes its argument {name}; work on a copy ({where})"
        if result is None:
            return f"it returns nothing; is a return missing? ({where})"
        right = answer(*copy.deepcopy(case))
        wrong = _value(result, right, (), atol, rtol)
        if wrong:
            return f"{wrong}{_instead(result, right, atol, rtol)} ({where})"
    return ""


def _value(attempt: Any, answer: Any, _: Sequence[Any], atol: float, rtol: float) -> str:
    """What is wrong with a number or an array, or nothing."""
    right = _numbers(answer)
    if not _is_numeric(attempt):
        return f"{_kind(attempt)} where {'an array of shape ' + str(right.shape) if right.shape else 'a number'} is asked for"
    got = _numbers(attempt)
    if got.shape != right.shape and not (got.size == right.size == 1):
        turned = got.ndim == 2 and got.T.shape == right.shape
        return f"the shape is {got.shape} instead of {right.shape}" + "; is it transposed?" * turned
    got = got.reshape(right.shape)
    if np.isnan(got).any() and not np.isnan(right).any():
        return "it holds NaN" if got.ndim else "it is NaN"

    def close(other: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(np.isclose(got, other, atol=atol, rtol=rtol, equal_nan=True))

    equal = close(right)
    if equal.all():
        return ""
    if got.ndim and not got.any():
        return "all entries are 0"
    with np.errstate(all="ignore"):
        ratio = (got / right)[right != 0]
        if close(-right).all():
            return "the sign is wrong"
        if got.ndim == 2 and got.shape == right.T.shape and close(right.T).all():
            return "it is transposed"
        if got.size > 1 and ratio.size == right.size and np.allclose(ratio, ratio[0], rtol=1e-6, atol=0):
            return f"every entry is {ratio[0]:.4g} times the right one"
        if close(1 / right).all():
            return "it is the reciprocal of the right answer"
    if not got.ndim:
        return "it is complex" if np.iscomplexobj(got) else f"{got:.6g} is too {'large' if got > right else 'small'}"
    first, wrong = _first(~equal), int((~equal).sum())
    return f"{wrong} of {got.size} entries {'differs' if wrong == 1 else 'differ'}, the first at index {first}"


def _first(places: NDArray[np.bool_]) -> Any:
    index = tuple(int(i) for i in np.argwhere(places)[0])
    return index[0] if len(index) == 1 else index


def _instead(result: Any, right: Any, atol: float, rtol: float) -> str:
    """Of a function, whose answer is no secret: the first number that differs, and what it should be."""
    if not _is_numeric(result):
        return ""  # a text, a dictionary, lists of unequal length: the words before this say so
    got, want = _numbers(result), _numbers(right)
    if got.shape != want.shape or not got.ndim or not got.any():
        return ""
    index = _first(~np.isclose(got, want, atol=atol, rtol=rtol, equal_nan=True))
    return f", {got[index]:.4g} instead of {want[index]:.4g}"


def _numbers(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu().resolve_conj()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"not a number: {value!r}")
    return array if np.iscomplexobj(array) else array.astype(np.float64)


def _is_numeric(value: Any) -> bool:
    try:
        return _numbers(value).size > 0
    except (TypeError, ValueError, RuntimeError):
        return False


def _kind(value: Any) -> str:
    name = "function" if callable(value) else type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _shown(answer: Callable[..., Any], case: tuple[Any, ...]) -> str:
    """The arguments of a call, short: numbers as they are, arrays by their shape."""
    names = inspect.signature(answer).parameters
    parts = []
    for name, value in zip(names, case, strict=False):
        array = _numbers(value) if _is_numeric(value) else None
        small = array is None or array.size == 1
        parts.append(f"{name} = {value}" if small else f"{name} of shape {array.shape}")  # type: ignore[union-attr]
    return ", ".join(parts)
