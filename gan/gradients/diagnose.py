"""What a GAN's training dies of, told from its gradients: measurements in, findings out.

Those rules come first that know what stops the gradient, because what comes out at the end follows from it too:
symptoms are looked for only where nothing stops it. `python -m gan.cli fit` with any of `configs/failures` shows one
condition, and `configs/cures` what heals it.
"""

from gan.gradients.causes import CAUSES, not_finite
from gan.gradients.rules import Finding, Record, Thresholds
from gan.gradients.symptoms import SYMPTOMS


def diagnose(record: Record, thresholds: Thresholds) -> list[Finding]:
    """All conditions that a run is in: what stops the gradient or, where nothing does, what comes of it."""
    broken = not_finite(record, thresholds)
    if broken is not None:
        return [broken]  # nothing can be told from NaN
    causes = [found for rule in CAUSES if (found := rule(record, thresholds)) is not None]
    return causes or [found for rule in SYMPTOMS if (found := rule(record, thresholds)) is not None]
