"""One pass keeps exactly what a sort of the whole array would: candidates, event table, rasters."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from avalanche_llm.errors import DataError, MissingArtifact
from avalanche_llm.events import collect, search
from avalanche_llm.events.collect import EventCollector, EventCounter, LayerTail, TailCollector
from avalanche_llm.events.rate_match import thresholds
from avalanche_llm.events.side_stream import SideStream
from avalanche_llm.events.spike import magnitude
from avalanche_llm.events.standardize import CalibrationStats, Standardizer
from avalanche_llm.events.tail_files import read_events, rows_of_gain, table_to_tails, tails_to_table
from avalanche_llm.io.files import parquet, write_atomically
from avalanche_llm.raster.build import count_raster, occupancy
from avalanche_llm.settings import SpikeDef

POS: SpikeDef = "SPIKE_ONE_SIDED_POS"
ABS: SpikeDef = "SPIKE_TWO_SIDED_ABS"
N_LAYERS, N_SEQ, N_TOKENS, D_FF = 2, 7, 5, 6
SHAPE = (N_LAYERS, N_SEQ, N_TOKENS, D_FF)
EMPTY = LayerTail(*(np.zeros(0, np.int32),) * 3, np.zeros(0, np.float32))
# multiples of a half between -6 and 6: ties everywhere, also with the first bound
COARSE = arrays.arrays(np.float32, SHAPE, elements=st.integers(-12, 12).map(lambda step: step / 2))


def standardizer(*, plain: bool = False, seed: int = 0) -> Standardizer:
    """mu = 0 and sigma = 1 (so that z = u), or values of each unit's own."""
    rng = np.random.default_rng(seed)
    shape = (N_LAYERS, D_FF)
    mu = np.zeros(shape) if plain else rng.normal(0, 20, shape)
    sigma = np.ones(shape) if plain else rng.uniform(0.01, 9, shape)
    stats = CalibrationStats(mu.astype(np.float32), sigma.astype(np.float32), 1)
    return Standardizer.of(stats, eps=1e-12 if plain else 1e-6, device=torch.device("cpu"))


def feed(collector: EventCollector, u: np.ndarray, batch: int) -> list[LayerTail]:
    for first in range(0, N_SEQ, batch):
        for layer in range(N_LAYERS):
            collector.add(layer, torch.from_numpy(u[layer, first : first + batch]))
        collector.end_batch(first + batch)
    return collector.tails


def naive_tails(u: np.ndarray, standard: Standardizer, bounds: list[Mapping[SpikeDef, float]], burn_in: int) -> list[LayerTail]:
    """Every sample at or above a bound of its layer, from z of the whole array."""
    tails = []
    for layer in range(N_LAYERS):
        z = standard.z(layer, torch.from_numpy(u[layer])).numpy()
        keep = np.any([magnitude(z, name) >= bound for name, bound in bounds[layer].items()], axis=0)
        keep[:, :burn_in] = False
        seq, token, unit = np.array(np.nonzero(keep), dtype=np.int32)
        tails.append(LayerTail(seq, token, unit, z[keep]))
    return tails


def same(found: list[LayerTail], expected: list[LayerTail]) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for one, other in zip(found, expected, strict=True)
        for name in ("seq", "token", "unit", "z")
    )


def naive_bounds(
    u: np.ndarray, standard: Standardizer, depth: Mapping[SpikeDef, np.ndarray], burn_in: int
) -> list[Mapping[SpikeDef, float]]:
    """The depth-th largest v of each layer, by a sort of the whole array."""
    bounds: list[Mapping[SpikeDef, float]] = []
    for layer in range(N_LAYERS):
        z = standard.z(layer, torch.from_numpy(u[layer, :, burn_in:])).numpy()
        bounds.append({name: float(np.sort(magnitude(z, name), axis=None)[-int(n[layer])]) for name, n in depth.items()})
    return bounds


@given(
    u=st.one_of(
        COARSE, st.integers(0, 2**16).map(lambda seed: np.random.default_rng(seed).normal(0, 30, SHAPE).astype(np.float32))
    ),
    plain=st.booleans(),
    batch=st.integers(1, N_SEQ),
    burn_in=st.integers(0, 3),
    depths=st.lists(st.integers(1, N_SEQ * 2 * D_FF), min_size=4, max_size=4),
    kinds=st.sampled_from([(POS,), (ABS,), (POS, ABS)]),
    on_host=st.booleans(),
)
def test_tail_collector_keeps_exactly_the_largest_of_the_whole_array(
    u: np.ndarray, plain: bool, batch: int, burn_in: int, depths: list[int], kinds: tuple[SpikeDef, ...], on_host: bool
) -> None:
    standard = standardizer(plain=plain)
    depth = {name: np.array(depths[2 * index : 2 * index + 2]) for index, name in enumerate(kinds)}
    collector = TailCollector(standard, depth, burn_in=burn_in, on_host=on_host)
    found = feed(collector, u, batch)
    assert same(found, naive_tails(u, standard, naive_bounds(u, standard, depth, burn_in), burn_in))
    assert collector.n_samples == N_SEQ * (N_TOKENS - burn_in) * D_FF


@given(COARSE, st.integers(1, N_SEQ), st.integers(0, 40), st.sampled_from([POS, ABS]))
def test_thresholds_from_the_tail_are_those_of_the_whole_array(u: np.ndarray, batch: int, k: int, kind: SpikeDef) -> None:
    standard = standardizer(plain=True)
    tails = feed(TailCollector(standard, {kind: np.array([k + 1, k + 1])}, burn_in=0), u, batch)
    v = [magnitude(u[layer].reshape(-1), kind) for layer in range(N_LAYERS)]
    whole = thresholds(v, np.array([k, k]), v[0].size)
    found = thresholds([magnitude(tail.z, kind) for tail in tails], np.array([k, k]), v[0].size)
    for name in ("tau", "kept", "ties"):
        assert np.array_equal(getattr(found, name), getattr(whole, name))


STEPS = st.lists(st.integers(-8, 12), min_size=2, max_size=2)


@given(COARSE, st.booleans(), st.integers(1, N_SEQ), STEPS, st.integers(0, 3), st.booleans())
def test_event_collector_keeps_everything_at_or_above_its_bounds(
    u: np.ndarray, plain: bool, batch: int, steps: list[int], burn_in: int, on_host: bool
) -> None:
    standard = standardizer(plain=plain)
    bounds: list[Mapping[SpikeDef, float]] = [{POS: step / 2, ABS: abs(step) / 2} for step in steps]
    found = feed(EventCollector(standard, bounds, burn_in=burn_in, on_host=on_host), u, batch)
    assert same(found, naive_tails(u, standard, bounds, burn_in))


@given(COARSE, st.booleans(), st.integers(1, N_SEQ), STEPS, st.integers(0, 3), st.booleans())
def test_event_counter_counts_strictly_over_its_bounds(
    u: np.ndarray, plain: bool, batch: int, steps: list[int], burn_in: int, on_host: bool
) -> None:
    standard = standardizer(plain=plain)
    bounds: list[Mapping[SpikeDef, float]] = [{POS: step / 2, ABS: abs(step) / 2} for step in steps]
    counter = EventCounter(standard, bounds, burn_in=burn_in, on_host=on_host)
    feed(counter, u, batch)
    for kind in (POS, ABS):
        z = [standard.z(layer, torch.from_numpy(u[layer, :, burn_in:])).numpy() for layer in range(N_LAYERS)]
        expected = [(magnitude(of_layer, kind) > bound[kind]).sum() for of_layer, bound in zip(z, bounds, strict=True)]
        assert counter.counts[kind].tolist() == expected


@pytest.mark.parametrize("on_host", [True, False])
def test_tail_collector_loses_nothing_wherever_the_largest_lie(on_host: bool) -> None:
    """All in one group of tokens, so that the first bound is read off smaller ones; on the far side; or in a later batch."""
    standard, depth = standardizer(plain=True), {POS: np.array([3, 3]), ABS: np.array([3, 3])}
    crowded, below = np.full(SHAPE, 0.25, np.float32), np.full(SHAPE, 0.25, np.float32)
    crowded[:, 0, :, 0] = 4.0 + np.arange(N_TOKENS)
    below[:, -1, 2, :3] = -4.0
    for u in (crowded, crowded[:, ::-1].copy(), below, below[:, ::-1].copy()):
        found = feed(TailCollector(standard, depth, burn_in=0, on_host=on_host), u, 2)
        assert same(found, naive_tails(u, standard, naive_bounds(u, standard, depth, 0), 0))


@given(st.integers(1, 3), st.integers(1, 24), st.integers(1, 3), st.integers(1, 200))
def test_extremes_are_those_of_enough_groups_of_tokens(n_windows: int, n_tokens: int, n_units: int, n: int) -> None:
    u = torch.from_numpy(np.random.default_rng(n).permutation(n_windows * n_tokens * n_units).astype(np.float32))
    batch = search.LayerBatch(0, u.reshape(n_windows, n_tokens, n_units), 0)
    lowest, highest = batch.extremes(n)
    assert highest.numel() >= min(n, u.numel())
    size = u.numel() // highest.numel()
    for window, group, unit in np.ndindex(*highest.shape):
        of_group = batch.u[window, group * size : (group + 1) * size, unit]
        assert (of_group.min(), of_group.max()) == (lowest[window, group, unit], highest[window, group, unit])


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: values read, sizes that depend on them, copies to the host."""

    OPS = frozenset({"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.equal"})

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += str(func).rsplit(".", 1)[0] in self.OPS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("n_layers", [2, 9])
def test_on_a_device_the_host_waits_a_fixed_number_of_times_a_batch_however_many_layers_there_are(
    n_layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same code on CPU tensors. A first batch: bounds, counts, places, values; a later one: all but the bounds."""
    copies: list[int] = []

    def to_host(tensor: torch.Tensor) -> np.ndarray:
        copies.append(tensor.numel())
        return tensor.numpy()

    monkeypatch.setattr(search, "to_host", to_host)
    monkeypatch.setattr(collect, "to_host", to_host)
    stats = CalibrationStats(np.zeros((n_layers, D_FF), np.float32), np.ones((n_layers, D_FF), np.float32), 1)
    standard = Standardizer.of(stats, eps=1e-12, device=torch.device("cpu"))
    collector = TailCollector(standard, {ABS: np.ones(n_layers, np.int64)}, burn_in=0, on_host=False)
    u = torch.from_numpy(np.random.default_rng(1).standard_normal((3, n_layers, 2, N_TOKENS, D_FF)).astype(np.float32))
    taken = []
    with Waits() as waits:
        for batch in range(3):
            for layer in range(n_layers):
                collector.add(layer, u[batch, layer])
            collector.end_batch(2 * (batch + 1))
            taken.append(len(copies))
    assert taken == [0, 4, 7]  # one batch behind
    assert waits.n == 0
    assert [len(tail) for tail in collector.tails] == [1] * n_layers


def test_the_waits_of_the_test_above_would_be_seen() -> None:
    with Waits() as waits:
        flags = torch.arange(4) > 1
        assert flags.nonzero().shape == (2, 1)
        assert bool(flags.any())
    assert waits.n == 2


def test_side_stream_works_one_batch_behind_and_on_everything_at_the_end() -> None:
    done: list[str] = []
    side = SideStream[str](torch.device("cpu"), done.append)
    side.hand_over("first")
    assert done == []
    side.hand_over("second")
    assert done == ["first"]
    side.finish()
    side.finish()
    assert done == ["first", "second"]


def test_side_stream_waits_for_the_device_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """On cuda:1 the current device is still 0: an event of that one's stream is done before u of the other is there."""
    asked: list[torch.device | None] = []

    def current_stream(device: torch.device | None = None) -> SimpleNamespace:
        asked.append(device)
        return SimpleNamespace(record_event=lambda: None)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    SideStream[str](torch.device("cuda:1"), lambda batch: None).hand_over("first")
    assert asked == [torch.device("cuda:1")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_tail_is_that_of_the_host() -> None:
    u = np.random.default_rng(3).normal(0, 30, SHAPE).astype(np.float32)
    depth = {POS: np.array([9, 12]), ABS: np.array([15, 2])}
    host = standardizer()
    there = Standardizer(host.mu.cuda(), host.scale.cuda())
    collector = TailCollector(there, depth, burn_in=1)
    for first in range(0, N_SEQ, 2):
        for layer in range(N_LAYERS):
            collector.add(layer, torch.from_numpy(u[layer, first : first + 2]).cuda())
        collector.end_batch(first + 2)
    assert same(collector.tails, feed(TailCollector(host, depth, burn_in=1), u, 2))


def test_tail_collector_memory_follows_the_events_and_not_the_slice() -> None:
    rng = np.random.default_rng(0)
    collector = TailCollector(standardizer(plain=True), {ABS: np.array([4, 4])}, burn_in=0)
    held = []
    for first in range(200):
        for layer in range(N_LAYERS):
            collector.add(layer, torch.from_numpy(rng.standard_normal((1, N_TOKENS, D_FF)).astype(np.float32)))
        collector.end_batch(first + 1)
        held.append(max(len(tail) for tail in collector.tails))
    assert set(held) == {4}


def test_tail_collector_that_saw_too_little_is_a_data_error() -> None:
    collector = TailCollector(standardizer(), {POS: np.array([1, 31])}, burn_in=0)
    for layer in range(N_LAYERS):
        collector.add(layer, torch.zeros(1, N_TOKENS, D_FF))
    with pytest.raises(DataError, match=r"layer 1 saw 30 samples, the deepest threshold needs 31; use more windows"):
        _ = collector.tails


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tail_collector_reads_half_precision_as_float32(dtype: torch.dtype) -> None:
    u = torch.from_numpy(np.random.default_rng(2).normal(0, 30, SHAPE).astype(np.float32)).to(dtype)
    standard, depth = standardizer(), {POS: np.array([9, 12]), ABS: np.array([15, 2])}
    collector = TailCollector(standard, depth, burn_in=1)
    for layer in range(N_LAYERS):
        collector.add(layer, u[layer])
    collector.end_batch(N_SEQ)
    as_float = u.to(torch.float32).numpy()
    assert same(collector.tails, naive_tails(as_float, standard, naive_bounds(as_float, standard, depth, 1), 1))


def some_tails(seed: int = 0) -> list[LayerTail]:
    u = np.random.default_rng(seed).normal(0, 2, SHAPE).astype(np.float32)
    return naive_tails(u, standardizer(plain=True), [{ABS: 1.5}] * N_LAYERS, 0)


def test_tails_to_table_is_sorted_and_comes_back(tmp_path: Path) -> None:
    tails = some_tails()
    table = tails_to_table(tails, gain_id=3, gain=1.1)
    write_atomically(tmp_path / "events.parquet", parquet(table))
    frame = pq.read_table(tmp_path / "events.parquet").to_pandas()
    assert frame.columns.tolist() == ["gain_id", "g", "seq_id", "layer", "token", "unit", "z"]
    assert (frame["gain_id"] == 3).all()
    assert (frame["g"] == 1.1).all()
    assert frame.equals(frame.sort_values(["seq_id", "layer", "token", "unit"], ignore_index=True))
    back = table_to_tails(rows_of_gain(read_events(tmp_path / "events.parquet"), 3), n_layers=N_LAYERS)
    assert same(back, tails)
    assert not len(rows_of_gain(table, 2))


def test_table_to_tails_keeps_a_layer_without_events() -> None:
    tails = [EMPTY, some_tails()[1], EMPTY]
    assert [len(tail) for tail in table_to_tails(tails_to_table(tails, gain_id=0, gain=1.0), n_layers=3)] == [0, len(tails[1]), 0]


@pytest.mark.parametrize("content", [b"", b"PAR1 no table", None])
def test_read_events_refuses_another_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MissingArtifact, match=r"part\.parquet is not the parquet table that was expected"):
        read_events(path)


def test_read_events_refuses_a_table_with_other_columns(tmp_path: Path) -> None:
    table = tails_to_table(some_tails(), gain_id=0, gain=1.0).drop_columns(["unit"])
    write_atomically(tmp_path / "part.parquet", parquet(table))
    with pytest.raises(MissingArtifact, match=r"expected the columns .* unit int32, z float; found .* token int32, z float\)"):
        read_events(tmp_path / "part.parquet")


@pytest.mark.parametrize("kind", [POS, ABS])
@pytest.mark.parametrize("burn_in", [0, 2])
def test_count_raster_counts_the_units_over_tau_at_each_site(kind: SpikeDef, burn_in: int) -> None:
    u = np.random.default_rng(4).normal(0, 2, SHAPE).astype(np.float32)
    tails = naive_tails(u, standardizer(plain=True), [{POS: 1.0, ABS: 1.0}] * N_LAYERS, burn_in)
    tau = np.array([1.5, float(np.sort(magnitude(u[1, :, burn_in:], kind), axis=None)[-9])])  # the second is a sample's own v
    counts = count_raster(tails, tau, kind, n_seq=N_SEQ, first_token=burn_in, n_tokens=N_TOKENS - burn_in)
    expected = (magnitude(u[:, :, burn_in:], kind) > tau[:, None, None, None]).sum(axis=-1).transpose(1, 0, 2)
    assert counts.dtype == np.uint16
    assert counts.shape == (N_SEQ, N_LAYERS, N_TOKENS - burn_in)
    assert (counts == expected).all()
    assert counts[:, 1].sum() == 8  # strictly over tau
    assert (occupancy(counts) == (expected > 0)).all()
    assert occupancy(counts).dtype == np.uint8


@pytest.mark.parametrize(("n", "fits"), [(65_535, True), (65_536, False)])
def test_count_raster_refuses_to_wrap(n: int, fits: bool) -> None:
    site = np.zeros(n, np.int32)
    tails = [LayerTail(site, site, np.arange(n, dtype=np.int32), np.ones(n, np.float32))]
    if fits:
        assert count_raster(tails, np.zeros(1), POS, n_seq=1, first_token=0, n_tokens=1).item() == n
        return
    with pytest.raises(DataError, match="layer 0 has a site with 65536 events, more than 65535; lower the target rate"):
        count_raster(tails, np.zeros(1), POS, n_seq=1, first_token=0, n_tokens=1)
