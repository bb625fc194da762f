"""What a GAN's training dies of, told from its gradients: signals in, findings out.

Each rule is a function of a `Record` and of `Thresholds`, and knows one condition. Those that stop the gradient come
first, because the others, in what comes out at the end, follow from them too: they are looked for only where nothing
stops it. `python -m gan.cli fit` with any of `configs/failures` shows one, and `configs/cures` what heals it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gan.gradients import GradientStats, NetworkStats

NETWORKS = ("generator", "discriminator")


@dataclass(frozen=True)
class Thresholds:
    """Where a condition begins. The defaults leave room to all that the shipped configs show in training.

    Attributes:
        passing: Saturated discriminator: the part of the discriminator's slope at generated images that the loss lets
            through to the generator is below this. 1 for Wasserstein and hinge; .4 or more in good runs.
        accuracy: And the discriminator is right about this share of generated images.
        vanishing: Vanishing through depth: the gradient at a network's first layer, over that at its last, is below.
        exploding: Exploding through depth: it is above. Up to 130 in a good discriminator with batch norm.
        slope: Exploding gradients: the discriminator's steepest slope, in logits per unit of distance between images,
            is above. 0.1 to 14 in good runs.
        flat: Dead discriminator: its slope is below this everywhere.
        outside: Wrong range: how far images may reach beyond [-1, 1].
        inside: Saturated output: the share of generated pixels that are not at an end of the range, over that of real
            pixels, is below.
        spread: Mode collapse: the distance between two generated images, over that between two real ones, is below.
        classes: Or the share of the classes that generated images cover is at most this,
        apart: their distance is below this part of the real ones', and the FID does not fall.
        movement: Oscillation: from one measurement to the next, images of the same latents move by more than this part
            of the distance between two real ones, on average over the last eight (good runs do too, until rates fall),
        flips: in this share of the eight, the discriminator takes the generated for more real than the real,
        far: and the FID does not fall, and is above this many times the floor, that of real images.
        imbalance: Learning-rate imbalance: in a batch, one network's weights change more than the other's, in
            proportion to their size, by more than this factor.
    """

    passing: float = 0.01
    accuracy: float = 0.95
    vanishing: float = 1e-3
    exploding: float = 1000.0
    slope: float = 50.0
    flat: float = 1e-4
    outside: float = 0.05
    inside: float = 0.02
    spread: float = 0.1
    classes: float = 0.5
    apart: float = 0.75
    movement: float = 0.2
    flips: float = 0.25
    far: float = 50.0
    imbalance: float = 100.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"GradientDoctor's threshold {name} must be above 0, and is {value}")


@dataclass(frozen=True)
class Score:
    """How near generated images were to real ones.

    Attributes:
        step: Training batches completed.
        fid: Frechet distance.
        floor: That of as many real images.
        covered: Classes with at least a tenth of a fair share of the generated images, None without a classifier.
        classes: Classes that there are, likewise.
    """

    step: int
    fid: float
    floor: float
    covered: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Record:
    """What has been measured of a run.

    Attributes:
        signals: The latest measurements, the oldest first; one at least.
        scores: The latest scores, the oldest first.
    """

    signals: Sequence[GradientStats]
    scores: Sequence[Score] = ()

    @property
    def latest(self) -> GradientStats:
        return self.signals[-1]

    @property
    def begins(self) -> bool:
        """Whether the networks are as they were initialised, or nearly so."""
        return len(self.signals) == 1


@dataclass(frozen=True)
class Finding:
    """A condition that a run is in.

    Attributes:
        name: What it is called.
        why: One sentence, with the figures.
        cures: What cures it, the first to try first, as Markdown: settings are `--code`.
        reference: Where to read about it.
        certain: One measurement is enough.
    """

    name: str
    why: str
    cures: tuple[str, ...]
    reference: str
    certain: bool = False


Rule = Callable[[Record, Thresholds], Finding | None]


def diagnose(record: Record, thresholds: Thresholds) -> list[Finding]:
    """All conditions that a run is in: what stops the gradient or, where nothing does, what comes of it."""
    broken = not_finite(record, thresholds)
    if broken is not None:
        return [broken]  # nothing can be told from NaN
    causes = [found for rule in CAUSES if (found := rule(record, thresholds)) is not None]
    return causes or [found for rule in SYMPTOMS if (found := rule(record, thresholds)) is not None]


# ---------------------------------------------------------------------- what stops the gradient


def wrong_range(record: Record, limits: Thresholds) -> Finding | None:
    """Images, real or generated, that reach beyond [-1, 1], or begin at 0."""
    now = record.latest

    def fits(low: float, high: float) -> bool:
        # Far above 0, they are bright pictures; from 0 on, they have been divided by 255, or come from a sigmoid.
        beyond = low < -1 - limits.outside or high > 1 + limits.outside
        return not beyond and not 0 <= low <= limits.outside

    real_fits = fits(*now.range_real)
    if real_fits and (record.begins or fits(*now.range_fake)):
        return None
    real, fake = ("[{:.2g}, {:.2g}]".format(*ends) for ends in (now.range_real, now.range_fake))
    cures = ("scale the data to [-1, 1] in your data module, as MNISTDataModule and InMemoryDataModule do",)
    if real_fits:
        cures = ("let the generator end in a tanh, as the shipped ones do",)
    return Finding(
        "wrong range",
        f"real images lie in {real} and generated ones in {fake}, where both should fill [-1, 1]: the discriminator "
        "can tell them apart by their range alone, and the generator learns little of what they show",
        cures,
        "Radford et al. 2015, arXiv 1511.06434, section 3",
        certain=not real_fits,
    )


def not_finite(record: Record, limits: Thresholds) -> Finding | None:
    """Images or a gradient that are infinite or NaN."""
    now = record.latest
    found = [f"the gradient of the {name}" for name in NETWORKS if not math.isfinite(getattr(now, name).total)]
    images = (("real", now.range_real), ("generated", now.range_fake))
    found += [f"some {kind} images" for kind, ends in images if not all(map(math.isfinite, ends))]
    if not found:
        return None
    return non_finite_gradients(f"infinite or NaN: {', '.join(found)}")


def non_finite_gradients(why: str) -> Finding:
    return Finding(
        "non-finite gradients",
        why,
        (
            "a lower rate: `--model.discriminator_optimizer.lr`, `--model.generator_optimizer.lr`",
            "`--trainer.callbacks+=GradientClipping --trainer.callbacks.discriminator=ByNorm "
            "--trainer.callbacks.discriminator.max_norm=10`",
            "NonFiniteGuard's policy: rollback, if it happens once in many thousand batches",
        ),
        "Pascanu et al. 2013, arXiv 1211.5063",
        certain=True,
    )


def exploding_depth(record: Record, limits: Thresholds) -> Finding | None:
    """A gradient that grows from layer to layer on its way back."""
    for name in NETWORKS:
        network: NetworkStats = getattr(record.latest, name)
        # In a few layers, a weight that has exploded does the same.
        if network.first_to_last > limits.exploding and len(network.activation_gradients) >= DEEP:
            return Finding(
                "gradient explodes through depth",
                f"on its way back through the {name} the gradient grows {network.first_to_last:.2g} times, from "
                f"{ends(network)}: {layers_beyond(network, lambda ratio: ratio > limits.exploding**0.5)}",
                (
                    f"`--model.{name}.residual scaled`, for a residual network that adds its branches unscaled",
                    f"`--model.{name}.norm layer`, where the network has it",
                    f"`--model.{name}.init xavier`, likewise, or fewer layers",
                ),
                "He et al. 2015, arXiv 1502.01852; Zhang et al. 2019, arXiv 1901.09321",
            )
    return None


def vanishing_depth(record: Record, limits: Thresholds) -> Finding | None:
    """A gradient that fades from layer to layer on its way back."""
    for name in NETWORKS:
        network: NetworkStats = getattr(record.latest, name)
        if name == "discriminator" and is_flat(record, limits) and network.dead_share > 0.5:
            continue  # that is no matter of depth
        if network.first_to_last < limits.vanishing:
            return Finding(
                "gradient vanishes through depth",
                f"on its way back through the {name} the gradient shrinks to {network.first_to_last:.2g} of what it "
                f"was, from {ends(network)}: {layers_beyond(network, lambda ratio: ratio < limits.vanishing**0.5)}",
                (
                    f"`--model.{name}.activation leaky_relu --model.{name}.init he`, or what your network has for them",
                    f"`--model.{name}.norm {'batch' if name == 'generator' else 'layer'}`, likewise",
                    "residual connections, as in ResNetGenerator and ResNetDiscriminator, or fewer layers",
                ),
                "Glorot & Bengio 2010; He et al. 2015, arXiv 1502.01852",
            )
    return None


def ends(network: NetworkStats) -> str:
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
        "exploding gradients",
        f"the discriminator's logit changes by up to {now.lipschitz:.3g} per unit of distance between images, where "
        f"{limits.slope:g} is steep; the norm of its gradient is {now.discriminator.total:.3g}, the generator's "
        f"{now.generator.total:.3g}",
        (
            "`--model.penalties+=GradientPenalty` for the Wasserstein loss, for others `--model.penalties+=R1 "
            "--model.penalties.weight=1`",
            "a lower rate: `--model.discriminator_optimizer.lr`",
            "`--model.discriminator.norm spectral`, where the network has it",
        ),
        "Gulrajani et al. 2017, arXiv 1704.00028; Mescheder et al. 2018, arXiv 1801.04406",
    )


def dead_discriminator(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator that says the same of all images."""
    now = record.latest
    if record.begins or not is_flat(record, limits):
        return None
    dead = now.discriminator.dead_share
    if now.discriminator.first_to_last < limits.vanishing and dead <= 0.5:
        return None  # it is flat because it is deep
    slope = max(now.slope_real, now.slope_fake, now.slope_between)
    units = f"; {dead:.0%} of its ReLU units are zero on every image" if dead > 0.5 else ""
    return Finding(
        "dead discriminator",
        f"the discriminator's logit is {now.logit_real:.2g} for real and {now.logit_fake:.2g} for generated images and "
        f"hardly depends on them (slope {slope:.2g}), so it learns nothing and teaches nothing{units}",
        (
            "a lower rate: `--model.discriminator_optimizer.lr`",
            "`--model.discriminator.activation leaky_relu`, or another network whose units cannot die",
            "a smaller weight of the penalties, or a larger `--model.weight_clip`, where there are such",
        ),
        "Maas et al. 2013, Rectifier nonlinearities improve neural network acoustic models",
    )


def is_flat(record: Record, limits: Thresholds) -> bool:
    now = record.latest
    return all(slope < limits.flat for slope in (now.slope_real, now.slope_fake, now.slope_between))


def saturated_discriminator(record: Record, limits: Thresholds) -> Finding | None:
    """A discriminator so sure that the loss is flat where the generator stands."""
    now = record.latest
    if not (now.slope_fake > 0 and now.logit_gap > 0 and now.accuracy_fake >= limits.accuracy):
        return None
    passing = now.image_gradient / now.slope_fake
    if not passing < limits.passing:
        return None
    return Finding(
        "vanished generator gradient",
        f"the discriminator is right about {now.accuracy_fake:.0%} of the generated images, by {now.logit_gap:.3g} "
        f"logits: the loss is flat there and lets {passing:.1g} of the discriminator's slope through, so that "
        f"{now.image_gradient:.1g} per image reaches the generator",
        (
            "`--model.loss NonSaturating`",
            "`--model.penalties+=R1 --model.penalties.weight=1`, or a larger weight",
            "a lower `--model.discriminator_optimizer.lr`, or a smaller `--model.n_critic`",
        ),
        "Goodfellow et al. 2014, arXiv 1406.2661; Arjovsky & Bottou 2017, arXiv 1701.04862",
    )


def saturated_output(record: Record, limits: Thresholds) -> Finding | None:
    """A generator whose pixels are all at the ends of their range, where its tanh has no slope."""
    now = record.latest
    real, fake = 1 - now.extreme_real, 1 - now.extreme_fake
    if record.begins or not fake < limits.inside * real:
        return None
    return Finding(
        "saturated generator output",
        f"{now.extreme_fake:.1%} of the generated pixels are within 1 % of an end of the range, against "
        f"{now.extreme_real:.1%} of the real ones: the slope of a tanh is near zero there, and stops the gradient",
        (
            "a lower rate: `--model.generator_optimizer.lr`",
            "`--model.generator.norm batch`, where the network has it, or a smaller initialisation",
        ),
        "Glorot & Bengio 2010",
    )


# ---------------------------------------------------------------------- what comes of it

COLLAPSE, OSCILLATION, IMBALANCE = "mode collapse", "oscillation without progress", "learning-rate imbalance"


def mode_collapse(record: Record, limits: Thresholds) -> Finding | None:
    """A generator that makes a few images only, whatever its latents."""
    spread = record.latest.spread
    score = record.scores[-1] if record.scores else None
    few = (
        score is not None
        and score.covered is not None
        and score.covered <= limits.classes * score.classes
        and stalled(record.scores)
        and spread < limits.apart
        and oscillation(record, limits) is None
    )
    if len(record.signals) < 3 or not (spread < limits.spread or few):
        return None
    classes = ""
    if few:
        classes = (
            f", and cover {score.covered} of {score.classes} classes at an FID of {score.fid:.3g} that does not fall"
        )
    return Finding(
        COLLAPSE,
        f"two generated images are {spread:.2g} times as far apart as two real ones{classes}",
        (
            "no momentum, where there is some: `--model.generator_optimizer.betas [0,0.9]`, and the same for the "
            "discriminator",
            "`--model.penalties+=R1 --model.penalties.weight=1`, or a larger weight",
            "a lower `--model.generator_optimizer.lr`, or a higher `--model.discriminator_optimizer.lr`",
        ),
        "Metz et al. 2017, arXiv 1611.02163; Mescheder et al. 2018, arXiv 1801.04406",
    )


def oscillation(record: Record, limits: Thresholds) -> Finding | None:
    """Two networks that chase each other in circles."""
    window = [one for one in record.signals if one.movement is not None]
    if len(window) < WINDOW or not stalled(record.scores):
        return None
    if not all(one.spread_real for one in window):
        return None
    movement = sum(one.movement / one.spread_real for one in window) / len(window)
    flips = sum(one.logit_gap < 0 for one in window) / len(window)
    score = record.scores[-1]
    if not (movement > limits.movement and flips >= limits.flips and score.fid > limits.far * score.floor):
        return None
    best = min(score.fid for score in record.scores[:-1])
    return Finding(
        OSCILLATION,
        f"images of the same latents keep moving, each time by {movement:.2f} of the distance between two real images, "
        f"and in {flips:.0%} of the measurements the discriminator takes them for more real than real ones, but the "
        f"FID, {score.fid:.3g}, is not better than it was ({best:.3g})",
        (
            "a discriminator that keeps up: a higher `--model.discriminator_optimizer.lr`, or a lower "
            "`--model.generator_optimizer.lr`",
            "no momentum, where there is some: `--model.generator_optimizer.betas [0,0.9]`, and the same for the "
            "discriminator",
            "`--model.penalties+=R1 --model.penalties.weight=1`, and rates that fall: `--model.generator_scheduler "
            "WarmupCosine`, and the same for the discriminator",
        ),
        "Mescheder et al. 2018, arXiv 1801.04406; Gidel et al. 2019, arXiv 1807.04740",
    )


def imbalance(record: Record, limits: Thresholds) -> Finding | None:
    """Two networks that learn at rates too far apart."""
    ratios = {name: getattr(record.latest, name).update_ratio for name in NETWORKS}
    if record.begins or not all(ratios.values()):  # a step that was skipped, or a loss that is content
        return None
    slow, fast = sorted(NETWORKS, key=ratios.__getitem__)
    if not ratios[fast] > limits.imbalance * ratios[slow]:
        return None
    return Finding(
        IMBALANCE,
        f"in a batch the weights of the {fast} change by {ratios[fast]:.1g} of their size and those of the {slow} by "
        f"{ratios[slow]:.1g}: the {slow} cannot follow",
        (f"a lower `--model.{fast}_optimizer.lr`, or a higher `--model.{slow}_optimizer.lr`",),
        "Heusel et al. 2017, arXiv 1706.08500",
    )


def stalled(scores: Sequence[Score]) -> bool:
    """Whether the latest score is no better than those before it, by 5 % at least."""
    return len(scores) > 1 and scores[-1].fid > 0.95 * min(score.fid for score in scores[:-1])


WINDOW = 8  # measurements that a rule looks back on
DEEP = 6  # layers
CAUSES: tuple[Rule, ...] = (
    wrong_range,
    exploding_depth,
    vanishing_depth,
    exploding_gradients,
    dead_discriminator,
    saturated_discriminator,
    saturated_output,
)
SYMPTOMS: tuple[Rule, ...] = (mode_collapse, oscillation, imbalance)
SYMPTOM_NAMES = (COLLAPSE, OSCILLATION, IMBALANCE)
