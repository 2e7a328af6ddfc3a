"""Two functions compared in one process: interleaved timing, quartiles, growth with size, peak memory, limits of the machine."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Call = Callable[[], Any]
Clock = Callable[[Call, int], float]  # seconds that so many calls take together

SAMPLE = 2e-3  # seconds of one sample: far above the resolution of any clock used here
PAIRS = 7, 61  # fewest and most pairs of samples


class Quartiles(NamedTuple):
    """Lower quartile, median, upper quartile."""

    low: float
    median: float
    high: float


class Timing(NamedTuple):
    """Median seconds of one call of either function, and the quartiles of ours/peer over the pairs."""

    ours: float
    peer: float
    ratio: Quartiles


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles with linear interpolation; three times the same number if there is only one."""
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive")) if len(values) > 1 else Quartiles(*(values[0],) * 3)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Slope of log time over log size by least squares; None below three different sizes."""
    if len(set(sizes)) < 3:
        return None
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(second) for second in seconds]).slope


def clock_of(now: Callable[[], float]) -> Clock:
    """A stopwatch made of a function that tells the time."""

    def measure(call: Call, repeats: int) -> float:
        start = now()
        for _ in range(repeats):
            call()
        return now() - start

    return measure


def cpu_clock(threads: int) -> tuple[Clock, str]:
    """CPU time while one thread does all the work, so that a busy machine changes little; wall time otherwise."""
    return (clock_of(time.process_time), "CPU time") if threads == 1 else (clock_of(time.perf_counter), "wall time")


def cuda_clock() -> tuple[Clock, str]:
    """Time between two events on the stream, read when the device has finished."""
    import torch

    def measure(call: Call, repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return measure, "CUDA events"


def compare(ours: Call, peer: Call, clock: Clock, *, seconds: float = 1.0) -> Timing:
    """Time two functions in pairs of samples whose order alternates, for about ``seconds`` in all.

    What disturbs the machine for longer than a pair then hits both, and what the first of a pair does to the caches hits each of
    them equally often. The ratio is taken pair by pair.
    """
    repeats = []
    for call in (ours, peer):
        call()  # warm up: tables, allocator, kernels
        repeats.append(min(1000, max(1, math.ceil(SAMPLE / max(clock(call, 1), 1e-7)))))
    each = [clock(call, count) for call, count in zip((ours, peer), repeats, strict=True)]
    pairs = int(min(PAIRS[1], max(PAIRS[0], seconds / max(sum(each), 1e-9))))
    samples: tuple[list[float], list[float]] = [], []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for pair in range(pairs):
            for side in (0, 1) if pair % 2 == 0 else (1, 0):
                samples[side].append(clock((ours, peer)[side], repeats[side]) / repeats[side])
    finally:
        if collecting:
            gc.enable()
    ratio = quartiles([a / max(b, 1e-12) for a, b in zip(*samples, strict=True)])
    return Timing(statistics.median(samples[0]), statistics.median(samples[1]), ratio)


def fix_allocator(fresh: bool) -> str:
    """Make glibc treat large blocks alike from the first to the last measurement; otherwise that depends on what was freed before.

    Kept: freed memory stays with the process, as in a long one or with a caching allocator. Fresh: every block above 1 MB is new
    memory from the system, whose pages are zeroed when they are first touched; that makes temporaries several times dearer.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        done = mallopt(-3, 2**20) and mallopt(-1, 2**20) if fresh else mallopt(-4, 0) and mallopt(-1, -1)
    except (AttributeError, OSError, TypeError):  # not glibc
        done = 0
    return "as the system has it" if not done else "fresh" if fresh else "kept"


def peak_bytes(call: Call, device: str = "cpu") -> int:
    """Most memory that one call holds above what was held before it, its result included, in bytes asked of the allocator.

    For tensors on the CPU every allocation and release is read from PyTorch's own allocator (``torch.autograd.profiler``), inside compiled
    code and inside kernels too; on a GPU the allocator keeps the peak itself; for NumPy ``tracemalloc`` sees every array.
    """
    import torch
    from torch.autograd.profiler import profile

    call()  # what is kept between calls does not count
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(profile_memory=True) as recorded:
        call()
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    if peak:
        return int(peak)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@dataclass(frozen=True)
class Limits:
    """What the machine can do at best: bytes per second of a plain copy, by bytes moved, and flops per second of a matrix product."""

    copy: dict[int, float]
    product: dict[str, float]

    def seconds(self, moved: float, flops: float, dtype: str) -> float:
        """Least time in which ``moved`` bytes (read plus written) can be copied and ``flops`` be done, whichever takes longer."""
        size = min(self.copy, key=lambda size: abs(math.log(size / max(moved, 1.0))))
        # Where the machine multiplies narrow numbers slower than float32, float32 is the limit for both.
        speed = self.product[dtype] if dtype in ("float32", "float64") else max(self.product[dtype], self.product["float32"])
        return max(moved / self.copy[size], flops / speed)


def limits(clock: Clock, device: str, *, seconds: float = 0.3) -> Limits:
    """Measure the limits, now: the best of several copies of each size and of several products of each dtype."""
    import numpy as np
    import torch

    copy: dict[int, float] = {}
    for moved in (2**power for power in (range(12, 29, 4) if device == "cpu" else range(20, 33, 4))):
        source = torch.rand(moved // 8, device=device)  # read once and written once, 4 bytes each
        target = torch.empty_like(source)
        copy[moved] = moved / _best(lambda target=target, source=source: target.copy_(source), clock, seconds)
    n = 768 if device == "cpu" else 8192
    product: dict[str, float] = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        product[str(dtype).removeprefix("torch.")] = 2 * n**3 / _best(lambda a=a, b=b: a @ b, clock, seconds)
    if device == "cpu":  # NumPy and PyTorch bring different BLAS libraries
        c = np.random.default_rng(0).random((n, n))
        product["float64"] = max(product["float64"], 2 * n**3 / _best(lambda: c @ c, clock, seconds))
    return Limits(copy, product)


def _best(call: Call, clock: Clock, seconds: float) -> float:
    call()
    repeats = min(1000, max(1, math.ceil(SAMPLE / max(clock(call, 1), 1e-7))))
    samples, end = [], time.perf_counter() + seconds
    while len(samples) < 3 or time.perf_counter() < end:
        samples.append(clock(call, repeats) / repeats)
    return min(samples)


def machine(device: str) -> dict[str, Any]:
    """The machine as far as it matters, without its name: processor, cores, load, accelerator."""
    import platform

    import torch

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    found = {
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
    return found | ({"accelerator": torch.cuda.get_device_name()} if device == "cuda" else {})
