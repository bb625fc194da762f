"""What a GAN's training dies of, told from its gradients: measurements in, findings out.

Those rules come first that know what stops the gradient, because what comes out at the end follows from it too:
symptoms are looked for only where nothing stops it. `python -m gan.cli fit` with any of `configs/failures` shows one
condition, and `configs/cures` what heals it.
"""

import math

from gan.gradients.causes import (
    CAUSES,
    DEAD,
    EXPLODING,
    EXPLODING_DEPTH,
    SATURATED,
    VANISHING_DEPTH,
    is_flat,
    not_finite,
)
from gan.gradients.rules import Finding, Record, Thresholds
from gan.gradients.symptoms import BY_HEART, COLLAPSE, IMBALANCE, SYMPTOMS

ALIKE = 0.01  # generated images nearer to each other than this, in distances between real ones, are one picture


def diagnose(record: Record, thresholds: Thresholds) -> list[Finding]:
    """All conditions that a run is in: what stops the gradient or, where nothing does, what comes of it."""
    broken = not_finite(record, thresholds)
    if broken is not None:
        return [broken]  # nothing can be told from NaN
    causes = [found for rule in CAUSES if (found := rule(record, thresholds)) is not None]
    return causes or [found for rule in SYMPTOMS if (found := rule(record, thresholds)) is not None]


def can_be_over(name: str, record: Record, thresholds: Thresholds) -> bool:
    """Whether the latest measurement, which does not show a condition, shows that a run is out of it.

    It does not where what the condition is told from has vanished: from NaN, from images that are all black, or from
    gradients that are all zero, nothing can be told.
    """
    now = record.latest
    if not_finite(record, thresholds) is not None or now.spread < ALIKE:
        return False
    through_depth = [network.first_to_last for network in now.networks.values() if network.activation_gradients]
    flat = is_flat(record, thresholds)
    seen = {
        EXPLODING_DEPTH: all(map(math.isfinite, through_depth)),
        VANISHING_DEPTH: all(ratio >= thresholds.vanishing for ratio in through_depth),
        EXPLODING: not flat,
        DEAD: not flat,
        SATURATED: now.slope_fake > 0,
        BY_HEART: now.logit_held_out is not None,
        COLLAPSE: math.isfinite(now.spread),
        IMBALANCE: all(network.update_ratio for network in now.networks.values()),
    }
    return seen.get(name, True)
