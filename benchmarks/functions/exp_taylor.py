"""Taylor polynomials of exp, and the softmax made of them.

Least work: a softmax reads its logits once and writes its probabilities once; the backward pass reads two tensors and writes one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import MODES, Case, Pair, Setting, Target
from kexue.functions.exp_taylor import (
    exp_taylor,
    exp_taylor_features,
    log_exp_taylor,
    log_taylor_softmax,
    taylor_cross_entropy,
    taylor_softmax,
)

NO_PEER = {
    "functions.exp_taylor.exp_taylor_minimum": "a number of the theory that no library computes",
}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED = ("taylor_softmax",)


def _rows(ours: Any, peer: Any, s: Setting) -> Pair:
    x = s.randn(s["N"], s["C"])
    return Pair(lambda: ours(x), lambda: peer(x), scale=x.numel(), moved=2 * x.nbytes, backward=1.5, leaves=(x,))


def _loss(s: Setting) -> Pair:
    x, target = s.randn(s["N"], s["C"]), s.randint(s["C"], s["N"])
    return Pair(
        lambda: taylor_cross_entropy(x, target),
        lambda: F.cross_entropy(x, target),
        scale=x.numel(),
        moved=x.nbytes,
        backward=2.0,
        leaves=(x,),
    )


def _features(s: Setting) -> Pair:
    x = s.randn(s["n"], s["d"])

    def peer() -> Tensor:  # as in code for linear attention by Taylor features
        outer = torch.einsum("...i,...j->...ij", x, x).flatten(-2)
        return torch.cat([torch.ones_like(x[..., :1]), x, outer / 2**0.5], -1)

    return Pair(lambda: exp_taylor_features(x), peer, scale=s["n"], moved=x.nbytes * (s["d"] + 2), leaves=(x,))


SIZES = tuple({"N": N, "C": 1000} for N in (256, 1024, 4096))
GPU = tuple({"N": N, "C": 32768} for N in (1024, 4096, 8192))
OTHER = "another function for the same job: Taylor weights against exponential ones"
ANY_ORDER = (
    "PyTorch's kernel is fused; ours is a product over the pairs of zeros, which cannot overflow and stays positive at any order"
)

CASES = [
    Case(
        "functions.exp_taylor.taylor_softmax",
        "torch",
        "F.softmax",
        lambda s: _rows(taylor_softmax, lambda x: F.softmax(x, -1), s),
        SIZES,
        "order 2",
        also=MODES,
        targets={"float32 forward": Target(3.0, 1.2), "float32 forward+backward": Target(6.0, 1.2)},
        same=OTHER,
        gpu_sizes=GPU,
        why="writes the polynomial, its sum and the quotient one after the other, where PyTorch's kernel is fused",
    ),
    Case(
        "functions.exp_taylor.taylor_softmax",
        "torch",
        "F.softmax",
        lambda s: _rows(lambda x: taylor_softmax(x, 4), lambda x: F.softmax(x, -1), s),
        SIZES,
        "order 4",
        also=MODES[:1],
        same=OTHER,
        gpu_sizes=GPU,
        why=ANY_ORDER,
    ),
    Case(
        "functions.exp_taylor.log_taylor_softmax",
        "torch",
        "F.log_softmax",
        lambda s: _rows(log_taylor_softmax, lambda x: F.log_softmax(x, -1), s),
        SIZES,
        also=MODES[:1],
        same=OTHER,
        gpu_sizes=GPU,
        why="a logarithm and a hypotenuse per entry before PyTorch's log_softmax: finite up to the largest float",
    ),
    Case(
        "functions.exp_taylor.taylor_cross_entropy",
        "torch",
        "F.cross_entropy",
        _loss,
        SIZES,
        also=MODES[:1],
        same=OTHER,
        gpu_sizes=GPU,
        why="a logarithm and a hypotenuse per entry before PyTorch's log_softmax: finite up to the largest float",
    ),
    Case(
        "functions.exp_taylor.exp_taylor",
        "torch",
        "exp",
        lambda s: _rows(lambda x: exp_taylor(x, 4), torch.exp, s),
        SIZES,
        "order 4",
        also=MODES[:1],
        same=OTHER,
        gpu_sizes=GPU,
        why="four passes in Horner's form; exp is one",
    ),
    Case(
        "functions.exp_taylor.log_exp_taylor",
        "torch",
        "log of the Horner form",
        lambda s: _rows(lambda x: log_exp_taylor(x, 4), lambda x: exp_taylor(x, 4).log(), s),
        SIZES,
        "order 4",
        also=MODES[:1],
        same=1e-4,
        gpu_sizes=GPU,
        why="finite up to the largest float, where the Horner form overflows, and accurate where it cancels",
    ),
    Case(
        "functions.exp_taylor.exp_taylor_features",
        "torch",
        "einsum, flatten, cat",
        _features,
        tuple({"n": n, "d": 16} for n in (256, 1024, 4096)),
        also=MODES[:1],
        gpu_sizes=tuple({"n": n, "d": 16} for n in (4096, 16384, 65536)),
    ),
]
