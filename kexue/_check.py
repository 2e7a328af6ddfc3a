"""Argument checks, once: TypeError for the wrong kind, ValueError for the wrong value; every message begins with the argument's name."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def count(name: str, value: Any, *, minimum: int = 1, maximum: int = 2**63 - 1) -> int:
    """An integer from ``minimum`` to ``maximum`` (what an int64 holds); bool and float are refused."""
    # A plain integer stays as it is: to convert one that is being traced would fix it and so recompile at every new value.
    checked = value if type(value) is int else _index(name, value)
    if not minimum <= checked <= maximum:
        bound = f"at least {minimum}" if checked < minimum else f"at most {maximum}"
        raise ValueError(f"{name} must be {bound}, got {checked if checked.bit_length() <= 64 else 'one beyond 64 bits'}")
    return checked


def _index(name: str, value: Any) -> int:
    if isinstance(value, bool) or _dtype_has(value, "bool"):
        raise TypeError(f"{name} must be an integer, got a bool")
    try:
        return int(operator.index(value))
    except (TypeError, RuntimeError):  # a tensor without a value raises RuntimeError
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def position(name: str, value: Any) -> int:
    """The position of a first row: an integer that float64 can tell from its neighbours."""
    return count(name, value, minimum=0, maximum=2**53)


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> float:
    """A finite real number between ``low`` and ``high`` (ends included unless open); bool is refused."""
    if type(value) is not float and type(value) is not int:
        several = getattr(value, "ndim", 0) > 0
        if several or isinstance(value, (bool, str, bytes, bytearray)) or _dtype_has(value, "bool", "complex"):
            raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
        if getattr(value, "requires_grad", False):
            raise TypeError(f"{name} must be a real number, got a tensor that requires a gradient, which would be lost")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    except (TypeError, ValueError, RuntimeError):  # a tensor without a value raises RuntimeError
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}") from None
    above = result > low if open_low else result >= low
    below = result < high if open_high else result <= high
    # Comparisons, which NaN fails: the compiler cannot trace math.isfinite of a float that it treats as a variable.
    if not (-math.inf < result < math.inf and above and below):
        interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name} must be a finite number in {interval}, got {result}")
    return result


def _dtype_has(value: Any, *words: str) -> bool:
    """Whether ``value`` is an array or a tensor of one of these dtypes; neither library is imported for it."""
    dtype = str(getattr(value, "dtype", ""))
    return any(word in dtype for word in words)


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
    """A dense tensor of any dtype."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")
    return value


def floating(name: str, value: Any, *, ndim: int | None = None) -> Tensor:
    """A real floating-point tensor of 16 bits or more, with exactly ``ndim`` axes where that is given."""
    checked = tensor(name, value)
    if not checked.is_floating_point() or _eight_bit(checked.dtype):
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
    """An integer or real tensor (bool, complex and 8-bit floats excluded)."""
    import torch

    checked = tensor(name, value)
    if checked.dtype == torch.bool or checked.is_complex() or _eight_bit(checked.dtype):
        raise TypeError(f"{name} must hold integers or real numbers, got {checked.dtype}")
    return checked


def position_tensor(name: str, value: Any) -> Tensor:
    """Integer or real positions; half precision is refused, since neither of the two kinds holds the integers above 2048."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise TypeError(f"{name} must be a tensor, got int; did you mean offset={value}?")
    checked = real(name, value)
    if is_half(checked.dtype):
        raise TypeError(f"{name} must be integers, float32 or float64, got {checked.dtype}, which cannot hold the integers")
    return checked


def row_positions(name: str, value: Any, x_name: str, x: Tensor) -> Tensor:
    """Positions of the rows of ``x`` (..., n, features): shape (n,), (1, n) or (B, n), returned so that they broadcast to (..., n)."""
    positions = same_device(name, position_tensor(name, value), x_name, x)
    n = x.shape[-2]
    given = tuple(positions.shape)
    if given == (n,):
        return positions
    if x.ndim > 2 and len(given) == 2 and given[0] in (1, x.shape[0]) and given[1] == n:
        return positions.reshape(given[0], *[1] * (x.ndim - 3), n)
    expected = f"({n},)" if x.ndim == 2 else f"({n},), (1, {n}) or ({x.shape[0]}, {n})"
    remedy = ""
    if x.ndim == 4 and given[-1:] == (x.shape[1],):
        remedy = f"; heads come before rows: hand over {x_name}.transpose(1, 2) of a tensor (B, n, H, features)"
    raise ValueError(f"{name} must have shape {expected}, got {given}{remedy}")


def entries_within(name: str, ids: Tensor, size: int) -> Tensor:
    """``ids`` if all lie in [0, size - 1]; they are looked at wherever values can be read (:func:`seen`)."""
    outside = seen(lambda: ids[(ids < 0) | (ids >= size)].tolist())
    if outside:
        raise ValueError(f"{name} must lie in [0, {size - 1}], got {outside[0]}")
    return ids


def prefix_mask(name: str, value: Any, expected: Sequence[int], other_name: str, other: Tensor) -> Tensor:
    """A boolean mask of padded rows: in every row a prefix of True, which may be empty or the whole row."""
    mask = shape(name, boolean(name, value), expected)
    same_device(name, mask, other_name, other)
    holes = seen(lambda: bool((mask[..., 1:] & ~mask[..., :-1]).any()))
    if holes:
        raise ValueError(f"{name} must be True up to some place of each row and False behind it, got a row with a hole")
    return mask


def seen(look: Callable[[], Any]) -> Any:
    """What ``look`` finds in the values of tensors, None where they cannot be read: in a graph, under vmap, without storage."""
    import torch

    if torch.compiler.is_compiling():
        return None
    try:
        return look()
    except RuntimeError:
        return None


def is_half(dtype: torch.dtype) -> bool:
    """Whether it is float16 or bfloat16."""
    return dtype.is_floating_point and dtype.itemsize == 2


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, everything else as it is."""
    return x.float() if is_half(x.dtype) else x


def autocast(place: torch.device) -> bool:
    """Whether autocast is at work on this kind of device."""
    import torch

    return place.type != "meta" and bool(torch.is_autocast_enabled(place.type))


def result_dtype(like: Tensor) -> torch.dtype:
    """The dtype in which a sum, a loss or a log-probability of ``like`` comes back: its own, but float32 for halves under autocast."""
    import torch

    return torch.float32 if is_half(like.dtype) and autocast(like.device) else like.dtype


def alike_or_autocast(name: str, value: Tensor, other_name: str, other: Tensor) -> Tensor:
    """:func:`alike`; under autocast, which mixes them by itself, floating dtypes may differ (torch.promote_types decides)."""
    if value.dtype != other.dtype and autocast(other.device):
        return same_device(name, value, other_name, other)
    return alike(name, value, other_name, other)


def drawing(source: torch.Generator | None) -> dict[str, Any]:
    """The keyword for a function that draws; empty for None, since PyTorch cannot trace ``generator=None`` with changing shapes."""
    return {} if source is None else {"generator": source}


# Kinds of devices that are known to have float64; Apple's have none, and of others we cannot know.
_FLOAT64_DEVICES = frozenset({"cpu", "cuda", "meta"})


def float64_device(place: torch.device) -> torch.device:
    """Where float64 is computed for tensors on ``place``: there if it has float64, else on the CPU."""
    import torch

    return place if place.type in _FLOAT64_DEVICES else torch.device("cpu")


def keepable(*tensors: Tensor) -> bool:
    """Whether a cache may keep these: plain tensors with storage, made neither in inference mode nor inside a transform."""
    import torch

    wrapped = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", lambda x: False)
    return all(type(x) is torch.Tensor and not (x.is_meta or x.is_inference() or wrapped(x)) for x in tensors)


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def sum_tolerance(eps: float, n: int, least: float = 0.0) -> float:
    """How far a sum of ``n`` probabilities of a dtype with this ``eps`` may be from 1: ``4 * eps * sqrt(n)``, at most 0.05."""
    return max(least, min(4.0 * eps * math.sqrt(n), 0.05))


def _eight_bit(dtype: torch.dtype) -> bool:
    """Whether it is a floating dtype too narrow to calculate with."""
    return dtype.is_floating_point and dtype.itemsize < 2


def floating_dtype(name: str, value: Any) -> torch.dtype:
    """A real floating-point dtype."""
    import torch

    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name} must be a floating dtype, got {value}")
    return value


def device(name: str, value: Any) -> torch.device | None:
    """A device, something that names one, or None for PyTorch's default."""
    import torch

    if value is None or isinstance(value, torch.device):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(f"{name} must be a torch.device or name one, got {type(value).__name__}")
    try:
        return torch.device(value)
    except RuntimeError:
        raise ValueError(f"{name} must name a device, got {value!r}") from None


def placement(place: Any, dtype: Any) -> None:
    """The last two arguments of every module with parameters, ``device`` and ``dtype``; None is PyTorch's default."""
    device("device", place)
    if dtype is not None and _eight_bit(floating_dtype("dtype", dtype)):
        raise TypeError(f"dtype must be a floating dtype of 16 bits or more, got {dtype}")


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


def readable(name: str, value: Tensor) -> Tensor:
    """``value`` if its entries can be looked at, which those on the meta device cannot."""
    if value.is_meta:
        raise ValueError(f"{name} must hold values, got a tensor on the meta device")
    return value


def generator(name: str, value: Any, place: torch.device | None = None) -> torch.Generator | None:
    """A random generator, which can draw on the device ``place``, or None for PyTorch's global one."""
    import torch

    if value is None:
        return None
    if not isinstance(value, torch.Generator):
        raise TypeError(f"{name} must be a torch.Generator or None, got {type(value).__name__}")
    if place is not None and place.type not in (value.device.type, "meta"):
        raise ValueError(f"{name} must be on the device of the tensors ({place}), got {value.device}")
    return value
