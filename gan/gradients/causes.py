"""What stops the gradient, or breaks it: at the images, in a layer, in a loss that is flat."""

import math
from collections.abc import Callable

from gan.gradients.rules import WINDOW, Finding, Record, Rule, Thresholds
from gan.gradients.stats import NetworkStats

DEEP = 6  # layers
TINY = 1e-30

EXPLODING_DEPTH, VANISHING_DEPTH = "gradient explodes through depth", "gradient vanishes through depth"
WRONG_RANGE, NON_FINITE, SATURATED_OUTPUT = "wrong range", "non-finite gradients", "saturated generator output"
EXPLODING, DEAD, SATURATED = "exploding gradients", "dead discriminator", "vanished generator gradient"
WRONG_RANGE, SATURATED_OUTPUT = "wrong range", "saturated generator output"


def wrong_range(record: Record, limits: Thresholds) -> Finding | None:
    """Images, real or generated, that reach beyond [-1, 1], or begin at 0."""
    now = record.latest

    def fits(low: float, high: float) -> bool:
        # Far above 0, they are bright pictures; from 0 on, they have been divided by 255, or come from a sigmoid.
        beyond = low < -1 - limits.beyond_range or high > 1 + limits.beyond_range
        return not beyond and not 0 <= low <= limits.beyond_range

    if not record.images:
        return None
    real_fits = fits(*now.range_real)
    if real_fits and (record.begins or fits(*now.range_fake)):
        return None
    real, fake = ("[{:.2g}, {:.2g}]".format(*extremes) for extremes in (now.range_real, now.range_fake))
    return Finding(
        WRONG_RANGE,
        f"real images lie in {real} and generated ones in {fake}, where both should fill [-1, 1]: the discriminator "
        "can tell them apart by their range alone, and the generator learns little of what they show",
        "Radford et al. 2015, arXiv:1511.06434, section 3",
        certain=not real_fits,
        network="generator" if real_fits else None,
    )


def not_finite(record: Record, limits: Thresholds) -> Finding | None:
    """Images or a gradient that are infinite or NaN."""
    now = record.latest
    found = [
        f"the gradient of the {name}" for name, network in now.networks.items() if not math.isfinite(network.total)
    ]
    images = (("real", now.range_real), ("generated", now.range_fake))
    found += [f"some {kind} images" for kind, values in images if not all(map(math.isfinite, values))]
    if not found:
        return None
    return non_finite_gradients(f"infinite or NaN: {', '.join(found)}")


def non_finite_gradients(why: str) -> Finding:
    """The finding of whoever has met infinity or NaN."""
    return Finding(
        NON_FINITE,
        why,
        "Pascanu et al. 2013, arXiv:1211.5063",
        certain=True,
    )


def exploding_depth(record: Record, limits: Thresholds) -> Finding | None:
    """A gradient that grows from layer to layer on its way back."""
    for name, network in record.latest.networks.items():
        # In a few layers, a weight that has exploded does the same.
        if network.first_to_last > limits.exploding and len(network.activation_gradients) >= DEEP:
            return Finding(
                EXPLODING_DEPTH,
                f"on its way back through the {name} the gradient grows {network.first_to_last:.2g} times, from "
                f"{first_and_last(network)}: {layers_beyond(network, lambda ratio: ratio > limits.exploding**0.5)}",
                "He et al. 2015, arXiv:1502.01852; Zhang et al. 2019, arXiv:1901.09321",
                network=name,
                beyond=network.first_to_last / limits.exploding,
            )
    return None


def vanishing_depth(record: Record, limits: Thresholds) -> Finding | None:
    """A gradient that fades from layer to layer on its way back."""
    for name, network in record.latest.networks.items():
        if name == "discriminator" and is_flat(record, limits) and network.dead_share > 0.5:
            continue  # that is no matter of depth
        if network.first_to_last < limits.vanishing:
            return Finding(
                VANISHING_DEPTH,
                f"on its way back through the {name} the gradient shrinks to {network.first_to_last:.2g} of what it "
                f"was, from {first_and_last(network)}: "
                f"{layers_beyond(network, lambda ratio: ratio < limits.vanishing**0.5)}",
                "Glorot & Bengio 2010; He et al. 2015, arXiv:1502.01852",
                network=name,
                beyond=limits.vanishing / max(network.first_to_last, TINY),
            )
    return None


def first_and_last(network: NetworkStats) -> str:
    """The gradient where its way back begins, at the last layer, and where it ends."""
    norms = list(network.activation_gradients.items())
    (first, at_first), (last, at_last) = norms[0], norms[-1]
    return f"{at_last:.2g} at {last} to {at_first:.2g} at {first}"


def layers_beyond(network: NetworkStats, beyond: Callable[[float], bool]) -> str:
    """Names the layers whose gradient, over the last layer's, is beyond a limit."""
    norms = network.activation_gradients
    last = list(norms.values())[-1]
    found = [layer for layer, norm in norms.items() if beyond(norm / last)]
    if len(found) > 4:
        found = [found[0], found[1], "...", found[-1]]
    return f"layers {', '.join(found)}" if found else "the first layer alone"


def exploding_gradients(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator as steep as a cliff: whatever it says comes as a blow."""
    now = record.latest
    if not now.lipschitz > limits.slope:
        return None
    return Finding(
        EXPLODING,
        f"the discriminator's logit changes by up to {now.lipschitz:.3g} per unit of distance between images, where "
        f"{limits.slope:g} is steep; the norm of its gradient is {now.discriminator.total:.3g}, the generator's "
        f"{now.generator.total:.3g}",
        "Gulrajani et al. 2017, arXiv:1704.00028; Mescheder et al. 2018, arXiv:1801.04406",
        network="discriminator",
        beyond=now.lipschitz / limits.slope,
    )


def dead_discriminator(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator that says the same of all images."""
    now = record.latest
    if record.begins or not is_flat(record, limits):
        return pressed_flat(record, limits)
    dead = now.discriminator.dead_share
    if now.discriminator.first_to_last < limits.vanishing and dead <= 0.5:
        return None  # it is flat because it is deep
    slope = max(now.slope_real, now.slope_fake, now.slope_between)
    units = f"; {dead:.0%} of its ReLU units are zero on every image" if dead > 0.5 else ""
    return Finding(
        DEAD,
        f"the discriminator's logit is {now.logit_real:.2g} for real and {now.logit_fake:.2g} for generated images and "
        f"hardly depends on them (slope {slope:.2g}), so it learns nothing and teaches nothing{units}",
        "Maas et al. 2013, Rectifier nonlinearities improve neural network acoustic models",
        network="discriminator",
    )


def pressed_flat(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator that its penalties leave nothing but to be flat."""
    now = record.latest
    shares = [share for stats in record.stats if (share := of_penalties(stats.discriminator)) is not None]
    slope = max(now.slope_real, now.slope_fake, now.slope_between)
    if len(shares) < WINDOW // 2 or not slope < limits.pressed or not now.discriminator.terms:
        return None
    share = math.exp(math.fsum(math.log(max(share, TINY)) for share in shares) / len(shares))
    if not share >= limits.outweighed:
        return None
    return Finding(
        DEAD,
        f"the discriminator's logit is {now.logit_real:.2g} for real and {now.logit_fake:.2g} for generated images and "
        f"hardly depends on them (slope {slope:.2g}): in its weights the gradient of its penalties is {share:.2g} "
        "times that of its loss, and leaves it nothing but to be flat",
        "Mescheder et al. 2018, arXiv:1801.04406",
        network="discriminator",
        beyond=share / limits.outweighed,
    )


def of_penalties(network: NetworkStats) -> float | None:
    """The norms of the gradients of a network's penalties over that of its loss; None where it has none."""
    penalties = sum(norm for name, norm in network.terms.items() if name != "adversarial")
    loss = network.terms.get("adversarial", 0.0)
    return penalties / loss if penalties and loss else None


def is_flat(record: Record, limits: Thresholds) -> bool:
    """Whether the discriminator says the same of all images."""
    now = record.latest
    return all(slope < limits.flat for slope in (now.slope_real, now.slope_fake, now.slope_between))


def saturated_discriminator(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator so sure that the loss is flat where the generator stands."""
    now = record.latest
    if not (now.slope_fake > 0 and now.logit_gap > 0 and now.accuracy_fake >= limits.accuracy):
        return None
    # Divided by its running norm, it is about 1, whatever the slope, unless it has vanished faster than that follows.
    passing = now.image_gradient / (1.0 if now.normalized else now.slope_fake)
    if not passing < limits.passed_slope:
        return None
    return Finding(
        SATURATED,
        f"the discriminator is right about {now.accuracy_fake:.0%} of the generated images, by {now.logit_gap:.3g} "
        f"logits: the loss is flat there and lets {passing:.1g} of the discriminator's slope through, so that "
        f"{now.image_gradient:.1g} per image reaches the generator",
        "Goodfellow et al. 2014, arXiv:1406.2661; Arjovsky & Bottou 2017, arXiv:1701.04862",
        network="discriminator",
        beyond=limits.passed_slope / max(passing, TINY),
    )


def saturated_output(record: Record, limits: Thresholds) -> Finding | None:
    """A generator whose pixels are all at the ends of their range, where its tanh has no slope."""
    now = record.latest
    real, fake = 1 - now.extreme_real, 1 - now.extreme_fake
    if record.begins or not record.images or not fake < limits.inner_pixels * real:
        return None
    return Finding(
        SATURATED_OUTPUT,
        f"{now.extreme_fake:.1%} of the generated pixels are within 1 % of an end of the range, against "
        f"{now.extreme_real:.1%} of the real ones: the slope of a tanh is near zero there, and stops the gradient",
        "Glorot & Bengio 2010",
        network="generator",
    )


CAUSES: tuple[Rule, ...] = (
    wrong_range,
    exploding_depth,
    vanishing_depth,
    exploding_gradients,
    dead_discriminator,
    saturated_discriminator,
    saturated_output,
)
