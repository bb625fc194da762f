"""What the tests of all experiments share."""

import numpy as np

from gan.lab.experiment import Experiment, Result


def assert_passed(result: Result) -> None:
    assert result.checks
    assert not result.failed, "\n".join(f"{check.what}: {check.value:.4g}, {check.asked}" for check in result.failed)


def assert_each_check_can_fail(experiment: Experiment, swaps: list[dict]) -> None:
    """Runs the experiment with one ingredient swapped after the other: together they must fail every check.

    Args:
        experiment: Which.
        swaps: Arguments of its `run` that make it wrong, each a set of them.
    """
    whole = experiment.run(seed=0)
    assert_passed(whole)
    never_failed = {check.what for check in whole.checks}
    for swap in swaps:
        failed = {check.what for check in experiment.run(seed=0, **swap).failed}
        assert failed, f"nothing fails with {swap}"
        never_failed -= failed
    assert not never_failed


def ink(figure) -> float:
    """The share of the figure's pixels that are not white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return float((np.asarray(canvas.buffer_rgba())[..., :3] < 250).any(-1).mean())
