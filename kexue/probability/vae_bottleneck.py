r"""Gaussian bottlenecks: what a stochastic code keeps, what it forgets, and the price of each in nats.

An encoder :math:`p(z|x)=N(\mu(x),\operatorname{diag}\sigma^2(x))` followed by the penalty
:math:`\mathbb E_x KL(p(z|x)\|N(0,I))` is a variational autoencoder when the image is decoded from :math:`z`, and a variational
information bottleneck when a label is. The penalty (the *rate*) bounds the mutual information :math:`I(x;z)` from above;
:func:`rate_decomposition` measures by how much, and :func:`reverse_water_filling` is the optimum of linear models of Gaussian
data.

Source: Su Jianlin, "From Variational Coding and the Information Bottleneck to the Normal Distribution: On the Importance of
Forgetting" (2018), https://kexue.fm/archives/6181.
Papers: Kingma & Welling, arXiv:1312.6114; Tishby, Pereira & Bialek, arXiv:physics/0004057; Alemi et al., arXiv:1612.00410 (the
bottleneck) and arXiv:1711.00464 (rate and distortion); Chen et al., arXiv:1802.04942 (total correlation); Lucas et al.,
arXiv:1911.02469 (linear autoencoders).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from kexue import _check

__all__ = ["kl_standard_normal", "GaussianBottleneck", "rate_decomposition", "RateDecomposition", "reverse_water_filling"]

# Pairs (draw, data point) handled at a time: a float64 block of this size stays inside a processor's second-level cache.
_BLOCK = 2**16


def kl_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    r"""Divergence of a diagonal Gaussian from the standard normal law, in nats.

    .. math:: KL(N(\mu,\operatorname{diag}\sigma^2)\,\|\,N(0,I))=\tfrac12\sum_j(\mu_j^2+\sigma_j^2-1-\log\sigma_j^2)

    Args:
        mean: :math:`\mu`, floating point, shape ``(..., d)``.
        log_var: :math:`\log\sigma^2` (not :math:`\log\sigma`), shape, dtype and device of ``mean``.

    Returns:
        Shape ``(...)``, the sum over the last axis; dtype and device of ``mean`` (bfloat16 and float16 are computed in float32, and
        stay float32 under autocast). Zero exactly at :math:`\mu=0,\sigma=1`. The gradients are :math:`\mu` and
        :math:`(\sigma^2-1)/2`. Finite in float32 for ``log_var`` in [-200, 85]; beyond the range of the dtype, and for infinite
        arguments, the value is ``inf``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or ``log_var`` has another dtype than ``mean``.
        ValueError: ``mean`` has no axis, or ``log_var`` has another shape or device than ``mean``.

    >>> kl_standard_normal(torch.tensor([3.0, 4.0]), torch.zeros(2))
    tensor(12.5000)
    """
    _check_posterior(mean, log_var)
    if mean.ndim == 0:
        raise ValueError("mean must have at least one axis, got a 0-d tensor")
    mu, v = _check.widen(mean), _check.widen(log_var)
    # Near v = 0 the summand is v²/2: exp(v) - 1 - v would return the rounding of the 1 instead. Where v is cut off, its exponential
    # is infinite already in every dtype, and inf - inf would be NaN.
    total = torch.addcmul(torch.expm1(v) - v.clamp(max=1000.0), mu, mu).sum(-1) * 0.5
    return total.to(_check.result_dtype(mean))


class GaussianBottleneck(nn.Module):
    r"""A linear layer whose output is a sample of a diagonal Gaussian, together with the nats that the sample may carry.

    ``mean`` and ``log_var`` are two :class:`torch.nn.Linear` layers, and :math:`z=\mu(x)+\sigma(x)\varepsilon` with
    standard normal :math:`\varepsilon`. The weight of the penalty is the caller's: ``loss = task + weight * kl.mean()``.

    Args:
        in_features: size of the last axis of the input, at least 1.
        latent_features: number of latent coordinates, at least 1.
        bias: whether the two linear layers have a bias.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        TypeError: a size is not an integer, ``bias`` is not a bool, ``device`` or ``dtype`` is none.
        ValueError: a size is below 1, or ``device`` is unknown.

    >>> layer = GaussianBottleneck(8, 2).eval()
    >>> z, kl = layer(torch.zeros(5, 8))
    >>> z.shape, kl.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, in_features: int, latent_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_features = _check.count("in_features", in_features)
        self.latent_features = _check.count("latent_features", latent_features)
        _check.flag("bias", bias)
        _check.placement(device, dtype)
        self.mean = nn.Linear(self.in_features, self.latent_features, bias, device, dtype)
        self.log_var = nn.Linear(self.in_features, self.latent_features, bias, device, dtype)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The law of the code of ``x``.

        Args:
            x: floating point, shape ``(..., in_features)``, dtype of the parameters (any under autocast).

        Returns:
            ``(mean, log_var)``, each of shape ``(..., latent_features)``: :math:`\mu` and :math:`\log\sigma^2`, the same in both
            modes; what :func:`kl_standard_normal` and :func:`rate_decomposition` take. No random number is drawn.

        Raises:
            TypeError: ``x`` is not a floating-point tensor of the parameters' dtype.
            ValueError: the last axis of ``x`` is not ``in_features``, or ``x`` is on another device than the parameters.
        """
        _check.floating("x", x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape (..., {self.in_features}), got {tuple(x.shape)}")
        _check.alike_or_autocast("x", x, "the parameters", self.mean.weight)
        return self.mean(x), self.log_var(x)

    def forward(
        self, x: Tensor, *, sample: bool | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Encode ``x``.

        Args:
            x: floating point, shape ``(..., in_features)``, dtype of the parameters (any under autocast).
            sample: whether ``z`` is drawn; None: in training mode only. True samples in evaluation mode too, without switching
                the dropout of other layers on.
            generator: source of :math:`\varepsilon`, on the device of ``x``; None is PyTorch's global one.

        Returns:
            ``(z, kl)``: ``z`` of shape ``(..., latent_features)`` is a reparameterised sample (gradients reach both layers), or
            the mean, for which no random number is drawn; ``kl`` of shape ``(...)`` is :func:`kl_standard_normal` of the
            posterior, in nats, the same in both cases, and float32 under autocast. Both are finite as long as mean and variance
            fit the dtype.

        Raises:
            TypeError: ``x`` is not a floating-point tensor of the parameters' dtype, ``sample`` neither a bool nor None, or
                ``generator`` is no ``torch.Generator``.
            ValueError: the last axis of ``x`` is not ``in_features``, or ``x`` is on another device than the parameters or
                ``generator``.
        """
        drawn = self.training if sample is None else _check.flag("sample", sample)
        mean, log_var = self.posterior(x)
        _check.generator("generator", generator, x.device)
        kl = kl_standard_normal(mean, log_var)
        if not drawn:
            return mean, kl
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, **_check.drawing(generator))
        return torch.addcmul(mean, torch.exp(0.5 * log_var), noise), kl

    if TYPE_CHECKING:
        __call__ = forward


class RateDecomposition(NamedTuple):
    r"""Where the nats of the rate go; what :func:`rate_decomposition` returns. All are detached, in the dtype of the posteriors.

    Each term is an average over draws and has the standard error of that average beside it, in a field of its name with ``_se``.

    Attributes:
        rate: :math:`\mathbb E_i KL(p(z|x_i)\|N(0,I))`, scalar.
        mutual_information: :math:`I(i;z)`, what a code tells about the data point it came from, scalar, at most log N.
        marginal_kl: :math:`KL(p(z)\|N(0,I))` of the aggregate posterior, scalar; ``rate - mutual_information``.
        total_correlation: :math:`KL(p(z)\|\prod_j p(z_j))`, scalar: how far the coordinates are from independent.
        dimension_kl: :math:`KL(p(z_j)\|N(0,1))`, shape ``(d,)``; sums to ``marginal_kl - total_correlation``.
        rate_se: standard error of ``rate`` over the draws, for these N data points.
        mutual_information_se: that of ``mutual_information``.
        marginal_kl_se: that of ``marginal_kl``.
        total_correlation_se: that of ``total_correlation``.
        dimension_kl_se: those of ``dimension_kl``, shape ``(d,)``.
    """

    rate: Tensor
    mutual_information: Tensor
    marginal_kl: Tensor
    total_correlation: Tensor
    dimension_kl: Tensor
    rate_se: Tensor
    mutual_information_se: Tensor
    marginal_kl_se: Tensor
    total_correlation_se: Tensor
    dimension_kl_se: Tensor


@torch.no_grad()
def rate_decomposition(
    mean: Tensor, log_var: Tensor, num_samples: int = 1, *, generator: torch.Generator | None = None
) -> RateDecomposition:
    r"""Split the rate of N equally likely data points into information, dependence and non-normality.

    The aggregate posterior of a finite data set is a mixture, :math:`p(z)=\frac1N\sum_i p(z|x_i)`, so every term of

    .. math:: \mathbb E_i KL(p(z|x_i)\|q)=I(i;z)+KL\Big(p(z)\Big\|\prod_j p(z_j)\Big)+\sum_j KL(p(z_j)\|q_j),\qquad q=N(0,I),

    is an average of exact log densities over draws :math:`z\sim p(z|x_i)`. The draws are shared: the identity holds for the
    estimates, to rounding, and ``mutual_information`` never exceeds log N. That all terms are nonnegative holds in expectation.

    Args:
        mean: posterior means, floating point, shape ``(N, d)``, ``N >= 1``.
        log_var: logarithms of the posterior variances, shape, dtype and device of ``mean``; within [-1400, 1400].
        num_samples: draws per data point. The cost is ``num_samples * N**2 * d`` exponentials, the memory that of a
            few ``(num_samples * N, d)`` tensors. The standard errors come from the spread among the draws of one data point; from
            one draw there is none, and the spread among data points is taken, which overestimates them.
        generator: source of the draws, on the device of ``mean``; None is PyTorch's global one.

    Returns:
        A :class:`RateDecomposition` in nats, detached, dtype and device of ``mean``; computed in float64 (on the CPU for devices
        without it).

    Raises:
        TypeError: ``mean`` or ``log_var`` is not a floating-point tensor, they differ in dtype, ``num_samples`` is not an
            integer, or ``generator`` is no ``torch.Generator``.
        ValueError: ``mean`` is not 2-D, has no row, or is not finite; ``log_var`` has another shape or device, or a value out of
            range; ``num_samples`` is below 1; ``generator`` is for another device.

    Two posteriors that cannot be confused carry log 2:

    >>> rate_decomposition(torch.tensor([[0.0], [100.0]]), torch.zeros(2, 1)).mutual_information
    tensor(0.6931)
    """
    _check_posterior(mean, log_var)
    _check.axes("mean", mean, 2)
    if len(mean) == 0:
        raise ValueError(f"mean must have at least one row, got shape {tuple(mean.shape)}")
    if not bool(_check.readable("mean", mean).isfinite().all()):
        raise ValueError("mean must be finite, got NaN or infinity")
    if not bool((log_var.abs() <= 1400).all()):
        raise ValueError("log_var must lie in [-1400, 1400], got a value outside")
    num_samples = _check.count("num_samples", num_samples)
    _check.generator("generator", generator, mean.device)
    place = _check.float64_device(mean.device)
    # One row per latent coordinate, so that a coordinate's N values are contiguous.
    mu, v = (value.to(place, torch.float64).mT.contiguous() for value in (mean, log_var))
    draws: dict[str, Any] = {"device": mean.device, "dtype": torch.float64 if place == mean.device else mean.dtype}
    draws |= _check.drawing(generator)
    together = max(1, _BLOCK // max(1, mean.numel()))
    parts = []
    for start in range(0, num_samples, together):
        noise = torch.stack([torch.randn(mean.shape, **draws) for _ in range(min(together, num_samples - start))], 1)
        parts.append(_log_ratios(noise.to(place, torch.float64).permute(2, 0, 1), mu, v))
    means, errors = (x.to(mean.device, mean.dtype) for x in _mean_and_error(torch.cat(parts, -1)))
    return RateDecomposition(*(part for x in (means, errors) for part in (x[0], x[1], x[2], x[3], x[4:])))


def _log_ratios(noise: Tensor, mu: Tensor, v: Tensor) -> Tensor:
    """The terms of the decomposition, shape (4 + d, N, S), for the noise (d, N, S) of S draws from each of N posteriors."""
    z = torch.addcmul(mu.unsqueeze(-1), torch.exp(0.5 * v).unsqueeze(-1), noise)
    # The factor (2π)^(-d/2) is common to all these densities and left out of each.
    log_q = -0.5 * z.square()
    log_own = _log_normal(z, mu.unsqueeze(-1), v.unsqueeze(-1)).sum(0)
    log_joint, log_each = (density.unflatten(-1, z.shape[1:]) for density in _log_mixture(z.flatten(1), mu, v))
    log_prior = log_q.sum(0)
    terms = torch.stack([log_own - log_prior, log_own - log_joint, log_joint - log_prior, log_joint - log_each.sum(0)])
    return torch.cat([terms, log_each - log_q])


def _mean_and_error(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of independent draws over the last two axes, data points and draws of each, and its standard error for these points."""
    num_points, num_draws = terms.shape[-2:]
    means = terms.mean((-2, -1))
    among_points = terms.squeeze(-1).var(-1, correction=min(1, num_points - 1)) if num_draws == 1 else None
    variance = terms.var(-1).mean(-1) if among_points is None else among_points
    # Infinite terms have no variance but NaN; their mean is as uncertain as can be.
    return means, (variance.masked_fill(variance.isnan(), math.inf) / (num_points * num_draws)).sqrt()


def _log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (((z - mean) * torch.exp(-0.5 * log_var)).square() + log_var)


def _log_mixture(z: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """Log density of the equal mixture, and of each of its marginals, at the M columns of ``z``: shapes (M,) and (d, M)."""
    dim, num_components = mean.shape
    log_joint, log_each = z.new_empty(z.shape[1]), torch.empty_like(z)
    half_precision = math.sqrt(0.5) * torch.exp(-0.5 * log_var)
    half_log_var = 0.5 * log_var
    rows = max(1, _BLOCK // num_components)
    for start in range(0, z.shape[1], rows):
        block = z[:, start : start + rows, None]
        energy = z.new_zeros(block.shape[1], num_components)
        for j in range(dim):
            one = (block[j] - mean[j]).mul_(half_precision[j]).square_().add_(half_log_var[j])
            energy += one
            log_each[j, start : start + rows] = one.neg_().logsumexp(1)
        log_joint[start : start + rows] = energy.neg_().logsumexp(1)
    return log_joint - math.log(num_components), log_each - math.log(num_components)


def reverse_water_filling(variances: Tensor, level: float) -> tuple[Tensor, Tensor]:
    r"""Optimal rate and distortion of independent Gaussian components under a common water level.

    .. math:: R_i=\tfrac12\log^+\frac{\ell_i}{w},\qquad D_i=\min(\ell_i,w)

    Components below the water are forgotten. A linear autoencoder of Gaussian data, decoder variance :math:`\sigma^2` and
    weight :math:`\beta` on its rate reaches this optimum at :math:`w=\beta\sigma^2`.

    Args:
        variances: :math:`\ell`, floating point, any shape, finite and nonnegative.
        level: :math:`w`, a positive number in the unit of ``variances``.

    Returns:
        ``(rate, distortion)``: shape, dtype and device of ``variances``; the rate in nats, the distortion (a squared error) in
        the unit of ``variances``. A component of variance 0 has rate 0 and distortion 0. Differentiable in ``variances``; at the
        water line the rate takes its slope from above, the distortion its slope from below. Computed in float64 (on the CPU for
        devices without it).

    Raises:
        TypeError: ``variances`` is not a floating-point tensor, or ``level`` is not a real number.
        ValueError: ``variances`` has a negative or non-finite entry, or ``level`` is not positive and finite.

    >>> reverse_water_filling(torch.tensor([4.0, 1.0, 0.5]), 1.0)
    (tensor([0.6931, 0.0000, 0.0000]), tensor([1.0000, 1.0000, 0.5000]))
    """
    _check.readable("variances", _check.floating("variances", variances))
    if not bool(((variances >= 0) & variances.isfinite()).all()):
        raise ValueError("variances must be finite and nonnegative, got a negative or non-finite entry")
    level = _check.number("level", level, 0.0, open_low=True)
    wide = variances.to(_check.float64_device(variances.device), torch.float64)
    # A ratio of roots, since the ratio of a large variance and a small level may overflow.
    rate = torch.log(wide.clamp(min=level).sqrt() / torch.full_like(wide, level).sqrt())
    return rate.to(variances.device, variances.dtype), wide.clamp(max=level).to(variances.device, variances.dtype)


def _check_posterior(mean: Tensor, log_var: Tensor) -> None:
    _check.floating("mean", mean)
    _check.floating("log_var", log_var)
    _check.shape("log_var", log_var, mean.shape)
    _check.alike("log_var", log_var, "mean", mean)
