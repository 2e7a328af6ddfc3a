r"""Mitchell's approximation: products and quotients of floating-point numbers by one addition or subtraction of their bit patterns.

A positive normal number is :math:`p=2^n(1+x)` with :math:`0\le x<1`, and its bit pattern, read as an integer and counted from that of
1.0, is :math:`n+x` in units of the last place: a logarithm to base 2 in which the chord :math:`x` stands for
:math:`\log_2(1+x)`. Adding two patterns multiplies, with a relative error in :math:`[-1/9, 0]`; subtracting divides, with one in
:math:`[0, 1/8]`.

Range, as in arithmetic that flushes to zero: subnormal operands count as zeros, results below the smallest normal number become
zeros and results above the largest one infinities, with the sign of the product; zeros, infinities and NaN follow IEEE 754. No
function warns. In software all of this is slower than the multiplication of the processor: it shows what hardware could do.

Source: "Mitchell's approximation: multiplication becomes addition, with an error of at most 1/9" (kexue.fm/archives/7991), after
J. N. Mitchell (1962), "Computer Multiplication and Division Using Binary Logarithms", doi:10.1109/TEC.1962.5219391.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["mitchell_multiply", "mitchell_divide", "mitchell_log2", "mitchell_exp2", "mitchell_matmul"]

Array: TypeAlias = NDArray[Any]


class _Layout(NamedTuple):
    """Bit patterns of a floating-point format, as unsigned integers of its width."""

    integer: type[np.unsignedinteger[Any]]
    one: int  # 1.0
    least: int  # the smallest normal number
    infinity: int
    sign: int
    low: int  # products and quotients of numbers from low up to, not including, high stay in the normal range: the
    high: int  # smallest exponent that can come out is -62 - 62 - 1 (-510 - 510 - 1), the largest 62 + 62 + 1


def _layout(integer: type[np.unsignedinteger[Any]], digits: int, bias: int) -> _Layout:
    one, half = bias << digits, (bias // 2 - 1) << digits
    infinity = (2 * bias + 1) << digits
    return _Layout(integer, one, 1 << digits, infinity, infinity + (1 << digits), one - half, one + half + (1 << digits))


_LAYOUTS = {4: _layout(np.uint32, 23, 127), 8: _layout(np.uint64, 52, 1023)}

# Entries of a block of products: what the passes over it write stays in the cache of a core.
_BLOCK = 2**14


def mitchell_multiply(a: ArrayLike, b: ArrayLike) -> Any:
    r"""Mitchell's product, the bits of ``a`` plus those of ``b`` minus those of 1.0; exact in every bit of that definition.

    For :math:`a=2^{n_1}(1+x_1)` and :math:`b=2^{n_2}(1+x_2)` it is :math:`2^{n_1+n_2}(1+x_1+x_2)` where :math:`x_1+x_2<1` and
    :math:`2^{n_1+n_2+1}(x_1+x_2)` otherwise, with the sign of the product: never larger in magnitude than :math:`ab` and never
    smaller than :math:`\frac89ab`. Source: Mitchell (1962), doi:10.1109/TEC.1962.5219391.

    Args:
        a, b: float32 or float64 arrays or numbers of shapes that broadcast; they are left alone.
    Returns:
        An array of the broadcast shape, a NumPy scalar where that has no axes: float64 if one of the two is, else float32; a plain
        Python number takes the dtype of the other operand, as in NumPy. Outside the normal range see the module.
    Raises:
        TypeError: ``a`` or ``b`` holds anything but float32 or float64 (integers and float16 included).
        ValueError: ``a`` or ``b`` has rows of unequal length, or the shapes do not broadcast (``b``).

    >>> print(mitchell_multiply(12.3, 4.56), 12.3 * 4.56)
    53.68 56.088
    """
    return _combined(*_operands(a, b), divide=False)[()]


def mitchell_divide(a: ArrayLike, b: ArrayLike) -> Any:
    r"""Mitchell's quotient, the bits of ``a`` minus those of ``b`` plus those of 1.0: the exact inverse of :func:`mitchell_multiply`.

    Its magnitude is never smaller than that of :math:`a/b` and at most :math:`\frac98` of it. Source: Mitchell (1962).

    Args:
        a, b: float32 or float64 arrays or numbers of shapes that broadcast; they are left alone.
    Returns:
        As :func:`mitchell_multiply`; ``x / 0`` is an infinity, ``0 / 0`` and ``inf / inf`` are NaN.
    Raises:
        TypeError: ``a`` or ``b`` holds anything but float32 or float64.
        ValueError: ``a`` or ``b`` has rows of unequal length, or the shapes do not broadcast (``b``).

    >>> float(mitchell_divide(1.0, 1.5))
    0.75
    """
    return _combined(*_operands(a, b), divide=True)[()]


def mitchell_log2(x: ArrayLike) -> Any:
    r"""Mitchell's logarithm to base 2: :math:`n+x` for the number :math:`2^n(1+x)`, too small by at most 0.0861.

    Args:
        x: float32 or float64, positive, finite and normal, any shape.
    Returns:
        float64, shape of ``x`` (a NumPy scalar where it has no axes). Exact for float32; for float64, whose mantissa leaves no room
        for :math:`n`, rounded once.
    Raises:
        TypeError: ``x`` holds anything but float32 or float64.
        ValueError: ``x`` holds a zero, a negative or subnormal number, an infinity or NaN, or rows of unequal length.

    >>> float(mitchell_log2(9.75))  # 1001.11 in binary digits: 3 and .00111
    3.21875
    """
    given = _floats("x", x)
    layout = _LAYOUTS[given.itemsize]
    bits = given.view(layout.integer)
    # Negative numbers have the largest patterns.
    low, high = int(bits.min(initial=layout.least)), int(bits.max(initial=layout.least))
    if low < layout.least or high >= layout.infinity:
        wrong = given[(bits < layout.least) | (bits >= layout.infinity)].flat[0]
        raise ValueError(f"x must be positive, finite and normal, got {wrong}")
    return ((bits.astype(np.int64) - layout.one) / layout.least)[()]


def mitchell_exp2(y: ArrayLike) -> Any:
    r"""The inverse of :func:`mitchell_log2`: :math:`2^{\lfloor y\rfloor}(1+y-\lfloor y\rfloor)`, too large by at most 6.15 %.

    Args:
        y: float32 or float64, any sign, any shape.
    Returns:
        float64, shape of ``y`` (a NumPy scalar where it has no axes), the nearest to the exact value: ``inf`` from 1024 on, rounded
        to a subnormal number or 0 below -1022, NaN for NaN. ``mitchell_exp2(mitchell_log2(x)) == x`` for every float32 ``x``.
    Raises:
        TypeError: ``y`` holds anything but float32 or float64.
        ValueError: ``y`` has rows of unequal length.

    >>> float(mitchell_exp2(3.21875)), float(mitchell_exp2(-0.5))
    (9.75, 0.75)
    """
    with np.errstate(all="ignore"):
        given = _floats("y", y).astype(np.float64)
        near = np.clip(given, -1100.0, 1100.0)  # beyond lie 0 and infinity
        floor = np.floor(near)
        # 1 + y - floor(y) with one rounding. NaN passes through the mantissa and wants some exponent.
        mantissa = near - (floor - 1.0)
        return np.ldexp(mantissa, np.where(np.isnan(floor), 0.0, floor).astype(np.int32))[()]


def mitchell_matmul(a: ArrayLike, b: ArrayLike) -> Array:
    """The matrix product with the products of :func:`mitchell_multiply` and ordinary additions.

    Args:
        a: float32 or float64, shape ``(..., m, k)``.
        b: float32 or float64, shape ``(k, n)`` or ``(..., k, n)``, whose leading axes broadcast with those of ``a``.
    Returns:
        Shape ``(..., m, n)``, float64 if one of the two is, else float32, in which the additions are made; 0 for ``k = 0``.
    Raises:
        TypeError: ``a`` or ``b`` holds anything but float32 or float64.
        ValueError: ``a`` or ``b`` has fewer than two axes or rows of unequal length; ``b`` does not have ``k`` rows, or leading axes
            that do not broadcast.

    >>> mitchell_matmul(np.array([[1.5, 2.0]]), np.array([[1.5], [3.0]]))  # 2 + 6
    array([[8.]])
    """
    first, second = _operands(a, b)
    for name, given in (("a", first), ("b", second)):
        if given.ndim < 2:
            raise ValueError(f"{name} must have at least two axes, got shape {given.shape}")
    (m, k), n = first.shape[-2:], second.shape[-1]
    if second.shape[-2] != k:
        raise ValueError(f"b must have {k} rows, one for each column of a, got shape {second.shape}")
    leading = _broadcast_shape(first.shape[:-2], second.shape[:-2])
    out_shape = (*leading, m, n)
    if second.ndim == 2:  # one matrix for all rows
        leading, m = (), math.prod((*leading, m))
        first = first.reshape(m, k)
    batch = math.prod(leading)
    # The axis that is summed stands first: blocks are added row by row, whole and in order.
    left = np.broadcast_to(first, (*leading, m, k)).reshape(batch, m, k).transpose(2, 0, 1)[..., None]
    right = np.broadcast_to(second, (*leading, k, n)).reshape(batch, k, n).transpose(1, 0, 2)[:, :, None]
    out = np.zeros((batch, m, n), dtype=first.dtype)
    if out.size and k:
        with np.errstate(all="ignore"):
            _add_products(out, np.ascontiguousarray(left), np.ascontiguousarray(right))
    return out.reshape(out_shape)


def _add_products(out: Array, left: Array, right: Array) -> None:
    """Add the products of ``left`` (k, batch, m, 1) and ``right`` (k, batch, 1, n), summed over k, to ``out`` (batch, m, n)."""
    layout = _LAYOUTS[out.itemsize]
    # Zeros are frequent, infinities and extremes are not: a zero is multiplied as a one, and its products put to 0.
    present = [None if given.all() else (given != 0).astype(given.dtype) for given in (left, right)]
    x, y = (
        (given if mask is None else np.where(mask, given, mask.dtype.type(1.0))).view(layout.integer)
        for given, mask in zip((left, right), present, strict=True)
    )
    plain = _moderate(x, layout) and _moderate(y, layout)
    if plain:
        y = y - layout.integer(layout.one)
    for terms, batch, rows in _blocks(len(left), *out.shape):
        if plain:
            products = (x[terms, batch, rows] + y[terms, batch]).view(out.dtype)
            if present[0] is not None:
                products *= present[0][terms, batch, rows]
            if present[1] is not None:
                products *= present[1][terms, batch]
        else:
            products = _combined(left[terms, batch, rows], right[terms, batch], divide=False)
        target = out[batch, rows]
        target += products[0] if len(products) == 1 else products.sum(axis=0)


def _blocks(k: int, batch: int, m: int, n: int) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of the terms, the matrices and the rows: together about ``_BLOCK`` products each (a row and a term at least)."""
    rows = min(m, max(1, _BLOCK // n))
    matrices = min(batch, max(1, _BLOCK // (rows * n)))
    terms = min(k, max(1, _BLOCK // (matrices * rows * n)))
    for i in range(0, batch, matrices):
        for j in range(0, m, rows):
            for t in range(0, k, terms):
                yield slice(t, t + terms), slice(i, i + matrices), slice(j, j + rows)


def _combined(a: Array, b: Array, *, divide: bool) -> Array:
    """Product or quotient of arrays of one dtype, broadcast."""
    layout = _LAYOUTS[a.itemsize]
    x, y = np.atleast_1d(a.view(layout.integer)), np.atleast_1d(b.view(layout.integer))
    shape = _broadcast_shape(a.shape, b.shape)
    out = np.empty(shape or 1, dtype=layout.integer)
    if out.size <= _BLOCK:
        _combine(x, y, out, layout, a.dtype, divide)
    else:
        blocks = np.nditer(
            [x, y, out],
            flags=["external_loop", "buffered"],
            op_flags=[["readonly"], ["readonly"], ["writeonly"]],
            buffersize=_BLOCK,
        )
        with blocks:
            for some_x, some_y, some_out in blocks:
                _combine(some_x, some_y, some_out, layout, a.dtype, divide)
    return out.reshape(shape).view(a.dtype)


def _combine(x: Array, y: Array, out: Array, layout: _Layout, dtype: np.dtype[Any], divide: bool) -> None:
    """Write to ``out`` the patterns of the products or quotients of operands given as patterns."""
    one, least, infinity = layout.integer(layout.one), layout.integer(layout.least), layout.integer(layout.infinity)
    if _moderate(x, layout) and _moderate(y, layout):
        # Signs and all: what runs over the highest bit leaves there the exclusive or of the signs.
        (np.subtract if divide else np.add)(x, y, out=out)
        (np.add if divide else np.subtract)(out, one, out=out)
        return
    mx, my = x & (layout.sign - 1), y & (layout.sign - 1)
    # Two magnitudes fit into the unsigned integer; what would be negative becomes 0.
    result = np.maximum(mx + one, my) - my if divide else np.maximum(mx + my, one) - one
    np.minimum(result, infinity, out=result)
    normal_x, normal_y = _ones(mx >= least, layout), _ones(my >= least, layout)
    result &= _ones(result >= least, layout)
    result &= normal_x
    if not divide:
        result &= normal_y
    np.bitwise_or(result, (x ^ y) & layout.sign, out=out)
    special = (mx >= infinity) | (my >= infinity)
    if divide:
        special = special | (my < least)
    if special.any():
        # IEEE 754 without rounding: one operand at least is an infinity, NaN or a divisor 0. Subnormal numbers become zeros.
        flushed = ((bits & (normal | layout.sign)).view(dtype) for bits, normal in ((x, normal_x), (y, normal_y)))
        with np.errstate(all="ignore"):
            ieee = np.divide(*flushed) if divide else np.multiply(*flushed)
        np.copyto(out, ieee.view(layout.integer), where=special)


def _moderate(bits: Array, layout: _Layout) -> bool:
    """Whether all numbers, of either sign, are so far from both ends that no product or quotient leaves the normal range."""
    shifted = (bits & (layout.sign - 1)) - layout.integer(layout.low)  # what is too small wraps and becomes large
    return bool(np.maximum.reduce(shifted, axis=None, initial=0) < layout.high - layout.low)


def _ones(where: NDArray[np.bool_], layout: _Layout) -> Array:
    """All bits set where True, none elsewhere; with this ``&`` selects, several times faster than ``np.where``."""
    return np.negative(where.astype(layout.integer))


def _operands(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Both as arrays of their common dtype."""
    first, second = _floats("a", a), _floats("b", b)
    # As in NumPy, a plain number has no dtype of its own beside an array.
    one, other = (None if type(value) is float else array.dtype for value, array in ((a, first), (b, second)))
    dtype = np.result_type(one or other or np.float64, other or one or np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is invalid
        return first.astype(dtype, copy=False), second.astype(dtype, copy=False)


def _broadcast_shape(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    # np.broadcast_shapes stops at 32 axes, half of what an array can have.
    lengths = [*itertools.zip_longest(reversed(one), reversed(other), fillvalue=1)]
    if any(m != n and 1 not in (m, n) for m, n in lengths):
        raise ValueError(f"b must have a shape that broadcasts with that of a, got {other} and {one}")
    return tuple(n if m == 1 else m for m, n in reversed(lengths))


def _floats(name: str, value: Any) -> Array:
    """An array of float32 or float64 in the byte order of the machine."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be rectangular, got rows of different lengths") from None
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array of floats, got {type(value).__name__}: {error}") from None
    if array.dtype.kind != "f" or array.itemsize not in _LAYOUTS:
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
