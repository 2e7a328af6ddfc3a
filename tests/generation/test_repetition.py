"""Repetition of word-to-word decoders: brute force over words, texts, powers and enumerations as the oracles."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue.generation import repetition
from kexue.generation.repetition import (
    apply_temperature,
    average_repetition_probability,
    count_repeats,
    expected_repeats,
    nucleus,
    rebalance,
    repetition_by_length,
    repetition_gradient,
    repetition_rate,
    top_k,
    transition_matrix,
)


def words(seed, n, *, density=0.6, mass=0.97, concentration=0.3):
    """A random sparse decoder."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet([concentration] * n, size=n) * (rng.random((n, n)) < density) * mass


def loop(n):
    return np.roll(np.eye(n), 1, axis=1)


matrices = st.builds(
    words, st.integers(0, 10**6), st.integers(1, 6), density=st.sampled_from([0.3, 0.6, 1.0]), mass=st.floats(0.1, 0.97)
)
texts = st.text(alphabet="ab", max_size=14) | st.text(alphabet="abc", max_size=10)


def repeats_by_definition(s, max_length=None):
    longest = len(s) if max_length is None else max_length
    return sum(
        s[t : t + k] == s[t + k : t + 2 * k] and s[t] == s[t + 2 * k]
        for k in range(1, longest + 1)
        for t in range(len(s) - 2 * k)
    )


# --- repetition by length and in total


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_traces_are_the_summed_weights_of_all_repeated_words(seed, n):
    P = words(seed, n)
    expected = [
        sum(math.prod(P[w[t], w[(t + 1) % k]] ** 2 for t in range(k)) for w in itertools.product(range(n), repeat=k))
        for k in range(1, 6)
    ]
    np.testing.assert_allclose(repetition_by_length(P, 5), expected, rtol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9, 10])
def test_traces_are_traces_of_powers(length):
    P = words(3, 7)
    expected = [np.trace(np.linalg.matrix_power(P * P, k)) for k in range(1, length + 1)]
    got = repetition_by_length(P, length)
    assert got.shape == (length,) and got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(("seed", "n"), [(0, 1), (1, 2), (2, 5), (3, 20), (4, 60)])
def test_rate_is_the_sum_over_all_lengths(seed, n):
    P = words(seed, n)
    assert repetition_rate(P) == pytest.approx(repetition_by_length(P, 800).sum(), rel=1e-12)


@pytest.mark.parametrize(("seed", "n"), [(0, 2), (1, 5), (2, 30)])
def test_rate_is_the_sum_of_lambda_over_one_minus_lambda(seed, n):
    P = words(seed, n)
    eigenvalues = np.linalg.eigvals(P * P)
    total = (eigenvalues / (1 - eigenvalues)).sum()
    assert abs(total.imag) < 1e-12
    assert repetition_rate(P) == pytest.approx(total.real, rel=1e-11)


def test_rate_of_two_words_is_the_exact_rational():
    a, b, c, d = Fraction(1, 4), Fraction(1, 2), Fraction(3, 8), Fraction(1, 8)
    A = [[a * a, b * b], [c * c, d * d]]
    determinant = (1 - A[0][0]) * (1 - A[1][1]) - A[0][1] * A[1][0]
    exact = (2 - A[0][0] - A[1][1]) / determinant - 2
    assert repetition_rate([[float(a), float(b)], [float(c), float(d)]]) == pytest.approx(float(exact), rel=1e-15)


@pytest.mark.parametrize("n", [3, 10, 100, 300])
def test_uniform_rows_do_not_minimise_repetition(n):
    uniform = np.full((n, n), 1 / n)
    others = (np.ones((n, n)) - np.eye(n)) / (n - 1)
    assert repetition_rate(uniform) == pytest.approx(1 / (n - 1), rel=1e-11)
    assert repetition_rate(others) == pytest.approx(1 / (n - 2) - (n - 1) / ((n - 1) ** 2 + 1), rel=1e-11)


def test_a_tiny_rate_keeps_its_relative_accuracy():
    n, reach = 100, 20
    P = sum(np.roll(np.eye(n), step, axis=1) for step in range(1, reach + 1)) / reach
    # Closed walks of length k by an exact integer recursion on the circle; each has weight reach ** (-2 k).
    steps, exact = {0: 1}, Fraction(0)
    for k in range(1, 40):
        advanced = Counter()
        for place, ways in steps.items():
            for step in range(1, reach + 1):
                advanced[(place + step) % n] += ways
        steps = advanced
        exact += Fraction(n * steps[0], reach ** (2 * k))
    assert float(exact) < 2e-9
    assert repetition_rate(P) == pytest.approx(float(exact), rel=1e-12)


def test_almost_all_pairs_may_be_possible_with_almost_no_repetition():
    n = 100
    P = 0.999 * sum(np.roll(np.eye(n), step, axis=1) for step in range(1, 21)) / 20 + 0.001 / n
    assert (P > 0).all() and 0 < repetition_rate(P) < 1e-6


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_greedy_decoding_repeats_never_or_for_ever(seed, n):
    rng = np.random.default_rng(seed)
    follows = rng.integers(0, n + 1, size=n)  # n is the end
    P = np.zeros((n, n + 1))
    P[np.arange(n), follows] = 1
    ends = True
    for word in range(n):
        for _ in range(n):
            word = n if word == n else follows[word]
        ends &= word == n
    assert repetition_rate(P[:, :n]) == (0.0 if ends else math.inf)
    assert average_repetition_probability(P[:, :n]) == 0.0 or not ends


@pytest.mark.parametrize("n", [1, 2, 17, 300])
def test_a_support_without_cycle_gives_exactly_zero_and_a_sure_loop_infinity(n):
    chain = np.triu(np.full((n, n), 1 / n), k=1)
    shuffled = np.random.default_rng(n).permutation(n)
    assert repetition_rate(chain[np.ix_(shuffled, shuffled)]) == 0.0
    assert repetition_rate(np.eye(n, k=1)) == 0.0
    assert repetition_rate(loop(n)) == math.inf
    assert repetition_rate(np.zeros((n, n))) == 0.0


@given(st.integers(0, 10**6), st.integers(2, 25))
def test_without_a_cycle_nothing_is_left_to_rounding(seed, n):
    rng = np.random.default_rng(seed)
    P = np.triu(words(seed, n, density=0.3, mass=1.0), k=1)
    P /= np.maximum(P.sum(axis=1, keepdims=True), 1e-300)
    order = rng.permutation(n)
    P = P[np.ix_(order, order)]
    assert repetition_rate(P) == 0.0
    assert average_repetition_probability(P) == average_repetition_probability(P, variant="published") == 0.0


@pytest.mark.parametrize("n", [1, 2, 50])
def test_an_exit_from_a_sure_loop_makes_the_rate_finite(n):
    P = loop(n)
    P[0] *= 1 - 1e-3
    around = (1 - 1e-3) ** 2
    assert repetition_rate(P) == pytest.approx(n * around / (1 - around), rel=1e-10)


@pytest.mark.parametrize(("leak", "finite"), [(1e-10, True), (1e-11, True), (1e-13, False), (1e-15, False), (0.0, False)])
def test_a_leak_below_the_limit_counts_as_a_sure_loop(leak, finite):
    P = np.array([[1 - leak, 0.0, 0.0], [0.2, 0.1, 0.3], [0.0, 0.3, 0.2]])
    rate = repetition_rate(P)
    assert math.isfinite(rate) == finite
    if finite:
        assert rate == pytest.approx(1 / (2 * leak), rel=1e-4)


def test_counting_repeats_of_a_long_text_takes_little_memory():
    text = np.random.default_rng(0).integers(0, 2, 4000).tolist()
    tracemalloc.start()
    try:
        count_repeats(text)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([0.15, 0.3, 0.5]))
def test_words_are_dropped_exactly_if_no_repeat_passes_through_them(seed, n, density):
    P = words(seed, n, density=density)
    reach = np.linalg.matrix_power(np.eye(n) + (P > 0), n) > 0
    looping = [reach[i] @ (P[:, i] > 0) for i in range(n)]  # a successor of i leads back to i
    kept = [
        any(reach[j, i] and looping[j] for j in range(n)) and any(reach[i, j] and looping[j] for j in range(n)) for i in range(n)
    ]
    np.testing.assert_array_equal(repetition._recurrent_part(P), P[np.ix_(kept, kept)])


def test_ordinary_matrices_need_no_eigenvalues(monkeypatch):
    monkeypatch.setattr(repetition.np.linalg, "eigvals", None)
    for seed in range(5):
        P = words(seed, 30)
        assert 0 < repetition_rate(P) < math.inf
        assert repetition_gradient(P).min() >= 0
    np.testing.assert_allclose(repetition_gradient([[0.5, 0.2], [0.0, 0.0]]), [[16 / 9, 0], [0, 0]], rtol=1e-12)


@pytest.mark.parametrize(
    ("A", "x"),
    [(np.diag([2.0, 0.1]), [-1.0, 1.0]), ([[2.0]], [0.5]), ([[1.0]], [1.0]), ([[1.0 - 1e-13]], [1.0]), ([[1.5]], [math.nan])],
)
def test_no_witness_proves_what_is_false(A, x):
    assert not repetition._radius_below_limit(np.array(A), np.array(x))
    assert repetition._radius_below_limit(np.array(A) / 3, np.array(x))


def test_chained_slow_loops_are_judged_by_their_radius_not_by_the_time_they_take():
    # The text needs 4e12 steps on average, yet the spectral radius 1 - 2e-12 is below the limit.
    n, leak = 8, 2e-12
    P = np.diag(np.full(n, 1 - leak)) + np.diag(np.full(n - 1, leak), k=1)
    assert repetition_rate(P) == pytest.approx(n / (2 * leak), rel=1e-3)
    assert expected_repeats(P, np.eye(n)[0]) == pytest.approx(n / (2 * leak**2), rel=1e-3)


def test_a_loop_inside_a_larger_vocabulary_is_found():
    P = words(5, 12, mass=0.5)
    assert math.isfinite(repetition_rate(P))
    P[[2, 7, 9]] = 0
    P[2, 7] = P[7, 9] = P[9, 2] = 1
    assert repetition_rate(P) == math.inf


def test_rounded_rows_that_sum_to_one_are_finite():
    for n in (2, 3, 7, 10, 101):
        assert math.isfinite(repetition_rate(np.full((n, n), 1 / n)))


@given(matrices, st.integers(0, 10**6))
def test_renaming_words_changes_nothing(P, seed):
    order = np.random.default_rng(seed).permutation(len(P))
    assert repetition_rate(P[np.ix_(order, order)]) == pytest.approx(repetition_rate(P), rel=1e-12, abs=0)


@given(matrices)
def test_repetition_grows_with_every_entry_and_the_frobenius_bound_holds(P):
    rate = repetition_rate(P)
    assert repetition_rate(0.9 * P) <= rate
    rho = np.abs(np.linalg.eigvals(P * P)).max()
    assert -1e-15 <= rate <= len(P) * rho / (1 - rho) * (1 + 1e-9) + 1e-6


def test_independent_vocabularies_add_up():
    P, Q = words(0, 4), words(1, 5)
    both = np.block([[P, np.zeros((4, 5))], [np.zeros((5, 4)), Q]])
    assert repetition_rate(both) == pytest.approx(repetition_rate(P) + repetition_rate(Q), rel=1e-13)


def test_one_way_bridges_between_loops_do_not_count():
    P, Q = 0.5 * words(0, 4, density=1), 0.5 * words(1, 5, density=1)
    bridge = np.zeros((11, 11))
    bridge[:4, :4], bridge[4:9, 4:9] = P, Q
    bridge[0, 9], bridge[9, 10], bridge[10, 5] = 0.3, 0.9, 0.9
    assert repetition_rate(bridge) == pytest.approx(repetition_rate(P) + repetition_rate(Q), rel=1e-12)


def test_no_words_give_no_repetition():
    empty = np.zeros((0, 0))
    assert repetition_rate(empty) == 0.0 and average_repetition_probability(empty) == 0.0
    assert expected_repeats(empty, []) == 0.0
    assert repetition_gradient(empty).shape == (0, 0) and (repetition_by_length(empty, 3) == 0).all()


@pytest.mark.parametrize("tiny", [1e-30, 1e-160, 1e-200, 5e-324])
def test_tiny_probabilities_are_harmless(tiny):
    P = np.full((3, 3), tiny)
    assert repetition_rate(P) == pytest.approx(3 * tiny * tiny, rel=1e-10, abs=1e-320)
    assert np.isfinite(repetition_gradient(P)).all()
    assert average_repetition_probability(P) >= 0.0
    assert expected_repeats(P, [1, 0, 0]) >= 0.0


# --- the gradient


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_is_that_of_autograd_and_of_central_differences(seed):
    P = words(seed, 6)
    gradient = repetition_gradient(P)
    A = torch.tensor(P, requires_grad=True)
    (torch.linalg.inv(torch.eye(6, dtype=torch.float64) - A * A).trace() - 6).backward()
    np.testing.assert_allclose(gradient, A.grad.numpy(), rtol=1e-10, atol=1e-14)
    step = 1e-6
    for i, j in [(0, 0), (1, 4), (5, 2)]:
        moved = np.zeros_like(P)
        moved[i, j] = step
        if P[i, j] > step:
            numeric = (repetition_rate(P + moved) - repetition_rate(P - moved)) / (2 * step)
            assert gradient[i, j] == pytest.approx(numeric, rel=1e-6, abs=1e-9)
    assert (gradient >= 0).all()


def test_gradient_vanishes_exactly_off_the_cycles():
    P = np.array([[0.3, 0.2, 0.0], [0.0, 0.0, 0.7], [0.0, 0.0, 0.0]])
    expected = np.zeros((3, 3))
    expected[0, 0] = 2 * 0.3 / (1 - 0.09) ** 2
    np.testing.assert_allclose(repetition_gradient(P), expected, rtol=1e-14, atol=0)


@given(matrices, st.floats(0.1, 1.0), st.integers(0, 10**6))
def test_traces_and_gradient_follow_scale_and_renaming(P, factor, seed):
    order = np.random.default_rng(seed).permutation(len(P))
    moved = np.ix_(order, order)
    traces = repetition_by_length(P, 6)
    np.testing.assert_allclose(repetition_by_length(P[moved], 6), traces, rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(
        repetition_by_length(factor * P, 6), traces * factor ** (2 * np.arange(1, 7)), rtol=1e-10, atol=1e-300
    )
    gradient = repetition_gradient(P)
    np.testing.assert_allclose(repetition_gradient(P[moved]), gradient[moved], rtol=1e-9, atol=1e-12)
    # Euler: a sum of homogeneous parts of degree 2k has the derivative 2k times the part along P.
    long = repetition_by_length(P, 2000)
    assert (gradient * P).sum() == pytest.approx((2 * np.arange(1, 2001) * long).sum(), rel=1e-9)


# --- the average repetition probability


@pytest.mark.parametrize(("seed", "n"), [(0, 3), (1, 6), (2, 8), (3, 1)])
def test_both_repetition_probabilities_are_their_series(seed, n):
    P = words(seed, n, density=0.8)
    P[0, 0] = max(P[0, 0], 0.01)
    degree = np.count_nonzero(P) / n
    powers = [np.linalg.matrix_power(P, k) for k in range(1, 201)]
    corrected = sum((np.diag(B) ** 2).sum() / degree**k for k, B in enumerate(powers, 1))
    published = sum(np.trace(B @ B) / degree**k for k, B in enumerate(powers, 1))
    assert average_repetition_probability(P) == pytest.approx(corrected, rel=1e-10)
    assert average_repetition_probability(P, variant="published") == pytest.approx(published, rel=1e-10)
    assert published >= corrected


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.9999])
def test_corrected_probability_is_the_kronecker_closed_form_also_when_it_converges_slowly(factor):
    n = 5
    P = loop(n) * factor
    P[2] = 0.9 * P[2]
    P[2, 0] = 0.1 * factor
    degree = np.count_nonzero(P) / n
    slow = P * (factor * math.sqrt(degree) / np.abs(np.linalg.eigvals(P)).max())
    slow = slow / max(1.0, slow.sum(axis=1).max())
    for matrix in (P, slow):
        X = np.kron(matrix, matrix) / degree
        closed = np.diag(X @ np.linalg.inv(np.eye(n * n) - X))[:: n + 1].sum()
        assert average_repetition_probability(matrix) == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
@pytest.mark.parametrize("factor", [0.9, 0.9999, 1 - 1e-7])
def test_a_leaking_cycle_has_geometric_repetition_probabilities(n, factor):
    P = loop(n) * factor
    once = factor ** (2 * n)
    assert average_repetition_probability(P) == pytest.approx(n * once / (1 - once), rel=1e-7)
    period = n if n % 2 else n // 2
    twice = factor ** (2 * period)
    assert average_repetition_probability(P, variant="published") == pytest.approx(n * twice / (1 - twice), rel=1e-7)


def test_the_published_probability_overcounts_a_swap():
    swap = [[0.0, 0.9], [0.9, 0.0]]
    assert average_repetition_probability(swap, variant="published") == pytest.approx(2 * 0.81 / 0.19, rel=1e-13)
    assert average_repetition_probability(swap) == pytest.approx(2 * 0.6561 / 0.3439, rel=1e-13)


@given(matrices)
def test_the_published_probability_is_never_smaller_and_both_diverge_together(P):
    corrected = average_repetition_probability(P)
    published = average_repetition_probability(P, variant="published")
    assert math.isinf(corrected) == math.isinf(published)
    assert 0.0 <= corrected <= published * (1 + 1e-12)


@pytest.mark.parametrize("variant", ["corrected", "published"])
def test_repetition_probability_at_its_limits(variant):
    assert average_repetition_probability(np.zeros((4, 4)), variant=variant) == 0.0
    assert average_repetition_probability(np.eye(4, k=1), variant=variant) == 0.0
    assert average_repetition_probability(loop(4), variant=variant) == math.inf
    # One self-loop among many silent words: the density is so small that the series diverges although texts end.
    lonely = np.zeros((10, 10))
    lonely[3, 3] = 0.5
    assert average_repetition_probability(lonely, variant=variant) == math.inf
    lonely[3, 3] = 0.3
    assert average_repetition_probability(lonely, variant=variant) == pytest.approx(9.0, rel=1e-12)


# --- expected repeats and their count


@pytest.mark.parametrize(("seed", "n"), [(0, 1), (1, 2), (2, 3)])
def test_expected_repeats_are_the_average_over_all_texts(seed, n):
    P = words(seed, n, density=0.9, mass=0.45)
    start = np.random.default_rng(seed).dirichlet(np.ones(n)) * 0.9
    longest = {1: 60, 2: 14, 3: 9}[n]
    total = 0.0
    for length in range(1, longest + 1):
        for text in itertools.product(range(n), repeat=length):
            repeats = repeats_by_definition(text)
            if repeats:
                weight = start[text[0]] * math.prod(P[a, b] for a, b in itertools.pairwise(text)) * (1 - P[text[-1]].sum())
                total += repeats * weight
    value = expected_repeats(P, start)
    mass_left = (start @ np.linalg.matrix_power(P, longest)).sum()
    assert total <= value + 1e-12
    assert value - total < 1e-9 + mass_left * longest**2
    assert value > 0


def test_expected_repeats_match_simulated_texts():
    rng = np.random.default_rng(0)
    P = words(4, 4, density=1.0, mass=0.8)
    start = np.array([0.4, 0.3, 0.2, 0.1])
    rows = np.hstack([P, 1 - P.sum(axis=1, keepdims=True)])
    counts = []
    for _ in range(4000):
        text = [rng.choice(4, p=start)]
        while (word := rng.choice(5, p=rows[text[-1]])) < 4:
            text.append(word)
        counts.append(repeats_by_definition(text))
    standard_error = np.std(counts) / math.sqrt(len(counts))
    assert abs(np.mean(counts) - expected_repeats(P, start)) < 4 * standard_error


def test_rate_is_the_expected_number_of_repeats_when_every_word_is_visited_once():
    P = words(6, 5, mass=0.7)
    P = P / max(1.0, P.sum(axis=0).max())
    once = np.ones(5) - P.sum(axis=0)
    # Linear in the start: five starts of a fifth each.
    assert 5 * expected_repeats(P, once / 5) == pytest.approx(repetition_rate(P), rel=1e-12)


@given(matrices, st.floats(0, 1), st.integers(0, 10**6))
def test_expected_repeats_mix_with_the_start_and_do_not_see_names(P, share, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.dirichlet(np.ones(len(P)), size=2)
    mixed = expected_repeats(P, share * first + (1 - share) * second)
    assert mixed == pytest.approx(share * expected_repeats(P, first) + (1 - share) * expected_repeats(P, second), rel=1e-9)
    order = rng.permutation(len(P))
    assert expected_repeats(P[np.ix_(order, order)], first[order]) == pytest.approx(expected_repeats(P, first), rel=1e-9)
    assert mixed >= 0


def test_expected_repeats_are_linear_in_the_start():
    P = words(8, 5)
    each = [expected_repeats(P, row) for row in np.eye(5)]
    start = np.array([0.1, 0.2, 0.0, 0.3, 0.15])
    assert expected_repeats(P, start) == pytest.approx(start @ each, rel=1e-12)
    assert expected_repeats(P, np.zeros(5)) == 0.0


@given(texts, st.none() | st.integers(1, 8))
def test_repeats_are_counted_as_defined(text, max_length):
    assert count_repeats(text, max_length) == repeats_by_definition(text, max_length)


@pytest.mark.parametrize("seed", [0, 1])
def test_repeats_of_a_long_text_are_counted_as_defined(seed):
    ids = np.random.default_rng(seed).integers(0, 3, size=700)
    ids[100:160] = np.tile([0, 1, 2], 20)
    ids[400:520] = 1
    assert count_repeats(ids) == repeats_by_definition(ids.tolist())
    assert count_repeats(ids, 3) == repeats_by_definition(ids.tolist(), 3)


@given(texts)
def test_reversing_or_renaming_a_text_keeps_its_repeats(text):
    assert count_repeats(text[::-1]) == count_repeats(text)
    assert count_repeats([("symbol", letter) for letter in text]) == count_repeats(text)


@pytest.mark.parametrize(
    ("text", "repeats"),
    [("", 0), ("a", 0), ("aa", 0), ("aaa", 1), ("aaaa", 2), ("aaaaa", 4), ("abab", 0), ("ababa", 1), ("ABCDBCDBCDEF", 3)],
)
def test_small_counts_by_hand(text, repeats):
    assert count_repeats(text) == repeats
    assert count_repeats(torch.tensor([ord(letter) for letter in text])) == repeats


def test_a_constant_text_of_many_symbols_is_counted_in_linear_time_and_space():
    n = 100_000
    assert count_repeats([0] * n, 2) == (n - 2) + (n - 4)


# --- temperature and truncation


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 7), (0, 4), (1,)])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_is_the_power_one_over_t(shape, temperature):
    p = np.random.default_rng(0).dirichlet(np.ones(shape[-1]), size=shape[:-1])
    expected = p ** (1 / temperature)
    expected = expected / expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(apply_temperature(p, temperature), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.005, 1e-5, 1e-300, 5e-324, 1e5, 1e300])
def test_extreme_temperatures_give_argmax_or_the_uniform_support(temperature):
    p = np.array([[0.5, 0.3, 0.2, 0.0], [0.4, 0.2, 0.4, 0.0], [1.0, 0.0, 0.0, 0.0], [1e-300, 1.0, 1e-320, 0.0]])
    result = apply_temperature(p, temperature)
    if temperature < 1:
        expected = np.array([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    else:
        expected = (p > 0) / (p > 0).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(result, expected, atol=1e-2)


def test_temperature_zero_is_the_first_largest_entry():
    p = [[0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_array_equal(apply_temperature(p, 0), [[0, 1, 0], [1, 0, 0]])


def keep(row, indices):
    kept = np.zeros_like(row)
    kept[indices] = row[indices]
    return kept / kept.sum()


def nucleus_indices(row, p):
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    size = next((m for m in range(1, len(row) + 1) if math.fsum(row[order[:m]]) >= p - 1e-12), len(row))
    return order[:size]


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 9), st.floats(0.01, 1.0))
def test_truncations_keep_the_sets_of_their_definition_ties_included(seed, n, k, p):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, size=(3, n))
    counts[:, rng.integers(n)] += 1
    probs = counts / counts.sum(axis=1, keepdims=True)
    for row, by_rank, by_mass in zip(probs, top_k(probs, k), nucleus(probs, p), strict=True):
        order = sorted(range(n), key=lambda i: (-row[i], i))
        np.testing.assert_allclose(by_rank, keep(row, order[:k]), rtol=1e-14)
        np.testing.assert_allclose(by_mass, keep(row, nucleus_indices(row, p)), rtol=1e-13)


def test_the_nucleus_keeps_the_entry_that_crosses_and_stops_when_the_mass_is_reached():
    p = np.array([0.125, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(nucleus(p, 0.5), [0, 1, 0, 0])
    np.testing.assert_allclose(nucleus(p, 0.50001), [0, 2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(nucleus(p, 0.875), np.array([1, 4, 2, 0]) / 7)
    np.testing.assert_allclose(nucleus(p, 1.0), p)
    np.testing.assert_allclose(nucleus(p, 1e-300), [0, 1, 0, 0])
    tenths = np.full(10, 0.1)
    # 0.1 + 0.1 + 0.1 exceeds 0.3 in float64 and eight tenths fall short of 0.8: neither may matter.
    assert [np.count_nonzero(nucleus(tenths, m / 10)) for m in range(1, 11)] == list(range(1, 11))


def test_truncation_neither_depends_on_nor_hides_a_slightly_wrong_sum():
    p = np.array([0.7, 0.2999995, 0.5e-6]) * (1 + 9e-7)
    for result in (nucleus(p, 1.0), top_k(p, 3), apply_temperature(p, 1.0)):
        np.testing.assert_allclose(result, p / p.sum(), rtol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_truncation_and_sharpening_raise_the_sum_of_squares(seed, n):
    p = np.random.default_rng(seed).dirichlet([0.5] * n, size=10)
    before = (p**2).sum(axis=-1)
    for result in (top_k(p, max(1, n // 2)), nucleus(p, 0.7), apply_temperature(p, 0.6)):
        np.testing.assert_allclose(result.sum(axis=-1), 1.0, rtol=1e-12)
        assert ((result**2).sum(axis=-1) >= before * (1 - 1e-12)).all()
    assert ((apply_temperature(p, 1.7) ** 2).sum(axis=-1) <= before * (1 + 1e-12)).all()


@pytest.mark.parametrize("function", [lambda p: apply_temperature(p, 0.5), lambda p: top_k(p, 2), lambda p: nucleus(p, 0.6)])
def test_floating_dtypes_are_kept_and_layouts_do_not_matter(function):
    p = np.random.default_rng(1).dirichlet(np.ones(4), size=(3, 5))
    reference = function(p)
    assert reference.dtype == np.float64
    single = function(p.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, reference, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(function(np.asfortranarray(p)), reference)
    np.testing.assert_array_equal(function(p[:, ::-1])[:, ::-1], reference)
    np.testing.assert_array_equal(function(p.tolist()), reference)
    half = function(np.array([0.5, 0.25, 0.25], dtype=np.float16))
    assert half.dtype == np.float16
    assert function(np.array([0, 1, 0])).dtype == np.float64


# --- counting and rebalancing


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 2, 1e308])
@pytest.mark.parametrize("container", [list, np.array, tuple, torch.tensor])
def test_transition_matrix_counts_pairs_and_ends(smoothing, container):
    texts = [[0, 1, 0, 0], [], [2], [1, 1, 2]]
    counts = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 2], [0, 0, 0, 0]])
    counts = np.hstack([counts[:, :3], np.zeros((4, 1)), counts[:, 3:]]) / max(1.0, smoothing)
    smoothed = counts + smoothing / max(1.0, smoothing)
    if not smoothing:
        smoothed[3, 4] = 1
    expected = smoothed / smoothed.sum(axis=1, keepdims=True)
    result = transition_matrix([container(text) for text in texts], 4, smoothing=smoothing)
    np.testing.assert_allclose(result, expected, rtol=1e-15)
    assert result.shape == (4, 5)


@pytest.mark.parametrize("texts", [[], [[]], [[], []]])
def test_an_empty_corpus_stops_at_once(texts):
    np.testing.assert_array_equal(transition_matrix(texts, 2), [[0, 0, 1], [0, 0, 1]])


def test_a_maximum_likelihood_bigram_reproduces_the_mean_length_and_counts():
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, 5, size=rng.integers(1, 30)).tolist() for _ in range(40)]
    P = transition_matrix(texts, 5)[:, :5]
    start = np.bincount([text[0] for text in texts], minlength=5) / len(texts)
    visits = np.linalg.solve(np.eye(5) - P.T, start)
    seen = np.bincount(np.concatenate(texts), minlength=5) / len(texts)
    np.testing.assert_allclose(visits, seen, atol=1e-10)


@given(st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=6), st.floats(0, 3), st.integers(0, 10**6))
def test_transition_rows_are_distributions_whatever_the_order_of_the_texts(corpus, smoothing, seed):
    P = transition_matrix(corpus, 5, smoothing=smoothing)
    np.testing.assert_allclose(P.sum(axis=1), 1.0, rtol=1e-12)
    assert (P >= 0).all()
    shuffled = [corpus[i] for i in np.random.default_rng(seed).permutation(len(corpus))]
    np.testing.assert_array_equal(transition_matrix(shuffled, 5, smoothing=smoothing), P)
    np.testing.assert_allclose(transition_matrix(corpus * 3, 5, smoothing=3 * smoothing), P, rtol=1e-12)


def rebalance_by_definition(sequences, threshold, min_count, max_rounds=None):
    encoded = [[(symbol,) for symbol in text] for text in sequences]
    rounds = []
    while max_rounds is None or len(rounds) < max_rounds:
        singles = Counter(symbol for text in encoded for symbol in text)
        pairs = Counter(pair for text in encoded for pair in itertools.pairwise(text))
        chosen = {pair for pair, c in pairs.items() if c >= min_count and c > threshold * singles[pair[0]]}
        if not chosen:
            break
        rounds.append(chosen)
        for index, text in enumerate(encoded):
            merged, t = [], 0
            while t < len(text):
                if t + 1 < len(text) and (text[t], text[t + 1]) in chosen:
                    merged.append(text[t] + text[t + 1])
                    t += 2
                else:
                    merged.append(text[t])
                    t += 1
            encoded[index] = merged
    return encoded, rounds


@given(st.lists(texts, max_size=5), st.floats(0.05, 1.0), st.integers(1, 3), st.none() | st.integers(0, 3))
def test_rebalancing_is_its_definition_and_loses_nothing(sequences, threshold, min_count, max_rounds):
    encoded, rounds = rebalance(sequences, threshold=threshold, min_count=min_count, max_rounds=max_rounds)
    assert (encoded, rounds) == rebalance_by_definition(sequences, threshold, min_count, max_rounds)
    assert ["".join("".join(symbol) for symbol in text) for text in encoded] == sequences


@pytest.mark.parametrize("seed", [0, 1])
def test_rebalancing_a_skewed_corpus_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet([0.2] * 8, size=8)
    sequences = []
    for _ in range(60):
        text = [int(rng.integers(8))]
        for _ in range(30):
            text.append(int(rng.choice(8, p=rows[text[-1]])))
        sequences.append(text)
    result = rebalance(sequences, threshold=0.5, min_count=5)
    assert result == rebalance_by_definition(sequences, 0.5, 5)
    assert len(result[1]) > 1


def test_rebalancing_removes_the_deterministic_row():
    sequences = ["quiet queen", "a quick quote"] * 3
    encoded, rounds = rebalance(sequences, threshold=0.9, min_count=6, max_rounds=1)
    assert (("q",), ("u",)) in rounds[0] and len(rounds) == 1
    assert all(("q",) not in text for text in encoded)


def test_rebalancing_edge_cases():
    assert rebalance([], threshold=0.5) == ([], [])
    assert rebalance(["", "", ""], threshold=0.5) == ([[], [], []], [])
    assert rebalance(["ab", "", "ab"], threshold=1.0)[1] == []
    assert rebalance(["ab"], threshold=0.5, max_rounds=0) == ([[("a",), ("b",)]], [])
    # From the left without overlap; a pair never reaches across two texts.
    assert rebalance(["aaaaa"], threshold=0.5, max_rounds=1)[0] == [[("a", "a"), ("a", "a"), ("a",)]]
    assert rebalance(["a", "a", "a"], threshold=0.5)[1] == []
    # The share is taken of all occurrences of the first symbol and must be exceeded.
    assert rebalance(["ab", "ac"], threshold=0.5)[1] == []
    # Symbols that are tuples themselves stay whole.
    assert rebalance([[(1, 2), (3,)]], threshold=0.5)[0] == [[((1, 2), (3,))]]


# --- arguments


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.longdouble])
def test_any_real_dtype_is_read_as_float64_and_left_alone(dtype):
    P = (words(2, 4) * 0.9).astype(dtype)
    before = P.copy()
    exact = P.astype(np.float64)
    start = np.full(4, 0.25, dtype=dtype)
    assert repetition_rate(P) == repetition_rate(exact)
    assert expected_repeats(P, start) == expected_repeats(exact.tolist(), [0.25] * 4)
    np.testing.assert_array_equal(repetition_gradient(np.asfortranarray(P)), repetition_gradient(exact))
    assert average_repetition_probability(torch.from_numpy(exact)) == average_repetition_probability(P)
    repetition_by_length(P, 4)
    for function in (lambda p: apply_temperature(p, 0.5), lambda p: top_k(p, 2), lambda p: nucleus(p, 0.5)):
        rows = np.eye(4)
        function(rows)
        np.testing.assert_array_equal(rows, np.eye(4))
    np.testing.assert_array_equal(P, before)


GOOD = [[0.2, 0.3], [0.1, 0.4]]
BAD_MATRICES = [
    ("a word", TypeError),
    (None, TypeError),
    ([[1j, 0], [0, 0]], TypeError),
    (torch.eye(2, requires_grad=True), TypeError),
    (0.5, ValueError),
    ([0.5, 0.5], ValueError),
    ([[0.5, 0.5]], ValueError),
    ([[0.5], [0.2, 0.2]], ValueError),
    (np.zeros((2, 2, 2)), ValueError),
    ([[0.5, np.nan], [0, 0]], ValueError),
    ([[0.5, np.inf], [0, 0]], ValueError),
    ([[-np.inf, 0.5], [0, 0]], ValueError),
    ([[-0.1, 0.5], [0, 0]], ValueError),
    ([[0.5, 0.5000001], [0, 0]], ValueError),
    (np.full((2, 2), 1.7e308), ValueError),
]


@pytest.mark.parametrize(
    "function",
    [
        lambda P: repetition_by_length(P, 2),
        repetition_rate,
        repetition_gradient,
        average_repetition_probability,
        lambda P: expected_repeats(P, [1.0, 0.0]),
    ],
)
@pytest.mark.parametrize(("P", "error"), BAD_MATRICES)
def test_a_bad_matrix_is_refused_by_name(function, P, error):
    with pytest.raises(error, match=r"^P "):
        function(P)


@pytest.mark.parametrize(
    "function", [lambda probs: apply_temperature(probs, 0.5), lambda probs: top_k(probs, 1), lambda probs: nucleus(probs, 0.5)]
)
@pytest.mark.parametrize(
    ("probs", "error"),
    [
        ("a word", TypeError),
        (None, TypeError),
        ([0.5, 0.5j], TypeError),
        (torch.ones(1) > 0, TypeError),
        (torch.full((2,), 0.4), ValueError),
        (torch.tensor([1.5, -0.5]), ValueError),
        (torch.tensor([torch.nan, 1.0]), ValueError),
        (1.0, ValueError),
        ([], ValueError),
        (np.ones((3, 0)), ValueError),
        ([[1.0], [0.5, 0.5]], ValueError),
        ([0.5, 0.4], ValueError),
        ([0.5, 0.50001], ValueError),
        ([[0.5, 0.5], [0.9, 0.0]], ValueError),
        ([1.5, -0.5], ValueError),
        ([np.nan, 1.0], ValueError),
        ([np.inf, 0.0], ValueError),
        ([1.7e308, 1.7e308], ValueError),
    ],
)
def test_bad_distributions_are_refused_by_name(function, probs, error):
    with pytest.raises(error, match=r"^probs "):
        function(probs)


HALVES = [0.5, 0.5]
META = torch.zeros(3, device="meta")
BAD_CALLS = [
    *[("max_length", lambda v=v: repetition_by_length(GOOD, v), TypeError) for v in (True, 2.0, "2", None)],
    *[("max_length", lambda v=v: repetition_by_length(GOOD, v), ValueError) for v in (0, -1)],
    *[("max_length", lambda v=v: count_repeats("abab", v), TypeError) for v in (False, 2.0, "2", [1])],
    *[("max_length", lambda v=v: count_repeats("abab", v), ValueError) for v in (0, -3)],
    *[("sequence", lambda v=v: count_repeats(v), TypeError) for v in (5, None, [[1], [1]], [{}], np.eye(2), np.array(3), META)],
    *[("variant", lambda v=v: average_repetition_probability(GOOD, variant=v), TypeError) for v in (None, 1, True)],
    *[("variant", lambda v=v: average_repetition_probability(GOOD, variant=v), ValueError) for v in ("", "Corrected", "both")],
    *[("P", lambda v=v: repetition_gradient(v), ValueError) for v in ([[1.0]], loop(3), np.eye(2))],
    *[("P", lambda v=v: expected_repeats(v, HALVES), ValueError) for v in (np.eye(2), loop(2), [[0.5, 0.5], [0.5, 0.5]])],
    *[("start", lambda v=v: expected_repeats(GOOD, v), TypeError) for v in (None, "ab", [1j, 0], ["a", "b"])],
    *[
        ("start", lambda v=v: expected_repeats(GOOD, v), ValueError)
        for v in (1.0, [1.0], [[0.5, 0.5]], [0.5, 0.6], [-0.1, 0.5], [np.nan, 0.5], [np.inf, 0.0], [[1], [0, 1]], [1.7e308] * 2)
    ],
    *[
        ("temperature", lambda v=v: apply_temperature(HALVES, v), TypeError)
        for v in (None, "1", True, [1.0, 2.0], 1j, b"1", np.True_)
    ],
    *[("temperature", lambda v=v: apply_temperature(HALVES, v), ValueError) for v in (-0.1, np.inf, np.nan, -np.inf, 10**400)],
    *[("k", lambda v=v: top_k(HALVES, v), TypeError) for v in (None, 1.0, "1", True, [1])],
    *[("k", lambda v=v: top_k(HALVES, v), ValueError) for v in (0, -1, -100)],
    *[("p", lambda v=v: nucleus(HALVES, v), TypeError) for v in (None, "1", True, [0.5])],
    *[("p", lambda v=v: nucleus(HALVES, v), ValueError) for v in (0.0, -0.5, 1.0000001, np.nan, np.inf)],
    *[
        ("sequences", lambda v=v: transition_matrix(v, 3), TypeError)
        for v in (None, 5, "012", [0, 1], ["012"], [[0.0, 1.0]], [[True]], [None], [np.zeros((2, 2), dtype=int)], [10**30])
    ],
    *[("sequences", lambda v=v: transition_matrix(v, 3), ValueError) for v in ([[3]], [[0], [-1, 1]], [[0, 7]], [[[1], [1, 2]]])],
    *[("vocab_size", lambda v=v: transition_matrix([[0]], v), TypeError) for v in (None, 3.0, True, "3")],
    *[("vocab_size", lambda v=v: transition_matrix([[0]], v), ValueError) for v in (0, -2)],
    *[("smoothing", lambda v=v: transition_matrix([[0]], 3, smoothing=v), TypeError) for v in (None, "1", True)],
    *[("smoothing", lambda v=v: transition_matrix([[0]], 3, smoothing=v), ValueError) for v in (-1e-9, np.nan, np.inf)],
    *[
        ("sequences", lambda v=v: rebalance(v, threshold=0.5), TypeError)
        for v in (None, 5, "abc", b"abc", [1, 2], [[[]]], [None], [META])
    ],
    *[("threshold", lambda v=v: rebalance(["ab"], threshold=v), TypeError) for v in (None, "1", True)],
    *[("threshold", lambda v=v: rebalance(["ab"], threshold=v), ValueError) for v in (0.0, -1, 1.1, np.nan)],
    *[("min_count", lambda v=v: rebalance(["ab"], threshold=0.5, min_count=v), TypeError) for v in (None, 1.0, True)],
    *[("min_count", lambda v=v: rebalance(["ab"], threshold=0.5, min_count=v), ValueError) for v in (0, -1)],
    *[("max_rounds", lambda v=v: rebalance(["ab"], threshold=0.5, max_rounds=v), TypeError) for v in (1.0, True, "1")],
    *[("max_rounds", lambda v=v: rebalance(["ab"], threshold=0.5, max_rounds=v), ValueError) for v in (-1, -5)],
]


@pytest.mark.parametrize(("name", "call", "error"), BAD_CALLS)
def test_bad_arguments_are_refused_by_name(name, call, error):
    with pytest.raises(error, match=rf"^{name} "):
        call()


def test_only_words_in_reach_of_the_start_count():
    assert expected_repeats([[0.5, 0.0], [0.0, 1.0]], [1.0, 0.0]) == pytest.approx(expected_repeats([[0.5]], [1.0]), rel=1e-14)
    assert expected_repeats([[0.5, 0.0], [0.0, 1.0]], [0.0, 0.0]) == 0.0
    P = words(3, 12, density=0.1)
    for start in np.eye(12):
        reached = np.linalg.matrix_power(np.eye(12) + (P > 0), 12)[start.argmax()] > 0
        inside = np.ix_(reached, reached)
        endless = P.copy()
        endless[~reached] = 0.0
        endless[~reached, ~reached] = 1.0  # loops that no text comes to
        assert expected_repeats(endless, start) == pytest.approx(expected_repeats(P[inside], start[reached]), rel=1e-12)
    for start in ([1.0, 1e-300], [0.0, 1.0], [0.5, 0.5]):  # in reach, however rarely
        with pytest.raises(ValueError, match=r"^P .*terminate"):
            expected_repeats([[0.5, 0.0], [0.0, 1.0]], start)
    with pytest.raises(ValueError, match=r"^P .*terminate"):
        expected_repeats([[0.5, 0.1, 0.0], [0.0, 0.0, 0.1], [0.0, 0.0, 1.0]], [1.0, 0.0, 0.0])


@pytest.mark.parametrize("n", [2, 3, 6, 40])
@pytest.mark.parametrize("leak", [0.0, 1e-14, 1e-13])
def test_random_words_without_an_end_have_a_finite_rate_but_no_expected_repeats(n, leak):
    P = words(n, n, density=1.0, mass=1.0, concentration=1.0) * (1 - leak)
    assert math.isfinite(repetition_rate(P))
    with pytest.raises(ValueError, match=r"^P .*terminate"):
        expected_repeats(P, np.full(n, 1 / n))
    assert expected_repeats(P * (1 - 1e-9), np.full(n, 1 / n)) > 1e6


def test_every_public_name_is_listed_and_torch_is_not_imported():
    public = {name for name, value in vars(repetition).items() if getattr(value, "__module__", "") == repetition.__name__}
    assert set(repetition.__all__) == {name for name in public if not name.startswith("_")}
    code = "import sys, kexue.generation.repetition; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
