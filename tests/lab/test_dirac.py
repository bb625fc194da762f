"""Dirac-GAN: that each check can fail, and the reference's numbers."""

import pytest
import torch

from gan.lab.dirac import GAMES, PENALTIES, UPDATES, alternating, field, run, simultaneous
from gan.lab.experiment import load
from gan.losses import NonSaturating, Saturating, Wasserstein
from gan.penalties import R1, R2
from lab.lab_checks import assert_each_check_can_fail

# From (1, 1) with steps of 0.2, by another program, in which the sign of psi is the other way round: the distance
# after 1, 100 and 500 steps.
MEASURED_BEFORE = {
    "saturating": (1.42, 1.96, 3.10),
    "non-saturating": (1.36, 0.74, 0.64),
    "Wasserstein": (1.44, 10, 2.6e4),
    "non-saturating + R1 0.3": (1.31, 0.077, 2.2e-6),
    "saturating + R1 0.3": (None, 0.099, 2.6e-6),
    "saturating + R1 1": (None, 3.8e-4, None),
}


@pytest.mark.slow
def test_agrees_with_what_was_measured_before():
    paths = run(start=(1.0, -1.0)).tables["games"]
    for name, expected in MEASURED_BEFORE.items():
        for step, radius in zip((1, 100, 500), expected, strict=True):
            if radius is not None:
                got = paths.where(game=name, step=step)["radius"].item()
                assert got == pytest.approx(radius, rel=0.03), (name, step)


def test_field_by_hand():
    theta, psi = 0.7, -0.4
    place = torch.tensor([theta, psi], dtype=torch.float64)
    slope = torch.sigmoid(place.prod())
    expected = torch.stack([slope * psi, -slope * theta - 0.3 * psi])  # G: psi sigmoid(psi theta) up
    torch.testing.assert_close(field(Saturating(), R1(weight=0.3))(place), expected)


class WrongSign(NonSaturating):
    """A generator that makes its fakes look fake."""

    def generator(self, fake_logits, real_logits=None):
        return -super().generator(fake_logits, real_logits)


@pytest.mark.slow
def test_each_check_can_fail():
    def lossy(loss, penalty="none"):
        return {"games": dict.fromkeys(GAMES, (loss, penalty))}

    assert_each_check_can_fail(
        load("dirac"),
        [
            lossy(NonSaturating()),
            lossy(Saturating(), "R1 1"),
            lossy(Wasserstein(), "R1 1"),
            {"penalties": {name: type(one)(weight=0.0) for name, one in PENALTIES.items()}},
            lossy(WrongSign()),
            {"penalties": PENALTIES | {"R2 0.3": R2(weight=0.0)}},
            {"games": GAMES | {"relativistic": (WrongSign(), "none")}},
            {"updates": dict.fromkeys(UPDATES, simultaneous)},
            {"updates": dict.fromkeys(UPDATES, alternating)},
        ],
    )
