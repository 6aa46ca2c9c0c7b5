# %% [markdown]
# # Avalanches of a neuroscience recording
#
# Any array of zeros and ones, or of counts, can be measured: `[channel, time]`, or `[trial, channel, time]`, which are the axes
# `[seq, layer, token]` of a language model. Here a network of known truth stands in for a real recording: each event makes m =
# 0.9 events in the next bin, most in its own channel, some in the two beside it; a few come from outside, and 60 % of all are
# seen. Put your own array in its place.
#
#     python docs/examples/recording.py [FOLDER FOR THE FIGURE]

# %%
import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import avalanche_llm as av

M, N_CHANNELS, N_BINS = 0.9, 32, 12_000
rng = np.random.default_rng(1)
active, recording = np.zeros(N_CHANNELS, dtype=np.int64), np.empty((N_CHANNELS, N_BINS), dtype=np.int64)
for time in range(-200, N_BINS):  # 200 bins to forget the start
    spread = 0.6 * active + 0.2 * (np.roll(active, 1) + np.roll(active, -1))
    active = rng.poisson(M * spread + 0.02)
    recording[:, time] = rng.binomial(active, 0.6)
print(f"{N_CHANNELS} channels, {N_BINS} bins, {recording.mean():.3f} events a channel and bin")

# %% [markdown]
# Intervals are over sequences, so a long recording is cut: 60 sequences of 200 bins. With one sequence there are values, and no
# intervals.

# %%
raster = av.cut(recording, 200)
ratios = av.branching(raster)
print(ratios)
print(ratios.to_frame().round(3))

# %% [markdown]
# `b_tot` counts occupied neighbours per occupied site. Independent sites have about twice the occupancy, so the number alone
# says little: what exceeds chance is `delta_b_tot`, along time within a channel and across neighbouring channels in one bin. A
# surrogate that permutes the bins of each channel has the same density and no excess. One that shifts each channel by itself
# keeps the memory of the channels, and takes away what is between them.

# %%
shuffled = av.surrogate(raster, "permutation", seed=7)
chance = av.branching(shuffled)
shifted = av.branching(av.surrogate(raster, "circular_shift", seed=7))
for name, of in (("recording", ratios), ("permuted", chance), ("shifted", shifted)):
    print(f"{name:10} along time {of.delta_b_time}   across channels {of.delta_b_depth}")
assert ratios.delta_b_time.low > 0.1 and ratios.delta_b_depth.low > 0.05
assert abs(chance.delta_b_tot.value) < 0.02
assert shifted.delta_b_time.low > 0.1 and abs(shifted.delta_b_depth.value) < 0.02

# %% [markdown]
# The branching parameter m from the decay of correlations, which does not mind that only a part of the events is seen. It says
# how fast correlations decay, and no more: a shared drive of the same memory gives the same m.

# %%
memory = av.memory(raster)
print(f"m = {memory.m} (truth {M}), from {memory.n_sequences} sequences")
assert abs(memory.m.value - M) < 0.03

# %% [markdown]
# Avalanches are connected components. The power law is compared with an exponential and a log-normal; that one of them fits
# best does not say why.

# %%
found, by_chance = av.avalanches(raster), av.avalanches(shuffled)
print(found.to_frame()[["size", "span_tokens", "span_layers"]].describe().round(2))
fit = av.tail(found)
print(f"{fit.n_tail} avalanches of {fit.xmin:g} events or more: alpha {fit.alpha_powerlaw:.2f}")
print(f"power law over log-normal: {fit.llr_powerlaw_vs_lognormal:.1f} nats, p {fit.vuong_p_lognormal:.2g}")
assert found.size.max() > by_chance.size.max()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.imshow(raster.occupancy[0], aspect="auto", origin="lower", cmap="Greys", interpolation="nearest")
left.set(xlabel="time (bins)", ylabel="channel", title="occupied sites of one sequence")
for sizes, name, marker in ((found.size, "recording", "o"), (by_chance.size, "bins permuted", "s")):
    values, counts = np.unique(sizes, return_counts=True)
    share = counts[::-1].cumsum()[::-1] / counts.sum()
    right.loglog(values, share, marker, markersize=3, label=name)
right.set(xlabel="size S (events)", ylabel="share with S or more", title="sizes")
right.legend()
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
figure.savefig(folder / "recording.png", dpi=150)
