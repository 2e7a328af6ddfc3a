"""Gaussian bottlenecks against quadrature, torch.distributions, brute force over all pairs, and numerical optimisation."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from kexue.probability import vae_bottleneck
from kexue.probability.vae_bottleneck import (
    GaussianBottleneck,
    RateDecomposition,
    kl_standard_normal,
    rate_decomposition,
    reverse_water_filling,
)

moderate = st.floats(-20, 20, allow_subnormal=False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posteriors(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    g = seeded(seed)
    mean = 2 * torch.randn(n, d, generator=g, dtype=torch.float64)
    return mean.to(dtype), torch.randn(n, d, generator=g, dtype=torch.float64).sub(1).to(dtype)


# --- kl_standard_normal


@pytest.mark.parametrize(("mu", "log_var"), [(0.0, 0.0), (0.7, -1.3), (-2.0, 0.9), (0.0, -4.0), (3.0, 2.0)])
def test_kl_is_the_integral_of_the_log_ratio(mu: float, log_var: float) -> None:
    sigma = math.exp(log_var / 2)

    def integrand(z: float) -> float:
        log_p = -0.5 * ((z - mu) / sigma) ** 2 - 0.5 * math.log(2 * math.pi) - 0.5 * log_var
        log_q = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
        return math.exp(log_p) * (log_p - log_q)

    expected = integrate.quad(integrand, mu - 14 * sigma, mu + 14 * sigma, points=[mu], epsabs=1e-13, epsrel=1e-13)[0]
    args = (torch.tensor([mu], dtype=torch.float64), torch.tensor([log_var], dtype=torch.float64))
    assert kl_standard_normal(*args).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("shape", [(3,), (1, 1), (4, 7), (2, 3, 5), (6, 0), (0, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_kl_agrees_with_torch_distributions(shape: tuple[int, ...], seed: int) -> None:
    mean, log_var = posteriors(math.prod(shape), 1, seed)
    mean, log_var = mean.reshape(shape), log_var.reshape(shape)
    expected = kl_divergence(Normal(mean, torch.exp(log_var / 2)), Normal(0.0, 1.0)).sum(-1)
    got = kl_standard_normal(mean, log_var)
    assert got.shape == shape[:-1]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_kl_vanishes_with_its_gradient_exactly_at_the_standard_normal() -> None:
    mean, log_var = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    value = kl_standard_normal(mean, log_var)
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0]
    assert not mean.grad.any()
    assert not log_var.grad.any()


def test_kl_gradient_is_mean_and_half_of_variance_minus_one() -> None:
    mean, log_var = (t.requires_grad_() for t in posteriors(5, 4))
    kl_standard_normal(mean, log_var).sum().backward()
    torch.testing.assert_close(mean.grad, mean.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(log_var.grad, (log_var.detach().exp() - 1) / 2, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(kl_standard_normal, (mean, log_var))
    assert torch.autograd.gradgradcheck(kl_standard_normal, (mean, log_var))


@given(st.lists(st.tuples(moderate, moderate), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_kl_is_nonnegative_and_a_sum_over_coordinates_in_any_order(pairs: list[tuple[float, float]], random: object) -> None:
    mean, log_var = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
    value = kl_standard_normal(mean, log_var)
    assert value >= 0
    parts = kl_standard_normal(mean[:, None], log_var[:, None])
    assert (parts >= 0).all()
    random.shuffle(pairs)  # type: ignore[attr-defined]
    shuffled, shuffled_var = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
    torch.testing.assert_close(parts.sum(), value, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(kl_standard_normal(-shuffled, shuffled_var), value, rtol=1e-12, atol=1e-300)


@given(moderate, moderate)
def test_kl_exceeds_the_nats_that_the_mean_alone_or_the_variance_alone_costs(mu: float, v: float) -> None:
    zero, m, w = (
        torch.zeros(1, dtype=torch.float64),
        torch.tensor([mu], dtype=torch.float64),
        torch.tensor([v], dtype=torch.float64),
    )
    whole, by_mean, by_variance = kl_standard_normal(m, w), kl_standard_normal(m, zero), kl_standard_normal(zero, w)
    torch.testing.assert_close(whole, by_mean + by_variance, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("v", [1e-3, -1e-3, 3e-3, 1e-2, -0.1, 0.5])
def test_kl_keeps_three_digits_in_float32_near_the_standard_normal(v: float) -> None:
    exact = 0.5 * (v**2 / 2 + v**3 / 6 + v**4 / 24 + v**5 / 120 + v**6 / 720 + v**7 / 5040 + v**8 / 40320)
    assert kl_standard_normal(torch.zeros(1), torch.tensor([v])).item() == pytest.approx(exact, rel=5e-4)


def test_kl_is_never_negative_in_float32() -> None:
    small = 10.0 ** torch.linspace(-12, 1, 40001, dtype=torch.float64)
    v = torch.cat([small, -small]).float()[:, None]
    assert (kl_standard_normal(torch.zeros_like(v), v) >= 0).all()


@pytest.mark.parametrize(
    ("mu", "v", "expected"),
    [
        (0.0, -200.0, 99.5),
        (0.0, 85.0, 0.5 * math.exp(85)),
        (1e18, 0.0, 5e35),
        (1e-30, 0.0, 0.0),
        (0.0, 1e-38, 0.0),
        (0.0, -1e30, 5e29),
        (1e30, 0.0, math.inf),
        (0.0, 89.0, math.inf),
        (0.0, 1e30, math.inf),
        (-1e30, -1e30, math.inf),
        (0.0, -math.inf, math.inf),
    ],
)
def test_kl_has_the_right_limit_at_extremes(mu: float, v: float, expected: float) -> None:
    value = kl_standard_normal(torch.tensor([mu]), torch.tensor([v]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)]
)
def test_kl_keeps_the_dtype_and_computes_wide_enough(dtype: torch.dtype, tolerance: float) -> None:
    mean, log_var = posteriors(6, 33, dtype=dtype)
    mean[:3] *= 0.01  # close to the standard normal, where rounding inside the sum would show
    log_var[:3] *= 0.05
    before = mean.clone(), log_var.clone()
    value = kl_standard_normal(mean, log_var)
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), kl_standard_normal(mean.double(), log_var.double()), rtol=tolerance, atol=0)
    assert torch.equal(mean, before[0])
    assert torch.equal(log_var, before[1])


def test_kl_does_not_care_about_layout_vmap_or_compilation() -> None:
    mean, log_var = posteriors(6, 4)
    expected = kl_standard_normal(mean, log_var)
    torch.testing.assert_close(kl_standard_normal(mean.T.contiguous().T, log_var[:, ::1]), expected)
    torch.testing.assert_close(torch.vmap(kl_standard_normal)(mean, log_var), expected)
    torch.testing.assert_close(
        torch.vmap(kl_standard_normal, in_dims=(0, None))(mean, log_var[0]), kl_standard_normal(mean, log_var[:1].expand(6, 4))
    )
    torch.testing.assert_close(torch.compile(kl_standard_normal, fullgraph=True, backend="eager")(mean, log_var), expected)
    assert kl_standard_normal(mean[0].expand(5, 4), log_var[0].expand(5, 4)).shape == (5,)


F = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("args", "error", "name"),
    [
        (([0.0], F), TypeError, "mean"),
        ((0.0, F), TypeError, "mean"),
        ((np.zeros((2, 3)), F), TypeError, "mean"),
        ((F.long(), F), TypeError, "mean"),
        ((F.bool(), F), TypeError, "mean"),
        ((F.to(torch.complex64), F), TypeError, "mean"),
        ((F, None), TypeError, "log_var"),
        ((F, 0.0), TypeError, "log_var"),
        ((F, F.int()), TypeError, "log_var"),
        ((F, F.double()), TypeError, "log_var"),
        ((F, F.half()), TypeError, "log_var"),
        ((F, F[0]), ValueError, "log_var"),
        ((F, F.T), ValueError, "log_var"),
        ((F, F[:, :1]), ValueError, "log_var"),
        ((F, F.to("meta")), ValueError, "log_var"),
        ((torch.tensor(0.0), torch.tensor(0.0)), ValueError, "mean"),
    ],
)
def test_kl_refuses_bad_arguments_by_name(args: tuple[object, object], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"^{name} "):
        kl_standard_normal(*args)  # type: ignore[arg-type]


# --- GaussianBottleneck


def test_bottleneck_returns_mean_plus_sigma_times_noise_and_the_kl() -> None:
    layer = GaussianBottleneck(5, 3, dtype=torch.float64)
    x = torch.randn(2, 4, 5, generator=seeded(), dtype=torch.float64)
    z, kl = layer(x, generator=seeded(7))
    mean, log_var = x @ layer.mean.weight.T + layer.mean.bias, x @ layer.log_var.weight.T + layer.log_var.bias
    noise = torch.randn(2, 4, 3, generator=seeded(7), dtype=torch.float64)
    torch.testing.assert_close(z, mean + log_var.exp().sqrt() * noise, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kl, 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(-1), rtol=1e-12, atol=1e-12)
    assert z.shape == (2, 4, 3)
    assert kl.shape == (2, 4)


def test_bottleneck_returns_the_mean_and_draws_nothing_in_evaluation() -> None:
    layer = GaussianBottleneck(5, 3).eval()
    x, g = torch.randn(4, 5, generator=seeded()), seeded(1)
    state, global_state = g.get_state(), torch.get_rng_state()
    z, kl = layer(x, generator=g)
    assert torch.equal(z, layer.mean(x))
    assert torch.equal(g.get_state(), state)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(kl, layer.train()(x)[1])


def test_bottleneck_with_a_generator_leaves_the_global_one_alone_and_repeats() -> None:
    layer, x = GaussianBottleneck(5, 3), torch.randn(4, 5, generator=seeded())
    global_state = torch.get_rng_state()
    first, second, other = (layer(x, generator=seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_bottleneck_samples_have_the_mean_and_variance_of_the_posterior() -> None:
    layer = GaussianBottleneck(2, 2, dtype=torch.float64)
    n = 40000
    x = torch.tensor([0.4, -1.1], dtype=torch.float64)
    z = layer(x.expand(n, 2), generator=seeded())[0].detach()
    mean, variance = layer.mean(x).detach(), layer.log_var(x).exp().detach()
    assert ((z.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    assert ((z.var(0) - variance).abs() < 4 * variance * math.sqrt(2 / n)).all()


def test_gradient_through_the_sample_is_the_gradient_of_the_second_moment() -> None:
    layer = GaussianBottleneck(1, 1, dtype=torch.float64)
    with torch.no_grad():
        for p, value in zip(layer.parameters(), (0.0, 0.6, 0.0, -0.5), strict=True):
            p.fill_(value)
    n = 40000
    z = layer(torch.zeros(n, 1, dtype=torch.float64), generator=seeded())[0]
    z.square().mean().backward()
    mu, variance = 0.6, math.exp(-0.5)
    se_mean = 2 * math.sqrt(variance / n)
    se_log_var = math.sqrt((2 * variance**2 + mu**2 * variance) / n)
    assert abs(layer.mean.bias.grad.item() - 2 * mu) < 4 * se_mean
    assert abs(layer.log_var.bias.grad.item() - variance) < 4 * se_log_var


def test_gradients_reach_both_layers_through_sample_and_penalty() -> None:
    layer = GaussianBottleneck(4, 2, dtype=torch.float64)
    x = torch.randn(3, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        named = dict(zip((k for k, _ in layer.named_parameters()), params, strict=True))
        z, kl = torch.func.functional_call(layer, named, (x,), {"generator": seeded(3)})
        return z.sin().sum() + kl.sum()

    assert torch.autograd.gradcheck(loss, (x, *layer.parameters()))
    assert torch.autograd.gradgradcheck(loss, (x, *layer.parameters()), fast_mode=True)


@given(st.integers(1, 6), st.integers(0, 10**6), st.booleans())
def test_bottleneck_rows_do_not_see_one_another_and_the_noise_is_the_generator_s(n: int, seed: int, bias: bool) -> None:
    layer = GaussianBottleneck(4, 3, bias, dtype=torch.float64)
    x = torch.randn(n, 4, generator=seeded(seed), dtype=torch.float64)
    z, kl = layer(x, generator=seeded(seed))
    order = torch.randperm(n, generator=seeded(seed))
    turned, turned_kl = layer.eval()(x[order])
    torch.testing.assert_close(turned, layer(x)[0][order])
    torch.testing.assert_close(turned_kl, kl[order])
    assert (kl >= 0).all()
    noise = torch.randn(n, 3, generator=seeded(seed), dtype=torch.float64)
    torch.testing.assert_close(z, layer.mean(x) + torch.exp(0.5 * layer.log_var(x)) * noise)


def test_batch_mean_of_kl_is_the_penalty_of_the_keras_layer() -> None:
    layer = GaussianBottleneck(6, 4, dtype=torch.float64)
    x = torch.randn(9, 6, generator=seeded(), dtype=torch.float64)
    mean, log_var = layer.mean(x), layer.log_var(x)
    keras = -0.5 * (1 + log_var - mean.square() - log_var.exp()).mean(0).sum()
    torch.testing.assert_close(layer(x)[1].mean(), keras, rtol=1e-12, atol=1e-12)


def test_bottleneck_survives_state_dict_pickle_deepcopy_and_compilation() -> None:
    layer = GaussianBottleneck(5, 3)
    assert sorted(layer.state_dict()) == ["log_var.bias", "log_var.weight", "mean.bias", "mean.weight"]
    x = torch.randn(4, 5, generator=seeded())
    expected = layer(x, generator=seeded(1))
    fresh = GaussianBottleneck(5, 3)
    fresh.load_state_dict(layer.state_dict())
    for twin in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        for got, want in zip(twin(x, generator=seeded(1)), expected, strict=True):
            assert torch.equal(got, want)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[1], expected[1])
    layer.eval()
    torch.testing.assert_close(compiled(x)[0], layer.mean(x))


def test_training_resumes_bit_for_bit() -> None:
    def train(layer: GaussianBottleneck, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            z, kl = layer(torch.randn(8, 5, generator=seeded(step)), generator=seeded(100 + step))
            optimizer.zero_grad()
            (z.square().sum() + 0.1 * kl.mean()).backward()
            optimizer.step()

    whole = GaussianBottleneck(5, 3)
    start = copy.deepcopy(whole)
    train(whole, torch.optim.Adam(whole.parameters()), range(6))
    optimizer = torch.optim.Adam(start.parameters())
    train(start, optimizer, range(3))
    resumed = copy.deepcopy(start)
    again = torch.optim.Adam(resumed.parameters())
    again.load_state_dict(optimizer.state_dict())
    train(resumed, again, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_bottleneck_works_in_every_floating_dtype(dtype: torch.dtype) -> None:
    layer = GaussianBottleneck(5, 3).to(dtype)
    z, kl = layer(torch.randn(4, 5, generator=seeded()).to(dtype), generator=seeded())
    assert z.dtype == kl.dtype == dtype
    (z.float().square().sum() + kl.float().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_bottleneck_runs_under_autocast_without_bias_on_meta_and_with_no_rows() -> None:
    layer = GaussianBottleneck(5, 3, bias=False)
    assert layer.mean.bias is None
    assert layer.log_var.bias is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            z, kl = layer(torch.zeros(4, 5, dtype=dtype))
            assert z.dtype == torch.bfloat16 and kl.dtype == torch.float32
    assert [t.shape for t in layer(torch.zeros(0, 5))] == [(0, 3), (0,)]
    assert [t.shape for t in layer(torch.zeros(5))] == [(3,), ()]
    assert GaussianBottleneck(5, 3, device="meta")(torch.zeros(2, 5, device="meta"))[1].shape == (2,)


def test_an_ensemble_runs_under_vmap() -> None:
    layers = [GaussianBottleneck(5, 3) for _ in range(4)]
    params, _ = torch.func.stack_module_state(layers)
    x = torch.randn(6, 5, generator=seeded())

    def one(p: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.func.functional_call(layers[0], p, (x,))

    z, kl = torch.vmap(one, randomness="different")(params)
    assert z.shape == (4, 6, 3)
    torch.testing.assert_close(kl[2], layers[2](x)[1])


@pytest.mark.parametrize(
    ("build", "error", "name"),
    [
        (lambda: GaussianBottleneck(0, 3), ValueError, "in_features"),
        (lambda: GaussianBottleneck(-1, 3), ValueError, "in_features"),
        (lambda: GaussianBottleneck(3.0, 3), TypeError, "in_features"),
        (lambda: GaussianBottleneck(True, 3), TypeError, "in_features"),
        (lambda: GaussianBottleneck("3", 3), TypeError, "in_features"),
        (lambda: GaussianBottleneck(3, 0), ValueError, "latent_features"),
        (lambda: GaussianBottleneck(3, None), TypeError, "latent_features"),
        (lambda: GaussianBottleneck(3, 2.5), TypeError, "latent_features"),
        (lambda: GaussianBottleneck(3, False), TypeError, "latent_features"),
        (lambda: GaussianBottleneck(3, 2, bias=1), TypeError, "bias"),
        (lambda: GaussianBottleneck(3, 2, bias=None), TypeError, "bias"),
        (lambda: GaussianBottleneck(3, 2, device="nonsense"), ValueError, "device"),
        (lambda: GaussianBottleneck(3, 2, device=0.5), TypeError, "device"),
        (lambda: GaussianBottleneck(3, 2, dtype=torch.int64), TypeError, "dtype"),
        (lambda: GaussianBottleneck(3, 2, dtype=torch.complex64), TypeError, "dtype"),
        (lambda: GaussianBottleneck(3, 2)([0.0, 0.0, 0.0]), TypeError, "x"),
        (lambda: GaussianBottleneck(3, 2)(torch.zeros(4, 3, dtype=torch.long)), TypeError, "x"),
        (lambda: GaussianBottleneck(3, 2)(torch.zeros(4, 3, dtype=torch.float64)), TypeError, "x"),
        (lambda: GaussianBottleneck(3, 2)(torch.zeros(4, 3, device="meta")), ValueError, "x"),
        (lambda: GaussianBottleneck(3, 2)(torch.zeros(3, 4)), ValueError, "x"),
        (lambda: GaussianBottleneck(3, 2)(torch.tensor(1.0)), ValueError, "x"),
        (lambda: GaussianBottleneck(3, 2)(torch.zeros(4, 0)), ValueError, "x"),
        (lambda: GaussianBottleneck(3, 2)(torch.zeros(4, 3), generator=0), TypeError, "generator"),
        (lambda: GaussianBottleneck(3, 2).eval()(torch.zeros(4, 3), generator=np.random.default_rng(0)), TypeError, "generator"),
    ],
)
def test_bottleneck_refuses_bad_arguments_by_name(build: object, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"^{name} "):
        build()  # type: ignore[operator]


# --- rate_decomposition


def brute_force(mean: torch.Tensor, log_var: torch.Tensor, num_samples: int, generator: torch.Generator) -> list[torch.Tensor]:
    """The same draws, every (draw, component, coordinate) density at once through torch.distributions."""
    n, d = mean.shape
    noise = torch.stack([torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(num_samples)])
    mean, log_var = mean.double(), log_var.double()
    z = mean + torch.exp(log_var / 2) * noise
    components = Normal(mean, torch.exp(log_var / 2))
    weights = Categorical(logits=torch.zeros(n, dtype=torch.float64))
    log_joint = MixtureSameFamily(weights, Independent(components, 1)).log_prob(z)
    log_each = torch.logsumexp(components.log_prob(z[:, :, None]), 2) - math.log(n)
    log_q = Normal(0.0, 1.0).log_prob(z)
    log_own = components.log_prob(z).sum(-1)
    return [
        (log_own - log_q.sum(-1)).mean(),
        (log_own - log_joint).mean(),
        (log_joint - log_q.sum(-1)).mean(),
        (log_joint - log_each.sum(-1)).mean(),
        (log_each - log_q).mean((0, 1)),
    ]


@pytest.mark.parametrize(("n", "d", "num_samples"), [(1, 1, 1), (3, 2, 4), (17, 5, 2), (300, 3, 1), (301, 1, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_part_is_the_average_of_exact_log_densities(n: int, d: int, num_samples: int, seed: int) -> None:
    mean, log_var = posteriors(n, d, seed)
    got = rate_decomposition(mean, log_var, num_samples, generator=seeded(seed))
    for value, expected in zip(got[:5], brute_force(mean, log_var, num_samples, seeded(seed)), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-11)


def test_the_blocks_of_the_pairwise_work_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, log_var = posteriors(23, 3)
    whole = rate_decomposition(mean, log_var, generator=seeded())
    for block in (1, 50, 23 * 7, 23 * 23 - 1):
        monkeypatch.setattr("kexue.probability.vae_bottleneck._BLOCK", block)
        for value, expected in zip(rate_decomposition(mean, log_var, generator=seeded()), whole, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-13)


def test_a_three_component_mixture_agrees_with_quadrature() -> None:
    mu, log_var = np.array([-1.0, 0.4, 2.2]), np.array([-2.0, -1.0, -3.0])
    z = np.linspace(-12, 12, 60001)
    each = np.exp(-0.5 * (z - mu[:, None]) ** 2 / np.exp(log_var)[:, None]) / np.sqrt(2 * np.pi * np.exp(log_var))[:, None]
    mixture, prior = each.mean(0), np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)

    def integral(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.trapezoid(np.where(p > 1e-250, p * np.log(np.maximum(p, 1e-250) / np.maximum(q, 1e-250)), 0.0), z))

    information = np.mean([integral(p, mixture) for p in each])
    repeats = 40
    runs = [
        rate_decomposition(torch.tensor(mu)[:, None], torch.tensor(log_var)[:, None], 150, generator=seeded(s))
        for s in range(repeats)
    ]
    expected = {"mutual_information": information, "marginal_kl": integral(mixture, prior), "total_correlation": 0.0}
    expected["rate"] = kl_standard_normal(torch.tensor(mu)[:, None], torch.tensor(log_var)[:, None]).mean().item()
    for name, value in expected.items():
        estimates = np.array([getattr(run, name).item() for run in runs])
        assert abs(estimates.mean() - value) <= 4 * estimates.std(ddof=1) / math.sqrt(repeats) + 1e-13, name


@given(st.integers(1, 12), st.integers(0, 4), st.integers(1, 3), st.floats(0.01, 30), st.integers(0, 10**6))
def test_the_parts_add_up_and_information_is_at_most_log_n(n: int, d: int, num_samples: int, scale: float, seed: int) -> None:
    mean, log_var = posteriors(n, d, seed)
    r = rate_decomposition(scale * mean, log_var, num_samples, generator=seeded(seed))
    size = 1 + r.rate.abs() + r.total_correlation.abs() + r.dimension_kl.abs().sum()
    assert abs(r.rate - r.mutual_information - r.marginal_kl) <= 1e-13 * size
    assert abs(r.marginal_kl - r.total_correlation - r.dimension_kl.sum()) <= 1e-13 * size
    assert r.mutual_information <= math.log(n) + 1e-12
    assert r.dimension_kl.shape == (d,)
    if n == 1 or d == 0:
        assert abs(r.mutual_information) <= 1e-12
    if d == 1:
        assert abs(r.total_correlation) <= 1e-12


def test_identical_posteriors_carry_nothing_and_distant_ones_carry_log_n() -> None:
    same = rate_decomposition(torch.full((9, 3), 0.3).double(), torch.full((9, 3), -0.7).double(), generator=seeded())
    assert abs(same.mutual_information) <= 1e-12
    apart = torch.arange(9, dtype=torch.float64)[:, None] * 50 * math.exp(-0.35)
    far = rate_decomposition(apart, torch.full((9, 1), -0.7).double(), generator=seeded())
    assert far.mutual_information.item() == pytest.approx(math.log(9), abs=1e-9)


def test_duplicating_the_data_changes_nothing_but_the_bound() -> None:
    mean, log_var = posteriors(20, 2)
    once = np.array([rate_decomposition(mean, log_var, 20, generator=seeded(s)).mutual_information for s in range(20)])
    twice = np.array(
        [
            rate_decomposition(mean.repeat(2, 1), log_var.repeat(2, 1), 10, generator=seeded(100 + s)).mutual_information
            for s in range(20)
        ]
    )
    error = math.sqrt((once.var(ddof=1) + twice.var(ddof=1)) / 20)
    assert abs(once.mean() - twice.mean()) < 4 * error
    assert error < 0.02


def test_a_correlated_gaussian_aggregate_has_the_closed_form_parts() -> None:
    """Means on a Gaussian lattice, covariance C = A Aᵀ, posterior noise s²I: p(z) = N(0, C + s²I) up to the lattice."""
    n, s2 = 45, 0.15
    nodes = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    lattice = torch.cartesian_prod(nodes, nodes)
    A = torch.tensor([[0.8, 0.0], [0.6, 0.5]], dtype=torch.float64)
    mean = lattice @ A.T
    cov = A @ (lattice.T @ lattice / len(lattice)) @ A.T + s2 * torch.eye(2)
    r = rate_decomposition(mean, torch.full_like(mean, math.log(s2)), 3, generator=seeded())
    v = cov.diagonal()
    total_correlation = 0.5 * (v.log().sum() - torch.logdet(cov))
    information = 0.5 * (torch.logdet(cov) - 2 * math.log(s2))
    assert r.total_correlation.item() == pytest.approx(total_correlation.item(), abs=0.03)
    assert r.mutual_information.item() == pytest.approx(information.item(), abs=0.03)
    torch.testing.assert_close(r.dimension_kl, 0.5 * (v - 1 - v.log()), rtol=0, atol=0.03)


def test_permuting_coordinates_permutes_only_the_dimension_terms() -> None:
    mean, log_var = posteriors(30, 4)
    mean = mean[:, :1].expand(30, 4).contiguous()
    log_var = log_var[:, :1].expand(30, 4).contiguous()
    runs = rate_decomposition(mean, log_var, 200, generator=seeded())
    assert runs.dimension_kl.std() < 0.05 * runs.dimension_kl.mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_decomposition_keeps_the_dtype_drops_the_graph_and_leaves_inputs_alone(dtype: torch.dtype) -> None:
    mean, log_var = posteriors(12, 3, dtype=dtype)
    before = mean.clone(), log_var.clone()
    global_state = torch.get_rng_state()
    got = rate_decomposition(mean.requires_grad_(), log_var.requires_grad_(), 2, generator=seeded())
    assert isinstance(got, RateDecomposition)
    assert torch.equal(torch.get_rng_state(), global_state)
    wide = rate_decomposition(before[0].double(), before[1].double(), 2, generator=seeded())
    for value, expected in zip(got, wide, strict=True):
        assert value.dtype == dtype
        assert not value.requires_grad
        torch.testing.assert_close(value, expected.to(dtype), rtol=0, atol=0)
    assert torch.equal(mean, before[0])
    assert torch.equal(log_var, before[1])


@pytest.mark.parametrize(
    ("mean_value", "log_var_value"),
    [(0.0, -1400.0), (0.0, 1400.0), (1e30, -200.0), (1e38, 88.0), (1e200, -1400.0), (1e300, 0.0), (1e-320, 0.0), (5.0, -745.0)],
)
def test_decomposition_has_no_nan_at_extremes(mean_value: float, log_var_value: float) -> None:
    mean = mean_value * torch.tensor([[1.0, -1.0], [2.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    log_var = torch.full((3, 2), log_var_value, dtype=torch.float64)
    got = rate_decomposition(mean, log_var, generator=seeded())
    for value in got:
        assert not value.isnan().any()
    assert got.mutual_information <= math.log(3) + 1e-12


@pytest.mark.parametrize("num_samples", [1, 4])
def test_terms_and_standard_errors_are_those_of_the_same_draws_by_hand(num_samples: int) -> None:
    mean, log_var = posteriors(5, 3, seed=11)
    found = rate_decomposition(mean, log_var, num_samples, generator=seeded(3))
    g = seeded(3)
    z = torch.stack(
        [mean + (log_var / 2).exp() * torch.randn(5, 3, generator=g, dtype=torch.float64) for _ in range(num_samples)], 1
    )
    own = Normal(mean, (log_var / 2).exp())
    equal = Categorical(torch.ones(5, dtype=torch.float64))
    joint = MixtureSameFamily(equal, Independent(own, 1)).log_prob(z)
    each = torch.stack(
        [MixtureSameFamily(equal, Normal(mean[:, j], (log_var[:, j] / 2).exp())).log_prob(z[..., j]) for j in range(3)], -1
    )
    prior = Normal(0.0, 1.0).log_prob(z)
    likely = Independent(Normal(mean[:, None], (log_var / 2).exp()[:, None]), 1).log_prob(z)
    terms = [likely - prior.sum(-1), likely - joint, joint - prior.sum(-1), joint - each.sum(-1)]
    terms += list((each - prior).unbind(-1))
    for k, name in enumerate(("rate", "mutual_information", "marginal_kl", "total_correlation", *["dimension_kl"] * 3)):
        where = k - 4 if k >= 4 else ...
        value, error = getattr(found, name)[where], getattr(found, f"{name}_se")[where]
        spread = terms[k].var(-1).mean() if num_samples > 1 else terms[k].flatten().var()
        assert value.item() == pytest.approx(terms[k].mean().item(), rel=1e-11, abs=1e-12)
        assert error.item() == pytest.approx((spread / (5 * num_samples)).sqrt().item(), rel=1e-10)


@pytest.mark.parametrize("num_samples", [2, 20])
def test_the_standard_errors_are_those_of_repeated_estimates(num_samples: int) -> None:
    mean, log_var = posteriors(6, 2)
    runs = [rate_decomposition(mean, log_var, num_samples, generator=seeded(s)) for s in range(400)]
    for name in RateDecomposition._fields[:5]:
        values = torch.stack([getattr(r, name) for r in runs])
        claimed = torch.stack([getattr(r, f"{name}_se") for r in runs]).square().mean(0).sqrt()
        # 400 estimates know their spread to within 1 / sqrt(800), 3.5 %.
        torch.testing.assert_close(claimed, values.std(0), rtol=0.15, atol=0)
    once = [rate_decomposition(mean, log_var, generator=seeded(s)) for s in range(400)]
    assert all(
        (
            torch.stack([getattr(r, f"{n}_se") for r in once]).square().mean(0).sqrt()
            > torch.stack([getattr(r, n) for r in once]).std(0)
        ).all()
        for n in RateDecomposition._fields[:5]
    )


def test_many_draws_cost_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    mixture = vae_bottleneck._log_mixture
    monkeypatch.setattr(vae_bottleneck, "_log_mixture", lambda *a: calls.append(a) or mixture(*a))
    mean, log_var = posteriors(8, 2)
    rate_decomposition(mean, log_var, 500, generator=seeded())
    assert len(calls) == 1
    monkeypatch.setattr(vae_bottleneck, "_BLOCK", 64)  # in pieces of 4 draws: the same numbers
    pieces = rate_decomposition(mean, log_var, 10, generator=seeded())
    assert len(calls) == 4
    monkeypatch.undo()
    for piece, whole in zip(pieces, rate_decomposition(mean, log_var, 10, generator=seeded()), strict=True):
        torch.testing.assert_close(piece, whole, rtol=1e-12, atol=1e-14)


def test_the_posterior_is_what_the_layer_samples_from_in_both_modes() -> None:
    layer = GaussianBottleneck(5, 3)
    x = torch.randn(200, 5, generator=seeded())
    mean, log_var = layer.posterior(x)
    for training in (True, False):
        layer.train(training)
        assert all(torch.equal(a, b) for a, b in zip(layer.posterior(x), (mean, log_var), strict=True))
        drawn, kl = layer(x, sample=True, generator=seeded(1))
        noise = torch.randn(200, 3, generator=seeded(1))
        torch.testing.assert_close(drawn, mean + (0.5 * log_var).exp() * noise)
        assert torch.equal(kl, kl_standard_normal(mean, log_var))
        state = torch.get_rng_state()
        assert torch.equal(layer(x, sample=False)[0], mean) and torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(layer(x, generator=seeded(1))[0], drawn if training else mean)
    with pytest.raises(TypeError, match=r"^sample must be True or False, got int$"):
        layer(x, sample=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_infinite_arguments_have_an_infinite_divergence(dtype: torch.dtype) -> None:
    for mean, log_var in ((0.0, math.inf), (0.0, -math.inf), (math.inf, 0.0), (-math.inf, math.inf), (math.inf, -math.inf)):
        kl = kl_standard_normal(torch.tensor([0.5, mean], dtype=dtype), torch.tensor([0.1, log_var], dtype=dtype))
        assert kl == math.inf


@pytest.mark.parametrize("make", [np.int64, np.uint8, np.array, torch.tensor])
def test_the_number_of_samples_may_be_any_integer(make: object) -> None:
    mean, log_var = posteriors(5, 2)
    got = rate_decomposition(mean, log_var, make(3), generator=seeded())  # type: ignore[operator]
    assert all(torch.equal(a, b) for a, b in zip(got, rate_decomposition(mean, log_var, 3, generator=seeded()), strict=True))


def test_decomposition_accepts_any_layout_and_uses_the_global_generator_by_default() -> None:
    mean, log_var = posteriors(12, 3)
    expected = rate_decomposition(mean, log_var, generator=seeded(5))
    got = rate_decomposition(mean.T.contiguous().T, log_var[:, None, :].squeeze(1), generator=seeded(5))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert all(torch.equal(a, b) for a, b in zip(rate_decomposition(mean, log_var), expected, strict=True))


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "name"),
    [
        (([[0.0]], F), {}, TypeError, "mean"),
        ((F.long(), F), {}, TypeError, "mean"),
        ((F[0], F[0]), {}, ValueError, "mean"),
        ((F[None], F[None]), {}, ValueError, "mean"),
        ((F[:0], F[:0]), {}, ValueError, "mean"),
        ((F + math.nan, F), {}, ValueError, "mean"),
        ((F + math.inf, F), {}, ValueError, "mean"),
        ((F, None), {}, TypeError, "log_var"),
        ((F, F.double()), {}, TypeError, "log_var"),
        ((F, F[:1]), {}, ValueError, "log_var"),
        ((F, F + math.nan), {}, ValueError, "log_var"),
        ((F, F - math.inf), {}, ValueError, "log_var"),
        ((F, F + 1500), {}, ValueError, "log_var"),
        ((F, F, 0), {}, ValueError, "num_samples"),
        ((F, F, -3), {}, ValueError, "num_samples"),
        ((F, F, 1.0), {}, TypeError, "num_samples"),
        ((F, F, True), {}, TypeError, "num_samples"),
        ((F, F, None), {}, TypeError, "num_samples"),
        ((F, F), {"generator": 0}, TypeError, "generator"),
        ((F.to("meta"), F.to("meta")), {}, ValueError, "mean"),
        ((F, F, 2**64), {}, ValueError, "num_samples"),
    ],
)
def test_decomposition_refuses_bad_arguments_by_name(
    args: tuple[object, ...], kwargs: dict[str, object], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=f"^{name} "):
        rate_decomposition(*args, **kwargs)  # type: ignore[arg-type]


# --- reverse_water_filling


@pytest.mark.parametrize("level", [0.05, 0.3, 1.1, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_water_filling_minimises_rate_plus_weighted_distortion(level: float, seed: int) -> None:
    variances = np.random.default_rng(seed).gamma(1.0, size=7)
    rate, distortion = reverse_water_filling(torch.tensor(variances), level)

    def cost(log_distortion: np.ndarray) -> float:
        d = np.exp(log_distortion)
        return float(np.sum(0.5 * np.log(variances / d) + d / (2 * level)))

    best = optimize.minimize(
        cost,
        np.log(variances / 2),
        bounds=[(None, math.log(v)) for v in variances],
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    np.testing.assert_allclose(distortion.numpy(), np.exp(best.x), rtol=1e-4)
    assert float(rate.sum() + distortion.sum() / (2 * level)) == pytest.approx(best.fun, abs=1e-8)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 1, 4)])
def test_water_filling_is_the_loop_over_components(shape: tuple[int, ...]) -> None:
    variances = np.random.default_rng(2).gamma(1.0, size=shape)
    rate, distortion = reverse_water_filling(torch.as_tensor(variances), 0.4)
    assert rate.shape == distortion.shape == shape
    expected = [0.5 * math.log(v / 0.4) if v > 0.4 else 0.0 for v in variances.ravel()]
    np.testing.assert_allclose(rate.numpy().ravel(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(distortion.numpy(), np.minimum(variances, 0.4))


variance_lists = st.lists(st.floats(0, 1e6), min_size=1, max_size=8)


@given(variance_lists, st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_rate_does_not_see_a_common_unit_and_distortion_carries_it(variances: list[float], level: float, unit: float) -> None:
    v = torch.tensor(variances, dtype=torch.float64)
    rate, distortion = reverse_water_filling(v, level)
    scaled_rate, scaled_distortion = reverse_water_filling(unit * v, unit * level)
    torch.testing.assert_close(scaled_rate, rate, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scaled_distortion, unit * distortion, rtol=1e-12, atol=0)


@given(variance_lists, st.floats(1e-6, 1e6), st.floats(1.0, 100.0))
def test_a_higher_level_costs_fewer_nats_and_more_distortion(variances: list[float], level: float, factor: float) -> None:
    v = torch.tensor(variances, dtype=torch.float64)
    rate, distortion = reverse_water_filling(v, level)
    fewer, more = reverse_water_filling(v, level * factor)
    assert (fewer <= rate).all()
    assert (more >= distortion).all()
    assert (rate >= 0).all()
    assert (distortion <= v).all()
    torch.testing.assert_close(distortion * torch.exp(2 * rate), v, rtol=1e-9, atol=0)


def test_water_filling_gradients_are_finite_everywhere_and_right_off_the_line() -> None:
    v = torch.tensor([2.0, 0.3, 0.9, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: reverse_water_filling(t, 0.5), (v,))
    assert torch.autograd.gradgradcheck(lambda t: reverse_water_filling(t, 0.5), (v,))
    edge = torch.tensor([0.0, 0.5, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    rate, distortion = reverse_water_filling(edge, 0.5)
    assert torch.autograd.grad(rate.sum(), edge)[0].tolist() == pytest.approx([0.0, 1.0, 0.0, 0.5])
    edge = edge.detach().requires_grad_()
    assert torch.autograd.grad(reverse_water_filling(edge, 0.5)[1].sum(), edge)[0].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert not rate[0]
    assert not distortion[0]


@pytest.mark.parametrize(
    ("dtype", "variance", "level", "rate", "distortion"),
    [
        (torch.float64, 0.0, 1e-300, 0.0, 0.0),
        (torch.float64, 1e300, 1e-300, 300 * math.log(10), 1e-300),
        (torch.float64, 1e300, 1e300, 0.0, 1e300),
        (torch.float64, 5e-324, 1.0, 0.0, 5e-324),
        (torch.float64, 1.0, 1e308, 0.0, 1.0),
        (torch.float32, 3e38, 1e-38, 0.5 * math.log(3e76), 1e-38),
        (torch.float32, 0.0, 1e-60, 0.0, 0.0),
        (torch.float32, 1.0, 1e300, 0.0, 1.0),
        (torch.float32, 0.7, 0.7, 0.0, 0.7),
        (torch.float16, 6e4, 1.0, 0.5 * math.log(6e4), 1.0),
        (torch.float16, 6e-8, 1e6, 0.0, 6e-8),
        (torch.bfloat16, 1e30, 1e-30, 30 * math.log(10), 1e-30),
    ],
)
def test_water_filling_at_extremes_and_in_every_dtype(
    dtype: torch.dtype, variance: float, level: float, rate: float, distortion: float
) -> None:
    v = torch.tensor([variance], dtype=dtype)
    got_rate, got_distortion = reverse_water_filling(v, level)
    assert got_rate.dtype == got_distortion.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    assert got_rate.item() == pytest.approx(rate, rel=tolerance, abs=1e-7)
    assert got_distortion.item() == pytest.approx(min(v.item(), level), rel=tolerance)
    assert got_distortion.item() == pytest.approx(distortion, rel=max(tolerance, 1e-2))


def test_a_component_at_the_water_line_costs_exactly_nothing() -> None:
    levels = np.random.default_rng(0).gamma(1.0, size=200)
    assert all(reverse_water_filling(torch.tensor(level), level)[0].item() == 0 for level in levels)


V = torch.ones(3)


@pytest.mark.parametrize(
    ("args", "error", "name"),
    [
        (([1.0], 1.0), TypeError, "variances"),
        ((np.ones(3), 1.0), TypeError, "variances"),
        ((V.long(), 1.0), TypeError, "variances"),
        ((V.bool(), 1.0), TypeError, "variances"),
        ((-V, 1.0), ValueError, "variances"),
        ((V + math.nan, 1.0), ValueError, "variances"),
        ((V + math.inf, 1.0), ValueError, "variances"),
        ((V, 0.0), ValueError, "level"),
        ((V, -1), ValueError, "level"),
        ((V, math.nan), ValueError, "level"),
        ((V, math.inf), ValueError, "level"),
        ((V, "1"), TypeError, "level"),
        ((V, None), TypeError, "level"),
        ((V, True), TypeError, "level"),
        ((V, [1.0]), TypeError, "level"),
        ((V, 1j), TypeError, "level"),
        ((V, 10**400), ValueError, "level"),
        ((V, torch.tensor(1.0, requires_grad=True)), TypeError, "level"),
        ((V.to("meta"), 1.0), ValueError, "variances"),
    ],
)
def test_water_filling_refuses_bad_arguments_by_name(args: tuple[object, object], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"^{name} "):
        reverse_water_filling(*args)  # type: ignore[arg-type]


def test_a_linear_autoencoder_trained_to_its_optimum_sits_on_the_water_line() -> None:
    spectrum, level = torch.tensor([3.0, 1.0, 0.4, 0.1], dtype=torch.float64), 0.25
    g = seeded(3)
    V, W = (0.1 * torch.randn(s, generator=g, dtype=torch.float64) for s in ((3, 4), (4, 3)))
    log_s2 = torch.zeros(3, dtype=torch.float64)
    params = [p.requires_grad_() for p in (V, W, log_s2)]
    optimizer = torch.optim.LBFGS(params, max_iter=200, history_size=30, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def terms() -> tuple[torch.Tensor, torch.Tensor]:
        residual = torch.eye(4) - W @ V
        distortion = (residual * spectrum * residual).sum() + (log_s2.exp() * W.square()).sum()
        variance = (V * spectrum * V).sum(1)
        rate = 0.5 * (variance + log_s2.exp() - 1 - log_s2).sum()
        return distortion, rate

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        distortion, rate = terms()
        loss = distortion / (2 * level) + rate
        loss.backward()
        return loss

    optimizer.step(closure)
    distortion, rate = terms()
    best_rate, best_distortion = reverse_water_filling(spectrum, level)
    assert rate.item() == pytest.approx(best_rate.sum().item(), abs=1e-4)
    assert distortion.item() == pytest.approx(best_distortion.sum().item(), abs=1e-4)
