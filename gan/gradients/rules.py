"""What a rule is: a function of a `Record` and of `Thresholds` that knows one condition, and may return a `Finding`.

`causes` and `symptoms` have the rules, `diagnose` asks them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gan.errors import GANError
from gan.gradients.stats import GradientStats

WINDOW = 8  # measurements, and scores, that a rule looks back on


@dataclass(frozen=True)
class Score:
    """How near generated images were to real ones.

    Attributes:
        step: Training batches completed.
        fid: Frechet distance.
        floor: That of as many real images.
        covered: Classes with at least a tenth of a fair share of the generated images, None without a classifier.
        classes: Classes that there are, likewise.
        largest_class: The share of the real images that are of the most frequent class, likewise.
        variance: The sum of the variances of the real images' features, which is the FID of one and the same image,
            their mean; NaN where it is not known.
    """

    step: int
    fid: float
    floor: float
    covered: int | None = None
    classes: int | None = None
    largest_class: float | None = None
    variance: float = math.nan


@dataclass(frozen=True)
class Record:
    """What has been measured of a run.

    Attributes:
        stats: The latest measurements, the oldest first; one at least.
        scores: The latest scores, the oldest first.
        conditional: Whether the generator is told one of several classes.
        images: Whether samples are images, which fill [-1, 1]; of others, nothing is known of their range.
    """

    stats: Sequence[GradientStats]
    scores: Sequence[Score] = ()
    conditional: bool = False
    images: bool = True

    @property
    def latest(self) -> GradientStats:
        """The latest measurement."""
        return self.stats[-1]

    @property
    def begins(self) -> bool:
        """Whether the networks are as they were initialised, or nearly so."""
        return len(self.stats) == 1


@dataclass(frozen=True)
class Thresholds:
    """Where a condition begins. The defaults leave room to all that the shipped configs show in training.

    Attributes:
        passed_slope: Saturated discriminator: the part of the discriminator's slope at generated images that the loss
            lets through to the generator is below this. 1 for Wasserstein and hinge; .4 or more in good runs.
        accuracy: And the discriminator is right about this share of generated images.
        vanishing: Vanishing through depth: the gradient at a network's first layer, over that at its last, is below.
        exploding: Exploding through depth: it is above. Up to 130 in a good discriminator with batch norm.
        slope: Exploding gradients: the discriminator's steepest slope, in logits per unit of distance between images,
            is above. 0.1 to 14 in good runs.
        flat: Dead discriminator: its slope is below this everywhere,
        pressed: or below this, and in its weights the gradient of the penalties has
        outweighed: at least this part of the norm of the loss's own, on average over the last eight measurements.
            0.01 in good runs with as small a slope.
        beyond_range: Wrong range: how far images may reach beyond [-1, 1].
        inner_pixels: Saturated output: the share of generated pixels that are not at an end of the range, over that of
            real pixels, is below.
        spread: Mode collapse: the distance between two generated images, over that between two real ones, is below.
        classes: Or the share of the classes that generated images cover is at most this,
        classes_spread: their distance is below this part of the real ones', and the FID does not fall,
        nearer: while it is below this part of what it was in the measurements before; or they have covered more; or the
            FID does not fall for two scores.
        movement: Oscillation: from one measurement to the next, images of the same latents move by more than this part
            of the distance between two real ones, on average over the last eight (good runs do too, until rates fall),
        logit_flips: in this share of the eight, the discriminator takes the generated for more real than the real,
        fid_over_floor: and the FID has not fallen for two scores, and is above this many times the floor, that of real
            images; or for one, and is above three times that, with images nearer to each other than `classes_spread`.
        crawl: No progress: they cover as few classes, and the FID does not fall, and images of the same latents have
            moved by at most this part of the distance between two real ones in the last eight measurements. 1 or more
            in good runs.
        far: Or the FID is above this many times the sum of the variances of the real images' features, which is the FID
            of one and the same image, their mean,
        no_better: and in two scores or more, above this part of what it was eight measurements ago or before.
        by_heart: Training images learnt by heart: to the discriminator, held-out images lie at least this part of the
            way from training images to generated ones, on average over the last eight measurements,
        by_chance: and by more than this many times what chance makes of it: the standard error of that average, with
            that of the images held out, which are few and the same in each.
        imbalance: Learning-rate imbalance: in a batch, one network's weights change more than the other's, in
            proportion to their size, by more than this factor.
        alike: Constant data: the distance between two real images is below this. Rounding to 8 bits alone makes more
            from 26 x 26 pixels on.
        one_class: Data nearly all of one class: the share of the most frequent one is at least this.
        repeated: Batches that repeat: of batches in a row, this part at most has images that none before had.
        unshuffled: Batches that are not shuffled: the variance of their mean images, over what chance makes of it, is
            above. 0.4 to 1.6 of shuffled ones, whatever their size; 3 to 10 of MNIST in the order of its file, 30 to
            150 of MNIST sorted by class.
        deaf: Deaf generator: the distance that other latents make, over that between two real images, is below this,
        deaf_part: and below this part of the distance between two generated images;
        unheard: or, from the first measurement on, below this in any case.
        still: Weights that do not move: they have changed by less than this part of their size so far: by what they
            change in a batch, on average over the last eight measurements, times the batches. 0.2 or more in good runs,
        still_batches: from this batch on.
        moved: Average that lags or was never updated: the generator's images have moved by more than this part of the
            distance between two real ones,
        never_updated: and its average's by no more than this part of that in all measurements;
        lagging: or by less than this part, when there are eight.
    """

    passed_slope: float = 0.01
    accuracy: float = 0.95
    vanishing: float = 1e-3
    exploding: float = 1000.0
    slope: float = 50.0
    flat: float = 1e-4
    pressed: float = 0.02
    outweighed: float = 0.5
    beyond_range: float = 0.05
    inner_pixels: float = 0.02
    spread: float = 0.1
    classes: float = 0.5
    classes_spread: float = 0.75
    nearer: float = 0.9
    movement: float = 0.2
    logit_flips: float = 0.25
    fid_over_floor: float = 50.0
    crawl: float = 0.5
    far: float = 1.0
    no_better: float = 0.9
    by_heart: float = 0.4
    by_chance: float = 3.0
    imbalance: float = 100.0
    alike: float = 0.1
    one_class: float = 0.9
    repeated: float = 0.25
    unshuffled: float = 4.0
    deaf: float = 0.05
    deaf_part: float = 0.25
    unheard: float = 1e-4
    still: float = 0.01
    still_batches: float = 100
    moved: float = 0.5
    never_updated: float = 1e-4
    lagging: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise GANError(f"GradientDoctor's threshold {name} must be above 0, got {value}")


@dataclass(frozen=True)
class Finding:
    """A condition that a run is in.

    Attributes:
        name: What it is called.
        why: One sentence, with the figures.
        reference: Where to read about it.
        certain: One measurement is enough.
        network: The network that it is about: "generator", "discriminator", or None for the data or for both.
        beyond: How many times the signal is beyond the threshold, 1 where that cannot be said.
        symptoms: The names of conditions that hold beside it and follow from it.
    """

    name: str
    why: str
    reference: str
    certain: bool = False
    network: str | None = None
    beyond: float = 1.0
    symptoms: tuple[str, ...] = ()


Rule = Callable[[Record, Thresholds], Finding | None]
