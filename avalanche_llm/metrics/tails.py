"""Power law, exponential or log-normal: fits of the large avalanches, compared (SCIENCE section 4; spec 09).

Sizes S are integers (events), so all three are discrete, truncated to and normalised on x >= xmin:

    power law    p(x) = x^-alpha / zeta(alpha, xmin)              zeta the Hurwitz zeta function
    exponential  p(x) = (1 - e^-lambda) e^(-lambda (x - xmin))    maximum likelihood in closed form
    log-normal   p(x) = [Phi(z(x + 1/2)) - Phi(z(x - 1/2))] / [1 - Phi(z(xmin - 1/2))]
                 with z(x) = (ln x - mu) / sigma

Models are compared by their log-likelihood ratio R = sum_i d_i, d_i the difference of sample i, and by
Vuong's statistic R / sqrt(n Var(d)) with p = erfc(|R| / sqrt(2 n Var(d))), two-sided (Vuong 1989; Clauset,
Shalizi and Newman 2009, appendix C). R > 0 prefers the power law; without a small p it prefers nothing.
Where n Var(d) is no larger than chance makes it for laws that coincide, p is 1 (Vuong's first step). That a
power law fits best of three is no evidence of criticality.

The log-normal contains the power law as a limit, mu -> -inf with mu / sigma^2 fixed. With y = ln(x / xmin)
its log density in y is -b y - y^2 / (2 sigma^2) less its normalisation, b = (ln xmin - mu) / sigma^2: concave
in b and 1 / sigma^2, so it is fitted in these. On data without curvature sigma ends at SIGMA_MAX and the two
laws cannot be told apart.

Beside the percentile xmin stands the one that minimises the Kolmogorov-Smirnov distance of the power law
(Clauset et al. 2009, section 3.3). Sums run over distinct sizes with their multiplicities, so a million
sizes cost little.

The `powerlaw` library (2.0.0) is right, and the tests hold this module against it, for alpha between 1 and
3, for the log-likelihoods of moderate sizes, for the truncated log-normal and for Vuong's p between laws that
differ. It is not called here because
- it confines alpha to (1, 3): a zeta sample of exponent 3.5 is then "rejected" for the log-normal by
  thousands of nats;
- it floors probabilities at 1e-307: the exponential of a wide tail can get more than its largest possible
  likelihood;
- from xmin = 10 on it replaces the maximum of the likelihood by the closed approximation, unless told
  otherwise;
- its xmin search compares P(X < x) at observed sizes only and so misses the distance just after one, which
  moves xmin now and then; and it takes the whole sample through a loop over its sizes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int, Int64
from scipy import special

from avalanche_llm.metrics.discrete_laws import log_scaled_zeta, lognormal_log_pmf, lognormal_parameters, powerlaw_alpha

MAX_KS_CANDIDATES: Final = 512
"""The xmin search tries every distinct size, or this many of them evenly spaced in log size if more."""
_DISTINGUISHABLE: Final = 3.841
"""95% point of chi2 with 1 degree of freedom, which n Var(d) exceeds where two models differ."""
_BLOCK: Final = 2**21
"""Entries of the largest temporary array of the xmin search."""


@dataclass(frozen=True)
class TailFit:
    """Fits of one condition. xmin in events, lambda in 1 / event, likelihoods in nats, the rest without unit.

    NaN, with a `reason`, where not available. vuong_z and vuong_p belong to the ratio llr_powerlaw_vs_*.
    """

    xmin: float
    n_tail: int
    alpha_powerlaw: float
    lambda_exponential: float
    lognorm_mu: float
    lognorm_sigma: float
    ll_powerlaw: float
    ll_exponential: float
    ll_lognormal: float
    llr_powerlaw_vs_lognormal: float
    llr_powerlaw_vs_exponential: float
    vuong_z_lognormal: float
    vuong_p_lognormal: float
    vuong_z_exponential: float
    vuong_p_exponential: float
    ks_xmin: float
    ks_alpha: float
    reason: str = ""

    @classmethod
    def unavailable(cls, reason: str, xmin: float, n_tail: int) -> "TailFit":
        return cls(xmin, n_tail, *(float("nan"),) * 15, reason)


def percentile_xmin(sizes: Int[np.ndarray, " avalanche"], percentile: float) -> int:
    """The quantile of the sizes (linear between order statistics), rounded up, and 1 at least."""
    quantile = float(np.quantile(sizes, percentile))
    return max(1, int(np.ceil(round(quantile, 6))))  # 3 + 1e-15 from interpolation is 3


def fit_tail(sizes: Int[np.ndarray, " avalanche"], *, xmin_percentile: float, min_tail_samples: int) -> TailFit:
    """Fit and compare the three laws on S >= xmin. Sizes are positive integers; never raises on their values.

    Not available: no size at all, fewer than `min_tail_samples` in the tail, or one size only in it.
    """
    if len(sizes) == 0:
        return TailFit.unavailable("no avalanches", xmin=float("nan"), n_tail=0)
    xmin = percentile_xmin(sizes, xmin_percentile)
    all_values, all_counts = np.unique(sizes.astype(np.int64), return_counts=True)
    values, counts = all_values[all_values >= xmin], all_counts[all_values >= xmin]
    n_tail = int(counts.sum())
    if n_tail < min_tail_samples:
        reason = f"{n_tail} avalanches of size {xmin} or more, {min_tail_samples} needed"
        return TailFit.unavailable(reason, float(xmin), n_tail)
    if len(values) < 2:
        reason = f"all {n_tail} avalanches of size {xmin} or more have size {values[0]}"
        return TailFit.unavailable(reason, float(xmin), n_tail)

    x, n = values.astype(np.float64), counts.astype(np.float64)
    log_excess = np.log(x / xmin)
    alpha = float(powerlaw_alpha(np.array([float(xmin)]), np.array([n @ log_excess / n_tail]))[0])
    rate = float(np.log1p(n_tail / (n @ (x - xmin))))
    mu, sigma = lognormal_parameters(x, n, xmin)
    log_p_power = -alpha * log_excess - log_scaled_zeta(np.array(alpha), np.array(float(xmin)))
    log_p_exponential = np.log(-np.expm1(-rate)) - rate * (x - xmin)
    log_p_lognormal = lognormal_log_pmf(x, xmin, mu, sigma)
    against_lognormal = _vuong(log_p_power - log_p_lognormal, n)
    against_exponential = _vuong(log_p_power - log_p_exponential, n)
    ks_xmin, ks_alpha = _ks_xmin(all_values, all_counts, min_tail_samples)
    return TailFit(
        xmin=float(xmin),
        n_tail=n_tail,
        alpha_powerlaw=alpha,
        lambda_exponential=rate,
        lognorm_mu=mu,
        lognorm_sigma=sigma,
        ll_powerlaw=float(n @ log_p_power),
        ll_exponential=float(n @ log_p_exponential),
        ll_lognormal=float(n @ log_p_lognormal),
        llr_powerlaw_vs_lognormal=against_lognormal[0],
        llr_powerlaw_vs_exponential=against_exponential[0],
        vuong_z_lognormal=against_lognormal[1],
        vuong_p_lognormal=against_lognormal[2],
        vuong_z_exponential=against_exponential[1],
        vuong_p_exponential=against_exponential[2],
        ks_xmin=ks_xmin,
        ks_alpha=ks_alpha,
    )


def _vuong(difference: Float64[np.ndarray, " value"], n: Float64[np.ndarray, " value"]) -> tuple[float, float, float]:
    """R, Vuong's statistic and its two-sided p; 0 and 1 where the models cannot be told apart at all.

    Vuong's first step: models that coincide have n Var(d) near 0, where the normal law fails and any R
    looks certain.
    """
    total = n.sum()
    ratio = float(n @ difference)
    variance = float(n @ np.square(difference - ratio / total))  # n Var(d)
    if variance < _DISTINGUISHABLE:
        return ratio, 0.0, 1.0
    return ratio, float(ratio / np.sqrt(variance)), float(special.erfc(abs(ratio) / np.sqrt(2.0 * variance)))


def _ks_xmin(
    values: Int64[np.ndarray, " value"], counts: Int64[np.ndarray, " value"], min_tail_samples: int
) -> tuple[float, float]:
    """xmin and alpha at the smallest Kolmogorov-Smirnov distance, the smaller xmin on a tie, or NaN.

    A candidate is an observed size with another one above it and `min_tail_samples` at or above it.
    """
    x, n = values.astype(np.float64), counts.astype(np.float64)
    n_above = n[::-1].cumsum()[::-1]  # sizes >= x
    n_candidates = min(len(x) - 1, int(np.count_nonzero(n_above >= min_tail_samples)))
    if n_candidates < 1:
        return float("nan"), float("nan")
    chosen = np.arange(n_candidates)
    if n_candidates > MAX_KS_CANDIDATES:
        grid = np.geomspace(x[0], x[n_candidates - 1], MAX_KS_CANDIDATES)
        chosen = np.unique(np.minimum(np.searchsorted(x, grid), n_candidates - 1))
    mean_log = (n * np.log(x))[::-1].cumsum()[::-1][chosen] / n_above[chosen]
    alpha = powerlaw_alpha(x[chosen], mean_log - np.log(x[chosen]))
    block = max(1, _BLOCK // len(x))
    distance = np.concatenate(
        [
            _ks_distance(x, n_above, chosen[first : first + block], alpha[first : first + block])
            for first in range(0, len(chosen), block)
        ]
    )
    best = int(np.argmin(distance))
    return float(x[chosen[best]]), float(alpha[best])


def _ks_distance(
    x: Float64[np.ndarray, " value"],
    n_above: Float64[np.ndarray, " value"],
    chosen: Int64[np.ndarray, " candidate"],
    alpha: Float64[np.ndarray, " candidate"],
) -> Float64[np.ndarray, " candidate"]:
    """Largest |F_n - F| over all integers: it is reached just before or at an observed size."""
    xmin, a = x[chosen][:, None], alpha[:, None]
    at = np.maximum(x[None, :], xmin)  # what lies below xmin is left out at the end; here it would overflow
    log_at_x = -a * np.log(at / xmin) - log_scaled_zeta(a, xmin)  # log P(X = x)
    from_x = np.exp(log_at_x + log_scaled_zeta(a, at))  # P(X >= x)
    beyond_x = from_x - np.exp(log_at_x)  # P(X > x)
    seen = n_above[None, :] / n_above[chosen][:, None]
    seen_beyond = np.append(n_above[1:], 0.0)[None, :] / n_above[chosen][:, None]
    apart = np.maximum(np.abs(from_x - seen), np.abs(beyond_x - seen_beyond))
    return np.asarray(np.where(x[None, :] >= xmin, apart, 0.0).max(axis=1))
