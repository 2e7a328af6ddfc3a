"""Repetition (NumPy: float64 on the CPU).

Least work: what is read and written once, and the flops of the matrix products and solves that stand beside each case.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, Pair, Setting, Target
from kexue.generation.repetition import (
    apply_temperature,
    count_repeats,
    nucleus,
    rebalance,
    repetition_by_length,
    repetition_gradient,
    repetition_rate,
    top_k,
    transition_matrix,
)

NO_PEER = {
    "generation.repetition.average_repetition_probability": "a number of one paper; its solve is that of repetition_rate",
    "generation.repetition.expected_repeats": "two calls of np.linalg.solve, one of them that of repetition_rate",
}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED = (
    "apply_temperature",
    "top_k",
    "nucleus",
    "repetition_rate",
    "repetition_by_length",
    "count_repeats",
    "rebalance",
)


def _words(s: Setting) -> NDArray[np.float64]:
    """Word-to-word probabilities with some words that never follow one another; 3 % of the mass ends the text."""
    n = s["n"]
    weights = s.rng.gamma(0.3, size=(n, n)) * (s.rng.random((n, n)) < 0.6)
    return np.asarray(0.97 * weights / weights.sum(1, keepdims=True))


def _rate(s: Setting) -> Pair:
    P = _words(s)
    squares = P * P
    system = np.eye(s["n"]) - squares
    return Pair(
        lambda: repetition_rate(P),
        lambda: np.linalg.solve(system, squares),
        scale=s["n"],
        moved=3 * P.nbytes,
        flops=8 / 3 * s["n"] ** 3,  # elimination 2/3 n^3, two triangular solves with n right-hand sides
        view=np.trace,
    )


def _rate_gradient(s: Setting) -> Pair:
    P = _words(s)

    def peer() -> NDArray[np.float64]:
        inverse = np.linalg.inv(np.eye(len(P)) - P * P)
        return np.asarray(2 * P * (inverse @ inverse).T)

    flops = 14 / 3 * s["n"] ** 3  # an inverse and a product
    return Pair(lambda: repetition_gradient(P), peer, scale=s["n"], moved=2 * P.nbytes, flops=flops)


def _by_length(s: Setting) -> Pair:
    P = _words(s)

    def peer() -> NDArray[np.float64]:
        eigenvalues = np.linalg.eigvals(P * P)
        return np.asarray([(eigenvalues**k).sum().real for k in range(1, 9)])

    # Traces of eight powers need three products.
    return Pair(lambda: repetition_by_length(P, 8), peer, scale=s["n"], moved=P.nbytes, flops=6 * s["n"] ** 3)


def _count(s: Setting) -> Pair:
    text, longest = s.rng.integers(0, 3, s["n"]).tolist(), 20

    def peer() -> int:
        n = len(text)
        return sum(
            text[t : t + k] == text[t + k : t + 2 * k] and text[t] == text[t + 2 * k]
            for k in range(1, longest + 1)
            for t in range(n - 2 * k)
        )

    return Pair(lambda: count_repeats(text, longest), peer, scale=s["n"], moved=8 * s["n"])


def _warped(s: Setting, ours: Any, warper: str, value: float) -> Pair:
    from transformers.generation import logits_process

    given = (3 * s.randn(s["B"], s["n"])).softmax(-1)
    probs = given.numpy()
    peer = getattr(logits_process, warper)(value)
    return Pair(
        lambda: ours(probs, value),
        lambda: peer(None, given.log()).softmax(-1),
        scale=probs.size,
        moved=2 * probs.nbytes,
    )


def _transitions(s: Setting) -> Pair:
    import scipy.sparse

    n = 100
    texts = [s.rng.integers(0, n, 50) for _ in range(s["n"] // 50)]

    def peer() -> NDArray[np.float64]:
        whole = np.concatenate([part for text in texts for part in (text, [n])])
        inner = whole[:-1] < n
        pairs = whole[:-1][inner], whole[1:][inner]
        counts = scipy.sparse.coo_matrix((np.ones(inner.sum()), pairs), shape=(n, n + 1)).toarray()
        return np.asarray(counts / counts.sum(1, keepdims=True))

    return Pair(lambda: transition_matrix(texts, n), peer, scale=s["n"], moved=8 * s["n"])


def _rebalance(s: Setting) -> Pair:
    from tokenizers import Tokenizer, models, trainers

    follow = s.rng.dirichlet(np.full(27, 0.1), size=27).cumsum(1)
    letters, texts = "abcdefghijklmnopqrstuvwxyz ", []
    for _ in range(s["n"] // 100):
        text, draws = [int(s.rng.integers(27))], s.rng.random(99)
        for draw in draws:
            text.append(min(26, int(np.searchsorted(follow[text[-1]], draw))))
        texts.append("".join(letters[i] for i in text))
    merges = len(rebalance(texts, threshold=0.5, min_count=20, max_rounds=1)[1][0])

    def peer() -> Any:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=27 + merges, show_progress=False))
        return tokenizer.encode_batch(texts)

    def ours() -> Any:
        return rebalance(texts, threshold=0.5, min_count=20, max_rounds=1)

    return Pair(ours, peer, scale=s["n"], moved=16 * s["n"])


MATRICES = tuple({"n": n} for n in (100, 300, 1000))
ROWS = ({"B": 1, "n": 1000}, {"B": 8, "n": 8192}, {"B": 32, "n": 32768})
MODULE = "generation.repetition."

CASES = [
    Case(
        MODULE + "repetition_rate",
        "numpy",
        "np.linalg.solve, its matrices given",
        _rate,
        MATRICES,
        targets={"float64 forward n1000": Target(1.2, 1.1)},
        dtype="float64",
        same=1e-9,
        why="forms the matrices, checks the probabilities, drops words that cannot repeat and proves that the series converges",
    ),
    Case(
        MODULE + "repetition_gradient",
        "numpy",
        "np.linalg.inv",
        _rate_gradient,
        MATRICES,
        dtype="float64",
        same=1e-9,
        why="checks the probabilities and proves that the series converges",
    ),
    Case(
        MODULE + "repetition_by_length",
        "numpy",
        "powers of np.linalg.eigvals",
        _by_length,
        tuple({"n": n} for n in (50, 100, 200)),
        dtype="float64",
        same=1e-9,
    ),
    Case(
        MODULE + "count_repeats",
        "python",
        "a slice for every place and length",
        _count,
        tuple({"n": n} for n in (100, 1000, 10000)),
        targets={f"float64 forward n{n}": Target(0.05) for n in (1000, 10000)},
        dtype="float64",
    ),
    *(
        Case(
            MODULE + function.__name__,
            "transformers",
            f"{warper} between log and softmax",
            lambda s, function=function, warper=warper, value=value: _warped(s, function, warper, value),
            ROWS,
            same=1e-4,
            why="float64 inside, distributions checked and rescaled exactly, absent words stay absent",
        )
        for function, warper, value in (
            (apply_temperature, "TemperatureLogitsWarper", 0.7),
            (top_k, "TopKLogitsWarper", 50),
            (nucleus, "TopPLogitsWarper", 0.9),
        )
    ),
    Case(
        MODULE + "transition_matrix",
        "scipy",
        "scipy.sparse.coo_matrix",
        _transitions,
        tuple({"n": n} for n in (10_000, 100_000, 400_000)),
        dtype="float64",
    ),
    Case(
        MODULE + "rebalance",
        "tokenizers",
        "BPE with as many merges",
        _rebalance,
        tuple({"n": n} for n in (20_000, 100_000, 400_000)),
        "one round",
        targets={"float64 forward n400000": Target(seconds=0.5)},
        dtype="float64",
        same="BPE merges by count alone, one pair at a time, in Rust",
    ),
]
