"""Valid calls of every public name of ``kexue.probability.vae_bottleneck``; the abuse sweep derives the others (trials/abuse.py)."""

from trials.abuse import DRAWS, OVERFLOW, PLACE, Calls, Site, given, real, reals, seeded

CALLS: Calls = {
    "kl_standard_normal": (Site(lambda: reals("mean log_var", 3, 2), rows="mean log_var"),),
    "GaussianBottleneck": (
        Site(lambda: given(in_features=5, latent_features=3, bias=True, **PLACE)),
        Site(lambda: given(x=real(4, 5), generator=seeded()), "forward", "x"),
        Site(lambda: given(x=real(4, 5), generator=seeded()), "forward in eval", "x"),
        Site(lambda: given(x=real(4, 5), sample=True, generator=seeded()), "forward drawn in eval", "x"),
        Site(lambda: given(x=real(4, 5)), "posterior", "x"),
    ),
    "rate_decomposition": (Site(lambda: reals("mean log_var", 4, 2) | given(num_samples=2, generator=seeded())),),
    "RateDecomposition": (
        Site(
            lambda: (
                reals("rate mutual_information marginal_kl total_correlation")
                | given(dimension_kl=real(2))
                | reals("rate_se mutual_information_se marginal_kl_se total_correlation_se")
                | given(dimension_kl_se=real(2))
            )
        ),
    ),
    "reverse_water_filling": (Site(lambda: given(variances=real(4).exp(), level=0.75), rows="variances"),),
}

EXEMPT = (
    (r"GaussianBottleneck\.[\w ]+, \w+: huge .*float16", "NaN|instead", OVERFLOW),
    (r"GaussianBottleneck\.forward.*, (all|x): .*(one row|rows|float16|float32)", "instead", DRAWS),
)
