"""Work by the piece: in order, each piece alone, and nothing left behind."""

import pytest
import torch

from gan.metrics import kernel_distance, neighbour_scores
from gan.metrics.threads import in_threads

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_order_and_each_piece_has_a_thread(threads):
    results = in_threads(
        lambda item: (item, torch.get_num_threads(), torch.is_inference_mode_enabled()), range(20), CPU
    )
    assert results == [(item, 1, True) for item in range(20)]
    assert torch.get_num_threads() == threads


def test_an_error_is_the_callers_and_threads_come_back(threads):
    def fail(item):
        raise ValueError(f"no {item}")

    with pytest.raises(ValueError, match="no 0"):
        in_threads(fail, range(3), CPU)
    assert torch.get_num_threads() == threads


def test_elsewhere_than_on_a_cpu_all_is_done_in_one_thread(threads):
    assert in_threads(lambda item: torch.get_num_threads(), range(2), torch.device("meta")) == [threads] * 2


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_scores_are_the_same_to_the_bit(threads, mode):
    rng = torch.Generator().manual_seed(0)
    expected = {}
    for number in (1, threads):
        torch.set_num_threads(number)
        with mode():
            real, fake = torch.randn(900, 6, generator=rng.manual_seed(1)), torch.randn(800, 6, generator=rng)
            scores = kernel_distance(real, fake, 6, 300), neighbour_scores(real, fake)
        assert expected.setdefault("scores", scores) == scores
