"""What a rule is: a function of a `Record` and of `Thresholds` that knows one condition, and may return a `Finding`.

`causes` and `symptoms` have the rules, `diagnose` asks them.
"""

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
        stats: The latest measurements, the oldest first; one at least.
        scores: The latest scores, the oldest first.
    """

    stats: Sequence[GradientStats]
    scores: Sequence[Score] = ()

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
        flat: Dead discriminator: its slope is below this everywhere.
        beyond_range: Wrong range: how far images may reach beyond [-1, 1].
        inner_pixels: Saturated output: the share of generated pixels that are not at an end of the range, over that of
            real pixels, is below.
        spread: Mode collapse: the distance between two generated images, over that between two real ones, is below.
        classes: Or the share of the classes that generated images cover is at most this,
        classes_spread: their distance is below this part of the real ones', and the FID does not fall.
        movement: Oscillation: from one measurement to the next, images of the same latents move by more than this part
            of the distance between two real ones, on average over the last eight (good runs do too, until rates fall),
        logit_flips: in this share of the eight, the discriminator takes the generated for more real than the real,
        fid_over_floor: and the FID does not fall, and is above this many times the floor, that of real images.
        by_heart: Training images learnt by heart: to the discriminator, held-out images lie at least this part of the
            way from training images to generated ones, on average over the last eight measurements, and clearly so.
        imbalance: Learning-rate imbalance: in a batch, one network's weights change more than the other's, in
            proportion to their size, by more than this factor.
    """

    passed_slope: float = 0.01
    accuracy: float = 0.95
    vanishing: float = 1e-3
    exploding: float = 1000.0
    slope: float = 50.0
    flat: float = 1e-4
    beyond_range: float = 0.05
    inner_pixels: float = 0.02
    spread: float = 0.1
    classes: float = 0.5
    classes_spread: float = 0.75
    movement: float = 0.2
    logit_flips: float = 0.25
    fid_over_floor: float = 50.0
    by_heart: float = 0.4
    imbalance: float = 100.0

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
    """

    name: str
    why: str
    reference: str
    certain: bool = False
    network: str | None = None
    beyond: float = 1.0


Rule = Callable[[Record, Thresholds], Finding | None]
