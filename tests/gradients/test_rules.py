"""Thresholds that cannot be."""

import math

import pytest

from gan.gradients.rules import Thresholds


def test_thresholds_must_be_above_zero():
    with pytest.raises(ValueError, match="threshold slope must be above 0, got -1"):
        Thresholds(slope=-1)
    with pytest.raises(ValueError, match="threshold logit_flips must be above 0"):
        Thresholds(logit_flips=math.nan)
