"""Loss curves: that each check can fail."""

from gan.lab.experiment import load
from gan.lab.loss_curves import LOSSES
from gan.losses import Hinge, LeastSquares, MaximumLikelihood, NonSaturating, Saturating
from lab.lab_checks import assert_each_check_can_fail


def test_each_check_can_fail():
    def swap(**losses):
        return {"losses": LOSSES | {name.replace("_", " "): loss for name, loss in losses.items()}}

    exchanged = swap(saturating=NonSaturating()) | {}
    exchanged["losses"]["non-saturating"] = Saturating()
    square = swap(saturating=LeastSquares())
    square["losses"]["non-saturating"] = MaximumLikelihood()
    assert_each_check_can_fail(
        load("loss_curves"),
        [
            exchanged,
            square,
            swap(maximum_likelihood=Hinge()),
            swap(least_squares=Saturating()),
            swap(hinge=LeastSquares(), Wasserstein=LeastSquares()),
        ],
    )
