r"""GELU, :math:`x\Phi(x)`, its two elementary approximations, and the min-max fit from which their constants come out.

With :math:`\Phi` the standard normal distribution function, GELU weighs its argument by the probability that a standard normal
number lies below it. The approximations replace :math:`\Phi(x)` by a logistic function of an odd polynomial,
:math:`\sigma(2\sqrt{2/\pi}\,(x+0.044715x^3))` ("tanh") or :math:`\sigma(1.702x)` ("sigmoid").

Source: "Where the two elementary approximations of GELU come from" (kexue.fm/archives/7309); Hendrycks and Gimpel (2016),
arXiv:1606.08415.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kexue import _check

__all__ = ["gelu", "GELU", "minimax_fit"]

_FORMS = ("none", "tanh", "sigmoid")
_SLOPE = 2 * math.sqrt(2 / math.pi)
# Beyond these arguments the gate is 0 or 1 in every dtype; held there, no power overflows and no gradient is inf * 0.
_NORMAL_END, _LOGISTIC_END = 40.0, 1000.0
# Below this the gate is 0 for every scale allowed; held there, -inf times 0 does not arise.
_LEAST = -1e9


def gelu(x: Tensor, approximate: str = "none", *, cubic: float = 0.044715, scale: float = 1.702) -> Tensor:
    r"""Gaussian error linear unit :math:`x\Phi(x)`, exact or approximated.

    Written so that small values keep their relative accuracy: "none" is :math:`\tfrac x2\,\mathrm{erfc}(-x/\sqrt2)`, where
    :math:`\tfrac x2(1+\mathrm{erf}(x/\sqrt2))` would cancel for negative ``x``; "tanh" is
    :math:`x\,\sigma(2\sqrt{2/\pi}\,(x+\mathrm{cubic}\,x^3))`, which equals
    :math:`\tfrac x2(1+\tanh(\sqrt{2/\pi}\,(x+\mathrm{cubic}\,x^3)))`; "sigmoid" is :math:`x\,\sigma(\mathrm{scale}\,x)`.

    Args:
        x: floating point, any shape.
        approximate: "none", "tanh" or "sigmoid".
        cubic: coefficient of :math:`x^3` relative to that of :math:`x`, from 0 to 1e6; used by "tanh".
        scale: slope of the argument of the logistic function, from 1e-6 to 1e6; used by "sigmoid" (1 gives SiLU).
    Returns:
        Shape, dtype and device of ``x``; half precision is computed in float32 and rounded once. The relative error of the chosen
        form is at most 2e-5 in float32 for ``x`` in [-12, 6] (where the result is not below 1e-36, as "tanh" is from -10.3 on),
        that of "none" at most 1e-11 in float64 for ``x`` in [-37, 37].
        ``-inf`` gives 0, ``inf`` gives ``inf``, NaN stays. Twice differentiable; the gradient is finite for every finite ``x``.
    Raises:
        TypeError: ``x`` is not a floating-point tensor, ``approximate`` no string, ``cubic`` or ``scale`` no number.
        ValueError: ``approximate`` is another word, or ``cubic`` or ``scale`` out of its range.

    >>> gelu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.1587,  0.0000,  1.9545])
    >>> gelu(torch.tensor([-1.0, 0.0, 2.0]), "tanh")
    tensor([-0.1588,  0.0000,  1.9546])
    """
    _check.floating("x", x)
    return _gelu(x, *_options(approximate, cubic, scale))


def _options(approximate: str, cubic: float, scale: float) -> tuple[str, float, float]:
    _check.choice("approximate", approximate, _FORMS)
    return approximate, _check.number("cubic", cubic, 0.0, 1e6), _check.number("scale", scale, 1e-6, 1e6)


def _gelu(x: Tensor, approximate: str, cubic: float, scale: float) -> Tensor:
    wide = _check.widen(x)
    if x.is_cpu and not _differentiated(x):
        result = _in_place(wide, approximate, cubic, scale)
        # -inf * 0 is the one NaN that numbers can give here. To look for it is cheaper than another tensor that prevents it.
        if _check.seen(lambda: bool(result.sum().isnan())) is False:
            return result.to(x.dtype)
    return (wide.clamp(min=_LEAST) * _gate(wide, approximate, cubic, scale)).to(x.dtype)


def _gate(x: Tensor, approximate: str, cubic: float, scale: float) -> Tensor:
    """The exact or approximate normal distribution function."""
    if approximate == "none":
        tail: Tensor = torch.special.erfc(x.clamp(-_NORMAL_END, _NORMAL_END) * -math.sqrt(0.5))
        return 0.5 * tail
    if approximate == "sigmoid":
        return torch.sigmoid((x * scale).clamp(-_LOGISTIC_END, _LOGISTIC_END))
    held = x.clamp(-_LOGISTIC_END, _LOGISTIC_END)
    return torch.sigmoid(held * (_SLOPE + _SLOPE * cubic * (held * held)))


def _in_place(x: Tensor, approximate: str, cubic: float, scale: float) -> Tensor:
    """``x`` times its gate where nothing is differentiated: one or two new tensors instead of one for every operation."""
    if approximate == "none":
        return x.mul(-math.sqrt(0.5)).erfc_().mul_(0.5).mul_(x)
    if approximate == "sigmoid":
        return x.mul(scale).sigmoid_().mul_(x)
    held = x.clamp(-_LOGISTIC_END, _LOGISTIC_END)
    return held.square().mul_(_SLOPE * cubic).add_(_SLOPE).mul_(held).sigmoid_().mul_(x)


# Whether a trace is taken, whether vmap, grad, jvp and their like are at work, and how many modes watch every step; a later
# PyTorch may not tell.
_in_trace = getattr(torch.jit, "is_tracing", lambda: True)
_in_transform = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def _differentiated(x: Tensor) -> bool:
    """Whether a derivative, a compiler, a trace or a transform may need every step."""
    if torch.compiler.is_compiling() or _in_trace() or _in_transform() or _modes():
        return True
    if torch.is_grad_enabled() and x.requires_grad:
        return True
    # Outside a dual level nothing has a tangent, and unpack_dual imports PyTorch's decompositions to find that out.
    return bool(getattr(forward_ad, "_current_level", 0) >= 0) and forward_ad.unpack_dual(x).tangent is not None


class GELU(nn.Module):
    """:func:`gelu` as a layer without parameters.

    Args:
        approximate, cubic, scale: as in :func:`gelu`.
    Raises:
        TypeError, ValueError: as :func:`gelu`.

    >>> GELU("sigmoid")(torch.tensor([2.0]))
    tensor([1.9357])
    """

    def __init__(self, approximate: str = "none", *, cubic: float = 0.044715, scale: float = 1.702) -> None:
        super().__init__()
        self.approximate, self.cubic, self.scale = _options(approximate, cubic, scale)

    def forward(self, x: Tensor) -> Tensor:
        """:func:`gelu` of ``x``.

        Args:
            x: floating point, any shape.
        Returns:
            Shape, dtype and device of ``x``.
        Raises:
            TypeError: ``x`` is not a floating-point tensor.
        """
        return gelu(x, self.approximate, cubic=self.cubic, scale=self.scale)

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        """The option that the form uses."""
        option = {"tanh": f", cubic={self.cubic}", "sigmoid": f", scale={self.scale}"}.get(self.approximate, "")
        return f"approximate={self.approximate!r}{option}"


def minimax_fit(
    target: Callable[[Tensor], Tensor],
    model: Callable[[Tensor, float], Tensor],
    bracket: Iterable[float],
    *,
    interval: Iterable[float] = (0.0, 8.0),
) -> tuple[float, float]:
    r"""The parameter of a model for which the largest error of either sign is the same: a Chebyshev fit with one parameter.

    If the model rises with :math:`\theta` at every point of the interval, or falls at every point, no other :math:`\theta` has a
    smaller maximum error: to move it makes one of the two worse. For other models the result is balanced and nothing more.

    Args:
        target: :math:`x\mapsto f(x)`, from a float64 tensor of any shape, its own copy, to one of the same shape.
        model: :math:`(x,\theta)\mapsto m(x,\theta)`, the same with a float as second argument.
        bracket: two numbers, low < high, between which :math:`\theta` is sought. The two largest errors must compare one way at
            one end and the other way at the other.
        interval: two numbers, low < high: the :math:`x` on which the errors are looked at. Both functions are taken to be
            continuous there and to oscillate no faster than a grid of 2049 points can follow.
    Returns:
        ``(theta, error)``: :math:`\theta` to 1e-9 (relative, above 1), and the largest :math:`|f-m|`, taken at its refined place
        and not at a grid point. No part of a graph.
    Raises:
        TypeError: ``target`` or ``model`` is not callable or returns something else; ``bracket`` or ``interval`` is no pair of
            numbers.
        ValueError: ``target`` or ``model`` returns another shape or something that is not finite; ``bracket`` is empty or the
            errors compare the same way at both ends; ``interval`` is empty.

    >>> theta, error = minimax_fit(torch.exp, lambda x, theta: 0 * x + theta, (0, 5), interval=(0, 1))
    >>> round(theta, 9), round(error, 9)  # (e + 1) / 2 and (e - 1) / 2
    (1.859140914, 0.859140914)
    """
    for name, function in (("target", target), ("model", model)):
        if not callable(function):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")
    low, high = _pair("bracket", bracket)
    first, last = _pair("interval", interval)

    def error_at(theta: float) -> Callable[[Tensor], Tensor]:
        # Each gets an x of its own: one that works in place must not change what the other sees.
        return lambda x: _values("target", target(x.clone()), x) - _values("model", model(x.clone(), theta), x)

    def extremes(theta: float) -> tuple[float, float]:
        error = error_at(theta)
        return _largest(error, first, last), _largest(lambda x: -error(x), first, last)

    with torch.no_grad():
        at_low, at_high = (above - below for above, below in (extremes(low), extremes(high)))
        if not (at_low <= 0 <= at_high or at_high <= 0 <= at_low):
            raise ValueError(
                f"bracket must hold a balance of the two largest errors, got ({low}, {high}), "
                f"where their difference is {at_low:.3g} and {at_high:.3g}"
            )
        rising = at_low < at_high
        while True:
            theta = low + 0.5 * (high - low)
            above, below = extremes(theta)
            if not low < theta < high or high - low <= 1e-13 * max(1.0, abs(theta)):
                return theta, max(above, below)
            if (above > below) == rising:
                high = theta
            else:
                low = theta


def _pair(name: str, value: Any) -> tuple[float, float]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} must be a pair of numbers, got {type(value).__name__}")
    try:
        ends = tuple(itertools.islice(value, 3))
    except (TypeError, RuntimeError):  # an array or a tensor without axes
        raise TypeError(f"{name} must be a pair of numbers, got {type(value).__name__} that cannot be iterated over") from None
    if len(ends) != 2:
        raise ValueError(f"{name} must be a pair of numbers, got {'more' if ends[2:] else len(ends)}")
    low, high = (_check.number(name, end, -1e150, 1e150) for end in ends)
    if not low < high:
        raise ValueError(f"{name} must have low < high, got ({low}, {high})")
    return low, high


def _values(name: str, value: Any, x: Tensor) -> Tensor:
    result = _check.floating(name, value)
    _check.same_device(name, result, "its argument", x)
    if result.shape != x.shape:
        raise ValueError(f"{name} must return the shape of its argument {tuple(x.shape)}, got {tuple(result.shape)}")
    if not bool(result.isfinite().all()):
        raise ValueError(f"{name} must be finite on the interval, got inf or NaN")
    return result


def _largest(f: Callable[[Tensor], Tensor], first: float, last: float) -> float:
    """The maximum on an interval: the eight highest peaks of a grid, each looked at ever closer."""
    x = torch.linspace(first, last, 2049, dtype=torch.float64)
    y = f(x[None])[0]
    best = float(y.max())
    padded = torch.nn.functional.pad(y, (1, 1), value=-math.inf)
    peaks = torch.where((y >= padded[:-2]) & (y >= padded[2:]), y, -math.inf)
    centre = x[peaks.topk(8).indices]
    step = (last - first) / 2048
    around = torch.linspace(-1, 1, 17, dtype=torch.float64)
    for _ in range(6):
        x = (centre[:, None] + step * around).clamp(first, last)
        y = f(x)
        best = max(best, float(y.max()))
        centre = x.gather(1, y.argmax(1, keepdim=True))[:, 0]
        step /= 8
    return best
