"""Argument checks, once: TypeError for the wrong kind, ValueError for the wrong value; every message begins with the argument's name."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def count(name: str, value: Any, *, minimum: int = 1) -> int:
    """An integer of at least ``minimum``; bool and float are refused."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got a bool")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> float:
    """A finite real number between ``low`` and ``high`` (ends included unless open); bool is refused."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several elements raises RuntimeError
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}") from None
    above = result > low if open_low else result >= low
    below = result < high if open_high else result <= high
    if not (math.isfinite(result) and above and below):
        interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name} must be a finite number in {interval}, got {value}")
    return result


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(options)}, got {type(value).__name__}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False and nothing else."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return value


def tensor(name: str, value: Any) -> Tensor:
    """A tensor of any dtype."""
    from torch import Tensor

    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    return value


def floating(name: str, value: Any, *, ndim: int | None = None) -> Tensor:
    """A real floating-point tensor, with exactly ``ndim`` axes where that is given."""
    checked = tensor(name, value)
    if not checked.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {checked.dtype}")
    return axes(name, checked, ndim)


def integer(name: str, value: Any, *, ndim: int | None = None) -> Tensor:
    """An integer tensor (bool excluded), with exactly ``ndim`` axes where that is given."""
    import torch

    checked = tensor(name, value)
    if checked.dtype == torch.bool or checked.is_floating_point() or checked.is_complex():
        raise TypeError(f"{name} must be an integer tensor, got {checked.dtype}")
    return axes(name, checked, ndim)


def real(name: str, value: Any) -> Tensor:
    """An integer or real tensor (bool and complex excluded)."""
    import torch

    checked = tensor(name, value)
    if checked.dtype == torch.bool or checked.is_complex():
        raise TypeError(f"{name} must hold integers or real numbers, got {checked.dtype}")
    return checked


def floating_dtype(name: str, value: Any) -> torch.dtype:
    """A real floating-point dtype."""
    import torch

    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name} must be a floating dtype, got {value}")
    return value


def boolean(name: str, value: Any) -> Tensor:
    """A boolean tensor: True means "takes part"."""
    import torch

    checked = tensor(name, value)
    if checked.dtype != torch.bool:
        raise TypeError(f"{name} must be a boolean tensor (True = takes part), got {checked.dtype}")
    return checked


def axes(name: str, value: Tensor, ndim: int | None) -> Tensor:
    """``value`` if it has ``ndim`` axes."""
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {tuple(value.shape)}")
    return value


def shape(name: str, value: Tensor, expected: Sequence[int]) -> Tensor:
    """``value`` if its shape is exactly ``expected``."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(value.shape)}")
    return value


def alike(name: str, value: Tensor, other_name: str, other: Tensor) -> Tensor:
    """``value`` if it has the dtype and the device of ``other``."""
    if value.dtype != other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name} ({other.dtype}), got {value.dtype}")
    return same_device(name, value, other_name, other)


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> Tensor:
    """``value`` if it is on the device of ``other``."""
    if value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name} ({other.device}), got {value.device}")
    return value


def generator(name: str, value: Any) -> torch.Generator | None:
    """A random generator, or None for PyTorch's global one."""
    import torch

    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"{name} must be a torch.Generator or None, got {type(value).__name__}")
    return value
