r"""Why decoders repeat themselves: repetition of a word-to-word (bigram) decoder as linear algebra.

A text repeats a word sequence ``w`` when ``w`` is followed at once by ``w`` and the first word of ``w`` again. For a decoder that
goes from word to word with the matrix ``P`` (end token left out, so that rows may sum to less than 1), everything about such
repeats follows from the elementwise square :math:`A=P\circ P`.

Source: "A theoretical attempt at the repetition of sequence-to-sequence decoding" (kexue.fm/archives/8128), after Fu, Lam, So and
Shi (2021), "A Theoretical Analysis of the Repetition Problem in Text Generation", arXiv:2012.14660. Nucleus truncation: Holtzman
et al. (2020), arXiv:1904.09751.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kexue import _check
from kexue._check import choice, count, number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "repetition_by_length",
    "repetition_rate",
    "repetition_gradient",
    "average_repetition_probability",
    "expected_repeats",
    "count_repeats",
    "apply_temperature",
    "top_k",
    "nucleus",
    "transition_matrix",
    "rebalance",
]

Matrix: TypeAlias = NDArray[np.float64]
_Symbol: TypeAlias = tuple[Hashable, ...]

# A spectral radius this close to 1 cannot be told from 1 in float64, so it counts as "never stops".
_LIMIT = 1.0 - 1e-12


def repetition_by_length(P: ArrayLike, max_length: int) -> Matrix:
    r"""Weight of all repeated word sequences of each length: :math:`\operatorname{Tr}A^k`, :math:`A=P\circ P`, for k = 1, 2, ...

    Args:
        P: word-to-word probabilities, shape ``(n, n)``, from-word = row, entries at least 0, row sums at most 1 (missing mass
            ends the text).
        max_length: largest length k, at least 1.
    Returns:
        float64, shape ``(max_length,)``; entry ``k - 1`` belongs to length k.
    Raises:
        TypeError: ``P`` holds no real numbers, or ``max_length`` is no integer.
        ValueError: ``P`` is not square, not finite, has a negative entry or a row sum above 1 by more than rounding
            (:func:`repetition_rate`); ``max_length`` is below 1.

    >>> repetition_by_length([[0.0, 0.5], [1.0, 0.0]], 4)
    array([0.   , 0.5  , 0.   , 0.125])
    """
    A = _word_matrix(P) ** 2
    length = count("max_length", max_length)
    traces = np.zeros(length)
    traces[0] = np.trace(A)
    # Tr A^(a+b) is a sum over the entries of A^a and A^b, so half of the powers suffice.
    power = A
    for half in range(1, length // 2 + 1):
        traces[2 * half - 1] = np.sum(power * power.T)
        if 2 * half < length:
            longer = power @ A
            traces[2 * half] = np.sum(longer * power.T)
            power = longer
    return traces


def repetition_rate(P: ArrayLike) -> float:
    r"""Weight of all repeated word sequences, :math:`R=\sum_{k\ge1}\operatorname{Tr}A^k=\operatorname{Tr}[A(I-A)^{-1}]`.

    R is no probability: it is the expected number of repeats when every word is visited once (see :func:`expected_repeats`).
    Small values keep their relative accuracy. Source: kexue.fm/archives/8128.

    Args:
        P: word-to-word probabilities, shape ``(n, n)``, from-word = row, entries at least 0, row sums at most 1 (missing mass
            ends the text); ``n = 0`` is allowed.
    Returns:
        R; exactly 0.0 if no word can come back to itself, ``inf`` if the spectral radius of A is at least 1 - 1e-12.
    Raises:
        TypeError: ``P`` holds no real numbers.
        ValueError: ``P`` is not square, not finite, has a negative entry or a row sum above 1 by more than 1e-8 and the rounding
            of its dtype, ``4 * eps * sqrt(n)`` (at most 0.05): a float32 or float16 softmax passes.

    >>> round(repetition_rate([[0.0, 0.5], [1.0, 0.0]]), 12)
    0.666666666667
    >>> repetition_rate([[0.0, 1.0], [0.0, 0.0]])
    0.0
    """
    P = _recurrent_part(_word_matrix(P))
    if len(P) == 0:
        return 0.0
    repeats = _geometric_sum(P * P)
    return math.inf if repeats is None else float(np.trace(repeats))


def repetition_gradient(P: ArrayLike) -> Matrix:
    r"""Derivative of :func:`repetition_rate`: :math:`\partial R/\partial P_{ij}=2P_{ij}[(I-A)^{-2}]_{ji}\ge0`.

    The entries of ``P`` are taken as free variables; times ``P`` it says which pairs of words cause the repetition.

    Args:
        P: word-to-word probabilities, shape ``(n, n)``, as in :func:`repetition_rate`.
    Returns:
        float64, shape ``(n, n)``.
    Raises:
        TypeError: ``P`` holds no real numbers.
        ValueError: ``P`` is no matrix of :func:`repetition_rate`, or its rate is infinite.
    """
    P = _word_matrix(P)
    repeats = _geometric_sum(P * P)
    if repeats is None:
        raise ValueError("P must have a finite repetition rate, got a loop that is (almost) never left")
    repeats[np.diag_indices_from(repeats)] += 1.0
    return 2.0 * P * (repeats @ repeats)


def average_repetition_probability(P: ArrayLike, *, variant: str = "corrected") -> float:
    r"""Average repetition probability (ARP) of Fu et al. (2021), as published or as its derivation means it.

    With :math:`\zeta` the fraction of non-zero entries of ``P``: "published" is the paper's definition and closed form,
    :math:`\operatorname{Tr}[P^2(\zeta nI-P^2)^{-1}]=\sum_k\operatorname{Tr}P^{2k}/(\zeta n)^k`; "corrected" is
    :math:`\sum_{k\ge1}\sum_i(P^k)_{ii}^2/(\zeta n)^k`, what the derivation of the definition means: it squares the diagonal
    entries of a power, where the definition takes the diagonal of its square, which is never smaller. Both diverge for the same
    ``P``. ``n`` times the corrected value is an estimate of :func:`repetition_rate`, and neither an upper nor a lower bound.

    Args:
        P: word-to-word probabilities, shape ``(n, n)``, as in :func:`repetition_rate`.
        variant: "corrected" or "published".
    Returns:
        The value; 0.0 if no word can come back to itself, ``inf`` if :math:`\rho(P)^2/(\zeta n)` is at least 1 - 1e-12.
    Raises:
        TypeError: ``P`` holds no real numbers, or ``variant`` is no string.
        ValueError: ``P`` is no matrix of :func:`repetition_rate`, or ``variant`` is another word.

    >>> swap = [[0.0, 0.9], [0.9, 0.0]]
    >>> round(average_repetition_probability(swap), 4), round(average_repetition_probability(swap, variant="published"), 4)
    (3.8156, 8.5263)
    """
    P = _word_matrix(P)
    choice("variant", variant, ("corrected", "published"))
    recurrent = _recurrent_part(P)
    if len(recurrent) == 0:
        return 0.0
    scaled = recurrent / math.sqrt(np.count_nonzero(P) / len(P))
    published = _geometric_sum(scaled @ scaled)
    if published is None:
        return math.inf
    return float(np.trace(published)) if variant == "published" else _squared_returns(scaled, published.T)


def _squared_returns(C: Matrix, published: Matrix) -> float:
    """Sum over k of the squared diagonal of C^k; ``published`` is the sum of C^(2k) over the same k."""
    n = len(C)
    total, power = 0.0, C
    for _ in range(max(100, 20 * n)):
        total += float(np.sum(np.diagonal(power) ** 2))
        # What is still missing is at most the rest of the published series, Tr[C^(2k) * published].
        if np.sum(power.T * (power @ published)) <= 1e-16 * total:
            return total
        power = power @ C
    # Slow convergence: for each word double the number of terms of sum_k C^k e e' C'^k instead (all terms are non-negative).
    sums = [np.outer(C[:, i], C[:, i]) for i in range(n)]
    power = C
    while power.any():
        sums = [partial + power @ partial @ power.T for partial in sums]
        power = power @ power
    return float(sum(partial[i, i] for i, partial in enumerate(sums)))


def expected_repeats(P: ArrayLike, start: ArrayLike) -> float:
    r"""Expected number of repeats in a text: :math:`\sum_iv_i[A(I-A)^{-1}]_{ii}`, expected visits :math:`v=(I-P^\top)^{-1}\pi`.

    Counted are pairs (position, length) as in :func:`count_repeats`, for texts drawn word by word until they end.

    Args:
        P: word-to-word probabilities, shape ``(n, n)``, as in :func:`repetition_rate`; every text must end. Words that no text
            can reach do not count.
        start: probabilities :math:`\pi` of the first word, shape ``(n,)``, at least 0, sum at most 1 (missing mass: empty text;
            rounding as for the rows of ``P``).
    Returns:
        Repeats per text.
    Raises:
        TypeError: ``P`` or ``start`` holds no real numbers.
        ValueError: ``P`` is no matrix of :func:`repetition_rate`, its spectral radius among the words in reach is at least
            1 - 1e-12 (texts need not terminate), or ``start`` has another shape, a negative or non-finite entry or a sum above 1.

    >>> round(expected_repeats([[0.5]], [1.0]), 12)
    0.666666666667
    """
    P = _word_matrix(P)
    given = _array("start", start)
    first = _real("start", given)
    if first.shape != (len(P),):
        raise ValueError(f"start must have shape {(len(P),)}, got {first.shape}")
    with np.errstate(over="ignore"):
        total = first.sum()
    if not (np.isfinite(first).all() and (first >= 0).all() and total <= 1 + _tolerance(given, 1e-8)):
        raise ValueError(f"start must be finite and non-negative with a sum of at most 1, got {first}")
    reached = _reachable(P, first > 0)
    if not reached.all():
        P, first = P[np.ix_(reached, reached)], first[reached]
    if len(P) == 0:
        return 0.0
    try:
        visits, witness = np.linalg.solve(np.eye(len(P)) - P.T, np.stack([first, np.ones(len(P))], axis=1)).T
        terminates = _radius_below_limit(P.T, witness)
    except np.linalg.LinAlgError:
        terminates = False
    repeats = _geometric_sum(P * P) if terminates else None
    if repeats is None:
        raise ValueError("P must let every text terminate, got words from which the end is (almost) out of reach")
    return float(visits @ np.diagonal(repeats))


def count_repeats(sequence: Iterable[Hashable], max_length: int | None = None) -> int:
    """Number of repeats in one text: pairs (t, k) with ``s[t:t+k] == s[t+k:t+2*k]`` and ``s[t] == s[t+2*k]``.

    Powers and rotations of a loop count again, as in :func:`repetition_rate`. Time O(length * max_length).

    Args:
        sequence: the symbols, any hashables in order (a string, a list of ids, a 1-d array).
        max_length: largest k, at least 1; None for all.
    Returns:
        The count.
    Raises:
        TypeError: ``sequence`` is not iterable or holds something unhashable; ``max_length`` is no integer.
        ValueError: ``max_length`` is below 1.

    >>> count_repeats("abcdbcdbcdef")  # bcd, cdb and dbc
    3
    """
    codes: dict[Hashable, int] = {}
    ids = _codes("sequence", sequence, codes)
    longest = (len(ids) - 1) // 2
    if max_length is not None:
        longest = min(longest, count("max_length", max_length))
    if longest < 1:
        return 0
    n = len(ids)
    later = np.lib.stride_tricks.sliding_window_view(np.concatenate([ids, np.full(longest, -1)]), n)
    block = max(1, 2**16 // n)
    total = 0
    for low in range(1, longest + 1, block):
        # Both conditions together say that k + 1 successive symbols equal those k places later. The padding ends every row.
        breaks = np.flatnonzero(later[low : low + block] != ids)
        excess = np.diff(breaks, prepend=-1) - 1 - (low + breaks // n)
        total += int(excess[excess > 0].sum())
    return total


@overload
def apply_temperature(probs: Tensor, temperature: float) -> Tensor: ...
@overload
def apply_temperature(probs: ArrayLike, temperature: float) -> NDArray[Any]: ...
def apply_temperature(probs: ArrayLike | Tensor, temperature: float) -> Any:
    r"""Sharpen or flatten distributions: :math:`p_i^{1/T}/\sum_jp_j^{1/T}`, computed from logarithms.

    Args:
        probs: distributions along the last axis, shape ``(..., n)``, end token included; an array, or a tensor on any device.
        temperature: T, at least 0; 0 puts all mass on the largest entry (the first of equals), 1 changes nothing.
    Returns:
        Shape of ``probs``, an array for an array (or a list) and a tensor on the same device for a tensor; its dtype if that is
        floating point, else float64 (float32 for tensors). An absent word (probability 0) stays absent. Arrays are computed in
        float64, tensors in at least float32; differentiable in a tensor, gradient 0 at absent words.
    Raises:
        TypeError: ``probs`` holds no real numbers, or ``temperature`` is no number.
        ValueError: ``probs`` has no last axis, is negative or does not sum to 1 (within 1e-6 and the rounding of its dtype,
            ``4 * eps * sqrt(n)``, at most 0.05); ``temperature`` is negative or not finite.

    >>> apply_temperature([0.8, 0.2], 0.5).round(4)
    array([0.9412, 0.0588])
    """
    p, finish = _distributions(probs)
    temperature = number("temperature", temperature, 0.0)
    if temperature == 1.0:
        return finish(p)
    xp, zero = _library(p), p * 0.0
    top = xp.amax(p, -1)[..., None]
    if temperature == 0.0:
        best = p == top
        return finish(xp.where(best & (xp.cumsum(best, -1) == 1), zero + 1.0, zero))
    present = p > 0
    # Relative to the largest entry before the division: that entry is exactly 0 however small the temperature is.
    ratio = xp.where(present, p, top) / top
    present = present & (ratio > 0)
    # No quotient overflows: log 5e-324 is -744, and a temperature below 1e-300 decides as 1e-300 does.
    weights = xp.exp(xp.log(xp.where(present, ratio, zero + 1.0)) / max(temperature, 1e-300))
    return finish(xp.where(present, weights, zero))


@overload
def top_k(probs: Tensor, k: int) -> Tensor: ...
@overload
def top_k(probs: ArrayLike, k: int) -> NDArray[Any]: ...
def top_k(probs: ArrayLike | Tensor, k: int) -> Any:
    """Keep the ``k`` most probable entries of each distribution and rescale them to sum 1.

    Args:
        probs: distributions along the last axis, shape ``(..., n)``, end token included (it takes part like a word); an array,
            or a tensor on any device.
        k: number of entries kept, at least 1; of equals the first are kept; ``k >= n`` keeps all.
    Returns:
        As :func:`apply_temperature`; the gradient in a tensor is 0 at what is cut off.
    Raises:
        TypeError: ``probs`` holds no real numbers, or ``k`` is no integer.
        ValueError: ``probs`` has no last axis, is negative or does not sum to 1 (as in :func:`apply_temperature`); ``k`` is
            below 1.

    >>> top_k([0.4, 0.2, 0.4], 1)
    array([1., 0., 0.])
    """
    p, finish = _distributions(probs)
    n = p.shape[-1]
    k = min(count("k", k), n)
    xp = _library(p)
    smallest = _kth_largest(p, k)
    larger, tied = p > smallest, p == smallest
    room = k - xp.sum(larger, -1)[..., None]
    return finish(xp.where(larger | (tied & (xp.cumsum(tied, -1) <= room)), p, p * 0.0))


@overload
def nucleus(probs: Tensor, p: float) -> Tensor: ...
@overload
def nucleus(probs: ArrayLike, p: float) -> NDArray[Any]: ...
def nucleus(probs: ArrayLike | Tensor, p: float) -> Any:
    """Keep the smallest set of most probable entries whose mass reaches ``p`` and rescale it to sum 1.

    The entry that crosses ``p`` is kept, so the set is never empty. A mass below ``p`` by no more than rounding has reached it:
    1e-12 and four times the ``eps`` of the dtype. Source: Holtzman et al. (2020), arXiv:1904.09751.

    Args:
        probs: distributions along the last axis, shape ``(..., n)``, end token included (it takes part like a word); an array,
            or a tensor on any device.
        p: mass to reach, in (0, 1]; of equals the first are kept; 1 keeps all.
    Returns:
        As :func:`apply_temperature`; the gradient in a tensor is 0 at what is cut off.
    Raises:
        TypeError: ``probs`` holds no real numbers, or ``p`` is no number.
        ValueError: ``probs`` has no last axis, is negative or does not sum to 1 (as in :func:`apply_temperature`); ``p`` is
            outside (0, 1].

    >>> nucleus([0.125, 0.5, 0.375], 0.8).round(4)
    array([0.    , 0.5714, 0.4286])
    """
    values, finish = _distributions(probs)
    mass = number("p", p, 0.0, 1.0, open_low=True)
    if mass == 1.0:
        return finish(values)
    xp = _library(values)
    order = _descending(values)
    ordered = _take(values, order)
    # The mass before an entry, itself left out.
    before = xp.cumsum(ordered, -1) - ordered
    kept = before < (mass - max(1e-12, 4.0 * _eps(probs))) * xp.sum(ordered, -1)[..., None]
    kept[..., 0] = True
    return finish(xp.where(_put_back(kept, order), values, values * 0.0))


def transition_matrix(sequences: Iterable[Any], vocab_size: int, *, smoothing: float = 0.0) -> Matrix:
    """Word-to-word probabilities of a corpus by counting, with an end token after each sequence.

    Without smoothing this is the maximum-likelihood bigram model. The first ``vocab_size`` columns are the ``P`` of the functions
    above; truncate the rows with all columns, otherwise a text never ends.

    Args:
        sequences: sequences of integer ids in ``range(vocab_size)``; empty ones are ignored.
        vocab_size: number n of words, at least 1.
        smoothing: count added to every one of the n + 1 columns, at least 0.
    Returns:
        float64, shape ``(n, n + 1)``, rows sum to 1, last column = end. A word without any count stops with probability 1.
    Raises:
        TypeError: ``sequences`` is no iterable of sequences of integers, ``vocab_size`` no integer, or ``smoothing`` no number.
        ValueError: an id of ``sequences`` is out of range, ``vocab_size`` is below 1, or ``smoothing`` is negative or not finite.

    >>> transition_matrix([[0, 1, 0]], 2)
    array([[0. , 0.5, 0.5],
           [1. , 0. , 0. ]])
    """
    n = count("vocab_size", vocab_size)
    smoothing = number("smoothing", smoothing, 0.0)
    texts = []
    for text in _each("sequences", sequences):
        ids = _array("sequences", text)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise TypeError(f"sequences must hold one-dimensional sequences of integers, got {type(text).__name__} {ids.dtype}")
        if ids.size:
            texts.append(ids.astype(np.int64, copy=False))
    flat = np.concatenate(texts) if texts else np.zeros(0, dtype=np.int64)
    if flat.size and not (flat.min() >= 0 and flat.max() < n):
        raise ValueError(f"sequences must hold ids in [0, {n}), got {flat.min()} to {flat.max()}")
    following = np.append(flat[1:], n)
    following[np.cumsum([len(ids) for ids in texts], dtype=np.int64) - 1] = n
    counts = np.bincount(flat * (n + 1) + following, minlength=n * (n + 1)).reshape(n, n + 1)
    # Common scale of counts and smoothing: a huge smoothing must not overflow the row sums.
    scale = max(1.0, smoothing)
    weights = counts / scale + smoothing / scale
    total = weights.sum(axis=1, keepdims=True)
    weights[total[:, 0] == 0.0, n] = 1.0
    total[total == 0.0] = 1.0
    return np.asarray(weights / total)


def rebalance(
    sequences: Iterable[Iterable[Hashable]], *, threshold: float, min_count: int = 1, max_rounds: int | None = None
) -> tuple[list[list[_Symbol]], list[set[tuple[_Symbol, _Symbol]]]]:
    r"""Merge near-deterministic pairs of symbols into one symbol (the rebalanced encoding of Fu et al., 2021).

    Each round takes all pairs (a, b) that follow one another at least ``min_count`` times and in more than ``threshold`` of the
    occurrences of a, and merges them in one pass from the left without overlap. It stops when no pair qualifies.

    Args:
        sequences: sequences of hashable symbols (strings, lists of ids, ...).
        threshold: fraction in (0, 1]; with 1 nothing is merged.
        min_count: least number of occurrences of a pair, at least 1.
        max_rounds: largest number of rounds, at least 0; None for no limit.
    Returns:
        ``(encoded, rounds)``: the sequences as lists of tuples of original symbols (joining the tuples gives the input back), and
        for each round the set of merged pairs.
    Raises:
        TypeError: ``sequences`` is no iterable of sequences of hashables, or an option is of the wrong kind.
        ValueError: ``threshold`` is outside (0, 1], ``min_count`` below 1, or ``max_rounds`` below 0.

    >>> encoded, rounds = rebalance(["quiet", "queue"], threshold=0.9, min_count=2)
    >>> encoded[0]
    [('q', 'u'), ('i',), ('e',), ('t',)]
    >>> rounds
    [{(('q',), ('u',))}]
    """
    threshold = number("threshold", threshold, 0.0, 1.0, open_low=True)
    least = count("min_count", min_count)
    limit = math.inf if max_rounds is None else count("max_rounds", max_rounds, minimum=0)
    originals: dict[Hashable, int] = {}
    texts = [_codes("sequences", text, originals) for text in _each("sequences", sequences)]
    names: list[_Symbol] = [(symbol,) for symbol in originals]
    ids = np.concatenate(texts) if texts else np.zeros(0, dtype=np.int64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    rounds: list[set[tuple[_Symbol, _Symbol]]] = []
    while len(rounds) < limit:
        same = owner[:-1] == owner[1:]
        size = len(names)
        pairs, inverse, counts = np.unique(ids[:-1][same] * size + ids[1:][same], return_inverse=True, return_counts=True)
        chosen = (counts >= least) & (counts > threshold * np.bincount(ids, minlength=size)[pairs // size])
        if not chosen.any():
            break
        merged = np.zeros(len(pairs), dtype=np.int64)
        found = set()
        for index in np.flatnonzero(chosen):
            left, right = (names[code] for code in divmod(int(pairs[index]), size))
            found.add((left, right))
            # No other pair gives the same symbol: what lies inside a symbol alone decides how it was merged.
            merged[index] = len(names)
            names.append(left + right)
        rounds.append(found)
        candidate = np.zeros(len(ids), dtype=bool)
        candidate[:-1][same] = chosen[inverse]
        # From the left without overlap: in a run of touching candidates every second one, beginning with the first.
        place = np.arange(len(ids))
        run_start = np.maximum.accumulate(np.where(candidate, -1, place)) + 1
        first = candidate & ((place - run_start) % 2 == 0)
        target = np.zeros(len(ids), dtype=np.int64)
        target[:-1][same] = merged[inverse]
        ids = np.where(first, target, ids)
        kept = np.ones(len(ids), dtype=bool)
        kept[1:] = ~first[:-1]
        ids, owner = ids[kept], owner[kept]
    ends = np.searchsorted(owner, np.arange(len(texts)), side="right").tolist()
    symbols = [names[code] for code in ids.tolist()]
    return [symbols[begin:end] for begin, end in zip([0, *ends][: len(ends)], ends, strict=True)], rounds


def _geometric_sum(A: Matrix) -> Matrix | None:
    r"""Transpose of :math:`A+A^2+\dots=A(I-A)^{-1}` for a non-negative A; None if the spectral radius is at least the limit."""
    if len(A) == 0:
        return np.zeros((0, 0))
    # Rows of A sum to at most 1, so in the transpose each diagonal entry dominates its column: partial pivoting never swaps, all
    # terms of the elimination have one sign, and small results keep their relative accuracy.
    system = -A.T
    system[np.diag_indices_from(system)] += 1.0
    try:
        result = np.asarray(np.linalg.solve(system, A.T), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
    return result if _radius_below_limit(A, 1.0 + result.sum(axis=0)) else None


def _radius_below_limit(A: Matrix, x: Matrix) -> bool:
    """Whether the spectral radius of a non-negative A is below the limit; ``x`` should solve (I - A)x = 1."""
    # Collatz-Wielandt: a positive x with Ax < cx proves radius < c, whatever rounding did to x. Eigenvalues only if that fails.
    with np.errstate(all="ignore"):
        if (x > 0).all() and (A @ x < _LIMIT * x).all():
            return True
    return bool(np.abs(np.linalg.eigvals(A)).max() < _LIMIT)


def _recurrent_part(P: Matrix) -> Matrix:
    """P without the words that lie on no loop and not between two loops: empty exactly if its support has no cycle."""
    support = P > 0
    if support.all():
        return P
    out, into = support.sum(axis=1), support.sum(axis=0)
    alive = np.ones(len(P), dtype=bool)
    while (dead := np.flatnonzero(alive & ((out == 0) | (into == 0)))).size:
        alive[dead] = False
        out -= support[:, dead].sum(axis=1)
        into -= support[dead].sum(axis=0)
    return P if alive.all() else P[np.ix_(alive, alive)]


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be rectangular, got rows of different lengths") from None
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array of real numbers, got {type(value).__name__}: {error}") from None


def _real(name: str, value: Any) -> Matrix:
    array = _array(name, value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    return array.astype(np.float64, copy=False)


def _word_matrix(value: ArrayLike) -> Matrix:
    given = _array("P", value)
    P = _real("P", given)
    if P.ndim != 2 or P.shape[0] != P.shape[1]:
        raise ValueError(f"P must be a square matrix, got shape {P.shape}")
    # Written so that NaN fails: it propagates into the minimum, and infinity into the row sums.
    if P.size and not P.min() >= 0.0:
        raise ValueError(f"P must be finite and non-negative, got {P.min()}")
    with np.errstate(over="ignore"):
        largest = P.sum(axis=1).max(initial=0.0)
    if not largest <= 1 + _tolerance(given, 1e-8):
        raise ValueError(f"P must have row sums of at most 1, got {largest}")
    return P


def _reachable(P: Matrix, start: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The words that a text can come to from those of ``start``."""
    reached, new = start.copy(), start
    while new.any():
        new = (P[new] > 0).any(axis=0) & ~reached
        reached |= new
    return reached


def _distributions(value: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Checked distributions, wide enough to calculate with, and what turns weights into distributions of the kind that came in."""
    given: Any
    p: Any
    dtype: Any
    if _check.is_tensor(value):
        given = _check.real("probs", value)
        p = _check.widen(given) if given.is_floating_point() else given.float()
        dtype = given.dtype if given.is_floating_point() else p.dtype
    else:
        given = _array("probs", value)
        p = _real("probs", given)
        dtype = given.dtype if given.dtype.kind == "f" else np.dtype(np.float64)
    if p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError(f"probs must have at least one entry along the last axis, got shape {tuple(p.shape)}")
    if _check.is_tensor(p):
        _check.seen(lambda: _check_probabilities(p.detach(), given))
    else:
        _check_probabilities(p, given)

    def finish(weights: Any) -> Any:
        result = weights / _library(weights).sum(weights, -1)[..., None]
        return result.to(dtype) if _check.is_tensor(result) else result.astype(dtype, copy=False)

    return p, finish


def _check_probabilities(p: Any, given: Any) -> None:
    if 0 not in p.shape:
        smallest = float(p.min())
        if not smallest >= 0.0:
            raise ValueError(f"probs must be finite and non-negative, got {smallest}")
        with np.errstate(over="ignore"):
            error = float(abs(p.sum(-1) - 1.0).max())
        if not error <= _tolerance(given, 1e-6):
            raise ValueError(f"probs must sum to 1 along the last axis, got a sum that differs by {error}")


def _eps(given: Any) -> float:
    """The spacing of the dtype of an array or tensor at 1; 0 for integers and lists."""
    dtype = getattr(given, "dtype", None)
    if dtype is None:
        return 0.0
    if not isinstance(dtype, np.dtype):
        torch = sys.modules["torch"]
        return float(torch.finfo(dtype).eps) if dtype.is_floating_point else 0.0
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def _tolerance(given: Any, least: float) -> float:
    """How far the sums of rows of this dtype and length may be from 1, at least ``least``."""
    return _check.sum_tolerance(_eps(given), given.shape[-1], least)


# What NumPy and PyTorch call by other names.


def _library(x: Any) -> Any:
    return sys.modules["torch"] if _check.is_tensor(x) else np


def _take(x: Any, places: Any) -> Any:
    return x.gather(-1, places) if _check.is_tensor(x) else np.take_along_axis(x, places, axis=-1)


def _put_back(taken: Any, places: Any) -> Any:
    """The inverse of :func:`_take`."""
    if _check.is_tensor(taken):
        return taken.scatter(-1, places, taken)
    result = np.empty_like(taken)
    np.put_along_axis(result, places, taken, axis=-1)
    return result


def _descending(x: Any) -> Any:
    """Places of the entries by size, largest first, the first of equals first."""
    return x.argsort(dim=-1, descending=True, stable=True) if _check.is_tensor(x) else np.argsort(-x, axis=-1, kind="stable")


def _kth_largest(x: Any, k: int) -> Any:
    if _check.is_tensor(x):
        return x.topk(k, -1, sorted=False).values.amin(-1, keepdim=True)
    return np.partition(x, x.shape[-1] - k, axis=-1)[..., x.shape[-1] - k, None]


def _each(name: str, sequences: Any) -> list[Any]:
    if isinstance(sequences, (str, bytes)):
        raise TypeError(f"{name} must be several sequences, got one {type(sequences).__name__}")
    try:
        return list(sequences)
    except TypeError:
        raise TypeError(f"{name} must be an iterable of sequences, got {type(sequences).__name__}") from None


def _codes(name: str, sequence: Any, codes: dict[Hashable, int]) -> NDArray[np.int64]:
    """Small integers for hashable symbols, numbered in ``codes`` by first appearance."""
    try:
        # Elements of a tensor are hashed by identity, those of its list by value.
        values = sequence.tolist() if hasattr(sequence, "tolist") else sequence
        return np.array([codes.setdefault(symbol, len(codes)) for symbol in values], dtype=np.int64)
    except (TypeError, RuntimeError):  # RuntimeError: a tensor on the meta device has no list
        raise TypeError(f"{name} must hold sequences of hashable symbols, got {type(sequence).__name__}") from None
