"""Forward passes over windows in batches, hooks on, one check of the result a batch, and no further than what is asked for.

Where only u is wanted, a pass ends with the last layer's u: its last projection and the final norm are not computed. The
head runs only for likelihoods.

Next-token likelihood of a window x[0 .. T-1] in nats, over the predicted positions t >= max(1, burn-in):

    nll = - sum_t log softmax(logits[t - 1])[x[t]]          softmax in float32, sum in float64
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from avalanche_llm.errors import DataError, UnsupportedModel
from avalanche_llm.metrics.likelihood import SequenceNll
from avalanche_llm.model.finite import all_finite
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.head import decoded, logprobs
from avalanche_llm.model.hooks import OnInput, ReadInput
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.progress import Advance


@dataclass(frozen=True)
class PassReport:
    """What one pass over a slice cost, and the likelihood of each window (of none where it was not asked for)."""

    n_windows: int
    n_batches: int
    seconds: float
    nll: SequenceNll


def first_predicted(burn_in_tokens: int) -> int:
    """The first position whose prediction counts: nothing predicts position 0."""
    return max(1, burn_in_tokens)


def forward_pass(
    model: LoadedModel,
    windows: Int64[np.ndarray, "seq token"],
    *,
    plan: GainPlan,
    batch_windows: int,
    on_input: OnInput,
    predict_from: int | None = None,
    on_batch: Callable[[int], None] = lambda first_seq: None,
    advance: Advance = lambda n_windows: None,
) -> PassReport:
    """Run every window once at the gains of `plan`.

    on_input(layer, u[batch, token, unit]) sees the input of each layer's down projection; on_batch(first_seq) follows
    when the batch that begins at that window is in the device's queue (on a CPU: done). With `predict_from` the whole
    causal model runs, and the report holds the likelihood of the positions from there on. Raises DataError if a batch ends
    in NaN or inf: whatever goes wrong in a layer stays in the residual stream, so one look at the last u (at what the head
    is given) sees it without a look at each layer. The look is taken while the next batch runs, so that a device need not
    wait for it.
    """
    began = monotonic()
    sums: list[torch.Tensor] = []
    finite = _FiniteEnds(plan, windows, batch_windows)
    seq_len = windows.shape[1]

    def by_window(layer: int, u: torch.Tensor) -> None:
        on_input(layer, u.view(-1, seq_len, u.shape[-1]))  # OPT hands its last projection all windows as one list of tokens
        if predict_from is None and layer == model.n_layers - 1:
            raise _LastRead(u)

    reading = ReadInput(model.modules("down"), by_window)
    with torch.inference_mode(), model.scaled(plan):
        for first in range(0, len(windows), batch_windows):
            batch = torch.from_numpy(windows[first : first + batch_windows]).to(model.device)
            if predict_from is None:
                with reading:
                    finite.add(first, _last_u(model, batch))
            else:
                with reading:
                    output = decoded(model, input_ids=batch, use_cache=False)
                sums.append(_nll(model, output, batch, predict_from))
                # of the states too: the last position predicts nothing, so an infinity there would not reach the likelihood
                finite.add(first, output.last_hidden_state, sums[-1])
            on_batch(first)
            advance(len(batch))
        finite.finish()
    nll_sum = torch.cat(sums).cpu().numpy() if sums else np.zeros(0)
    scored = SequenceNll(nll_sum, np.full(len(nll_sum), windows.shape[1] - (predict_from or 0)))
    return PassReport(len(windows), -(-len(windows) // batch_windows), monotonic() - began, scored)


class _LastRead(Exception):
    """The last layer's u was read, and nothing beyond it is wanted."""

    def __init__(self, u: torch.Tensor) -> None:
        super().__init__()
        self.u = u


def _last_u(model: LoadedModel, batch: Int64[torch.Tensor, "batch token"]) -> torch.Tensor:
    """Run the decoder up to the last layer's u, and return that."""
    try:
        model.decoder(input_ids=batch, use_cache=False)
    except _LastRead as end:
        return end.u
    raise UnsupportedModel(f"{type(model.decoder).__name__} ended without its last layer's down projection")


class _FiniteEnds:
    """Whether each batch ended without NaN and inf: asked at once, looked at one batch later."""

    def __init__(self, plan: GainPlan, windows: Int64[np.ndarray, "seq token"], batch_windows: int) -> None:
        self._plan = plan
        self._n_windows, self._batch_windows = len(windows), batch_windows
        self._unseen: deque[tuple[int, torch.Tensor]] = deque()

    def add(self, first: int, *ends: torch.Tensor) -> None:
        """The results of the batch that begins at window `first`. Raises DataError for the batch before it."""
        self._unseen.append((first, all_finite(*ends)))
        if len(self._unseen) > 1:
            self._look()

    def finish(self) -> None:
        """Look at the last batch too."""
        while self._unseen:
            self._look()

    def _look(self) -> None:
        first, finite = self._unseen.popleft()
        if not bool(finite):
            last = min(first + self._batch_windows, self._n_windows) - 1
            raise DataError(
                f"activations became NaN or infinite at gain {self._plan.furthest} in windows {first} to {last}; "
                "use --dtype fp32 or leave that gain out"
            )


def _nll(
    model: LoadedModel, output: Any, batch: Int64[torch.Tensor, "batch token"], predict_from: int
) -> Float64[torch.Tensor, " batch"]:
    """The likelihood of each window from what the decoder returned."""
    asked, following = output.last_hidden_state[:, predict_from - 1 : -1], batch[:, predict_from:]
    each = logprobs(model, output, asked.flatten(0, 1), following.flatten(), torch.float32)
    return -each.view(len(batch), -1).sum(dim=1, dtype=torch.float64)
