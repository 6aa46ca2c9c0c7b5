"""Next-token likelihood: transformers' own loss, whatever the family does to its logits; hooks that change nothing; pairing."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_families import CASES, causal_model

from avalanche_llm.errors import DataError, SchemaError, UnsupportedModel
from avalanche_llm.metrics.likelihood import Sampled, SequenceNll, mean_nll
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.model.forward import PassReport, first_predicted, forward_pass
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.head import decoded, logits, logprobs
from avalanche_llm.model.hooks import ScaleOutput
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.model.shape import LOGITS_AT_ONCE

WEIGHTS = bootstrap_weights(4, reps=50, seed=3)


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny.loaded(tiny.save_model(tiny.gemma2(), tmp_path_factory.mktemp("gemma2")), tiny.GEMMA2_HOOKS)


@pytest.fixture(scope="module")
def plain(model_folder: Path) -> LoadedModel:
    return tiny.loaded(model_folder)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(5).integers(0, tiny.VOCABULARY, size=(5, tiny.SEQ_LEN))


def scored(model: LoadedModel, windows: np.ndarray, gain: float = 1.0, predict_from: int = 1) -> PassReport:
    plan = GainPlan.uniform("MLP", gain, model.n_layers)
    return forward_pass(
        model, windows, plan=plan, batch_windows=2, on_input=lambda layer, u: None, predict_from=predict_from
    )


def own_loss(model: LoadedModel, window: np.ndarray, gain: float, predict_from: int) -> float:
    ids = torch.from_numpy(window[None])
    labels = ids.clone()
    labels[:, :predict_from] = -100
    with torch.inference_mode(), ScaleOutput(model.modules("mlp"), (gain,) * model.n_layers):
        return float(model.causal(input_ids=ids, labels=labels).loss)


@contextmanager
def spoiled_at(module: torch.nn.Module, call: int, position: int) -> Iterator[None]:
    """The module's `call`-th output holds an infinity at one position of its last window."""
    calls = 0

    def spoil(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            output = output.clone()
            output[-1, position] = torch.inf
        return output

    handle = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("gain", [1.0, 0.8])
@pytest.mark.parametrize("burn_in", [0, 1, 7])
def test_forward_pass_scores_windows_as_transformers_does(
    plain: LoadedModel, windows: np.ndarray, gain: float, burn_in: int
) -> None:
    start = first_predicted(burn_in)
    nll = scored(plain, windows, gain, start).nll
    assert nll.n_predicted.tolist() == [tiny.SEQ_LEN - max(1, burn_in)] * len(windows)
    expected = [own_loss(plain, window, gain, start) for window in windows]
    np.testing.assert_allclose(nll.nll_sum / nll.n_predicted, expected, rtol=0, atol=1e-5)


def test_forward_pass_scores_through_the_familys_own_cap(capped: LoadedModel, windows: np.ndarray) -> None:
    nll = scored(capped, windows).nll
    expected = [own_loss(capped, window, 1.0, 1) for window in windows]
    np.testing.assert_allclose(nll.nll_sum / nll.n_predicted, expected, rtol=0, atol=1e-5)
    batch = torch.from_numpy(windows)
    with torch.inference_mode():
        bare = capped.causal.get_output_embeddings()(capped.decoder(input_ids=batch).last_hidden_state)
    uncapped = torch.nn.functional.cross_entropy(bare[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    assert abs(float(uncapped) - float(np.mean(expected))) > 0.1  # else the cap would not be tested


def test_forward_pass_at_gain_one_is_the_model_without_hooks_bit_for_bit(plain: LoadedModel, windows: np.ndarray) -> None:
    seen: list[int] = []
    plan = GainPlan.uniform("MLP", 1.0, plain.n_layers)
    report = forward_pass(
        plain, windows, plan=plan, batch_windows=2, on_input=lambda layer, u: seen.append(layer), predict_from=1
    )
    assert sorted(set(seen)) == list(range(plain.n_layers))
    sums = []
    for first in range(0, len(windows), 2):
        batch = torch.from_numpy(windows[first : first + 2])
        assert not [module for module in plain.causal.modules() if module._forward_hooks or module._forward_pre_hooks]
        with torch.inference_mode():
            logits = plain.causal(input_ids=batch, use_cache=False).logits
        for row, ids in zip(logits, batch, strict=True):
            sums.append(float(torch.nn.functional.cross_entropy(row[:-1], ids[1:], reduction="none").double().sum()))
    assert report.nll.nll_sum.tolist() == sums
    assert scored(plain, windows, 0.8).nll.nll_sum.tolist() != sums


def test_forward_pass_without_predict_from_never_runs_the_head(plain: LoadedModel, windows: np.ndarray) -> None:
    calls: list[int] = []
    handle = plain.causal.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    try:
        plan = GainPlan.uniform("MLP", 1.0, plain.n_layers)
        report = forward_pass(plain, windows, plan=plan, batch_windows=2, on_input=lambda layer, u: None)
        assert (len(calls), len(report.nll.nll_sum)) == (0, 0)
        scored(plain, windows)
        positions = [n_windows * (tiny.SEQ_LEN - 1) for n_windows in (2, 2, 1)]
        assert len(calls) == sum(ceil(of_batch / LOGITS_AT_ONCE) for of_batch in positions)
    finally:
        handle.remove()


def test_logits_refuse_a_model_that_does_not_call_what_it_names_its_decoder(
    plain: LoadedModel, windows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = deepcopy(plain.decoder)
    monkeypatch.setattr(plain.causal, "get_decoder", lambda: other)
    with pytest.raises(UnsupportedModel, match="expected LlamaForCausalLM to call its decoder once, found 0 calls: next tokens"):
        scored(plain, windows)


@pytest.mark.parametrize("name", CASES)
def test_logits_of_chosen_positions_are_the_causal_models_own_in_every_family(name: str, tmp_path: Path) -> None:
    """Caps, scales and what else follows the head; the decoder is its own again afterwards."""
    model = tiny.loaded(tiny.save_model(causal_model(CASES[name].model_type, CASES[name].config), tmp_path))
    ids = torch.from_numpy(np.random.default_rng(2).integers(1, tiny.VOCABULARY, size=(2, 9)))
    with torch.inference_mode():
        whole = model.causal(input_ids=ids, use_cache=False).logits
        output = decoded(model, input_ids=ids, use_cache=False)
        rows, tokens = [0, 1, 1], [8, 0, 3]
        found = logits(model, output, output.last_hidden_state[rows, tokens])
        torch.testing.assert_close(found, whole[rows, tokens], atol=2e-6, rtol=0)
        following = torch.tensor([5, 6, 7])
        each = logprobs(model, output, output.last_hidden_state[rows, tokens], following, torch.float64)
        expected = whole[rows, tokens].double().log_softmax(dim=-1)[[0, 1, 2], following]
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=0)
        assert torch.equal(model.causal(input_ids=ids, use_cache=False).logits, whole)


@pytest.mark.parametrize("position", [3, tiny.SEQ_LEN - 1])
def test_forward_pass_finds_an_infinity_also_at_the_last_position_which_predicts_nothing(
    capped: LoadedModel, windows: np.ndarray, position: int
) -> None:
    norm = capped.decoder.get_submodule("norm")
    with spoiled_at(norm, 2, position), pytest.raises(DataError, match="NaN or infinite at gain 1.0 in windows 2 to 3"):
        scored(capped, windows)


def test_forward_pass_finds_logits_that_overflow(plain: LoadedModel, windows: np.ndarray) -> None:
    head = plain.causal.get_output_embeddings()
    with spoiled_at(head, 1, 3), pytest.raises(DataError, match="NaN or infinite at gain 1.0 in windows 0 to 1"):
        scored(plain, windows)


def test_forward_pass_refuses_to_score_without_a_head(plain: LoadedModel, windows: np.ndarray) -> None:
    with pytest.raises(UnsupportedModel, match="LlamaModel has no language-model head"):
        scored(replace(plain, causal=plain.decoder), windows)


def test_mean_nll_pools_sums_over_positions() -> None:
    nll = SequenceNll(np.array([10.0, 2.0]), np.array([2, 4]))
    found = mean_nll(nll, np.array([[1, 1], [2, 0], [0, 2]]))
    assert found.value == 2.0  # 12 / 6, not the mean of 5 and 0.5
    assert found.replicates.tolist() == [2.0, 5.0, 0.5]


def test_minus_of_a_constant_shift_is_that_shift_without_any_spread() -> None:
    """Eighths, so that every sum is exact."""
    positions = np.full(4, 64)
    first = SequenceNll(np.array([128.0, 200.5, 96.125, 300.75]), positions)
    second = SequenceNll(first.nll_sum + 0.25 * positions, positions)
    change = mean_nll(second, WEIGHTS).minus(mean_nll(first, WEIGHTS))
    assert (change.value, change.interval.low, change.interval.high) == (0.25, 0.25, 0.25)
    ratio = change.exponential()
    assert (ratio.value, ratio.interval.low, ratio.interval.high) == pytest.approx((np.exp(0.25),) * 3, rel=1e-15)
    spread = mean_nll(first, WEIGHTS).interval
    assert spread.high - spread.low > 0.5  # the sequences themselves differ


def test_exponential_of_a_mean_is_the_perplexity() -> None:
    found = mean_nll(SequenceNll(np.log(np.array([2.0, 8.0])), np.array([1, 1])), np.array([[2, 0], [0, 2]])).exponential()
    assert found.value == pytest.approx(4.0)
    np.testing.assert_allclose(found.replicates, [2.0, 8.0])


def test_interval_of_a_perplexity_is_the_exponential_of_that_of_its_logarithm() -> None:
    found = mean_nll(SequenceNll(np.array([128.0, 200.5, 96.125, 300.75]), np.full(4, 64)), WEIGHTS)
    bounds = (found.exponential().interval.low, found.exponential().interval.high)
    assert bounds == pytest.approx((np.exp(found.interval.low), np.exp(found.interval.high)), rel=1e-12)


def test_sampled_passes_a_missing_value_on() -> None:
    one = Sampled(1.0, WEIGHTS @ np.arange(4.0) / 6.0, WEIGHTS)
    assert np.isfinite([one.interval.low, one.interval.high]).all()
    gone = one.minus(one.unavailable())
    assert np.isnan([gone.value, gone.interval.low, gone.exponential().value]).all()


@pytest.mark.parametrize(("sums", "positions"), [(2, [4, 0]), (1, [4, 4])])
def test_sequence_nll_refuses_a_sequence_without_a_sum_or_a_position(
    sums: int, positions: list[int], unannotated: None
) -> None:
    with pytest.raises(SchemaError, match="every sequence needs a sum and a predicted position"):
        SequenceNll(np.zeros(sums), np.array(positions))
