"""Tools of a few lines: work in the background, finiteness, how often garbage is looked for, memory given back."""

import gc
import platform
from threading import Event

import psutil
import pytest
import torch

from avalanche_llm.background import in_background
from avalanche_llm.garbage import SELDOM, give_back, looked_for_seldom
from avalanche_llm.model.finite import all_finite


def test_in_background_works_beside_its_caller_and_hands_over_what_it_found() -> None:
    asked, answered = Event(), Event()

    def work() -> str:
        asked.set()
        assert answered.wait(60)
        return "found"

    found = in_background(work)
    assert asked.wait(60)
    assert not found.done()
    answered.set()
    assert found.result(60) == "found"


def test_in_background_raises_where_the_result_is_wanted() -> None:
    def work() -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        in_background(work).result(60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", [0, 7, 11])
def test_all_finite_sees_a_nan_or_an_infinity_anywhere(dtype: torch.dtype, place: int) -> None:
    fine, other = torch.linspace(-3, 3, 12, dtype=dtype).reshape(3, 4), torch.ones(2, dtype=dtype)
    assert all_finite(fine, other)
    for value in (torch.nan, torch.inf, -torch.inf):
        spoilt = fine.clone()
        spoilt.view(-1)[place] = value
        assert not all_finite(spoilt)
        assert not all_finite(other, spoilt)


def test_all_finite_of_nothing_is_true() -> None:
    assert all_finite()
    assert all_finite(torch.zeros(0, 3))


def test_garbage_is_looked_for_seldom_inside_and_as_before_outside() -> None:
    before = gc.get_threshold()
    assert before != SELDOM
    with pytest.raises(KeyError), looked_for_seldom():
        assert gc.get_threshold() == SELDOM
        raise KeyError
    assert gc.get_threshold() == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap can be told")
def test_the_heap_below_a_block_that_stays_goes_back_to_the_system() -> None:
    blocks = [bytes(3000) for _ in range(50_000)]
    blocks[:-1] = []
    held = psutil.Process().memory_info().rss
    give_back()
    assert held - psutil.Process().memory_info().rss > 100e6
