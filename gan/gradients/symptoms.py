"""What comes out where nothing stops the gradient: images learnt by heart, collapse, circles, no way at all."""

import math
from collections.abc import Sequence

from gan.gradients.rules import WINDOW, Finding, Record, Rule, Score, Thresholds

BY_HEART = "training images learnt by heart"
COLLAPSE, OSCILLATION, IMBALANCE = "mode collapse", "oscillation without progress", "learning-rate imbalance"
NO_PROGRESS = "no progress"
ONE_SCORE = 3  # times as far from the floor as after two


def learnt_by_heart(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator that knows its training images, and takes others of their kind for generated."""
    window = [(stats, stats.logit_held_out) for stats in record.stats if stats.logit_held_out is not None]
    if len(window) < WINDOW // 2:
        return None
    gaps = [stats.logit_real - held_out for stats, held_out in window]
    gap, whole = mean(gaps), mean([stats.logit_gap for stats, _ in window])
    # Of that mean: few images are measured, and those held out are the same each time.
    error = (mean([(one - gap) ** 2 for one in gaps]) / (len(gaps) - 1)) ** 0.5
    error = math.hypot(error, mean([stats.held_out_error or 0.0 for stats, _ in window]))
    if not (whole > 0 and gap >= limits.by_heart * whole and gap > limits.by_chance * error):
        return None
    real, fake = mean([stats.logit_real for stats, _ in window]), mean([stats.logit_fake for stats, _ in window])
    return Finding(
        BY_HEART,
        f"the discriminator's logit is {real:.2g} for images that it trains on, {real - gap:.2g} for real images that "
        f"it does not, and {fake:.2g} for generated ones: {gap / whole:.0%} of the way from the first to the last is "
        "what it knows by heart, and teaches the generator nothing of what such images have in common",
        "Karras et al. 2020, arXiv:2006.06676; Zhao et al. 2020, arXiv:2006.10738",
        network="discriminator",
    )


def mean(values: Sequence[float]) -> float:
    """The mean of some numbers."""
    return math.fsum(values) / len(values)


def mode_collapse(record: Record, limits: Thresholds) -> Finding | None:
    """A generator that makes a few images only, whatever its latents; or that has not begun to make others."""
    # Before it has learnt anything, a generator's images are alike for a while.
    latest = record.stats[-1:] if len(record.stats) >= WINDOW else record.stats[-2:]
    alike = len(record.stats) >= 3 and all(stats.spread < limits.spread for stats in latest)
    classes = few_classes(record, limits)
    if classes and not alike and hardly_moved(record, limits):
        return None
    classes = classes if is_collapsing(record, limits) else ""
    if not (alike or classes):
        return None
    return Finding(
        COLLAPSE,
        f"two generated images are {record.latest.spread:.2g} times as far apart as two real ones{classes}",
        "Metz et al. 2017, arXiv:1611.02163; Mescheder et al. 2018, arXiv:1801.04406",
        network="generator",
    )


def few_classes(record: Record, limits: Thresholds) -> str:
    """How the sentence goes on where too few classes are covered, and the FID does not fall; "" otherwise."""
    score = record.scores[-1] if record.scores else None
    if score is None or score.covered is None or score.classes is None:
        return ""
    few = score.covered <= limits.classes * score.classes and stalled(record.scores)
    if not few or oscillation(record, limits) is not None:
        return ""
    return f", and cover {score.covered} of {score.classes} classes at an FID of {score.fid:.3g} that does not fall"


def is_collapsing(record: Record, limits: Thresholds) -> bool:
    """Whether few classes are what is left of more, as a generator that has only begun covers few as well.

    Images are nearer to each other than before, more classes have been covered, or it has been so for two scores.
    """
    before = [stats.spread for stats in record.stats[:-1] if math.isfinite(stats.spread)]
    if len(record.stats) < 3 or not before or not record.latest.spread < limits.classes_spread:
        return False
    nearer = record.latest.spread < limits.nearer * mean(before)
    lost = any((each.covered or 0) > limits.classes * (each.classes or 0) for each in record.scores[:-1])
    return nearer or lost or stalled(record.scores[:-1])


def no_progress(record: Record, limits: Thresholds) -> Finding | None:
    """A generator that gets nowhere: its images hardly change, or they do, and are no better for long."""
    if mode_collapse(record, limits) or oscillation(record, limits):
        return None
    stuck = is_stuck(record, limits)
    classes, moved = few_classes(record, limits), hardly_moved(record, limits)
    if stuck:
        why = f"{stuck}: further from real images than one and the same image, their mean, would be"
    elif classes and moved:
        why = f"{moved}{classes}"
    else:
        return None
    reference = "Salimans et al. 2016, arXiv:1606.03498"
    return Finding(NO_PROGRESS, why, reference, network="generator", certain=bool(stuck))


def is_stuck(record: Record, limits: Thresholds) -> str:
    """How a sentence begins on scores that are bad and have been no better for long; "" on others."""
    begin = record.stats[0].step if len(record.stats) >= WINDOW else 0
    before = [score for score in record.scores[:-2] if score.step <= begin]
    since = record.scores[len(before) :]
    if not before or not since[-1].fid > limits.far * since[-1].variance:
        return ""
    scores = [before[-1], *since]
    if not min(score.fid for score in since) > limits.no_better * before[-1].fid:
        return ""
    fids = ", ".join(f"{score.fid:.3g}" for score in scores)
    return f"from batch {before[-1].step:,} on the FID is {fids}, and no better"


def hardly_moved(record: Record, limits: Thresholds) -> str:
    """How a sentence begins on images that hardly change; "" where they do."""
    moved = [stats.movement / stats.spread_real for stats in record.stats if stats.movement and stats.spread_real]
    if len(record.stats) < WINDOW or sum(moved) > limits.crawl:
        return ""
    way = f"by {sum(moved):.2f} of the distance between two real images in all"
    return f"in {len(moved)} measurements images of the same latents have moved {way}"


def oscillation(record: Record, limits: Thresholds) -> Finding | None:
    """Two networks that chase each other in circles."""
    window = [(stats, stats.movement) for stats in record.stats if stats.movement is not None]
    if len(window) < WINDOW or not stalled(record.scores):
        return None
    if not all(stats.spread_real for stats, _ in window):
        return None
    movement = sum(moved / stats.spread_real for stats, moved in window) / len(window)
    flips = sum(stats.logit_gap < 0 for stats, _ in window) / len(window)
    score = record.scores[-1]
    if not (movement > limits.movement and flips >= limits.logit_flips):
        return None
    # One score that is no better says little of images that are nearly there, or that are as far apart as real ones.
    sure = stalled(record.scores[:-1])
    apart = mean([stats.spread for stats, _ in window]) >= limits.classes_spread
    if not score.fid > (1 if sure else ONE_SCORE) * limits.fid_over_floor * score.floor or (apart and not sure):
        return None
    best = min(score.fid for score in record.scores[:-1])
    return Finding(
        OSCILLATION,
        f"images of the same latents keep moving, each time by {movement:.2f} of the distance between two real images, "
        f"and in {flips:.0%} of the measurements the discriminator takes them for more real than real ones, but the "
        f"FID, {score.fid:.3g}, is not better than it was ({best:.3g})",
        "Mescheder et al. 2018, arXiv:1801.04406; Gidel et al. 2019, arXiv:1807.04740",
    )


def imbalance(record: Record, limits: Thresholds) -> Finding | None:
    """Two networks that learn at rates too far apart."""
    ratios = {name: ratio for name, network in record.latest.networks.items() if (ratio := network.update_ratio)}
    if record.begins or len(ratios) < 2:  # a step that was skipped, or a loss that is content
        return None
    slow, fast = sorted(ratios, key=ratios.__getitem__)
    if not ratios[fast] > limits.imbalance * ratios[slow]:
        return None
    return Finding(
        IMBALANCE,
        f"in a batch the weights of the {fast} change by {ratios[fast]:.1g} of their size and those of the {slow} by "
        f"{ratios[slow]:.1g}: the {slow} cannot follow",
        "Heusel et al. 2017, arXiv:1706.08500",
        network=fast,
        beyond=ratios[fast] / ratios[slow] / limits.imbalance,
    )


def stalled(scores: Sequence[Score]) -> bool:
    """Whether the latest score is no better than those before it, by 5 % at least."""
    return len(scores) > 1 and scores[-1].fid > 0.95 * min(score.fid for score in scores[:-1])


def ended_badly(scores: Sequence[Score]) -> str:
    """Why a run has ended badly, whatever its gradients showed, by its scores; nothing if it has not.

    What is a sum of variances away from real images is as bad as one image, their mean; what is a twentieth of that
    away is good, wherever it came from. Where that sum is not known, nothing is said.
    """
    if not scores:
        return ""
    first, last, best, variance = scores[0].fid, scores[-1].fid, min(each.fid for each in scores), scores[-1].variance
    if last > 2 * best and last > variance / 20:
        return f"FID {last:.3g} at the end is more than twice the best, {best:.3g}"
    if len(scores) > 1 and last > first / 2 and last > variance / 2:
        return f"FID {last:.3g} at the end is more than half of the first, {first:.3g}"
    return ""


SYMPTOMS: tuple[Rule, ...] = (learnt_by_heart, mode_collapse, oscillation, imbalance, no_progress)
SYMPTOM_NAMES = (BY_HEART, COLLAPSE, OSCILLATION, IMBALANCE, NO_PROGRESS)
