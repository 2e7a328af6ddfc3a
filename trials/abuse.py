"""Bad, odd and extreme arguments for every public name of the package, derived from one valid call of each.

The valid calls of a post stand beside its tests, in ``tests/part/calls_slug.py``. From signature, docstring and valid value the sweep
knows what kind of thing an argument is, and so what may go wrong with it. Every case must end in a right answer or in a TypeError or
ValueError that begins with the name of an argument: never in another exception, a warning, NaN out of finite input, a changed input or a
moved global generator. ``tests/trials/test_abuse.py`` runs it, ``python -m trials abuse`` stores the counts.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import inspect
import math
import pickle
import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from book_tools import state
from book_tools.chapter import ROOT

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# How far a result may lie from the one that float64 gives for the same values, relative to its largest entry.
TOLERANCE = {F64: 1e-10, F32: 2e-5, F16: 4e-3, BF16: 3e-2}
HUGE, TINY = {F64: 1e300, F32: 1e30, F16: 6e4, BF16: 1e30}, {F64: 5e-324, F32: 1e-42, F16: 6e-8, BF16: 1e-38}
KIND = "abuse"
Arguments = dict[str, Any]
Change = Callable[[Any], Any]


# --- one valid call per name ------------------------------------------------------------------------------------------


class Site(NamedTuple):
    """A place to call: a function, a constructor, or a method of what the constructor before it makes."""

    valid: Callable[[], Arguments]
    method: str = ""
    rows: str = ""  # the arguments whose first axis holds independent rows, as does that of the result
    fixed: bool = False  # the dtype of the result is not that of the arguments


class From(NamedTuple):
    """A value that is computed from the other arguments."""

    make: Change


def given(**arguments: Any) -> Arguments:
    return arguments


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def real(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def reals(names: str, *shape: int) -> Arguments:
    return {name: real(*shape, seed=i) for i, name in enumerate(names.split())}


PLACE = given(device="cpu", dtype=F64)
OVERFLOW = "a sum passes the largest float16: documented domain"
DRAWS = "a sample depends on the shape and the dtype of the whole batch"
Calls = dict[str, tuple[Site, ...]]
# Where a case may end otherwise: a pattern of "name.method, argument: case", one of what then happens, and why.
Exempt = tuple[tuple[str, str, str], ...]


@functools.cache
def declared(post: str) -> tuple[Calls, Exempt]:
    """The valid calls of a post ("part/slug") and what is exempt, from ``tests/part/calls_slug.py``."""
    path = ROOT / "tests" / f"{post.replace('/', '/calls_')}.py"
    if not path.is_file():
        raise FileNotFoundError(
            f"tests/{post.replace('/', '/calls_')}.py is missing: CALLS holds a valid call of every public name"
        )
    spec = importlib.util.spec_from_file_location(f"calls_{post.replace('/', '_')}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the compiler of PyTorch looks for its functions
    spec.loader.exec_module(module)
    return module.CALLS, getattr(module, "EXEMPT", ())


@functools.cache
def public(post: str) -> dict[str, Any]:
    """Every public function and class of a post's module."""
    module = importlib.import_module(f"kexue.{post.replace('/', '.')}")
    return {name: getattr(module, name) for name in module.__all__}


# --- what may go wrong with an argument of each kind ----------------------------------------------------------------------


class Case(NamedTuple):
    what: str
    change: Change
    expect: str  # "refused"; "either": refused or any sound answer; "same": the answer of the valid call, or of ``like``
    like: Change = lambda v: v
    may_refuse: bool = False
    broadcast: bool = False


def constants(*values: Any) -> dict[str, Change]:
    return {re.sub(r"\s+| at 0x\w+", " ", repr(value))[:50]: lambda _, value=value: value for value in values}


def cases(expect: str, changes: dict[str, Change], **more: Any) -> Iterator[Case]:
    return (Case(what, change, expect, **more) for what, change in changes.items())


def kind_of(parameter: inspect.Parameter, value: Any, text: str) -> str:
    """What an argument is: from its annotation, its valid value and its lines in the docstring."""
    if parameter.name in ("device", "dtype"):
        return parameter.name
    for word, kind in (("Generator", "generator"), ("Callable", "callable"), ("ArrayLike", "array"), ("Iterable", "sequence")):
        if word in str(parameter.annotation) and not (kind == "array" and isinstance(value, Tensor)):
            return kind
    if isinstance(value, Tensor | From):
        if "any dtype" in text or "integer or real" in text:
            return "any" if "any dtype" in text else "real"
        dtype = value.dtype if isinstance(value, Tensor) else F64
        return "mask" if dtype == torch.bool else "floating" if dtype.is_floating_point else "ids"
    if isinstance(value, int) and not isinstance(value, bool):
        return "position" if "position of the first" in text else "count"
    return {bool: "flag", str: "choice", float: "number"}[type(value)]


def read_only(value: Any) -> Any:
    array = np.array(value)
    array.setflags(write=False)
    return array


META = torch.zeros((), dtype=torch.int64, device="meta")
NO_NUMBER = (np.True_, np.array([1, 1]), np.array([1]), torch.tensor([1, 1]), torch.tensor(True), torch.tensor(1j), META)
KINDS: dict[str, dict[str, dict[str, Change]]] = {
    "number": {
        "refused": constants(*NO_NUMBER, math.inf, -math.inf, 10**400, -(10**400), np.complex128(0.5), np.float32("nan")),
        "either": constants(0, -1, 1, 1e30, -1e30, 1e300, 1e-30, 1e-300, 5e-324, 2**64, -0.0),
        "same": {"NumPy": np.float64, "array": np.array, "tensor": lambda v: torch.tensor(v, dtype=F64), "fraction": Fraction},
    },
    "count": {
        "refused": constants(*NO_NUMBER[:2], *NO_NUMBER[3:], 2.0, np.float64(2), math.inf, -1, -(2**64), 2**64, 10**400),
        "either": constants(0, 1, np.array([1]), torch.tensor([1])),
        "same": {"NumPy": np.int64, "narrow": np.uint8, "array": np.array, "tensor": torch.tensor},
    },
    "choice": {
        "refused": {
            **constants(3, "", "nonsense", torch.tensor(1)),
            "upper case": str.upper,
            "a space": lambda v: f"{v} ",
            "in a list": lambda v: [v],
            "bytes": str.encode,
        },
    },
    "flag": {"refused": constants(0, 1, np.True_, torch.tensor(True), "True"), "either": {"the other": lambda v: not v}},
    "generator": {
        "refused": constants(0, np.random.default_rng(0), torch.Generator, seeded().get_state()),
        "same": {"of the same seed": lambda _: seeded()},
    },
    "dtype": {
        "refused": constants(torch.int64, torch.bool, torch.complex64, np.float32, np.dtype("f4"), "float32", 32, float),
        "either": constants(F16, BF16, F32, F64),
    },
    "device": {
        "refused": constants("nonsense", "", "cpu:x", 3.5, -1, ("cpu", 0)),
        "either": constants("meta", torch.device("meta")),
        "same": constants("cpu:0", torch.device("cpu")),
    },
    "array": {
        "refused": {
            "complex": lambda v: v.astype(complex),
            "words": lambda v: v.astype(str),
            "dates": lambda v: np.zeros(v.shape, dtype="M8[s]"),
            "objects": lambda v: v.astype(object),
            "big integers": lambda v: np.full(v.shape, 10**30, dtype=object),
            "a record": lambda v: np.zeros(v.shape, dtype=[("a", float)]),
            "a scalar": lambda v: 0.5,
            "ragged": lambda v: [[0.5], [0.25, 0.25]],
            "NaN": lambda v: v * math.nan,
            "one NaN": lambda v: np.where(np.arange(v.size).reshape(v.shape), v, math.nan),
            "inf": lambda v: v + math.inf,
            "one inf": lambda v: np.where(np.arange(v.size).reshape(v.shape), v, math.inf),
            "-inf": lambda v: v - math.inf,
            "negative": np.negative,
            "huge": lambda v: v * 1e300,
            "largest": lambda v: np.full_like(v, 1.7e308),
        },
        "either": {
            "a tensor with a gradient": lambda v: torch.tensor(v, requires_grad=True),
            "another device": lambda v: torch.zeros(v.shape, device="meta"),
            "tiny": lambda v: v * 1e-300,
            "subnormal": lambda v: np.full_like(v, 5e-324),
            "zeros": np.zeros_like,
            "equal": lambda v: np.full_like(v, 1 / v.shape[-1]),
            "near one": lambda v: np.full_like(v, 1 - 1e-16),
            "just above": lambda v: v * (1 + 5e-9),
            "integers": lambda v: np.eye(*v.shape[-2:], dtype=np.int64),
            "bools": lambda v: np.eye(*v.shape[-2:], dtype=bool),
            "empty": lambda v: v[:0],
            "no columns": lambda v: v[..., :0],
            "no entries": lambda v: v[..., :0][:0],
            "one entry": lambda v: v.ravel()[:1],
            "one row": lambda v: v[:1],
            "one axis less": lambda v: v[0],
            "one axis more": lambda v: v[None],
            "one row more": lambda v: np.concatenate([v, v[:1]]),
            "one column more": lambda v: np.concatenate([v, v[..., :1]], axis=-1),
        },
        "same": {
            "lists": np.ndarray.tolist,
            "a tensor": torch.from_numpy,
            "column order": np.asfortranarray,
            "strided": lambda v: np.stack([v, v], -1)[..., 0],
            "reversed": lambda v: v[::-1].copy()[::-1],
            "columns reversed": lambda v: v[..., ::-1].copy()[..., ::-1],
            "other byte order": lambda v: v.astype(">f8"),
            "long double": lambda v: v.astype(np.longdouble),
            "a subclass": lambda v: v.view(np.ma.MaskedArray),
            "read-only": read_only,
        },
    },
    "sequence": {
        "refused": constants(3, [[[]], [{}]], [{1}, [[1, 2]]], torch.zeros(3, 2, device="meta"), np.array(3), math.nan),
        "either": constants(
            *([], [[]], [[math.nan, math.nan]], [[math.inf, 1]], [[10**30, 10**30]], [[-1, -1]], [[True]], [[0.0, 1.0]], [None]),
            *([[0, "a", None]], [[0, [1, 2]]], [[1j]], "x", b"1", {}, [0.5], {0: [1]}, [np.array([2**64 - 1], dtype=np.uint64)]),
            *(
                np.zeros((2, 3), dtype=np.int64),
                np.zeros((2, 3, 1)),
                torch.ones(2, 2, requires_grad=True),
                torch.ones(2, 2).half(),
            ),
        ),
        "same": {
            "a tuple": tuple,
            "an iterator": iter,
            "arrays": lambda v: inner(v, np.array),
            "read-only arrays": lambda v: inner(v, read_only),
            "reversed arrays": lambda v: inner(v, lambda x: np.array(x)[::-1].copy()[::-1]),
            "narrow arrays": lambda v: inner(v, lambda x: np.array(x, dtype=np.int8)),
            "tensors": lambda v: inner(v, torch.tensor),
        },
    },
}


class OwnError(Exception):
    """Raised by a callable of the caller: it must pass through."""


def own_error(*_: Any) -> Any:
    raise OwnError


def inner(value: Any, make: Change) -> Any:
    """Every text of a corpus of integers, or the one text, as something else; strings stay."""
    if isinstance(value, list) and isinstance(value[0], list):
        return [make(text) for text in value]
    return make(value) if isinstance(value, list) and isinstance(value[0], int) else value


def parameter(v: Tensor) -> Tensor:
    if v.grad_fn is not None:
        raise TypeError("what is computed from others is no parameter")
    return nn.Parameter(v, requires_grad=v.requires_grad)


def cases_of(kind: str, parameter: inspect.Parameter, broadcasts: bool) -> Iterator[Case]:
    """All cases of one argument."""
    allowed = {
        "any": {"True"},
        "flag": {"True"},
        "array": {"[0.5]", "True", "nan"},
        "sequence": {"'x'", "[0.5]", "{}", "b'1'"},
        "callable": {"<class 'int'>"},
    }.get(kind, set())
    wrong = constants(None, "x", [0.5], {}, object(), int, True, 1j, math.nan, b"1")
    if "None" in str(parameter.annotation) or parameter.default is None:
        yield Case("None", wrong.pop("None"), "either")
    yield from cases("refused", {what: change for what, change in wrong.items() if what not in allowed})
    for expect, changes in KINDS.get({"position": "count"}.get(kind, kind), {}).items():
        yield from cases(expect, changes)
    if kind == "number":
        yield from cases("either", {"a tensor with a gradient": lambda v: torch.tensor(v, requires_grad=True)})
    elif kind == "position":
        yield from cases("either", constants(2**40, 2**53, 2**53 + 1, 2**62, 2**63 - 1))
    elif kind == "array":
        yield Case("broadcast", lambda v: np.broadcast_to(v[:1], v.shape), "same", lambda v: np.repeat(v[:1], len(v), 0))
    elif kind == "callable":
        yield from callable_cases()
    elif kind in ("floating", "real", "any", "ids", "mask"):
        both = "ArrayLike" in str(parameter.annotation)  # arrays are welcome as well
        yield from (
            case for case in tensor_cases(kind, broadcasts) if not (both and case.what in ("nested lists", "a NumPy array"))
        )


def callable_cases() -> Iterator[Case]:
    for back in (None, "x", 0.5, [[0.5]], np.ones((1, 2))):
        yield Case(f"returns {back}", lambda _, back=back: lambda *a: back, "refused")
    bad: dict[str, Change] = {
        "integers": Tensor.long,
        "complex numbers": lambda t: t.to(torch.complex64),
        "bools": Tensor.bool,
        "one axis": Tensor.flatten,
        "more axes": lambda t: t[None, None],
        "one more row": lambda t: torch.cat([t, t[..., :1, :]], -2),
        "nothing": lambda t: t[..., :0],
        "another device": lambda t: t.to("meta"),
        "sparse": Tensor.to_sparse,
    }
    odd: dict[str, Change] = {"float16": Tensor.half, "NaN": lambda t: t * math.nan, "inf": lambda t: t + math.inf}
    same: dict[str, Change] = {"no gradient": Tensor.detach, "strided": lambda t: torch.stack([t, t], -1)[..., 0]}
    for expect, changes in (("refused", bad), ("either", odd), ("same", same)):
        yield from cases(expect, {f"returns {w}": lambda v, after=f: lambda *a: after(v(*a)) for w, f in changes.items()})
    yield Case("raises", lambda _: own_error, "own error")


def tensor_cases(kind: str, broadcasts: bool) -> Iterator[Case]:
    refused: dict[str, Change] = {
        "nested lists": Tensor.tolist,
        "a NumPy array": lambda v: v.detach().numpy(),
        "sparse": lambda v: v.detach().to_sparse(),
    }
    fits = {"floating": {F64}, "real": {F64, torch.int64, torch.uint8}, "ids": {torch.int64, torch.uint8}, "mask": {torch.bool}}
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64, F64, torch.float8_e4m3fn):
        if dtype not in fits.get(kind, {dtype}):
            refused[str(dtype)] = lambda v, dtype=dtype: v.to(dtype)
    either: dict[str, Change] = {
        "empty": lambda v: v[:0],
        "no columns": lambda v: v[..., :0],
        "no entries": lambda v: v[:0][..., :0],
        "one entry": lambda v: v.flatten()[:1],
        "no axes": lambda v: v.flatten()[0],
        "one axis less": lambda v: v[0],
        "two axes more": lambda v: v[None, None],
        "flat": Tensor.flatten,
        "transposed": lambda v: v.transpose(-1, -2),
        "one row more": lambda v: torch.cat([v, v[:1]]),
        "one column more": lambda v: torch.cat([v, v[..., :1]], -1),
        "one column": lambda v: v[..., :1],
        "one row": lambda v: v[:1],
        "another device": lambda v: v.detach().to("meta"),
    }
    if kind in ("floating", "real"):
        either |= {
            f"one {x}": lambda v, x=x: torch.where(torch.arange(v.numel()).view(v.shape) == 0, x, v.double()) for x in ENDS
        }
        either |= {f"all {x}": lambda v, x=x: v.double() * x for x in ENDS}
        either |= {f"alone in {dtype}": lambda v, dtype=dtype: v.to(dtype) for dtype in (F32, F16, BF16)}
    elif kind == "ids":
        either |= {str(x): lambda v, x=x: torch.full_like(v, x) for x in (-1, -(2**63), 2**63 - 1)}
    elif kind == "mask":
        either |= {"all False": torch.zeros_like, "all True": torch.ones_like}
    yield from cases("refused", refused)
    yield from cases("either", either)
    if kind not in ("floating", "mask"):
        for name in ("int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"):
            dtype = getattr(torch, name)
            narrow = functools.partial(lambda v, dtype: (v if dtype.is_signed else v.abs()).to(dtype), dtype=dtype)
            yield Case(name, narrow, "same", lambda v, narrow=narrow: narrow(v).to(v.dtype), may_refuse=True)
    if broadcasts:
        yield Case("one row for all", lambda v: v[:1], "same", lambda v: v[:1].expand_as(v).clone(), True, broadcast=True)
        yield Case("an axis more", lambda v: v[None], "same", may_refuse=True, broadcast=True)
    same: dict[str, Change] = {
        "transposed memory": lambda v: v.transpose(-1, -2).contiguous().transpose(-1, -2),
        "strided": lambda v: torch.stack([v, v], -1)[..., 0],
        "odd offset": lambda v: torch.cat([v.flatten()[:1], v.flatten()])[1:].view(v.shape),
        "permuted memory": lambda v: v.permute(*range(v.ndim)[::-1]).contiguous().permute(*range(v.ndim)[::-1]),
        "a pending negation": lambda v: torch.complex(torch.zeros_like(v), -v).conj().imag,
        "a parameter": parameter,
    }
    yield from cases("same", same)
    yield Case("expanded", lambda v: v[:1].expand_as(v), "same", lambda v: v[:1].repeat(len(v), *[1] * (v.ndim - 1)), True)


ENDS = (math.nan, math.inf, -math.inf)


def extremes(dtype: torch.dtype) -> dict[str, Change]:
    def scaled(size: float) -> Change:
        return lambda v: (v.double() / v.abs().max().double() * size).to(dtype)

    return {
        f"huge in {dtype}": scaled(HUGE[dtype]),
        f"tiny in {dtype}": scaled(TINY[dtype]),
        f"zeros in {dtype}": lambda v: v.to(dtype) * 0,
        f"equal in {dtype}": lambda v: v.to(dtype) * 0 + 0.5,
        f"negative in {dtype}": lambda v: -v.abs().to(dtype),
    }


# --- calling ----------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    verdict: str  # "answered", "refused", "own error" or "failed"
    value: Any = None
    words: str = ""


def guarded(function: Callable[..., Any], arguments: Arguments, state: Arguments, *, draws: bool) -> Outcome:
    """Call, and see to it that nothing warns, no input changes and no global generator moves."""
    watched = arguments | state
    before, generators = {k: bits(v) for k, v in watched.items()}, global_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            outcome = Outcome("answered", function(**arguments))
        except OwnError:
            outcome = Outcome("own error")
        except (TypeError, ValueError) as error:
            outcome = Outcome("refused", words=str(error).splitlines()[0])
        except Exception as error:
            return Outcome("failed", words=f"{type(error).__name__}: {str(error)[:150]}")
    changed = [k for k, v in watched.items() if bits(v) != before[k]]
    if changed or (not draws and global_state() != generators):
        return Outcome("failed", words=f"changed {', '.join(changed) or 'a global generator'}")
    return outcome


def bits(value: Any) -> Any:
    """Something that differs if the value does."""
    if isinstance(value, Tensor):
        if value.is_meta or value.layout != torch.strided:
            return None
        flat = value.detach().resolve_neg().contiguous().flatten()
        return value.dtype, value.shape, flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return [bits(v) for v in value]
    return repr(value) if isinstance(value, (float, str, bytes, dict, set)) else None


def global_state() -> Any:
    _, words, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), bytes(np.asarray(words)), rest, random.getstate()


def documented(function: Callable[..., Any]) -> dict[str, str]:
    """The lines of the ``Args:`` section by argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.S | re.M)
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {6,}.*)*)", section[1] if section else "", re.M)
    return {name: words for names, words in entries for name in names.split(", ")}


def converted(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """All floating-point arguments in one dtype."""
    made = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            made[name] = value.detach().to(dtype).requires_grad_(value.requires_grad)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            made[name] = value.astype(str(dtype).removeprefix("torch."))
    return made


# --- judging ----------------------------------------------------------------------------------------------------------


def leaves(value: Any) -> list[Any]:
    """The numbers in a result; words for what has none."""
    if isinstance(value, nn.Module):
        return [repr(value), *(f"{tuple(p.shape)} {p.dtype} {p.device}" for p in value.parameters())]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in leaves(part)]
    return [sorted(map(repr, value))] if isinstance(value, set) else [value]


def numbers(value: Any) -> list[Tensor]:
    """The floating-point leaves as tensors."""
    made = (torch.as_tensor(np.array(v, dtype="f8")) if isinstance(v, (float, np.ndarray)) else v for v in leaves(value))
    return [v for v in made if isinstance(v, Tensor) and v.is_floating_point()]


def difference(got: Any, want: Any, tolerance: float = 1e-9, *, broadcast: bool = False, kinds: bool = True) -> str:
    """What distinguishes two results; empty if nothing does."""
    ours, theirs = leaves(got), leaves(want)
    if len(ours) != len(theirs):
        return f"{len(ours)} values instead of {len(theirs)}"
    for a, b in zip(ours, theirs, strict=True):
        if kinds and (type(a) is not type(b) or getattr(a, "dtype", 0) != getattr(b, "dtype", 0)):
            return f"{type(a).__name__} {getattr(a, 'dtype', '')} instead of {type(b).__name__} {getattr(b, 'dtype', '')}"
        if not isinstance(b, (Tensor, np.ndarray, float)):
            if a != b:
                return f"{a} instead of {b}"
            continue
        x, y = (v.detach() if isinstance(v, Tensor) else torch.as_tensor(np.array(v, dtype="f8")) for v in (a, b))
        if x.shape != y.shape and not broadcast:
            return f"shape {tuple(x.shape)} instead of {tuple(y.shape)}"
        if x.is_meta:
            continue
        tiny = torch.finfo(x.dtype).tiny if x.is_floating_point() else 0.0
        x, y = torch.broadcast_tensors(x.double(), y.to(x.dtype).double())
        size = y[y.isfinite()].abs().amax().item() if y.isfinite().any() else 0.0
        if not (((x - y).abs() <= tolerance * size + tiny) | (x == y) | (x.isnan() & y.isnan())).all():
            return f"{x.flatten()[:4].tolist()} instead of {y.flatten()[:4].tolist()}"
    return ""


def unsound(what: str, arguments: Arguments, answer: Any) -> str:
    """What is wrong with an answer to whatever input."""
    parts = numbers(answer)
    if "another device" in what or "elsewhere" in what:
        return "left the device" if any(not x.is_meta for x in parts) else ""
    if what == "all nan" and parts and not any(x.isnan().any() for x in parts):
        return "swallowed NaN"
    dense = (v for v in arguments.values() if isinstance(v, Tensor) and v.layout == torch.strided and not v.is_meta)
    clean = not re.search("(?i)nan|inf", what) and all(v.isfinite().all() for v in dense)
    return "NaN out of finite input" if clean and any(x.isnan().any() for x in parts if not x.is_meta) else ""


def filled(module: nn.Module) -> nn.Module:
    """The module with parameters of order 1, always the same."""
    for i, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, generator=seeded(i))
    return module


class Sweep:
    """All cases of one public name: how they ended, and what went wrong."""

    def __init__(self, name: str, thing: Any, sites: tuple[Site, ...], exempt: Exempt = ()) -> None:
        self.thing, self.sites, self.exempt = thing, sites, exempt
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.exemptions: set[tuple[str, str, str]] = set()
        for site in self.sites:
            self.site, self.label = site, f"{name}.{site.method}" if site.method else name
            function = getattr(self.thing, site.method.split()[0]) if site.method else self.thing
            self.parameters, self.texts = inspect.signature(function).parameters, documented(function)
            methods = [m for m in vars(self.thing).values() if inspect.isfunction(m)] if inspect.isclass(self.thing) else []
            self.names = {p for f in (function, *methods) for p in inspect.signature(f).parameters} - {"self"}
            self.builds = inspect.isclass(self.thing) and not site.method
            if hasattr(self.thing, "_fields"):
                self.record()
                continue
            for argument in site.valid():
                self.argument(argument)
            self.whole()

    # calls

    def module(self) -> nn.Module | None:
        if not self.site.method:
            return None
        return filled(self.thing(**self.sites[0].valid())).train("eval" not in self.site.method)

    def call(self, arguments: Arguments, module: nn.Module | None = None) -> Outcome:
        module = module or self.module()
        owner = self.thing if module is None else module
        if module is not None and not self.site.method.startswith("forward"):
            owner = getattr(module, self.site.method)
        made = {k: v.make(arguments) if isinstance(v, From) else v for k, v in arguments.items()}
        draws = self.builds or ("generator" in made and made["generator"] is None)
        return guarded(owner, made, {} if module is None else {"the module": list(module.parameters())}, draws=draws)

    def changed(self, argument: str, change: Change, dtype: torch.dtype | None = None) -> Arguments | None:
        """The valid arguments with one of them changed; None where the change means nothing."""
        made = self.site.valid() if dtype is None else converted(self.site.valid(), dtype)
        if argument not in made:
            return made
        value = made[argument]
        try:
            made[argument] = change(value.make(made) if isinstance(value, From) else value)
        except (IndexError, RuntimeError, AttributeError, ValueError, TypeError):
            return None
        if isinstance(value, From):  # anew for every call, from what the other arguments then are
            made[argument] = From(lambda arguments: change(value.make(arguments)))
        return made

    # verdicts

    def note(self, argument: str, what: str, verdict: str, problem: str = "") -> None:
        """Count a case; a problem counts as exempt if the table says so."""
        place = f"{self.label}, {argument}: {what}"
        if problem:
            excuse = next((e for e in self.exempt if re.match(e[0], place) and re.search(e[1], problem)), None)
            self.exemptions |= {excuse} if excuse else set()
            self.failures += [] if excuse else [f"{place}: {problem}"]
            verdict = "exempt" if excuse else "failed"
        self.counts["answered" if verdict == "own error" else verdict] += 1

    def settle(self, argument: str, what: str, outcome: Outcome, oracle: Change, expect: str = "either") -> None:
        """Judge one outcome; ``oracle`` says what is wrong with an answer."""
        problem = outcome.words if outcome.verdict == "failed" else ""
        if outcome.verdict == "refused":
            names = [argument] if expect == "refused" else sorted(self.names)
            if expect in ("same", "own error"):
                problem = f"refused: {outcome.words}"
            elif not re.match(rf"({'|'.join(names)})\b", outcome.words):
                problem = f"the message does not begin with {argument if expect == 'refused' else 'an argument'}: {outcome.words}"
        elif outcome.verdict == "answered":
            problem = (
                f"answered {str(leaves(outcome.value)[0])[:60]!r}"
                if expect in ("refused", "own error")
                else oracle(outcome.value)
            )
        elif outcome.verdict == "own error" and expect != "own error":
            problem = "raised the error of another case"
        self.note(argument, what, outcome.verdict, problem)

    # cases

    def argument(self, argument: str) -> None:
        """Everything that may go wrong with one argument."""
        text = self.texts.get(argument, "")
        kind = kind_of(self.parameters[argument], self.site.valid()[argument], text)
        for case in cases_of(kind, self.parameters[argument], argument in self.site.rows.split() or "broadcast" in text):
            made = self.changed(argument, case.change)
            if made is None:
                continue
            like = case.expect == "same"
            oracle = functools.partial(self.disagrees, argument, case) if like else functools.partial(unsound, case.what, made)
            self.settle(argument, case.what, self.call(made), oracle, "either" if case.may_refuse else case.expect)
        if kind in ("floating", "real"):
            for dtype in TOLERANCE:
                for what, change in extremes(dtype).items():
                    self.precise(argument, what, dtype, change)
                    if dtype in (F32, F64):
                        self.slopes(argument, f"gradient at {what}", dtype, change)

    def disagrees(self, argument: str, case: Case, answer: Any) -> str:
        """How the answer differs from that of the valid call, or of the call that this one must be like."""
        like = self.changed(argument, case.like)
        want = self.call(like or {})
        if want.verdict != "answered":
            return f"answered, but the same values otherwise are not: {want.words}"
        site = next((s for s in self.sites[1:] if s.method == "forward"), None) if self.builds else None
        if site is None:
            loose = case.broadcast or case.what in ("other byte order", "long double", "a tensor") or "int" in case.what
            return difference(answer, want.value, broadcast=case.broadcast, kinds=not loose)
        return difference(*(filled(module)(**site.valid()) for module in (answer, want.value)))

    def precise(self, argument: str, what: str, dtype: torch.dtype, change: Change = lambda v: v) -> None:
        """The answer in ``dtype`` is that of float64 for the same values."""
        made, again = (self.changed(argument, change, dtype) for _ in range(2))
        if made is None or again is None:
            return
        module = self.module()
        module = module if module is None else module.to(dtype)
        outcome = self.call(made, module)

        def wrong(answer: Any) -> str:
            want = self.call(converted(again, F64), None if module is None else module.to(F64))
            follows = self.site.fixed or all(
                x.dtype == dtype for x in leaves(answer) if isinstance(x, Tensor) and x.is_floating_point()
            )
            return (
                unsound(what, made, answer)
                or ("" if want.verdict == "answered" else f"float64 ends otherwise: {want.words}")
                or difference(answer, want.value, TOLERANCE[dtype], kinds=False)
                or ("" if follows else f"is not in {dtype}")
            )

        self.settle(argument, what, outcome, wrong)

    def slopes(self, argument: str, what: str, dtype: torch.dtype, change: Change = lambda v: v) -> None:
        """Gradients of a finite answer hold no NaN."""
        made = self.changed(argument, change, dtype)
        if made is None:
            return
        floats = [k for k, v in made.items() if isinstance(v, Tensor) and v.is_floating_point()]
        made |= {k: made[k].detach().requires_grad_() for k in floats}
        module = self.module()
        parameters = [] if module is None else list(module.to(dtype).parameters())

        def wrong(answer: Any) -> str:
            parts = [x.double().sum() for x in numbers(answer) if x.requires_grad and x.isfinite().all()]
            inputs = [made[k] for k in floats] + parameters
            slopes = torch.autograd.grad(parts, inputs, allow_unused=True) if parts else ()
            return "NaN in a gradient" if any(s is not None and s.isnan().any() for s in slopes) else ""

        self.settle(argument, what, self.call(made, module), wrong)

    def whole(self) -> None:
        """What concerns all arguments together."""
        valid = self.site.valid()
        want = self.call(valid)
        self.settle("all", "valid", want, lambda answer: difference(self.call(self.site.valid()).value, answer, 0.0), "same")
        if self.builds or want.verdict != "answered":
            return
        tensors = [k for k, v in valid.items() if isinstance(v, Tensor)]
        arrays = [k for k, v in valid.items() if isinstance(v, np.ndarray)]
        for dtype in (F64, F32, F16) if arrays else TOLERANCE if any(valid[k].is_floating_point() for k in tensors) else ():
            self.precise("all", str(dtype), dtype)
        if tensors:
            self.slopes("all", "gradients", F64)
            self.elsewhere(
                {k: v.detach().to("meta").requires_grad_(v.requires_grad) if k in tensors else v for k, v in valid.items()},
                want.value,
            )
        if self.site.rows:
            self.rows(want.value)

    def elsewhere(self, away: Arguments, want: Any) -> None:
        """Everything on another device, or the tensors alone, or the module alone."""
        module = self.module()
        outcome = self.call(away, None if module is None else module.to("meta"))
        self.settle("all", "elsewhere", outcome, lambda x: unsound("elsewhere", {}, x) or difference(x, want))
        if module is not None:
            self.settle("all", "tensors elsewhere", self.call(away), functools.partial(unsound, "elsewhere", away))
            if list(module.parameters()):
                outcome = self.call(self.site.valid(), module)
                self.settle("all", "module elsewhere", outcome, functools.partial(unsound, "elsewhere", away))

    def rows(self, want: Any) -> None:
        """Rows that do not depend on one another: none, one, in another order, behind one more axis."""
        changes: dict[str, tuple[Change, Change]] = {
            "no rows": (lambda v: v[:0], lambda r: r[:0]),
            "one row": (lambda v: v[:1], lambda r: r[:1]),
            "rows in another order": (lambda v: v[[*range(len(v))][::-1]], lambda r: r[[*range(len(r))][::-1]]),
            "a batch of rows": (lambda v: v[None], lambda r: r[None]),
        }
        for what, (change, pick) in changes.items():
            made = {k: change(v) if k in self.site.rows.split() else v for k, v in self.site.valid().items()}
            oracle = functools.partial(difference, want=[pick(x) for x in leaves(want)])
            self.settle("all", what, self.call(made), oracle, "either" if "batch" in what else "same")

    def record(self) -> None:
        """A record takes what it is given: by name, whole, unchangeable, copied and pickled."""
        made = self.site.valid()
        whole = self.thing(**made)
        for field, value in made.items():
            try:
                setattr(whole, field, None)
                self.note(field, "assigned", "failed", "was changed")
            except AttributeError:
                self.note(field, "assigned", "refused")
            missing = guarded(self.thing, {k: v for k, v in made.items() if k != field}, {}, draws=False)
            self.note(field, "missing", missing.verdict, "" if field in missing.words else missing.words or "answered")
            self.note(field, "kept", "answered", "" if getattr(whole, field) is value else "is another object")
        surplus = guarded(self.thing, made | {"surplus": 1}, {}, draws=False)
        self.note("surplus", "unknown", surplus.verdict, "" if "surplus" in surplus.words else "answered")
        for what, twin in (("copied", copy.deepcopy(whole)), ("pickled", pickle.loads(pickle.dumps(whole)))):  # noqa: S301
            self.note("all", what, "answered", difference(twin, whole) or ("" if type(twin) is self.thing else "another type"))


@functools.cache
def sweep(post: str, name: str) -> Sweep:
    calls, exempt = declared(post)
    return Sweep(name, public(post)[name], calls[name], exempt)


def counts(post: str) -> dict[str, int]:
    """Public names of a post, cases, and how the cases ended."""
    names = declared(post)[0]
    total = sum((sweep(post, name).counts for name in names), Counter())
    return {"functions": len(names), "cases": total.total(), **{k: total[k] for k in ("refused", "answered", "exempt")}}


def run(names: Sequence[str] = (), everything: bool = False) -> int:
    """Store the counts of the posts whose module or calls have changed; 1, and nothing stored of it, where a case ends wrongly."""
    torch.set_num_threads(1)
    failed = False
    for post in state.changed(KIND, names, everything):
        of = state.digest(KIND, post)
        found = counts(post)
        failures = [failure for name in declared(post)[0] for failure in sweep(post, name).failures]
        print(
            f"{post}: {found['functions']} names, {found['cases']} calls, {len(failures)} ended wrongly",
            *failures,
            sep="\n  ",
            flush=True,
        )
        failed |= bool(failures)
        if not failures:
            state.save(KIND, post, found, of)
    return int(failed)
