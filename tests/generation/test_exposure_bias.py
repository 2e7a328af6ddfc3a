"""Local and global normalisation, exact and beam search, random replacement, gradient penalty."""

from __future__ import annotations

import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kexue.generation import exposure_bias
from kexue.generation.exposure_bias import (
    beam_search,
    global_log_prob,
    gradient_penalty,
    local_log_prob,
    local_transitions,
    path_score,
    random_replacement,
    viterbi,
)

LOG_PROBS = [global_log_prob, local_log_prob]
CHAIN_FUNCTIONS = [path_score, global_log_prob, local_log_prob]
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**20)


def chain(
    batch: int, length: int, size: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    unary = scale * torch.randn(batch, length, size, dtype=torch.float64, generator=generator)
    pairwise = scale * torch.randn(size, size, dtype=torch.float64, generator=generator)
    return unary.to(dtype), pairwise.to(dtype)


def all_paths(length: int, size: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(size), repeat=length))


def random_labels(batch: int, length: int, size: int, seed: int = 0) -> Tensor:
    return torch.randint(size, (batch, length), generator=torch.Generator().manual_seed(seed))


def scores_by_loop(unary: Tensor, pairwise: Tensor) -> list[dict[tuple[int, ...], float]]:
    """s(y) of every path, one dict per row, by plain Python sums."""
    length, size = unary.shape[1:]
    tables = []
    for row in unary.tolist():
        table = {}
        for path in all_paths(length, size):
            score = sum(row[t][label] for t, label in enumerate(path))
            table[path] = score + sum(pairwise[a, b].item() for a, b in itertools.pairwise(path))
        tables.append(table)
    return tables


def local_by_loop(unary: Tensor, pairwise: Tensor, labels: Tensor) -> list[float]:
    result = []
    for row, path in zip(unary.tolist(), labels.tolist(), strict=True):
        total = 0.0
        for t, label in enumerate(path):
            logits = [score + (pairwise[path[t - 1], v].item() if t else 0.0) for v, score in enumerate(row[t])]
            total += logits[label] - math.log(sum(math.exp(x) for x in logits))
        result.append(total)
    return result


def on_every_path(function: Callable[..., Tensor], unary: Tensor, pairwise: Tensor) -> Tensor:
    """Values of ``function`` on all V^T paths, shape (paths, B)."""
    paths = torch.tensor(all_paths(unary.shape[1], unary.shape[2]))
    return torch.stack([function(unary, pairwise, path.expand(len(unary), -1)) for path in paths])


def tree(seed: int, size: int, length: int, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A local model whose softmax depends on the whole prefix."""
    rng = np.random.default_rng(seed)
    nodes = [prefix for t in range(length) for prefix in itertools.product(range(size), repeat=t)]
    table = {node: torch.log_softmax(torch.from_numpy(scale * rng.normal(size=size)), 0) for node in nodes}
    return lambda prefixes: torch.stack([table[tuple(prefix)] for prefix in prefixes.tolist()])


def tree_log_prob(step: Callable[[Tensor], Tensor], path: tuple[int, ...]) -> float:
    return sum(step(torch.tensor([path[:t]], dtype=torch.int64).reshape(1, t))[0, v].item() for t, v in enumerate(path))


TWO_STEP = torch.tensor([[0.6, 0.4], [0.55, 0.45], [0.1, 0.9]], dtype=torch.float64).log()


def two_step(prefixes: Tensor) -> Tensor:
    return TWO_STEP[:1] if prefixes.shape[1] == 0 else TWO_STEP[prefixes[:, 0] + 1]


def test_the_public_names_are_the_documented_ones_and_only_those() -> None:
    public = {
        name
        for name, value in vars(exposure_bias).items()
        if inspect.isfunction(value) and value.__module__ == exposure_bias.__name__ and not name.startswith("_")
    }
    assert public == set(exposure_bias.__all__)


# --- the chain ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "length", "size"), [(3, 4, 3), (2, 1, 4), (2, 6, 2), (1, 3, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_and_both_normalisations_equal_their_sums_over_all_paths(batch: int, length: int, size: int, seed: int) -> None:
    unary, pairwise = chain(batch, length, size, seed)
    labels = random_labels(batch, length, size, seed)
    tables = scores_by_loop(unary, pairwise)
    picked = torch.tensor([table[tuple(path)] for table, path in zip(tables, labels.tolist(), strict=True)], dtype=torch.float64)
    log_z = torch.tensor([math.log(sum(map(math.exp, table.values()))) for table in tables], dtype=torch.float64)
    torch.testing.assert_close(path_score(unary, pairwise, labels), picked, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(global_log_prob(unary, pairwise, labels), picked - log_z, atol=1e-12, rtol=1e-12)
    local = torch.tensor(local_by_loop(unary, pairwise, labels), dtype=torch.float64)
    torch.testing.assert_close(local_log_prob(unary, pairwise, labels), local, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("log_prob", LOG_PROBS)
@given(batch=sizes, length=sizes, size=sizes, seed=seeds, scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_probabilities_of_all_paths_add_up_to_one(
    log_prob: Callable[..., Tensor], batch: int, length: int, size: int, seed: int, scale: float
) -> None:
    total = on_every_path(log_prob, *chain(batch, length, size, seed, scale)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(batch, dtype=torch.float64), atol=1e-12, rtol=0)


@given(length=st.integers(2, 5), size=st.integers(2, 4), seed=seeds)
def test_a_constant_at_one_position_or_on_all_transitions_changes_no_probability(length: int, size: int, seed: int) -> None:
    unary, pairwise = chain(2, length, size, seed)
    labels = random_labels(2, length, size, seed)
    shift = torch.randn(2, length, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    for log_prob in LOG_PROBS:
        moved = log_prob(unary + 10 * shift, pairwise - 3.0, labels)
        torch.testing.assert_close(moved, log_prob(unary, pairwise, labels), atol=1e-12, rtol=0)


@given(length=st.integers(1, 5), size=st.integers(2, 4), seed=seeds)
def test_relabelling_permutes_the_chain(length: int, size: int, seed: int) -> None:
    unary, pairwise = chain(3, length, size, seed)
    labels = random_labels(3, length, size, seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    for function in CHAIN_FUNCTIONS:
        renamed = function(unary[..., order], pairwise[order][:, order], order.argsort()[labels])
        torch.testing.assert_close(renamed, function(unary, pairwise, labels), atol=1e-12, rtol=0)


def test_without_transitions_local_and_global_agree_and_with_them_they_differ() -> None:
    unary, pairwise = chain(3, 4, 3)
    labels = random_labels(3, 4, 3)
    none = torch.zeros_like(pairwise)
    torch.testing.assert_close(global_log_prob(unary, none, labels), local_log_prob(unary, none, labels), atol=1e-13, rtol=0)
    assert (global_log_prob(unary, pairwise, labels) - local_log_prob(unary, pairwise, labels)).abs().min() > 1e-3


def test_the_global_model_of_local_log_probabilities_is_the_local_model() -> None:
    # A Markov chain with the same transitions everywhere: its logarithms, read as scores, have Z = 1.
    initial = torch.log_softmax(torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 0)
    pairwise = torch.log_softmax(chain(1, 1, 3)[1], dim=-1)
    unary = torch.zeros(2, 5, 3, dtype=torch.float64)
    unary[:, 0] = initial
    labels = random_labels(2, 5, 3)
    expected = path_score(unary, pairwise, labels)
    torch.testing.assert_close(global_log_prob(unary, pairwise, labels), expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(local_log_prob(unary, pairwise, labels), expected, atol=1e-13, rtol=0)


def test_local_transitions_multiply_to_the_local_probability() -> None:
    unary, pairwise = chain(3, 5, 4)
    initial, transitions = local_transitions(unary, pairwise)
    assert initial.shape == (3, 4) and transitions.shape == (3, 4, 4, 4)
    torch.testing.assert_close(transitions.exp().sum(-1), torch.ones(3, 4, 4, dtype=torch.float64), atol=1e-13, rtol=0)
    labels = random_labels(3, 5, 4)
    total = [
        initial[b, path[0]] + sum(transitions[b, t, path[t], path[t + 1]] for t in range(4))
        for b, path in enumerate(labels.tolist())
    ]
    torch.testing.assert_close(torch.stack(total), local_log_prob(unary, pairwise, labels), atol=1e-13, rtol=0)


@given(length=st.integers(1, 5), size=sizes, seed=seeds, shift=st.floats(-30, 30))
def test_local_transitions_are_distributions_that_ignore_constants(length: int, size: int, seed: int, shift: float) -> None:
    unary, pairwise = chain(2, length, size, seed, 10.0)
    initial, transitions = local_transitions(unary, pairwise)
    for part in (initial, transitions):
        torch.testing.assert_close(part.exp().sum(-1), torch.ones(part.shape[:-1], dtype=torch.float64), atol=1e-12, rtol=0)
    for part, moved in zip((initial, transitions), local_transitions(unary + shift, pairwise - shift), strict=True):
        torch.testing.assert_close(moved, part, atol=1e-10, rtol=0)


@given(length=st.integers(1, 6), size=sizes, seed=seeds, shift=st.floats(-30, 30))
def test_the_best_path_ignores_constants_and_turns_round_with_the_chain(length: int, size: int, seed: int, shift: float) -> None:
    unary, pairwise = chain(2, length, size, seed)
    path, score = viterbi(unary[:, 0], pairwise + unary[:, 1:, None, :])
    again, moved = viterbi(unary[:, 0] + shift, pairwise + unary[:, 1:, None, :])
    assert torch.equal(again, path)
    torch.testing.assert_close(moved, score + shift)
    back = unary.flip(1)
    reversed_path, reversed_score = viterbi(back[:, 0], pairwise.mT + back[:, 1:, None, :])
    assert torch.equal(reversed_path.flip(1), path)
    torch.testing.assert_close(reversed_score, score)


def test_a_label_with_one_successor_ignores_what_is_observed_there() -> None:
    """Label bias: the local model moves 0 -> 1 with probability 1 whatever the unary scores at the second position say."""
    pairwise = torch.tensor([[-1e4, 0.0], [-1e4, 0.0]], dtype=torch.float64)
    unary = torch.zeros(2, 2, 2, dtype=torch.float64)
    unary[1, 1] = torch.tensor([5.0, -5.0])
    labels = torch.tensor([[0, 1], [0, 1]])
    torch.testing.assert_close(local_log_prob(unary, pairwise, labels).exp(), torch.full((2,), 0.5, dtype=torch.float64))


# --- gradients ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", CHAIN_FUNCTIONS)
def test_gradients_of_the_chain_are_right_to_second_order(function: Callable[..., Tensor]) -> None:
    unary, pairwise = (x.requires_grad_() for x in chain(2, 3, 3))
    labels = random_labels(2, 3, 3)
    assert torch.autograd.gradcheck(lambda u, p: function(u, p, labels), (unary, pairwise))
    assert torch.autograd.gradgradcheck(lambda u, p: function(u, p, labels), (unary, pairwise))


def test_gradients_of_transitions_and_of_the_best_path_are_right() -> None:
    unary, pairwise = (x.requires_grad_() for x in chain(2, 3, 3))
    assert torch.autograd.gradcheck(local_transitions, (unary, pairwise))
    assert torch.autograd.gradgradcheck(local_transitions, (unary, pairwise))
    assert torch.autograd.gradcheck(lambda u, p: viterbi(*local_transitions(u, p))[1], (unary, pairwise))


def test_gradient_of_the_global_model_is_visits_minus_expected_visits() -> None:
    unary, pairwise = (x.requires_grad_() for x in chain(1, 4, 3))
    labels = random_labels(1, 4, 3)
    gradient = torch.autograd.grad(global_log_prob(unary, pairwise, labels).sum(), unary)[0][0]
    probabilities = on_every_path(global_log_prob, unary.detach(), pairwise.detach()).exp()
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for path, probability in zip(all_paths(4, 3), probabilities, strict=True):
        expected[range(4), path] -= probability
    expected[range(4), labels[0]] += 1
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


def test_teacher_forcing_trains_no_prefix_off_the_data_and_the_global_model_does() -> None:
    unary, pairwise = (x.requires_grad_() for x in chain(1, 3, 4))
    labels = torch.tensor([[0, 2, 1]])
    unvisited = [1, 3]
    local = torch.autograd.grad(local_log_prob(unary, pairwise, labels).sum(), pairwise)[0]
    assert (local[unvisited] == 0.0).all() and (local[[0, 2]] != 0.0).all()
    everywhere = torch.autograd.grad(global_log_prob(unary, pairwise, labels).sum(), pairwise)[0]
    assert (everywhere[unvisited] < 0.0).all()


@pytest.mark.parametrize("log_prob", LOG_PROBS)
def test_gradients_stay_finite_at_ties_and_in_saturation(log_prob: Callable[..., Tensor]) -> None:
    for scale in (0.0, 1e4, 1e30):
        unary, pairwise = (x.requires_grad_() for x in chain(2, 5, 3, scale=scale, dtype=torch.float32))
        for gradient in torch.autograd.grad(log_prob(unary, pairwise, random_labels(2, 5, 3)).sum(), (unary, pairwise)):
            assert gradient.isfinite().all() and gradient.abs().max() <= 10


# --- dtypes, extremes, layout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
@pytest.mark.parametrize(("batch", "length", "size"), [(4, 12, 4), (2, 30, 7), (3, 2, 2)])
def test_every_dtype_is_kept_and_computed_to_its_precision(
    dtype: torch.dtype, tolerance: float, batch: int, length: int, size: int
) -> None:
    unary, pairwise = chain(batch, length, size, dtype=dtype)
    labels = random_labels(batch, length, size)
    for function in CHAIN_FUNCTIONS:
        result = function(unary, pairwise, labels)
        exact = function(unary.double(), pairwise.double(), labels)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=tolerance)
    transitions = local_transitions(unary, pairwise)
    for ours, exact in zip(transitions, local_transitions(unary.double(), pairwise.double()), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance)
    path, score = viterbi(*transitions)
    exact_path, exact_score = viterbi(*(x.double() for x in transitions))
    assert path.dtype == torch.int64 and torch.equal(path, exact_path)
    assert score.dtype == dtype
    torch.testing.assert_close(score.double(), exact_score, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-30, 1.0, 88.0, 709.0, 6e4, 1e4, 1e30])
@pytest.mark.parametrize("log_prob", LOG_PROBS)
def test_float32_stays_finite_and_close_at_any_magnitude(log_prob: Callable[..., Tensor], scale: float) -> None:
    unary, pairwise = chain(3, 12, 4, scale=scale, dtype=torch.float32)
    labels = random_labels(3, 12, 4)
    result = log_prob(unary, pairwise, labels)
    exact = log_prob(unary.double(), pairwise.double(), labels)
    assert result.isfinite().all() and (result <= 0).all()
    torch.testing.assert_close(result.double(), exact, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("log_prob", LOG_PROBS)
def test_scores_of_plus_and_minus_ten_thousand_select_one_path(log_prob: Callable[..., Tensor]) -> None:
    labels = random_labels(5, 50, 6)
    unary = torch.full((5, 50, 6), -1e4).scatter(-1, labels.unsqueeze(-1), 1e4)
    assert (log_prob(unary, torch.zeros(6, 6), labels) == 0).all()
    assert (log_prob(unary, torch.zeros(6, 6), (labels + 1) % 6) == -50 * 2e4).all()


@pytest.mark.parametrize("log_prob", LOG_PROBS)
def test_minus_infinity_forbids(log_prob: Callable[..., Tensor]) -> None:
    unary, pairwise = chain(2, 4, 3)
    pairwise[0, 1] = unary[1, 2, 0] = -math.inf
    probabilities = on_every_path(log_prob, unary, pairwise).exp()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(2, dtype=torch.float64))
    for path, (first, second) in zip(all_paths(4, 3), probabilities.tolist(), strict=True):
        forbidden = (0, 1) in itertools.pairwise(path)
        assert (first == 0) == forbidden and (second == 0) == (forbidden or path[2] == 0)


def test_tied_scores_give_every_path_the_same_probability() -> None:
    for log_prob in LOG_PROBS:
        values = on_every_path(
            log_prob, torch.full((1, 4, 3), 7.0, dtype=torch.float64), torch.full((3, 3), -2.0, dtype=torch.float64)
        )
        torch.testing.assert_close(values, torch.full_like(values, -4 * math.log(3)), atol=1e-13, rtol=0)


def test_a_long_chain_of_small_scores_keeps_its_precision() -> None:
    unary, pairwise = chain(1, 2000, 3, scale=0.1, dtype=torch.float32)
    labels = random_labels(1, 2000, 3)
    for log_prob in LOG_PROBS:
        exact = log_prob(unary.double(), pairwise.double(), labels)
        torch.testing.assert_close(log_prob(unary, pairwise, labels).double(), exact, rtol=2e-5, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("function", CHAIN_FUNCTIONS)
def test_half_precision_is_rounded_once_at_the_end(function: Callable[..., Tensor], dtype: torch.dtype, tolerance: float) -> None:
    unary, pairwise = chain(3, 300, 4, dtype=dtype)
    labels = random_labels(3, 300, 4)
    exact = function(unary.double(), pairwise.double(), labels)
    torch.testing.assert_close(function(unary, pairwise, labels).double(), exact, rtol=1.05 * tolerance, atol=0)


@pytest.mark.parametrize("function", CHAIN_FUNCTIONS)
def test_layout_of_the_arguments_does_not_matter_and_they_are_left_alone(function: Callable[..., Tensor]) -> None:
    unary, pairwise = chain(3, 4, 3)
    labels = random_labels(3, 4, 3)
    before = [x.clone() for x in (unary, pairwise, labels)]
    expected = function(unary, pairwise, labels)
    strided = function(
        unary.permute(2, 0, 1).contiguous().permute(1, 2, 0), pairwise.T.contiguous().T, labels.T.contiguous().T.to(torch.int32)
    )
    torch.testing.assert_close(strided, expected, atol=1e-14, rtol=0)
    shared = function(unary[:1].expand(3, -1, -1), pairwise, labels[:1].expand(3, -1))
    torch.testing.assert_close(shared, expected[:1].expand(3), atol=1e-14, rtol=0)
    for now, then in zip((unary, pairwise, labels), before, strict=True):
        assert torch.equal(now, then)
    assert function(unary[:0], pairwise, labels[:0]).shape == (0,)


@pytest.mark.parametrize("function", CHAIN_FUNCTIONS)
def test_vmap_over_models_equals_a_loop(function: Callable[..., Tensor]) -> None:
    models = [chain(3, 4, 3, seed) for seed in range(4)]
    unary, pairwise = (torch.stack(parts) for parts in zip(*models, strict=True))
    labels = random_labels(3, 4, 3)
    expected = torch.stack([function(*model, labels) for model in models])
    torch.testing.assert_close(torch.func.vmap(function, in_dims=(0, 0, None))(unary, pairwise, labels), expected)
    stacked = torch.func.vmap(function)(unary, pairwise, labels.expand(4, -1, -1))
    torch.testing.assert_close(stacked, expected)


@pytest.mark.parametrize("function", CHAIN_FUNCTIONS)
def test_one_graph_holds_the_whole_function(function: Callable[..., Tensor]) -> None:
    unary, pairwise = chain(3, 4, 3)
    labels = random_labels(3, 4, 3)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(unary, pairwise, labels), function(unary, pairwise, labels))


# --- Viterbi --------------------------------------------------------------------------------------------------------------------


@given(batch=st.integers(1, 3), length=st.integers(1, 5), size=st.integers(1, 4), seed=seeds)
def test_viterbi_finds_the_best_of_all_paths_under_either_model(batch: int, length: int, size: int, seed: int) -> None:
    unary, pairwise = chain(batch, length, size, seed)
    paths = torch.tensor(all_paths(length, size))
    for log_prob, (path, score) in (
        (local_log_prob, viterbi(*local_transitions(unary, pairwise))),
        (path_score, viterbi(unary[:, 0], pairwise + unary[:, 1:, None, :])),
    ):
        values, best = on_every_path(log_prob, unary, pairwise).max(dim=0)
        torch.testing.assert_close(score, values, atol=1e-12, rtol=0)
        assert torch.equal(path, paths[best])


def test_ties_of_viterbi_go_to_the_smaller_label() -> None:
    path, score = viterbi(torch.zeros(2, 3), torch.zeros(2, 4, 3, 3))
    assert (path == 0).all() and (score == 0).all()
    transitions = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])  # 0,1 and 1,0 tie
    assert viterbi(torch.zeros(1, 2), transitions)[0].tolist() == [[1, 0]]


def test_viterbi_passes_by_what_is_forbidden() -> None:
    initial = torch.tensor([[0.0, -math.inf]])
    transitions = torch.tensor([[[[-math.inf, 0.0], [3.0, 3.0]], [[5.0, 0.0], [0.0, -1.0]]]])
    path, score = viterbi(initial, transitions)
    assert path.tolist() == [[0, 1, 0]] and score.tolist() == [0.0]


def test_empty_batches_and_single_positions_are_fine() -> None:
    path, score = viterbi(*local_transitions(*chain(0, 4, 3)))
    assert path.shape == (0, 4) and score.shape == (0,)
    path, _ = viterbi(*local_transitions(*chain(2, 1, 3)))
    assert path.shape == (2, 1)


def test_greedy_is_exactly_right_where_every_teacher_forced_choice_is() -> None:
    same = 0
    for seed in range(200):
        unary, pairwise = chain(1, 4, 3, seed, scale=2.0)
        initial, transitions = local_transitions(unary, pairwise)
        labels = random_labels(1, 4, 3, seed)[0].tolist()
        if seed % 2:
            labels = viterbi(initial, transitions)[0][0].tolist()
        forced = [initial[0].argmax().item()] + [transitions[0, t, labels[t]].argmax().item() for t in range(3)]
        greedy = [int(initial[0].argmax())]
        for t in range(3):
            greedy.append(int(transitions[0, t, greedy[-1]].argmax()))
        assert (greedy == labels) == (forced == labels)
        same += greedy == labels
    assert 20 < same < 180


# --- beam search ----------------------------------------------------------------------------------------------------------------


def test_a_beam_of_two_leaves_the_greedy_target_of_the_two_step_table() -> None:
    assert [tokens for tokens, _ in beam_search(two_step, 1, 2)] == [[0, 0]]
    found = beam_search(two_step, 2, 2)
    assert [tokens for tokens, _ in found] == [[1, 1], [0, 0]]
    np.testing.assert_allclose([math.exp(score) for _, score in found], [0.36, 0.33], atol=1e-14)


@given(size=st.integers(1, 3), length=st.integers(1, 4), seed=seeds)
def test_a_beam_as_wide_as_the_tree_is_exhaustive_search(size: int, length: int, seed: int) -> None:
    step = tree(seed, size, length)
    paths = all_paths(length, size)
    exact = sorted(((tree_log_prob(step, path), path) for path in paths), reverse=True)
    wide = beam_search(step, max(1, size ** (length - 1)), length)
    assert tuple(wide[0][0]) == exact[0][1]
    np.testing.assert_allclose(wide[0][1], exact[0][0], atol=1e-12)
    everything = beam_search(step, size**length, length)
    assert {tuple(tokens) for tokens, _ in everything} == set(paths)
    np.testing.assert_allclose([score for _, score in everything], [score for score, _ in exact], atol=1e-12)


def slow_beam(
    step: Callable[[Tensor], Tensor], beam_size: int, max_length: int, eos: int | None = None
) -> list[tuple[tuple[int, ...], float]]:
    """The textbook loop, without stopping early."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    done: list[tuple[tuple[int, ...], float]] = []
    for _ in range(max_length):
        options = [
            (prefix + (v,), score + value)
            for prefix, score in live
            for v, value in enumerate(step(torch.tensor([prefix], dtype=torch.int64).reshape(1, len(prefix)))[0].tolist())
            if value > -math.inf
        ]
        options = sorted(options, key=lambda pair: -pair[1])[:beam_size]
        done += [pair for pair in options if pair[0][-1] == eos]
        live = [pair for pair in options if pair[0][-1] != eos]
    return sorted(done + live, key=lambda pair: -pair[1])[:beam_size]


@given(
    size=st.integers(1, 4),
    length=st.integers(1, 4),
    beam_size=st.integers(1, 6),
    seed=seeds,
    eos=st.sampled_from([None, 0]),
    scale=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_stopping_early_changes_nothing(size: int, length: int, beam_size: int, seed: int, eos: int | None, scale: float) -> None:
    step = tree(seed, size, length, scale)
    ours, slow = beam_search(step, beam_size, length, eos=eos), slow_beam(step, beam_size, length, eos)
    assert [tuple(tokens) for tokens, _ in ours] == [tokens for tokens, _ in slow]
    np.testing.assert_allclose([score for _, score in ours], [score for _, score in slow], atol=1e-12)
    assert len(ours) <= beam_size and all(a[1] >= b[1] for a, b in itertools.pairwise(ours))
    assert all(eos not in tokens[:-1] and (len(tokens) == length or tokens[-1] == eos) for tokens, _ in ours)


def test_it_stops_as_soon_as_no_prefix_can_catch_up() -> None:
    calls = []

    def step(prefixes: Tensor) -> Tensor:
        calls.append(prefixes.shape)
        return torch.tensor([[0.9, 0.05, 0.05]]).log().expand(len(prefixes), -1)

    assert beam_search(step, 1, 100, eos=0)[0][0] == [0]
    assert calls == [(1, 0)]
    # With two wanted, the second-best finished sequence (1,0) or (2,0) must be in before it may stop.
    calls.clear()
    assert [tokens for tokens, _ in beam_search(step, 2, 100, eos=0)] == [[0], [1, 0]]
    assert len(calls) == 2


def test_it_goes_on_while_a_prefix_can_still_overtake_the_last_finished_one() -> None:
    """After two steps [0] and [1, 0] are finished with 0.5 and 0.16, but [1, 1] with 0.24 is alive and ends with 0.216."""
    table = torch.tensor([[0.5, 0.4, 0.1], [0.4, 0.6, 0.0], [0.9, 0.1, 0.0]], dtype=torch.float64).log()
    found = beam_search(lambda prefixes: table[prefixes.shape[1]].expand(len(prefixes), -1), 2, 3, eos=0)
    assert [tokens for tokens, _ in found] == [[0], [1, 1, 0]]
    np.testing.assert_allclose([math.exp(score) for _, score in found], [0.5, 0.216], atol=1e-12)


def test_a_larger_beam_can_return_a_less_probable_sequence() -> None:
    step = tree(675, 3, 4)
    best = [beam_search(step, beam_size, 4)[0][1] for beam_size in (1, 2, 3, 27)]
    np.testing.assert_allclose(best, [-2.660, -2.921, -2.660, -2.660], atol=5e-4)


def test_the_beam_follows_viterbi_on_a_chain_when_it_holds_every_state() -> None:
    unary, pairwise = chain(1, 5, 3, seed=3)
    initial, transitions = local_transitions(unary, pairwise)

    def step(prefixes: Tensor) -> Tensor:
        t = prefixes.shape[1]
        return initial if t == 0 else transitions[0, t - 1, prefixes[:, -1]]

    path, score = viterbi(initial, transitions)
    tokens, found = beam_search(step, 81, 5)[0]
    assert tokens == path[0].tolist()
    assert found == pytest.approx(score.item(), abs=1e-12)


@given(size=st.integers(1, 40), num=st.integers(1, 9), seed=seeds)
def test_the_first_of_the_best_are_those_of_a_stable_sort(size: int, num: int, seed: int) -> None:
    scores = torch.randint(-3, 3, (size,), generator=torch.Generator().manual_seed(seed)).double()
    scores[scores == -3] = -math.inf
    ranked, order = scores.sort(descending=True, stable=True)
    kept = int((ranked[:num] > -math.inf).sum())
    values, places = exposure_bias._first_best(scores, num)
    assert torch.equal(values, ranked[:kept]) and torch.equal(places, order[:kept])


def test_ties_keep_their_order_and_forbidden_extensions_are_dropped() -> None:
    flat = beam_search(lambda prefixes: torch.zeros(len(prefixes), 3), 4, 2)
    assert [tokens for tokens, _ in flat] == [[0, 0], [0, 1], [0, 2], [1, 0]]
    only = beam_search(lambda prefixes: torch.tensor([[-math.inf, -1.0]]).expand(len(prefixes), -1), 5, 3)
    assert only == [([1, 1, 1], -3.0)]
    assert beam_search(lambda prefixes: torch.full((len(prefixes), 2), -math.inf), 3, 3) == []


def test_no_gradient_is_recorded_and_scores_add_up_in_float64() -> None:
    weight = torch.zeros(3, requires_grad=True)

    def step(prefixes: Tensor) -> Tensor:
        assert prefixes.dtype == torch.int64
        result = torch.log_softmax(weight + 0.1, 0).expand(len(prefixes), -1)
        assert not result.requires_grad
        return result.to(torch.bfloat16)

    (tokens, score), *_ = beam_search(step, 2, 7)
    assert tokens == [0] * 7 and isinstance(score, float)
    assert score == pytest.approx(7 * torch.tensor(-math.log(3)).bfloat16().item(), abs=1e-12)
    assert torch.is_grad_enabled()


# --- random replacement ---------------------------------------------------------------------------------------------------------


def test_rates_of_visible_changes_follow_the_number_of_distinct_tokens() -> None:
    count = 60_000
    for distinct in (1, 2, 10):
        ids = torch.arange(10).remainder(distinct).expand(count, 10)
        changed = random_replacement(ids, generator=torch.Generator().manual_seed(distinct)) != ids
        visible = 1 - 1 / distinct
        touched = 0.5 * (1 - (1 - 0.3 * visible) ** 10)
        row_rate = changed.any(1).double().mean().item()
        assert abs(row_rate - touched) <= 4.5 * math.sqrt(touched * (1 - touched) / count)
        # Positions of a row share its coin: the error of the token rate is that of the row means.
        rows = changed.double().mean(1)
        assert abs(rows.mean().item() - 0.15 * visible) <= 4.5 * rows.std().item() / math.sqrt(count)


def test_a_frequent_token_changes_less_often() -> None:
    count = 60_000
    ids = torch.tensor([4, 4, 4, 7]).expand(count, 4)
    changed = random_replacement(ids, generator=torch.Generator().manual_seed(0)) != ids
    for position, multiplicity in enumerate((3, 3, 3, 1)):
        expected = 0.15 * (1 - multiplicity / 4)
        observed = changed[:, position].double().mean().item()
        assert abs(observed - expected) <= 4.5 * math.sqrt(expected * (1 - expected) / count)


def test_replacements_are_uniform_over_the_masked_in_tokens_with_multiplicity() -> None:
    ids = torch.tensor([9, 1, 1, 2, 3, 0, 0]).expand(40_000, 7)
    mask = torch.tensor([False, True, True, True, True, False, False]).expand(40_000, 7)
    noisy = random_replacement(ids, sequence_rate=1.0, token_rate=1.0, mask=mask, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noisy[~mask], ids[~mask])
    counts = Counter(noisy[mask].tolist())
    assert counts.keys() == {1, 2, 3}
    for token, probability in ((1, 0.5), (2, 0.25), (3, 0.25)):
        error = math.sqrt(probability * (1 - probability) / 160_000)
        assert abs(counts[token] / 160_000 - probability) <= 4.5 * error


@pytest.mark.parametrize("masked", [False, True])
def test_which_token_is_drawn_does_not_depend_on_whether_one_is(masked: bool) -> None:
    ids = torch.tensor([1, 2, 3, 4]).expand(40_000, 4)
    mask = torch.ones_like(ids, dtype=torch.bool) if masked else None
    noisy = random_replacement(ids, sequence_rate=1.0, token_rate=0.4, mask=mask, generator=torch.Generator().manual_seed(3))
    counts = torch.bincount(noisy[:, 0], minlength=5)[2:] / 40_000
    assert (counts - 0.1).abs().max() <= 4.5 * math.sqrt(0.09 / 40_000)


def test_draws_of_different_positions_and_rows_are_independent() -> None:
    ids = torch.arange(2).expand(50_000, 2)
    noisy = random_replacement(ids, sequence_rate=1.0, token_rate=1.0, generator=torch.Generator().manual_seed(1))
    frequencies = torch.bincount(noisy[:, 0] * 2 + noisy[:, 1], minlength=4) / 50_000
    assert (frequencies - 0.25).abs().max() <= 4.5 * math.sqrt(0.25 * 0.75 / 50_000)
    half = random_replacement(ids, sequence_rate=1.0, token_rate=0.5, generator=torch.Generator().manual_seed(2)) != ids
    both = half.all(1).double().mean().item()
    assert abs(both - 1 / 16) <= 4.5 * math.sqrt(15 / 256 / 50_000)


@given(batch=st.integers(0, 4), length=st.integers(0, 6), seed=seeds, rate=st.sampled_from([0.0, 0.3, 1.0]), masked=st.booleans())
def test_every_row_keeps_to_its_own_tokens(batch: int, length: int, seed: int, rate: float, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(100, (batch, length), generator=generator)
    mask = torch.rand(batch, length, generator=generator) < 0.6 if masked else None
    before = ids.clone()
    noisy = random_replacement(ids, sequence_rate=1.0, token_rate=rate, mask=mask, generator=generator)
    inside = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    assert noisy.shape == ids.shape and torch.equal(ids, before)
    assert ids.numel() == 0 or noisy.data_ptr() != ids.data_ptr()
    assert torch.equal(noisy[~inside], ids[~inside])
    for row, original, keep in zip(noisy, ids, inside, strict=True):
        assert set(row[keep].tolist()) <= set(original[keep].tolist())
    if rate == 0.0:
        assert torch.equal(noisy, ids)


@pytest.mark.parametrize("name", ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("masked", [False, True])
def test_integer_dtypes_are_kept(name: str, masked: bool) -> None:
    ids, dtype = torch.arange(12).reshape(3, 4), getattr(torch, name)
    options = {"sequence_rate": 1.0, "token_rate": 1.0, "mask": ids % 3 > 0 if masked else None}
    expected, got = (random_replacement(x, **options, generator=torch.Generator().manual_seed(0)) for x in (ids, ids.to(dtype)))
    assert got.dtype == dtype and torch.equal(got.long(), expected)
    if name == "uint64":
        largest = torch.tensor([[2**64 - 1]], dtype=dtype)
        assert torch.equal(random_replacement(largest, sequence_rate=1.0, token_rate=1.0), largest)


def test_the_generator_decides_everything_and_the_global_one_is_left_alone() -> None:
    ids = torch.arange(40).reshape(4, 10)
    state = torch.get_rng_state()
    first, second = (random_replacement(ids, sequence_rate=1.0, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, random_replacement(ids, sequence_rate=1.0, generator=torch.Generator().manual_seed(6)))
    expected = random_replacement(ids.T.contiguous().T, sequence_rate=1.0, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, expected)


def test_training_on_replaced_prefixes_learns_the_corrupted_conditional() -> None:
    """T=2, pool {y1, y2}: the pair (input c, label y2) follows (1-r)p + r/2 (p + 1(c=y2) p(y2))."""
    p = torch.tensor([[0.45, 0.05], [0.15, 0.35]], dtype=torch.float64)
    rate, count = 0.15, 200_000
    pairs = torch.multinomial(p.flatten(), count, replacement=True, generator=torch.Generator().manual_seed(0))
    ids = torch.stack([pairs // 2, pairs % 2], dim=1)
    noisy = random_replacement(ids, generator=torch.Generator().manual_seed(1))
    joint = (1 - rate) * p + rate / 2 * (p + torch.diag(p.sum(0)))
    frequencies = torch.bincount(noisy[:, 0] * 2 + ids[:, 1], minlength=4).reshape(2, 2) / count
    assert ((frequencies - joint).abs() <= 4.5 * (joint * (1 - joint) / count).sqrt()).all()
    conditional = joint / joint.sum(1, keepdim=True)
    np.testing.assert_allclose(conditional[:, 1], [0.0911, 0.7183], atol=5e-5)


# --- gradient penalty -----------------------------------------------------------------------------------------------------------


def smooth_loss(x: Tensor, w: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x @ w).sum()


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    w = torch.randn(3, dtype=torch.float64, generator=generator)
    return x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_()


@pytest.mark.parametrize("coefficient", [0.0, 1.0, 2.5])
def test_the_penalty_is_half_the_squared_slope(coefficient: float) -> None:
    x, w = example()
    penalty = gradient_penalty(smooth_loss(x, w), x, coefficient=coefficient)
    slope = torch.sigmoid(x @ w).unsqueeze(1) * w
    torch.testing.assert_close(penalty, 0.5 * coefficient * slope.square().sum())


def test_its_gradients_are_right_in_inputs_and_weights() -> None:
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, w: gradient_penalty(smooth_loss(x, w), x), example())


@given(factor=st.floats(-5, 5), coefficient=st.floats(0, 5), shift=st.floats(-5, 5))
def test_the_penalty_is_quadratic_in_the_loss_and_blind_to_constants(factor: float, coefficient: float, shift: float) -> None:
    x, w = example()
    penalty = gradient_penalty(factor * smooth_loss(x, w) + shift, x, coefficient=coefficient)
    torch.testing.assert_close(penalty, factor**2 * coefficient * gradient_penalty(smooth_loss(x, w), x))
    assert penalty >= 0


def test_it_equals_adversarial_training_to_first_order() -> None:
    x, w = example()
    relative = []
    for step in (1e-3, 1e-4):
        slope = torch.autograd.grad(smooth_loss(x, w), x)[0]
        adversarial = torch.autograd.grad(smooth_loss(x + step * slope, w), w)[0]
        loss = smooth_loss(x, w)
        clean = torch.autograd.grad(loss, w, retain_graph=True)[0]
        penalised = torch.autograd.grad(loss + gradient_penalty(loss, x, coefficient=step), w)[0]
        relative.append(((adversarial - penalised).norm() / (adversarial - clean).norm()).item())
    assert relative[1] < 1e-3
    assert relative[0] / relative[1] == pytest.approx(10, rel=0.05)


def test_the_loss_remains_usable_and_no_gradient_is_accumulated() -> None:
    x, w = example()
    loss = smooth_loss(x, w)
    penalty = gradient_penalty(loss, x)
    assert x.grad is None and w.grad is None
    (loss + penalty).backward()
    assert x.grad is not None and w.grad is not None


def test_looked_up_embeddings_and_their_matrix_have_different_penalties() -> None:
    table, w = example()
    embedded = table[torch.tensor([0, 0, 1])]
    loss = smooth_loss(embedded, w)
    by_position = gradient_penalty(loss, embedded)
    by_matrix = gradient_penalty(loss, table)
    slopes = torch.sigmoid(embedded @ w).unsqueeze(1) * w
    torch.testing.assert_close(by_position, 0.5 * slopes.square().sum())
    torch.testing.assert_close(by_matrix, 0.5 * ((slopes[0] + slopes[1]).square().sum() + slopes[2].square().sum()))


def test_a_mean_divides_the_penalty_by_the_number_of_terms() -> None:
    x, w = example()
    single = gradient_penalty(smooth_loss(x, w), x)
    doubled = torch.cat([x, x]).detach().requires_grad_()
    averaged = gradient_penalty(smooth_loss(doubled, w) / 8, doubled)
    torch.testing.assert_close(averaged, single * 2 / 64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_the_penalty_keeps_the_dtype_of_the_inputs(dtype: torch.dtype, tolerance: float) -> None:
    x, w = example(dtype)
    penalty = gradient_penalty(smooth_loss(x, w), x)
    exact_x, exact_w = (v.detach().double().requires_grad_() for v in (x, w))
    exact = gradient_penalty(smooth_loss(exact_x, exact_w), exact_x)
    assert penalty.dtype == dtype
    assert penalty.item() == pytest.approx(exact.item(), rel=tolerance)


def test_slopes_of_half_precision_are_squared_without_underflow() -> None:
    x = torch.ones(10_000, dtype=torch.float16, requires_grad=True)
    assert gradient_penalty((x * 3e-4).sum(), x).item() == pytest.approx(
        4.5e-4, rel=2e-3
    )  # 9e-8 each is next to nothing in float16
    zero = torch.zeros(3, requires_grad=True)
    assert gradient_penalty(zero.square().sum(), zero).item() == 0.0


# --- errors ---------------------------------------------------------------------------------------------------------------------

U, P, Y = torch.zeros(2, 3, 4), torch.zeros(4, 4), torch.zeros(2, 3, dtype=torch.int64)
BAD_CHAINS: list[tuple[str, tuple[Any, ...], type[Exception]]] = [
    ("unary", (U.tolist(), P, Y), TypeError),
    ("unary", (U.long(), P, Y), TypeError),
    ("unary", (U.to(torch.complex64), P, Y), TypeError),
    ("unary", (U[0], P, Y), ValueError),
    ("unary", (U[:, :0], P, Y[:, :0]), ValueError),
    ("unary", (U[:, :, :0], P[:0, :0], Y), ValueError),
    ("pairwise", (U, None, Y), TypeError),
    ("pairwise", (U, P.long(), Y), TypeError),
    ("pairwise", (U, P.double(), Y), TypeError),
    ("pairwise", (U, P[:3], Y), ValueError),
    ("pairwise", (U, P[0], Y), ValueError),
    ("pairwise", (U, P.to("meta"), Y), ValueError),
]
BAD_LABELS: list[tuple[str, tuple[Any, ...], type[Exception]]] = [
    ("labels", (U, P, [[0, 0, 0]] * 2), TypeError),
    ("labels", (U, P, Y.double()), TypeError),
    ("labels", (U, P, Y.bool()), TypeError),
    ("labels", (U, P, Y[:, :2]), ValueError),
    ("labels", (U, P, Y[0]), ValueError),
    ("labels", (U, P, Y + 4), ValueError),
    ("labels", (U, P, Y - 1), ValueError),
    ("labels", (U, P, Y.to("meta")), ValueError),
]


@pytest.mark.parametrize("function", CHAIN_FUNCTIONS)
@pytest.mark.parametrize(("name", "arguments", "error"), BAD_CHAINS + BAD_LABELS)
def test_bad_chains_are_refused_by_name(
    function: Callable[..., Tensor], name: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"^{name} "):
        function(*arguments)


@pytest.mark.parametrize(("name", "arguments", "error"), BAD_CHAINS)
def test_bad_transitions_are_refused_by_name(name: str, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} "):
        local_transitions(*arguments[:2])


I, S = torch.zeros(2, 4), torch.zeros(2, 3, 4, 4)  # noqa: E741


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("initial", (None, S), TypeError),
        ("initial", (I.long(), S), TypeError),
        ("initial", (I[0], S), ValueError),
        ("initial", (I[:, :0], S[..., :0, :0]), ValueError),
        ("transitions", (I, [[0.0]]), TypeError),
        ("transitions", (I, S.bool()), TypeError),
        ("transitions", (I, S.double()), TypeError),
        ("transitions", (I, S[0]), ValueError),
        ("transitions", (I, S[:1]), ValueError),
        ("transitions", (I, S[..., :3]), ValueError),
        ("transitions", (I, S.to("meta")), ValueError),
    ],
)
def test_bad_searches_are_refused_by_name(name: str, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} "):
        viterbi(*arguments)


def returns(value: Any) -> Callable[[Tensor], Any]:
    return lambda prefixes: value


@pytest.mark.parametrize(
    ("name", "arguments", "eos", "error"),
    [
        ("step", (None, 1, 1), None, TypeError),
        ("step", (returns([[0.0]]), 1, 1), None, TypeError),
        ("step", (returns(torch.zeros(1, 3, dtype=torch.int64)), 1, 1), None, TypeError),
        ("step", (returns(torch.zeros(3)), 1, 1), None, ValueError),
        ("step", (returns(torch.zeros(2, 3)), 1, 1), None, ValueError),
        ("step", (returns(torch.zeros(1, 0)), 1, 1), None, ValueError),
        ("step", (returns(torch.tensor([[0.0, math.nan]])), 1, 1), None, ValueError),
        ("step", (returns(torch.zeros(1, 3, device="meta")), 1, 1), None, ValueError),
        ("step", (returns(torch.zeros(1, 3).to_sparse()), 1, 1), None, TypeError),
        ("max_length", (two_step, 2, 2**64), None, ValueError),
        ("step", (returns(torch.tensor([[0.0, math.inf]])), 1, 1), None, ValueError),
        ("step", (returns(torch.tensor([[0.0, 2.0]])), 1, 1), 0, ValueError),
        ("beam_size", (two_step, 0, 2), None, ValueError),
        ("beam_size", (two_step, 1.0, 2), None, TypeError),
        ("beam_size", (two_step, True, 2), None, TypeError),
        ("max_length", (two_step, 2, 0), None, ValueError),
        ("max_length", (two_step, 2, "2"), None, TypeError),
        ("eos", (two_step, 2, 2), -1, ValueError),
        ("eos", (two_step, 2, 2), 0.0, TypeError),
        ("eos", (two_step, 2, 2), True, TypeError),
        ("eos", (two_step, 2, 2), 2, ValueError),
    ],
)
def test_bad_beams_are_refused_by_name(name: str, arguments: tuple[Any, ...], eos: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} "):
        beam_search(*arguments, eos=eos)


@pytest.mark.parametrize(
    ("name", "ids", "options", "error"),
    [
        ("ids", [[1, 2]], {}, TypeError),
        ("ids", U[0], {}, TypeError),
        ("ids", Y.bool(), {}, TypeError),
        ("ids", Y[0], {}, ValueError),
        ("ids", Y[None], {}, ValueError),
        ("sequence_rate", Y, {"sequence_rate": -0.1}, ValueError),
        ("sequence_rate", Y, {"sequence_rate": 1.1}, ValueError),
        ("sequence_rate", Y, {"sequence_rate": True}, TypeError),
        ("token_rate", Y, {"token_rate": math.nan}, ValueError),
        ("token_rate", Y, {"token_rate": 30}, ValueError),
        ("token_rate", Y, {"token_rate": 1.5}, ValueError),
        ("token_rate", Y, {"token_rate": "0.3"}, TypeError),
        ("mask", Y, {"mask": Y}, TypeError),
        ("mask", Y, {"mask": [[True]]}, TypeError),
        ("mask", Y, {"mask": Y[:1].bool()}, ValueError),
        ("mask", Y, {"mask": Y.bool().to("meta")}, ValueError),
        ("generator", Y, {"generator": 0}, TypeError),
        ("generator", Y, {"generator": np.random.default_rng(0)}, TypeError),
    ],
)
def test_bad_replacements_are_refused_by_name(name: str, ids: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} "):
        random_replacement(ids, **options)


X = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("name", "arguments", "options", "error"),
    [
        ("loss", (1.0, X), {}, TypeError),
        ("loss", (torch.tensor(1), X), {}, TypeError),
        ("loss", (X * 2, X), {}, ValueError),
        ("loss", (torch.tensor(1.0), X), {}, ValueError),
        ("loss", (torch.ones(2, requires_grad=True).sum(), X), {}, ValueError),
        ("inputs", (X.sum(), [1.0]), {}, TypeError),
        ("inputs", (X.sum(), torch.ones(3, dtype=torch.int64)), {}, TypeError),
        ("inputs", (X.sum(), X.detach()), {}, ValueError),
        ("coefficient", (X.sum(), X), {"coefficient": -1.0}, ValueError),
        ("coefficient", (X.sum(), X), {"coefficient": math.inf}, ValueError),
        ("coefficient", (X.sum(), X), {"coefficient": "1"}, TypeError),
        ("coefficient", (X.sum(), X), {"coefficient": True}, TypeError),
    ],
)
def test_bad_penalties_are_refused_by_name(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"^{name} "):
        gradient_penalty(*arguments, **options)


# --- padded batches, common offsets, autocast, fused kernels


def padded(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    unary, pairwise = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((5, 4, 3), (3, 3)))
    return unary, pairwise, torch.randint(3, (5, 4), generator=g), torch.arange(4) < torch.tensor([4, 3, 2, 1, 0])[:, None]


@pytest.mark.parametrize("function", [path_score, global_log_prob, local_log_prob])
def test_a_padded_batch_is_its_rows_one_by_one(function):
    unary, pairwise, labels, mask = padded()
    got = function(unary.masked_fill(~mask[..., None], math.nan), pairwise, labels.masked_fill(~mask, -100), mask=mask)
    alone = [function(unary[i, None, :n], pairwise, labels[i, None, :n]).item() for i, n in enumerate((4, 3, 2, 1))]
    torch.testing.assert_close(got, torch.tensor([*alone, 0.0], dtype=torch.float64), rtol=1e-13, atol=1e-13)


def test_viterbi_and_the_beam_of_a_padded_batch_are_those_of_its_rows():
    unary, pairwise, _, mask = padded()
    initial, steps = local_transitions(unary, pairwise)
    path, score = viterbi(initial, steps.masked_fill(~mask[:, 1:, None, None], math.nan), mask=mask)
    assert path[~mask].eq(-1).all() and path[4].eq(-1).all() and score[4] == 0
    for i, n in enumerate((4, 3, 2, 1)):
        alone, best = viterbi(initial[i, None], steps[i, None, : n - 1])
        assert path[i, :n].tolist() == alone[0].tolist() and score[i].item() == pytest.approx(best.item(), rel=1e-13)

        def step(prefixes, i=i):
            return initial[i, None] if prefixes.shape[1] == 0 else steps[i, prefixes.shape[1] - 1][prefixes[:, -1]]

        assert beam_search(step, 9, 4, mask=mask[i]) == beam_search(step, 9, n)
    assert beam_search(step, 2, 4, mask=mask[4]) == [([], 0.0)]


@pytest.mark.parametrize("function", [path_score, global_log_prob, local_log_prob])
def test_a_mask_with_a_hole_is_refused_by_name(function):
    unary, pairwise, labels, mask = padded()
    mask[0, 1] = False
    with pytest.raises(ValueError, match=r"^mask must be True up to some place .* a hole$"):
        function(unary, pairwise, labels, mask=mask)
    with pytest.raises(ValueError, match=r"^labels must lie in"):
        function(unary, pairwise, labels.masked_fill(torch.arange(4) == 0, -100), mask=torch.arange(4) < torch.ones(5, 1))


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e5, 1e6])
def test_a_common_offset_costs_no_digit_in_float32(offset):
    unary, pairwise, labels, _ = padded()
    unary, pairwise = ((8 * x).round().div(8).float() for x in (unary, pairwise))  # exact next to the offset
    for function in (global_log_prob, local_log_prob):
        want = function(unary.double(), pairwise.double(), labels).float()
        for shifted in ((unary + offset, pairwise), (unary, pairwise - offset), (unary - offset, pairwise + offset)):
            torch.testing.assert_close(function(*shifted, labels), want, rtol=2e-6, atol=2e-6)
    steps = pairwise + unary[:, 1:, None, :]
    assert torch.equal(viterbi(unary[:, 0] + offset, steps + offset)[0], viterbi(unary[:, 0].double(), steps.double())[0])


def test_under_autocast_dtypes_are_promoted_and_results_are_float32():
    unary, pairwise, labels, _ = padded()
    unary, pairwise = unary.bfloat16(), pairwise.float()
    for function in (path_score, global_log_prob, local_log_prob):
        with pytest.raises(TypeError, match=r"^pairwise must have the dtype of unary"):
            function(unary, pairwise, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = function(unary, pairwise, labels)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, function(unary.float(), pairwise, labels))


def test_the_penalty_has_the_dtype_of_the_loss_and_names_the_remedy_for_fused_kernels():
    x = torch.full((8,), 2.0, dtype=torch.float16, requires_grad=True)
    penalty = gradient_penalty((180.0 * x.float()).sum() * 2, x)
    assert penalty.dtype == torch.float32 and penalty == 8 * 360.0**2 / 2
    q = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def penalised():
        return gradient_penalty(torch.nn.functional.scaled_dot_product_attention(q, q, q).square().sum(), q)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wanted = penalised()
        wanted.backward()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        fused = penalised()
    torch.testing.assert_close(fused, wanted)  # the value is right, its derivative does not exist
    with pytest.raises(RuntimeError, match=r"^loss must be twice differentiable.*SDPBackend\.MATH"):
        fused.backward()


def test_marginals_are_one_hot_minus_gradient():
    unary, pairwise, labels, mask = padded()
    unary.requires_grad_()
    global_log_prob(unary, pairwise, labels, mask=mask).sum().backward()
    marginals = torch.nn.functional.one_hot(labels, 3) * mask[..., None] - unary.grad
    paths = torch.cartesian_prod(*[torch.arange(3)] * 4)
    probs = global_log_prob(unary[:1].expand(81, -1, -1), pairwise, paths).exp().detach()
    counted = torch.stack([(probs[:, None] * (paths == v)).sum(0) for v in range(3)], -1)
    torch.testing.assert_close(marginals[0], counted)
    torch.testing.assert_close(marginals.sum(-1), mask.double())
