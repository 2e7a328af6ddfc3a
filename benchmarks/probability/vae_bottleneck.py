"""The bottleneck of variational autoencoders.

Least work: mean and log-variance are read once; the pairwise densities of ``rate_decomposition`` are N^2 d multiplications.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as D

from benchmarks.cases import Case, Pair, Setting, Target
from kexue.probability.vae_bottleneck import GaussianBottleneck, kl_standard_normal, rate_decomposition

NO_PEER = {"probability.vae_bottleneck.reverse_water_filling": "a logarithm and two clamps that no library offers"}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED = (
    "kl_standard_normal",
    "rate_decomposition",
)


def _kl(s: Setting) -> Pair:
    mean, log_var = (s.randn(s["N"], s["d"]) for _ in range(2))

    def peer() -> Tensor:
        posterior = D.Independent(D.Normal(mean, torch.exp(0.5 * log_var)), 1)
        prior = D.Independent(D.Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
        return D.kl_divergence(posterior, prior)

    return Pair(
        lambda: kl_standard_normal(mean, log_var),
        peer,
        scale=mean.numel(),
        moved=2 * mean.nbytes,
        backward=2.0,  # reads both again and writes both gradients
        leaves=(mean, log_var),
    )


def _layer(s: Setting) -> Pair:
    x, d = s.randn(s["N"], 4 * s["d"]), s["d"]
    ours = GaussianBottleneck(4 * d, d, device=s.device, dtype=s.dtype)
    ours.requires_grad_(False)

    def peer() -> tuple[Tensor, Tensor]:
        posterior = D.Independent(D.Normal(ours.mean(x), torch.exp(0.5 * ours.log_var(x))), 1)
        prior = D.Independent(D.Normal(x.new_zeros(d), x.new_ones(d)), 1)
        return posterior.rsample(), D.kl_divergence(posterior, prior)

    leaves = (x, *ours.parameters())
    flops = 2 * s["N"] * 4 * d * 2 * d  # two linear layers
    return Pair(lambda: ours(x), peer, scale=s["N"], moved=x.nbytes + s["N"] * d * s.itemsize, flops=flops, leaves=leaves)


def _decomposition(s: Setting) -> Pair:
    mean, log_var = (s.randn(s["N"], s["d"]) for _ in range(2))

    def ours() -> list[Tensor]:
        return list(rate_decomposition(mean, log_var, generator=torch.Generator(s.device).manual_seed(0)))

    def peer() -> list[Tensor]:
        generator = torch.Generator(s.device).manual_seed(0)
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64, device=s.device)
        mu, std = mean.double(), (0.5 * log_var.double()).exp()
        z = mu + std * noise
        weights = mu.new_ones(len(mu))
        own = D.Independent(D.Normal(mu, std), 1).log_prob(z)
        joint = D.MixtureSameFamily(D.Categorical(weights), D.Independent(D.Normal(mu, std), 1)).log_prob(z)
        each = D.MixtureSameFamily(D.Categorical(weights.expand(s["d"], -1)), D.Normal(mu.mT, std.mT)).log_prob(z)
        prior = D.Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)
        q = prior.sum(-1)
        scalars = [(own - q).mean(), (own - joint).mean(), (joint - q).mean(), (joint - each.sum(-1)).mean()]
        return [*scalars, (each - prior).mean(0)]

    return Pair(ours, peer, scale=s["N"], moved=2 * mean.nbytes, flops=2 * s["N"] ** 2 * s["d"])


CASES = [
    Case(
        "probability.vae_bottleneck.kl_standard_normal",
        "torch",
        "distributions.kl_divergence, with construction",
        _kl,
        ({"N": 32, "d": 16}, {"N": 256, "d": 64}, {"N": 4096, "d": 128}),
        also=("float32 forward+backward", "bfloat16 forward"),
        targets={"float32 forward": Target(0.5), "float32 forward+backward": Target(0.5)},
        same=1e-4,
        gpu_sizes=tuple({"N": N, "d": 1024} for N in (16384, 65536, 262144)),
    ),
    Case(
        "probability.vae_bottleneck.GaussianBottleneck",
        "torch",
        "nn.Linear and distributions.Normal",
        _layer,
        tuple({"N": N, "d": 32} for N in (32, 256, 2048)),
        also=("float32 forward+backward",),
        same="both draw at random",
        gpu_sizes=tuple({"N": N, "d": 1024} for N in (4096, 16384, 65536)),
    ),
    Case(
        "probability.vae_bottleneck.rate_decomposition",
        "torch",
        "distributions.MixtureSameFamily",
        _decomposition,
        tuple({"N": N, "d": 8} for N in (64, 192, 576)),
        dtype="float64",
        same=1e-9,
        gpu_sizes=({"N": 4096, "d": 16},),
    ),
]
