"""GELU and its approximations against PyTorch's fused kernels, and the min-max fit against SciPy.

Least work: an activation reads its input and writes its output once, and its backward pass reads two tensors and writes one; a fit
evaluates its two functions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import MODES, Case, Pair, Setting, Target
from kexue.functions.gelu import GELU, gelu, minimax_fit

NO_PEER: dict[str, str] = {}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED: tuple[str, ...] = ("gelu",)


def _pair(s: Setting, approximate: str, peer: str, *, layer: bool = False) -> Pair:
    x = s.randn(s["n"])
    ours = GELU(approximate) if layer else lambda t: gelu(t, approximate)
    return Pair(
        lambda: ours(x),
        lambda: F.gelu(x, approximate=peer),
        scale=s["n"],
        moved=2 * x.nbytes,
        backward=1.5,
        leaves=(x,),
    )


def _quick(s: Setting) -> Pair:
    x = s.randn(s["n"])
    # What transformers calls quick_gelu.
    return Pair(lambda: gelu(x, "sigmoid"), lambda: x * torch.sigmoid(1.702 * x), scale=s["n"], moved=2 * x.nbytes, leaves=(x,))


ROOT = math.sqrt(2 / math.pi)


def _erf(x: Tensor) -> Tensor:
    return torch.erf(x * math.sqrt(0.5))


def _tanh(x: Tensor, b: float) -> Tensor:
    return torch.tanh(ROOT * x + b * x**3)


def _fit(s: Setting) -> Pair:
    from scipy.optimize import minimize

    x = torch.linspace(0, 8, s["n"], dtype=torch.float64)
    right = _erf(x)

    def peer() -> Tensor:
        found = minimize(lambda b: float((right - _tanh(x, float(b[0]))).abs().max()), 0.035, method="Powell", tol=1e-12)
        return torch.tensor([float(found.x[0]), float(found.fun)], dtype=torch.float64)

    return Pair(
        lambda: torch.tensor(minimax_fit(_erf, _tanh, (0.03, 0.04)), dtype=torch.float64),
        peer,
        scale=1,
    )


SIZES = tuple({"n": n} for n in (2**14, 2**18, 10**6))
GPU = tuple({"n": n} for n in (2**20, 2**24, 2**26))

CASES = [
    Case(
        "functions.gelu.gelu",
        "torch",
        "F.gelu",
        lambda s: _pair(s, "none", "none"),
        SIZES,
        "exact",
        also=MODES,
        targets={"float32 forward": Target(5.0)},
        same=1e-5,
        gpu_sizes=GPU,
        why="it keeps relative accuracy in the lower tail, in several operations; the peer is one fused kernel and cancels there",
    ),
    Case(
        "functions.gelu.gelu",
        "torch",
        'F.gelu(approximate="tanh")',
        lambda s: _pair(s, "tanh", "tanh"),
        SIZES,
        "tanh",
        also=MODES,
        targets={"float32 forward": Target(3.0, 1.0)},
        same=1e-5,
        gpu_sizes=GPU,
        why="it keeps relative accuracy in the lower tail, in several operations; the peer is one fused kernel and cancels there",
    ),
    Case(
        "functions.gelu.gelu",
        "torch",
        "F.gelu, another function of the same job",
        lambda s: _pair(s, "sigmoid", "none"),
        SIZES,
        "sigmoid",
        also=MODES,
        targets={"float32 forward": Target(4.0, 3.0)},
        same="they differ by up to 0.0203, which is the error of the form",
        gpu_sizes=GPU,
        why="several operations against one fused kernel; infinities have their limits and no gradient is NaN",
    ),
    Case(
        "functions.gelu.gelu",
        "torch",
        "x * torch.sigmoid(1.702 * x)",
        _quick,
        SIZES,
        "sigmoid by hand",
        gpu_sizes=GPU,
        why="it asks once whether all is finite: infinities have their limits and no gradient is NaN",
    ),
    Case(
        "functions.gelu.GELU",
        "torch",
        "F.gelu",
        lambda s: _pair(s, "none", "none", layer=True),
        SIZES[:1],
        "exact",
        why="as the function",
    ),
    Case(
        "functions.gelu.minimax_fit",
        "scipy",
        "Powell's method on a grid (the post's recipe)",
        _fit,
        tuple({"n": n} for n in (8001,)),
        "erf by tanh",
        dtype="float64",
        same=1e-6,
        why="ten digits from refined extremes, by bisection; the recipe stops at eight on its fixed grid",
    ),
]
