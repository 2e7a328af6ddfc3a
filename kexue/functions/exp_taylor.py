r"""Even Taylor polynomials of the exponential, which are positive, and the softmax made of them.

:math:`f_n(x) = \sum_{k=0}^n x^k/k!` is positive on the whole real line for even n. It has no real zero, so it is a product of n/2
positive quadratics, one for each pair of complex zeros: logarithm and softmax are computed from that product, in which nothing cancels.

Source: Su Jianlin, "The even Taylor expansions of exp(x) at x = 0 are always positive" (2020), https://kexue.fm/archives/7919;
Banerjee et al. (2020), arXiv:2011.11538; de Brébisson & Vincent (2015), arXiv:1511.05042.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from kexue import _check

__all__ = [
    "exp_taylor",
    "log_exp_taylor",
    "exp_taylor_minimum",
    "taylor_softmax",
    "log_taylor_softmax",
    "taylor_cross_entropy",
    "exp_taylor_features",
]

# Up to here the scaled products of taylor_softmax stay far from both ends of float32.
_HIGHEST = 100
# Below this the squares of taylor_softmax at order 2 need no scaling, forward or backward, in float32 and float64.
_MODERATE = 1e30


def exp_taylor(x: Tensor, order: int) -> Tensor:
    r"""Taylor polynomial of the exponential at 0, :math:`f_n(x) = \sum_{k=0}^n x^k/k!`, in Horner form.

    Args:
        x: floating point, any shape.
        order: n, the highest power, at least 0; odd orders are allowed.
    Returns:
        Shape, dtype and device of ``x``; half precision is computed in float32 and rounded once. The error is at most about
        ``3 * order`` roundings of :math:`f_n(|x|)`, so for even orders up to 12 the result is positive wherever ``x`` is finite; at
        higher orders and ``x`` near ``-0.28 * order`` rounding may exceed the value (:func:`log_exp_taylor` has no such place).
        Overflows to infinity as :math:`|x|^n/n!` does. The gradient is :math:`f_{n-1}(x)`, by autograd.
    Raises:
        TypeError: ``x`` is not a floating tensor, or ``order`` not an integer.
        ValueError: ``order`` is negative.

    >>> exp_taylor(torch.tensor([-1.0, 0.0, 1.0]), 2)
    tensor([0.5000, 1.0000, 2.5000])
    """
    _check.floating("x", x)
    order = _check.count("order", order, minimum=0)
    wide = _check.widen(x)
    return (_zeros(wide) + 1 if order == 0 else wide * _slope(wide, order) + 1).to(_check.result_dtype(x))


def _slope(x: Tensor, order: int) -> Tensor:
    """(f_n(x) - 1) / x, for n >= 1."""
    value = torch.ones_like(x)
    one = x.new_ones(())
    for k in range(order, 1, -1):
        value = torch.addcmul(one, x, value, value=1 / k)
    return value


def _zeros(x: Tensor) -> Tensor:
    """Zeros whose gradient is zero, as a constant in a graph has none."""
    return x.sign() * 0


def log_exp_taylor(x: Tensor, order: int) -> Tensor:
    r"""Logarithm of :func:`exp_taylor` for even orders, without overflow and without cancellation.

    With the zeros :math:`a_j \pm \mathrm i b_j` of :math:`f_n` it is :math:`\sum_j \log((x - a_j)^2 + b_j^2) - \log n!`.

    Args:
        x: floating point, any shape.
        order: n, even, from 0 to 100.
    Returns:
        Shape, dtype and device of ``x``; float32 for half precision under autocast. Finite with finite gradient
        :math:`f_{n-1}/f_n` for every finite ``x``; accurate to a few roundings of the larger of the result and :math:`\log n!`, for
        :math:`|x| \le 1/2` of the result itself.
    Raises:
        TypeError: ``x`` is not a floating tensor, or ``order`` not an integer.
        ValueError: ``order`` is odd, negative or above 100.

    >>> log_exp_taylor(torch.tensor([-1.0, 0.0, 1e30]), 2)
    tensor([ -0.6931,   0.0000, 137.4620])
    """
    _check.floating("x", x)
    order = _even(order)
    wide = _check.widen(x)
    if order == 0:
        return _zeros(wide).to(_check.result_dtype(x))
    near = wide.abs() <= 0.5
    small = torch.where(near, wide, 0.0)
    large = _log_weights(torch.where(near, 1.0, wide), order) - math.lgamma(order + 1)
    return torch.where(near, torch.log1p(small * _slope(small, order)), large).to(_check.result_dtype(x))


def _constant(function: Callable[[int], Any]) -> Callable[[int], Any]:
    """As torch.compiler.assume_constant_result, which would load the compiler for everybody who imports this module."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def _even(order: int) -> int:
    order = _check.count("order", order, minimum=0, maximum=_HIGHEST)
    if order % 2:
        raise ValueError(f"order must be even, got {order}: an odd Taylor polynomial of exp is negative somewhere")
    return len(range(order))  # fixes a number that is being traced: another order is another graph


def _log_weights(x: Tensor, order: int) -> Tensor:
    """log(n! f_n(x))."""
    pairs = _zero_pairs(order)
    return 2 * sum((torch.hypot(x - a, x.new_full((), b)).log() for a, b in pairs), _zeros(x) if order == 0 else x.new_zeros(()))


@_constant
def _zero_pairs(order: int) -> tuple[tuple[float, float], ...]:
    return _zero_pairs_once(order)


@cache
def _zero_pairs_once(order: int) -> tuple[tuple[float, float], ...]:
    """Real and (positive) imaginary part of each pair of zeros of f_n, by the iteration of Aberth with exact values of f_n/f_n'."""
    zeros = [0.6 * order * cmath.exp(1j * math.pi * (2 * m + 1) / order) for m in range(order // 2)]
    for _ in range(200):
        everywhere = [*zeros, *(z.conjugate() for z in zeros)]
        moved = []
        for z in zeros:
            newton = _newton_step(z, order)
            repelled = sum(1 / (z - other) for other in everywhere if other != z)
            moved.append(newton / (1 - newton * repelled))
        zeros = [z - step for z, step in zip(zeros, moved, strict=True)]
        if max(map(abs, moved), default=0.0) < 1e-13 * order:
            break
    return tuple((z.real, abs(z.imag)) for z in sorted(zeros, key=lambda z: z.real))


def _newton_step(z: complex, order: int) -> complex:
    """f_n(z) / f_n'(z) in whole numbers, rounded once: f_n' = f_n - z^n/n!, over the common denominator 2^(52 n) n!."""
    p, q = int(z.real * 2.0**52), int(z.imag * 2.0**52)
    (a, b), (c, d), unit = (1, 0), (1, 0), 1
    for k in range(order, 0, -1):
        unit *= k << 52
        a, b = unit + p * a - q * b, p * b + q * a
        c, d = p * c - q * d, p * d + q * c
    c, d = a - c, b - d
    norm = c * c + d * d
    return complex((a * c + b * d) / norm, (b * c - a * d) / norm)


def exp_taylor_minimum(order: int) -> tuple[float, float]:
    r"""Where the Taylor polynomial of an even order is smallest, and its value there.

    The place :math:`x^*` is the only real zero of :math:`f_{n-1}`, found by bisection with exact signs, and the value is
    :math:`x^{*n}/n!`.

    Args:
        order: n, even, from 2 to 1000.
    Returns:
        ``(x*, f_n(x*))``: the first within one rounding, the second within ``order`` roundings.
    Raises:
        TypeError: ``order`` is not an integer.
        ValueError: ``order`` is odd, below 2 or above 1000.

    >>> exp_taylor_minimum(2)
    (-1.0, 0.5)
    """
    order = _check.count("order", order, minimum=2, maximum=1000)
    if order % 2:
        raise ValueError(f"order must be even, got {order}: an odd Taylor polynomial of exp has no minimum")
    place, value = _minimum(len(range(order)))
    return place, value


@_constant
def _minimum(order: int) -> tuple[float, float]:
    return _minimum_once(order)


@cache
def _minimum_once(order: int) -> tuple[float, float]:
    low, high = -float(order), 0.0
    while low < (middle := (low + high) / 2) < high:
        sign = _sign(middle, order - 1)
        if sign == 0:
            low = high = middle
        elif sign > 0:
            high = middle
        else:
            low = middle
    return high, float(Fraction(high) ** order / math.factorial(order))


def _sign(x: float, order: int) -> int:
    """The sign of f_n(x), in whole numbers."""
    p, q = x.as_integer_ratio()
    value, unit = 1, 1
    for k in range(order, 0, -1):
        unit *= k * q
        value = unit + p * value
    return (value > 0) - (value < 0)


def taylor_softmax(logits: Tensor, order: int = 2, *, dim: int = -1, monotone: bool = False) -> Tensor:
    r"""Probabilities proportional to an even Taylor polynomial of the logits, :math:`p_i = f_n(x_i) / \sum_j f_n(x_j)`.

    Unlike softmax it changes when a number is added to all logits, and :math:`f_n` falls left of its minimum: **the largest logit
    need not have the largest probability**. Predict with the argmax of the probabilities, or set ``monotone``.

    Args:
        logits: floating point; ``-inf`` marks an absent entry.
        order: n, even, from 0 (uniform) to 100.
        dim: the axis along which probabilities sum to 1.
        monotone: use :math:`f_n(\max(x, x^*))` with the place :math:`x^*` of the minimum, which never falls; logits below
            :math:`x^*` then have gradient zero.
    Returns:
        Shape, dtype and device of ``logits``; float32 for half precision under autocast. Nothing overflows for finite logits. An
        absent entry has probability and gradient 0, and so has a slice of nothing but absent entries.
    Raises:
        TypeError: ``logits`` is not a floating tensor, ``order`` or ``dim`` not an integer, ``monotone`` not a bool.
        ValueError: ``order`` is odd, negative or above 100; ``dim`` is no axis; ``logits`` has no entry along it.

    >>> taylor_softmax(torch.tensor([-5.0, 3.0]))
    tensor([0.5000, 0.5000])
    """
    order, dim = _options(logits, order, dim, monotone)
    x, dtype = _check.widen(logits), _check.result_dtype(logits)
    if order == 2 and x.numel() and x.device.type == "cpu" and not (torch.compiler.is_compiling() or _transformed(x)):
        graph = torch.is_grad_enabled() and x.requires_grad
        probs, total = (_OrderTwo.apply if graph else _order_two)(x, dim, monotone)
        # Neither overflow, nor NaN, nor an absent entry, which monotone weights would hide.
        if total.amax() < _MODERATE and not (monotone and x.amin() == -math.inf):
            return probs.to(dtype)
    return _any_order(x, order, dim, monotone).to(dtype)


def _any_order(x: Tensor, order: int, dim: int, monotone: bool) -> Tensor:
    absent = x == -math.inf
    x = _clamped(x.masked_fill(absent, 0.0), order, monotone)
    if order == 0:
        weights = _zeros(x) + 1
    else:
        # The zeros lie between 0.27 n and n from 0, on (geometric) average about n / e.
        scale = x.detach().abs().amax(dim, keepdim=True).clamp(min=order / math.e)
        weights = torch.ones_like(x)
        for a, b in _zero_pairs(order):
            weights = weights * (((x - a) / scale).square() + (b / scale).square())
    weights = weights.masked_fill(absent, 0.0)
    return weights / weights.sum(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def _clamped(x: Tensor, order: int, monotone: bool) -> Tensor:
    return x.clamp(min=exp_taylor_minimum(order)[0]) if monotone and order else x


# Whether vmap, grad, jvp and their like are at work; a later PyTorch may not tell.
_in_transform = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _transformed(x: Tensor) -> bool:
    return _in_transform() or forward_ad.unpack_dual(x).tangent is not None


def _order_two(x: Tensor, dim: int, monotone: bool) -> tuple[Tensor, Tensor]:
    """(1 + x)^2 + 1 over its sum, and the sum: one new tensor, written in place."""
    weights = _one_plus(x, monotone)
    torch.addcmul(x.new_ones(()), weights, weights, out=weights)
    total = weights.sum(dim, keepdim=True)
    return weights.div_(total), total


def _one_plus(x: Tensor, monotone: bool) -> Tensor:
    return (x + 1).relu_() if monotone else x + 1


class _OrderTwo(torch.autograd.Function):
    # Autograd would keep three tensors and make eight; with the gradient 2 (1 + x) / total of log p written out it is half the time.

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, monotone: bool) -> tuple[Tensor, Tensor]:
        probs, total = _order_two(x, dim, monotone)
        ctx.save_for_backward(x, probs, total)
        ctx.mark_non_differentiable(total)
        ctx.options = dim, monotone
        return probs, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        x, probs, total = ctx.saved_tensors
        dim, monotone = ctx.options
        if torch.is_grad_enabled():  # a second derivative is wanted
            slope: Tensor = torch.autograd.grad(_any_order(x, 2, dim, monotone), x, grad, create_graph=True)[0]
            return slope, None, None
        centred = grad - (grad * probs).sum(dim, keepdim=True)  # may be a batch of gradients, so the result is written here
        return centred.mul_(_one_plus(x, monotone)).mul_(2 / total), None, None


def _options(logits: Tensor, order: int, dim: int, monotone: bool) -> tuple[int, int]:
    _check.floating("logits", logits)
    order = _even(order)
    axes = max(logits.ndim, 1)
    dim = _check.count("dim", dim, minimum=-axes, maximum=axes - 1)
    _check.flag("monotone", monotone)
    if logits.ndim and logits.shape[dim] == 0:
        raise ValueError(f"logits must have at least one entry along dim={dim}, got shape {tuple(logits.shape)}")
    return order, dim


def log_taylor_softmax(logits: Tensor, order: int = 2, *, dim: int = -1, monotone: bool = False) -> Tensor:
    r"""Logarithm of :func:`taylor_softmax`: the log-softmax of :math:`\log f_n(x_i)`, finite for all finite logits.

    Args:
        logits: floating point; ``-inf`` marks an absent entry.
        order: n, even, from 0 (uniform) to 100.
        dim: the axis along which probabilities sum to 1.
        monotone: as in :func:`taylor_softmax`.
    Returns:
        Shape, dtype and device of ``logits``; float32 for half precision under autocast. Absent entries are ``-inf`` with gradient 0.
    Raises:
        TypeError: ``logits`` is not a floating tensor, ``order`` or ``dim`` not an integer, ``monotone`` not a bool.
        ValueError: ``order`` is odd, negative or above 100; ``dim`` is no axis; ``logits`` has no entry along it.

    >>> log_taylor_softmax(torch.tensor([-1.0, 1.0])).exp()
    tensor([0.1667, 0.8333])
    """
    order, dim = _options(logits, order, dim, monotone)
    return _log_probs(_check.widen(logits), order, dim, monotone).to(_check.result_dtype(logits))


def _log_probs(x: Tensor, order: int, dim: int, monotone: bool) -> Tensor:
    absent = x == -math.inf
    x = _clamped(x.masked_fill(absent, 0.0), order, monotone)
    scores = _log_weights(x, order).masked_fill(absent & ~absent.all(dim, keepdim=True), -math.inf)
    return scores.log_softmax(dim).masked_fill(absent, -math.inf)


def taylor_cross_entropy(
    logits: Tensor, target: Tensor, order: int = 2, *, margin: float = 0.0, monotone: bool = False, reduction: str = "mean"
) -> Tensor:
    r"""Cross entropy of the Taylor softmax, with an optional margin that is subtracted from the logit of the target.

    With a margin use ``monotone``, or start with biases above 0: at order 2 a network that begins with logits near 0 is otherwise
    pushed over the minimum, where a *smaller* logit means a larger probability (see the chapter).

    Args:
        logits: floating point, shape ``(N, C)``; ``-inf`` marks an absent class.
        target: the right classes, integers in ``[0, C - 1]``, shape ``(N,)``.
        order: n, even, from 0 to 100.
        margin: subtracted from the target's logit only, in the unit of the logits.
        monotone: as in :func:`taylor_softmax`.
        reduction: "mean", "sum" or "none".
    Returns:
        A scalar, shape ``(N,)`` for "none"; dtype of ``logits``, float32 for half precision under autocast. The mean over no row is 0.
        An absent target costs infinity.
    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: ``logits`` is not of shape ``(N, C)`` with ``C >= 1``, ``target`` does not fit, ``order`` is odd, negative or
            above 100, ``margin`` is not finite, ``reduction`` is none of the three.

    >>> taylor_cross_entropy(torch.tensor([[3.0, -5.0]]), torch.tensor([0])).exp()
    tensor(2.)
    """
    _check.floating("logits", logits, ndim=2)
    order, _ = _options(logits, order, 1, monotone)
    _check.same_device("target", _check.shape("target", _check.integer("target", target), logits.shape[:1]), "logits", logits)
    margin = _check.number("margin", margin)
    _check.choice("reduction", reduction, ("mean", "sum", "none"))
    chosen = _check.entries_within("target", target.long(), logits.shape[1])
    x = _check.widen(logits)
    if margin != 0:
        x = x - margin * F.one_hot(chosen, x.shape[1]).to(x.dtype)
    log_probs = _log_probs(x, order, 1, monotone)
    mode = "sum" if reduction == "mean" and not len(chosen) else reduction
    return F.nll_loss(log_probs, chosen, reduction=mode).to(_check.result_dtype(logits))


def exp_taylor_features(x: Tensor) -> Tensor:
    r"""Features whose inner product is the order-2 polynomial: :math:`\phi(q)\cdot\phi(k) = 1 + q\cdot k + (q\cdot k)^2/2`.

    :math:`\phi(x) = [1, x, \operatorname{vec}(xx^\top)/\sqrt2]` makes attention with Taylor weights linear in the length.

    Args:
        x: floating point, shape ``(..., d)``.
    Returns:
        Shape ``(..., 1 + d + d * d)``; dtype and device of ``x``, float32 for half precision under autocast; differentiable.
    Raises:
        TypeError: ``x`` is not a floating tensor.
        ValueError: ``x`` has no axis.

    >>> exp_taylor_features(torch.tensor([2.0]))
    tensor([1.0000, 2.0000, 2.8284])
    """
    _check.floating("x", x)
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, got a scalar")
    wide = _check.widen(x)
    products = (wide.unsqueeze(-1) * wide.unsqueeze(-2) * math.sqrt(0.5)).flatten(-2)
    return torch.cat([wide.new_ones((*wide.shape[:-1], 1)), wide, products], -1).to(_check.result_dtype(x))
