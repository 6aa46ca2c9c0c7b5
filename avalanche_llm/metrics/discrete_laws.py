"""Discrete power law and log-normal on x >= xmin: normalisation and maximum likelihood, stable far into the tail.

Power law x^-alpha / zeta(alpha, xmin) (Clauset, Shalizi and Newman 2009, equation B.3); log-normal as the mass of the continuous
law on [x - 1/2, x + 1/2]. The fits and their comparison are in `metrics.tails` (SCIENCE section 4; spec 09).
"""

from typing import Final

import numpy as np
from jaxtyping import Float64, Inexact
from scipy import optimize, special
from scipy.optimize import elementwise

SIGMA_MAX: Final = 100.0
"""Upper bound of the log-normal's sigma: over any observable range it is then a power law."""
_EULER_MACLAURIN: Final = tuple(special.bernoulli(10)[2 * j] / special.factorial(2 * j) for j in range(1, 6))
_DIRECT_TERMS: Final = 16
_LOG_ALPHA_BOUNDS: Final = (-8.0, 30.0)
"""Bounds of log(alpha - 1)."""
_COMPLEX_STEP: Final = 1e-30


def log_scaled_zeta(alpha: Inexact[np.ndarray, "*#a"], q: Float64[np.ndarray, "*#a"]) -> np.ndarray:
    """log(q^alpha zeta(alpha, q)), broadcast: the scaling keeps steep tails at large q from underflow.

    The first terms directly, the rest by Euler-Maclaurin (NIST Digital Library of Mathematical Functions,
    25.11.5).
    """
    direct = sum(np.exp(-alpha * np.log1p(k / q)) for k in range(_DIRECT_TERMS))
    start = q + _DIRECT_TERMS
    rest = start / (alpha - 1.0) + 0.5
    factor = alpha / start
    for j, coefficient in enumerate(_EULER_MACLAURIN, start=1):
        rest = rest + coefficient * factor
        factor = factor * (alpha + (2 * j - 1)) * (alpha + 2 * j) / np.square(start)
    return np.asarray(np.log(direct + np.exp(-alpha * np.log1p(_DIRECT_TERMS / q)) * rest))


def powerlaw_alpha(
    xmin: Float64[np.ndarray, " candidate"], mean_log_excess: Float64[np.ndarray, " candidate"]
) -> Float64[np.ndarray, " candidate"]:
    """Maximum-likelihood alpha for each xmin, where E[ln(x / xmin)] equals the mean of the tail."""

    def score(t: np.ndarray, q: np.ndarray, observed: np.ndarray) -> np.ndarray:
        # E[ln(x / q)] = -d/d alpha; a complex step does not cancel (Squire and Trapp 1998)
        alpha = 1.0 + np.exp(t)
        return np.asarray(observed + log_scaled_zeta(alpha + 1j * _COMPLEX_STEP, q).imag / _COMPLEX_STEP)

    low, high = (np.full(xmin.shape, bound) for bound in _LOG_ALPHA_BOUNDS)
    found = elementwise.find_root(score, (low, high), args=(xmin, mean_log_excess))
    return np.asarray(1.0 + np.exp(found.x))


def lognormal_log_pmf(x: Float64[np.ndarray, " value"], xmin: int, mu: float, sigma: float) -> Float64[np.ndarray, " value"]:
    """Log-probability of each size x >= xmin under the discretised log-normal, normalised on the tail."""
    lower = (np.log(x - 0.5) - mu) / sigma
    width = np.log1p(1.0 / (x - 0.5)) / sigma
    return np.asarray(log_normal_mass(lower, width) - special.log_ndtr((mu - np.log(xmin - 0.5)) / sigma))


def log_normal_mass(lower: Float64[np.ndarray, " value"], width: Float64[np.ndarray, " value"]) -> Float64[np.ndarray, " value"]:
    """log(Phi(lower + width) - Phi(lower)): by the nearer tail, or by the density where narrow."""
    upper, middle = lower + width, lower + 0.5 * width
    near, far = np.where(lower > 0.0, -lower, upper), np.where(lower > 0.0, -upper, lower)
    log_near = special.log_ndtr(near)
    gap = np.maximum(log_near - special.log_ndtr(far), np.finfo(np.float64).tiny)
    wide = log_near + np.log(-np.expm1(-gap))
    density = -0.5 * np.square(middle) - 0.5 * np.log(2.0 * np.pi)
    is_narrow = width * (1.0 + np.abs(middle)) < 1e-3
    curvature = np.where(is_narrow, np.square(width) * (np.square(middle) - 1.0) / 24.0, 0.0)
    return np.asarray(np.where(is_narrow, density + np.log(width) + np.log1p(curvature), wide))


def lognormal_parameters(x: Float64[np.ndarray, " value"], n: Float64[np.ndarray, " value"], xmin: int) -> tuple[float, float]:
    """mu and sigma at the maximum of the truncated likelihood, in the coordinates in which it is concave."""
    origin, share = np.log(xmin), n / n.sum()
    scale = float(share @ np.log(x / (xmin - 0.5)))  # mean log excess: makes both coordinates of order one

    def natural(theta: np.ndarray) -> tuple[float, float]:
        sigma = float(np.exp(-0.5 * theta[1]) * scale)
        return float(origin - theta[0] / scale * sigma**2), sigma

    def cost(theta: np.ndarray) -> float:
        return -float(share @ lognormal_log_pmf(x, xmin, *natural(theta)))

    flat = 2.0 * float(np.log(scale / SIGMA_MAX))
    found = [
        optimize.minimize(
            cost,
            np.array(start),
            method="Nelder-Mead",
            bounds=((-1e6, 1e6), (flat, 2.0 * float(np.log(1e6)))),
            options={"xatol": 1e-8, "fatol": 1e-13, "maxfev": 2000},
        )
        for start in ((1.0, max(flat, -4.0)), (0.0, 0.0))  # nearly a power law; centred at xmin
    ]
    return natural(min(found, key=lambda result: float(result.fun)).x)
