"""Moments of every unit against numpy in float64, whatever the batches; z bit for bit the same wherever it is computed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avalanche_llm.errors import DataError
from avalanche_llm.events.standardize import CalibrationStats, RunningMoments, Standardizer


def activations(seed: int, *, n_seq: int = 7, offset: float = 0.0) -> torch.Tensor:
    """u[layer, seq, token, unit], float32."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal((2, n_seq, 5, 6)) ** 3 + offset).astype(np.float32))


def moments(u: torch.Tensor, *, batch: int, burn_in: int = 0) -> CalibrationStats:
    running = RunningMoments(len(u), burn_in=burn_in)
    for first in range(0, u.shape[1], batch):
        for layer in range(len(u)):
            running.add(layer, u[layer, first : first + batch])
    return running.finish()


@given(st.integers(0, 2**16), st.integers(1, 8), st.integers(0, 3))
def test_running_moments_are_mean_and_population_deviation(seed: int, batch: int, burn_in: int) -> None:
    u = activations(seed)
    found = moments(u, batch=batch, burn_in=burn_in)
    flat = u.numpy().astype(np.float64)[:, :, burn_in:].reshape(2, -1, 6)
    assert found.n_samples == flat.shape[1]
    np.testing.assert_allclose(found.mu, flat.mean(axis=1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.sigma, flat.std(axis=1), rtol=1e-6)
    assert found.mu.dtype == found.sigma.dtype == np.float32


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_running_moments_do_not_depend_on_the_batch_size(batch: int) -> None:
    u = activations(3)
    one, many = moments(u, batch=1), moments(u, batch=batch)
    assert one.mu.tobytes() == many.mu.tobytes()
    assert one.sigma.tobytes() == many.sigma.tobytes()


def test_running_moments_do_not_cancel_far_from_zero() -> None:
    """E[x^2] - E[x]^2 in float32 would leave nothing of a spread of 1 around 4096."""
    u = activations(5, offset=4096.0)
    expected = u.numpy().astype(np.float64).reshape(2, -1, 6).std(axis=1)
    np.testing.assert_allclose(moments(u, batch=3).sigma, expected, rtol=1e-6)


def test_running_moments_leave_their_input_alone() -> None:
    u = activations(6)
    before = u.clone()
    moments(u, batch=2)
    assert torch.equal(u, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_finish_refuses_activations_that_are_no_numbers(value: float) -> None:
    u = activations(7)
    u[1, 2, 3, 4] = value
    with pytest.raises(DataError, match="calibration met NaN or infinite activations; use --dtype fp32") as caught:
        moments(u, batch=2)
    assert caught.value.exit_code == 2


def test_finish_refuses_a_layer_that_saw_nothing() -> None:
    running = RunningMoments(2, burn_in=0)
    running.add(0, activations(8)[0])
    with pytest.raises(DataError, match="saw no activations in some layer"):
        running.finish()


def test_silent_units_are_those_within_eps() -> None:
    sigma = np.array([[0.0, 1e-6, 2e-6, 1.0]], dtype=np.float32)
    assert CalibrationStats(np.zeros_like(sigma), sigma, 10).silent_units(1e-6) == 2


def test_z_is_deviation_over_sigma_plus_eps() -> None:
    stats = CalibrationStats(np.array([[1.0, -2.0]], np.float32), np.array([[0.5, 0.0]], np.float32), 10)
    z = Standardizer.of(stats, eps=0.25, device=torch.device("cpu")).z(0, torch.tensor([[2.5, -1.0], [1.0, -2.5]]))
    assert z.tolist() == [[2.0, 4.0], [0.0, -2.0]]
    assert z.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_z_at_is_bit_for_bit_what_z_gives(dtype: torch.dtype) -> None:
    u = activations(9)
    standardizer = Standardizer.of(moments(u, batch=7), eps=1e-6, device=torch.device("cpu"))
    of_layer = u[1].to(dtype)
    whole = standardizer.z(1, of_layer)
    flat = torch.arange(0, of_layer.numel(), 3)
    assert torch.equal(standardizer.z_at(1, of_layer.reshape(-1)[flat], flat % 6), whole.reshape(-1)[flat])
