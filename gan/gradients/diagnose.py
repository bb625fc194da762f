"""What a GAN's training dies of, told from its gradients: measurements in, findings out.

Those rules come first that know what stops the gradient, because what comes out at the end follows from it too:
symptoms are looked for only where nothing stops it. `python -m gan.cli fit` with any of `configs/failures` shows one
condition, and `configs/cures` what heals it.
"""

import math
from dataclasses import replace

from gan.gradients.causes import (
    CAUSES,
    DEAD,
    EXPLODING,
    EXPLODING_DEPTH,
    SATURATED,
    SATURATED_OUTPUT,
    VANISHING_DEPTH,
    WRONG_RANGE,
    is_flat,
    not_finite,
)
from gan.gradients.data import CONSTANT, OF_DATA, ONE_CLASS, REPEATED, UNSHUFFLED
from gan.gradients.rules import Finding, Record, Thresholds
from gan.gradients.symptoms import (
    BY_HEART,
    COLLAPSE,
    IMBALANCE,
    NO_PROGRESS,
    OSCILLATION,
    SYMPTOM_NAMES,
    SYMPTOMS,
)
from gan.gradients.wiring import DEAF, DETACHED, FROZEN, LAGGING, NEVER_UPDATED, OF_WIRING, PROBABILITIES, changed

ALIKE = 0.01  # generated images nearer to each other than this, in distances between real ones, are one picture

RULES = (*OF_DATA, *OF_WIRING, *CAUSES, *SYMPTOMS)

UNBALANCED = (SATURATED, DEAD, EXPLODING, SATURATED_OUTPUT)  # what one player alone comes to
FOLLOWS = {  # the causes that follow from another; symptoms follow from any
    CONSTANT: (ONE_CLASS, REPEATED, UNSHUFFLED, DEAF, *UNBALANCED),
    REPEATED: (UNSHUFFLED, ONE_CLASS, *UNBALANCED),
    ONE_CLASS: (UNSHUFFLED,),
    PROBABILITIES: (SATURATED, DEAD),
    DETACHED: (DEAF, *UNBALANCED),
    FROZEN: (DEAF, *UNBALANCED),
    DEAF: (SATURATED,),
    VANISHING_DEPTH: (DEAF,),
    SATURATED_OUTPUT: (DEAF,),
}
STARVING = (VANISHING_DEPTH, DEAD, SATURATED_OUTPUT)  # what leaves weights without a gradient
OF_SCORES = (COLLAPSE, OSCILLATION, NO_PROGRESS)
ONLY = {LAGGING: OF_SCORES, NEVER_UPDATED: OF_SCORES}  # as scores are of the average


def diagnose(record: Record, thresholds: Thresholds) -> list[Finding]:
    """All conditions that a run is in, but those that follow from another: they are that one's `symptoms`."""
    broken = not_finite(record, thresholds)
    if broken is not None:
        return [broken]  # nothing can be told from NaN
    found = {finding.name: finding for rule in RULES if (finding := rule(record, thresholds)) is not None}
    told: dict[str, list[str]] = {}  # by the name of a cause, its symptoms
    under = {name: next((cause for cause in found if follows(found[name], found[cause])), None) for name in found}
    for name in found:
        cause = name
        while (above := under[cause]) is not None:
            cause = above
        told.setdefault(cause, []).extend([] if cause == name else [name])
    return [replace(found[cause], symptoms=tuple(symptoms)) for cause, symptoms in told.items()]


def follows(finding: Finding, cause: Finding) -> bool:
    """Whether a condition follows from a cause."""
    name = finding.name
    if cause.name in SYMPTOM_NAMES:
        return False
    if name == FROZEN and finding.beyond > 1:  # they do move, but hardly, as weights do that hardly have a gradient
        return cause.name in STARVING
    if cause.name == FROZEN and cause.beyond > 1 and name in STARVING:
        return False
    if name in SYMPTOM_NAMES:
        return name in ONLY.get(cause.name, SYMPTOM_NAMES)
    # Where real images have another range, so may others follow; where generated ones do, that may itself follow.
    others = UNBALANCED if cause.name == WRONG_RANGE and cause.certain else ()
    return name in FOLLOWS.get(cause.name, others)


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
        ONE_CLASS: now.batch is not None or bool(record.scores),
        REPEATED: now.batch is not None and now.batch.variance > 0,
        UNSHUFFLED: now.batch is not None and now.batch.variance > 0,
        PROBABILITIES: now.range_logit is not None,
        DETACHED: now.generator.total > 0,
        DEAF: now.response is not None and now.spread_real > 0,
        FROZEN: all(
            network.update_ratio and (changed(record, name) or 0) >= thresholds.still
            for name, network in now.networks.items()
        ),
        LAGGING: now.moved_average is not None,
        NEVER_UPDATED: now.moved_average is not None,
    }
    return seen.get(name, True)
