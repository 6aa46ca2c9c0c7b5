"""Forward passes over windows in batches: the decoder without its head, hooks on, one check of the result a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import numpy as np
import torch
from jaxtyping import Int64

from avalanche_llm.errors import DataError
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.hooks import OnInput, ReadInput, ScaleOutput
from avalanche_llm.model.loader import LoadedModel

Advance = Callable[[int], None]


@dataclass(frozen=True)
class PassReport:
    """What one pass over a slice cost."""

    n_windows: int
    n_batches: int
    seconds: float


def forward_pass(
    model: LoadedModel,
    windows: Int64[np.ndarray, "seq token"],
    *,
    plan: GainPlan,
    batch_windows: int,
    on_input: OnInput,
    on_batch: Callable[[int], None] = lambda first_seq: None,
    advance: Advance = lambda n_windows: None,
) -> PassReport:
    """Run every window once at the gains of `plan`.

    on_input(layer, u[batch, token, unit]) sees the input of each layer's down projection; on_batch(first_seq) follows
    when the batch that begins at that window is through. Raises DataError if a batch ends in NaN or inf: whatever goes
    wrong in a layer stays in the residual stream, so one look at its end sees it without a look at each layer.
    """
    began = monotonic()
    scale = ScaleOutput(model.modules("mlp" if plan.target == "MLP" else "attn"), plan.gains)
    with torch.inference_mode(), scale, ReadInput(model.modules("down"), on_input):
        for first in range(0, len(windows), batch_windows):
            batch = torch.from_numpy(windows[first : first + batch_windows]).to(model.device)
            hidden = model.decoder(input_ids=batch, use_cache=False).last_hidden_state
            if not bool(torch.isfinite(hidden).all()):
                raise DataError(
                    f"activations became NaN or infinite at gain {max(plan.gains, key=lambda gain: abs(gain - 1))} in windows "
                    f"{first} to {first + len(batch) - 1}; use --dtype fp32 or leave that gain out"
                )
            on_batch(first)
            advance(len(batch))
    return PassReport(len(windows), -(-len(windows) // batch_windows), monotonic() - began)
