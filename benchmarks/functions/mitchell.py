"""Mitchell's approximation (NumPy on the CPU) against the raw bit trick, the processor's own multiplication and NumPy's functions.

Least work: two operands are read and one result is written; a matrix product reads and writes its matrices and has no fused
multiply-add to use, so that its floor, the flops of the exact product, is out of reach for integer additions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, Pair, Setting, Target
from kexue.functions.mitchell import mitchell_divide, mitchell_exp2, mitchell_log2, mitchell_matmul, mitchell_multiply

NO_PEER: dict[str, str] = {}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED = ("mitchell_multiply", "mitchell_matmul")

Array = NDArray[Any]
ONE = np.uint32(0x3F800000)


def _normals(s: Setting, *shape: int) -> Array:
    return s.rng.normal(size=shape).astype(np.float32)


def _raw_product(a: Array, b: Array) -> Array:
    """The trick without a check: two views, an addition and a subtraction."""
    return np.asarray((a.view(np.uint32) + b.view(np.uint32) - ONE).view(np.float32))


def _raw_quotient(a: Array, b: Array) -> Array:
    return np.asarray((a.view(np.uint32) - b.view(np.uint32) + ONE).view(np.float32))


def _pairwise(ours: Callable[..., Any], peer: Callable[..., Any], zeros: float = 0.0) -> Callable[[Setting], Pair]:
    def build(s: Setting) -> Pair:
        a, b = _normals(s, s["n"]), _normals(s, s["n"])
        a[s.rng.random(s["n"]) < zeros] = 0
        return Pair(lambda: ours(a, b), lambda: peer(a, b), scale=s["n"], moved=12 * s["n"])

    return build


def _single(ours: Callable[..., Any], peer: Callable[..., Any]) -> Callable[[Setting], Pair]:
    def build(s: Setting) -> Pair:
        x = np.abs(_normals(s, s["n"])) + np.float32(0.1)
        return Pair(lambda: ours(x), lambda: peer(x), scale=s["n"], moved=12 * s["n"])

    return build


def _layer(ours: Callable[[Array, Array], Array], peer: Callable[[Array, Array], Array]) -> Callable[[Setting], Pair]:
    def build(s: Setting) -> Pair:
        m, k, n = s["m"], s["k"], s["n"]
        a, b = np.maximum(_normals(s, m, k), 0), _normals(s, k, n)  # what a layer of a ReLU network multiplies
        moved = 4 * (m * k + k * n + m * n)
        return Pair(lambda: ours(a, b), lambda: peer(a, b), scale=m * k * n, moved=moved, flops=2 * m * k * n)

    return build


def _all_at_once(a: Array, b: Array) -> Array:
    return np.asarray(mitchell_multiply(a[:, :, None], b).sum(axis=1))


SIZES = tuple({"n": n} for n in (10**4, 10**5, 10**6))
LAYERS = ({"m": 64, "k": 64, "n": 32}, {"m": 597, "k": 64, "n": 32}, {"m": 256, "k": 256, "n": 256})
MODULE = "functions.mitchell."
CHECKS = "checks dtypes and range, so that zeros, infinities and what leaves the range come out right"
SLOWER = "the processor multiplies in one step; the gain of an addition is in hardware that has no multiplier"

CASES = [
    Case(
        MODULE + "mitchell_multiply",
        "numpy",
        "the raw trick: view, add, subtract",
        _pairwise(mitchell_multiply, _raw_product),
        SIZES,
        targets={"float32 forward": Target(10.0, 4.0)},
        same=0.0,
        why=CHECKS,
    ),
    Case(
        MODULE + "mitchell_multiply",
        "numpy",
        "np.multiply",
        _pairwise(mitchell_multiply, np.multiply),
        SIZES,
        "exact product",
        same="Mitchell's products are up to 1/9 smaller",
        why=SLOWER,
    ),
    Case(
        MODULE + "mitchell_multiply",
        "numpy",
        "np.multiply, half of the entries zero",
        _pairwise(mitchell_multiply, np.multiply, zeros=0.5),
        SIZES,
        "with zeros",
        same="Mitchell's products are up to 1/9 smaller",
        why=SLOWER + "; zeros take the way with all checks",
    ),
    Case(
        MODULE + "mitchell_divide",
        "numpy",
        "the raw trick: view, subtract, add",
        _pairwise(mitchell_divide, _raw_quotient),
        SIZES,
        same=0.0,
        why=CHECKS,
    ),
    Case(
        MODULE + "mitchell_log2",
        "numpy",
        "np.log2",
        _single(mitchell_log2, np.log2),
        SIZES,
        same="n + x is up to 0.0861 smaller than the logarithm",
        why="float64 out of float32, and every number is checked",
    ),
    Case(
        MODULE + "mitchell_exp2",
        "numpy",
        "np.exp2",
        _single(mitchell_exp2, np.exp2),
        SIZES,
        same="it is up to 6.15 % larger than the power",
        why="float64 out of float32, exact at both ends of the range",
    ),
    Case(
        MODULE + "mitchell_matmul",
        "numpy",
        "all products at once by mitchell_multiply, then summed",
        _layer(mitchell_matmul, _all_at_once),
        LAYERS,
        targets={f"float32 forward m{m['m']}": Target(seconds=50e-9 * m["m"] * m["k"] * m["n"]) for m in LAYERS},
        same=1e-5,
    ),
    Case(
        MODULE + "mitchell_matmul",
        "numpy",
        "np.matmul",
        _layer(mitchell_matmul, np.matmul),
        LAYERS,
        "exact product",
        same="Mitchell's products are up to 1/9 smaller",
        why="a processor multiplies and adds 16 numbers in one step; additions of integers have no such unit",
    ),
]
