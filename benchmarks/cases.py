"""What a benchmark is, and how one is measured: both functions on the same data, equality first, then time, memory and limit."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import timing
from book_tools.chapter import contents

FOLDER = Path(__file__).resolve().parent
Size = Mapping[str, int]
FORWARD, BOTH, COMPILED = "forward", "forward+backward", "compiled"
BFLOAT = "bfloat16 forward"
MODES = ("float32 forward+backward", BFLOAT, "float32 compiled")  # what is measured beside float32 forward, unless less is said
ROUNDING = 0.05  # results in bfloat16 may differ by so much: a dozen of its steps


class Target(NamedTuple):
    """Largest ratio to accept and the one to reach; ``seconds``: largest time of one call of ours."""

    must: float | None = None
    reach: float | None = None
    seconds: float | None = None


@dataclass
class Setting:
    """The size, dtype and device of one measurement, and random data for it."""

    size: Size
    dtype: torch.dtype
    device: str
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(self.seed)
        self.rng = np.random.default_rng(self.seed)

    def __getitem__(self, name: str) -> int:
        return self.size[name]

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device).to(self.dtype)

    def randint(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize


@dataclass
class Pair:
    """Two functions without arguments that do the same job, and what that job needs at least.

    ``leaves`` are inputs of both (their gradients are compared); ``weights`` are parameters of one side each. ``moved`` counts the
    bytes that any implementation reads and writes, ``flops`` those of its matrix products; the backward pass costs ``backward``
    times as much. Time is expected to grow with ``scale``. ``view`` brings the peer's result into the form of ours, untimed.
    """

    ours: timing.Call
    peer: timing.Call
    scale: float
    moved: float = 0.0
    flops: float = 0.0
    backward: float = 2.0
    leaves: Sequence[Tensor] = ()
    weights: tuple[Sequence[Tensor], Sequence[Tensor]] = ((), ())
    view: Callable[[Any], Any] = lambda result: result


@dataclass(frozen=True)
class Case:
    """One function of ``kexue`` against one peer.

    Forward in the first of ``dtypes`` is measured at every size; ``also`` names further measurements at the middle size, such as
    "bfloat16 forward". ``targets`` hold for "dtype mode", or for one size alone as in "float32 forward n256". ``same`` is the
    largest relative difference of the results, or a sentence that says why they differ; it may depend on the dtype. ``why`` says
    what a function that is slower than its peer gives for it.
    """

    function: str
    peer: str
    against: str
    build: Callable[[Setting], Pair]
    sizes: Sequence[Size]
    variant: str = ""
    also: Sequence[str] = ()
    targets: Mapping[str, Target] = field(default_factory=dict)
    same: float | str | Mapping[str, float | str] = 1e-5
    gpu_sizes: Sequence[Size] = ()
    dtype: str = "float32"
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.function} {self.variant}".strip()

    @property
    def differs(self) -> str:
        """Why the results are not compared, where they are not."""
        said = self.same.items() if isinstance(self.same, Mapping) else [("", self.same)]
        return "; ".join(f"{dtype}: {same}" if dtype else same for dtype, same in said if isinstance(same, str))

    def plan(self, device: str) -> Iterator[tuple[Size, str, str]]:
        """Sizes, dtypes and modes to measure."""
        sizes = self.gpu_sizes if device == "cuda" else self.sizes
        for size in sizes:
            yield size, self.dtype, FORWARD
        for extra in self.also if sizes else ():
            dtype, mode = extra.split(" ", 1)
            yield sizes[len(sizes) // 2], dtype, mode

    def target(self, size: Size, dtype: str, mode: str) -> Target:
        key = f"{dtype} {mode}"
        return next((self.targets[f"{key} {part}"] for part in label(size).split() if f"{key} {part}" in self.targets), None) or (
            self.targets.get(key, Target())
        )

    def tolerance(self, dtype: str) -> float | str:
        same = self.same.get(dtype, 1e-5) if isinstance(self.same, Mapping) else self.same
        return same if isinstance(same, str) or dtype != "bfloat16" else max(same, ROUNDING)


def label(size: Size) -> str:
    return " ".join(f"{name}{value}" for name, value in size.items())


def posts() -> list[str]:
    """The posts that have a file of pairs, ``part/slug``, in the order of the book."""
    return [name for name in contents() if (FOLDER / f"{name}.py").is_file()]


def pairs(post: str) -> Any:
    """The file of a post: its CASES, the functions without a peer (NO_PEER) and those that need one (NAMED)."""
    return import_module(f"benchmarks.{post.replace('/', '.')}")


def all_cases(names: Sequence[str] | None = None) -> list[Case]:
    """The cases of some posts, of all where none is named."""
    return [case for post in names or posts() for case in pairs(post).CASES]


def without_peer(names: Sequence[str] | None = None) -> dict[str, str]:
    """The functions that nobody else offers, each with the reason."""
    return {name: reason for post in names or posts() for name, reason in pairs(post).NO_PEER.items()}


def version(distribution: str) -> str | None:
    """The installed version; that of Python for plain Python; None if it is missing."""
    import platform

    if distribution == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure(case: Case, size: Size, dtype: str, mode: str, lab: Lab) -> dict[str, Any]:
    """One row of the results. What goes wrong is said in the row; nothing is left out."""
    row: dict[str, Any] = {"size": label(size), "dtype": dtype, "mode": mode}
    if version(case.peer) is None:
        return row | {"status": "missing", "reason": f"{case.peer} is not installed"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return row | _measure(case, Setting(size, getattr(torch, dtype), lab.device), dtype, mode, lab)
    except ModuleNotFoundError as error:
        return row | {"status": "missing", "reason": f"{case.peer} needs {error.name}, which is not installed"}
    except Exception as error:  # a peer may break in any way, and the others are to be measured all the same
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}


@dataclass(frozen=True)
class Lab:
    """Where and how carefully is measured."""

    device: str
    clock: timing.Clock
    limits: timing.Limits
    seconds: float = 1.0


def _measure(case: Case, setting: Setting, dtype: str, mode: str, lab: Lab) -> dict[str, Any]:
    pair = case.build(setting)
    ours, peer, results = _prepared(pair, mode)
    row: dict[str, Any] = {"scale": pair.scale}
    tolerance = case.tolerance(dtype)
    if isinstance(tolerance, str):
        results()
    else:
        error = max(difference(a, b) for a, b in zip(*results(), strict=True))
        if not error <= tolerance:
            return row | {"status": "unequal", "reason": f"the results differ by {error:.1e}, more than {tolerance:.0e}"}
        row["error"] = round_to(error, 2)
    time = timing.compare(ours, peer, lab.clock, seconds=lab.seconds)
    memory = [timing.peak_bytes(call, lab.device) for call in (ours, peer)]
    work = 1.0 + (pair.backward if mode == BOTH else 0.0)
    floor = lab.limits.seconds(work * pair.moved, work * pair.flops, dtype)
    target = case.target(setting.size, dtype, mode)
    row |= {
        "ratio": [round_to(value) for value in time.ratio],
        "ours_s": round_to(time.ours),
        "peer_s": round_to(time.peer),
        "memory_ratio": round_to(memory[0] / memory[1]) if memory[1] else None,
        "floor_ratio": round_to(time.ours / floor) if floor else None,
    }
    if target != Target():
        row["target"] = {name: value for name, value in target._asdict().items() if value is not None}
        row["met"] = _met(time.ratio.median, target.must) and _met(time.ours, target.seconds)
        if target.reach is not None:
            row["reached"] = _met(time.ratio.median, target.reach)
    return row


def _met(value: float, bound: float | None) -> bool:
    return bound is None or value <= bound


def _prepared(pair: Pair, mode: str) -> tuple[timing.Call, timing.Call, Callable[[], tuple[list[Any], list[Any]]]]:
    """Both calls in the mode asked for, and a function that returns what both of them give, to be compared."""
    if mode == BOTH:
        for leaf in (*pair.leaves, *pair.weights[0], *pair.weights[1]):
            leaf.requires_grad_(True)
        outputs = flat(pair.ours())
        generator = torch.Generator(outputs[0].device).manual_seed(1)
        given = [torch.randn(out.shape, generator=generator, device=out.device).to(out.dtype) for out in outputs]
        backs = given, _pulled_back(pair, given)

        def both(call: timing.Call, weights: Sequence[Tensor], back: list[Tensor]) -> timing.Call:
            wanted = [*pair.leaves, *weights]
            return lambda: torch.autograd.grad(flat(call()), wanted, back, allow_unused=True)

        ours, peer = both(pair.ours, pair.weights[0], backs[0]), both(pair.peer, pair.weights[1], backs[1])
        count = len(pair.leaves)
        return ours, peer, lambda: (list(ours()[:count]), list(peer()[:count]))

    def quiet(call: timing.Call) -> timing.Call:
        def run() -> Any:
            with torch.no_grad():
                return call()

        return run

    call, other = pair.ours, pair.peer
    if mode == COMPILED:
        torch._dynamo.reset()
        call, other = torch.compile(call), torch.compile(other)
    ours, peer = quiet(call), quiet(other)
    return ours, peer, lambda: (flat(ours()), flat(pair.view(peer())))


def _pulled_back(pair: Pair, given: list[Tensor]) -> list[Tensor]:
    """Cotangents of the peer's own outputs that say the same: ``view`` is linear."""
    outputs = [out.detach().requires_grad_(True) for out in flat(pair.peer())]
    viewed = flat(pair.view(outputs[0] if len(outputs) == 1 else tuple(outputs)))
    return list(torch.autograd.grad(viewed, outputs, given))


def flat(result: Any) -> list[Any]:
    """The tensors, arrays or numbers of a result, in order."""
    if isinstance(result, (tuple, list)):
        return [part for item in result for part in flat(item)]
    return [result]


def difference(ours: Any, peer: Any) -> float:
    """Largest difference relative to the largest magnitude; infinite where shapes differ or one gradient is missing."""
    if ours is None or peer is None:
        return 0.0 if ours is peer else np.inf
    a, b = (np.asarray(x.detach().cpu().double() if isinstance(x, Tensor) else x, dtype=np.float64) for x in (ours, peer))
    if a.shape != b.shape:
        return np.inf
    same = a == b  # equal infinities too
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    gaps = np.abs(a[~same] - b[~same])
    return float(gaps.max(initial=0.0) / (scale or 1.0))


def round_to(value: float, digits: int = 3) -> float:
    """``value`` with so many significant digits."""
    return float(f"{value:.{digits}g}")
