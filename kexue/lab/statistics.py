"""Statistics over seeds, printed so that they survive another processor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean_se(values: ArrayLike, axis: int = 0) -> tuple[Any, Any]:
    """Mean and standard error of the mean over the seeds.

    Args:
        values: numbers, with the seeds along ``axis``.
        axis: the axis of the seeds, at least two.
    Returns:
        Two float64 values or arrays, of the shape of ``values`` without ``axis``.
    Raises:
        ValueError: ``values`` holds fewer than two seeds.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[axis] < 2:
        raise ValueError(f"values must hold at least two seeds along axis {axis}, got shape {array.shape}")
    return array.mean(axis), array.std(axis, ddof=1) / np.sqrt(array.shape[axis])


def paired(a: ArrayLike, b: ArrayLike) -> tuple[Any, Any]:
    """Mean and standard error of ``a - b`` over the first axis: the same seeds in both, so that their common luck cancels.

    Args:
        a, b: numbers of one shape, the seeds (at least two) along the first axis.
    Returns:
        Two float64 values or arrays, as of ``mean_se``.
    Raises:
        ValueError: the shapes differ or hold fewer than two seeds.
    """
    first, second = (np.asarray(v, dtype=np.float64) for v in (a, b))
    if first.shape != second.shape:
        raise ValueError(f"a and b must hold the same seeds, got shapes {first.shape} and {second.shape}")
    return mean_se(first - second)


def verdict(name: str, value: ArrayLike, low: float, high: float) -> None:
    """Print what trained accuracies amount to, in a word: solved (all >= ``high``), chance (all <= ``low``) or between.

    Digits of trained accuracies differ between processors; a word with room on both sides does not.

    Args:
        name: what the line begins with.
        value: an accuracy, or those of several seeds.
        low, high: where chance ends and where solved begins.
    Raises:
        ValueError: ``low`` is not below ``high``, or ``value`` is empty or holds NaN.
    """
    array: NDArray[np.float64] = np.asarray(value, dtype=np.float64)
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    if array.size == 0 or np.isnan(array).any():
        raise ValueError(f"value must be numbers, got {value!r}")
    print(f"{name}: {'solved' if array.min() >= high else 'chance' if array.max() <= low else 'between'}")
