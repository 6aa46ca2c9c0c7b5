"""Layers that follow a common latent drive, without any propagation: what fools a naive analysis (spec 10).

    d[token] ~ Gamma(shape, mean 1), kept from one token to the next with probability `persistence`, else drawn anew
    A[layer, token] ~ Poisson(rate d[token]), independent given d

The drive's autocorrelation is persistence^k: 0 gives tokens that differ, values between give a drive that is smooth
in token, 1 gives sequences that differ. Layers are split into `bands` of equal size with a drive each; one band is a
drive common to all layers. With q(d) = 1 - exp(-rate d) and p = E[q],

    E[X[l,t] X[k,t+n]] = persistence^n E[q^2] + (1 - persistence^n) p^2        same band, (l, 0) and (k, n) differ
    Var(sum A) = E[sum A] + bands (layers / bands)^2 rate^2 / shape sum_t,s persistence^|t - s|

and the activity of all layers decays as r_k = b persistence^k: m equals the persistence although nothing branches.
"""

import numpy as np

from avalanche_llm.errors import DataError
from avalanche_llm.simulate.truth import Shape, SimulatedRaster, as_counts, lagged, raster_truth


def latent_drive(
    shape: Shape, rate: float, *, gamma_shape: float, persistence: float, bands: int = 1, seed: int
) -> SimulatedRaster:
    """Counts under a latent drive; `gamma_shape` is 1 / Var(d). Raises DataError if the bands do not divide the layers."""
    if shape.n_layers % bands:
        raise DataError(f"{bands} bands do not divide {shape.n_layers} layers: choose a divisor")
    rng = np.random.Generator(np.random.PCG64(seed))
    drive = rng.gamma(gamma_shape, 1.0 / gamma_shape, size=(shape.n_seq, bands, shape.n_tokens))
    renewed = rng.random(drive.shape) >= persistence
    token = np.arange(shape.n_tokens)
    since = np.maximum.accumulate(np.where(renewed, token, 0), axis=-1)
    drive = np.take_along_axis(drive, since, axis=-1)
    counts = as_counts(rng.poisson(rate * np.repeat(drive, shape.n_layers // bands, axis=1)))

    silent, both_silent = ((1.0 + n * rate / gamma_shape) ** -gamma_shape for n in (1, 2))
    p, q2 = 1.0 - silent, 1.0 - 2.0 * silent + both_silent
    kept = np.power(persistence, token)
    pair = kept * q2 + (1.0 - kept) * p * p
    same = np.broadcast_to(pair, (shape.n_layers, shape.n_tokens))
    in_band = np.arange(1, shape.n_layers) % (shape.n_layers // bands) > 0
    following = np.where(in_band[:, None], pair, p * p)
    chi = 1.0 + shape.n_layers / bands * rate / gamma_shape * lagged(kept).sum() / shape.n_tokens
    m = persistence if persistence > 0.0 else float("nan")
    truth = raster_truth(np.full(same.shape, p), lagged(same), lagged(following), chi=float(chi), m=m, propagates=False)
    return SimulatedRaster(counts, truth)
