# %% [markdown]
# # Any Hugging Face decoder, in memory
#
# The model is loaded as usual and handed over with its tokenizer and a text. It is not changed, and no run directory is made.
#
#     python docs/examples/model.py [MODEL] [FOLDER FOR THE FIGURE]

# %%
import sys
from pathlib import Path

from matplotlib import pyplot as plt
from transformers import AutoModelForCausalLM, AutoTokenizer

import avalanche_llm as av

name = sys.argv[1] if len(sys.argv) > 1 else "models/SmolLM2-135M-Instruct"
model = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(name)
text = Path("data/jargon.txt").read_text(encoding="utf-8")

# %% [markdown]
# One part of the text calibrates. Two passes at g = 1 give mean and spread of every unit, then one pass a gain brings its
# events, and thresholds are set so that each layer keeps its rate. Rates are in events per unit and token: about 0.6 events a
# site make a lattice that is neither empty nor full, so the rate depends on the width of the MLP.

# %%
first, second = text[:20_000], text[20_000:40_000]
rate = 0.6 / model.config.intermediate_size
events = av.measure(model, tokenizer, first, gains=[0.8, 1.0, 1.2], target_rates=[rate], seq_len=64, batch_windows=16)
print(events)
table = events.table()
shown = ["spike_def_id", "g", "occupancy", "b_tot", "b_tot_perm", "delta_b_tot", "delta_b_tot_ci_low", "delta_b_tot_ci_high"]
print(table[shown].round(3).to_string(index=False))

# %% [markdown]
# g* by the published rule, with its status. A status other than `bracketed` locates nothing: the gain is the least distant of
# those that were measured.

# %%
print(av.gstar(events)[["spike_def_id", "gstar", "b_tot", "status", "ci_low", "ci_high"]])

# %% [markdown]
# Another part is measured with the calibration and the thresholds of the first. Its rate is now a result.

# %%
held_out = av.measure(model, tokenizer, second, gains=[1.0], calibrated=events)
(raster,) = av.rasters(held_out, gain=1.0, spike_def="SPIKE_TWO_SIDED_ABS")
held_out_rate = raster.counts.sum() / raster.occupancy.size / model.config.intermediate_size
print(f"{raster}: {held_out_rate:.2e} events per unit and token")
print(av.branching(raster))

# %% [markdown]
# Everything that a recording can be asked, a raster of a model can be asked too (`recording.py`). A margin swap keeps the
# number of occupied sites of each layer and each token: what remains above it, margins do not explain.

# %%
swapped = av.surrogate(raster, "margin_swap")
remains = av.branching(raster).b_tot.value - av.branching(swapped).b_tot.value
print(f"excess over permutation {av.branching(raster).delta_b_tot}, over one margin swap {remains:.3f}")
assert (swapped.occupancy.sum(axis=1) == raster.occupancy.sum(axis=1)).all()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.imshow(raster.counts[0], aspect="auto", origin="lower", cmap="viridis", interpolation="nearest")
left.set(xlabel="token", ylabel="layer", title="events of one held-out window")
left.yaxis.get_major_locator().set_params(integer=True)
for spike_def, rows in table.groupby("spike_def_id"):
    excess = rows["delta_b_tot"]
    reach = [excess - rows["delta_b_tot_ci_low"], rows["delta_b_tot_ci_high"] - excess]
    right.errorbar(rows["g"], excess, reach, marker="o", capsize=3, label=spike_def)
right.axhline(0.0, color="grey", linewidth=0.8)
right.set(xlabel="gain g", ylabel="delta_b_tot (pairs a site)", title="excess over permuted tokens")
right.legend(fontsize=7)
folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()
figure.savefig(folder / "model.png", dpi=150)
